use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// The points of each team, corrections applied.
fn points(events: &[Event]) -> BTreeMap<&'static str, u32> {
    let mut counted = BTreeMap::new();
    for event in events {
        counted.insert(
            event.corrects.unwrap_or(event.seq),
            (event.team, event.points),
        );
    }
    let mut points = BTreeMap::new();
    for (team, scored) in counted.into_values() {
        if let Some(team) = team {
            *points.entry(team).or_default() += u32::from(scored);
        }
    }
    points
}

/// The rules of the design, and of basketball, that a game keeps.
fn check(id: &str, events: &[Event]) {
    let codes: BTreeSet<_> = id.rsplitn(3, '-').take(2).collect();
    let mut seq = 0;
    let mut period = 0;
    let mut clock = Clock(0);
    let mut open = false;
    for event in events {
        assert_eq!(&*event.game_id, id);
        seq += 1;
        assert_eq!(event.seq, seq);
        assert_eq!(event.points, event.kind.points());
        if event.kind == EventKind::PeriodStart {
            assert!(!open, "a period within a period");
            open = true;
            period += 1;
            clock = Clock(if period <= 4 { 720 } else { 300 });
            assert_eq!(event.clock, clock);
        }
        assert!(open, "an event between periods");
        assert_eq!(event.period, period);
        assert!(event.clock <= clock, "the clock goes up");
        clock = event.clock;
        match event.kind {
            EventKind::PeriodStart | EventKind::PeriodEnd => {
                assert_eq!((event.team, &event.player), (None, &None));
            }
            _ => assert!(codes.contains(event.team.unwrap())),
        }
        if event.points > 0 {
            assert!(event.player.is_some());
        }
        if let Some(corrected) = event.corrects {
            let basket = &events[corrected as usize - 1];
            assert_eq!((basket.team, &basket.player), (event.team, &event.player));
            assert_eq!(basket.period, event.period, "decided in another period");
            assert!(
                event.points < basket.points,
                "a review that changes nothing"
            );
        }
        if event.kind == EventKind::PeriodEnd {
            assert_eq!(event.clock, Clock(0));
            open = false;
            let level = points(&events[..event.seq as usize])
                .values()
                .collect::<BTreeSet<_>>()
                .len()
                == 1;
            let last = event.seq as usize == events.len();
            assert_eq!(last, period >= 4 && !level, "ends when decided, not before");
        }
    }
    assert!(!open && period >= 4);
    assert_eq!(points(events).len(), 2);
}

proptest! {
    #[test]
    fn games_keep_the_rules(seed: u64, number in 0_u64..30_000_000) {
        let game = Season::new(seed).game(number).unwrap();
        let id = game.id().to_string();
        let events: Vec<_> = game.collect();
        check(&id, &events);
    }

    #[test]
    fn a_game_depends_on_seed_and_number_alone(seed: u64, number in 0_u64..100) {
        let alone: Vec<_> = Season::new(seed).game(number).unwrap().collect();
        let in_turn: Vec<_> = Season::new(seed)
            .nth(usize::try_from(number).unwrap())
            .unwrap()
            .collect();
        prop_assert_eq!(alone, in_turn);
    }
}

#[test]
fn seeds_and_numbers_differ() {
    let game = |seed, number| -> Vec<_> {
        let game = Season::new(seed).game(number).unwrap();
        game.with_id("x").collect()
    };
    assert_eq!(game(1, 0), game(1, 0));
    assert_ne!(game(1, 0), game(2, 0));
    assert_ne!(game(1, 0), game(1, 1));
}

#[test]
fn ids_are_unique_over_many_evenings() {
    let ids: BTreeSet<_> = Season::new(5)
        .take(2_000)
        .map(|game| game.id().clone())
        .collect();
    assert_eq!(ids.len(), 2_000);
    let dates: BTreeSet<_> = ids.iter().map(|id| id[..10].to_owned()).collect();
    assert_eq!(dates.len(), 134);
}

#[test]
fn the_calendar_ends() {
    assert!(Season::new(1).game(u64::MAX).is_none());
    assert!(Season::new(1).game(44_000_000).is_none());
}

/// The mix of the thirty real games, roughly.
#[test]
fn games_look_right() {
    const GAMES: u32 = 300;
    let mut kinds = BTreeMap::<String, u32>::new();
    let (mut events, mut scored, mut overtimes, mut corrections) = (0, 0, 0, 0);
    for game in Season::new(11).take(GAMES as usize) {
        let game: Vec<_> = game.collect();
        events += game.len() as u32;
        scored += points(&game).values().sum::<u32>();
        overtimes += u32::from(game.iter().any(|event| event.period > 4));
        corrections += game.iter().filter(|event| event.corrects.is_some()).count();
        for event in &game {
            *kinds.entry(format!("{:?}", event.kind)).or_default() += 1;
        }
    }
    let near = |what: &str, mean: u32, sum: u32| {
        let actual = sum / GAMES;
        assert!(
            actual >= mean - mean / 4 && actual <= mean + mean / 4,
            "{what}: {actual} a game, about {mean} wanted; {kinds:?}"
        );
    };
    near("events", 465, events);
    near("points", 200, scored);
    for (kind, mean) in [
        ("Miss", 106),
        ("Rebound", 106),
        ("Other", 65),
        ("FieldGoal", 60),
        ("Foul", 40),
        ("FreeThrow", 34),
        ("Turnover", 28),
        ("ThreePointer", 17),
    ] {
        near(kind, mean, kinds[kind]);
    }
    assert!((1..GAMES / 5).contains(&overtimes), "{overtimes} overtimes");
    let corrections = u32::try_from(corrections).unwrap();
    assert!(
        (GAMES..GAMES * 4).contains(&corrections),
        "{corrections} corrections"
    );
}

#[test]
fn an_event_is_what_post_score_takes() {
    let event = Event {
        game_id: "2015-12-23-BOS-CHA".into(),
        seq: 5,
        kind: EventKind::ThreePointer,
        team: Some("BOS"),
        player: Some("Avery Example".into()),
        points: 3,
        period: 1,
        clock: Clock(9 * 60 + 2),
        corrects: None,
    };
    assert_eq!(
        serde_json::to_value(&event).unwrap(),
        json!({
            "game_id": "2015-12-23-BOS-CHA", "seq": 5, "type": "three_pointer", "team": "BOS",
            "player": "Avery Example", "points": 3, "period": 1, "clock": "9:02",
        })
    );
}
