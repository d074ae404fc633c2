//! Courtside: a stream processor for Kafka whose logic is WebAssembly plugins.
//!
//! The modules stand in the order of the way of an event, after those that put
//! them together; `ARCHITECTURE.md` tells it from end to end.

pub mod cli;
pub mod config;
pub mod host;

pub mod http;
pub mod ingest;
pub mod log;
pub mod plugin;
pub mod scoreboard;
pub mod slots;
pub mod worker;

pub mod pipeline;
pub mod play;
pub mod types;
