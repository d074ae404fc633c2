//! Swaps from `nba-scoring` to `box-score` and back, in the middle of a game.

use box_score::BoxScore;
use courtside_plugin::{
    Processor,
    test::{Harness, Run},
};
use nba_scoring::Game;
use serde_json::{Value, json};

const GAME: &str = "SEA-LVG";

fn event(seq: u64, kind: &str, team: Option<&str>, points: u64) -> Value {
    json!({"seq": seq, "type": kind, "team": team, "player": "Ada Morrow", "points": points,
           "period": 1, "clock": "9:42"})
}

fn go_on<P: Processor>(mut harness: Harness<P>, events: &[Value]) -> Run {
    let run = harness.feed_all(events).run();
    assert_eq!(run.refusals, []);
    run
}

#[test]
fn rebounds_are_counted_once_and_by_team() {
    let run = go_on(
        Harness::<BoxScore>::new(GAME),
        &[
            event(1, "rebound", Some("SEA"), 0),
            event(2, "rebound", None, 0),
            event(3, "rebound", Some("SEA"), 0),
            event(3, "rebound", Some("SEA"), 0),
            event(4, "field_goal", Some("SEA"), 2),
            event(5, "rebound", Some("LVG"), 0),
        ],
    );
    assert_eq!(run.last()["rebounds"], json!({"LVG": 1, "SEA": 2}));
}

#[test]
fn a_game_goes_on_through_swaps_there_and_back() {
    let first = [
        event(1, "field_goal", Some("SEA"), 2),
        event(2, "rebound", Some("SEA"), 0),
    ];
    let second = [
        event(3, "rebound", Some("LVG"), 0),
        event(4, "three_pointer", Some("LVG"), 3),
    ];
    let third = [
        event(4, "three_pointer", Some("LVG"), 3),
        event(6, "free_throw", Some("SEA"), 1),
    ];

    let plain = go_on(Harness::<Game>::new(GAME), &first);
    let boxed = go_on(plain.reopen::<BoxScore>(), &second);
    assert_eq!(boxed.last()["rebounds"], json!({"LVG": 1}));
    let back = go_on(boxed.reopen::<Game>(), &third);
    let forth = go_on(boxed.reopen::<BoxScore>(), &third);

    let straight = go_on(Harness::<Game>::new(GAME), &[first, second, third].concat());
    assert_eq!(back.last(), straight.last());
    assert_eq!(back.checkpoint, straight.checkpoint);

    let mut with_rebounds = straight.last();
    with_rebounds["rebounds"] = json!({"LVG": 1});
    assert_eq!(forth.last(), with_rebounds);
}
