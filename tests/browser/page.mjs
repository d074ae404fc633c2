// The live page in a real browser, against a running host:
//
//     npm ci && node page.mjs --url http://127.0.0.1:8080 [--shots DIR]
//
// Needs Chromium at /usr/bin/chromium, or at $CHROMIUM. It posts games of its own, under names
// that no other run has, and waits for what it expects to see; no check measures time.
// Where the host cannot be brought to say something (odd outputs, a lost connection), the
// answer is put in its place on the way to the browser.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const { values: args } = parseArgs({ options: { url: { type: "string" }, shots: { type: "string" } } });
if (!args.url) {
  console.error("usage: node page.mjs --url http://127.0.0.1:PORT [--shots DIR]");
  process.exit(2);
}
const origin = new URL(args.url).origin;
const run = Date.now().toString(36).toUpperCase();
const [away, home] = [`A${run}`, `H${run}`];
const game = `${away}-${home}`;
const WAIT_MS_MAX = 20_000;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

/** A page that keeps count of what must never happen. Failed loads are left out where a check provokes them. */
async function open(hash = "#/", { options = {}, before = async () => {}, provoked = /^$/ } = {}) {
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

async function post(event) {
  const answer = await fetch(`${origin}/score`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(event) });
  assert.ok(answer.ok, `POST /score answered ${answer.status}: ${await answer.text()}`);
}

let seq = 0;
const basket = (team, points, player = "Some Body", more = {}) =>
  post({ game_id: game, seq: (seq += 1), type: points === 3 ? "three_pointer" : "field_goal", team, player, points, period: 1, clock: "9:42", ...more });

/** A selector that takes any text, whatever is in it. */
const cardOf = (page, id) => page.locator(`a.card[data-id=${JSON.stringify(id)}]`);
const pointsOf = (page, id) => cardOf(page, id).locator(".points");

async function shoot(page, name, options = {}) {
  if (!args.shots) return;
  mkdirSync(args.shots, { recursive: true });
  await page.screenshot({ path: join(args.shots, `${name}.png`), ...options });
}

/** The answer of a stream that has these events and ends: the browser asks again after `retry`. */
const stream = (...games) => ({
  contentType: "text/event-stream",
  body: `retry: 50\n\n${games.map((output, i) => `id: ${i}\nevent: game\ndata: ${JSON.stringify(output)}\n\n`).join("")}`,
});
const output = (id, points, more = {}) => ({
  game_id: id, status: "live", period: 1, clock: "9:00", points, by_period: {}, players: {},
  lead_changes: 0, last_seq: 1, events: 1, duplicates: 0, gaps: 0, ...more,
});
const listing = (games) => (route) => route.fulfill({ json: { games, next: null } });

