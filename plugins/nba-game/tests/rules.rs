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

/// Why the event is refused, after the others.
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

    // A late basket makes it level; another, decided again.
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
