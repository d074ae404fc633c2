//! Games with their true scores: real games where they are available, otherwise
//! invented ones.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use courtside_play::simulate::Season;
use serde::Deserialize;
use serde_json::{Value, json};

const GAMES: usize = 30;
const SEED: u64 = 2015;

/// A game as it went.
#[derive(Clone, Debug)]
pub struct Game {
    pub id: String,
    pub lines: Vec<String>,
    by_period: BTreeMap<String, Vec<u64>>,
}

/// Thirty games: those of `$COURTSIDE_GAMES`, or of `shared/games` beside the
/// workspace, or, where there are none, invented ones.
#[must_use]
pub fn thirty() -> Vec<Game> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/games");
    let games = match env::var_os("COURTSIDE_GAMES") {
        Some(dir) => real(&PathBuf::from(dir)),
        None if beside.is_dir() => real(&beside),
        None => invented(GAMES),
    };
    assert_eq!(games.len(), GAMES);
    games
}

/// Invented games, whose scores are added up here.
#[must_use]
pub fn invented(count: usize) -> Vec<Game> {
    let games = Season::new(SEED).take(count).map(|game| {
        let id = game.id().to_string();
        let mut by_period: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for team in id.rsplit('-').take(2) {
            by_period.insert(team.to_owned(), Vec::new());
        }
        let mut lines = Vec::new();
        // The events by `seq`, with corrections applied.
        let mut counted = BTreeMap::new();
        for event in game {
            for periods in by_period.values_mut() {
                periods.resize(periods.len().max(event.period.into()), 0);
            }
            lines.push(serde_json::to_string(&event).expect("an event as JSON"));
            counted.insert(event.corrects.unwrap_or(event.seq), event);
        }
        for event in counted.into_values() {
            if let Some(team) = event.team {
                by_period.get_mut(team).expect("a team of the game")
                    [usize::from(event.period) - 1] += u64::from(event.points);
            }
        }
        Game {
            id,
            lines,
            by_period,
        }
    });
    games.collect()
}

#[derive(Deserialize)]
struct Listed {
    game_id: String,
    away: String,
    home: String,
    away_final: u64,
    home_final: u64,
    away_by_period: Vec<u64>,
    home_by_period: Vec<u64>,
    events: usize,
}

fn real(dir: &Path) -> Vec<Game> {
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let listed: Vec<Listed> = serde_json::from_str(&read("manifest.json")).expect("a manifest");
    let games = listed.into_iter().map(|listed| {
        let lines: Vec<String> = read(&format!("{}.ndjson", listed.game_id))
            .lines()
            .map(str::to_owned)
            .collect();
        assert_eq!(lines.len(), listed.events, "{}", listed.game_id);
        let game = Game {
            id: listed.game_id,
            lines,
            by_period: BTreeMap::from([
                (listed.away.clone(), listed.away_by_period),
                (listed.home.clone(), listed.home_by_period),
            ]),
        };
        let points = game.points();
        assert_eq!(points[&listed.away], listed.away_final, "{}", game.id);
        assert_eq!(points[&listed.home], listed.home_final, "{}", game.id);
        game
    });
    games.collect()
}

impl Game {
    #[must_use]
    pub fn points(&self) -> BTreeMap<&String, u64> {
        let sums = self.by_period.iter();
        sums.map(|(team, periods)| (team, periods.iter().sum()))
            .collect()
    }

    /// The game under another id.
    #[must_use]
    pub fn renamed(&self, id: &str) -> Self {
        let lines = self.lines.iter().map(|line| {
            let mut event: Value = serde_json::from_str(line).expect("an event");
            event["game_id"] = json!(id);
            event.to_string()
        });
        Self {
            id: id.to_owned(),
            lines: lines.collect(),
            by_period: self.by_period.clone(),
        }
    }

    /// Writes the game's file and returns its path.
    #[must_use]
    pub fn write(&self, dir: &Path) -> PathBuf {
        let path = dir.join(format!("{}.ndjson", self.id));
        fs::write(&path, self.lines.join("\n") + "\n").expect("a game's file");
        path
    }

    /// Checks the final output of the game: every event once, and the score.
    ///
    /// # Panics
    /// If the output differs.
    pub fn check(&self, output: &Value) {
        let seen = json!({
            "game_id": output["game_id"],
            "status": output["status"],
            "points": output["points"],
            "by_period": output["by_period"],
            "last_seq": output["last_seq"],
            "events": output["events"],
            "duplicates": output["duplicates"],
            "gaps": output["gaps"],
        });
        let wanted = json!({
            "game_id": self.id,
            "status": "final",
            "points": self.points(),
            "by_period": self.by_period,
            "last_seq": self.lines.len(),
            "events": self.lines.len(),
            "duplicates": 0,
            "gaps": 0,
        });
        assert_eq!(seen, wanted, "game {}", self.id);
    }
}
