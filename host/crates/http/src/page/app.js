// The page: a store fed by one stream, three views, and when changes are drawn.
// Everything is asked of the host that serves it, by relative addresses.

import { el, setAttribute, setText } from "./dom.js";
import { isRefused, onAccess } from "./access.js";
import { Store } from "./store.js";
import { BoardView } from "./board.js";
import { GameView } from "./game.js";
import { TokenView } from "./token.js";

const SAY_MS_MIN = 3_000;
const STALE_MS_MIN = 2_000;
const DRAW_MS_MIN = 50;

const main = document.getElementById("main");
const link = document.getElementById("link");

// Changes are drawn together, DRAW_MS_MIN apart, however many came: only what they touched is looked at.
const touched = new Set();
let drawing = false;
let drawnAt = -Infinity;
function touch(id) {
  touched.add(id);
  if (drawing) return;
  drawing = true;
  setTimeout(() => requestAnimationFrame(draw), Math.max(0, drawnAt + DRAW_MS_MIN - performance.now()));
}

function draw() {
  drawing = false;
  drawnAt = performance.now();
  const ids = new Set(touched);
  touched.clear();
  view?.update(ids);
}

const LINKS = {
  idle: "ready",
  connecting: "connecting",
  live: "live",
  reconnecting: "reconnecting",
  paused: "paused",
  locked: "token needed",
};
/** Since when the scores are old; null while they are not. */
let staleSince = null;
let staleTimer = 0;
const stale = document.getElementById("stale");
function tellStale() {
  clearTimeout(staleTimer);
  if (store.link !== "reconnecting") staleSince = null;
  else staleSince ??= new Date();
  setText(stale, staleSince === null ? "" : `No connection to the host since ${staleSince.toLocaleTimeString("en-GB")}: the scores are from that time. The page keeps trying to connect.`);
  // Many a proxy ends a stream now and then: what is mended at once is no news.
  if (staleSince === null) stale.hidden = true;
  else staleTimer = setTimeout(() => (stale.hidden = false), Math.max(0, STALE_MS_MIN - (Date.now() - staleSince)));
}

function showLink() {
  const lost = link.dataset.state === "reconnecting";
  link.dataset.state = store.link;
  setText(document.getElementById("link-text"), LINKS[store.link]);
  tellStale();
  if (store.link === "reconnecting") say("Connection lost, reconnecting");
  else if (store.link === "live" && lost) say("Connected again");
  view?.update(new Set());
}

// A screen reader is told what matters, at most every few seconds, the latest only.
let saidAt = -Infinity;
let saying = 0;
function say(text) {
  clearTimeout(saying);
  saying = setTimeout(() => {
    saidAt = performance.now();
    document.getElementById("say").textContent = text;
  }, Math.max(0, saidAt + SAY_MS_MIN - performance.now()));
}

const store = new Store(touch, showLink);
const board = new BoardView(store, say);
let view = null;

/** In place of a view whose script did not come. A browser keeps to that until the page is loaded again. */
class AbsentView {
  title = "Courtside";

  constructor() {
    const again = el("button", { type: "button" }, "Try again");
    again.addEventListener("click", () => location.reload());
    this.node = el("div", { class: "panel" }, el("h1", { tabindex: "-1" }, "Operator"),
      el("p", { class: "note bad", role: "alert" }, "The host did not send this part of the page."), el("p", {}, again));
  }

  open() {}

  close() {}

  update() {}
}

async function viewOf(hash) {
  if (isRefused()) return new TokenView();
  const [, name = "", ...rest] = hash.split("/");
  let of;
  try {
    of = rest.length > 0 ? decodeURIComponent(rest.join("/")) : undefined;
  } catch {
    return board; // A malformed escape names nothing.
  }
  // Fans never load the operator's side.
  if (name === "operator") {
    const script = await import("./operator/view.js").catch(() => null);
    return script === null ? new AbsentView() : new script.OperatorView(of || null, say);
  }
  if (name === "game" && of !== undefined) return new GameView(store, of, say);
  return board;
}

let routed = 0;
async function route() {
  const turn = (routed += 1);
  const next = await viewOf(location.hash);
  if (turn !== routed) return; // Somebody has gone on meanwhile.
  const first = view === null;
  view?.close();
  view = next;
  main.replaceChildren(view.node);
  document.title = view.title;
  setAttribute(document.getElementById("to-board"), "aria-current", view === board ? "page" : null);
  setAttribute(document.getElementById("to-operator"), "aria-current", location.hash.startsWith("#/operator") ? "page" : null);
  view.open(first);
  view.update(new Set([null]));
  // As after a page load, reading starts at the heading (unless the view put the focus where it was).
  if (!first && !main.contains(document.activeElement)) {
    view.node.querySelector("h1")?.focus({ preventScroll: true });
  }
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // The hash is the route.
  main.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && view instanceof GameView && !event.defaultPrevented) location.hash = "#/";
});
addEventListener("hashchange", route);
onAccess(() => {
  if (!isRefused()) store.reopen();
  route();
});
route();
