//! Thirty real games, where they are available: in `COURTSIDE_GAMES`, or beside
//! the workspace in `shared/games`. They are not part of the repository; the
//! invented game of `plugin.rs` always is.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use courtside_plugin::test::Harness;
use nba_scoring::Game;
use serde::Deserialize;
use serde_json::json;

/// A line of `manifest.json`.
#[derive(Deserialize)]
struct Expected {
    game_id: String,
    away: String,
    home: String,
    away_final: u32,
    home_final: u32,
    away_by_period: Vec<u32>,
    home_by_period: Vec<u32>,
    events: usize,
}

fn games() -> Option<PathBuf> {
    if let Some(given) = env::var_os("COURTSIDE_GAMES") {
        return Some(given.into());
    }
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/games");
    beside.exists().then_some(beside)
}

#[test]
fn real_games_come_to_their_real_scores() {
    let Some(games) = games() else {
        // The test runner would hide the output of `eprintln!` where a test
        // passes.
        writeln!(
            io::stderr(),
            "real_games skipped: none in COURTSIDE_GAMES or beside the workspace"
        )
        .unwrap();
        return;
    };
    let manifest = fs::read_to_string(games.join("manifest.json")).unwrap();
    let manifest: Vec<Expected> = serde_json::from_str(&manifest).unwrap();
    assert!(!manifest.is_empty());
    for expected in manifest {
        let file = games.join(format!("{}.ndjson", expected.game_id));
        let mut harness = Harness::<Game>::new(expected.game_id.as_str()).splits(2);
        for line in fs::read_to_string(file).unwrap().lines() {
            harness.feed_raw(line);
        }
        let run = harness.run();
        assert_eq!(run.refusals, [], "{}", expected.game_id);
        let last = run.last();
        let Expected { away, home, .. } = &expected;
        assert_eq!(
            last["points"],
            json!(BTreeMap::from([
                (away, expected.away_final),
                (home, expected.home_final)
            ])),
            "{}",
            expected.game_id
        );
        assert_eq!(
            last["by_period"],
            json!(BTreeMap::from([
                (away, &expected.away_by_period),
                (home, &expected.home_by_period)
            ])),
            "{}",
            expected.game_id
        );
        for (field, value) in [
            ("game_id", json!(expected.game_id)),
            ("status", json!("final")),
            ("events", json!(expected.events)),
            ("last_seq", json!(expected.events)),
            ("gaps", json!(0)),
            ("duplicates", json!(0)),
        ] {
            assert_eq!(last[field], value, "{field} of {}", expected.game_id);
        }
    }
}
