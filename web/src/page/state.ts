// What the page knows: the pod, its model, its jobs. Components read it through
// useStore; it changes by the methods of Store only.

import { useEffect, useState } from "preact/hooks";

import { isFinal, Pod, type Call, type Job, type JobInfo, type JobState, type Model, type PodStatus } from "../aipod.js";
import { forget, remember, remembered, type Remembered } from "./store.js";

/** How often the pod is asked how it is, in milliseconds. */
const interval = 3000;

/** A line of the list of jobs. */
export interface Entry {
  id: string;
  func: string;
  version: string;
  state: JobState;
  created: number;
  own?: Remembered;
  job?: Job;
}

export class Store {
  model: Model | undefined;
  pod: PodStatus | undefined;
  reachable = true;
  selected: string | undefined;
  readonly #pod: Pod;
  readonly #jobs = new Map<string, Job>(); // that the page follows
  readonly #listeners = new Set<() => void>();
  #listed: JobInfo[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #changed = false;

  constructor() {
    const upstream = new URLSearchParams(location.search).get("upstream");
    this.#pod = new Pod(upstream ? { headers: { "x-upstream": upstream } } : {});
    void this.#refresh(true);
    addEventListener("online", () => void this.#refresh());
    addEventListener("offline", () => this.#change());
    document.addEventListener("visibilitychange", () => void this.#refresh());
    addEventListener("hashchange", () => this.select(location.hash.slice(1) || undefined));
    addEventListener("beforeunload", (event) => {
      if ([...this.#jobs.values()].some((job) => job.status.state === "receiving" && !job.status.needsPayload)) {
        event.preventDefault(); // it goes on afterwards, but the file has to be chosen again
      }
    });
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The newest first. */
  entries(): Entry[] {
    const all = new Map<string, Entry>();
    for (const job of this.#listed) {
      all.set(job.id, { ...job, created: job.created?.getTime() ?? 0 });
    }
    for (const own of remembered()) {
      const entry = all.get(own.id);
      const job = this.#jobs.get(own.id);
      if (entry || job) {
        all.set(own.id, { ...own, state: entry?.state ?? "unknown", own });
      }
    }
    for (const [id, job] of this.#jobs) {
      const entry = all.get(id);
      const { func, version, state, created } = job.status;
      all.set(id, { created: created?.getTime() ?? Date.now(), ...entry, id, func, version, state, job });
    }
    return [...all.values()].sort((a, b) => b.created - a.created);
  }

  /** Starts a job, and remembers it before the pod knows of it. */
  start(call: Call & { id: string }, file: File | undefined): void {
    const own: Remembered = { id: call.id, func: call.func, version: call.version ?? "", created: Date.now() };
    remember(file ? { ...own, file: { name: file.name, size: file.size } } : own);
    this.#follow(this.#pod.start(call));
    this.select(call.id);
  }

  select(id: string | undefined): void {
    if (id !== undefined && !this.#jobs.has(id)) {
      this.#follow(this.#pod.attach(id));
    }
    this.selected = id;
    for (const [other, job] of this.#jobs) {
      job.background = other !== id;
    }
    if (location.hash.slice(1) !== (id ?? "")) {
      history.replaceState(null, "", id ? `#${id}` : location.pathname + location.search);
    }
    this.#change();
  }

  /** Cancels a job and removes it. */
  async delete(id: string): Promise<void> {
    this.#jobs.get(id)?.detach(); // first, or it would make the job again
    this.#jobs.delete(id);
    try {
      await this.#pod.delete(id);
    } catch (err) {
      this.select(id);
      throw err;
    }
    this.#listed = this.#listed.filter((job) => job.id !== id);
    forget(id);
    if (this.selected === id) {
      this.select(undefined);
    }
    this.#change();
  }

  #follow(job: Job): void {
    this.#jobs.set(job.id, job);
    job.background = job.id !== this.selected;
    let state = job.status.state;
    job.subscribe((status) => {
      this.#change();
      if (status.state !== state && isFinal(status.state)) {
        void this.#refresh(true); // a version may have been trained
      }
      state = status.state;
    });
  }

  /** Asks the pod how it is, then again after a while. */
  async #refresh(all = false): Promise<void> {
    clearTimeout(this.#timer);
    try {
      if (document.visibilityState === "visible" || all) {
        const [pod, jobs, model] = await Promise.all([
          this.#pod.status(), this.#pod.jobs(), all || !this.model || !this.reachable ? this.#pod.model() : this.model,
        ]);
        this.pod = pod;
        this.model = model;
        this.#listed = jobs;
        this.reachable = true;
        this.#resume();
      }
    } catch {
      this.reachable = false;
    }
    this.#change();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#refresh(), this.reachable ? interval : 1000);
  }

  /** Goes on with this browser's jobs that have not ended. */
  #resume(): void {
    const own = new Set(remembered().map((job) => job.id));
    for (const job of this.#listed) {
      if (own.has(job.id) && !isFinal(job.state) && !this.#jobs.has(job.id)) {
        this.#follow(this.#pod.attach(job.id));
      }
    }
    if (this.selected === undefined) {
      const id = location.hash.slice(1) || [...this.#jobs.keys()][0];
      if (id) {
        this.select(id);
      }
    }
  }

  /** Tells the components once a frame, however much happens. */
  #change(): void {
    if (this.#changed) {
      return;
    }
    this.#changed = true;
    setTimeout(() => {
      this.#changed = false;
      for (const listener of this.#listeners) {
        listener();
      }
    }, 50);
  }
}

/** Renders a component anew after each change. */
export function useStore(store: Store): void {
  const [, render] = useState(0);
  useEffect(() => store.subscribe(() => render((n) => n + 1)), [store]);
}

/** Renders a component anew each second, while on is set. */
export function useClock(on: boolean): number {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    if (on) {
      const timer = setInterval(() => setNow(Date.now()), 1000);
      return () => clearInterval(timer);
    }
    return undefined;
  }, [on]);
  return now;
}
