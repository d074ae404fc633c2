//! The host as its operator has it: starting, stopping, its disk, its
//! pipelines, and what clients send it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod disk;
mod input;
mod pipelines;
mod start;
mod stop;

use serde_json::{Value, json};

/// The n-th free throw of a game.
fn point(game: &str, seq: u64) -> Value {
    json!({
        "game_id": game, "seq": seq, "type": "free_throw", "team": "BOS",
        "player": "Ada Park", "points": 1, "period": 1, "clock": "9:42",
    })
}
