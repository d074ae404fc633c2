//! The rules, one by one.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use nba_game::{Event, Game, Scoreboard, Status};
use serde_json::{Value, json};

const GAME: &str = "2031-02-11-SEA-LVG";

/// An event in period 1; `with` overwrites its fields.
fn event(seq: u64, kind: &str, with: Value) -> Value {
    let mut event = json!({
        "game_id": GAME, "seq": seq, "type": kind, "team": null, "player": null,
        "points": 0, "period": 1, "clock": "9:42", "unknown": [{"ignored": true}],
    });
    for (field, value) in with.as_object().unwrap() {
        event[field] = value.clone();
    }
    event
}

fn basket(seq: u64, team: &str, points: u64) -> Value {
    event(
        seq,
        "field_goal",
        json!({"team": team, "player": format!("{team} Star"), "points": points}),
    )
}

fn in_period(period: u64, mut event: Value) -> Value {
    event["period"] = period.into();
    event
}

fn period_end(seq: u64, period: u64) -> Value {
    in_period(period, event(seq, "period_end", json!({"clock": "0:00"})))
}

fn parse(event: &Value) -> Event {
    serde_json::from_value(event.clone()).unwrap()
}

fn played(game_id: &str, events: &[Value]) -> Game {
    let mut game = Game::new(game_id);
    for event in events.iter().map(parse) {
        game.check(&event).unwrap();
        game.apply(event);
    }
    game
}

fn shown(game: &Game) -> Value {
    serde_json::to_value(Scoreboard {
        game_id: GAME,
        game,
    })
    .unwrap()
}

/// The reason why the event is refused after the others.
fn refusal(events: &[Value], event: &Value) -> String {
    played(GAME, events).check(&parse(event)).unwrap_err()
}

#[test]
fn fields_come_in_the_order_of_the_design() {
    let game = played(GAME, &[basket(2, "SEA", 3)]);
    let text = serde_json::to_string(&Scoreboard {
        game_id: GAME,
        game: &game,
    });
    assert_eq!(
        text.unwrap(),
        concat!(
            r#"{"game_id":"2031-02-11-SEA-LVG","status":"live","period":1,"clock":"9:42","#,
            r#""points":{"LVG":0,"SEA":3},"by_period":{"LVG":[0],"SEA":[3]},"#,
            r#""players":{"LVG":{},"SEA":{"SEA Star":3}},"#,
            r#""lead_changes":0,"last_seq":2,"events":1,"duplicates":0,"gaps":1}"#
        )
    );
}

#[test]
fn a_game_is_scheduled_until_an_event_counts() {
    let game = Game::new(GAME);
    assert_eq!(game.status(), Status::Scheduled);
    assert_eq!(shown(&game)["points"], json!({"LVG": 0, "SEA": 0}));
    assert_eq!(
        played(GAME, &[event(1, "other", json!({}))]).status(),
        Status::Live
    );
}

#[test]
fn the_end_of_the_fourth_is_final_unless_level() {
    let mut events = vec![basket(1, "SEA", 2), period_end(2, 3)];
    assert_eq!(played(GAME, &events).status(), Status::Live);
    events.push(period_end(3, 4));
    assert_eq!(played(GAME, &events).status(), Status::Final);

    // A late basket makes the game level; another decides it again.
    events.push(in_period(4, basket(4, "LVG", 2)));
    assert_eq!(played(GAME, &events).status(), Status::Live);
    events.push(in_period(4, basket(5, "LVG", 1)));
    assert_eq!(played(GAME, &events).status(), Status::Final);
}

#[test]
fn points_in_overtime_do_not_end_a_game() {
    let mut events = vec![period_end(1, 4)];
    assert_eq!(played(GAME, &events).status(), Status::Live);
    events.push(in_period(5, basket(2, "SEA", 2)));
    assert_eq!(played(GAME, &events).status(), Status::Live);
    events.push(period_end(3, 5));
    assert_eq!(played(GAME, &events).status(), Status::Final);
    // The game is over, whatever else is noted of that period.
    events.push(in_period(5, event(4, "other", json!({}))));
    assert_eq!(played(GAME, &events).status(), Status::Final);
}

