// The score difference over game time. The host gives the latest output, not the way
// to it: what was seen since the page was opened is drawn as it went, what came
// before as a dashed line through the period ends.

import { svg } from "./dom.js";
import { periodEnd, periodName } from "./model.js";

const HEIGHT = 220;
const EDGE = { top: 14, right: 12, bottom: 24, left: 40 };

/** The points before the page was opened: the start, and the ends of the periods over by then. */
function before(game, until) {
  const points = [[0, 0]];
  let difference = 0;
  for (let period = 1; period <= game.period && periodEnd(period) < until; period += 1) {
    difference += (game.teams[1].periods[period - 1] ?? 0) - (game.teams[0].periods[period - 1] ?? 0);
    points.push([periodEnd(period), difference]);
  }
  return points;
}

/** Draws into `frame`; returns how it was drawn in words, or null where there is nothing to draw. */
export function drawChart(frame, game, trail, turned) {
  if (game.difference === null || game.elapsed === null || trail.length === 0) {
    frame.replaceChildren();
    return null;
  }
  const width = Math.max(240, frame.clientWidth);
  const [away, home] = game.teams;
  const earlier = before(game, trail[0][0]);
  const end = periodEnd(Math.max(4, game.period));
  const widest = Math.max(...earlier.map(size), ...trail.map(size));
  const step = [2, 5, 10, 20, 50].find((step) => widest <= step * 3) ?? Math.ceil(widest / 300) * 100;
  const top = Math.max(step * 2, Math.ceil(widest / step) * step);
  const x = (time) => round(EDGE.left + (time / end) * (width - EDGE.left - EDGE.right));
  const y = (difference) => round(EDGE.top + (1 - (difference + top) / (2 * top)) * (HEIGHT - EDGE.top - EDGE.bottom));

  const grid = [];
  for (let value = -top; value <= top; value += step) {
    grid.push(svg("path", { class: value === 0 ? "zero" : "rule", d: `M${EDGE.left} ${y(value)}H${width - EDGE.right}` }));
    grid.push(svg("text", { x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" }, String(Math.abs(value))));
  }
  for (let period = 1; periodEnd(period) <= end; period += 1) {
    if (periodEnd(period) < end) grid.push(svg("path", { class: "rule", d: `M${x(periodEnd(period))} ${EDGE.top}V${HEIGHT - EDGE.bottom}` }));
    const middle = (x(periodEnd(period - 1)) + x(periodEnd(period))) / 2;
    grid.push(svg("text", { x: round(middle), y: HEIGHT - 7, "text-anchor": "middle" }, periodName(period)));
  }

  const dashed = [...earlier, trail[0]].map(([time, value], i) => `${i === 0 ? "M" : "L"}${x(time)} ${y(value)}`).join("");
  let line = `M${x(trail[0][0])} ${y(trail[0][1])}`;
  for (const [time, value] of trail.slice(1)) line += `H${x(time)}V${y(value)}`;
  const last = trail.at(-1);
  const area = `${dashed}${line.replace("M", "L")}V${y(0)}H${x(0)}Z`;

  // The same area twice, cut at the level line: above it the home team's colour, below the away team's.
  const sides = [[1, EDGE.top, y(0)], [0, y(0), HEIGHT - EDGE.bottom]].map(([side, from, to]) => {
    const shape = svg("path", { class: "side", d: area, "clip-path": `url(#side-${side})` });
    shape.style.setProperty("--hue", turned[side]);
    return [svg("clipPath", { id: `side-${side}` }, svg("rect", { x: 0, y: from, width, height: Math.max(0, to - from) })), shape];
  });
  const label = `Score difference over the game: ${standing(away, home, game.difference)}`;
  frame.replaceChildren(svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": label },
    ...sides.flat(), ...grid,
    svg("path", { class: "earlier", d: dashed }), svg("path", { class: "seen", d: line }),
    svg("circle", { class: "now", cx: x(last[0]), cy: y(last[1]), r: 4 })));
  if (trail[0][0] <= 0) return "Every change since the start.";
  if (trail.length === 1) return "Dashed: by period ends, as all of it was before you opened this page.";
  return "Dashed: by period ends, from before you opened this page. Solid: every change since.";
}

export function standing(away, home, difference) {
  if (difference === 0) return "level";
  return `${difference > 0 ? home.name : away.name} ahead by ${Math.abs(difference)}`;
}

const size = ([, difference]) => Math.abs(difference);
const round = (value) => Math.round(value * 10) / 10;
