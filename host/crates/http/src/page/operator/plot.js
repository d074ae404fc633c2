// A small plot of all that its points have: time to the right, from nought up. It stretches to where it is put.

import { svg, setAttribute } from "../dom.js";
import { GAP_MS, WINDOW_MS_MIN } from "./figures.js";

const WIDTH = 240;
const HEIGHT = 40;

export function createPlot(label = null) {
  const line = svg("path", { class: "plot-line" });
  const area = svg("path", { class: "plot-area" });
  const node = svg("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" }, area, line);
  // Where the figure stands beside it, the plot says nothing more.
  if (label === null) node.setAttribute("aria-hidden", "true");
  else node.setAttribute("role", "img");
  return {
    node,
    /** Returns the highest value shown. */
    update(points, valueOf) {
      const now = points.at(-1)?.at ?? 0;
      const peak = points.reduce((peak, point) => Math.max(peak, valueOf(point) ?? 0), 0);
      const window = Math.max(WINDOW_MS_MIN, now - (points[0]?.at ?? now));
      const x = (at) => (WIDTH * (1 - (now - at) / window)).toFixed(1);
      const y = (value) => (HEIGHT - 1.5 - (value / Math.max(1, peak)) * (HEIGHT - 4)).toFixed(1);
      let path = "";
      let filled = "";
      let run = [];
      const end = () => {
        if (run.length === 0) return;
        const drawn = run.map((point, i) => `${i === 0 ? "M" : "L"}${x(point.at)} ${y(valueOf(point))}`).join("");
        path += drawn;
        filled += `${drawn}V${HEIGHT}H${x(run[0].at)}Z`;
        run = [];
      };
      for (const point of points) {
        if (valueOf(point) === null || (run.length > 0 && point.at - run.at(-1).at > GAP_MS)) end();
        if (valueOf(point) !== null) run.push(point);
      }
      end();
      setAttribute(line, "d", path);
      setAttribute(area, "d", filled);
      if (label !== null) setAttribute(node, "aria-label", label(peak));
      return peak;
    },
  };
}
