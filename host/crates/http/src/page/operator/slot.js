// A slot: what runs in it, what is being put into it, what can be taken back, and every swap
// with the offset at which it happened in each partition.

import { el, setText, setAttribute, show, keyed, cells, count, plural } from "../dom.js";
import { badge, because, bytes, clock, drawFacts, moment, short, span } from "./words.js";

const STEPS = ["loading", "rehearsing", "active"];
const FILES = { none: "none", new: "new", runs: "the plugin that runs", rejected: "rejected", "rolled-back": "rolled back" };

/** The state of a slot as a word, which says more than the host's while a plugin is taken back. */
export function stateOf(slot) {
  return slot.hosts?.some((host) => host.redoing > 0) ? "rolling back" : slot.state;
}

export function isChanging(slot) {
  return slot.state === "loading" || slot.state === "rehearsing" || stateOf(slot) === "rolling back";
}

function lastRejection(slot) {
  return slot.history?.findLast((event) => event.state === "rejected");
}

/** Filled in only once it is open: there may be a slot for each of many keys. */
export function createSlot(first) {
  const state = badge();
  const plugin = el("span", { class: "plugin" });
  const digest = el("code", {});
  const steps = el("ol", { class: "steps", "aria-label": "The plugin being put in force" });
  const body = el("div", { class: "slot-body" });
  const node = el("details", { class: "panel slot", open: first.key === null ? "" : null },
    el("summary", {}, el("h3", {}, el("bdi", {}, first.slot)), state.node, plugin, digest, steps), body);
  let slot = first;
  let drawn = null;
  let parts = null;
  const fill = () => {
    if (!node.open || drawn === slot) return;
    parts ??= createBody(body);
    parts.update(slot);
    drawn = slot;
  };
  node.addEventListener("toggle", fill);
  return {
    node,
    update(now) {
      slot = now;
      state.update(stateOf(slot));
      setText(plugin, slot.plugin ? `${slot.plugin.name} ${slot.plugin.version}` : "no plugin");
      setText(digest, short(slot.plugin?.digest));
      setAttribute(digest, "title", slot.plugin?.digest ?? null);
      drawSteps(steps, slot);
      fill();
    },
  };
}

/** How far the plugin is that is being put in force. */
function drawSteps(list, slot) {
  const at = STEPS.indexOf(slot.state);
  show(list, isChanging(slot) && at >= 0);
  if (list.hidden) return;
  const candidate = short(slot.history?.at(-1)?.digest);
  cells(list, STEPS.map((step, i) => (i === 0 ? `${step} ${candidate}` : step)), () => el("li", {}));
  [...list.children].forEach((step, i) => setAttribute(step, "aria-current", i === at ? "step" : null));
}

function createBody(body) {
  const why = el("p", { class: "note bad" });
  const file = el("div", { class: "note" });
  const fileText = el("p", {});
  const fileCommand = el("code", { class: "command" });
  file.append(fileText, fileCommand);
  const trial = el("div", { class: "note trial" });
  const facts = el("dl", { class: "facts" });
  const limits = el("dl", { class: "facts" });
  const swaps = createSwaps();
  const hosts = createHosts();
  const history = el("ol", { class: "history", role: "list" });
  const summary = el("summary", {});
  const details = el("details", {}, summary, history);
  body.append(why, file, trial, facts, swaps.node, hosts.node,
    el("details", {}, el("summary", {}, "Limits"), limits), details);
  const trialText = el("p", {});
  const trialCommand = el("code", { class: "command" });
  trial.append(trialText, trialCommand);
  return {
    update(slot) {
      const refused = slot.state === "rejected" ? lastRejection(slot) : undefined;
      show(why, Boolean(refused));
      setText(why, !refused ? ""
        : `The last plugin offered (${short(refused.digest)}) was rejected: ${because(refused)}.${slot.plugin ? " The previous plugin goes on." : ""}`);
      const isOther = !refused && ["rolled-back", "rejected"].includes(slot.file?.state);
      show(file, isOther);
      setText(fileText, !isOther ? "" : `The file in this host's directory is not the plugin that runs: ${short(slot.file.digest)} was ${slot.file.state === "rejected" ? `rejected (${because(slot.file)})` : "rolled back"}.`);
      setText(fileCommand, `courtside plugins restore-file ${shell(slot.slot)}`);
      const redoing = (slot.hosts ?? []).reduce((sum, host) => sum + (host.redoing ?? 0), 0);
      show(trial, Boolean(slot.trial_until) || redoing > 0);
      setText(trialText, redoing > 0
        ? `Rolling back: ${plural(redoing, "partition")} process the events since the swap again.`
        : slot.trial_until ? `On trial until ${clock(slot.trial_until)} (${span(Math.max(0, Math.round((Date.parse(slot.trial_until) - Date.now()) / 1000)))}): until then it can be rolled back as if it had never run.` : "");
      show(trialCommand, redoing === 0);
      setText(trialCommand, `courtside plugins rollback ${shell(slot.slot)}`);
      drawFacts(facts, [
        ["Runs since", slot.since && clock(slot.since), slot.since],
        ["Swaps since the host started", count(slot.swaps)],
        ["Writes", slot.plugin?.writes],
        ["Reads", slot.plugin?.reads?.join(", ")],
        ["Size", slot.plugin && bytes(slot.plugin.size_bytes)],
        ["File in the directory", slot.file && FILES[slot.file.state]],
        ["Hosts", slot.hosts?.length > 0 && agreement(slot)],
      ]);
      const { limits: may = {} } = slot;
      drawFacts(limits, [
        ["Memory of an instance", bytes(may.memory_bytes_max)],
        ["CPU time of a call", typeof may.call_cpu_time_max_ms === "number" && `${count(may.call_cpu_time_max_ms)} ms`],
        ["Output of a call", bytes(may.emitted_bytes_max)],
        ["Checkpoint", bytes(may.checkpoint_bytes_max)],
        ["Plugin file", bytes(may.plugin_bytes_max)],
        ["Entities in an instance", count(may.entities_per_instance)],
      ]);
      swaps.update(slot);
      hosts.update(slot);
      const events = [...(slot.history ?? [])].reverse();
      show(details, events.length > 0);
      setText(summary, `Steps on this host (${count(events.length)})`);
      keyed(history, events, (event) => `${event.at} ${event.state} ${event.digest}`, createEvent);
    },
  };
}

