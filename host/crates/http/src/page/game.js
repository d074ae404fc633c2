// One game: the score, the line score, the score difference, the scorers, and whatever else the plugin says.

import { el, setText, setAttribute, show, keyed, cells, mark, count } from "./dom.js";
import { brief, leader, momentAt, periodName } from "./model.js";
import { Chart, leads, periodEnds, standing } from "./chart.js";
import { readCourse } from "./course.js";

const SCORERS = 12;
/** After so many events at once (the stream was away), the log is asked for what lies between. */
const MISSED_EVENTS = 20;
const COURSE_MS_MIN = 30_000;
/** A chart is drawn anew no more often than anybody could read it. */
const CHART_MS_MIN = 250;

export class GameView {
  #store;
  #id;
  #say;
  #drawn = null;
  #missing = false;
  #failed = "";
  #closed = new AbortController();
  /** How the game went by the log: see course.js; null while it is being asked for. */
  #course = null;
  #askedAt = -Infinity;
  #chartAt = -Infinity;
  #charting = 0;
  #resized = new ResizeObserver(() => this.#chart());

  constructor(store, id, say) {
    this.#store = store;
    this.#id = id;
    this.#say = say;
    this.title = `${id} · Courtside`;
    this.h1 = el("h1", { tabindex: "-1" }, id);
    this.date = el("span", { class: "date" });
    this.note = el("p", { class: "note" }, "Asking the host for this game…");
    this.when = el("p", { class: "when" });
    this.sides = ["away", "home"].map((side) => {
      const name = el("bdi", { class: "name" });
      const points = el("span", { class: "digits" });
      return { name, points, node: el("p", { class: `side ${side}` }, el("span", { class: "who" }, name, el("span", { class: "where" }, side)), points) };
    });
    this.hero = el("div", { class: "hero" }, this.sides[0].node, this.when, this.sides[1].node);
    this.columns = el("tr", {});
    this.lines = el("tbody", {});
    this.line = el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Score by period" },
      el("table", { class: "line" }, el("caption", { class: "unseen" }, "Score by period"), el("thead", {}, this.columns), this.lines));
    this.chart = new Chart();
    this.how = el("p", { class: "small" });
    this.again = el("button", { type: "button", class: "quiet" }, "Ask again");
    this.again.addEventListener("click", () => this.#ask());
    this.leads = el("dl", { class: "leads" });
    this.difference = el("section", { class: "panel" },
      el("div", { class: "panel-head" }, el("h2", {}, "Score difference"), this.chart.readout),
      this.chart.node, el("div", { class: "how" }, this.how, this.again), this.leads);
    this.leaders = el("div", { class: "leaders" });
    this.scorers = el("section", {}, el("h2", {}, "Leading scorers"), this.leaders);
    this.facts = el("dl", { class: "facts" });
    this.others = el("dl", { class: "others" });
    this.also = el("section", { class: "panel" }, el("h2", {}, "Also"), this.others);
    this.body = el("div", { class: "game-body" }, this.hero, this.line, this.difference, this.scorers, this.also, this.facts);
    show(this.body, false);
    this.node = el("article", { class: "game" },
      el("div", { class: "head" }, el("a", { class: "back", href: "#/" }, "← All games"), el("div", {}, this.h1, this.date)),
      this.note, this.body);
  }