#[test]
fn a_tie_does_not_change_who_led_last() {
    let steps = [
        ("SEA", 2, 0), // 2:0, nobody led before
        ("LVG", 2, 0), // level
        ("SEA", 1, 0), // 3:2, the same lead
        ("LVG", 3, 1), // 3:5
        ("LVG", 1, 1),
        ("SEA", 3, 1), // level
        ("SEA", 1, 2), // 7:6
    ];
    let mut game = Game::new(GAME);
    for (seq, (team, points, lead_changes)) in (1..).zip(steps) {
        game.apply(parse(&basket(seq, team, points)));
        assert_eq!(
            shown(&game)["lead_changes"],
            lead_changes,
            "after seq {seq}"
        );
    }
}

#[test]
fn a_late_event_counts_and_leaves_the_clock_alone() {
    let game = played(
        GAME,
        &[
            in_period(2, event(5, "foul", json!({"clock": "3:00"}))),
            basket(2, "SEA", 2),
        ],
    );
    let shown = shown(&game);
    assert_eq!(
        (&shown["period"], &shown["clock"]),
        (&json!(2), &json!("3:00"))
    );
    assert_eq!(shown["by_period"], json!({"LVG": [0, 0], "SEA": [2, 0]}));
    assert_eq!((&shown["last_seq"], &shown["gaps"]), (&json!(5), &json!(3)));
}

#[test]
fn a_repeated_seq_counts_once_and_a_repeated_event_twice() {
    let game = played(
        GAME,
        &[
            basket(1, "SEA", 1),
            basket(2, "SEA", 1),
            basket(2, "LVG", 3),
        ],
    );
    let shown = shown(&game);
    assert_eq!(shown["points"], json!({"LVG": 0, "SEA": 2}));
    assert_eq!(
        (&shown["events"], &shown["duplicates"]),
        (&json!(3), &json!(1))
    );
}

#[test]
fn an_id_that_names_nobody_leaves_the_teams_to_the_events() {
    let mut events = vec![in_period(2, basket(1, "Reds", 2))];
    assert_eq!(
        shown(&played("finals", &events))["points"],
        json!({"Reds": 2})
    );
    events.push(in_period(3, event(2, "foul", json!({"team": "Blues"}))));
    assert_eq!(
        shown(&played("finals", &events))["by_period"],
        json!({"Blues": [0, 0, 0], "Reds": [0, 2, 0]})
    );
    let third = played("finals", &events)
        .check(&parse(&basket(3, "Greens", 2)))
        .unwrap_err();
    assert_eq!(
        third,
        "team Greens does not play: the game is between Blues and Reds"
    );
}

#[test]
fn points_of_nobody_in_particular_are_the_teams() {
    let game = played(
        GAME,
        &[event(1, "other", json!({"team": "SEA", "points": 2}))],
    );
    assert_eq!(shown(&game)["points"]["SEA"], 2);
    assert_eq!(shown(&game)["players"]["SEA"], json!({}));
}

#[test]
fn what_cannot_be_is_refused() {
    let with = |with: Value| event(1, "field_goal", with);
    for (event, reason) in [
        (event(0, "other", json!({})), "seq is 0; it counts from 1"),
        (
            with(json!({"period": 0})),
            "period is 0, not one of 1 to 64",
        ),
        (
            with(json!({"period": 65})),
            "period is 65, not one of 1 to 64",
        ),
        (
            with(json!({"points": 11, "team": "SEA"})),
            "points is 11, more than the 10 that one event can bring",
        ),
        (with(json!({"points": 2})), "points is 2 and team is null"),
        (with(json!({"team": ""})), "team is empty; nobody is null"),
        (
            with(json!({"team": "BOS"})),
            "team BOS does not play: the game is between LVG and SEA",
        ),
        (
            with(json!({"player": "x".repeat(129)})),
            "player is 129 bytes long, over the limit of 128",
        ),
        (
            with(json!({"clock": "9:42 to go, or more"})),
            "clock is 19 bytes long, over the limit of 16",
        ),
    ] {
        assert_eq!(refusal(&[], &event), reason);
    }
}

