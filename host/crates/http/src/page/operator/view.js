// The operator's side: pipelines, their partitions, slots and dead letters. The host has no
// stream for these; they are asked for again and again while they are shown.

import { el, setText, setAttribute, show, keyed, count, getJson } from "../dom.js";
import { Figures } from "./figures.js";
import { Letters } from "./letters.js";
import { PipelinePanel } from "./pipeline.js";
import { createPlot } from "./plot.js";
import { createSlot, isChanging, stateOf } from "./slot.js";
import { clock, failure } from "./words.js";

const POLL_MS = 1_500;
/** While a plugin is being put in force. */
const POLL_MS_MIN = 500;
const TIMEOUT_MS = 10_000;

/** Kept from one look to the next: what the plots show is what this page has seen. */
const figures = new Figures();

export class OperatorView {
  title = "Operator · Courtside";
  #say;
  #pipeline;
  #timer = 0;
  #closed = new AbortController();
  #states = new Map();
  #seen = 0;
  #broken = "";

  /** Of the pipeline named, or of the one that the scoreboard shows, or the first. */
  constructor(pipeline, say) {
    this.#pipeline = pipeline;
    this.#say = say;
    this.as = el("p", { class: "small" });
    this.fault = el("p", { class: "note bad", role: "alert" });
    show(this.fault, false);
    this.wait = el("p", { class: "note" }, "Asking the host…");
    this.unknown = el("p", { class: "note" });
    show(this.unknown, false);
    this.pipelines = el("ul", { class: "pipelines", role: "list" });
    this.nav = el("nav", { "aria-label": "Pipelines" }, this.pipelines);
    this.panel = new PipelinePanel();
    this.slots = el("div", { class: "slots" });
    this.none = el("p", { class: "note" });
    this.letters = new Letters(this.#closed.signal);
    this.body = el("div", { class: "operator-body" }, this.panel.node,
      el("section", { "aria-labelledby": "h-slots" }, el("h2", { id: "h-slots" }, "Slots"), this.none, this.slots),
      this.letters.node);
    show(this.body, false);
    this.node = el("div", { class: "operator" },
      el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "Operator"), this.as), this.fault, this.wait, this.nav, this.unknown, this.body);
  }

  open() {
    scrollTo(0, 0);
    this.#poll();
  }

  close() {
    this.#closed.abort();
    clearTimeout(this.#timer);
  }

  update() {}

  async #poll() {
    const closed = this.#closed.signal;
    let changing = false;
    if (!document.hidden) {
      try {
        const within = AbortSignal.any([closed, AbortSignal.timeout(TIMEOUT_MS)]);
        const [plugins, groups] = await Promise.all([getJson("plugins", within), getJson("group", within)]);
        figures.note(groups?.groups ?? [], performance.now());
        changing = this.#draw(plugins?.slots ?? [], groups?.groups ?? []);
        this.#seen = Date.now();
        this.#fail("");
      } catch (error) {
        if (!closed.aborted) this.#fail(failure(error));
      }
    }
    if (!closed.aborted) this.#timer = setTimeout(() => this.#poll(), changing ? POLL_MS_MIN : POLL_MS);
  }

  #fail(text) {
    const old = text !== "" && this.#seen > 0;
    setText(this.as, this.#seen === 0 ? "" : `as of ${clock(this.#seen)}`);
    setAttribute(this.node, "data-stale", old ? "" : null);
    if (this.#broken === text) return;
    this.#broken = text;
    show(this.fault, text !== "");
    show(this.wait, this.#seen === 0 && text === "");
    setText(this.fault, `${text}${old ? ` The page shows the state as of ${clock(this.#seen)}.` : ""}`);
  }

  /** Returns whether something is under way that is worth looking at often. */
  #draw(slots, groups) {
    const names = [...new Set([...groups, ...slots].map(({ pipeline }) => pipeline))];
    const name = this.#pipeline ?? (names.includes("scores") ? "scores" : names[0]);
    show(this.wait, false);
    show(this.nav, names.length > 1);
    const groupOf = (name) => groups.find((group) => group.pipeline === name);
    keyed(this.pipelines, names.length > 1 ? names.map((each) => ({
      name: each, isCurrent: each === name, group: groupOf(each), slots: slots.filter((slot) => slot.pipeline === each),
    })) : [], (item) => item.name, createPipelineLink);

    const known = names.includes(name);
    show(this.unknown, !known);
    setText(this.unknown, names.length === 0 ? "This host has no pipeline." : `This host has no pipeline ${name}. It has ${names.join(", ")}.`);
    show(this.body, known);
    if (!known) return false;

    const group = groupOf(name);
    const own = slots.filter((slot) => slot.pipeline === name);
    this.panel.update(name, group, figures);
    show(this.none, own.length === 0);
    setText(this.none, `No slot yet: put a plugin into the plugin directory, as ${name}/default.wasm. Events wait until then.`);
    keyed(this.slots, own, (slot) => slot.slot, createSlot);
    this.letters.follow(name);
    for (const slot of own) {
      const state = stateOf(slot);
      const before = this.#states.get(slot.slot);
      if (before !== undefined && before !== state) this.#say(`${slot.slot}: ${state}`);
      this.#states.set(slot.slot, state);
    }
    return own.some(isChanging) || (group?.partitions ?? []).some((partition) => partition.state === "redoing");
  }
}

function createPipelineLink({ name }) {
  const plot = createPlot();
  const facts = el("span", { class: "small" });
  const wrong = el("span", { class: "badge", "data-state": "stopped" });
  const link = el("a", { class: "pipeline-link", href: `#/operator/${encodeURIComponent(name)}` },
    el("span", { class: "pipeline-name" }, el("bdi", {}, name), wrong), plot.node, facts);
  return {
    node: el("li", {}, link),
    update({ isCurrent, group, slots }) {
      setAttribute(link, "aria-current", isCurrent ? "page" : null);
      const points = figures.of(name, null);
      plot.update(points, ({ rate }) => rate);
      setText(facts, `lag ${count(group?.lag)} · ${rateText(points.at(-1)?.rate)}`);
      const stopped = (group?.partitions ?? []).filter((partition) => partition.state === "stopped").length;
      const rejected = slots.filter((slot) => slot.state === "rejected").length;
      show(wrong, stopped + rejected > 0);
      setText(wrong, [stopped > 0 ? `${stopped} stopped` : "", rejected > 0 ? `${rejected} rejected` : ""].filter(Boolean).join(", "));
    },
  };
}

function rateText(rate) {
  return rate === null || rate === undefined ? "– events/s" : `${count(Math.round(rate))} events/s`;
}