  async open() {
    scrollTo(0, 0);
    this.#resized.observe(this.chart.frame);
    // The stream of one game is enough; where the game is not there yet, its first event comes in that of all.
    try {
      this.#missing = !(await this.#store.load(this.#id));
    } catch (error) {
      this.#failed = error.message;
    }
    if (this.#closed.signal.aborted) return;
    this.#store.follow(this.#missing || this.#failed ? null : this.#id);
    this.update(new Set([this.#id]));
  }

  close() {
    this.#closed.abort();
    this.#resized.disconnect();
  }

  update(ids) {
    const game = this.#store.games.get(this.#id);
    if (!game) {
      show(this.body, false);
      show(this.note, true);
      if (this.#drawn) setText(this.note, "This game was deleted.");
      else if (this.#missing) setText(this.note, "The host has no game of this name. It shows here with its first event.");
      else if (this.#failed) setText(this.note, `The host cannot show this game now: ${this.#failed}.`);
      return;
    }
    if (game === this.#drawn && !ids.has(null)) return;
    show(this.note, false);
    show(this.body, true);
    const before = this.#drawn;
    this.#drawn = game;
    const missed = before && (game.events ?? 0) - (before.events ?? 0) > MISSED_EVENTS;
    if (before === null || (missed && performance.now() - this.#askedAt > COURSE_MS_MIN)) this.#ask();
    this.#tell(before, game);
    this.#head(before, game);
    this.#line(game);
    this.#charting ||= setTimeout(() => this.#chart(), this.#chartAt + CHART_MS_MIN - performance.now());
    this.#scorers(game);
    this.#rest(game);
  }

  /** Says aloud what a listener would want to know at once; not every basket. */
  #tell(before, game) {
    if (!before || before === game || game.teams.length < 2) return;
    const score = game.teams.slice(0, 2).map((team) => `${team.name} ${team.points ?? ""}`).join(", ");
    const over = game.status === "final" && before.status !== "final";
    const taken = leader(game) !== leader(before) && leader(game) >= 0;
    if (over || game.period !== before.period || (game.when !== before.when && /^(Half|End)/.test(game.when))) this.#say(`${game.when}. ${score}`);
    else if (taken) this.#say(`${standing(game.teams[0], game.teams[1], game.difference)}. ${score}`);
  }

  #head(before, game) {
    const [away, home] = game.teams;
    setText(this.h1, game.title);
    setText(this.date, game.title === game.id ? "" : game.date || game.id);
    document.title = home && game.difference !== null ? `${away.name} ${away.points}–${home.points} ${home.name} · ${game.when}` : `${game.id} · Courtside`;
    setAttribute(this.hero, "data-status", game.status);
    setText(this.when, game.when);
    const ahead = leader(game);
    this.sides.forEach(({ node, name, points }, i) => {
      const team = game.teams[i];
      show(node, Boolean(team));
      if (!team) return;
      setAttribute(node, "data-ahead", i === ahead ? "" : null);
      setText(name, team.name);
      const text = team.points === undefined ? "" : String(team.points);
      if (before && points.textContent !== text) mark(points);
      setText(points, text);
    });
  }

  #line(game) {
    const numbers = Array.from({ length: game.periods }, (_, i) => i + 1);
    show(this.line, game.teams.length > 0);
    cells(this.columns, ["Team", ...numbers.map((n) => periodName(n).replace("Q", "")), "T"], (at) => el("th", { scope: "col", class: at === 0 ? "name" : null }));
    const rows = game.teams.map((team) => ({ name: team.name, texts: [
      team.name,
      ...numbers.map((n) => String(team.periods[n - 1] ?? (n <= game.period && team.points !== undefined ? 0 : "–"))),
      String(team.points ?? "–"),
    ] }));
    keyed(this.lines, rows, (row) => row.name, () => {
      const node = el("tr", {});
      return { node, update: ({ texts }) => cells(node, texts, (at) => (at === 0 ? el("th", { scope: "row", class: "name" }) : el("td", {}))) };
    });
  }

  /** Asks the log how the game went; until it has answered, and where it does not, the chart has less. */
  async #ask() {
    const game = this.#drawn;
    const known = this.#store.courses.get(this.#id);
    this.#askedAt = performance.now();
    this.#course = known?.until === game.lastSeq ? known : null;
    this.#chart();
    if (this.#course !== null || game.difference === null) return;
    try {
      this.#course = await readCourse(game, this.#closed.signal);
    } catch {
      return; // The view was left.
    }
    if (this.#course.points) this.#store.keepCourse(this.#id, this.#course);
    this.#chart();
  }

  #chart() {
    const game = this.#drawn;
    clearTimeout(this.#charting);
    this.#charting = 0;
    if (!game || this.#closed.signal.aborted) return;
    this.#chartAt = performance.now();
    const seen = this.#store.trails.get(game.id) ?? [];
    show(this.difference, game.difference !== null && game.elapsed !== null && seen.length > 0);
    if (this.difference.hidden) return;
    // A game that was begun again has left its course behind.
    const course = this.#course?.points && this.#course.until <= game.lastSeq ? this.#course : null;
    const since = course ? seen.filter(([at, , seq]) => seq > course.until && at >= course.points.at(-1)[0]) : seen;
    const line = course ? [...course.points, ...since] : since;
    const dashed = line[0][0] > 0 ? [...periodEnds(game, line[0][0]), line[0]] : [];
    this.chart.draw(game, { dashed, line });
    setText(this.how, this.#words(course, since, dashed));
    show(this.again, Boolean(this.#course?.refused) && dashed.length > 0);
    const found = dashed.length === 0 ? leads(line) : null;
    keyed(this.leads, found === null ? [] : [["away", game.teams[0]], ["home", game.teams[1]]].map(([side, team]) => ({ side, name: team.name, ...found[side] })), ({ side }) => side, createLead);
  }

  /** What of the chart is known how. */
  #words(course, since, dashed) {
    if (course) {
      const from = course.from > 0 ? `From ${momentAt(course.from)} on: the events in the log, which holds nothing older (dashed: the scores at the ends of periods)` : "Every basket, from the events in the log";
      return since.length > 1 ? `${from}; since ${momentAt(course.points.at(-1)[0])} from the updates.` : `${from}.`;
    }
    const why = this.#course === null ? "Asking the log for the rest…" : `The rest is not known, because ${this.#course.refused}.`;
    if (dashed.length === 0) return "From the updates, since the start of the game.";
    return since.length > 1 ? `Dashed: the scores at the ends of periods. Solid: the updates since you opened this page. ${why}` : `Dashed: the scores at the ends of periods. ${why}`;
  }

  #scorers(game) {
    const best = Math.max(1, ...game.teams.flatMap((team) => team.players.slice(0, 1).map(([, points]) => points)));
    const scoring = game.teams.map(({ name, players }, i) => ({
      name,
      side: ["away", "home"][i] ?? "",
      // The bar behind a name is measured against the best scorer of both teams.
      scorers: players.slice(0, SCORERS).map(([player, points]) => ({ player, points, share: Math.max(0, points) / best })),
      rest: players.length - SCORERS,
    })).filter((team) => team.scorers.length > 0);
    show(this.scorers, scoring.length > 0);
    keyed(this.leaders, scoring, (team) => team.name, createScorers);
  }

  #rest(game) {
    show(this.also, game.also.length > 0);
    keyed(this.others, game.also, ([field]) => field, ([field]) => {
      const value = el("dd", {});
      return {
        node: el("div", {}, el("dt", {}, field.replaceAll("_", " ")), value),
        update: ([, now]) => cells(value, lines(now), () => el("p", {})),
      };
    });
    const facts = [["Lead changes", game.leadChanges], ["Events", game.events], ["Duplicates", game.duplicates], ["Gaps", game.gaps], ["Last seq", game.lastSeq]];
    keyed(this.facts, facts.filter(([, value]) => value !== undefined), ([name]) => name, ([name]) => {
      const value = el("dd", {});
      return { node: el("div", {}, el("dt", {}, name), value), update: ([, now]) => setText(value, count(now)) };
    });
  }
}

function createLead({ side }) {
  const name = el("dt", { class: side });
  const most = el("dd", {});
  const node = el("div", {}, name, most);
  return {
    node,
    update({ name: team, lead, at, seconds }) {
      setText(name, team);
      const time = `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
      setText(most, lead === 0 ? "never ahead" : `largest lead ${lead} (${momentAt(at)}), ahead for ${time}`);
    },
  };
}

function createScorers(first) {
  const list = el("ol", { role: "list" });
  const more = el("p", { class: "small" });
  const node = el("section", { class: "panel" }, el("h3", {}, el("bdi", {}, first.name)), list, more);
  return {
    node,
    update({ side, scorers, rest }) {
      setAttribute(node, "data-side", side);
      keyed(list, scorers, (scorer) => scorer.player, createScorer);
      setText(more, rest > 0 ? `and ${count(rest)} more` : "");
    },
  };
}

function createScorer(first) {
  const points = el("span", { class: "points" });
  const node = el("li", {}, el("bdi", { class: "player" }, first.player), points);
  return {
    node,
    update(scorer) {
      setText(points, String(scorer.points));
      node.style.setProperty("--share", `${100 * scorer.share}%`);
    },
  };
}

/** A field that this page knows nothing of: a line for each member, or one line. */
function lines(value) {
  const nested = typeof value === "object" && value !== null && Object.values(value).some((inner) => typeof inner === "object" && inner !== null);
  if (!nested || Array.isArray(value)) return [brief(value)];
  return Object.entries(value).slice(0, 20).map(([key, inner]) => `${key}: ${brief(inner)}`);
}
