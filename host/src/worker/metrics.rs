//! The figures of workers and slots, by name.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub const COMMIT_DURATION: &str = "courtside_commit_duration_seconds";

/// From a tenth of a millisecond to ten seconds.
pub const COMMIT_DURATION_BUCKETS_S: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0,
];

/// Describes them.
pub fn describe() {
    describe_counter!(
        "courtside_events_processed_total",
        "Events whose processing is committed, duplicates and dead letters among them."
    );
    describe_counter!("courtside_emissions_total", "Output records committed.");
    describe_counter!("courtside_dead_letters_total", "Dead letters committed.");
    describe_counter!(
        "courtside_duplicates_total",
        "Events skipped for their idempotency key."
    );
    describe_counter!(
        "courtside_plugin_calls_total",
        "Calls of plugins with events."
    );
    describe_counter!(
        "courtside_plugin_failures_total",
        "Calls of plugins that failed: traps, deadlines, limits."
    );
    describe_counter!("courtside_commits_total", "Commits.");
    describe_counter!(
        "courtside_commit_failures_total",
        "Commits that the log did not take, by code; each is tried again."
    );
    describe_histogram!(COMMIT_DURATION, Unit::Seconds, "Time a commit took.");
    describe_gauge!("courtside_entities_open", "Entities in memory.");
    describe_gauge!("courtside_instances", "Plugin instances.");
    describe_counter!(
        "courtside_swaps_total",
        "Swaps, by slot and result (activated or rejected)."
    );
}
