/**
 * Calls the functions of an aipod pod from a browser, with payloads of any size.
 *
 * A job outlives what goes wrong on the way: cut connections, proxies with short
 * timeouts and small limits, a computer that was asleep, a reload of the page, and
 * the pod's own restart. Uploads go on from the last byte that is safe at the pod;
 * the function runs once.
 *
 * ```ts
 * const pod = new Pod({ baseUrl: "https://pod.example" });
 * const job = pod.start({ func: "predict", version: "v1", payload: input.files[0] });
 * localStorage.setItem("job", job.id); // pod.attach(id) finds it again
 * job.subscribe(({ state, committed, size }) => console.log(state, committed, size));
 * console.log(await (await job.result()).json());
 * ```
 *
 * @module
 */

import { InstanceState } from "./gen/aipod/v1/job_pb.js";
import { asJobError } from "./client/errors.js";
import { newId } from "./client/id.js";
import { dateOf, Job, states, type Call, type JobState } from "./client/job.js";
import { Link, type PodOptions } from "./client/link.js";

export { JobError, type LogLine } from "./client/errors.js";
export { Job, isFinal, type Call, type JobState, type JobStatus, type Progress } from "./client/job.js";
export type { PodOptions } from "./client/link.js";
export type { Result } from "./client/output.js";
export { newId } from "./client/id.js";

/** One thing that the pod's model can do. */
export interface FunctionInfo {
  name: string;
  /** One line: what it does, its payload, its kwargs. */
  doc: string;
  /** A JSON Schema of the kwargs, if the model declares one. */
  kwargsSchema?: JSONSchema;
  /** The media type of the payload, "none" if there is none, empty if anything goes. */
  payloadType: string;
}

/** The part of JSON Schema that describes kwargs. */
export interface JSONSchema {
  type?: string | string[];
  title?: string;
  description?: string;
  default?: unknown;
  enum?: unknown[];
  minimum?: number;
  exclusiveMinimum?: number;
  maximum?: number;
  exclusiveMaximum?: number;
  properties?: Record<string, JSONSchema>;
  required?: string[];
}

/** What the pod's model can do. */
export interface Model {
  name: string;
  functions: FunctionInfo[];
  /** The versions that calls can name. */
  versions: string[];
}

/** How the pod is. */
export interface PodStatus {
  model: string;
  /** Whether it takes calls. */
  serving: boolean;
  started?: Date;
  instances: { version: string; state: "loading" | "ready" | "retired"; busy: number; slots: number }[];
  maxInstances: number;
  /** Calls that wait. */
  queued: number;
  maxQueue: number;
  /** Versions whose processes die again and again. */
  downVersions: string[];
  /** The largest payload in bytes; 0 is no limit but the disk. */
  maxPayload: number;
  /** What all payloads take on the pod's disk, in bytes. */
  stored: number;
}

/** A job as the pod lists it. */
export interface JobInfo {
  id: string;
  func: string;
  version: string;
  state: JobState;
  committed: number;
  size?: number;
  created?: Date;
  ended?: Date;
  expires?: Date;
}

/** A Pod is where jobs are started, found and listed. Errors of its methods are JobErrors. */
export class Pod {
  readonly #link: Link;

  constructor(options: PodOptions = {}) {
    this.#link = new Link(options);
  }

  /** Starts a job. It sends its payload and goes on by itself. */
  start(call: Call): Job {
    return new Job(this.#link, call.id ?? newId(), call, call.payload);
  }

  /**
   * Finds a job again. If bytes of its payload are missing and nobody sends them,
   * its status says needsPayload, and they go on when Job.supply is called.
   */
  attach(id: string): Job {
    return new Job(this.#link, id, undefined, undefined);
  }

  /** Describes the model. */
  async model(signal?: AbortSignal): Promise<Model> {
    const list = await answer(this.#link.api.listFunctions({}, this.#link.call(undefined, signal)));
    return {
      name: list.model,
      versions: list.versions,
      functions: list.functions.map((f) => {
        const schema = f.kwargsSchemaJson.length > 0 ? (JSON.parse(new TextDecoder().decode(f.kwargsSchemaJson)) as JSONSchema) : undefined;
        return { name: f.name, doc: f.doc, payloadType: f.payloadType, ...(schema && { kwargsSchema: schema }) };
      }),
    };
  }

  /** Tells how the pod is. */
  async status(signal?: AbortSignal): Promise<PodStatus> {
    const pod = await answer(this.#link.api.getPod({}, this.#link.call(undefined, signal, 5000)));
    const started = dateOf(pod.startTime);
    return {
      model: pod.model, serving: pod.serving, maxInstances: pod.maxInstances, queued: pod.queued, maxQueue: pod.maxQueue,
      downVersions: pod.downVersions, maxPayload: Number(pod.maxPayload), stored: Number(pod.stored), ...(started && { started }),
      instances: pod.instances.map(({ version, state, busy, slots }) => ({
        version, busy, slots,
        state: state === InstanceState.LOADING ? "loading" : state === InstanceState.RETIRED ? "retired" : "ready",
      })),
    };
  }

  /** Lists the newest jobs of the pod, whoever has made them; at most 100. */
  async jobs(signal?: AbortSignal): Promise<JobInfo[]> {
    const { jobs } = await answer(this.#link.api.listJobs({}, this.#link.call(undefined, signal)));
    return jobs.map((job) => {
      const created = dateOf(job.createTime);
      const ended = dateOf(job.endTime);
      const expires = dateOf(job.expireTime);
      return {
        id: job.jobId, func: job.spec!.func, version: job.spec!.version, state: states[job.state] ?? "unknown", committed: Number(job.committed),
        ...(job.spec!.size !== undefined && { size: Number(job.spec!.size) }),
        ...(created && { created }), ...(ended && { ended }), ...(expires && { expires }),
      };
    });
  }

  /** Cancels a job and removes it with its result. One that isn't there is no error. */
  async delete(id: string): Promise<void> {
    await answer(this.#link.api.deleteJob({ jobId: id }, this.#link.call(id)));
  }
}

async function answer<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (err) {
    throw asJobError(err);
  }
}
