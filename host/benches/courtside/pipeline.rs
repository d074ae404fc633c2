//! The way from the log through the plugin to the synced commit.

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::{
    load::{self, Line},
    rig::{Rig, memory_mb},
};

struct Measured {
    events: usize,
    took: Duration,
    output_bytes: usize,
}

impl Measured {
    fn rate(&self) -> f64 {
        self.events as f64 / self.took.as_secs_f64()
    }

    fn print(&self, what: &str) {
        println!(
            "{what}: {} events in {:.2} s: {:.0} events/s, {:.2} us an event; outputs of {} bytes",
            self.events,
            self.took.as_secs_f64(),
            self.rate(),
            1e6 / self.rate(),
            self.output_bytes,
        );
    }
}

fn run(runtime: &Runtime, lines: &[Line], native: bool) -> (Measured, Rig) {
    let rig = Rig::new(native, &[]);
    rig.preload(runtime, lines);
    let started: Instant = rig.activate();
    rig.drain();
    let took = started.elapsed();
    let measured = Measured {
        events: lines.len(),
        took,
        output_bytes: rig.output_bytes(),
    };
    (measured, rig)
}

/// 1,000 games to their ends: as WebAssembly, and natively.
pub fn wasm_and_native() {
    let runtime = Runtime::new().expect("a runtime");
    let lines = load::interleaved(1_000, usize::MAX);
    println!("1,000 games, events of {} bytes", load::mean_bytes(&lines));
    let mut ratios = Vec::new();
    for round in 1..=3 {
        let (native, rig) = run(&runtime, &lines, true);
        rig.stop();
        let (wasm, rig) = run(&runtime, &lines, false);
        rig.stop();
        native.print(&format!("round {round}, native"));
        wasm.print(&format!("round {round}, wasm"));
        ratios.push(native.rate() / wasm.rate());
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "wasm takes {:.2} times as long as native (median of 3)",
        ratios[1]
    );
}

/// Events of 1,000 live games, and the same number of events of 100,000 live games.
pub fn many_games() {
    let runtime = Runtime::new().expect("a runtime");
    const EVENTS: usize = 500_000;
    let mut ratios = Vec::new();
    for round in 1..=3 {
        let mut rates = Vec::new();
        for games in [1_000_u64, 100_000] {
            let each = EVENTS / usize::try_from(games).unwrap_or(1);
            let lines = load::interleaved(games, each);
            let before = memory_mb("VmRSS");
            let (measured, rig) = run(&runtime, &lines, false);
            measured.print(&format!("round {round}, {games} games, {each} events each"));
            if round == 1 {
                println!(
                    "memory: {} MB with all games open, of them {before} MB the benchmark's own events; peak {} MB",
                    memory_mb("VmRSS"),
                    memory_mb("VmHWM"),
                );
            }
            rates.push(measured.rate());
            rig.stop();
        }
        ratios.push(rates[0] / rates[1]);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "an event costs {:.2} times as much at 100,000 games as at 1,000 (median of 3)",
        ratios[1]
    );
}

/// Games come and go, 1,000,000 in all: memory is what the configuration allows.
pub fn a_million_games() {
    let runtime = Runtime::new().expect("a runtime");
    let settings = [
        ("worker.entities_open_max", "20000"),
        ("scoreboard.memory_bytes_max", "64MiB"),
    ];
    let rig = Rig::new(false, &settings);
    rig.activate();
    let started = Instant::now();
    const STEP: u64 = 100_000;
    for step in 0..10 {
        let season = courtside_play::simulate::Season::new(1);
        for part in 0..10 {
            let first = step * STEP + part * STEP / 10;
            let lines: Vec<Line> = (first..first + STEP / 10)
                .filter_map(|number| season.game(number))
                .flat_map(|game| game.take(2))
                .map(|event| Line {
                    game: event.game_id.clone(),
                    json: serde_json::to_vec(&event)
                        .expect("an event is plain data")
                        .into(),
                })
                .collect();
            rig.preload(&runtime, &lines);
        }
        rig.drain();
        println!(
            "{} games: {} MB, {:.0} s",
            (step + 1) * STEP,
            memory_mb("VmRSS"),
            started.elapsed().as_secs_f64()
        );
    }
    rig.stop();
}