#[test]
fn scorers_are_bounded() {
    let basket = |seq: u64| {
        event(
            seq,
            "free_throw",
            json!({"team": "SEA", "points": 1, "player": format!("Player {seq}")}),
        )
    };
    let events: Vec<Value> = (1..=64).map(basket).collect();
    assert_eq!(
        refusal(&events, &basket(65)),
        "Player 65 would be the 65th player of SEA to score"
    );
    let mut known = basket(64);
    known["seq"] = 65.into();
    assert_eq!(played(GAME, &events).check(&parse(&known)), Ok(()));
}

#[test]
fn what_is_not_an_event_does_not_parse() {
    for with in [
        json!({"type": "touchdown"}),
        json!({"points": -1}),
        json!({"points": 1.5}),
        json!({"points": "2"}),
        json!({"seq": u64::from(u32::MAX) + 1}),
        json!({"team": 7}),
        json!({"clock": null}),
    ] {
        let event = event(1, "field_goal", with.clone());
        assert!(serde_json::from_value::<Event>(event).is_err(), "{with}");
    }
}

#[test]
fn a_correction_without_points_does_not_parse() {
    let mut event = event(9, "other", json!({"corrects": 1}));
    event.as_object_mut().unwrap().remove("points");
    let error = serde_json::from_value::<Event>(event.clone()).unwrap_err();
    assert!(error.to_string().contains("points is missing"), "{error}");
    event["points"] = 0.into();
    assert_eq!(parse(&event).corrects, Some(1));
}

#[test]
fn a_late_basket_counts_however_wide_the_gaps_are() {
    let mut events: Vec<Value> = (1..=300)
        .map(|nth| basket(nth * 10_000, "SEA", 1))
        .collect();
    events.push(basket(15_000, "SEA", 3));
    let shown = shown(&played(GAME, &events));
    assert_eq!(
        (&shown["points"]["SEA"], &shown["duplicates"]),
        (&json!(303), &json!(0))
    );
}

#[test]
fn a_basket_that_may_have_come_is_refused_and_not_dropped() {
    let events: Vec<Value> = (1..=1_100).map(|nth| basket(nth * 10, "SEA", 1)).collect();
    assert_eq!(
        refusal(&events, &basket(15, "SEA", 3)),
        "seq 15 is so far back, among so many gaps, that the game no longer knows whether it came"
    );
    let shown = shown(&played(GAME, &events));
    assert_eq!(shown["points"]["SEA"], 1_100);
}

#[test]
fn clocks_are_shown_in_one_way() {
    for (clock, shown_as) in [
        ("9:42", "9:42"),
        ("09:42", "9:42"),
        ("PT09M42.00S", "9:42"),
        ("0:51.6", "0:51.6"),
        ("PT00M51.60S", "0:51.6"),
        // A producer that writes to the topic itself, and not over HTTP, may have words
        // of its own.
        ("half-time", "half-time"),
    ] {
        let game = played(GAME, &[event(1, "other", json!({"clock": clock}))]);
        assert_eq!(shown(&game)["clock"], shown_as, "{clock}");
    }
}

/// A correction of `corrected`; `with` overwrites its fields.
fn correction(seq: u64, corrected: u64, points: u64, with: Value) -> Value {
    let mut correction = event(seq, "other", with);
    correction["corrects"] = corrected.into();
    correction["points"] = points.into();
    correction
}

#[test]
fn a_correction_changes_the_points_of_an_earlier_event() {
    let three = in_period(1, basket(1, "SEA", 3));
    let mut events = vec![
        three,
        in_period(2, basket(2, "LVG", 2)),
        in_period(3, correction(3, 1, 2, json!({"clock": "1:00"}))),
    ];
    let after = shown(&played(GAME, &events));
    assert_eq!(after["points"], json!({"LVG": 2, "SEA": 2}));
    assert_eq!(after["by_period"], json!({"LVG": [0, 2], "SEA": [2, 0]}));
    assert_eq!(after["players"]["SEA"], json!({"SEA Star": 2}));
    // The clock is that of the game, not of the review.
    assert_eq!(
        (&after["period"], &after["clock"]),
        (&json!(2), &json!("9:42"))
    );
    assert_eq!((&after["last_seq"], &after["gaps"]), (&json!(3), &json!(0)));

    // A correction to 0 points leaves no scorer.
    events.push(correction(4, 1, 0, json!({})));
    let after = shown(&played(GAME, &events));
    assert_eq!(after["points"], json!({"LVG": 2, "SEA": 0}));
    assert_eq!(after["players"]["SEA"], json!({}));

    // The points become another player's, and then the other team's.
    events.push(correction(5, 1, 3, json!({"player": "SEA Guard"})));
    assert_eq!(
        shown(&played(GAME, &events))["players"]["SEA"],
        json!({"SEA Guard": 3})
    );
    events.push(correction(6, 1, 3, json!({"team": "LVG"})));
    let after = shown(&played(GAME, &events));
    assert_eq!(after["points"], json!({"LVG": 5, "SEA": 0}));
    assert_eq!(after["players"], json!({"LVG": {"LVG Star": 2}, "SEA": {}}));
}

