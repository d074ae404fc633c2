// The course of one game: how the score difference went, read from the events that the log
// holds of it. It is drawn only where it agrees with the plugin's own output at every
// period end, for a plugin may count as it likes, and retention may have dropped events.

import { ask } from "./dom.js";
import { elapsed, periodEnd } from "./model.js";

/** A game has some 50 KiB of events, as lines 200 KiB; a partition may have very many of other games. */
const BYTES_MAX = 16 * 2 ** 20;
const READ_MS_MAX = 20_000;
/** The host reads for two at a time, and for pages like this one only while nobody else asks. */
const TRIES = 4;
const WAIT_MS = 1_500;

/**
 * What the log says of the game whose output is `game`: `{ points, from, until }`, points being
 * `[game seconds, home minus away]`, `from` the second before which nothing is known (0 for a
 * whole game) and `until` the `seq` up to which they go. Or `{ refused }`: why there is none.
 */
export async function readCourse(game, signal) {
  if (game.difference === null || game.lastSeq === undefined || game.events === undefined) {
    return { refused: "this plugin's output does not say which events it counts" };
  }
  for (let left = TRIES; ; left -= 1) {
    try {
      const within = AbortSignal.any([signal, AbortSignal.timeout(READ_MS_MAX)]);
      return courseOf(game, await readEvents(game.id, within));
    } catch (error) {
      if (signal.aborted) throw error;
      if (error.status !== 429) return { refused: whyNot(error) };
      if (left <= 1) return { refused: "other requests are reading the log" };
      // Not all pages that were refused together come back together.
      await pause(WAIT_MS * 2 ** (TRIES - left) * (0.5 + Math.random()), signal);
    }
  }
}

function whyNot(error) {
  if (error.status === 401 || error.status === 403) return "the log may not be read from here";
  if (error.status === 404) return "the events belong to another pipeline";
  if (error.name === "TimeoutError" || error.name === "QuotaExceededError") return "the log holds too many events of other games to search it";
  return "the log could not be read";
}

async function readEvents(id, signal) {
  const answer = await ask(`pipelines/scores/events/${encodeURIComponent(id)}?background=true`, signal, "application/x-ndjson");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const events = new Map();
  let rest = "";
  let read = 0;
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines) keep(events, line);
    if (done) return events;
    read += value.length;
    if (read > BYTES_MAX) {
      await reader.cancel();
      throw Object.assign(new Error("too many events"), { name: "QuotaExceededError" });
    }
  }
}

/** A `seq` counts once, the first time it comes, as for the plugin. */
function keep(events, line) {
  if (line === "") return;
  let event;
  try {
    event = JSON.parse(JSON.parse(line).value);
  } catch {
    return; // No JSON: no plugin has counted it.
  }
  const { seq, team, points, period, clock, corrects } = event ?? {};
  if (!Number.isSafeInteger(seq) || events.has(seq)) return;
  events.set(seq, { seq, team, points: Number.isSafeInteger(points) ? points : 0, period, at: elapsed(period, clock), corrects });
}

/** Events with their corrections applied, as the plugin applies them. */
function corrected(events) {
  const made = new Map();
  const corrections = [];
  for (const event of events) {
    if (Number.isSafeInteger(event.corrects)) corrections.push(event);
    else made.set(event.seq, event);
  }
  corrections.sort((a, b) => a.seq - b.seq);
  for (const correction of corrections) {
    const event = made.get(correction.corrects) ?? { ...correction, seq: correction.corrects };
    made.set(event.seq, { ...event, team: correction.team ?? event.team, points: correction.points });
  }
  return [...made.values()];
}

/** Pure, for it decides what is true: the events of a game, beside what its plugin made of them. */
export function courseOf(game, events) {
  const held = [...events.values()].filter(({ seq, at }) => seq <= game.lastSeq && at !== null);
  const counted = corrected(held);
  if (counted.length === 0) return { refused: "the log no longer holds its events" };
  counted.sort((a, b) => a.period - b.period || a.at - b.at || a.seq - b.seq);
  const [away, home] = game.teams;
  const change = ({ team, points }) => (team === home.name ? points : team === away.name ? -points : 0);
  const sum = (list) => list.reduce((sum, event) => sum + change(event), 0);
  // Where the beginning is gone, the end says what it must have been.
  const whole = held.length >= game.lastSeq - (game.gaps ?? 0);
  const start = whole ? 0 : game.difference - sum(counted);
  let told = 0;
  for (let period = 1; period <= game.period; period += 1) {
    told += (home.periods[period - 1] ?? 0) - (away.periods[period - 1] ?? 0);
    if (period < counted[0].period) continue;
    if (start + sum(counted.filter((event) => event.period <= period)) !== told) {
      return { refused: "its events in the log do not add up to this score" };
    }
  }
  const from = whole ? 0 : counted[0].at;
  const points = [[from, start]];
  let difference = start;
  for (const event of counted) {
    difference += change(event);
    // Two free throws are one moment.
    if (points.length > 1 && points.at(-1)[0] === event.at) points.at(-1)[1] = difference;
    else if (points.at(-1)[1] !== difference) points.push([event.at, difference]);
  }
  if (points.at(-1)[0] < game.elapsed) points.push([game.elapsed, difference]);
  return { points, from, until: game.lastSeq };
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}
