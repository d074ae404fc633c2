//! Courtside: a stream processor for Kafka whose logic is WebAssembly plugins.
//!
//! This crate puts the parts together: configuration, the commands, and the host.
//! `ARCHITECTURE.md` describes the way of an event through the parts.

/// Events are allocated on one thread and freed on another, and games of all
/// sizes come and go for months: glibc's allocator took a tenth of the time of
/// 100,000 games, and it fragments.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod cli;
pub mod config;
pub mod host;
pub mod topics;
