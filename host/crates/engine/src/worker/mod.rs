//! Workers: threads that own partitions, run their records through plugins and
//! commit, one transaction after another.
//!
//! [`core`] decides what a worker does next, and [`thread`] does it.
//! [`processing`] puts events through plugins and makes commits. [`output`] makes
//! outputs and dead letters, with the host's headers. [`takeover`] records which plugin
//! ran where, and [`envelope`] is the checkpoint as stored. Only [`status`] knows how
//! long a worker has waited to commit, and every other part asks there.
//!
//! A worker is a member of its group by itself. One member for each host would need a
//! second assignment, of partitions to workers. A revoke concerns one thread, which can
//! finish its events and commit before it releases the partition.

mod breaker;
mod core;
pub mod entity;
pub mod envelope;
pub mod gauges;
pub mod instances;
pub mod metrics;
pub mod orders;
pub mod output;
pub mod position;
pub mod processing;
pub mod redriven;
pub mod status;
pub mod takeover;
pub mod thread;
pub mod times;

#[cfg(test)]
pub(crate) mod tests;
