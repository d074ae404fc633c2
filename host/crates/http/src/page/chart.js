// The score difference over game time: above the level line the home team is ahead, below it
// the away team. Solid is what is known of every basket, dashed a line through period ends.

import { el, svg, setText, setAttribute, show } from "./dom.js";
import { momentAt, periodEnd, periodName } from "./model.js";

const HEIGHT = 240;
/** Of the range's thumb, about: its middle is where its value is. */
const THUMB = 16;
const EDGE = { top: 14, right: 14, bottom: 24, left: 40 };

export class Chart {
  #line = null;
  #x = null;

  constructor() {
    this.frame = el("div", { class: "chart" });
    this.cursor = svg("g", { class: "cursor" });
    // Reading it off is a range, so that arrow keys, fingers and screen readers have it as well as the mouse.
    this.range = el("input", { type: "range", class: "scrub", step: "any", "aria-label": "A moment of the game" });
    this.readout = el("output", { class: "readout" });
    this.range.addEventListener("input", () => this.#read());
    this.range.addEventListener("keydown", (event) => this.#step(event));
    this.frame.addEventListener("pointermove", (event) => this.#point(event));
    this.frame.addEventListener("pointerleave", () => this.#rest());
    this.range.addEventListener("blur", () => this.#rest());
    this.node = el("div", {}, this.frame, this.range);
  }

  /** Draws; false where there is nothing to draw. `dashed` ends where `line` begins. */
  draw(game, { dashed, line }) {
    const width = Math.max(240, this.frame.clientWidth);
    const [away, home] = game.teams;
    const end = periodEnd(Math.max(4, game.period));
    const values = [...dashed, ...line].map(([, value]) => value);
    const [most, least] = [Math.max(2, ...values), Math.min(-2, ...values)];
    const step = [2, 5, 10, 20, 50].find((step) => most - least <= step * 6) ?? Math.ceil((most - least) / 600) * 100;
    const [top, bottom] = [Math.ceil(most / step) * step, Math.floor(least / step) * step];
    const x = (time) => round(EDGE.left + (time / end) * (width - EDGE.left - EDGE.right));
    const y = (difference) => round(EDGE.top + ((top - difference) / (top - bottom)) * (HEIGHT - EDGE.top - EDGE.bottom));

    const grid = [];
    for (let value = bottom; value <= top; value += step) {
      grid.push(svg("path", { class: value === 0 ? "zero" : "rule", d: `M${EDGE.left} ${y(value)}H${width - EDGE.right}` }));
      grid.push(svg("text", { x: EDGE.left - 8, y: y(value) + 4, "text-anchor": "end" }, String(Math.abs(value))));
    }
    for (let period = 1; periodEnd(period) <= end; period += 1) {
      if (periodEnd(period) < end) grid.push(svg("path", { class: "rule", d: `M${x(periodEnd(period))} ${EDGE.top}V${HEIGHT - EDGE.bottom}` }));
      const middle = (x(periodEnd(period - 1)) + x(periodEnd(period))) / 2;
      grid.push(svg("text", { x: round(middle), y: HEIGHT - 7, "text-anchor": "middle" }, periodName(period)));
    }

    const before = dashed.map(([time, value], i) => `${i === 0 ? "M" : "L"}${x(time)} ${y(value)}`).join("");
    let solid = `M${x(line[0][0])} ${y(line[0][1])}`;
    for (const [time, value] of line.slice(1)) solid += `H${x(time)}V${y(value)}`;
    const last = line.at(-1);
    const area = `${before}${before ? solid.replace("M", "L") : solid}V${y(0)}H${x((dashed[0] ?? line[0])[0])}Z`;

    // The same area twice, cut at the level line.
    const sides = [["home", EDGE.top, y(0)], ["away", y(0), HEIGHT - EDGE.bottom]].map(([side, from, to]) => [
      svg("clipPath", { id: `clip-${side}` }, svg("rect", { x: 0, y: from, width, height: Math.max(0, to - from) })),
      svg("path", { class: `area ${side}`, d: area, "clip-path": `url(#clip-${side})` }),
    ]);
    const label = `Score difference over the game: ${standing(away, home, game.difference)}`;
    this.frame.replaceChildren(svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": label },
      ...sides.flat(), ...grid, svg("path", { class: "earlier", d: before }), svg("path", { class: "seen", d: solid }),
      svg("circle", { class: "now", cx: x(last[0]), cy: y(last[1]), r: 4 }), this.cursor));

    const atEnd = this.#line === null || this.#at() === this.#line.length - 1;
    this.#line = line;
    this.#x = { x, y, away, home };
    // As long as the line, and below it.
    setAttribute(this.range, "min", String(line[0][0]));
    setAttribute(this.range, "max", String(last[0]));
    this.range.style.marginLeft = `${x(line[0][0]) - THUMB / 2}px`;
    this.range.style.width = `${x(last[0]) - x(line[0][0]) + THUMB}px`;
    show(this.range, line.length > 1);
    if (atEnd) this.#rest();
    else this.#read();
  }

  /** Back to the latest moment, where nobody is reading. */
  #rest() {
    if (this.#line === null || document.activeElement === this.range) return;
    this.range.value = String(this.#line.at(-1)[0]);
    this.#read();
  }

  /** Which point the range is at: the last one that had come by then. */
  #at() {
    const time = Number(this.range.value);
    return Math.max(0, this.#line.findLastIndex(([at]) => at <= time + 0.01));
  }

  /** Arrow keys go from one change of the score to the next. */
  #step(event) {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!step || this.#line === null) return;
    event.preventDefault();
    const to = Math.max(0, Math.min(this.#line.length - 1, this.#at() + step));
    this.range.value = String(this.#line[to][0]);
    this.#read();
  }

  #point(event) {
    if (this.#line === null) return;
    const at = event.clientX - this.frame.getBoundingClientRect().left;
    const point = this.#line.findLast(([time]) => this.#x.x(time) <= at) ?? this.#line[0];
    this.range.value = String(point[0]);
    this.#read();
  }

  #read() {
    const { x, y, away, home } = this.#x;
    const at = this.#at();
    const [time, value] = this.#line[at];
    const text = `${momentAt(time)}: ${standing(away, home, value)}`;
    setText(this.readout, text);
    setAttribute(this.range, "aria-valuetext", text);
    const isEnd = at === this.#line.length - 1;
    this.cursor.replaceChildren(...(isEnd ? [] : [
      svg("path", { class: "hair", d: `M${x(time)} ${EDGE.top}V${HEIGHT - EDGE.bottom}` }),
      svg("circle", { class: "here", cx: x(time), cy: y(value), r: 4 }),
    ]));
  }
}

/** The dashed part: the start, and the ends of the periods that were over by `until`. */
export function periodEnds(game, until) {
  const points = [[0, 0]];
  let difference = 0;
  for (let period = 1; period <= game.period && periodEnd(period) < until; period += 1) {
    difference += (game.teams[1].periods[period - 1] ?? 0) - (game.teams[0].periods[period - 1] ?? 0);
    points.push([periodEnd(period), difference]);
  }
  return points;
}

/** Largest leads, and how long each was ahead, of a line that begins with the game. */
export function leads(line) {
  const found = { away: { lead: 0, at: 0, seconds: 0 }, home: { lead: 0, at: 0, seconds: 0 } };
  line.forEach(([time, value], i) => {
    if (value === 0) return;
    const side = value > 0 ? found.home : found.away;
    if (Math.abs(value) > side.lead) [side.lead, side.at] = [Math.abs(value), time];
    side.seconds += (line[i + 1]?.[0] ?? time) - time;
  });
  return found;
}

export function standing(away, home, difference) {
  if (difference === 0) return "level";
  return `${difference > 0 ? home.name : away.name} ahead by ${Math.abs(difference)}`;
}

const round = (value) => Math.round(value * 10) / 10;
