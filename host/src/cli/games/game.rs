//! A game's output, in words: as `nba-scoring` writes it, or as JSON where
//! another plugin has other outputs.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Write as _};

use serde::Deserialize;

use crate::cli::{operator::table, plain};

/// Players shown of each team.
const LEADERS: usize = 5;
/// Columns of an output that is shown as JSON in a table.
const JSON_COLUMNS: usize = 120;

/// Output of `nba-scoring`, and of plugins that write the same fields.
#[derive(Debug, Deserialize)]
pub struct Game {
    pub game_id: String,
    pub status: String,
    period: u32,
    clock: String,
    points: BTreeMap<String, u64>,
    #[serde(default)]
    by_period: BTreeMap<String, Vec<u64>>,
    #[serde(default)]
    players: BTreeMap<String, BTreeMap<String, u64>>,
    #[serde(default)]
    lead_changes: Option<u64>,
    #[serde(default)]
    events: Option<u64>,
    #[serde(default)]
    duplicates: Option<u64>,
    #[serde(default)]
    gaps: Option<u64>,
}

impl Game {
    /// The game, if the output describes one.
    #[must_use]
    pub fn of(output: &str) -> Option<Self> {
        serde_json::from_str(output).ok()
    }

    /// The teams, with the guest first if the id says which that is.
    fn teams(&self) -> Vec<&str> {
        let mut teams: Vec<&str> = self.points.keys().map(String::as_str).collect();
        let mut words = self.game_id.rsplit('-');
        let (home, away) = (words.next(), words.next());
        let place = |team: &str| match Some(team) {
            team if team == away => 0,
            team if team == home => 2,
            _ => 1,
        };
        teams.sort_by_key(|team| place(team));
        teams
    }

    fn matchup(&self) -> String {
        match *self.teams() {
            [] => "-".to_owned(),
            [away, home] if self.game_id.ends_with(&format!("{away}-{home}")) => {
                format!("{away} @ {home}")
            }
            ref teams => teams.join(" - "),
        }
    }

    fn score(&self) -> String {
        let points: Vec<_> = self
            .teams()
            .iter()
            .filter_map(|team| Some(self.points.get(*team)?.to_string()))
            .collect();
        if points.is_empty() {
            "-".to_owned()
        } else {
            points.join("-")
        }
    }

    /// The line that reports a change of the game.
    #[must_use]
    pub fn headline(&self) -> String {
        let Self { game_id, clock, .. } = self;
        let (matchup, score) = (self.matchup(), self.score());
        let (period, status) = (period(self.period), &self.status);
        format!("{game_id}  {matchup}  {score}  {period} {clock}  {status}")
    }

    fn row(&self, key: &str) -> Vec<String> {
        vec![
            key.to_owned(),
            self.matchup(),
            self.score(),
            period(self.period),
            self.clock.clone(),
            self.status.clone(),
        ]
    }

    /// Sort order: live games first, then games to come, then finished ones.
    #[must_use]
    pub fn rank(&self) -> u8 {
        match &*self.status {
            "live" => 0,
            "final" => 2,
            _ => 1,
        }
    }

    fn details(&self) -> String {
        let (matchup, period) = (self.matchup(), period(self.period));
        let (clock, status) = (&self.clock, &self.status);
        let first = format!("{}  {matchup}  {period} {clock}  {status}", self.game_id);
        // Text from an event must not begin a line, which would look like one of
        // ours.
        let mut text = format!("{}\n\n", plain::line(&first));
        text += &self.line_score();
        let mut leaders = String::new();
        for team in self.teams() {
            let mut players: Vec<_> = self.players.get(team).into_iter().flatten().collect();
            players.sort_by_key(|(name, points)| (Reverse(**points), *name));
            let shown: Vec<_> = players
                .iter()
                .take(LEADERS)
                .map(|(name, points)| format!("{name} {points}"))
                .collect();
            if !shown.is_empty() {
                let line = format!("{team}  {}", shown.join(", "));
                let _ = writeln!(leaders, "{}", plain::line(&line));
            }
        }
        if !leaders.is_empty() {
            let _ = write!(text, "\n{leaders}");
        }
        let facts: Vec<_> = [
            (self.lead_changes, "lead changes"),
            (self.events, "events"),
            (self.duplicates, "duplicates"),
            (self.gaps, "gaps"),
        ]
        .into_iter()
        .filter_map(|(count, what)| Some(format!("{what} {}", count?)))
        .collect();
        if !facts.is_empty() {
            let _ = writeln!(text, "\n{}", facts.join(", "));
        }
        text
    }

    fn line_score(&self) -> String {
        let teams = self.teams();
        let periods = self.by_period.values().map(Vec::len).max().unwrap_or(0);
        let names = teams.iter().map(|team| plain::line(team).into_owned());
        let mut columns: Vec<Vec<String>> =
            vec![[String::new()].into_iter().chain(names).collect()];
        for (index, number) in (1_u32..).take(periods).enumerate() {
            let scored = |team: &&str| {
                let points = self.by_period.get(*team)?.get(index)?;
                Some(points.to_string())
            };
            let name = period(number).replace('Q', "");
            let cells = teams.iter().map(|team| scored(team).unwrap_or_default());
            columns.push([name].into_iter().chain(cells).collect());
        }
        let totals = teams.iter().map(|team| self.points.get(*team));
        let totals = totals.map(|points| points.map(ToString::to_string).unwrap_or_default());
        columns.push(["T".to_owned()].into_iter().chain(totals).collect());
        aligned(&columns)
    }
}

