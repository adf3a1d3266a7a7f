import type { Done } from "../gen/aipod/v1/job_pb.js";
import { crc32c } from "./crc32c.js";
import { isAnswer, JobError } from "./errors.js";
import type { Link } from "./link.js";
import { Backoff } from "./wait.js";

/** JSON outputs up to this size, in bytes, are read by json. */
const maxJSON = 64 << 20;

/** Parts of a blob have about this size, in bytes: the browser keeps them outside of the page's memory. */
const partSize = 8 << 20;

/** A stream whose first part of the output takes so long is lost, in milliseconds: it may come from a slow disk. */
const firstSilence = 15_000;

/** What a job has come to: a JSON value, or an output of any size. */
export class Result {
  /** The JSON text, unless the result is an output. */
  readonly text: string | undefined;
  /** The output's size in bytes; undefined if there is none. */
  readonly size: number | undefined;
  /** Whether the output is a JSON value, one that is too large for a message. */
  readonly isJSON: boolean;
  readonly #link: Link;
  readonly #jobId: string;
  readonly #crc: number;
  readonly #seq: bigint; // of the newest event: the older ones needn't come again

  /** Made by a Job. */
  constructor(link: Link, jobId: string, done: Done, seq: bigint) {
    this.#seq = seq;
    this.#link = link;
    this.#jobId = jobId;
    this.text = done.resultJson.length > 0 || !done.hasOutput ? new TextDecoder().decode(done.resultJson) : undefined;
    this.size = this.text === undefined ? Number(done.outputSize) : undefined;
    this.isJSON = this.text !== undefined || done.outputIsJson;
    this.#crc = done.outputCrc32c;
  }

  /** The JSON value. A JobError if the result is an output that isn't JSON, or over 64 MiB. */
  async json(): Promise<unknown> {
    if (this.text !== undefined) {
      return this.text === "" ? null : JSON.parse(this.text);
    }
    if (!this.isJSON || this.size! > maxJSON) {
      throw new JobError("failed_precondition", `the result is an output of ${this.size} bytes: use blob or stream`);
    }
    return JSON.parse(await (await this.blob()).text());
  }

  /** The output, or the JSON text, as a blob. onProgress is told how many bytes are there. */
  async blob(onProgress?: (bytes: number) => void, signal?: AbortSignal): Promise<Blob> {
    const type = this.isJSON ? "application/json" : "";
    if (this.text !== undefined) {
      return new Blob([this.text], { type });
    }
    const blobs: Blob[] = [];
    let parts: Uint8Array<ArrayBuffer>[] = [];
    let bytes = 0;
    let total = 0;
    for await (const part of this.chunks(signal)) {
      parts.push(part);
      bytes += part.length;
      total += part.length;
      onProgress?.(total);
      if (bytes >= partSize) {
        blobs.push(new Blob(parts));
        parts = [];
        bytes = 0;
      }
    }
    return new Blob([...blobs, ...parts], { type });
  }

  /** The output as it comes. It goes on where it was after a cut, and ends with an error if its checksum is wrong. */
  async *chunks(signal: AbortSignal = new AbortController().signal): AsyncGenerator<Uint8Array<ArrayBuffer>, void> {
    let offset = 0;
    let crc = 0;
    for (const backoff = new Backoff(); ; ) {
      try {
        const request = { jobId: this.#jobId, afterSeq: this.#seq, outputOffset: BigInt(offset) };
        for await (const { event } of this.#link.watch(request, signal, firstSilence)) {
          const { case: kind, value } = event;
          if (kind === "output") {
            if (Number(value.offset) !== offset || (value.crc32c !== undefined && value.crc32c !== crc32c(value.data))) {
              throw new Error("a part of the output is damaged");
            }
            crc = crc32c(value.data, crc);
            offset += value.data.length;
            backoff.reset();
            yield value.data as Uint8Array<ArrayBuffer>;
          } else if (kind === "done") {
            if (crc !== this.#crc || offset !== this.size) {
              throw new JobError("data_loss", "the output was damaged on its way: load it again");
            }
            return;
          } else if (kind === "failed") {
            throw new JobError("not_found", "the pod has the output no longer");
          }
        }
      } catch (err) {
        signal.throwIfAborted();
        if (isAnswer(err)) {
          throw err;
        }
      }
      await backoff.pause(signal);
    }
  }
}
