import { ConnectError } from "@connectrpc/connect";

import { State, type Event, type Job as JobMessage, type Progress as ProgressMessage } from "../gen/aipod/v1/job_pb.js";
import { asJobError, codeName, isAnswer, isNotFound, JobError, type LogLine } from "./errors.js";
import { SilenceError, type Link } from "./link.js";
import { Result } from "./output.js";
import { Rate } from "./rate.js";
import { Upload } from "./upload.js";
import { anySignal, Backoff, isOffline, sleep } from "./wait.js";

/** Where a job is in its life. */
export type JobState = "unknown" | "receiving" | "queued" | "loading" | "running" | "succeeded" | "failed" | "canceled";

/** The states by their numbers on the wire. */
export const states: readonly JobState[] = [
  "unknown", "receiving", "queued", "loading", "running", "succeeded", "failed", "canceled",
];

/** Whether a state is the last one. */
export function isFinal(state: JobState): boolean {
  return state === "succeeded" || state === "failed" || state === "canceled";
}

/** How far a function says it is; total 0 is unknown. */
export interface Progress {
  done: number;
  total: number;
  unit: string;
  note: string;
}

/** What is known of a job. It never changes: each change makes a new one. */
export interface JobStatus {
  readonly id: string;
  readonly func: string;
  /** Of the model; empty is its default. */
  readonly version: string;
  readonly state: JobState;
  /** The payload's size in bytes, if it is known. */
  readonly size?: number;
  /** How much of it is safe at the pod, in bytes. */
  readonly committed: number;
  /** Of the upload, in bytes a second; 0 when it isn't known. */
  readonly rate: number;
  /** Until the payload is there, in seconds. */
  readonly eta?: number;
  readonly paused: boolean;
  /** Bytes are missing and nobody sends them: supply the payload. */
  readonly needsPayload: boolean;
  /** How many jobs come before this one, plus 1; 0 when it isn't queued. */
  readonly queuePosition: number;
  readonly progress?: Progress;
  /** When the job was made, by the pod's clock. */
  readonly created?: Date;
  /** When it ended, by the same. */
  readonly ended?: Date;
  /** How long ago, in seconds, the function last showed life; only while it runs. */
  readonly workerAge?: number;
  /** How often the function was begun. */
  readonly attempt: number;
  /** How the pod is reached at the moment. */
  readonly connection: "connected" | "reconnecting" | "offline";
  /** Why it isn't connected. */
  readonly trouble?: string;
  /** The newest lines of the function's log, the oldest first. */
  readonly log: readonly LogLine[];
  /** Once it has succeeded. */
  readonly result?: Result;
  /** Once it has failed or was canceled. */
  readonly error?: JobError;
}

/** What a job is to do. */
export interface Call {
  /** One of the pod's functions. */
  func: string;
  /** The arguments, a JSON object. */
  kwargs?: Record<string, unknown>;
  /** Of the model; its default unless given. */
  version?: string;
  /** Any size: it is read piece by piece. */
  payload?: Blob;
  /** 1 to 64 of A-Z, a-z, 0-9, _ and -; one is made unless given. The same id and call again attach to the job. */
  id?: string;
  /** For the function; keys in lower case. */
  metadata?: Record<string, string>;
}

/** How many lines of a log are kept. */
const maxLog = 2000;

/** How often a job is asked for where it can't be watched, in milliseconds. */
const pollInterval = 1000;

/**
 * A job of a pod. It goes on by itself: it sends the payload, watches, and comes
 * back after whatever was cut, until the job has ended or detach is called. The job
 * at the pod goes on in any case.
 */
export class Job {
  readonly id: string;
  readonly #link: Link;
  readonly #stop = new AbortController();
  readonly #listeners = new Set<(status: JobStatus) => void>();
  readonly #ended: Promise<Result>;
  readonly #rate = new Rate();
  #call: Call | undefined; // undefined for a job that was attached to
  #payload: Blob | undefined;
  #supplied: (() => void) | undefined;
  #upload: Upload | undefined;
  #status: JobStatus;
  #seq = 0n;
  #mute = 0; // streams in a row that said nothing, though the pod answers
  #background = false;
  #turn = new AbortController(); // aborted when background changes
  #detached = false;

