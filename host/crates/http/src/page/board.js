// All games as cards, live ones first. It is built once and kept, so that coming back
// finds it as it was left. A change touches the card it is about; the order is
// worked out again only where a game came, went, or moved to another section.

import { el, setText, setAttribute, show, keyed, mark, count, plural } from "./dom.js";
import { brief, leader } from "./model.js";

/** How many cards there are at most, and how many are added by "more". */
const CARDS = 1_000;
/** How many are built at a time: what fits on a screen first, and no frame waits for all. */
const CARDS_AT_ONCE = 80;
const SECTIONS = [["live", "Live"], ["scheduled", "Coming up"], ["final", "Final"], ["other", "Other"]];
const SAMPLE = '{"game_id":"LAL-BOS","seq":1,"type":"three_pointer","team":"LAL","player":"Kobe Bryant","points":3,"period":1,"clock":"11:42"}';

function sectionOf(game) {
  if (game.status === "scheduled" || game.status === "final") return game.status;
  return game.status === "live" ? "live" : "other";
}

export class BoardView {
  title = "Courtside";
  #store;
  #say;
  #words = [];
  #only = "all";
  #limit = CARDS;
  #built = CARDS_AT_ONCE;
  #building = 0;
  /** Where each game stands, drawn or not: what tells whether a change moves it. */
  #placed = new Map();
  #cards = new Map();
  #sections = new Map();
  #scroll = 0;
  #left = null;

