//! Workers: threads that own partitions, run their records through plugins and
//! commit, one transaction after another.

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
