//! Dead letters for the operator: how they are listed ([`pages`]), and how their
//! events are processed after all ([`redrive`]).
//!
//! A [`DeadLetters`] serves one pipeline and lives as long as the host. A redrive
//! runs on a thread of its own, one at a time. Between redrives, the host keeps
//! only the notes of redriven letters, which it reads at the first request.

mod control;
mod error;
pub mod event;
mod metrics;
pub mod notes;
mod pages;
mod redrive;
pub mod sharing;
mod state;
#[cfg(test)]
mod tests;
pub mod view;

pub use self::{
    error::DeadLettersError,
    event::topic,
    metrics::describe,
    pages::{Filter, From},
    state::DeadLetters,
};
