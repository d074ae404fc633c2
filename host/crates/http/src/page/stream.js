// Server-sent events by `fetch`, for `EventSource` sends no header that could bear a token.
// One stream at a time; it comes back by itself with the id of the last event it has read,
// until it is closed or refused, and also where nothing came for too long: a connection whose
// other end is gone without a word looks open for ever. Memory: one event, as it comes in.

import { isRefusal, send } from "./access.js";

const RETRY_MS_MIN = 1_000;
const RETRY_MS_MAX = 15_000;
/** The host sends a comment every `http.heartbeat` of silence: 15 s, unless it is told otherwise. */
const SILENCE_MS_MAX = 60_000;

export class EventStream {
  #path;
  #on;
  #lastId = "";
  /** As the host asks for; doubled each time that there is no stream at all. */
  #retryMs = RETRY_MS_MIN;
  #failures = 0;
  #timer = 0;
  #closed = new AbortController();
  /** Ends this attempt alone. */
  #silence = 0;

  /** `on.open()`, `on.event(name, data)`, `on.lost()`: the last at each end that is not `close`. */
  constructor(path, on) {
    this.#path = path;
    this.#on = on;
    this.#run();
  }

  close() {
    this.#closed.abort();
    clearTimeout(this.#timer);
    clearTimeout(this.#silence);
  }

  async #run() {
    const { signal: closed } = this.#closed;
    const attempt = new AbortController();
    const signal = AbortSignal.any([closed, attempt.signal]);
    const heard = () => {
      clearTimeout(this.#silence);
      if (!closed.aborted) this.#silence = setTimeout(() => attempt.abort(), SILENCE_MS_MAX);
    };
    let refused = false;
    heard();
    try {
      const headers = { accept: "text/event-stream" };
      if (this.#lastId !== "") headers["last-event-id"] = this.#lastId;
      const answer = await send(this.#path, { signal, headers, cache: "no-store" });
      refused = isRefusal(answer);
      if (answer.ok && answer.headers.get("content-type")?.startsWith("text/event-stream")) {
        this.#failures = 0;
        this.#on.open();
        await this.#read(answer.body.pipeThrough(new TextDecoderStream()).getReader(), heard);
      } else {
        this.#failures += 1;
        await answer.body?.cancel();
      }
    } catch {
      this.#failures += 1;
    }
    clearTimeout(this.#silence);
    if (closed.aborted) return;
    this.#on.lost();
    // A token is asked for, and who gets one begins anew.
    if (refused) return;
    const wait = Math.min(this.#retryMs * 2 ** Math.max(0, this.#failures - 1), RETRY_MS_MAX);
    // Not all pages at once, where a host has come back.
    this.#timer = setTimeout(() => this.#run(), wait * (1 + Math.random() / 2));
  }

  async #read(reader, heard) {
    const parse = parser(
      (name, data) => this.#on.event(name, data),
      (id) => (this.#lastId = id),
      (ms) => (this.#retryMs = ms),
    );
    for (;;) {
      const { done, value } = await reader.read();
      if (done || this.#closed.signal.aborted) return;
      heard();
      parse(value);
    }
  }
}

/** Takes the text of a stream, in whatever pieces; what ends without an empty line is no event. */
function parser(onEvent, onId, onRetry) {
  let rest = "";
  let name = "";
  let data = [];
  let id = null;
  function line(text) {
    if (text === "") {
      // An id counts with its event: half an event was not read.
      if (id !== null) onId(id);
      if (data.length > 0) onEvent(name || "message", data.join("\n"));
      [name, data, id] = ["", [], null];
      return;
    }
    const at = text.indexOf(":");
    const field = at < 0 ? text : text.slice(0, at);
    const value = at < 0 ? "" : text.slice(text[at + 1] === " " ? at + 2 : at + 1);
    if (field === "data") data.push(value);
    else if (field === "event") name = value;
    else if (field === "id" && !value.includes("\0")) id = value;
    else if (field === "retry" && /^\d+$/.test(value)) onRetry(Number(value));
  }
  return (piece) => {
    const text = rest + piece;
    // A carriage return at the end may be half of a line break.
    const end = text.endsWith("\r") ? text.length - 1 : text.length;
    const lines = text.slice(0, end).split(/\r\n|\n|\r/);
    rest = lines.pop() + text.slice(end);
    for (const each of lines) line(each);
  };
}
