// What the views build with. Text reaches the document as text nodes and
// attribute values only, never as markup: names come from whoever posts events.

import { ask } from "./access.js";

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

const still = matchMedia("(prefers-reduced-motion: reduce)");

/** A short flash where a number has changed, unless the reader wants none. */
export function flash(node) {
  if (still.matches || document.hidden) return;
  node.animate([{ color: "var(--accent)" }, { color: "var(--accent)", offset: 0.4 }, {}], 1200);
}

/** GET, JSON; the error's message is fit to be shown. */
export async function getJson(path, signal) {
  const answer = await ask(path, { signal, headers: { accept: "application/json" } });
  if (!answer.ok) {
    throw Object.assign(new Error(`${path} answered ${answer.status}`), { status: answer.status });
  }
  return answer.json();
}
