// The games this page knows, kept up to date by one stream, and what has been
// seen of each game's score difference. It lives as long as the page; it keeps at most
// TRAIL_POINTS points of at most TRAIL_GAMES games.

import { isRefused } from "./access.js";
import { getJson } from "./dom.js";
import { readGame } from "./model.js";
import { EventStream } from "./stream.js";

const TRAIL_POINTS = 1_000;
const TRAIL_GAMES = 2_000;
const COURSES = 50;
const HIDDEN_MS_MAX = 30_000;
const LIST_RETRY_MS = 1_000;

export class Store {
  /** By id. */
  games = new Map();
  /** By id: `[game seconds, home minus away, last seq]`, oldest first. */
  trails = new Map();
  /** By id: how games went by the log (course.js), of the COURSES looked at last. */
  courses = new Map();
  /** Whether the host has said what there is: until then, no game is not "no games". */
  known = false;
  /** `connecting`, `live`, `reconnecting`, `paused`, or `locked`: a token is asked for. */
  link = "idle";

  #source = null;
  #scope = null;
  #pause = 0;
  #again = 0;
  /** Whether the last listing failed. */
  #unlisted = false;
  /** The ids touched since a listing began: it is older than they are. */
  #touched = null;
  #onGame;
  #onLink;

  /** `onGame(id)` at each change of a game, `onLink()` at each of the connection. */
  constructor(onGame, onLink) {
    this.#onGame = onGame;
    this.#onLink = onLink;
    // A hidden page gives its connection back: browsers allow six to a host, for all tabs together.
    document.addEventListener("visibilitychange", () => {
      clearTimeout(this.#pause);
      if (document.hidden) this.#pause = setTimeout(() => this.#close("paused"), HIDDEN_MS_MAX);
      else if (this.link === "paused") this.#open();
    });
  }

  /** Follows all games, or the one named. Once all are followed, they stay so. */
  follow(id = null) {
    const scope = id === null ? "events" : `games/${encodeURIComponent(id)}/events`;
    if (this.#scope === scope || this.#scope === "events") return;
    this.#scope = scope;
    this.#open();
  }

  /** Asks for one game; false where there is none. */
  async load(id) {
    const began = this.games.get(id);
    try {
      const output = await getJson(`games/${encodeURIComponent(id)}`);
      if (this.games.get(id) === began) this.#put(output);
      return true;
    } catch (error) {
      if (error.status === 404) return false;
      throw error;
    }
  }

  keepCourse(id, course) {
    this.courses.delete(id);
    if (this.courses.size >= COURSES) this.courses.delete(this.courses.keys().next().value);
    this.courses.set(id, course);
  }

  /** Begins anew, with another token than before. */
  reopen() {
    if (this.#scope !== null && this.link !== "paused") this.#open();
  }

  #open() {
    this.#close("connecting");
    let again = false;
    this.#source = new EventStream(this.#scope, {
      open: () => {
        this.#say("live");
        if (again || this.#unlisted) this.#list();
        again = true;
      },
      event: (name, data) => {
        if (name === "game") this.#put(parse(data));
        else if (name === "deleted") this.#drop(parse(data)?.game_id);
      },
      lost: () => this.#say(isRefused() ? "locked" : "reconnecting"),
    });
    this.#list();
  }

  #close(link) {
    clearTimeout(this.#again);
    this.#source?.close();
    this.#source = null;
    // A retry is still the same outage to whoever reads it.
    if (!(link === "connecting" && this.link === "reconnecting")) this.#say(link);
  }

  #say(link) {
    if (this.link === link) return;
    this.link = link;
    this.#onLink();
  }

  /**
   * The whole list, at each connection: it tells an empty host from a slow one, and
   * which games have gone while nobody listened.
   */
  async #list() {
    if (this.#scope !== "events") return;
    clearTimeout(this.#again);
    const touched = new Set();
    this.#touched = touched;
    const listed = new Set();
    try {
      for (let cursor = null, more = true; more; more = cursor !== null) {
        const page = await getJson(`games?limit=1000${cursor === null ? "" : `&cursor=${encodeURIComponent(cursor)}`}`);
        if (this.#touched !== touched) return;
        for (const output of page.games) {
          listed.add(output?.game_id);
          if (!touched.has(output?.game_id)) this.#put(output);
        }
        cursor = page.next ?? null;
      }
    } catch {
      if (this.#touched !== touched) return;
      this.#touched = null;
      this.#unlisted = true;
      // Without a stream it is done when there is one; a host that only had no time is asked again.
      if (this.link === "live") this.#again = setTimeout(() => this.#list(), LIST_RETRY_MS * (1 + Math.random()));
      return;
    }
    for (const id of [...this.games.keys()]) {
      if (!listed.has(id) && !touched.has(id)) this.#drop(id);
    }
    this.#touched = null;
    this.#unlisted = false;
    this.known = true;
    this.#onGame(null);
  }

  #put(output) {
    const game = readGame(output);
    if (game === null) return;
    this.#touched?.add(game.id);
    this.games.set(game.id, game);
    this.#trace(game);
    this.#onGame(game.id);
  }

  #drop(id) {
    if (typeof id !== "string") return;
    this.#touched?.add(id);
    this.trails.delete(id);
    if (this.games.delete(id)) this.#onGame(id);
  }

  #trace({ id, elapsed, difference, lastSeq }) {
    if (elapsed === null || difference === null) return;
    let trail = this.trails.get(id);
    if (!trail) {
      if (this.trails.size >= TRAIL_GAMES) this.trails.delete(this.trails.keys().next().value);
      this.trails.set(id, (trail = []));
    }
    // What stands at this moment or after it is superseded: a correction, or a game begun again.
    while (trail.length > 0 && trail.at(-1)[0] >= elapsed) trail.pop();
    trail.push([elapsed, difference, lastSeq ?? 0]);
    if (trail.length > TRAIL_POINTS) trail.shift();
  }
}

function parse(data) {
  try {
    return JSON.parse(data);
  } catch {
    return null;
  }
}
