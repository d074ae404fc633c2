// What runs where: slots with their plugins and swaps, groups with their partitions and
// lag. The host has no stream for these; they are asked for again and again while shown.

import { el, setText, setAttribute, show, keyed, cells, count, plural, getJson } from "./dom.js";

const POLL_MS = 1_500;
const TIMEOUT_MS = 10_000;

export class OperatorView {
  title = "Operator · Courtside";
  #say;
  #timer = 0;
  #closed = new AbortController();
  #states = new Map();
  /** The group's progress at the poll before, for a rate. */
  #progress = new Map();
  #broken = "";

  constructor(say) {
    this.#say = say;
    this.fault = el("p", { class: "note bad", role: "status" });
    show(this.fault, false);
    this.slots = el("div", { class: "slots" });
    this.groups = el("div", {});
    this.none = el("p", { class: "note" }, "No slot yet: put a plugin into the plugin directory, as scores/default.wasm.");
    show(this.none, false);
    this.node = el("div", { class: "operator" },
      el("div", { class: "head" }, el("h1", { tabindex: "-1" }, "Operator")), this.fault,
      el("section", { "aria-labelledby": "h-slots" }, el("h2", { id: "h-slots" }, "Slots"), this.none, this.slots),
      el("section", { "aria-labelledby": "h-groups" }, el("h2", { id: "h-groups" }, "Groups"), this.groups));
  }

  open() {
    scrollTo(0, 0);
    this.#poll();
  }

  close() {
    this.#closed.abort();
    clearTimeout(this.#timer);
  }

  update() {}

  async #poll() {
    const closed = this.#closed.signal;
    if (!document.hidden) {
      try {
        const within = AbortSignal.any([closed, AbortSignal.timeout(TIMEOUT_MS)]);
        const [plugins, groups] = await Promise.all([getJson("plugins", within), getJson("group", within)]);
        this.#draw(plugins?.slots ?? [], groups?.groups ?? []);
        this.#fail("");
      } catch (error) {
        if (!closed.aborted) this.#fail(`The host does not answer (${error.message}). What is shown may be old.`);
      }
    }
    if (!closed.aborted) this.#timer = setTimeout(() => this.#poll(), POLL_MS);
  }

  #fail(text) {
    if (this.#broken === text) return;
    this.#broken = text;
    show(this.fault, text !== "");
    setText(this.fault, text);
  }