/// Puts columns of equal length side by side: the first aligned left, the others
/// right.
fn aligned(columns: &[Vec<String>]) -> String {
    let widths: Vec<usize> = columns
        .iter()
        .map(|column| column.iter().map(|cell| plain::width(cell)).max())
        .map(Option::unwrap_or_default)
        .collect();
    let rows = columns.first().map_or(0, Vec::len);
    let mut text = String::new();
    for row in 0..rows {
        let cells = columns.iter().zip(&widths).enumerate();
        let cells = cells.filter_map(|(number, (column, width))| {
            Some(plain::pad(column.get(row)?, *width, number > 0))
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn period(number: u32) -> String {
    match number {
        0 => "-".to_owned(),
        1..=4 => format!("Q{number}"),
        5 => "OT".to_owned(),
        more => format!("{}OT", more - 4),
    }
}

/// One game with all its details.
#[must_use]
pub fn details(key: &str, output: &str) -> String {
    match Game::of(output) {
        Some(game) => game.details(),
        None => format!("{}\n{}\n", plain::line(key), plain::json(output)),
    }
}

/// The lines of a table of games by their keys; the first line is the header.
#[must_use]
pub fn board<'a>(games: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let (mut rows, mut others) = (Vec::new(), Vec::new());
    for (key, output) in games {
        match Game::of(output) {
            Some(game) => rows.push(game.row(key)),
            None => others.push(vec![
                key.to_owned(),
                plain::cut(&plain::json(output), JSON_COLUMNS).into_owned(),
            ]),
        }
    }
    let mut text = String::new();
    if others.is_empty() || !rows.is_empty() {
        let header = ["game", "matchup", "score", "period", "clock", "status"];
        text += &table(&header, rows);
    }
    if !others.is_empty() {
        text += &table(&["key", "output"], others);
    }
    text.split_inclusive('\n').map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn output() -> String {
        json!({
            "game_id": "2015-12-17-HOU-LAL", "status": "live", "period": 5, "clock": "3:07",
            "points": {"HOU": 107, "LAL": 87},
            "by_period": {"HOU": [32, 27, 30, 9, 9], "LAL": [15, 20, 30, 22, 0]},
            "players": {"HOU": {"A": 9, "B": 25, "姚明": 9}, "LAL": {}},
            "lead_changes": 3, "last_seq": 460, "events": 460, "duplicates": 0, "gaps": 0,
        })
        .to_string()
    }

    #[test]
    fn a_game_has_its_line_score_and_its_leaders() {
        let expected = [
            "2015-12-17-HOU-LAL  HOU @ LAL  OT 3:07  live",
            "",
            "      1   2   3   4  OT    T",
            "HOU  32  27  30   9   9  107",
            "LAL  15  20  30  22   0   87",
            "",
            "HOU  B 25, A 9, 姚明 9",
            "",
            "lead changes 3, events 460, duplicates 0, gaps 0",
            "",
        ]
        .join("\n");
        assert_eq!(details("2015-12-17-HOU-LAL", &output()), expected);
    }

    #[test]
    fn a_board_is_aligned_and_has_what_is_no_game_as_json() {
        let (game, other) = (output(), r#"{"bets":7}"#);
        let games = [("2015-12-17-HOU-LAL", &*game), ("b", other)];
        let expected = [
            "GAME                MATCHUP    SCORE   PERIOD  CLOCK  STATUS",
            "2015-12-17-HOU-LAL  HOU @ LAL  107-87  OT      3:07   live",
            "KEY  OUTPUT",
            r#"b    {"bets":7}"#,
            "",
        ]
        .join("\n");
        assert_eq!(board(games.into_iter()).concat(), expected);
        assert_eq!(board([].into_iter()).len(), 1, "the header alone");
        assert_eq!(details("b", other), "b\n{\"bets\":7}\n");
    }

    #[test]
    fn nothing_of_an_event_is_a_line_of_ours() {
        let forged = json!({
            "game_id": "a\nb", "status": "live\nFINAL", "period": 1, "clock": "1\n2",
            "points": {"X\nY": 1}, "by_period": {"X\nY": [1]}, "players": {"X\nY": {"p\nq": 1}},
        });
        let lines = [
            "a\\u{a}b  X\\u{a}Y  Q1 1\\u{a}2  live\\u{a}FINAL",
            "",
            "         1  T",
        ];
        let more = ["X\\u{a}Y  1  1", "", "X\\u{a}Y  p\\u{a}q 1", ""];
        let expected = [&lines[..], &more[..]].concat().join("\n");
        assert_eq!(details("a\nb", &forged.to_string()), expected);
        assert_eq!(details("a\nb", "{}"), "a\\u{a}b\n{}\n");
    }

    #[test]
    fn teams_that_the_id_does_not_name_are_no_matchup() {
        let text = output().replace("2015-12-17-HOU-LAL", "cup-final");
        let game = Game::of(&text).unwrap();
        assert_eq!(
            game.headline(),
            "cup-final  HOU - LAL  107-87  OT 3:07  live"
        );
        let none = text.replace(r#"{"HOU":107,"LAL":87}"#, "{}");
        let game = Game::of(&none).unwrap();
        assert_eq!((game.matchup(), game.score()), ("-".into(), "-".into()));
    }
}
