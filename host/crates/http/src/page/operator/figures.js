// Lag and events a second, as this page has seen them: some minutes of each partition. It
// lives as long as the page and keeps at most SERIES_MAX series of POINTS points.

const POINTS = 200;
const SERIES_MAX = 2_000;
export const WINDOW_MS = 4 * 60_000;
/** What the plots show at least: a few seconds are no course yet. */
export const WINDOW_MS_MIN = 30_000;
/** After so long nobody looked: there is no rate over that, and a line would be a guess. */
export const GAP_MS = 6_000;

export class Figures {
  #series = new Map();

  note(groups, now) {
    for (const { pipeline, lag, partitions = [] } of groups) {
      let done = 0;
      for (const partition of partitions) {
        done += partition.committed ?? 0;
        this.#add(`${pipeline}/${partition.partition}`, now, partition.lag, partition.committed ?? 0);
      }
      this.#add(`${pipeline}/`, now, lag, done);
    }
  }

  /** `{ at, lag, rate }`, the oldest first, of a partition or (null) of all. */
  of(pipeline, partition) {
    return this.#series.get(`${pipeline}/${partition ?? ""}`) ?? [];
  }

  #add(key, at, lag, done) {
    let points = this.#series.get(key);
    if (!points) {
      if (this.#series.size >= SERIES_MAX) return;
      this.#series.set(key, (points = []));
    }
    const before = points.at(-1);
    // A committed offset that went back is a reset: nothing was processed by that.
    const rate = before && at - before.at < GAP_MS && done >= before.done ? ((done - before.done) * 1_000) / (at - before.at) : null;
    points.push({ at, lag, rate, done });
    while (points.length > POINTS || points[0].at < at - WINDOW_MS) points.shift();
  }
}