  #draw(slots, groups) {
    show(this.none, slots.length === 0);
    keyed(this.slots, slots, (slot) => slot.slot, createSlot);
    const now = performance.now();
    const rated = groups.map((group) => ({ ...group, rate: this.#rate(group, now) }));
    keyed(this.groups, rated, (group) => `${group.pipeline}/${group.group}`, createGroup);
    for (const slot of slots) {
      const before = this.#states.get(slot.slot);
      if (before !== undefined && before !== slot.state) this.#say(`${slot.slot}: ${slot.state}`);
      this.#states.set(slot.slot, slot.state);
    }
  }

  /** Records processed a second since the poll before; null at the first. */
  #rate(group, now) {
    const key = `${group.pipeline}/${group.group}`;
    const done = (group.partitions ?? []).reduce((sum, partition) => sum + (partition.committed ?? 0), 0);
    const before = this.#progress.get(key);
    this.#progress.set(key, { done, now });
    return before && done >= before.done ? ((done - before.done) * 1000) / (now - before.now) : null;
  }
}

function createSlot(first) {
  const state = badge();
  const plugin = el("p", { class: "plugin" });
  const why = el("p", { class: "note bad" });
  const facts = el("dl", { class: "facts" });
  const history = el("ol", { class: "history", role: "list", reversed: "" });
  const summary = el("summary", {});
  const details = el("details", { open: first.key === null ? "" : null }, summary, history);
  const node = el("article", { class: "panel slot" },
    el("h3", {}, el("bdi", {}, first.slot), state.node), plugin, why, facts, details);
  return {
    node,
    update(slot) {
      state.update(slot.state);
      setText(plugin, slot.plugin ? `${slot.plugin.name} ${slot.plugin.version}` : "no plugin");
      const events = [...(slot.history ?? [])].reverse();
      const refused = slot.state === "rejected" ? events.find((event) => event.state === "rejected") : undefined;
      show(why, Boolean(refused));
      const undone = refused?.code === "plugin-rolled-back";
      if (undone) state.update("rolled back");
      setText(why, !refused ? "" : undone
        ? `${short(refused.digest)} was rolled back${slot.plugin ? "; the one before it runs again" : ""}.`
        : `The last plugin offered (${short(refused.digest)}) was rejected: ${because(refused)}.${slot.plugin ? " The one before it goes on." : ""}`);
      const takeover = Object.entries(slot.takeover ?? {});
      drawFacts(facts, [
        ["Digest", slot.plugin && short(slot.plugin.digest), slot.plugin?.digest],
        ["Since", slot.since && ago(slot.since), slot.since],
        ["Swaps", count(slot.swaps)],
        ["On trial until", slot.trial_until && new Date(slot.trial_until).toLocaleTimeString(), slot.trial_until],
        ["Hosts", (slot.hosts?.length ?? 0) > 1 && agreement(slot), slot.hosts?.map((host) => `${host.host}: ${short(host.digest) || "none"}`).join("\n")],
        ["Writes", slot.plugin?.writes],
        ["Reads", slot.plugin?.reads?.join(", ")],
        ["Size", slot.plugin && `${count(Math.ceil(slot.plugin.size_bytes / 1024))} KiB`],
        ["Took over at", takeover.length > 0 && takeover.map(([partition, offset]) => `${partition}:${offset}`).join("  "), "partition:offset"],
      ]);
      show(details, events.length > 0);
      setText(summary, `History (${plural(events.length, "event")})`);
      keyed(history, events, (event) => `${event.at} ${event.state} ${event.digest}`, createEvent);
    },
  };
}

/** Whether the hosts run the same plugin in a slot. */
function agreement(slot) {
  const redoing = slot.hosts.some((host) => host.redoing > 0) ? ", some process again" : "";
  return `${slot.agreed ? "all" : "not all"} of ${slot.hosts.length} run the same${redoing}`;
}

function createEvent(first) {
  const state = badge();
  state.update(first.state);
  const time = el("time", { datetime: first.at, title: first.at });
  const node = el("li", {}, state.node, el("code", { title: first.digest ?? null }, first.digest ? short(first.digest) : "file removed"), time,
    el("span", { class: "reason" }, because(first)));
  return { node, update: (event) => setText(time, ago(event.at)) };
}

const PARTITION_HEAD = ["Partition", "Lag", "State", "Committed", "End", "Member"];

function createGroup(first) {
  const facts = el("dl", { class: "facts" });
  const body = el("tbody", {});
  const node = el("article", { class: "panel" },
    el("h3", {}, el("bdi", {}, first.group)), facts,
    el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `Partitions of ${first.group}` },
      el("table", { class: "partitions" }, el("caption", { class: "unseen" }, `Partitions of ${first.group}`),
        el("thead", {}, el("tr", {}, ...PARTITION_HEAD.map((name) => el("th", { scope: "col" }, name)))), body)));
  return {
    node,
    update(group) {
      const members = group.members ?? [];
      drawFacts(facts, [
        ["Pipeline", group.pipeline],
        ["Input", group.input],
        ["Lag", count(group.lag)],
        ["Processed", group.rate !== null && `${count(Math.round(group.rate))} / s`],
        ["Members", members.map((member) => `${member.member} on ${member.host} (${plural(member.partitions?.length ?? 0, "partition")})`).join("; ") || "none"],
      ]);
      const most = Math.max(1, ...(group.partitions ?? []).map((partition) => partition.lag));
      const partitions = (group.partitions ?? []).map((partition) => ({ ...partition, share: partition.lag / most }));
      keyed(body, partitions, (partition) => partition.partition, createPartition);
    },
  };
}

function createPartition(first) {
  const state = badge();
  const reason = el("span", { class: "reason" });
  const [lag, committed, end, member] = ["lag", null, null, "name"].map((style) => el("td", { class: style }));
  const node = el("tr", {}, el("th", { scope: "row" }, String(first.partition)), lag, el("td", {}, state.node, reason), committed, end, member);
  return {
    node,
    update(partition) {
      state.update(partition.state);
      setText(reason, because(partition));
      setText(committed, count(partition.committed));
      setText(end, count(partition.end));
      setText(lag, count(partition.lag));
      setText(member, partition.member ?? "–");
      lag.style.setProperty("--share", `${100 * partition.share}%`);
    },
  };
}

function badge() {
  const node = el("span", { class: "badge" });
  return {
    node,
    update(state) {
      setText(node, String(state));
      setAttribute(node, "data-state", String(state));
    },
  };
}

/** Rows of `[name, text, title]`; those without a text are left out. */
function drawFacts(list, rows) {
  keyed(list, rows.filter(([, text]) => text), ([name]) => name, ([name]) => {
    const value = el("dd", {});
    return {
      node: el("div", {}, el("dt", {}, name), value),
      update([, text, title]) {
        setText(value, text);
        setAttribute(value, "title", title ?? null);
      },
    };
  });
}

function because({ code, reason }) {
  return [code, reason].filter(Boolean).join(": ");
}

function short(digest) {
  return String(digest ?? "").slice(0, 12);
}

function ago(time) {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(time)) / 1000));
  if (Number.isNaN(seconds)) return String(time);
  if (seconds < 100) return `${seconds} s ago`;
  if (seconds < 6_000) return `${Math.round(seconds / 60)} min ago`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h ago` : `${Math.round(seconds / 86_400)} days ago`;
}
