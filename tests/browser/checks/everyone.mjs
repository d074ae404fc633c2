// For whoever looks: by keyboard, on a phone, in the dark, by ear, and while the host is away.

import assert from "node:assert/strict";
import { PHONE, accessible, cardOf, game, home, listing, open, output, stream } from "../harness.mjs";

export default {
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

  async "a list that the host had no time for is asked for again, while the stream goes on"() {
    const late = output("LATE-LIST", { LATE: 1 });
    let asked = 0;
    const { page, wrong, done } = await open("#/", { before: (page) => page.route("**/games?*", async (route) => {
      asked += 1;
      if (asked > 1) return listing([late])(route);
      await page.locator('#link[data-state="live"]').waitFor();
      return route.fulfill({ status: 503, body: "" });
    }), provoked: /503/ });
    await cardOf(page, "LATE-LIST").waitFor();
    assert.equal(await page.locator("#link").getAttribute("data-state"), "live");
    assert.deepEqual(wrong, []);
    await done();
  },

  async "a connection on which nothing comes any more is given up"() {
    let streams = 0;
    const { page, wrong, done } = await open("#/", { before: async (page) => {
      await page.clock.install();
      await page.route("**/games?*", listing([output("AAA-BBB", { AAA: 1 })]));
      // The first one is never answered.
      await page.route("**/events", (route) => ((streams += 1) > 1 ? route.continue() : undefined));
    } });
    await page.locator("a.card").first().waitFor();
    assert.equal(await page.locator("#link").getAttribute("data-state"), "connecting");
    await page.clock.fastForward(61_000);
    await page.locator('#link[data-state="live"]').waitFor();
    assert.equal(streams, 2);
    assert.deepEqual(wrong, []);
    await done();
  },

  async "the operator's side that does not come is told, and fetched again by a button"() {
    const { page, wrong, done } = await open("#/", { provoked: /ERR_FAILED/ });
    await page.route("**/operator/view.js", (route) => route.abort(), { times: 1 });
    await page.locator("#to-operator").click();
    await page.getByText("The host did not send this part of the page.").waitFor();
    await accessible(page, "without the operator's side");
    await page.getByRole("button", { name: "Try again" }).click();
    await page.locator(".pipeline-link").first().waitFor();
    assert.deepEqual(wrong, []);
    await done();
  },

  async "the operator's side is walked by keyboard alone, and focus is always seen"() {
    const { page, wrong, done } = await open("#/operator/scores");
    await page.locator(".letter").first().waitFor();
    const walked = [];
    for (let steps = 0; steps < 60; steps += 1) {
      await page.keyboard.press("Tab");
      const at = await page.evaluate(() => {
        const node = document.activeElement;
        if (node === document.body) return null;
        const outline = getComputedStyle(node);
        return { name: node.id || node.className || node.textContent.trim(), seen: outline.outlineStyle !== "none" && Number.parseFloat(outline.outlineWidth) > 0, tag: node.tagName, section: node.closest("section")?.getAttribute("aria-labelledby") };
      });
      if (at === null) break;
      assert.ok(at.seen, `focus is not seen on ${at.tag} ${at.name}`);
      walked.push(at);
    }
    const order = walked.map(({ section }) => section).filter(Boolean);
    assert.deepEqual([...new Set(order)], ["h-pipeline", "h-slots", "h-letters"]);
    for (const name of ["skip", "to-board", "to-operator", "letter-key", "letter-state", "letter-order"]) assert.ok(walked.some((at) => at.name === name), name);
    assert.ok(walked.some(({ tag, section }) => tag === "SUMMARY" && section === "h-letters"), "a letter is reached");
    assert.deepEqual(wrong, []);
    await done();
  },

  async "a connection that is away is told where the scores are, and since when"() {
    let away = false;
    const before = (page) => page.route("**/events", (route) => (away ? route.fulfill({ status: 503, body: "" }) : route.fulfill(stream(output("AAA-BBB", { AAA: 1 })))));
    const { page, wrong, done } = await open("#/", { before: async (page) => {
      await before(page);
      await page.route("**/games?*", listing([output("AAA-BBB", { AAA: 1 })]));
    }, provoked: /503|MIME/ });
    await page.locator("a.card").waitFor();
    away = true;
    await page.getByText(/^No connection to the host since \d\d:\d\d:\d\d: the scores are from that time/).waitFor();
    await accessible(page, "while the host is away");
    assert.deepEqual(wrong, []);
    await done();
  },

  async "axe-core finds nothing on any view, in light and dark"() {
    for (const colorScheme of ["light", "dark"]) {
      for (const [name, hash, ready] of [
        ["scoreboard", "#/", "a.card"], ["game", `#/game/${game}`, ".chart svg"], ["waiting", "#/game/none", ".note"],
        ["operator", "#/operator/scores", ".letter"], ["unknown", "#/operator/none", ".pipeline-link"],
      ]) {
        const { page, wrong, done } = await open(hash, { options: { colorScheme }, provoked: /404/ });
        await page.locator(ready).first().waitFor();
        if (name === "operator") {
          await page.locator(".letter summary").first().click();
          await page.locator(".payload").waitFor();
          for (const summary of await page.locator(".slot-body summary").all()) await summary.click();
        }
        await accessible(page, `${name}, ${colorScheme}`);
        assert.deepEqual(wrong, []);
        await done();
      }
      const empty = async (page) => {
        await page.route("**/events", (route) => route.fulfill(stream()));
        await page.route("**/games?*", listing([]));
      };
      const { page, wrong, done } = await open("#/", { before: empty, options: { colorScheme } });
      await page.getByText("No game yet").waitFor();
      await accessible(page, `empty, ${colorScheme}`);
      assert.deepEqual(wrong, []);
      await done();
    }
  },

  async "nothing is wider than a phone of 360 pixels, and dark has its colours"() {
    for (const [name, hash, ready] of [["phone", "#/", "a.card"], ["phone-game", `#/game/${game}`, ".chart svg"], ["phone-operator", "#/operator/scores", ".letter"]]) {
      const { page, wrong, done } = await open(hash, { options: PHONE });
      await page.locator(ready).first().waitFor();
      if (name === "phone-operator") {
        await page.locator(".letter summary").first().tap();
        await page.locator(".payload").waitFor();
      }
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360, name);
      await accessible(page, name);
      assert.deepEqual(wrong, []);
      await done();
    }
    const ground = {};
    for (const colorScheme of ["light", "dark"]) {
      const { page, done } = await open("#/", { options: { colorScheme } });
      await page.locator("a.card").first().waitFor();
      ground[colorScheme] = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      await done();
    }
    assert.notEqual(ground.light, ground.dark);
  },
};