#[test]
fn a_miss_may_become_a_basket() {
    let events = [
        event(1, "miss", json!({"team": "SEA", "player": "SEA Star"})),
        correction(2, 1, 2, json!({"team": "SEA", "player": "SEA Star"})),
    ];
    assert_eq!(
        shown(&played(GAME, &events))["players"]["SEA"],
        json!({"SEA Star": 2})
    );
}

#[test]
fn a_correction_can_make_a_final_game_level_again() {
    let mut events = vec![basket(1, "SEA", 3), basket(2, "LVG", 2), period_end(3, 4)];
    assert_eq!(played(GAME, &events).status(), Status::Final);
    events.push(correction(4, 1, 2, json!({})));
    assert_eq!(played(GAME, &events).status(), Status::Live);
}

#[test]
fn a_correction_that_cannot_be_is_refused() {
    let events = [
        event(1, "miss", json!({"team": "SEA"})),
        basket(2, "SEA", 2),
        correction(3, 2, 3, json!({})),
    ];
    for (event, reason) in [
        (
            correction(9, 0, 2, json!({})),
            "corrects is 0; a correction names an earlier event, and its own seq is 9",
        ),
        (
            correction(9, 9, 2, json!({})),
            "corrects is 9; a correction names an earlier event, and its own seq is 9",
        ),
        (
            correction(9, 3, 2, json!({})),
            "seq 3 is itself a correction, of seq 2: correct seq 2 again",
        ),
        (
            correction(9, 1, 2, json!({})),
            "points is 2 and team is null, and seq 1 brought no points before whose team could be kept",
        ),
        (
            correction(9, 2, 2, json!({"team": "BOS"})),
            "team BOS does not play: the game is between LVG and SEA",
        ),
    ] {
        assert_eq!(refusal(&events, &event), reason);
    }
    // A correction of a correction, the outer one first.
    let outer = [
        basket(2, "SEA", 2),
        correction(9, 5, 1, json!({"team": "SEA"})),
    ];
    assert_eq!(
        refusal(&outer, &correction(5, 2, 3, json!({}))),
        "seq 5 is a correction, and a correction of it came already"
    );
}

#[test]
fn corrections_are_bounded() {
    let mut events = vec![basket(1, "SEA", 2)];
    events.extend((2..258).map(|seq| correction(seq, 1, seq % 4, json!({}))));
    assert_eq!(
        refusal(&events, &correction(258, 1, 3, json!({}))),
        "the game has 256 corrections already, which is the limit"
    );
}

#[test]
fn a_basket_far_back_counts_and_cannot_be_corrected() {
    let mut events: Vec<Value> = (2..=600).map(|seq| basket(seq, "SEA", 1)).collect();
    events.push(basket(1, "LVG", 3));
    assert_eq!(
        shown(&played(GAME, &events))["points"],
        json!({"LVG": 3, "SEA": 599})
    );
    assert_eq!(
        refusal(&events, &correction(601, 50, 0, json!({}))),
        "seq 50 is too far back to be corrected: the game keeps its last 512 baskets"
    );
}

#[test]
fn a_basket_whose_correction_came_long_before_counts_once() {
    let mut events: Vec<Value> = (2..=513).map(|seq| basket(seq, "SEA", 1)).collect();
    events.push(correction(600, 1, 2, json!({"team": "SEA"})));
    events.push(basket(514, "SEA", 1));
    events.push(basket(1, "SEA", 3));
    assert_eq!(shown(&played(GAME, &events))["points"]["SEA"], 515);
}

