//! The figures of `docs/performance.md`: `cargo bench -p courtside`, or one of
//! them: `cargo bench -p courtside -- pipeline`.
//!
//! Figures that are compared are measured in one run, one after the other,
//! because machines are shared and noisy.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing
)]

mod client;
mod cpu;
mod http_api;
mod kafka;
mod load;
mod native;
mod neighbours;
mod pipeline;
mod process;
mod reads;
mod rig;
mod subscribers;
mod swap;

use std::process::ExitCode;

use courtside_plugin_host::wasm::{COMPILE_COMMAND, compile_process};

const ALL: &[(&str, fn())] = &[
    ("pipeline", pipeline::wasm_and_native),
    ("games", pipeline::many_games),
    ("idle", pipeline::a_million_games),
    ("latency", http_api::latency),
    ("post", http_api::post),
    ("subscribers", subscribers::plain),
    ("subscribers-gzip", subscribers::gzip),
    ("subscribers-websocket", subscribers::websocket),
    ("reads", reads::reads),
    ("swap", swap::embedded),
    ("many-swaps", swap::many),
    ("compiling", swap::compiling),
    ("neighbours", neighbours::all),
    ("kafka", kafka::stream::pipeline),
    ("kafka-post", kafka::stream::post),
    ("kafka-latency", kafka::stream::latency),
    ("kafka-failure", kafka::failure::kill),
    ("kafka-rebalance", kafka::failure::join),
    ("kafka-restore", kafka::restore::restore),
    ("kafka-swap", swap::on_kafka),
];

fn main() -> ExitCode {
    // An engine starts its own program to compile a plugin.
    if std::env::args().nth(1).as_deref() == Some(COMPILE_COMMAND) {
        return compile_process();
    }
    run();
    ExitCode::SUCCESS
}

fn run() {
    // Cargo adds `--bench`; the other arguments name benchmarks.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    for (name, run) in ALL {
        // Each benchmark has its own process: its memory is measured, and must not be
        // another's.
        match wanted.first().map(String::as_str) {
            None => {
                let this = std::env::current_exe().expect("this program");
                let status = std::process::Command::new(this)
                    .arg(name)
                    .status()
                    .expect("this program runs");
                assert!(status.success(), "{name} failed");
            }
            Some(_) if wanted.iter().any(|wanted| wanted == name) => {
                println!("\n# {name}");
                run();
            }
            Some(_) => {}
        }
    }
}
