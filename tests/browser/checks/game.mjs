// One game: its line score, its scorers, and how it went.

import assert from "node:assert/strict";
import { args, away, basket, game, getJson, home, listing, open, output, post, run, stream } from "../harness.mjs";
import { REAL, wholeGame } from "../whole-game.mjs";

/** What the chart must say, added up here: the difference after each event, and when. */
function courseOf(events) {
  let difference = 0;
  let [leadAway, leadHome] = [0, 0];
  for (const { team, points } of events) {
    difference += team === "BKN" ? points : team === "DAL" ? -points : 0;
    leadAway = Math.max(leadAway, -difference);
    leadHome = Math.max(leadHome, difference);
  }
  return { difference, leadAway, leadHome };
}

const words = (difference) => (difference === 0 ? "level" : `${difference > 0 ? "BKN" : "DAL"} ahead by ${Math.abs(difference)}`);

/** The lines of the log's answer about these events. */
const lines = (events) => events.map((event, offset) => `${JSON.stringify({ topic: "NBA-Games", partition: 0, offset, timestamp_ms: 0, key: event.game_id, headers: [], value: JSON.stringify(event) })}\n`).join("");

export default {
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
    // The chart is drawn a moment after the rest.
    await page.locator(`.chart svg[aria-label*="${away} ahead by ${before + 3}"]`).waitFor();
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

  async "a game played to half-time and to its end shows every basket of it, from the events in the log"() {
    const events = wholeGame(args.games);
    const half = events.findIndex(({ type, period }) => type === "period_end" && period === 2) + 1;
    const look = async (told, seen) => {
      const opened = await open(`#/game/${REAL}`);
      const { page } = opened;
      await page.locator(".hero .when").getByText(told, { exact: true }).waitFor();
      await page.getByText("Every basket, from the events in the log.").waitFor();
      const { difference, leadAway, leadHome } = courseOf(seen);
      assert.ok((await page.locator(".chart svg").getAttribute("aria-label")).endsWith(words(difference)));
      const leads = await page.locator(".leads dd").allTextContents();
      for (const [i, lead] of [leadAway, leadHome].entries()) assert.ok(leads[i].startsWith(`largest lead ${lead} (`), `${lead} in: ${leads[i]}`);
      return opened;
    };
    await post(events.slice(0, half));
    const { page, wrong, done } = await look("Halftime", events.slice(0, half));
    // The page that saw half-time goes on by itself.
    await post(events.slice(half));
    await page.locator(".hero .when").getByText("Final · OT", { exact: true }).waitFor();
    const game = await getJson(`games/${REAL}`);
    assert.deepEqual(await page.locator("table.line thead th").allTextContents(), ["Team", "1", "2", "3", "4", "OT", "T"]);
    for (const [row, team] of ["DAL", "BKN"].entries()) {
      const shown = await page.locator("table.line tbody tr").nth(row).locator("th,td").allTextContents();
      assert.deepEqual(shown, [team, ...game.by_period[team].map(String), String(game.points[team])]);
    }
    assert.deepEqual(wrong, []);
    await done();
    const end = await look("Final · OT", events);
    // Moving through it by keyboard says what the score was.
    const whole = end.page;
    await whole.locator(".scrub").focus();
    await whole.keyboard.press("Home");
    assert.equal(await whole.locator(".readout").textContent(), "Q1 12:00: level");
    await whole.keyboard.press("ArrowRight");
    const first = events.find(({ points }) => points > 0);
    assert.equal(await whole.locator(".readout").textContent(), `Q1 ${first.clock}: ${words(first.team === "BKN" ? first.points : -first.points)}`);
    assert.equal(await whole.locator(".scrub").getAttribute("aria-valuetext"), await whole.locator(".readout").textContent());
    assert.deepEqual(end.wrong, []);
    await end.done();
  },

  async "a chart says where it knows less: what the log no longer holds, does not add up to, or will not tell"() {
    const id = "2016-01-01-AAA-BBB";
    const points = [["AAA", 2, 1, "9:00"], ["BBB", 3, 1, "6:00"], ["AAA", 2, 2, "8:00"], ["BBB", 3, 2, "4:00"]];
    const events = points.map(([team, points, period, clock], i) => ({ game_id: id, seq: i + 1, type: "field_goal", team, player: "P", points, period, clock }));
    const review = (corrects, points) => ({ ...events[corrects - 1], seq: 5, corrects, points });
    for (const [answer, told, again, last = 4] of [
      [{ body: lines(events) }, "Every basket, from the events in the log.", false],
      // A review made a three of the first basket a two.
      [{ body: lines([...events.with(0, { ...events[0], points: 3 }), review(1, 2)]) }, "Every basket, from the events in the log.", false, 5],
      // A duplicate counts once, and so does a line that is no event.
      [{ body: `${lines([...events, events[1]])}{"value":"no JSON"}\n` }, "Every basket, from the events in the log.", false],
      [{ body: lines(events.slice(2)) }, "From Q2 8:00 on: the events in the log, which holds nothing older (dashed: the scores at the ends of periods).", false],
      [{ body: lines(events.with(1, { ...events[1], points: 2 })) }, "The rest is not known, because its events in the log do not add up to this score.", true],
      [{ body: "" }, "The rest is not known, because the log no longer holds its events.", true],
      [{ status: 403, json: {} }, "The rest is not known, because the log may not be read from here.", true],
    ]) {
      const shown = output(id, { AAA: 4, BBB: 6 }, { period: 2, clock: "4:00", last_seq: last, events: last, by_period: { AAA: [2, 2], BBB: [3, 3] } });
      const before = async (page) => {
        await page.route("**/events", (route) => route.fulfill(stream(shown)));
        await page.route("**/games?*", listing([shown]));
        await page.route(`**/games/${id}`, (route) => route.fulfill({ json: shown }));
        await page.route("**/pipelines/scores/events/**", (route) => route.fulfill({ contentType: "application/x-ndjson", ...answer }));
      };
      const { page, wrong, done } = await open(`#/game/${id}`, { before, provoked: /403/ });
      await page.locator(".how", { hasText: told }).waitFor();
      assert.equal(await page.getByRole("button", { name: "Ask again" }).isVisible(), again, told);
      assert.deepEqual(wrong, []);
      await done();
    }
  },

  async "where others read the log, the page asks again by itself"() {
    let asked = 0;
    const before = (page) => page.route("**/pipelines/scores/events/**", (route) => {
      asked += 1;
      return asked === 1 ? route.fulfill({ status: 429, headers: { "retry-after": "1" }, body: "" }) : route.continue();
    });
    const { page, wrong, done } = await open(`#/game/${REAL}`, { before, provoked: /429/ });
    await page.getByText("Asking the log for the rest…").waitFor();
    await page.getByText("Every basket, from the events in the log.").waitFor();
    assert.equal(asked, 2);
    assert.deepEqual(wrong, []);
    await done();
  },
};
