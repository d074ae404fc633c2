// One pipeline: how far behind it is, how fast it goes, and each partition with who has it.

import { el, setText, setAttribute, show, keyed, count, plural } from "../dom.js";
import { createPlot } from "./plot.js";
import { badge, because, drawFacts, span } from "./words.js";

const HEAD = ["Partition", "State", "Host", "Lag", "Events/s", "Committed", "End"];

export class PipelinePanel {
  constructor() {
    this.title = el("h2", { id: "h-pipeline" });
    this.facts = el("dl", { class: "facts" });
    this.lag = createFigure("Lag", "records", ({ lag }) => lag);
    this.rate = createFigure("Processed", "events/s", ({ rate }) => rate);
    this.body = el("tbody", {});
    this.caption = el("caption", { class: "unseen" });
    this.table = el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Partitions" },
      el("table", { class: "partitions" }, this.caption,
        el("thead", {}, el("tr", {}, ...HEAD.map((name) => el("th", { scope: "col", class: ["State", "Host"].includes(name) ? "word" : null }, name)))), this.body));
    this.none = el("p", { class: "note" }, "The pipeline has no group yet.");
    this.node = el("section", { "aria-labelledby": "h-pipeline" }, this.title, this.none,
      el("div", { class: "panel" }, this.facts, el("div", { class: "figures" }, this.lag.node, this.rate.node), this.table));
  }

  update(name, group, figures) {
    setText(this.title, `Pipeline ${name}`);
    show(this.none, !group);
    if (!group) return;
    const { members = [], partitions = [] } = group;
    const hostOf = new Map(members.map(({ member, host }) => [member, host]));
    const hosts = new Set(members.map(({ host }) => host)).size;
    drawFacts(this.facts, [
      ["Group", group.group],
      ["Input", group.input],
      ["Partitions", count(partitions.length)],
      ["Members", members.length === 0 ? "none, so no host processes its events" : `${count(members.length)} on ${plural(hosts, "host")}`, members.map(({ member, host, partitions }) => `${member} on ${host}: ${partitions?.join(", ") || "no partition"}`).join("\n")],
    ]);
    const all = figures.of(name, null);
    this.lag.update(group.lag, all);
    this.rate.update(all.at(-1)?.rate ?? null, all);
    setText(this.caption, `Partitions of ${name}`);
    keyed(this.body, partitions.map((partition) => ({
      ...partition, host: hostOf.get(partition.member), points: figures.of(name, partition.partition),
    })), (partition) => partition.partition, createPartition);
  }
}

/** A figure as of now, large, and as it went. */
function createFigure(name, unit, valueOf) {
  const now = el("span", { class: "figure-now" });
  const peak = el("span", { class: "small" });
  const plot = createPlot((peak) => `${name} in the last minutes, at most ${count(Math.round(peak))} ${unit}`);
  return {
    node: el("figure", { class: "figure" },
      el("figcaption", {}, el("span", { class: "figure-name" }, name), now, el("span", { class: "small" }, unit)), plot.node, peak),
    update(value, points) {
      setText(now, value === null ? "–" : count(Math.round(value)));
      const most = plot.update(points, valueOf);
      const seconds = Math.round(((points.at(-1)?.at ?? 0) - (points[0]?.at ?? 0)) / 1_000);
      setText(peak, `The last ${span(Math.max(1, seconds))}, as this page saw them; at most ${count(Math.round(most))}.`);
    },
  };
}

function createPartition(first) {
  const state = badge();
  const reason = el("span", { class: "reason" });
  const host = el("bdi", {});
  const member = el("bdi", { class: "small" });
  const [lag, rate, committed, end] = Array.from({ length: 4 }, () => el("span", {}));
  const [lagPlot, ratePlot] = [createPlot(), createPlot()];
  const node = el("tr", {}, el("th", { scope: "row" }, String(first.partition)), el("td", { class: "word" }, state.node, reason),
    el("td", { class: "word host" }, host, member), el("td", { class: "with-plot" }, lagPlot.node, lag), el("td", { class: "with-plot" }, ratePlot.node, rate),
    el("td", {}, committed), el("td", {}, end));
  return {
    node,
    update(partition) {
      state.update(partition.state);
      setText(reason, because(partition));
      setText(host, partition.member ? partition.host ?? "unknown" : "nobody");
      setText(member, partition.member ?? "");
      setAttribute(lag, "class", partition.lag > 0 ? "some" : null);
      setText(lag, count(partition.lag));
      const { rate: now = null } = partition.points.at(-1) ?? {};
      setText(rate, now === null ? "–" : count(Math.round(now)));
      lagPlot.update(partition.points, ({ lag }) => lag);
      ratePlot.update(partition.points, ({ rate }) => rate);
      setText(committed, count(partition.committed));
      setText(end, count(partition.end));
    },
  };
}
