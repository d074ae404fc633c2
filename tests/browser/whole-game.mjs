// A game that went into overtime, as events: a real one where the games are there, else one like it.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

export const REAL = "2015-12-23-DAL-BKN";

export function wholeGame(games) {
  const file = join(games ?? "", `${REAL}.ndjson`);
  if (games && existsSync(file)) return readFileSync(file, "utf8").trim().split("\n").map((line) => JSON.parse(line));
  const events = [];
  for (let period = 1; period <= 5; period += 1) {
    const minutes = period === 5 ? 5 : 12;
    for (let minute = minutes - 1; minute >= 0; minute -= 1) {
      const team = minute % 2 === 0 ? "DAL" : "BKN";
      events.push({ type: "field_goal", team, player: `Player ${minute % 5}`, points: 2, period, clock: `${minute}:30` });
    }
    if (period === 4) events.push({ type: "field_goal", team: "BKN", player: "Player 1", points: 2, period, clock: "0:01" });
    if (period === 3) events.push({ type: "field_goal", team: "DAL", player: "Player 1", points: 2, period, clock: "0:01" });
    if (period === 5) events.push({ type: "free_throw", team: "DAL", player: "Player 1", points: 1, period, clock: "0:02" });
    events.push({ type: "period_end", team: null, player: null, points: 0, period, clock: "0:00" });
  }
  return events.map((event, i) => ({ game_id: REAL, seq: i + 1, ...event }));
}
