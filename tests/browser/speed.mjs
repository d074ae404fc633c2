// How fast the page is, in a real browser against a running host:
//
//     tests/browser/run speed
//
// Prints figures, and fails on none of them: machines are shared. A thousand games are on; then
// the page is opened afresh LOADS times, and watched WINDOWS times at 60 updates a second.

import { loadavg } from "node:os";
import { args, browser, getJson, origin, post } from "./harness.mjs";

const GAMES = 1_000;
const LOADS = 7;
const WINDOWS = 5;
const WINDOW_MS = 10_000;
const RATE = 60;

const id = (n) => `2026-11-20-A${String(n).padStart(3, "0")}-H${String(n).padStart(3, "0")}`;
const seqs = new Map();
/** The next basket of a game, by either team. */
function basket(n) {
  const seq = (seqs.get(n) ?? 0) + 1;
  seqs.set(n, seq);
  const side = (n * 7 + seq * 5) % 3 === 0 ? "A" : "H";
  const period = Math.min(4, 1 + Math.floor(seq / 60));
  return {
    game_id: id(n), seq, type: "field_goal", team: `${side}${String(n).padStart(3, "0")}`, player: `Player ${(seq * 13) % 9}`, points: 2,
    period, clock: `${Math.max(0, 11 - Math.floor((seq % 60) / 5))}:${String(59 - (seq % 60)).padStart(2, "0")}`,
  };
}

const middle = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
const line = (name, values, unit = "ms") => console.log(
  `${name.padEnd(58)} ${String(Math.round(middle(values))).padStart(6)} ${unit}  (median of ${values.length}: ${values.map(Math.round).join(", ")})`);

for (let round = 0; round < 40; round += 1) await post(Array.from({ length: GAMES }, (_, n) => basket(n)));
for (let shown = 0; shown < GAMES;) {
  shown = (await getJson("games?limit=1000")).games.length;
  await new Promise((resolve) => setTimeout(resolve, 100));
}

console.log(`${GAMES} games, ${args.build ?? "a host"}, load ${loadavg().map((load) => load.toFixed(1)).join(" ")}`);

/** A browser that has never seen the page. */
async function fresh() {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 } });
  const page = await context.newPage();
  await page.addInitScript(() => {
    const seen = (globalThis.speed = { long: [], frames: [], changes: 0 });
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) seen.long.push([entry.startTime, entry.duration]);
    }).observe({ type: "longtask", buffered: true });
    // Painted is what a frame after the one that drew it can see.
    const look = () => {
      const cards = document.querySelectorAll("a.card").length;
      if (cards > 0 && seen.some === undefined) requestAnimationFrame(() => (seen.some ??= performance.now()));
      if (cards === 1_000) return requestAnimationFrame(() => (seen.all = performance.now()));
      requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  });
  // Where others have the processors, a task takes longer than its own work: that is told beside it.
  const devtools = await context.newCDPSession(page);
  await devtools.send("Performance.enable", { timeDomain: "threadTicks" });
  const worked = async () => {
    const { metrics } = await devtools.send("Performance.getMetrics");
    return metrics.find(({ name }) => name === "TaskDuration").value * 1_000;
  };
  return { page, context, worked };
}

const loads = [];
for (let i = 0; i < LOADS; i += 1) {
  const { page, context, worked } = await fresh();
  await page.goto(`${origin}/`);
  await page.waitForFunction(() => globalThis.speed.all !== undefined, null, { timeout: 60_000 });
  loads.push({ worked: await worked(), ...(await page.evaluate(() => ({
    first: performance.getEntriesByName("first-contentful-paint")[0].startTime,
    some: globalThis.speed.some, all: globalThis.speed.all,
    longest: Math.max(0, ...globalThis.speed.long.map(([, duration]) => duration)),
  }))) });
  await context.close();
}
line("first contentful paint", loads.map(({ first }) => first));
line("first paint of games (a screen full)", loads.map(({ some }) => some));
line("paint of all 1,000 games", loads.map(({ all }) => all));
line("CPU time of the page's main thread until then", loads.map(({ worked }) => worked));
line("longest task while loading (0: none over 50 ms)", loads.map(({ longest }) => longest));

/** Watches one view while games get baskets, RATE a second. */
async function watch(name, hash, ready, pick) {
  const results = [];
  for (let i = 0; i < WINDOWS; i += 1) {
    const { page, context, worked } = await fresh();
    await page.goto(`${origin}/${hash}`);
    await page.waitForFunction(ready, null, { timeout: 60_000 });
    await page.waitForTimeout(1_500);
    await page.evaluate(() => {
      const seen = globalThis.speed;
      seen.from = performance.now();
      seen.long.length = 0;
      new MutationObserver((records) => (seen.changes += records.filter(({ target }) => target.matches?.(".points, .digits")).length))
        .observe(document.querySelector("main"), { subtree: true, childList: true });
      let before = performance.now();
      const frame = (now) => {
        seen.frames.push(now - before);
        before = now;
        requestAnimationFrame(frame);
      };
      requestAnimationFrame(frame);
    });
    const before = await worked();
    const until = performance.now() + WINDOW_MS;
    let sent = 0;
    const began = performance.now();
    while (performance.now() < until) {
      await post(basket(pick(sent)));
      sent += 1;
      const due = began + (sent * 1_000) / RATE;
      if (due > performance.now()) await new Promise((resolve) => setTimeout(resolve, due - performance.now()));
    }
    await page.waitForTimeout(300);
    results.push({ sent, worked: (await worked()) - before, ...(await page.evaluate(() => ({
      long: globalThis.speed.long, changes: globalThis.speed.changes, slowest: Math.max(...globalThis.speed.frames.slice(1)),
    }))) });
    await context.close();
  }
  console.log(`${name}, ${RATE} updates/s for ${WINDOW_MS / 1_000} s, load ${loadavg()[0].toFixed(1)}`);
  line("  events posted", results.map(({ sent }) => sent), "  ");
  line("  scores that changed on the page", results.map(({ changes }) => changes), "  ");
  line("  CPU time of the page's main thread for 1,000 updates", results.map(({ worked, sent }) => (1_000 * worked) / sent));
  line("  tasks over 50 ms", results.map(({ long }) => long.length), "  ");
  line("  the longest of them", results.map(({ long }) => Math.max(0, ...long.map(([, duration]) => duration))));
  line("  the longest frame", results.map(({ slowest }) => slowest));
}

const all = () => document.querySelectorAll("a.card").length === 1_000;
let turn = 0;
await watch("scoreboard, baskets in any game", "#/", all, () => (turn = (turn + 389) % GAMES));
await watch("scoreboard, baskets in the games on the screen", "#/", all, (n) => n % 20);
await watch("one game, all baskets in it", `#/game/${id(7)}`, () => document.querySelector(".chart svg") !== null, () => 7);
await browser.close();
