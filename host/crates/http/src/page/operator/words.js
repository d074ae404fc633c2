// Words and small parts that all of the operator's side uses.

import { el, setText, setAttribute, keyed, visible } from "../dom.js";

export function badge(class_ = "badge") {
  const node = el("span", { class: class_ });
  return {
    node,
    update(state) {
      setText(node, String(state).replaceAll("-", " "));
      setAttribute(node, "data-state", String(state));
    },
  };
}

/** Rows of `[name, text, title]`; those without a text are left out. */
export function drawFacts(list, rows) {
  keyed(list, rows.filter(([, text]) => text), ([name]) => name, ([name]) => {
    const value = el("dd", {});
    return {
      node: el("div", {}, el("dt", {}, name), value),
      update([, text, title]) {
        setText(value, visible(String(text)));
        setAttribute(value, "title", title ?? null);
      },
    };
  });
}

/** A `time` that says how long ago it was. */
export function moment() {
  const node = el("time", {});
  return {
    node,
    update(at) {
      const date = new Date(at);
      const iso = Number.isNaN(date.getTime()) ? "" : date.toISOString();
      setAttribute(node, "datetime", iso || null);
      setAttribute(node, "title", iso || null);
      setText(node, ago(date));
    },
  };
}

export function because({ code, reason }) {
  return visible([code, reason].filter(Boolean).join(": "));
}

export function short(digest) {
  return String(digest ?? "").slice(0, 12);
}

export function ago(date) {
  const seconds = Math.max(0, Math.round((Date.now() - date.getTime()) / 1000));
  if (Number.isNaN(seconds)) return "–";
  return `${span(seconds)} ago`;
}

export function span(seconds) {
  if (seconds < 100) return `${seconds} s`;
  if (seconds < 6_000) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} days`;
}

export function clock(time) {
  return new Date(time).toLocaleTimeString("en-GB");
}

export function bytes(value) {
  if (typeof value !== "number") return "–";
  let unit = 0;
  while (value >= 1024 && unit < 4) [value, unit] = [value / 1024, unit + 1];
  return `${Number(value.toFixed(1))} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

/** Why a question was not answered, as a sentence. */
export function failure(error) {
  if (error.status === 401) return "The host needs a token for this.";
  if (error.status === 403) return "This may not be read from here.";
  return `The host does not answer (${error.message}).`;
}
