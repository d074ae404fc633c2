// A game as the page shows it, read from an output of which nothing is taken for
// granted: a plugin may write any JSON. What is not understood is kept as `also`.

const isRecord = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const isText = (value) => typeof value === "string";

/** Which outputs' fields the views show in a place of their own, and in which shape. */
const KNOWN = {
  game_id: isText,
  status: isText,
  period: isNumber,
  clock: isText,
  points: (value) => isRecord(value) && Object.values(value).every(isNumber),
  by_period: (value) => isRecord(value)
    && Object.values(value).every((list) => Array.isArray(list) && list.every(isNumber)),
  players: (value) => isRecord(value)
    && Object.values(value).every((team) => isRecord(team) && Object.values(team).every(isNumber)),
  lead_changes: isNumber,
  last_seq: isNumber,
  events: isNumber,
  duplicates: isNumber,
  gaps: isNumber,
};

/** An output as a game; null where it says no `game_id` (there is nothing to call it by). */
export function readGame(output) {
  if (!isRecord(output) || !isText(output.game_id)) return null;
  const known = {};
  const also = [];
  for (const [field, value] of Object.entries(output)) {
    if (Object.hasOwn(KNOWN, field) && KNOWN[field](value)) known[field] = value;
    else also.push([field, value]);
  }
  const id = known.game_id;
  const [date, named] = namesIn(id);
  const of = (field, team) => (known[field] && Object.hasOwn(known[field], team) ? known[field][team] : undefined);
  const teams = teamsOf(named, known).map((name) => {
    // A team that has not scored yet may be missing; before the game, nobody reads a nought.
    const points = of("points", name) ?? (known.points ? 0 : undefined);
    return {
      name,
      points: known.status === "scheduled" && points === 0 ? undefined : points,
      periods: of("by_period", name) ?? [],
      players: Object.entries(of("players", name) ?? {}).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)),
    };
  });
  const period = Math.max(0, Math.min(99, Math.trunc(known.period ?? 0)));
  const periods = Math.min(99, Math.max(4, period, ...teams.map((team) => team.periods.length)));
  const [away, home] = teams;
  const game = {
    id, date, teams, period, periods, also,
    status: known.status ?? "",
    clock: known.clock ?? "",
    leadChanges: known.lead_changes,
    lastSeq: known.last_seq,
    events: known.events,
    duplicates: known.duplicates,
    gaps: known.gaps,
    elapsed: elapsed(period, known.clock),
    difference: home && known.points ? (home.points ?? 0) - (away.points ?? 0) : null,
    title: home ? `${away.name} at ${home.name}` : id,
  };
  game.when = when(game);
  game.search = `${id} ${teams.map((team) => team.name).join(" ")}`.toLowerCase();
  return game;
}

/** `DATE-AWAY-HOME` or `AWAY-HOME`: the date and the teams' names, where it is one. */
function namesIn(id) {
  const match = /^(?:(\d{4}-\d\d-\d\d)-)?([^-]+)-([^-]+)$/.exec(id);
  return match ? [match[1] ?? "", [match[2], match[3]]] : ["", []];
}

/** Away, home, and whoever else scored. The id names the sides unless the events contradict it. */
function teamsOf(named, known) {
  const seen = new Set();
  for (const field of ["points", "by_period", "players"]) {
    for (const team of Object.keys(known[field] ?? {})) seen.add(team);
  }
  const trusted = named[0] !== named[1]
    && ([...seen].every((team) => named.includes(team)) || named.every((team) => seen.has(team)));
  return trusted ? [...new Set([...named, ...seen])] : [...seen];
}

/** Winner or leader: the index among the first two teams, or -1. */
export function leader(game) {
  return game.difference === null || game.difference === 0 ? -1 : game.difference > 0 ? 1 : 0;
}

export function periodName(period) {
  if (period <= 4) return `Q${period}`;
  return period === 5 ? "OT" : `${period - 4}OT`;
}

/** What a scoreboard says under the score: `Q3 4:21`, `Halftime`, `Final · OT`. */
function when({ status, period, clock }) {
  if (status === "final") return period > 4 ? `Final · ${periodName(period)}` : "Final";
  if (status === "scheduled") return "Scheduled";
  const running = [period > 0 ? periodName(period) : "", clock].filter(Boolean).join(" ");
  if (status === "live" && period > 0 && /^0:00(\.0+)?$/.test(clock)) {
    return period === 2 ? "Halftime" : `End of ${periodName(period)}`;
  }
  return status === "live" || status === "" ? running : [status, running].filter(Boolean).join(" · ");
}

/** Seconds of game time at the end of a period: four of 12 minutes, overtimes of 5. */
export function periodEnd(period) {
  return period <= 4 ? period * 720 : 2880 + (period - 4) * 300;
}

/** A second of game time as a scoreboard has it: `Q3 4:21`. */
export function momentAt(second) {
  let period = 1;
  while (periodEnd(period) < second) period += 1;
  const left = Math.floor(periodEnd(period) - second);
  return `${periodName(period)} ${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
}

/** Seconds of game time at a clock's reading; null where it is none. */
export function elapsed(period, clock) {
  const match = /^(\d{1,2}):(\d\d(?:\.\d+)?)$/.exec(clock ?? "")
    ?? /^PT(?:(\d{1,2})M)?(?:(\d{1,2}(?:\.\d+)?)S)?$/.exec(clock ?? "");
  if (!(period >= 1 && period <= 99) || !match) return null;
  const left = Number(match[1] ?? 0) * 60 + Number(match[2] ?? 0);
  return Math.max(periodEnd(period - 1), periodEnd(period) - left);
}

/** Any JSON in one line of bounded length, for fields whose meaning is not known here. */
export function brief(value, length = 400) {
  const text = line(value, 0, { left: 200 });
  return text.length > length ? `${text.slice(0, length)}…` : text;
}

function line(value, depth, budget) {
  if (typeof value !== "object" || value === null) return String(value);
  const parts = [];
  for (const [key, inner] of Object.entries(value)) {
    if (depth > 3 || budget.left-- <= 0) return [...parts, "…"].join(", ");
    const text = line(inner, depth + 1, budget);
    parts.push(Array.isArray(value) ? text : `${key} ${isRecord(inner) ? `(${text})` : text}`);
  }
  return parts.join(", ");
}
