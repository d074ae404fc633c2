// The page: a store fed by one stream, three views, and the frame in which changes are drawn.
// Everything is asked of the host that serves it, by relative addresses.

import { setAttribute, setText } from "./dom.js";
import { isRefused, onAccess } from "./access.js";
import { Store } from "./store.js";
import { BoardView } from "./board.js";
import { GameView } from "./game.js";
import { OperatorView } from "./operator.js";
import { TokenView } from "./token.js";

const SAY_MS_MIN = 3_000;

const main = document.getElementById("main");
const link = document.getElementById("link");

// Changes are drawn once a frame, however many came: only what they touched is looked at.
const touched = new Set();
let frame = 0;
function touch(id) {
  touched.add(id);
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    const ids = new Set(touched);
    touched.clear();
    view?.update(ids);
  });
}

const LINKS = {
  idle: "ready",
  connecting: "connecting",
  live: "live",
  reconnecting: "reconnecting",
  paused: "paused",
  locked: "token needed",
};
function showLink() {
  const lost = link.dataset.state === "reconnecting";
  link.dataset.state = store.link;
  setText(document.getElementById("link-text"), LINKS[store.link]);
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

function viewOf(hash) {
  if (isRefused()) return new TokenView();
  const [, name = "", ...rest] = hash.split("/");
  if (name === "operator") return new OperatorView(say);
  if (name === "game" && rest.length > 0) {
    try {
      return new GameView(store, decodeURIComponent(rest.join("/")), say);
    } catch {
      return board; // A malformed escape names no game.
    }
  }
  return board;
}

function route() {
  const first = view === null;
  view?.close();
  view = viewOf(location.hash);
  main.replaceChildren(view.node);
  document.title = view.title;
  setAttribute(document.getElementById("to-board"), "aria-current", view === board ? "page" : null);
  setAttribute(document.getElementById("to-operator"), "aria-current", view instanceof OperatorView ? "page" : null);
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
