// Pictures of the page, to look at and for the documents:
//
//     SHOTS=DIR tests/browser/run shots
//
// They are of games as they are on an evening: some over, some live, one at half-time. With the
// thirty real games where they are, else with invented ones.

import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import { PHONE, args, browser, getJson, open, origin, post } from "./harness.mjs";
import { wholeGame } from "./whole-game.mjs";

const ONE = "2015-12-23-DAL-BKN";
const dir = args.shots;
mkdirSync(dir, { recursive: true });
const halfOf = (events) => events.findIndex(({ type, period }) => type === "period_end" && period === 2) + 1;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const games = new Map();
if (args.games && existsSync(args.games)) {
  for (const file of readdirSync(args.games).filter((name) => name.endsWith(".ndjson"))) {
    games.set(file.slice(0, -7), readFileSync(join(args.games, file), "utf8").trim().split("\n").map((line) => JSON.parse(line)));
  }
}
if (!games.has(ONE)) games.set(ONE, wholeGame(args.games));

const evening = [...games].filter(([id]) => id.startsWith(ONE.slice(0, 10)));
const left = new Map();
for (const [id, events] of games) {
  const at = evening.findIndex(([other]) => other === id);
  // Of that evening most are live; all others are over.
  const over = at < 0 || at % 4 === 3 ? events.length : Math.floor(events.length * (0.2 + 0.06 * at));
  const until = id === ONE ? halfOf(events) : over;
  await post(events.slice(0, until));
  if (id !== ONE && until < events.length) left.set(id, events.slice(until));
}

async function take(name, hash, ready, { options = {}, then = async () => {}, full = false } = {}) {
  const { page, wrong, done } = await open(hash, { options });
  await page.locator(ready).first().waitFor();
  await then(page);
  await pause(400);
  await page.screenshot({ path: join(dir, `${name}.png`), fullPage: full });
  if (wrong.length > 0) throw new Error(wrong.join("\n"));
  console.log(name);
  await done();
}
const drawn = (page) => page.getByText("Every basket, from the events in the log").waitFor();
const DARK = { colorScheme: "dark" };

await take("scoreboard", "#/", "a.card");
await take("scoreboard-dark", "#/", "a.card", { options: DARK });
// For the documents: smaller.
const DOCUMENT = { viewport: { width: 1080, height: 660 } };
await take("document-scoreboard", "#/", "a.card", { options: DOCUMENT });
await take("scoreboard-phone", "#/", "a.card", { options: PHONE });
await take("game-half-time", `#/game/${ONE}`, ".chart svg", { then: drawn, full: true });
await take("game-half-time-phone", `#/game/${ONE}`, ".chart svg", { then: drawn, full: true, options: PHONE });
await post(games.get(ONE).slice(halfOf(games.get(ONE))));
await take("game-final", `#/game/${ONE}`, ".chart svg", { then: drawn, full: true });
await take("game-final-dark", `#/game/${ONE}`, ".chart svg", { then: drawn, full: true, options: DARK });

// The operator's side, while events come and a plugin is put in force.
await post({ game_id: ONE, seq: 9_001, type: "field_goal", team: "<b>ZZZ", player: `<img src=x onerror="alert(1)">\u202egnp.`, points: 2, period: 5, clock: "0:00" });
await post({ game_id: "2015-12-23-HOU-ORL", seq: 9_002, type: "foul", team: "LAL", player: "Nobody", points: 2, period: 4, clock: "2:10" });
let playing = true;
const player = (async () => {
  for (let turn = 0; playing; turn += 1) {
    const [, events] = [...left][turn % left.size];
    if (events.length > 0) await post(events.splice(0, 1 + (turn % 3)));
    await pause(55 + 35 * Math.sin(turn / 60));
  }
})();
const { page, done } = await open("#/operator/scores");
await page.locator(".letter").first().waitFor();
await pause(45_000);
const file = join(args.plugins, "scores", "default.wasm");
copyFileSync(args.next, `${file}.new`);
renameSync(`${file}.new`, file);
let moment = null;
for (let tries = 0; tries < 3_000 && moment === null; tries += 1) {
  const answer = await getJson("plugins");
  if (answer.slots.some(({ state }) => state === "loading" || state === "rehearsing")) moment = answer;
  await pause(5);
}
await page.route("**/plugins", (route) => route.fulfill({ json: moment }));
await page.locator(".steps li[aria-current]").first().waitFor();
await page.screenshot({ path: join(dir, "operator-swap.png"), fullPage: true });
await page.setViewportSize({ width: 1080, height: 1000 });
await pause(400);
await page.screenshot({ path: join(dir, "document-operator.png") });
await page.setViewportSize({ width: 1280, height: 860 });
await page.unroute("**/plugins");
await page.getByText(/On trial until/).waitFor();
await page.locator(".letter summary").first().click();
await page.locator(".payload").waitFor();
await page.locator(".slot-body summary", { hasText: "Limits" }).click();
await pause(3_000);
await page.evaluate(() => scrollTo(0, 0));
await page.screenshot({ path: join(dir, "operator-after.png"), fullPage: true });
await page.emulateMedia({ colorScheme: "dark" });
await page.screenshot({ path: join(dir, "operator-dark.png"), fullPage: true });
await page.emulateMedia({ colorScheme: "light" });
await page.setViewportSize(PHONE.viewport);
await pause(400);
await page.screenshot({ path: join(dir, "operator-phone.png"), fullPage: true });
console.log("operator");
await done();
playing = false;
await player;

await browser.close();
console.log(`in ${dir}, of ${origin}`);
