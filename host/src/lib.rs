//! Courtside: a stream processor for Kafka whose logic is WebAssembly plugins.
//!
//! The modules stand in the order of an event's way, after the modules that put them
//! together; `ARCHITECTURE.md` describes that way from end to end.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "both panic where nobody reads; `terminal` and `logging` do not"
)]

/// Events are allocated on one thread and freed on another, and games of all
/// sizes come and go for months: glibc's allocator took a tenth of the time of
/// 100,000 games, and it fragments.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod backup;
pub mod cli;
pub mod client;
pub mod config;
pub mod host;

pub mod http;
pub mod ingest;
pub mod letters;
pub mod log;
pub mod plugin;
pub mod scoreboard;
pub mod slots;
pub mod worker;

pub mod clock;
pub mod figures;
pub mod logging;
pub mod pipeline;
pub mod play;
pub mod replay;
pub mod shutdown;
pub mod terminal;
pub mod topics;
pub mod types;
