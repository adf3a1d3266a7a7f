/** How long the rate looks back, in milliseconds. */
const window = 5000;

/** A Rate tells how fast a count grows: over the last seconds, so that it is calm and yet true. */
export class Rate {
  #points: { time: number; count: number }[] = [];

  /** Takes the count as it is now and returns its growth a second; 0 while it isn't known. */
  add(count: number, time = performance.now()): number {
    const last = this.#points.at(-1);
    if (last && count < last.count) {
      this.#points = [];
    }
    this.#points.push({ time, count });
    while (this.#points.length > 2 && this.#points[1]!.time < time - window) {
      this.#points.shift();
    }
    const first = this.#points[0]!;
    return time - first.time < 200 ? 0 : ((count - first.count) / (time - first.time)) * 1000;
  }

  reset(): void {
    this.#points = [];
  }
}
