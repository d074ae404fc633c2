// What the views build with. Text reaches the document as text nodes and
// attribute values only, never as markup: names come from whoever posts events.

import { send } from "./access.js";

/** An element with attributes and children; a string child is a text node. */
export function el(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** Writes a text only where it differs: an equal one would still cost layout. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

export function show(node, shown) {
  if (node.hidden === shown) node.hidden = !shown;
}

const viewsOf = new WeakMap();

/**
 * Makes the children of `parent` those of `items`, in order, keeping the ones
 * that are there already, with their focus and their open `details`.
 * `create(item)` returns a view: `{ node, update(item) }`. A view outlives the call that made
 * it, so `update` takes all it shows from its item. Returns the views by key.
 */
export function keyed(parent, items, keyOf, create) {
  const old = viewsOf.get(parent) ?? new Map();
  const now = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (now.has(key)) continue;
    const view = old.get(key) ?? create(item);
    view.update(item);
    now.set(key, view);
  }
  // What goes is taken out first, or all that follows it would count as moved.
  for (const [key, view] of old) if (!now.has(key)) view.node.remove();
  let at = parent.firstChild;
  for (const view of now.values()) {
    if (view.node === at) at = at.nextSibling;
    else parent.insertBefore(view.node, at);
  }
  viewsOf.set(parent, now);
  return now;
}

/** `keyed` for the cells of a row: a list of texts, by place. */
export function cells(row, texts, create) {
  keyed(row, texts.map((text, at) => ({ text, at })), (cell) => cell.at, (cell) => {
    const node = create(cell.at);
    return { node, update: ({ text }) => setText(node, text) };
  });
}

const numbers = new Intl.NumberFormat("en");

export function count(value) {
  return typeof value === "number" ? numbers.format(value) : "–";
}

export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

const HOT_MS = 1_500;
const cooling = new WeakMap();

/** Marks for a moment a number that has changed. It is one class on and off: no frame in between is drawn for it. */
export function mark(node) {
  if (document.hidden) return;
  clearTimeout(cooling.get(node));
  node.classList.add("hot");
  cooling.set(node, setTimeout(() => node.classList.remove("hot"), HOT_MS));
}

/** GET; the error's message is fit to be shown. */
export async function ask(path, signal, accept = "application/json") {
  const answer = await send(path, { signal, headers: { accept } });
  if (!answer.ok) {
    throw Object.assign(new Error(`${path} answered ${answer.status}`), { status: answer.status });
  }
  return answer;
}

export async function getJson(path, signal) {
  return (await ask(path, signal)).json();
}

/** Texts that whoever posts events wrote, with what could turn or hide the text around it made visible. */
export function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
