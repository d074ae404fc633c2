//! The metrics of redrives.

use metrics::{counter, describe_counter};

pub(super) const REDRIVEN: &str = "courtside_redriven_total";
pub(super) const DEAD_AGAIN: &str = "courtside_redriven_dead_total";

/// Describes the metrics of redrives.
pub fn describe() {
    describe_counter!(
        REDRIVEN,
        "Dead letters whose events were appended to the input again."
    );
    describe_counter!(
        DEAD_AGAIN,
        "Redriven events that became dead letters again."
    );
}

/// Shows both counts of a pipeline from the host's start on.
pub(super) fn begin(pipeline: &str) {
    for name in [REDRIVEN, DEAD_AGAIN] {
        counter!(name, "pipeline" => pipeline.to_owned()).increment(0);
    }
}