  /** Use {@link Pod.start} and {@link Pod.attach}. */
  constructor(link: Link, id: string, call: Call | undefined, payload: Blob | undefined) {
    this.#link = link;
    this.id = id;
    this.#call = call;
    this.#payload = payload;
    this.#status = {
      id, func: call?.func ?? "", version: call?.version ?? "", state: "unknown", committed: 0, rate: 0, paused: false,
      needsPayload: false, queuePosition: 0, attempt: 0, connection: "connected", log: [],
      ...(call && { size: payload?.size ?? 0 }),
    };
    this.#ended = this.#run();
    this.#ended.catch(() => {}); // it is in the status, too
  }

  /** What is known now. */
  get status(): JobStatus {
    return this.#status;
  }

  /** Waits for the job's end. A job that failed, was canceled or is left alone is a JobError. */
  result(): Promise<Result> {
    return this.#ended;
  }

  /** Calls the listener after each change; what is returned ends that. */
  subscribe(listener: (status: JobStatus) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Sends no more of the payload until resume. */
  pause(): void {
    this.#upload?.pause();
    this.#rate.reset();
    this.#set({ paused: this.#upload?.paused ?? false, rate: 0, eta: undefined });
  }

  resume(): void {
    this.#upload?.resume();
    this.#set({ paused: false });
  }

  /**
   * Whether the job is asked for each second instead of being watched on a stream,
   * of which a browser has few. Lines of the log then come at its end. Off at
   * first.
   */
  get background(): boolean {
    return this.#background;
  }

  set background(value: boolean) {
    if (value !== this.#background) {
      this.#background = value;
      this.#turn.abort();
    }
  }

  /** Gives the payload of a job that was attached to, of which bytes are missing. */
  supply(payload: Blob): void {
    const size = this.#status.size;
    if (size !== undefined && payload.size !== size) {
      throw new JobError("invalid_argument", `this file has ${payload.size} bytes, but that of the job has ${size}: choose the same file`);
    }
    this.#payload = payload;
    this.#set({ needsPayload: false });
    this.#supplied?.();
  }

  /** Cancels the job at the pod. */
  async cancel(): Promise<void> {
    const { job } = await this.#link.api.cancelJob({ jobId: this.id }, this.#link.call(this.id));
    if (this.#upload) {
      this.#upload.resume(); // so that it hears of it
    }
    this.#take(job!);
    if (this.#status.state === "canceled") {
      this.#stop.abort(this.#status.error);
    }
  }

  /** Leaves the job alone. It goes on at the pod, as far as it has its payload. */
  detach(): void {
    this.#detached = true;
    this.#stop.abort(new JobError("canceled", "detached from the job"));
  }

  async #run(): Promise<Result> {
    try {
      const result = await this.#toEnd();
      this.#set({ state: "succeeded", result, connection: "connected", trouble: undefined });
      return result;
    } catch (err) {
      const error = asJobError(this.#stop.signal.aborted ? this.#stop.signal.reason : err);
      const state = isFinal(this.#status.state) ? this.#status.state : error.code === "canceled" ? "canceled" : "failed";
      if (!this.#detached) {
        this.#set({ state, error, connection: "connected", trouble: undefined, needsPayload: false });
      }
      throw error;
    }
  }

  async #toEnd(): Promise<Result> {
    const signal = this.#stop.signal;
    for (let lost = 0; ; lost++) {
      try {
        this.#take(await this.#begin(signal));
        if (this.#status.state === "receiving") {
          await this.#send(signal);
        }
        return await this.#watch(signal);
      } catch (err) {
        // The pod that had the job is gone for good, and another one has none such.
        if (lost > 0 || !isNotFound(err) || !this.#call) {
          throw err;
        }
        this.#seq = 0n;
      }
    }
  }

  /** Makes the job, or finds it. */
  async #begin(signal: AbortSignal): Promise<JobMessage> {
    const call = this.#call;
    return this.#insist(signal, async () => {
      const options = this.#link.call(this.id, signal);
      if (!call) {
        return (await this.#link.api.getJob({ jobId: this.id }, options)).job!;
      }
      const kwargsJson = new TextEncoder().encode(JSON.stringify(call.kwargs ?? {}));
      const spec = {
        func: call.func, version: call.version ?? "", kwargsJson, size: BigInt(this.#payload?.size ?? 0), metadata: call.metadata ?? {},
      };
      return (await this.#link.api.createJob({ jobId: this.id, spec }, options)).job!;
    });
  }

  /** Makes a request until it is answered. */
  async #insist<T>(signal: AbortSignal, request: () => Promise<T>): Promise<T> {
    for (const backoff = new Backoff(); ; ) {
      try {
        const answer = await request();
        this.#trouble(undefined);
        return answer;
      } catch (err) {
        signal.throwIfAborted();
        if (isAnswer(err)) {
          throw err;
        }
        this.#trouble(err);
        await backoff.pause(signal);
      }
    }
  }

  /** Sends what is missing of the payload. */
  async #send(signal: AbortSignal): Promise<void> {
    const payload = await this.#getPayload(signal);
    if (!payload) {
      return;
    }
    const upload = new Upload(this.#link, this.id, payload, {
      committed: (bytes) => this.#progressed(bytes),
      trouble: (err) => this.#trouble(err),
    });
    this.#upload = upload;
    if (this.#status.paused) {
      upload.pause();
    }
    try {
      await upload.run(this.#status.committed, signal);
    } finally {
      this.#upload = undefined;
      this.#set({ rate: 0, eta: undefined, paused: false });
    }
  }

  /** Waits for the payload; undefined when nothing is missing any more. */
  async #getPayload(signal: AbortSignal): Promise<Blob | undefined> {
    let committed = this.#status.committed;
    while (!this.#payload) {
      if (this.#status.size === 0) {
        return new Blob();
      }
      const supplied = new AbortController();
      this.#supplied = () => supplied.abort();
      await sleep(pollInterval * 2, anySignal(signal, supplied.signal)).catch(() => {});
      signal.throwIfAborted();
      if (this.#payload) {
        break;
      }
      const { job } = await this.#insist(signal, () => this.#link.api.getJob({ jobId: this.id }, this.#link.call(this.id, signal)));
      this.#take(job!);
      if (this.#status.state !== "receiving") {
        return undefined;
      }
      // Somebody else may be sending it.
      this.#set({ needsPayload: this.#status.committed === committed && !this.#payload });
      committed = this.#status.committed;
    }
    this.#set({ needsPayload: false });
    return this.#payload;
  }

  #progressed(committed: number): void {
    const size = this.#payload!.size;
    const rate = this.#rate.add(committed);
    this.#set({
      committed,
      rate: this.#status.paused ? 0 : rate,
      eta: rate > 0 && !this.#status.paused ? (size - committed) / rate : undefined,
      ...(committed > this.#status.committed && { connection: "connected", trouble: undefined }),
    });
  }

  /** Follows the job to its end. */
  async #watch(signal: AbortSignal): Promise<Result> {
    const backoff = new Backoff();
    for (;;) {
      signal.throwIfAborted();
      this.#turn = new AbortController();
      const turn = anySignal(signal, this.#turn.signal);
      const give = this.#mute < 2 && !this.#background ? this.#link.tryStream() : undefined;
      try {
        const end = give ? await this.#follow(turn, backoff) : await this.#poll(turn, backoff);
        if (end) {
          return end;
        }
      } catch (err) {
        signal.throwIfAborted();
        if (isAnswer(err)) {
          throw err;
        }
        if (this.#turn.signal.aborted) {
          continue;
        }
        this.#trouble(err);
        await backoff.pause(signal);
      } finally {
        give?.();
      }
    }
  }

  /** Watches one stream. */
  async #follow(signal: AbortSignal, backoff: Backoff): Promise<Result | undefined> {
    let heard = false;
    try {
      for await (const event of this.#link.watch({ jobId: this.id, afterSeq: this.#seq, skipOutput: true }, signal)) {
        heard = true;
        this.#mute = 0;
        backoff.reset();
        this.#trouble(undefined);
        const end = this.#happen(event);
        if (end) {
          return end;
        }
      }
      throw new ConnectError("the pod has ended the stream");
    } catch (err) {
      if (err instanceof SilenceError && !heard) {
        this.#mute++; // a proxy may hold back the stream
      }
      throw err;
    }
  }

  /** Asks how the job is, once a second; for its events when it has ended. */
  async #poll(signal: AbortSignal, backoff: Backoff): Promise<Result | undefined> {
    const { job } = await this.#link.api.getJob({ jobId: this.id }, this.#link.call(this.id, signal));
    this.#trouble(undefined);
    this.#take(job!);
    if (isFinal(this.#status.state)) {
      return this.#follow(signal, backoff);
    }
    backoff.reset();
    await sleep(pollInterval, signal);
    return undefined;
  }

  #failure(failed: { code: number; message: string; logTail: { level: number; line: string }[] }): JobError {
    const tail = failed.logTail.map(({ level, line }) => ({ level, line }));
    if (this.#status.log.length === 0 && tail.length > 0) {
      this.#set({ log: tail });
    }
    return new JobError(codeName(failed.code), failed.message, tail);
  }

  /** Takes an event; the result if it is the end. */
  #happen(event: Event): Result | undefined {
    if (event.seq > this.#seq) {
      this.#seq = event.seq;
    }
    const { case: kind, value } = event.event;
    switch (kind) {
      case "accepted":
        this.#set({ state: states[value.state]!, committed: Number(value.committed), attempt: value.attempt });
        break;
      case "heartbeat":
        this.#set({
          state: states[value.state]!, committed: Number(value.committed), queuePosition: value.queuePosition, attempt: value.attempt,
          workerAge: value.workerAge && Number(value.workerAge.seconds) + value.workerAge.nanos / 1e9,
          ...(value.progress && { progress: progressOf(value.progress) }),
        });
        break;
      case "progress":
        this.#set({ progress: progressOf(value), workerAge: 0 });
        break;
      case "log": {
        const time = dateOf(event.time);
        const line = { level: value.level, line: value.line, ...(time && { time }) };
        this.#set({ log: [...this.#status.log.slice(1 - maxLog), line] });
        break;
      }
      case "done":
        this.#set({ ended: dateOf(event.time) });
        return new Result(this.#link, this.id, value, this.#seq);
      case "failed":
        this.#set({ ended: dateOf(event.time), state: value.code === 1 ? "canceled" : "failed" });
        throw this.#failure(value);
    }
    return undefined;
  }

  /** Takes what the pod says of the job. */
  #take(job: JobMessage): void {
    const created = dateOf(job.createTime);
    const ended = dateOf(job.endTime);
    const state = states[job.state] ?? "unknown";
    this.#set({
      state, func: job.spec!.func, version: job.spec!.version, committed: Number(job.committed), queuePosition: job.queuePosition,
      attempt: job.attempt, ...(created && { created }), ...(ended && { ended }), ...(job.progress && { progress: progressOf(job.progress) }),
      ...(job.spec!.size !== undefined && { size: Number(job.spec!.size) }),
      ...(job.state === State.CANCELED && job.failed && { error: this.#failure(job.failed) }),
    });
  }

  #trouble(err: unknown): void {
    if (err === undefined) {
      if (this.#status.connection !== "connected") {
        this.#set({ connection: "connected", trouble: undefined });
      }
      return;
    }
    this.#rate.reset();
    this.#set({
      connection: isOffline() ? "offline" : "reconnecting", trouble: ConnectError.from(err).rawMessage, rate: 0, eta: undefined,
    });
  }

  #set(change: { [K in keyof JobStatus]?: JobStatus[K] | undefined }): void {
    this.#status = { ...this.#status, ...change } as JobStatus;
    for (const listener of this.#listeners) {
      listener(this.#status);
    }
  }
}

/** A time of the wire. */
export function dateOf(time: { seconds: bigint; nanos: number } | undefined): Date | undefined {
  return time && new Date(Number(time.seconds) * 1000 + time.nanos / 1e6);
}

function progressOf(p: ProgressMessage): Progress {
  return { done: Number(p.done), total: Number(p.total), unit: p.unit, note: p.note };
}
