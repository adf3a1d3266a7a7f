import { State } from "../gen/aipod/v1/job_pb.js";
import { combine, crc32c } from "./crc32c.js";
import { committedOf, isAnswer, isDataLoss, isTooLarge } from "./errors.js";
import { canGzip, gzip, unaryTimeout, type Link } from "./link.js";
import { readPieces } from "./read.js";
import { anySignal, Backoff } from "./wait.js";

// Sizes of chunks in bytes. The first is small enough for any link; the most is
// what the pod takes.
const firstChunk = 256 << 10;
const minChunk = 16 << 10;
const maxChunk = (4 << 20) - 1024;

// A chunk should take about this long, in milliseconds: small steps are lost in
// latency, and large ones when the connection is cut.
const quick = 400;
const slow = 2_000;

/** Below this rate, in bytes/s, a request counts as lost. */
const slowLink = 64 << 10;

/** Chunks that gzip shrinks to more than this part of their size are sent as they are. */
const worthwhile = 0.8;

/** How often a payload whose checksum was wrong is sent again. */
const maxRounds = 3;

/** What an upload tells while it goes on. */
export interface UploadWatcher {
  /** So many bytes are safe at the pod. */
  committed(bytes: number): void;
  /** A request has failed; nothing is lost. undefined: it goes on. */
  trouble(err: unknown): void;
}

/**
 * An upload sends a payload in chunks, several at a time, and goes on from what the
 * pod has after each failure. It holds a few chunks in memory, never the payload.
 */
export class Upload {
  readonly #link: Link;
  readonly #jobId: string;
  readonly #payload: Blob;
  readonly #watcher: UploadWatcher;
  readonly #sums: Sums;
  readonly #backoff = new Backoff();
  readonly #rates = { plain: 0, gzip: 0 }; // bytes of payload a second and chunk
  #sent = 0; // chunks
  #committed = 0;
  #chunk = firstChunk;
  #mostChunk = maxChunk;
  #paused: Promise<void> | undefined; // until resume
  #resume = () => {};

  constructor(link: Link, jobId: string, payload: Blob, watcher: UploadWatcher) {
    this.#link = link;
    this.#jobId = jobId;
    this.#payload = payload;
    this.#watcher = watcher;
    this.#sums = new Sums(payload);
  }

  get paused(): boolean {
    return this.#paused !== undefined;
  }

