// What checks and speed runs share: a browser, pages that keep count of what must never happen,
// events posted to the host, and the accessibility check.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

export const { values: args } = parseArgs({
  options: { url: { type: "string" }, shots: { type: "string" }, plugins: { type: "string" }, next: { type: "string" }, games: { type: "string" }, build: { type: "string" }, only: { type: "string" } },
});
if (!args.url) {
  console.error("usage: tests/browser/run [speed|shots]");
  process.exit(2);
}
export const origin = new URL(args.url).origin;
export const WAIT_MS_MAX = 20_000;
export const PHONE = { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true };

export const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

/** A page that keeps count of what must never happen. Failed loads are left out where a check provokes them. */
export async function open(hash = "#/", { options = {}, before = async () => {}, provoked = /^$/ } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, ...options });
  context.setDefaultTimeout(WAIT_MS_MAX);
  const page = await context.newPage();
  const wrong = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type()) && !provoked.test(message.text())) wrong.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => wrong.push(`uncaught: ${error.stack}`));
  page.on("dialog", (dialog) => {
    wrong.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.origin !== origin && url.protocol !== "data:") wrong.push(`request outside the host: ${url}`);
  });
  await page.exposeFunction("reportViolation", (text) => wrong.push(`content security policy: ${text}`));
  await page.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => globalThis.reportViolation(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));
  });
  await before(page);
  const answer = await page.goto(`${origin}/${hash}`);
  return { page, answer, wrong, done: () => context.close() };
}

/** Posts one event, or many as NDJSON, and returns what the host answers. */
export async function post(events) {
  const many = Array.isArray(events);
  const answer = await fetch(`${origin}/score`, {
    method: "POST",
    headers: { "content-type": many ? "application/x-ndjson" : "application/json" },
    body: many ? events.map((event) => JSON.stringify(event)).join("\n") : JSON.stringify(events),
  });
  if (!answer.ok) assert.fail(`POST /score answered ${answer.status}: ${await answer.text()}`);
  return answer.json();
}

export const getJson = async (path) => (await fetch(`${origin}/${path}`)).json();

/** Names that no other run has. */
export const run = Date.now().toString(36).toUpperCase();
export const [away, home] = [`A${run}`, `H${run}`];
/** One game that checks share, with a basket for each call. */
export const game = `${away}-${home}`;
let seq = 0;
export const basket = (team, points, player = "Some Body", more = {}) =>
  post({ game_id: game, seq: (seq += 1), type: points === 3 ? "three_pointer" : "field_goal", team, player, points, period: 1, clock: "9:42", ...more });

/** A selector that takes any text, whatever is in it. */
export const cardOf = (page, id) => page.locator(`a.card[data-id=${JSON.stringify(id)}]`);
export const pointsOf = (page, id) => cardOf(page, id).locator(".points");

/** The answer of a stream that has these events and ends: the browser asks again after `retry`. */
export const stream = (...games) => ({
  contentType: "text/event-stream",
  body: `retry: 50\n\n${games.map((output, i) => `id: ${i}\nevent: game\ndata: ${JSON.stringify(output)}\n\n`).join("")}`,
});
export const output = (id, points, more = {}) => ({
  game_id: id, status: "live", period: 1, clock: "9:00", points, by_period: {}, players: {},
  lead_changes: 0, last_seq: 1, events: 1, duplicates: 0, gaps: 0, ...more,
});
export const listing = (games) => (route) => route.fulfill({ json: { games, next: null } });

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** All of axe-core's rules, with no exception. */
export async function accessible(page, what) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const told = violations.map(({ id, help, nodes }) => `${id}: ${help}\n${nodes.slice(0, 5).map((node) => `    ${node.html}\n    ${node.failureSummary}`).join("\n")}`);
  assert.deepEqual(told, [], what);
}