mod by_chance {
    use proptest::prelude::*;

    use super::*;

    /// An event by what a game counts: who scored, how much, in which period.
    #[derive(Clone, Debug)]
    struct Play {
        team: &'static str,
        player: Option<u8>,
        points: u64,
        period: u64,
    }

    fn play() -> impl Strategy<Value = Play> {
        (
            prop::sample::select(vec!["SEA", "LVG"]),
            prop::option::of(0..4_u8),
            0..4_u64,
            1..6_u64,
        )
            .prop_map(|(team, player, points, period)| Play {
                team,
                player,
                points,
                period,
            })
    }

    fn posted(seq: u64, play: &Play) -> Value {
        let player = play.player.map(|player| format!("{} {player}", play.team));
        event(
            seq,
            "field_goal",
            json!({"team": play.team, "player": player, "points": play.points, "period": play.period}),
        )
    }

    /// The scoreboard without the fields that count events, because they count
    /// corrections too.
    fn score(game: &Game) -> Value {
        let mut score = shown(game);
        for field in ["events", "last_seq", "gaps", "duplicates"] {
            score.as_object_mut().unwrap().remove(field);
        }
        score
    }

    /// The first id names its teams. The teams of the second are known by their
    /// events alone, which come in any order.
    fn game_id() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![GAME, "finals"])
    }

    proptest! {
        /// A game with corrections, in any order, through checkpoints, is the game
        /// that was posted right from the start.
        #[test]
        fn a_corrected_game_is_the_game_posted_right_from_the_start(
            id in game_id(),
            scored in prop::collection::vec(play(), 1..60),
            changes in prop::collection::vec((any::<prop::sample::Index>(), play(), any::<bool>()), 0..20),
            order in prop::collection::vec(any::<u64>(), 82),
        ) {
            // Both teams are named by events that no correction touches: a game keeps a
            // team that a corrected event has named.
            let correctable = scored.len();
            let mut plays = scored;
            for team in ["SEA", "LVG"] {
                plays.push(Play { team, player: None, points: 0, period: 1 });
            }
            // An event without points leaves neither team nor player to keep.
            let mut right: Vec<Play> = plays
                .iter()
                .map(|play| Play {
                    player: play.player.filter(|_| play.points > 0),
                    ..play.clone()
                })
                .collect();
            let mut events: Vec<Value> = (1..).zip(&plays).map(|(seq, play)| posted(seq, play)).collect();
            for (index, change, names_team) in changes {
                let corrected = index.index(correctable);
                let now = &mut right[corrected];
                let seq = events.len() as u64 + 1;
                let names_team = names_team || plays[corrected].points == 0;
                let mut event = posted(seq, &Play { period: now.period, ..change.clone() });
                if names_team {
                    if change.player.is_some() || change.team != now.team {
                        now.player = change.player;
                    }
                    now.team = change.team;
                } else {
                    event["team"] = Value::Null;
                    event["player"] = Value::Null;
                }
                now.points = change.points;
                event["corrects"] = (corrected + 1).into();
                events.push(event);
            }
            let right: Vec<Value> = (1..).zip(&right).map(|(seq, play)| posted(seq, play)).collect();
            let right = score(&played(id, &right));
            prop_assert_eq!(&score(&played(id, &events)), &right);

            // The events in another order, with a checkpoint after each.
            let mut shuffled: Vec<(u64, Value)> = order.into_iter().zip(events).collect();
            shuffled.sort_by_key(|(place, _)| *place);
            let mut game = Game::new(id);
            for (_, event) in shuffled {
                let event = parse(&event);
                prop_assert_eq!(game.check(&event), Ok(()));
                game.apply(event);
                game = serde_json::from_slice(&serde_json::to_vec(&game).unwrap()).unwrap();
            }
            // Lead changes are those of the order in which baskets came.
            let (mut shuffled, mut right) = (score(&game), right);
            for score in [&mut shuffled, &mut right] {
                score.as_object_mut().unwrap().remove("lead_changes");
            }
            prop_assert_eq!(shuffled, right);
        }
    }
}
