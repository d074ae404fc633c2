//! Each game's score as the host has it, as a table for people or JSON for
//! machines, written row by row.

use std::{collections::BTreeMap, io, io::Write};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ledger::Entry;

/// How the scores are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// A table for people
    #[default]
    #[value(alias = "text")]
    Table,
    /// An array of objects with `game_id`, `output` (the host's latest, or
    /// null), `acknowledged` (a count) and, where a game failed, `error`
    Json,
}

pub(super) struct Report<'a> {
    out: &'a mut (dyn Write + Send),
    format: OutputFormat,
    id_width: usize,
    rows: usize,
}

#[derive(Serialize)]
struct Row<'a> {
    game_id: &'a str,
    output: Option<&'a RawValue>,
    acknowledged: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// The fields of an output that the table shows. Another plugin than
/// `nba-scoring` may have made the output, so any field may be missing.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Score {
    status: Option<String>,
    points: BTreeMap<String, u64>,
    events: Option<u64>,
    duplicates: Option<u64>,
    gaps: Option<u64>,
}

impl<'a> Report<'a> {
    pub(super) fn new(out: &'a mut (dyn Write + Send), format: OutputFormat) -> Self {
        Self {
            out,
            format,
            id_width: 0,
            rows: 0,
        }
    }

    /// How many rows there are already; that is the number of the next entry.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Makes the column of games as wide as the widest id; called before the
    /// first row.
    pub(super) fn set_id_width(&mut self, width: usize) {
        self.id_width = width;
    }

    pub(super) fn row(&mut self, entry: &Entry, output: Option<&RawValue>) -> io::Result<()> {
        match self.format {
            OutputFormat::Json => self.json(entry, output)?,
            OutputFormat::Table => self.table(entry, output)?,
        }
        self.rows += 1;
        Ok(())
    }

    pub(super) fn finish(&mut self) -> io::Result<()> {
        if self.format == OutputFormat::Json {
            self.out
                .write_all(if self.rows == 0 { b"[]\n" } else { b"\n]\n" })?;
        }
        self.out.flush()
    }

    fn json(&mut self, entry: &Entry, output: Option<&RawValue>) -> io::Result<()> {
        let row = serde_json::to_vec(&Row {
            game_id: &entry.id,
            output,
            acknowledged: entry.acknowledged,
            error: entry.failure.as_deref(),
        })?;
        self.out
            .write_all(if self.rows == 0 { b"[\n" } else { b",\n" })?;
        self.out.write_all(&row)
    }

    fn table(&mut self, entry: &Entry, output: Option<&RawValue>) -> io::Result<()> {
        if self.rows == 0 {
            self.line(
                "game",
                "away",
                "home",
                "status",
                ["events", "duplicates", "gaps"],
            )?;
        }
        let Some(output) = output else {
            let status = if entry.failure.is_some() {
                "failed"
            } else if entry.processed {
                "no output"
            } else {
                "unknown"
            };
            return self.line(&entry.id, "-", "-", status, ["-"; 3]);
        };
        let score: Score = serde_json::from_str(output.get()).unwrap_or_default();
        let (away, home) = sides(&entry.id, &score.points);
        let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        let (events, duplicates, gaps) = (
            number(score.events),
            number(score.duplicates),
            number(score.gaps),
        );
        let status = score.status.as_deref().unwrap_or("-");
        self.line(
            &entry.id,
            &away,
            &home,
            status,
            [&events, &duplicates, &gaps],
        )
    }

    fn line(
        &mut self,
        game: &str,
        away: &str,
        home: &str,
        status: &str,
        [events, duplicates, gaps]: [&str; 3],
    ) -> io::Result<()> {
        let width = self.id_width;
        // A terminal obeys control characters; an id must not command it.
        let [game, away, home, status]: [String; 4] =
            [game, away, home, status].map(|text| text.chars().map(visible).collect());
        writeln!(
            self.out,
            "{game:width$}  {away:>7}  {home:>7}  {status:9}  {events:>6}  {duplicates:>10}  {gaps:>5}"
        )
    }
}

fn visible(char: char) -> char {
    if char.is_control() { '\u{fffd}' } else { char }
}

/// The away and the home team, each with its points, in the order that the id
/// names them. If the id names none, the host's order will do.
fn sides(id: &str, points: &BTreeMap<String, u64>) -> (String, String) {
    let text = |team: &str| match points.get(team) {
        Some(points) => format!("{team} {points}"),
        None => "-".to_owned(),
    };
    for (away, home) in id.split('-').zip(id.split('-').skip(1)) {
        if points.contains_key(away) && points.contains_key(home) {
            return (text(away), text(home));
        }
    }
    let mut teams = points.keys();
    let mut next = || teams.next().map_or("-".to_owned(), |team| text(team));
    (next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, value::to_raw_value};

    fn entry(id: &str, failure: Option<&str>) -> Entry {
        Entry {
            id: id.into(),
            acknowledged: 478,
            last: None,
            complete: failure.is_none(),
            processed: false,
            failure: failure.map(str::to_owned),
        }
    }

    fn score() -> Box<RawValue> {
        to_raw_value(&json!({
            "status": "final", "points": {"BOS": 102, "CHA": 89},
            "events": 478, "duplicates": 0, "gaps": 0,
        }))
        .unwrap()
    }

    fn written(format: OutputFormat, rows: &[(Entry, Option<Box<RawValue>>)]) -> String {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out, format);
        report.set_id_width(
            rows.iter()
                .map(|(entry, _)| entry.id.len())
                .max()
                .unwrap_or(0),
        );
        for (entry, output) in rows {
            report.row(entry, output.as_deref()).unwrap();
        }
        report.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_table() {
        let rows = [
            (entry("2015-12-23-CHA-BOS", None), Some(score())),
            (entry("2015-12-23-BOS-CHA-r2", None), Some(score())),
            (entry("a\x1bb", Some("play-refused: 400")), None),
            (
                entry("other", None),
                Some(to_raw_value(&json!([1])).unwrap()),
            ),
            (entry("late", None), None),
        ];
        let table = written(OutputFormat::Table, &rows);
        let cells: Vec<Vec<_>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            cells[0],
            [
                "game",
                "away",
                "home",
                "status",
                "events",
                "duplicates",
                "gaps"
            ]
        );
        assert_eq!(
            cells[1],
            [
                "2015-12-23-CHA-BOS",
                "CHA",
                "89",
                "BOS",
                "102",
                "final",
                "478",
                "0",
                "0"
            ]
        );
        assert_eq!(cells[2][1..5], ["BOS", "102", "CHA", "89"]);
        assert_eq!(cells[3], ["a\u{fffd}b", "-", "-", "failed", "-", "-", "-"]);
        assert_eq!(cells[4], ["other", "-", "-", "-", "-", "-", "-"]);
        assert_eq!(cells[5], ["late", "-", "-", "unknown", "-", "-", "-"]);
        let widths: Vec<_> = table.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
    }

    #[test]
    fn json_for_machines() {
        let rows = [
            (entry("a", None), Some(score())),
            (entry("b", Some("play-refused: 400")), None),
        ];
        let text = written(OutputFormat::Json, &rows);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value[0]["game_id"], "a");
        assert_eq!(value[0]["acknowledged"], 478);
        assert_eq!(value[0]["output"]["points"]["BOS"], 102);
        assert_eq!(value[0].get("error"), None);
        assert_eq!(value[1]["output"], json!(null));
        assert_eq!(value[1]["error"], "play-refused: 400");
        assert_eq!(written(OutputFormat::Json, &[]), "[]\n");
    }
}