/** A slot's name as a shell takes it: a key may have anything in it. */
function shell(name) {
  return /^[\w./%-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`;
}

/** Whether the hosts run the same plugin in a slot. */
function agreement(slot) {
  if (slot.hosts.length === 1) return "one";
  return `${count(slot.hosts.length)}, ${slot.agreed ? "all with the same plugin" : "not all with the same plugin"}`;
}

function createSwaps() {
  const head = el("tr", {});
  const body = el("tbody", {});
  const scroll = el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Swaps, with the first offset in each partition" },
    el("table", { class: "swaps" }, el("caption", {}, "Swaps of the group: the first offset that each plugin processed, in each partition"), el("thead", {}, head), body));
  const none = el("p", { class: "small" }, "No swap is on record yet: a swap is recorded once its plugin has taken over in a partition.");
  return {
    node: el("div", {}, scroll, none),
    update({ swaps_of_group: swaps = [], plugin }) {
      const partitions = [...new Set(swaps.flatMap((swap) => Object.keys(swap.partitions ?? {})))].sort((a, b) => a - b);
      show(scroll, swaps.length > 0);
      show(none, swaps.length === 0);
      cells(head, ["When", "Plugin", "How", ...partitions], (at) => el("th", { scope: "col", class: at < 3 ? "word" : null }));
      const rows = swaps.map((swap, at) => ({ swap, at, partitions, runs: at === swaps.length - 1 && swap.digest === plugin?.digest })).reverse();
      keyed(body, rows, ({ at, swap }) => `${at} ${swap.digest}`, createSwap);
    },
  };
}

function createSwap() {
  const when = moment();
  const name = el("bdi", {});
  const digest = el("code", {});
  const how = badge();
  const node = el("tr", {});
  const fixed = [el("th", { scope: "row", class: "word" }, when.node), el("td", { class: "word" }, name, " ", digest), el("td", { class: "word" }, how.node)];
  return {
    node,
    update({ swap, partitions, runs }) {
      when.update(swap.at);
      setText(name, swap.plugin || "no plugin");
      setText(digest, short(swap.digest));
      setAttribute(digest, "title", swap.digest);
      how.update(swap.kind === "rollback" ? `rollback, attempt ${swap.attempt}` : swap.kind ?? "swap");
      setAttribute(how.node, "data-state", swap.kind);
      setAttribute(node, "data-runs", runs ? "" : null);
      keyed(node, [0, 1, 2, ...partitions], (key) => key, (key) => {
        if (typeof key === "number") return { node: fixed[key], update() {} };
        const cell = el("td", {});
        return { node: cell, update: () => {} };
      });
      partitions.forEach((partition, i) => setText(node.children[3 + i], count(swap.partitions?.[partition])));
    },
  };
}

function createHosts() {
  const body = el("tbody", {});
  const node = el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Plugin of each host" }, el("table", { class: "hosts" },
    el("caption", {}, "Plugin of each host"),
    el("thead", {}, el("tr", {}, ...["Host", "State", "Plugin", "Processing again", "Reported"].map((name) => el("th", { scope: "col", class: "word" }, name)))), body));
  return {
    node,
    update({ hosts = [], agreed }) {
      // One host that agrees with itself is no news.
      show(node, hosts.length > 1 || agreed === false);
      keyed(body, hosts, ({ host }) => host, (first) => {
        const state = badge();
        const digest = el("code", {});
        const redoing = el("td", { class: "word" });
        const said = moment();
        return {
          node: el("tr", {}, el("th", { scope: "row", class: "word" }, el("bdi", {}, first.host)), el("td", { class: "word" }, state.node),
            el("td", { class: "word" }, digest), redoing, el("td", { class: "word" }, said.node)),
          update(host) {
            state.update(host.state);
            setText(digest, short(host.digest) || "none");
            setText(redoing, host.redoing > 0 ? plural(host.redoing, "partition") : "–");
            said.update(host.at);
          },
        };
      });
    },
  };
}

function createEvent(first) {
  const state = badge();
  state.update(first.state);
  const time = moment();
  const node = el("li", {}, time.node, state.node, el("code", { title: first.digest ?? null }, first.digest ? short(first.digest) : "file removed"),
    el("span", { class: "reason" }, because(first)));
  return { node, update: (event) => time.update(event.at) };
}