  /** Sends no further chunks until resume is called. */
  pause(): void {
    this.#paused ??= new Promise((resolve) => {
      this.#resume = resolve;
    });
  }

  resume(): void {
    this.#paused = undefined;
    this.#resume();
  }

  /**
   * Sends what the pod doesn't have, from the offset committed on, and closes the
   * input. Errors are answers of the pod; all else is tried again.
   */
  async run(committed: number, signal: AbortSignal): Promise<void> {
    this.#committed = committed;
    for (let round = 1; ; round++) {
      if (!(await this.#sendAll(signal))) {
        return;
      }
      try {
        await this.#close(signal);
        return;
      } catch (err) {
        const back = committedOf(err);
        if (back === undefined || round === maxRounds) {
          throw err;
        }
        if (isDataLoss(err)) {
          this.#sums.forget();
        }
        this.#tellCommitted(back, true);
      }
    }
  }

  /** Sends chunks until the pod has all bytes; false if the job receives no more. */
  async #sendAll(signal: AbortSignal): Promise<boolean> {
    while (this.#committed < this.#payload.size) {
      const before = this.#committed;
      try {
        await this.#burst(signal);
        this.#backoff.reset();
      } catch (err) {
        signal.throwIfAborted();
        if (this.#committed > before) {
          this.#backoff.reset();
        }
        if (isTooLarge(err) && this.#mostChunk > minChunk) {
          this.#mostChunk = Math.max(minChunk, this.#chunk >> 1);
          this.#chunk = this.#mostChunk;
        } else if (isAnswer(err) || isTooLarge(err)) {
          throw err;
        } else {
          if (committedOf(err) === undefined) {
            this.#watcher.trouble(err);
          } // else a chunk before this one was lost
          await this.#backoff.pause(signal);
        }
        if (!(await this.#ask(signal))) {
          return false;
        }
      }
    }
    return true;
  }

  /** Sends chunks, several at a time, until all are sent or one has failed. */
  async #burst(signal: AbortSignal): Promise<void> {
    const failed = new AbortController();
    const either = anySignal(signal, failed.signal);
    const underWay = new Set<Promise<void>>();
    let next = this.#committed;
    try {
      while (next < this.#payload.size && !either.aborted) {
        if (this.#paused) {
          await Promise.race([this.#paused, aborted(either)]);
          continue;
        }
        if (underWay.size >= this.#link.parallel) {
          await Promise.race(underWay);
          continue;
        }
        await this.#link.chunks.take();
        if (either.aborted || this.#paused) {
          this.#link.chunks.give();
          continue;
        }
        const start = next;
        next = Math.min(start + this.#chunk, this.#payload.size);
        const one = this.#send(start, next, signal)
          .catch((err: unknown) => failed.abort(err))
          .finally(() => {
            this.#link.chunks.give();
            underWay.delete(one);
          });
        underWay.add(one);
      }
    } finally {
      await Promise.all(underWay); // which never fail: they say it by the signal
    }
    either.throwIfAborted();
  }

  async #send(start: number, end: number, signal: AbortSignal): Promise<void> {
    const data = this.#payload.slice(start, end);
    const crc = await checksum(data);
    this.#sums.add(start, data.size, crc);
    const gzip = await this.#zips(data);
    const began = performance.now();
    const { committed } = await this.#link.writeChunk(
      this.#jobId, { offset: start, data, crc, gzip },
      this.#link.call(this.#jobId, signal, unaryTimeout + Math.ceil((data.size / slowLink) * 1000)),
    );
    this.#learn(gzip, data.size, performance.now() - began);
    this.#watcher.trouble(undefined);
    this.#tellCommitted(Number(committed), false);
  }

  /** Chooses between gzip and none by how fast each has been, and looks again now and then. */
  async #zips(data: Blob): Promise<boolean> {
    const turn = this.#sent++;
    if (!canGzip || data.size < 64 << 10) {
      return false;
    }
    const other = turn % 64 === this.#link.parallel; // not among the first, which measure nothing
    if ((this.#rates.gzip > this.#rates.plain) === other) {
      return false;
    }
    const sample = data.slice(0, 32 << 10);
    return (await gzip(sample)).size < worthwhile * sample.size;
  }

  #learn(gzip: boolean, bytes: number, ms: number): void {
    const way = gzip ? "gzip" : "plain";
    const rate = (bytes / Math.max(ms, 1)) * 1000;
    this.#rates[way] = this.#rates[way] === 0 ? rate : 0.7 * this.#rates[way] + 0.3 * rate;
    if (ms < quick && bytes >= this.#chunk) {
      this.#chunk = Math.min(this.#chunk * 2, this.#mostChunk);
    } else if (ms > slow) {
      this.#chunk = Math.max(this.#chunk >> 1, minChunk);
    }
  }

  #tellCommitted(bytes: number, back: boolean): void {
    if (back || bytes > this.#committed) {
      this.#committed = bytes;
      this.#watcher.committed(bytes);
    }
  }

  /** Asks the pod how much it has; false if the job receives no more. */
  async #ask(signal: AbortSignal): Promise<boolean> {
    for (;;) {
      try {
        const { job } = await this.#link.api.getJob({ jobId: this.#jobId }, this.#link.call(this.#jobId, signal));
        this.#watcher.trouble(undefined);
        this.#tellCommitted(Number(job!.committed), true);
        return job!.state === State.RECEIVING;
      } catch (err) {
        signal.throwIfAborted();
        if (isAnswer(err)) {
          throw err;
        }
        this.#watcher.trouble(err);
        await this.#backoff.pause(signal);
      }
    }
  }

  async #close(signal: AbortSignal): Promise<void> {
    const closeInput = { size: BigInt(this.#payload.size), crc32c: await this.#sums.whole() };
    for (const backoff = new Backoff(); ; ) {
      try {
        await this.#link.api.writeInput({ jobId: this.#jobId, closeInput }, this.#link.call(this.#jobId, signal));
        this.#watcher.trouble(undefined);
        return;
      } catch (err) {
        signal.throwIfAborted();
        if (isAnswer(err) || committedOf(err) !== undefined) {
          throw err;
        }
        this.#watcher.trouble(err);
        await backoff.pause(signal);
      }
    }
  }
}

/** Fails when the signal is aborted. */
function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) {
      reject(signal.reason);
    }
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/** The CRC-32C of a part of a file. */
async function checksum(data: Blob): Promise<number> {
  let crc = 0;
  await readPieces(data, (piece) => {
    crc = crc32c(piece, crc);
  });
  return crc;
}

/** The checksums of the pieces of a payload, of which that of the whole is made. */
class Sums {
  readonly #payload: Blob;
  #pieces = new Map<number, { length: number; crc: number }>(); // by offset

  constructor(payload: Blob) {
    this.#payload = payload;
  }

  add(offset: number, length: number, crc: number): void {
    this.#pieces.set(offset, { length, crc });
  }

  forget(): void {
    this.#pieces.clear();
  }

  /** Of all bytes. What this upload hasn't sent itself, because an earlier one had, is read. */
  async whole(): Promise<number> {
    let sum = 0;
    for (let offset = 0; offset < this.#payload.size; ) {
      let piece = this.#pieces.get(offset);
      if (!piece) {
        const end = Math.min(offset + maxChunk, this.#nextKnown(offset));
        piece = { length: end - offset, crc: await checksum(this.#payload.slice(offset, end)) };
      }
      sum = combine(sum, piece.crc, piece.length);
      offset += piece.length;
    }
    return sum;
  }

  #nextKnown(offset: number): number {
    let next = this.#payload.size;
    for (const start of this.#pieces.keys()) {
      if (start > offset && start < next) {
        next = start;
      }
    }
    return next;
  }
}

