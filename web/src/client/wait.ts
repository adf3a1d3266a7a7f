// Waiting: for time to pass, for the network to come back, for a turn.

/** Ends after ms milliseconds, or when the signal is aborted, with its reason as the error. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason);
      return;
    }
    const end = () => {
      signal?.removeEventListener("abort", stop);
      resolve();
    };
    const timer = setTimeout(end, ms);
    const stop = () => {
      clearTimeout(timer);
      reject(signal!.reason);
    };
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** Whether the browser knows that there is no network. */
export function isOffline(): boolean {
  return typeof navigator !== "undefined" && navigator.onLine === false;
}

/**
 * The pauses between attempts: from a quarter of a second, doubling to 10 seconds,
 * jittered. A browser that comes online again, or a page that is looked at again,
 * ends a pause.
 */
export class Backoff {
  #failures = 0;

  /** How many attempts have failed in a row. */
  get failures(): number {
    return this.#failures;
  }

  /** Begins anew, after a success. */
  reset(): void {
    this.#failures = 0;
  }

  async pause(signal: AbortSignal): Promise<void> {
    const ms = Math.min(250 * 2 ** this.#failures, 10_000) * (0.75 + Math.random() / 2);
    this.#failures++;
    const woken = new AbortController();
    const wake = () => {
      if (!isOffline() && (typeof document === "undefined" || document.visibilityState === "visible")) {
        woken.abort();
      }
    };
    if (typeof window !== "undefined") {
      window.addEventListener("online", wake);
      document.addEventListener("visibilitychange", wake);
    }
    try {
      await sleep(ms, anySignal(signal, woken.signal));
    } catch (err) {
      signal.throwIfAborted();
      if (!woken.signal.aborted) {
        throw err;
      }
    } finally {
      if (typeof window !== "undefined") {
        window.removeEventListener("online", wake);
        document.removeEventListener("visibilitychange", wake);
      }
    }
  }
}

/** A signal that is aborted when one of them is; AbortSignal.any is too new for some browsers. */
export function anySignal(...signals: AbortSignal[]): AbortSignal {
  const any = new AbortController();
  for (const s of signals) {
    if (s.aborted) {
      any.abort(s.reason);
      break;
    }
    s.addEventListener("abort", () => any.abort(s.reason), { once: true, signal: any.signal });
  }
  return any.signal;
}

/** A fixed number of turns, which are given in the order in which they are asked for. */
export class Turns {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  /** Waits for a turn; give must be called at its end. */
  async take(): Promise<void> {
    if (this.#free > 0) {
      this.#free--;
      return;
    }
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  give(): void {
    const next = this.#waiting.shift();
    if (next) {
      next();
    } else {
      this.#free++;
    }
  }

  /** Takes a turn if one is free. */
  tryTake(): boolean {
    if (this.#free === 0) {
      return false;
    }
    this.#free--;
    return true;
  }
}