const checks = {
  async "the page comes with a policy that allows nothing from elsewhere"() {
    const { answer, done } = await open();
    assert.equal(answer.status(), 200);
    const policy = answer.headers()["content-security-policy"] ?? "";
    assert.match(policy, /default-src 'none'/);
    assert.match(policy, /script-src 'self'(;|$)/);
    assert.doesNotMatch(policy, /unsafe/);
    await done();
  },

  async "a game posted before shows as a card, and a score posted now shows without a reload"() {
    await basket(away, 2);
    const { page, wrong, done } = await open();
    await page.waitForFunction(() => document.querySelector("#link").dataset.state === "live");
    await page.evaluate(() => (globalThis.sameDocument = true));
    await cardOf(page, game).waitFor();
    assert.deepEqual(await pointsOf(page, game).allTextContents(), ["2", "0"]);
    await basket(home, 3);
    await pointsOf(page, game).nth(1).getByText("3", { exact: true }).waitFor();
    assert.equal(await page.evaluate(() => globalThis.sameDocument), true);
    assert.match(await cardOf(page, game).getAttribute("aria-label"), new RegExp(`${away} 2, ${home} 3`));
    await shoot(page, "scoreboard");
    assert.deepEqual(wrong, []);
    await done();
  },

  async "a game that begins while the page is open gets a card"() {
    const { page, wrong, done } = await open();
    await page.waitForFunction(() => document.querySelector("#link").dataset.state === "live");
    const id = `N${run}-O${run}`;
    await post({ game_id: id, seq: 1, type: "field_goal", team: `N${run}`, player: null, points: 2, period: 1, clock: "11:00" });
    await cardOf(page, id).waitFor();
    assert.deepEqual(wrong, []);
    await done();
  },

  async "markup in a game's, a team's and a player's name is text"() {
    const script = `<script>globalThis.hit = 1</script>`;
    // The plugin refuses names of teams that are longer than these.
    const image = `<img src=x onerror="hit=1">`;
    const id = `"><svg onload="globalThis.hit=1">${run}`;
    await post({ game_id: id, seq: 1, type: "field_goal", team: image, player: script, points: 2, period: 1, clock: "11:00" });
    const { page, wrong, done } = await open();
    await cardOf(page, id).waitFor();
    assert.equal(await cardOf(page, id).locator(".tile").first().textContent(), image);
    await cardOf(page, id).click();
    await page.locator(".player").first().waitFor();
    assert.equal(await page.locator(".player").first().textContent(), script);
    assert.equal(await page.locator("main img, main script, main svg[onload]").count(), 0);
    assert.equal(await page.evaluate(() => globalThis.hit), undefined);
    // The address leads to the same game when it is opened by itself.
    await page.reload();
    await page.locator(".player").first().waitFor();
    assert.equal(new URL(page.url()).hash, `#/game/${encodeURIComponent(id)}`);
    assert.deepEqual(wrong, []);
    await done();
  },

  async "the keyboard alone filters, opens a game and comes back to its card"() {
    const { page, wrong, done } = await open();
    await cardOf(page, game).waitFor();
    await page.keyboard.press("/");
    await page.keyboard.type(home.toLowerCase());
    await page.waitForFunction(() => document.querySelectorAll("a.card").length === 1);
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    await page.locator("article.game table.line").waitFor();
    assert.equal(decodeURIComponent(new URL(page.url()).hash), `#/game/${game}`);
    assert.equal(await page.evaluate(() => document.activeElement.tagName), "H1");
    await page.keyboard.press("Escape");
    await page.waitForFunction((id) => document.activeElement?.dataset?.id === id, game);
    assert.deepEqual(wrong, []);
    await done();
  },

  async "arrow keys walk the cards, and Tab reaches search, filters and cards in that order"() {
    const { page, wrong, done } = await open();
    await cardOf(page, game).waitFor();
    await page.locator("#team").focus();
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.id), "only-all");
    await page.keyboard.press("Tab");
    const at = () => page.evaluate(() => [...document.querySelectorAll("a.card")].indexOf(document.activeElement));
    assert.equal(await at(), 0);
    await page.keyboard.press("ArrowRight");
    assert.equal(await at(), 1);
    await page.keyboard.press("ArrowLeft");
    assert.equal(await at(), 0);
    await page.keyboard.press("End");
    assert.equal(await at(), (await page.locator("a.card").count()) - 1);
    assert.deepEqual(wrong, []);
    await done();
  },

  async "one game shows line score, scorers and difference, and follows what is posted"() {
    const { page, wrong, done } = await open(`#/game/${encodeURIComponent(game)}`);
    await page.locator("table.line tbody tr").nth(1).waitFor();
    await page.waitForFunction(() => document.querySelector("#link").dataset.state === "live");
    const before = Number(await page.locator(".hero .away .digits").textContent());
    await basket(away, 3, "Zed Last", { clock: "8:00" });
    await page.locator(".hero .away .digits").getByText(String(before + 3), { exact: true }).waitFor();
    await basket(away, 3, "Zed Last", { period: 5, clock: "4:00" });
    await page.locator(".hero .away .digits").getByText(String(before + 6), { exact: true }).waitFor();
    assert.deepEqual(await page.locator("table.line thead th").allTextContents(), ["Team", "1", "2", "3", "4", "OT", "T"]);
    const row = await page.locator("table.line tbody tr").first().locator("th,td").allTextContents();
    assert.deepEqual(row, [away, String(before + 3), "0", "0", "0", "3", String(before + 6)]);
    assert.equal(await page.locator(".leaders li", { hasText: "Zed Last" }).locator(".points").textContent(), "6");
    assert.match(await page.locator(".chart svg").getAttribute("aria-label"), new RegExp(`${away} ahead by ${before + 3}`));
    assert.match(await page.title(), new RegExp(`${away} ${before + 6}–3 ${home}`));
    assert.deepEqual(wrong, []);
    await done();
  },

  async "a game nobody has posted yet is awaited, and shows with its first event"() {
    const id = `P${run}-Q${run}`;
    const { page, wrong, done } = await open(`#/game/${id}`, { provoked: /404/ });
    await page.getByText("The host has no game of this name").waitFor();
    await post({ game_id: id, seq: 1, type: "field_goal", team: `Q${run}`, player: null, points: 2, period: 1, clock: "11:00" });
    await page.locator(".hero .home .digits").getByText("2", { exact: true }).waitFor();
    assert.deepEqual(wrong, []);
    await done();
  },

  async "the operator's view shows the slots' plugins and the group's partitions"() {
    const plugins = await (await fetch(`${origin}/plugins`)).json();
    const groups = await (await fetch(`${origin}/group`)).json();
    const { page, wrong, done } = await open("#/operator");
    await page.locator(".slot").first().waitFor();
    assert.equal(await page.locator(".slot").count(), plugins.slots.length);
    const [slot] = plugins.slots;
    const text = await page.locator(".slot").first().textContent();
    for (const part of [slot.slot, slot.state, slot.plugin.name, slot.plugin.version, slot.plugin.digest.slice(0, 12)]) {
      assert.ok(text.includes(part), `${part} in: ${text}`);
    }
    assert.equal(await page.locator(".partitions tbody tr").count(), groups.groups.flatMap((group) => group.partitions).length);
    await shoot(page, "operator", { fullPage: true });
    assert.deepEqual(wrong, []);
    await done();
  },

  async "a rejected plugin and a stopped partition say why, and a host that fails is told"() {
    let fail = false;
    const at = "2026-01-01T00:00:00Z";
    const before = async (page) => {
      await page.route("**/plugins", (route) => (fail ? route.fulfill({ status: 503, body: "" }) : route.fulfill({
        json: { slots: [{ slot: "scores/default", pipeline: "scores", key: null, state: "rejected", plugin: null, since: null, takeover: {}, swaps: 0,
          history: [{ at, state: "rejected", digest: "ab".repeat(32), code: "not-a-component", reason: "<b>a core module</b>" }] },
        { slot: "scores/keys/K", pipeline: "scores", key: "K", state: "rejected", since: at, takeover: {}, swaps: 2, trial_until: at, agreed: false,
          plugin: { name: "right", version: "1.0.0", digest: "ef".repeat(32), writes: "right/1", reads: ["right/1"], size_bytes: 1 },
          hosts: ["a", "b"].map((host, number) => ({ host, digest: "ef".repeat(32), state: "active", redoing: number, at })),
          history: [{ at, state: "rejected", digest: "cd".repeat(32), code: "plugin-rolled-back", reason: "it was rolled back" }] }] },
      })));
      await page.route("**/group", (route) => route.fulfill({
        json: { groups: [{ pipeline: "scores", group: "scores", input: "NBA-Games", members: [], lag: 7,
          partitions: [{ partition: 0, state: "stopped", code: "out-of-range", reason: "below the start", committed: null, end: 7, lag: 7, member: null }] }] },
      }));
    };
    const { page, wrong, done } = await open("#/operator", { before, provoked: /503/ });
    await page.getByText("was rejected: not-a-component: <b>a core module</b>").waitFor();
    await page.getByText("out-of-range: below the start").waitFor();
    await page.getByText("cdcdcdcdcdcd was rolled back; the one before it runs again.").waitFor();
    await page.locator('.badge[data-state="rolled back"]').waitFor();
    await page.getByText("not all of 2 run the same, some process again").waitFor();
    fail = true;
    await page.getByText("The host does not answer").waitFor();
    fail = false;
    await page.getByText("The host does not answer").waitFor({ state: "hidden" });
    assert.deepEqual(wrong, []);
    await done();
  },

  async "outputs of other shapes are shown as they are and break nothing"() {
    const odd = [
      output("AAA-BBB", { AAA: 5, BBB: 4 }, { rebounds: { AAA: 11, BBB: 12 } }),
      { game_id: "shapeless", points: "many", players: [1], period: {}, note: { deep: [{ er: null }] } },
      { game_id: "__proto__", status: 7 },
      { no: "name" }, [], "text", null, 3,
    ];
    const before = async (page) => {
      await page.route("**/events", (route) => route.fulfill(stream(...odd)));
      await page.route("**/games?*", listing(odd));
      await page.route("**/games/*", (route) => route.fulfill({ json: odd[route.request().url().endsWith("AAA-BBB") ? 0 : 1] }));
    };
    const { page, wrong, done } = await open("#/", { before });
    await page.waitForFunction(() => document.querySelectorAll("a.card").length === 3);
    await cardOf(page, "AAA-BBB").click();
    await page.locator(".others", { hasText: "rebounds" }).getByText("AAA 11, BBB 12").waitFor();
    await page.goto(`${origin}/#/game/shapeless`);
    await page.locator(".others", { hasText: "note" }).getByText("er null").waitFor();
    assert.deepEqual(wrong, []);
    await done();
  },

  async "at a thousand games, an update touches the card it is about and no other"() {
    const many = Array.from({ length: 1_000 }, (_, i) => output(`AW${i}-HO${i}`, { [`AW${i}`]: 1, [`HO${i}`]: 2 }));
    let asked = 0;
    let update = null;
    const before = async (page) => {
      await page.route("**/events", async (route) => {
        asked += 1;
        // The second connection is held until the cards are being watched.
        if (asked === 2) update = route;
        else if (asked === 1) await route.fulfill(stream(...many));
      });
      await page.route("**/games?*", listing(many));
    };
    const { page, wrong, done } = await open("#/", { before });
    await page.waitForFunction(() => document.querySelectorAll("a.card").length === 1_000);
    while (update === null) await new Promise((resolve) => setTimeout(resolve, 20));
    await page.evaluate(() => {
      globalThis.changed = new Set();
      new MutationObserver((records) => {
        for (const { target } of records) globalThis.changed.add((target instanceof Element ? target : target.parentElement)?.closest("a.card")?.dataset.id ?? "no card");
      }).observe(document.querySelector("main"), { subtree: true, childList: true, characterData: true, attributes: true });
    });
    many[500] = output("AW500-HO500", { AW500: 9, HO500: 2 });
    await update.fulfill(stream(many[500]));
    await pointsOf(page, "AW500-HO500").first().getByText("9", { exact: true }).waitFor();
    assert.deepEqual(await page.evaluate(() => [...globalThis.changed]), ["AW500-HO500"]);
    assert.deepEqual(wrong, []);
    await done();
  },

  async "a game deleted goes, and an empty host says what to type"() {
    const gone = { contentType: "text/event-stream", body: `retry: 50\n\nevent: deleted\ndata: {"game_id":"AAA-BBB"}\n\n` };
    let asked = 0;
    let listed = [output("AAA-BBB", { AAA: 1 })];
    const before = async (page) => {
      await page.route("**/events", async (route) => {
        asked += 1;
        if (asked === 1) return route.fulfill(stream(listed[0]));
        if (asked === 2) await page.locator("a.card").waitFor();
        listed = [];
        return route.fulfill(gone);
      });
      await page.route("**/games?*", (route) => listing(listed)(route));
    };
    const { page, wrong, done } = await open("#/", { before });
    await page.getByText("No game yet").waitFor();
    assert.equal(await page.locator("a.card").count(), 0);
    assert.ok((await page.locator(".empty code").first().textContent()).startsWith(`curl ${origin}/score`));
    await shoot(page, "empty");
    assert.deepEqual(wrong, []);
    await done();
  },

  async "a lost connection is told, and made again"() {
    let away = true;
    const before = (page) => page.route("**/events", (route) => (away ? route.fulfill({ status: 503, body: "" }) : route.continue()));
    const options = { viewport: { width: 360, height: 740 } };
    const { page, wrong, done } = await open("#/", { before, options, provoked: /503|MIME/ });
    await page.locator('#link[data-state="reconnecting"]').waitFor();
    const edge = await page.locator("#link").evaluate((link) => link.getBoundingClientRect().right);
    assert.ok(edge <= 360, `the connection's state ends at ${edge} of 360 pixels`);
    away = false;
    await page.locator('#link[data-state="live"]').waitFor();
    assert.deepEqual(wrong, []);
    await done();
  },

  async "nothing is wider than a phone of 360 pixels, and dark has its colours"() {
    const phone = { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true };
    for (const [name, hash, ready] of [["phone", "#/", "a.card"], ["phone-game", `#/game/${game}`, ".chart svg"], ["phone-operator", "#/operator", ".slot"]]) {
      const { page, wrong, done } = await open(hash, { options: phone });
      await page.locator(ready).first().waitFor();
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360, name);
      await shoot(page, name);
      assert.deepEqual(wrong, []);
      await done();
    }
    const ground = {};
    for (const colorScheme of ["light", "dark"]) {
      const { page, done } = await open("#/", { options: { colorScheme } });
      await page.locator("a.card").first().waitFor();
      ground[colorScheme] = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      if (colorScheme === "dark") await shoot(page, "dark");
      await done();
    }
    assert.notEqual(ground.light, ground.dark);
    // For looking at: of the games there are, the one with most in it.
    const { page, done } = await open();
    const games = (await (await fetch(`${origin}/games?limit=1000`)).json()).games;
    const fullest = games.reduce((most, each) => ((each.events ?? 0) > (most.events ?? 0) ? each : most), games[0]);
    await page.goto(`${origin}/#/game/${encodeURIComponent(fullest.game_id)}`);
    await page.locator("article.game .hero").waitFor();
    await shoot(page, "game", { fullPage: true });
    await done();
  },
};

let passed = 0;
let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    passed += 1;
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n${error.stack}\n`);
  }
}
await browser.close();
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
