//! Properties of any game, however it is delivered.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use courtside_plugin::{native::Emission, test::Harness};
use nba_scoring::Game;
use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::{Value, json};

const GAME: &str = "SEA-LVG";

/// Any game: up to 6 periods in order, anyone scoring anything. A `seq` in ten
/// is missing.
fn game() -> impl Strategy<Value = Vec<Value>> {
    let kind = prop::sample::select(vec![
        "field_goal",
        "three_pointer",
        "free_throw",
        "miss",
        "rebound",
        "foul",
        "turnover",
        "period_start",
        "period_end",
        "other",
    ]);
    let event = (
        kind,
        prop::option::weighted(0.9, prop::sample::select(vec!["SEA", "LVG"])),
        prop::option::weighted(0.9, 0..6_u8),
        0..4_u8,
        0..720_u32,
        prop::bool::weighted(0.9),
    );
    (1..=6_usize, vec(event, 0..60)).prop_map(|(periods, events)| {
        let per_period = events.len() / periods + 1;
        (0..)
            .zip(events)
            .filter(|(_, (.., kept))| *kept)
            .map(|(at, (kind, team, player, points, clock, _))| {
                json!({
                    "game_id": GAME, "seq": at + 1, "type": kind, "team": team,
                    "player": player.map(|player| format!("Player \"{player}\" Č")),
                    "points": if team.is_some() { points } else { 0 },
                    "period": at / per_period + 1,
                    "clock": format!("{}:{:02}", clock / 60, clock % 60),
                })
            })
            .collect()
    })
}

/// Runs the game in all batchings of the harness, which asserts that they
/// agree.
fn run(events: &[Value]) -> courtside_plugin::test::Run {
    let mut harness = Harness::<Game>::new(GAME).splits(4);
    harness.feed_all(events).run()
}

/// The output without the fields that may differ.
fn without(emission: &Emission, fields: &[&str]) -> Value {
    let mut value: Value = serde_json::from_slice(emission.value.as_deref().unwrap()).unwrap();
    for field in fields {
        value.as_object_mut().unwrap().remove(*field).unwrap();
    }
    value
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_batches_with_any_reopening_give_the_same_output(events in game()) {
        let run = run(&events);
        prop_assert_eq!(run.refusals, []);
        prop_assert_eq!(run.emissions.len(), events.len());
    }

    #[test]
    fn delivering_events_twice_changes_only_events_and_duplicates(
        events in game(),
        again in vec((any::<Index>(), any::<Index>()), 0..20),
    ) {
        // Some events are repeated, anywhere after their first time.
        let mut delivered: Vec<(usize, &Value)> = events.iter().enumerate().collect();
        if !delivered.is_empty() {
            for (which, place) in &again {
                let at = which.index(delivered.len());
                let repeated = delivered[at];
                let after = at + 1 + place.index(delivered.len() - at);
                delivered.insert(after, repeated);
            }
        }
        let values: Vec<Value> = delivered.iter().map(|(_, event)| (*event).clone()).collect();
        let (once, twice) = (run(&events), run(&values));

        // After each delivery, also the last, the game stands as if nothing had
        // come twice.
        let counters = ["events", "duplicates"];
        let mut highest = 0;
        for (emission, (nth, _)) in twice.emissions.iter().zip(&delivered) {
            highest = highest.max(*nth);
            prop_assert_eq!(
                without(emission, &counters),
                without(&once.emissions[highest], &counters)
            );
        }
        if let Some(last) = twice.emissions.last() {
            let last: Value = serde_json::from_slice(last.value.as_deref().unwrap()).unwrap();
            prop_assert_eq!(&last["events"], &json!(delivered.len()));
            prop_assert_eq!(&last["duplicates"], &json!(delivered.len() - events.len()));
        }
    }

    #[test]
    fn any_order_comes_to_the_same_game(
        (events, shuffled) in game().prop_flat_map(|events| {
            (Just(events.clone()), Just(events).prop_shuffle())
        }),
    ) {
        let (in_order, out_of_order) = (run(&events), run(&shuffled));
        prop_assert_eq!(
            in_order.emissions.last().map(|last| without(last, &["lead_changes"])),
            out_of_order.emissions.last().map(|last| without(last, &["lead_changes"]))
        );
    }

    #[test]
    fn points_add_up(events in game()) {
        let run = run(&events);
        for emission in &run.emissions {
            let value = without(emission, &[]);
            for (team, points) in value["points"].as_object().unwrap() {
                let by_period: u64 = value["by_period"][team].as_array().unwrap()
                    .iter().filter_map(Value::as_u64).sum();
                let by_player: u64 = value["players"][team].as_object().unwrap()
                    .values().filter_map(Value::as_u64).sum();
                prop_assert_eq!(points.as_u64(), Some(by_period));
                prop_assert!(by_player <= by_period);
            }
        }
    }
}
