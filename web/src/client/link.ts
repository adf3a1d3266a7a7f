import type { MessageInitShape } from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { createClient, type CallOptions, type Client } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";

import { JobService, type Event, type WatchJobRequestSchema, type WriteInputResponse } from "../gen/aipod/v1/job_pb.js";
import { TooLargeError } from "./errors.js";
import { readPieces } from "./read.js";
import { anySignal, Turns } from "./wait.js";

/** How to reach a pod. */
export interface PodOptions {
  /** The pod's address, default the page's own directory. */
  baseUrl?: string | URL;
  /** Sent with each request, such as authorization or x-upstream. */
  headers?: Record<string, string>;
  /** Whether cookies go to a pod on another origin: fetch's credentials. */
  credentials?: RequestCredentials;
  /** How many chunks are on their way at once, over all uploads; default 4, at most 6. */
  parallel?: number;
  /** Instead of the browser's own fetch. */
  fetch?: typeof fetch;
}

/** How long a single request may take, in milliseconds. */
export const unaryTimeout = 15_000;

/** A stream's first event comes at once; after so long without it counts as lost, in milliseconds. */
const firstSilence = 5_000;

/** The same for all others: the pod says something each second. */
const maxSilence = 10_000;

/** The same for the end of the stream after its last event. */
const lastSilence = 2_000;

/** The pod was silent on a stream. */
export class SilenceError extends Error {
  override readonly name = "SilenceError";
}

/**
 * What the jobs of one pod share: the clients, and the browser's few connections.
 * Over HTTP/1.1 there are six for a host, so chunks take at most four, and streams
 * two.
 */
export class Link {
  readonly api: Client<typeof JobService>;
  readonly chunks: Turns;
  /** How many chunks one upload may have on their way. */
  readonly parallel: number;
  readonly #streams = new Turns(2);
  readonly #headers: Record<string, string>;
  readonly #baseUrl: string;
  readonly #fetch: typeof fetch;

  constructor(options: PodOptions) {
    const page = typeof location === "undefined" ? "http://127.0.0.1:50051" : location.href;
    this.#baseUrl = new URL(options.baseUrl ?? ".", page).href.replace(/\/$/, "");
    this.#headers = options.headers ?? {};
    this.parallel = Math.min(Math.max(options.parallel ?? 4, 1), 6);
    this.chunks = new Turns(this.parallel);
    const send = options.fetch ?? globalThis.fetch.bind(globalThis);
    const credentials = options.credentials;
    this.#fetch = async (input, init) => {
      const response = await send(input, credentials ? { ...init, credentials } : init);
      if (response.status === 413) {
        throw new TooLargeError();
      }
      return response;
    };
    this.api = this.#connect(this.#fetch);
  }

  #connect(fetch: typeof globalThis.fetch): Client<typeof JobService> {
    return createClient(JobService, createConnectTransport({ baseUrl: this.#baseUrl, useBinaryFormat: true, fetch }));
  }

  /**
   * Writes a chunk of a job's input. The browser takes its bytes from the file
   * itself: a body that is in the page's memory would be copied between processes,
   * which is an order of magnitude slower and stops the page meanwhile.
   */
  writeChunk(jobId: string, chunk: Chunk, options: CallOptions): Promise<WriteInputResponse> {
    const api = this.#connect(async (input, init) => {
      const message = new Blob([init?.body as Uint8Array<ArrayBuffer>, dataHeader(chunk.data.size), chunk.data]);
      if (!chunk.gzip) {
        return this.#fetch(input, { ...init, body: message });
      }
      const headers = new Headers(init?.headers);
      headers.set("content-encoding", "gzip");
      return this.#fetch(input, { ...init, headers, body: await gzip(message) });
    });
    return api.writeInput({ jobId, chunk: { offset: BigInt(chunk.offset), crc32c: chunk.crc } }, options);
  }

  /**
   * Watches a job until it has ended, the stream is cut, or the pod is silent, the
   * first event for so many milliseconds: a SilenceError.
   */
  async *watch(request: MessageInitShape<typeof WatchJobRequestSchema>, signal: AbortSignal, first = firstSilence): AsyncGenerator<Event, void> {
    const silent = new AbortController();
    const stop = () => silent.abort();
    let timer = setTimeout(stop, first);
    let ended = false;
    const events = this.api.watchJob(request, this.call(request.jobId, anySignal(signal, silent.signal), 0))[Symbol.asyncIterator]();
    try {
      for (;;) {
        const { value, done } = await events.next();
        if (done) {
          return;
        }
        clearTimeout(timer);
        const event = value.event!;
        ended = event.event.case === "done" || event.event.case === "failed";
        yield event;
        timer = setTimeout(stop, maxSilence);
      }
    } catch (err) {
      throw silent.signal.aborted ? new SilenceError("nothing was heard of the pod for some time") : err;
    } finally {
      clearTimeout(timer);
      if (ended) {
        // A stream that is cut before its end looks like a failure, in the browser and in proxies.
        timer = setTimeout(stop, lastSilence);
        void events.next().catch(() => {}).finally(() => clearTimeout(timer));
      } else {
        stop();
      }
    }
  }

  /** The options of a call about a job: proxies may choose the pod by its id. */
  call(jobId: string | undefined, signal?: AbortSignal, timeoutMs: number | undefined = unaryTimeout): CallOptions {
    const headers = jobId === undefined ? this.#headers : { ...this.#headers, "x-job-id": jobId };
    return { headers, ...(signal && { signal }), ...(timeoutMs !== undefined && { timeoutMs }) };
  }

  /** Takes a connection for a stream if one is free; give it back by calling what is returned. */
  tryStream(): (() => void) | undefined {
    if (this.#multiplexed()) {
      return () => {};
    }
    return this.#streams.tryTake() ? () => this.#streams.give() : undefined;
  }

  /** Whether the browser speaks HTTP/2 with the pod, where streams cost no connection. */
  #multiplexed(): boolean {
    if (typeof performance === "undefined" || !performance.getEntriesByType) {
      return false;
    }
    const last = performance
      .getEntriesByType("resource")
      .filter((entry) => entry.name.startsWith(this.#baseUrl))
      .at(-1) as PerformanceResourceTiming | undefined;
    return last?.nextHopProtocol === "h2" || last?.nextHopProtocol === "h3";
  }
}

/** A part of a payload. */
export interface Chunk {
  /** Of the first byte. */
  offset: number;
  data: Blob;
  /** The CRC-32C of data. */
  crc: number;
  /** Whether it is compressed on its way. */
  gzip: boolean;
}

/**
 * What comes before a chunk's data in a WriteInputRequest that has all else in front
 * of it: in protobuf, parts of a message that come one after the other are one.
 */
function dataHeader(size: number): Uint8Array<ArrayBuffer> {
  const data = new BinaryWriter().tag(2, WireType.LengthDelimited).uint32(size).finish(); // Chunk.data
  const chunk = new BinaryWriter().tag(2, WireType.LengthDelimited).uint32(data.length + size).finish(); // WriteInputRequest.chunk
  return new Uint8Array([...chunk, ...data]);
}

/** Whether the browser can gzip. */
export const canGzip = typeof CompressionStream !== "undefined";

export async function gzip(data: Blob): Promise<Blob> {
  const { readable, writable } = new CompressionStream("gzip");
  const zipped = new Response(readable).blob();
  const writer = writable.getWriter();
  try {
    await readPieces(data, (piece) => writer.write(piece));
    await writer.close();
  } catch (err) {
    zipped.catch(() => {}); // err says it
    await writer.abort(err).catch(() => {});
    throw err;
  }
  return zipped;
}
