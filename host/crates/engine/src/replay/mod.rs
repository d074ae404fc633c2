//! Replay: computes again what a plugin computed of one entity.
//!
//! A host shows what its log has of an entity ([`trace`]). A [`Recording`] holds
//! all of that, fetched from a host or read from a file ([`archive`]).
//! [`run`] puts a recording through the worker's own
//! [`Processing`](crate::worker::processing) with a log in memory, and [`compare`]
//! compares the result with the published records. [`check`] does the same with a
//! plugin that runs nowhere yet. Nothing here writes to a log, joins a group or
//! changes a slot.
//!
//! A recording lives as long as the command, in memory: the events of one
//! entity and what was published of them, up to [`RECORDING_BYTES_MAX`].

pub mod archive;
mod cases;
pub mod check;
pub mod compare;
pub mod entity;
mod error;
pub mod line;
mod recording;
mod redone;
pub mod run;
#[cfg(test)]
mod tests;
pub mod timeline;
pub mod trace;

pub use self::{
    error::ReplayError,
    recording::{RECORDING_BYTES_MAX, Recording},
};
