//! The plugin as the host sees it: bytes in, bytes out, checkpoints between.

use courtside_plugin::{native::describe, test::Harness};
use nba_scoring::Game;
use serde_json::{Value, json};

const GAME: &str = "2031-02-11-SEA-LVG";

/// The harness with the events of an invented game: overtime, an event that
/// comes late, one that comes twice, one after the last `period_end`.
fn invented() -> Harness<Game> {
    let mut harness = Harness::new(GAME);
    for line in include_str!("games/2031-02-11-SEA-LVG.ndjson").lines() {
        harness.feed_raw(line);
    }
    harness
}

#[test]
fn an_invented_game_comes_to_what_was_worked_out_elsewhere() {
    let run = invented().run();
    assert_eq!(run.refusals, []);
    assert_eq!(run.emissions.len(), 105, "one for each event");
    let last = run.emissions.last().unwrap();
    assert_eq!((&last.output, &last.key), (&None, &None));
    assert_eq!(
        String::from_utf8_lossy(last.value.as_deref().unwrap()),
        include_str!("games/2031-02-11-SEA-LVG.expected.json").trim_end()
    );
}

#[test]
fn it_describes_itself() {
    let description = describe::<Game>();
    assert_eq!(description.name, "nba-scoring");
    assert_eq!(description.writes, "nba-scoring/1");
    assert_eq!(description.reads, ["nba-scoring/1", "box-score/1"]);
}

#[test]
fn bad_events_are_refused_and_cost_the_game_nothing() {
    let good = |seq: u64| {
        json!({"seq": seq, "type": "free_throw", "team": "SEA", "player": "Ada Morrow",
               "points": 1, "period": 1, "clock": "9:42"})
    };
    let bad = |field: &str, value: Value| {
        let mut event = good(2);
        event[field] = value;
        event
    };
    let mut harness = Harness::<Game>::new(GAME);
    harness
        .feed(good(1))
        .feed(bad("points", json!(-1)))
        .feed(bad("type", json!("touchdown")))
        .feed(bad("team", json!("BOS")))
        .feed_raw(*b"not json")
        .feed(good(2));
    let run = harness.run();
    for (index, reason) in [
        (
            1,
            "malformed event: points: invalid value: integer `-1`, expected u8",
        ),
        (2, "malformed event: type: unknown variant `touchdown`"),
        (3, "team BOS does not play"),
        (4, "malformed event: expected ident at line 1 column 2"),
    ] {
        let refused = run.refused(index).unwrap();
        assert!(refused.starts_with(reason), "{refused}");
    }
    let last = run.last();
    assert_eq!(last["points"]["SEA"], 2);
    assert_eq!((&last["events"], &last["gaps"]), (&json!(2), &json!(0)));
}

#[test]
fn a_checkpoint_is_small_and_its_format_stays_readable() {
    let run = invented().run();
    let state = &run.checkpoint.as_ref().unwrap().state;
    assert!(state.len() < 1_000, "{} bytes", state.len());

    // The first release of this format wrote this state, so it must always
    // open.
    let mut first = Harness::<Game>::saved(
        GAME,
        "nba-scoring/1",
        include_str!("games/2031-02-11-SEA-LVG.nba-scoring-1.json").trim_end(),
    );
    let mut today = run.reopen::<Game>();
    let more = json!({"seq": 200, "type": "other", "team": null, "player": null,
                      "points": 0, "period": 5, "clock": "0:00"});
    assert_eq!(
        first.feed(&more).run().last(),
        today.feed(&more).run().last()
    );
}
