//! Courtside: a stream processor for Kafka whose logic is WebAssembly plugins.
//!
//! The modules stand in the order of the way of an event; `ARCHITECTURE.md`
//! tells it from end to end.

pub mod http;
pub mod ingest;
pub mod log;
pub mod pipeline;
pub mod play;
pub mod plugin;
pub mod scoreboard;
pub mod slots;
pub mod types;
pub mod worker;
