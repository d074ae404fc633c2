//! The rules by which an NBA game's events become its score. Plain Rust
//! without a word of WebAssembly or Kafka: the plugins `nba-scoring` and
//! `box-score` put it behind the contract.
//!
//! A [`Game`] is the state of one game from its first event on, 3 KB or so at
//! its end. Everything that events can make grow has a bound, and
//! [`Game::check`] refuses an event that goes over it.

mod baskets;
mod clock;
mod event;
mod game;
mod lead;
mod players;
mod saved;
mod scoreboard;
mod seen;
mod teams;

pub use clock::Clock;
pub use event::{Event, Kind};
pub use game::{Game, Status};
pub use scoreboard::Scoreboard;
