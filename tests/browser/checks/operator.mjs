// The operator's side.

import assert from "node:assert/strict";
import { copyFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { accessible, args, away, basket, game, getJson, home, open, origin, post, run } from "../harness.mjs";

/** Team names that only a plugin refuses, with all that a page might stumble over. */
const HOSTILE_TEAM = `<svg onload="hit=1">`;
const HOSTILE_PLAYER = `<img src=x onerror="globalThis.hit=1"><script>hit=1</script>\u202egnp.exe {{7*7}} ' " \u0000`;

const text = (locator) => locator.textContent();
const until = async (what, ask) => {
  for (let tries = 0; tries < 2_000; tries += 1) {
    const answer = await ask();
    if (answer) return answer;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`never: ${what}`);
};

export default {
  async "the operator's side shows each pipeline with its partitions, who has them, and its slots"() {
    await basket(away, 2);
    const { slots } = await getJson("plugins");
    const { groups } = await getJson("group");
    assert.ok(groups.length > 1, "the host has several pipelines");
    const { page, wrong, done } = await open("#/operator");
    await page.locator(".pipeline-link").first().waitFor();
    assert.deepEqual(await page.locator(".pipeline-name bdi").allTextContents(), groups.map(({ pipeline }) => pipeline));
    for (const group of groups) {
      await page.locator(".pipeline-link", { hasText: group.pipeline }).click();
      await page.getByRole("heading", { name: `Pipeline ${group.pipeline}` }).waitFor();
      const rows = page.locator(".partitions tbody tr");
      assert.equal(await rows.count(), group.partitions.length);
      const [member] = group.members;
      const host = await text(rows.nth(member.partitions[0]).locator(".host"));
      assert.ok(host.includes(member.host) && host.includes(member.member), host);
      const own = slots.filter(({ pipeline }) => pipeline === group.pipeline);
      assert.equal(await page.locator(".slot").count(), own.length);
      const shown = await text(page.locator(".slot").first());
      for (const part of [own[0].slot, own[0].state, own[0].plugin.name, own[0].plugin.version, own[0].plugin.digest.slice(0, 12), "256 MiB"]) {
        assert.ok(shown.includes(part), `${part} in: ${shown}`);
      }
    }
    assert.deepEqual(wrong, []);
    await done();
  },

  async "lag and events a second are plotted as they are seen, and kept while other views are looked at"() {
    const { page, wrong, done } = await open("#/operator/scores");
    const drawn = () => page.locator(".figure .plot-line").nth(1).getAttribute("d");
    await until("a line of two points", async () => /L/.test((await drawn()) ?? ""));
    await basket(home, 2);
    await page.waitForFunction(() => /at most [1-9]/.test(document.querySelectorAll(".figure")[1].textContent));
    const before = (await drawn()).match(/[ML]/g).length;
    await page.goto(`${origin}/#/`);
    await page.locator("a.card").first().waitFor();
    await page.goto(`${origin}/#/operator/scores`);
    await until("the same line, longer", async () => ((await drawn().catch(() => "")) ?? "").match(/[ML]/g)?.length > before);
    assert.deepEqual(wrong, []);
    await done();
  },

  async "a pipeline that is not there is told, with those that are"() {
    const { page, wrong, done } = await open("#/operator/no%20such%3Cb%3E");
    await page.getByText("This host has no pipeline no such<b>. It has ").waitFor();
    assert.deepEqual(wrong, []);
    await done();
  },

  async "dead letters are listed with their reasons, and a hostile payload is text"() {
    await post({ game_id: game, seq: 9_001, type: "field_goal", team: HOSTILE_TEAM, player: HOSTILE_PLAYER, points: 2, period: 1, clock: "9:00" });
    await until("a dead letter", async () => (await getJson(`dead-letters/scores?key=${game}`)).letters.length > 0);
    const { page, wrong, done } = await open("#/operator/scores");
    const letter = page.locator(".letter", { hasText: game }).first();
    await letter.waitFor();
    assert.ok((await text(letter)).includes(HOSTILE_TEAM), await text(letter));
    await letter.locator("summary").focus();
    await page.keyboard.press("Enter");
    await letter.locator(".payload").waitFor();
    const payload = await text(letter.locator(".payload"));
    assert.ok(payload.includes(`<img src=x onerror=\\"globalThis.hit=1\\"><script>hit=1</script>`), payload);
    // What would turn the text around is written out.
    assert.ok(payload.includes("\\u202egnp.exe"), payload);
    assert.equal(await letter.locator(".headers tr", { hasText: "courtside-error-code" }).locator("td").textContent(), "event-refused");
    assert.equal(await page.locator("main img, main script, main [onload], main [onerror]").count(), 0);
    assert.equal(await page.evaluate(() => globalThis.hit), undefined);
    // It stays open while the list is asked for again.
    await page.waitForResponse((answer) => answer.url().includes("dead-letters/scores?"));
    assert.equal(await letter.evaluate((node) => node.open), true);
    // Filters: a state it is not in, a key it has not.
    await page.getByLabel("State").selectOption("redriven");
    await page.getByText("No dead letter matches.").waitFor();
    await page.getByLabel("State").selectOption("open");
    await letter.waitFor();
    await page.getByLabel("Key").fill(`${game}-other`);
    await page.keyboard.press("Enter");
    await page.getByText("No dead letter matches.").waitFor();
    await page.getByLabel("Key").fill(game);
    await page.keyboard.press("Enter");
    await page.getByLabel("Show").selectOption("oldest");
    await letter.waitFor();
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
        { slot: "scores/keys/K", pipeline: "scores", key: "K", state: "active", since: at, takeover: {}, swaps: 2, trial_until: at, agreed: false,
          file: { state: "rolled-back", digest: "cd".repeat(32), code: "plugin-rolled-back", reason: "it was rolled back" },
          plugin: { name: "right", version: "1.0.0", digest: "ef".repeat(32), writes: "right/1", reads: ["right/1"], size_bytes: 1 },
          hosts: ["a", "b"].map((host) => ({ host, digest: "ef".repeat(32), state: "active", redoing: 0, at })),
          history: [] }] },
      })));
      await page.route("**/group", (route) => route.fulfill({
        json: { groups: [{ pipeline: "scores", group: "scores", input: "NBA-Games", members: [], lag: 7,
          partitions: [{ partition: 0, state: "stopped", code: "out-of-range", reason: "below the start", committed: null, end: 7, lag: 7, member: null }] }] },
      }));
    };
    const { page, wrong, done } = await open("#/operator", { before, provoked: /503/ });
    await page.getByText("was rejected: not-a-component: <b>a core module</b>").waitFor();
    await page.getByText("out-of-range: below the start").waitFor();
    await page.locator('.badge[data-state="active"]').first().waitFor();
    await page.locator(".slot > summary").nth(1).click();
    await page.getByText("The file in this host's directory is not the plugin that runs: cdcdcdcdcdcd was rolled back.").waitFor();
    await page.getByText("courtside plugins restore-file scores/keys/K").waitFor();
    await page.getByText("2, not all with the same plugin").waitFor();
    fail = true;
    await page.getByText("The host does not answer").waitFor();
    fail = false;
    await page.getByText("The host does not answer").waitFor({ state: "hidden" });
    assert.deepEqual(wrong, []);
    await done();
  },

  async "dead letters from the oldest on come page by page"() {
    const letter = (offset) => ({ partition: 0, offset, key: `K${offset}`, code: "event-refused", reason: "no", timestamp_ms: 0, origin: null, source: null, plugin: null, digest: null, state: "open", unfit: null });
    const asked = [];
    const before = (page) => page.route("**/dead-letters/scores?*", (route) => {
      const query = new URL(route.request().url()).searchParams;
      asked.push([query.get("from"), query.get("after")].filter(Boolean).join());
      // A page may be empty and have a next one.
      const [letters, next] = { newest: [[letter(9)], null], oldest: [[letter(1), letter(2)], "0:2"], "0:2": [[], "0:7"], "0:7": [[letter(8)], null] }[asked.at(-1)];
      return route.fulfill({ json: { pipeline: "scores", topic: "t", letters, next } });
    });
    const { page, wrong, done } = await open("#/operator/scores", { before });
    const keys = () => page.locator("bdi.letter-key").allTextContents();
    await page.getByText("K9", { exact: true }).waitFor();
    await page.getByLabel("Show").selectOption("oldest");
    await page.getByText("K2", { exact: true }).waitFor();
    assert.deepEqual(await keys(), ["K1", "K2"]);
    const more = page.getByRole("button", { name: "More" });
    await more.click();
    // It can be pressed again once the answer is there.
    await more.click();
    await page.getByText("K8", { exact: true }).waitFor();
    assert.deepEqual(await keys(), ["K1", "K2", "K8"]);
    await page.getByText("3 letters, all of them").waitFor();
    assert.equal(await more.isVisible(), false);
    assert.deepEqual(asked.filter((query) => query !== "newest"), ["oldest", "0:2", "0:7"]);
    assert.deepEqual(wrong, []);
    await done();
  },

  async "older letters that were not looked at are not passed over in silence"() {
    const before = (page) => page.route("**/dead-letters/scores?*", (route) => {
      const complete = new URL(route.request().url()).searchParams.get("from") === "oldest";
      return route.fulfill({ json: { pipeline: "scores", topic: "t", letters: [], next: null, complete } });
    });
    const { page, wrong, done } = await open("#/operator/scores", { before });
    await page.getByText("There are older ones: show them from the oldest.").waitFor();
    await page.getByLabel("Show").selectOption("oldest");
    await page.getByText("No dead letter: every event was processed.").waitFor();
    assert.deepEqual(wrong, []);
    await done();
  },

  async "a slot says what it may use, until when it is on trial, which hosts differ, and that a rollback is under way"() {
    const at = new Date().toISOString();
    const [old, now] = ["ab".repeat(32), "cd".repeat(32)];
    let redoing = 0;
    const slot = () => ({
      slot: "scores/keys/it's", pipeline: "scores", key: "it's", state: "active", since: at, takeover: {}, swaps: 2, agreed: false,
      trial_until: new Date(Date.now() + 600_000).toISOString(),
      limits: { memory_bytes_max: 64 << 20, call_cpu_time_max_ms: 1_500, emitted_bytes_max: 1024, checkpoint_bytes_max: 512 << 10, plugin_bytes_max: 1 << 20, entities_per_instance: 1 },
      plugin: { name: "right", version: "1.0.0", digest: now, writes: "right/1", reads: ["right/1"], size_bytes: 1 },
      hosts: [{ host: "one", digest: now, state: "active", redoing, at }, { host: "<b>two", digest: old, state: "active", redoing: 0, at }],
      history: [], swaps_of_group: [
        { kind: "swap", digest: old, plugin: "wrong@1", previous: null, attempt: 1, at, partitions: { 0: 0, 10: 5 } },
        { kind: "rollback", digest: now, plugin: "right@1.0.0", previous: old, attempt: 2, at, partitions: { 0: 12345, 2: 7 } },
      ],
    });
    const group = { pipeline: "scores", group: "g", input: "NBA-Games", members: [], lag: 0, partitions: [] };
    const before = async (page) => {
      await page.route("**/plugins", (route) => route.fulfill({ json: { slots: [slot()] } }));
      await page.route("**/group", (route) => route.fulfill({ json: { groups: [group] } }));
    };
    const { page, wrong, done } = await open("#/operator", { before });
    await page.locator(".slot > summary").click();
    await page.getByText(/On trial until \d\d:\d\d:\d\d \(10 min\)/).waitFor();
    await page.getByText("courtside plugins rollback 'scores/keys/it'\\''s'").waitFor();
    assert.deepEqual(await page.locator(".swaps thead th").allTextContents(), ["When", "Plugin", "How", "0", "2", "10"]);
    const rows = await page.locator(".swaps tbody tr").evaluateAll((rows) => rows.map((row) => [...row.children].slice(1).map((cell) => cell.textContent)));
    assert.deepEqual(rows, [[`right@1.0.0 ${now.slice(0, 12)}`, "rollback, attempt 2", "12,345", "7", "–"], [`wrong@1 ${old.slice(0, 12)}`, "swap", "0", "–", "5"]]);
    assert.equal(await page.locator(".swaps tr[data-runs]").count(), 1);
    assert.equal(await page.locator(".hosts tbody tr").count(), 2);
    await page.locator(".slot-body summary", { hasText: "Limits" }).click();
    for (const limit of ["64 MiB", "1,500 ms", "1 KiB"]) await page.getByText(limit, { exact: true }).waitFor();
    redoing = 3;
    await page.getByText("Rolling back: 3 partitions process the events since the swap again.").waitFor();
    await page.locator('.badge[data-state="rolling back"]').waitFor();
    assert.deepEqual(wrong, []);
    await done();
  },

  async "a swap is seen under way, and then with its offset in each partition"() {
    const { page, wrong, done } = await open("#/operator/scores");
    const slot = page.locator(".slot").first();
    await slot.locator(".swaps tbody tr").first().waitFor();
    const swaps = await slot.locator(".swaps tbody tr").count();
    const of = async () => (await getJson("plugins")).slots.find(({ slot }) => slot === "scores/default");
    // As an operator does it: whole, beside it, and renamed.
    const file = join(args.plugins, "scores", "default.wasm");
    copyFileSync(args.next, `${file}.new`);
    renameSync(`${file}.new`, file);
    const moment = await until("a swap under way", async () => {
      const answer = await getJson("plugins");
      return ["loading", "rehearsing"].includes(answer.slots.find(({ slot }) => slot === "scores/default").state) && answer;
    });
    // That moment is held for as long as it is looked at.
    await page.route("**/plugins", (route) => route.fulfill({ json: moment }));
    const { state, history } = moment.slots.find(({ slot }) => slot === "scores/default");
    const step = slot.locator(".steps li[aria-current]");
    await step.waitFor();
    assert.ok((await text(step)).startsWith(state), await text(step));
    assert.ok((await text(slot.locator(".steps"))).includes(history.at(-1).digest.slice(0, 12)));
    await accessible(page, "a swap under way");
    await page.unroute("**/plugins");
    const after = await until("the swap on record", async () => {
      const slot = await of();
      return slot.swaps_of_group.length > swaps && slot.trial_until !== null && slot;
    });
    await slot.locator(".swaps tbody tr").nth(swaps).waitFor();
    await slot.getByText(/On trial until/).waitFor();
    const last = after.swaps_of_group.at(-1);
    const cells = await slot.locator(".swaps tbody tr").first().locator("td").allTextContents();
    assert.deepEqual(cells.slice(2), Object.values(last.partitions).map((offset) => offset.toLocaleString("en")));
    assert.ok(cells[0].includes(last.digest.slice(0, 12)));
    assert.deepEqual(wrong, []);
    await done();
  },
};
