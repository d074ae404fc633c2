// Dead letters of a pipeline: the newest, kept up to date, or all from the oldest on, page by
// page. What an event had in it is whatever somebody sent: it is shown as text, in full, and
// asked for only when its letter is opened.

import { el, setText, setAttribute, show, keyed, count, plural, getJson, visible } from "../dom.js";
import { badge, drawFacts, failure, moment, short } from "./words.js";

const POLL_MS = 5_000;
const LIMIT = 100;
const SHOWN_MAX = 2_000;
/** Of a payload; an event has 64 KiB by default. */
const PAYLOAD_CHARS_MAX = 256 * 1024;
const STATES = [["", "in any state"], ["open", "open"], ["redriven", "redriven"], ["void", "void"], ["unfit", "unfit"]];

export class Letters {
  #closed;
  #pipeline = null;
  #timer = 0;
  #letters = [];
  #next = null;
  /** Of the question asked last: answers to earlier ones are dropped. */
  #asked = 0;

  /** It asks until `closed`. */
  constructor(closed) {
    this.#closed = closed;
    closed.addEventListener("abort", () => clearTimeout(this.#timer), { once: true });
    this.key = el("input", { type: "search", id: "letter-key", placeholder: "any key", autocomplete: "off", spellcheck: "false" });
    this.state = select("letter-state", STATES);
    this.order = select("letter-order", [["newest", "the newest"], ["oldest", "from the oldest"]]);
    for (const input of [this.key, this.state, this.order]) input.addEventListener("change", () => this.#begin());
    this.form = el("div", { class: "bar", role: "search", "aria-label": "Dead letters" },
      labelled("Key", this.key), labelled("State", this.state), labelled("Show", this.order));
    this.sum = el("p", { class: "small", role: "status" });
    this.fault = el("p", { class: "note bad" });
    show(this.fault, false);
    this.none = el("p", { class: "note" });
    show(this.none, false);
    this.list = el("ol", { class: "letters", role: "list" });
    this.more = el("button", { type: "button", class: "more" }, "More");
    show(this.more, false);
    this.more.addEventListener("click", () => {
      // Not disabled: that would take the focus away from whoever pressed it.
      if (this.more.getAttribute("aria-disabled") === null) this.#ask();
    });
    this.hint = el("p", { class: "small" });
    this.node = el("section", { "aria-labelledby": "h-letters" }, el("h2", { id: "h-letters" }, "Dead letters"),
      this.form, this.sum, this.fault, this.none, this.list, this.more, this.hint);
  }

  /** Of which pipeline; asked again and again, it goes on. */
  follow(pipeline) {
    if (this.#pipeline === pipeline) return;
    this.#pipeline = pipeline;
    this.#begin();
  }

  #begin() {
    this.#letters = [];
    this.#next = null;
    this.#ask();
  }

  async #ask() {
    clearTimeout(this.#timer);
    const asked = (this.#asked += 1);
    const paging = this.order.value === "oldest";
    setAttribute(this.more, "aria-disabled", "true");
    const query = new URLSearchParams({ limit: String(LIMIT) });
    if (this.key.value !== "") query.set("key", this.key.value);
    if (this.state.value !== "") query.set("state", this.state.value);
    if (this.#next !== null) query.set("after", this.#next);
    else query.set("from", this.order.value);
    try {
      const page = document.hidden ? null : await getJson(`dead-letters/${encodeURIComponent(this.#pipeline)}?${query}`, this.#closed);
      if (asked !== this.#asked) return;
      if (page !== null) this.#take(page, paging);
      show(this.fault, false);
    } catch (error) {
      if (this.#closed.aborted || asked !== this.#asked) return;
      show(this.fault, true);
      setText(this.fault, failure(error));
    }
    setAttribute(this.more, "aria-disabled", null);
    // Pages from the oldest on do not change under whoever reads them.
    if (!paging && !this.#closed.aborted) this.#timer = setTimeout(() => this.#ask(), POLL_MS);
  }

  #take(page, paging) {
    const letters = page.letters ?? [];
    this.#letters = paging ? [...this.#letters, ...letters].slice(0, SHOWN_MAX) : letters;
    this.#next = paging ? page.next ?? null : null;
    const all = this.#letters.length;
    const filtered = this.key.value !== "" || this.state.value !== "";
    show(this.none, all === 0 && this.#next === null);
    // The host looks back so far, and tells so many, at most.
    setText(this.none, page.complete === false ? "None of the newest dead letters matches. There are older ones: show them from the oldest."
      : filtered ? "No dead letter matches." : "No dead letter: every event was processed.");
    show(this.more, this.#next !== null && all < SHOWN_MAX);
    setText(this.sum, all === 0 ? "" : paging ? `${plural(all, "letter")}${this.#next === null ? ", all of them" : ""}`
      : page.complete === false ? `The newest ${count(all)}` : plural(all, "letter"));
    const pipeline = this.#pipeline;
    keyed(this.list, this.#letters, ({ partition, offset }) => `${partition}/${offset}`, (letter) => createLetter(pipeline, letter, this.#closed));
    show(this.hint, this.#letters.some(({ state }) => state === "open"));
    setText(this.hint, "Once their cause is gone, process the events of open letters again with courtside dead-letter redrive, one key first.");
  }
}

function select(id, options) {
  return el("select", { id }, ...options.map(([value, label]) => el("option", { value }, label)));
}

function labelled(text, input) {
  return el("span", { class: "field" }, el("label", { for: input.id }, text), input);
}

function createLetter(pipeline, { partition, offset }, closed) {
  const when = moment();
  const key = el("bdi", { class: "letter-key" });
  const code = el("code", {});
  const reason = el("bdi", { class: "letter-reason" });
  const state = badge();
  const body = el("div", { class: "letter-body" });
  const node = el("details", { class: "letter" }, el("summary", {}, when.node, key, code, reason, state.node), body);
  let asked = false;
  node.addEventListener("toggle", async () => {
    if (!node.open || asked) return;
    asked = true;
    body.replaceChildren(el("p", { class: "small" }, "Asking the host for the letter…"));
    try {
      body.replaceChildren(...describe(await getJson(`dead-letters/${encodeURIComponent(pipeline)}/${partition}/${offset}`, closed)));
    } catch (error) {
      asked = false;
      body.replaceChildren(el("p", { class: "note bad" }, error.status === 404 ? "The letter is gone: its topic keeps letters for a limited time." : failure(error)));
    }
  });
  return {
    node: el("li", {}, node),
    update(letter) {
      when.update(letter.timestamp_ms);
      setText(key, letter.key === null ? "no key" : visible(letter.key));
      setText(code, letter.code);
      setText(reason, visible(letter.reason ?? ""));
      state.update(letter.state);
      setAttribute(state.node, "title", letter.unfit);
    },
  };
}

const place = (at) => at && `${at.topic}/${at.partition}/${at.offset}`;

function describe(letter) {
  const facts = el("dl", { class: "facts" });
  drawFacts(facts, [
    ["Letter", `${letter.partition}/${letter.offset}`],
    ["Event", place(letter.origin)],
    ["Made from record", place(letter.source) !== place(letter.origin) && place(letter.source)],
    ["Plugin", letter.plugin && `${letter.plugin} ${short(letter.digest)}`, letter.digest],
    ["Event's time", new Date(letter.timestamp_ms).toISOString()],
    ["Cannot be redriven", letter.unfit],
  ]);
  const value = letter.value ?? letter.value_hex;
  const text = value === null || value === undefined ? null : visible(value.slice(0, PAYLOAD_CHARS_MAX));
  const title = letter.value_hex ? "Payload, which is no text: its bytes in hexadecimal digits" : "Payload";
  const payload = text === null
    ? el("p", { class: "small" }, letter.cut_bytes ? `The event was too large for a letter: ${count(letter.cut_bytes)} bytes, which the input topic has until its retention removes them.` : "The event had no value.")
    : el("pre", { class: "payload", tabindex: "0", "aria-label": title }, el("code", {}, text));
  const rest = value && value.length > PAYLOAD_CHARS_MAX ? [el("p", { class: "small" }, `and ${count(value.length - PAYLOAD_CHARS_MAX)} characters more: courtside dead-letter show ${letter.partition}/${letter.offset}`)] : [];
  const headers = letter.headers ?? [];
  return [
    el("p", { class: "letter-why" }, visible(letter.reason ?? "")), facts, el("h3", {}, title), payload, ...rest, el("h3", {}, `Headers (${count(headers.length)})`),
    el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Headers" }, el("table", { class: "headers" }, el("tbody", {},
      ...headers.map(({ name, value }) => el("tr", {}, el("th", { scope: "row", class: "word" }, el("bdi", {}, visible(name))), el("td", { class: "word" }, el("bdi", {}, value === null ? "null" : visible(value)))))))),
  ];
}
