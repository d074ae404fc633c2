//! The cost of a plugin over its limits for the games of other slots.

use std::{sync::Arc, time::Instant};

use tokio::runtime::Runtime;

use crate::{
    load::{self, Line},
    rig::{Rig, built},
};

const GAMES: u64 = 1_000;
const ROUNDS: usize = 3;
/// The game whose own plugin misbehaves at each of its events.
const GAME: &str = "misbehaving";
/// That game's first events, which come before any other game's.
const FIRST: usize = 20;

/// How the plugin misbehaves, by the limit that it goes over.
const DEEDS: &[(&str, &str)] = &[
    ("nothing", "count"),
    ("memory", "eat-memory"),
    ("bytes emitted", "emit-much"),
    ("checkpoint", "grow"),
    ("CPU time", "loop"),
    ("none, it traps", "trap"),
];

/// A backlog of 1,000 games in the default slot, while another game has as many
/// events as each of them, and a plugin of its own that is over a limit at each.
pub fn all() {
    let runtime = Runtime::new().expect("a runtime");
    let others = load::interleaved(GAMES, usize::MAX);
    let plugin = built("misbehaving.wasm");
    let mut took: Vec<Vec<f64>> = vec![Vec::new(); DEEDS.len()];
    for round in 1..=ROUNDS {
        for ((limit, deed), took) in DEEDS.iter().zip(&mut took) {
            let bad = Line {
                game: Arc::from(GAME),
                json: format!(r#"{{"game_id":"{GAME}","do":"{deed}"}}"#).into(),
            };
            let games = usize::try_from(GAMES).expect("a number");
            let lines: Vec<Line> = others
                .chunks(games)
                .flat_map(|each| each.iter().chain([&bad]).cloned())
                .collect();
            let rig = Rig::new(false, &[("slots.settle", "1ms")]);
            rig.activate();
            rig.swap_key(GAME, &plugin);
            let started = Instant::now();
            rig.preload(&runtime, &vec![bad; FIRST]);
            rig.drain();
            let first = started.elapsed();
            let started = Instant::now();
            rig.preload(&runtime, &lines);
            rig.drain();
            let rest = started.elapsed();
            println!(
                "round {round}, over {limit}: its first {FIRST} events {:.2} s, then {} events in all {:.2} s",
                first.as_secs_f64(),
                lines.len(),
                rest.as_secs_f64(),
            );
            took.push(rest.as_secs_f64());
            rig.stop();
        }
    }
    let mut medians = took.into_iter().map(|mut took| {
        took.sort_by(f64::total_cmp);
        took[took.len() / 2]
    });
    let ordinary = medians.next().expect("a first");
    for ((limit, _), median) in DEEDS.iter().skip(1).zip(medians) {
        println!(
            "over {limit}: the events of all take {:.2} times as long (medians of {ROUNDS})",
            median / ordinary
        );
    }
}
