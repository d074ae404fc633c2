// The scoreboard: what is posted shows, as text, and nothing else is touched.

import assert from "node:assert/strict";
import { away, basket, cardOf, game, home, listing, open, origin, output, pointsOf, post, run, stream } from "../harness.mjs";

export default {
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
    // What is heard: the score, not its parts.
    await page.getByRole("link", { name: new RegExp(`${away} 2 +${home} 3`) }).waitFor();
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
    assert.equal(await cardOf(page, id).locator(".team .name").first().textContent(), image);
    await cardOf(page, id).click();
    await page.locator(".player").first().waitFor();
    assert.equal(await page.locator(".player").first().textContent(), script);
    assert.equal(await page.locator("main img, main script, main [onload], main [onerror]").count(), 0);
    assert.equal(await page.evaluate(() => globalThis.hit), undefined);
    // The address leads to the same game when it is opened by itself.
    await page.reload();
    await page.locator(".player").first().waitFor();
    assert.equal(new URL(page.url()).hash, `#/game/${encodeURIComponent(id)}`);
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
    assert.deepEqual(wrong, []);
    await done();
  },
};