  constructor(store, say) {
    this.#store = store;
    this.#say = say;
    this.search = el("input", { type: "search", id: "team", placeholder: "Team or game", autocomplete: "off", spellcheck: "false", "aria-keyshortcuts": "/" });
    this.search.addEventListener("input", () => this.#filter());
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") this.#focus(0, event);
    });
    this.tabs = new Map([["all", "All"], ["live", "Live"], ["final", "Final"]].map(([value, label]) => {
      const input = el("input", { type: "radio", name: "only", value, id: `only-${value}` });
      input.checked = value === "all";
      input.addEventListener("change", () => this.#filter());
      const total = el("span", { class: "total" }, "0");
      return [value, { input, total, node: el("label", { class: "chip" }, input, label, total) }];
    }));
    for (const [name, label] of SECTIONS) {
      const list = el("ul", { class: "cards", role: "list" });
      const node = el("section", { "aria-labelledby": `section-${name}` }, el("h2", { id: `section-${name}`, class: name }, label), list);
      this.#sections.set(name, { node, list });
    }
    this.more = el("button", { type: "button", class: "more" });
    this.more.addEventListener("click", () => {
      this.#limit += CARDS;
      this.#layout();
    });
    this.none = el("p", { class: "note" }, "No game matches.");
    this.empty = emptyNote();
    this.wait = el("p", { class: "note" }, "Asking the host for its games…");
    this.bar = el("div", { class: "bar", role: "search" },
      el("label", { for: "team", class: "unseen" }, "Filter by team"), this.search,
      el("fieldset", { class: "chips" }, el("legend", { class: "unseen" }, "Show"), ...[...this.tabs.values()].map((tab) => tab.node)));
    this.node = el("div", { class: "board" },
      el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "Games"), this.bar),
      this.wait, this.empty, this.none, ...[...this.#sections.values()].map((section) => section.node), this.more);
    this.node.addEventListener("keydown", (event) => this.#arrows(event));
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
      if (!this.node.isConnected || event.target instanceof HTMLInputElement) return;
      event.preventDefault();
      this.search.focus();
    });
  }

  open() {
    this.#store.follow();
    this.#layout();
    scrollTo(0, this.#scroll);
    if (this.#left !== null) this.#cards.get(this.#left)?.link.focus({ preventScroll: true });
    this.#left = null;
  }

  /** Notes where the reader was. */
  close() {
    this.#scroll = scrollY;
    this.#left = document.activeElement?.closest?.("a.card")?.dataset.id ?? null;
  }

  update(ids) {
    let moved = ids.has(null);
    for (const id of ids) {
      if (id === null) continue;
      const game = this.#store.games.get(id);
      if (this.#placed.get(id) !== this.#place(game)) moved = true;
      else if (game) this.#cards.get(id)?.update(game);
    }
    if (moved) this.#layout();
  }

  #place(game) {
    if (!game) return undefined;
    const section = sectionOf(game);
    const shown = (this.#only === "all" || this.#only === section) && this.#words.every((word) => game.search.includes(word));
    return shown ? section : `hidden ${section}`;
  }

  #filter() {
    this.#words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    this.#only = [...this.tabs].find(([, tab]) => tab.input.checked)?.[0] ?? "all";
    this.#limit = CARDS;
    this.#built = CARDS_AT_ONCE;
    const shown = this.#layout();
    this.#say(`${plural(shown, "game")} shown`);
  }

  /** Puts every card where it belongs; returns how many games match. */
  #layout() {
    const games = [...this.#store.games.values()].sort((a, b) => (a.date !== b.date ? (a.date < b.date ? 1 : -1) : a.id < b.id ? -1 : 1));
    const totals = { all: games.length, live: 0, final: 0 };
    const lists = new Map(SECTIONS.map(([name]) => [name, []]));
    this.#placed = new Map();
    for (const game of games) {
      const place = this.#place(game);
      this.#placed.set(game.id, place);
      const section = sectionOf(game);
      if (section in totals) totals[section] += 1;
      lists.get(place)?.push(game);
    }
    const focused = this.node.contains(document.activeElement) ? document.activeElement.dataset.id : undefined;
    this.#cards = new Map();
    let build = Math.min(this.#built, this.#limit);
    let shown = 0;
    for (const [name, { node, list }] of this.#sections) {
      const all = lists.get(name);
      const drawn = all.slice(0, build);
      build -= drawn.length;
      shown += all.length;
      for (const [id, card] of keyed(list, drawn, (game) => game.id, createCard)) this.#cards.set(id, card);
      show(node, drawn.length > 0);
    }
    // A card that moved to another section is a new one; whoever was on it stays on it.
    if (focused !== undefined && document.activeElement?.dataset.id !== focused) {
      (this.#cards.get(focused)?.link ?? this.search).focus({ preventScroll: true });
    }
    for (const [name, tab] of this.tabs) setText(tab.total, count(totals[name]));
    if (this.#cards.size < Math.min(shown, this.#limit)) this.#goOn();
    const rest = shown - this.#limit;
    show(this.more, rest > 0);
    setText(this.more, `Show ${count(Math.min(rest, CARDS))} more of ${count(rest)}`);
    show(this.bar, games.length > 0);
    show(this.wait, games.length === 0 && !this.#store.known);
    show(this.empty, games.length === 0 && this.#store.known);
    show(this.none, games.length > 0 && shown === 0);
    return shown;
  }

  /** Builds the next cards when the browser has drawn the ones before. */
  #goOn() {
    if (this.#building !== 0) return;
    this.#building = requestAnimationFrame(() => setTimeout(() => {
      this.#building = 0;
      this.#built += CARDS_AT_ONCE;
      this.#layout();
    }));
  }

  /** Arrow keys walk the cards as they lie: tabbing through a thousand is no way to get there. */
  #arrows(event) {
    const card = event.target.closest?.("a.card");
    if (!card || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const links = [...this.#cards.values()].map((view) => view.link);
    const at = links.indexOf(card);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) return this.#focus(at + step, event);
    if (event.key === "Home") return this.#focus(0, event);
    if (event.key === "End") return this.#focus(links.length - 1, event);
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const down = event.key === "ArrowDown" ? 1 : -1;
    const here = card.getBoundingClientRect();
    // The nearest of the next row that is not level with this card.
    let best = -1;
    let row = null;
    for (let i = at + down; i >= 0 && i < links.length; i += down) {
      const there = links[i].getBoundingClientRect();
      if (Math.abs(there.top - here.top) < 2) continue;
      row ??= there.top;
      if (Math.abs(there.top - row) > 2) break;
      if (best < 0 || Math.abs(there.left - here.left) < Math.abs(links[best].getBoundingClientRect().left - here.left)) best = i;
    }
    if (best >= 0) this.#focus(best, event);
    else if (down < 0) this.search.focus();
  }

  #focus(at, event) {
    const card = [...this.#cards.values()][at];
    if (!card) return;
    event.preventDefault();
    card.link.focus();
  }
}

// The spaces between parts show nowhere, and are heard: a link is called by its text.
function createCard(first) {
  const when = el("span", { class: "when" });
  const date = el("span", { class: "date" });
  const rows = el("span", { class: "rows" });
  const also = el("span", { class: "also" });
  const link = el("a", { class: "card", "data-id": first.id, href: `#/game/${encodeURIComponent(first.id)}` },
    el("span", { class: "card-top" }, when, " ", date), " ", rows, " ", also);
  const node = el("li", {}, link);
  let drawn = null;
  let names = null;
  let teams = [];
  return {
    node,
    link,
    update(game) {
      if (drawn === game) return;
      const key = JSON.stringify(game.teams.map((team) => team.name));
      if (names !== key) {
        names = key;
        teams = game.teams.map((team) => createTeam(team.name));
        rows.replaceChildren(...teams.flatMap((team) => [team.node, " "]));
      }
      setAttribute(link, "data-status", sectionOf(game));
      setText(when, game.when);
      setText(date, game.teams.length === 0 ? game.id : game.date);
      const ahead = leader(game);
      game.teams.forEach((team, i) => teams[i].update(team, game, i === ahead, drawn !== null));
      setText(also, game.teams.some((team) => team.points !== undefined) ? ""
        : game.also.slice(0, 4).map(([field, value]) => `${field}: ${brief(value, 80)}`).join("\n"));
      drawn = game;
    },
  };
}

function createTeam(name) {
  // Who listens hears the score; its parts are a look away.
  const periods = el("span", { class: "periods", "aria-hidden": "true" });
  const points = el("span", { class: "points" });
  const node = el("span", { class: "team" }, el("bdi", { class: "name" }, name), " ", periods, points);
  return {
    node,
    update(team, game, ahead, again) {
      // Figure spaces keep the columns of the two lines under each other.
      const line = game.period === 0 ? [] : Array.from({ length: game.period }, (_, i) => team.periods[i] ?? 0);
      setText(periods, line.slice(-6).map((n) => String(n).padStart(2, "\u2007")).join("\u2002"));
      const text = team.points === undefined ? "" : String(team.points);
      if (again && points.textContent !== text) mark(points);
      setText(points, text);
      setAttribute(node, "data-ahead", ahead ? "" : null);
    },
  };
}

function emptyNote() {
  // Quotes that a shell understands, and the address this page was reached at.
  const command = `curl ${location.origin}/score -H 'content-type: application/json' \\\n  -d '${SAMPLE}'`;
  const copy = el("button", { type: "button" }, "Copy");
  show(copy, Boolean(navigator.clipboard)); // Only where the browser holds the page for secure.
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command);
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Copy by hand, please";
    }
  });
  return el("div", { class: "empty" },
    el("h2", {}, "No game yet"),
    el("p", {}, "A game shows here with its first event. Send one:"),
    el("div", { class: "code" }, el("pre", {}, el("code", {}, command)), copy),
    el("p", {}, "Or let Courtside invent ten:"),
    el("div", { class: "code" }, el("pre", {}, el("code", {}, `courtside play --simulate 10 --seed 1 --url ${location.origin}`))),
    el("p", {}, "Sent one, and still nothing here? ", el("a", { href: "#/operator" }, "Operator"), " says whether a plugin runs and how far it is."));
}
