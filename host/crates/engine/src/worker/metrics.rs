//! The figures of workers and slots that are counted where they happen, by name.
//! Figures of things that come and go are in [`gauges`](super::gauges).

use courtside_plugin_host::FailureKind;
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

pub const COMMIT_DURATION: &str = "courtside_commit_duration_seconds";
pub const COMMIT_EVENTS: &str = "courtside_commit_events";
pub const SWAP_DURATION: &str = "courtside_swap_duration_seconds";
pub const TAKEOVER_GAP: &str = "courtside_takeover_gap_seconds";
const COMMIT_FAILURES: &str = "courtside_commit_failures_total";
const DEAD_LETTERS: &str = "courtside_dead_letters_total";
const HALTS: &str = "courtside_entity_halts_total";
const HALTS_ENDED: &str = "courtside_entity_halts_ended_total";
const OFFSETS_FOREIGN: &str = "courtside_offsets_foreign_total";
const SWAPS: &str = "courtside_swaps_total";

/// Upper bounds of the buckets, in seconds: a tenth of a millisecond to ten seconds.
const COMMIT_DURATION_BUCKETS_S: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0,
];
/// Upper bounds of the buckets, in events: one to a hundred thousand.
const COMMIT_EVENTS_BUCKETS: [f64; 11] = [
    1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0, 100_000.0,
];
/// Upper bounds of the buckets, in seconds: a millisecond to a minute.
const TAKEOVER_BUCKETS_S: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0,
];

/// Histograms, and their buckets.
pub const BUCKETS: [(&str, &[f64]); 4] = [
    (COMMIT_DURATION, &COMMIT_DURATION_BUCKETS_S),
    (COMMIT_EVENTS, &COMMIT_EVENTS_BUCKETS),
    (SWAP_DURATION, &TAKEOVER_BUCKETS_S),
    (TAKEOVER_GAP, &TAKEOVER_BUCKETS_S),
];

/// Codes of dead letters, beside those of failures.
const LETTER_CODES: [&str; 6] = [
    "event-refused",
    "event-without-key",
    "event-key-too-long",
    "event-key-not-utf8",
    "event-without-value",
    "entity-halted",
];
/// The results of swaps.
const SWAP_RESULTS: [&str; 3] = ["activated", "rejected", "rolled-back"];

/// A change of the partitions that a worker has.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    Assigned,
    Revoked,
    Lost,
}

impl Change {
    pub const ALL: [Self; 3] = [Self::Assigned, Self::Revoked, Self::Lost];

    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Revoked => "revoked",
            Self::Lost => "lost",
        }
    }
}

/// The metrics that one worker counts in. They are looked up once, so that a commit
/// looks up none.
#[derive(Debug)]
pub struct Handles {
    pipeline: String,
    emissions: Counter,
    duplicates: Counter,
    commits: Counter,
    commit_duration: Histogram,
    commit_events: Histogram,
    takeover_gap: Histogram,
    entities_open: Gauge,
    instances: Gauge,
    rebalances: [Counter; 3],
}

impl Handles {
    /// The metrics of a worker. Counters that alarms watch begin at 0 here, so that
    /// their first increase shows as one.
    #[must_use]
    pub fn new(pipeline: &str, worker: u32) -> Self {
        let of_pipeline = [("pipeline", pipeline.to_owned())];
        let of_worker = [
            ("pipeline", pipeline.to_owned()),
            ("worker", worker.to_string()),
        ];
        let rebalances = Change::ALL.map(|change| {
            counter!("courtside_rebalances_total", "pipeline" => pipeline.to_owned(), "change" => change.word())
        });
        let handles = Self {
            pipeline: pipeline.to_owned(),
            emissions: counter!("courtside_emissions_total", &of_pipeline),
            duplicates: counter!("courtside_duplicates_total", &of_pipeline),
            commits: counter!("courtside_commits_total", &of_pipeline),
            commit_duration: histogram!(COMMIT_DURATION, &of_pipeline),
            commit_events: histogram!(COMMIT_EVENTS, &of_pipeline),
            takeover_gap: histogram!(TAKEOVER_GAP, &of_pipeline),
            entities_open: gauge!("courtside_entities_open", &of_worker),
            instances: gauge!("courtside_instances", &of_worker),
            rebalances,
        };
        let failures = FailureKind::ALL.map(FailureKind::code);
        for code in LETTER_CODES.into_iter().chain(failures) {
            handles.dead_letters(code, 0);
        }
        for code in ["plugin-open-refused", "plugin-cannot-read"]
            .into_iter()
            .chain(failures)
        {
            counter!(HALTS, "pipeline" => handles.pipeline.clone(), "code" => code).increment(0);
        }
        counter!(HALTS_ENDED, &of_pipeline).increment(0);
        counter!(OFFSETS_FOREIGN, &of_pipeline).increment(0);
        for code in ["log-unavailable", "fenced"] {
            handles.commit_failed(code, 0);
        }
        handles
    }

    /// Counts a committed offset that was not the group's own.
    pub fn offset_foreign(&self) {
        counter!(OFFSETS_FOREIGN, "pipeline" => self.pipeline.clone()).increment(1);
    }

    /// Counts a commit, with its events and the records that they led to.
    pub fn committed(
        &self,
        events: u64,
        emissions: u64,
        duplicates: u64,
        took: std::time::Duration,
    ) {
        self.commits.increment(1);
        self.emissions.increment(emissions);
        self.duplicates.increment(duplicates);
        self.commit_duration.record(took.as_secs_f64());
        // A commit of an idle worker has the worker's own rows and no events.
        if events > 0 {
            // The events that fit between two commits are far fewer than 2^52.
            #[allow(clippy::cast_precision_loss)]
            self.commit_events.record(events as f64);
        }
    }

    /// Counts failed commits. Their counter is looked up each time, since failures are
    /// rare.
    pub fn commit_failed(&self, code: &str, times: u64) {
        counter!(COMMIT_FAILURES, "pipeline" => self.pipeline.clone(), "code" => code.to_owned())
            .increment(times);
    }

    /// Counts committed dead letters with a code.
    pub fn dead_letters(&self, code: &str, count: u64) {
        counter!(DEAD_LETTERS, "pipeline" => self.pipeline.clone(), "code" => code.to_owned())
            .increment(count);
    }

    pub fn gap(&self, gap: std::time::Duration) {
        self.takeover_gap.record(gap.as_secs_f64());
    }

    pub fn hold(&self, entities: usize, instances: usize) {
        // The entities and instances in memory are far fewer than 2^52.
        #[allow(clippy::cast_precision_loss)]
        self.entities_open.set(entities as f64);
        #[allow(clippy::cast_precision_loss)]
        self.instances.set(instances as f64);
    }

    pub fn rebalanced(&self, change: Change) {
        if let Some(counter) = self.rebalances.get(change as usize) {
            counter.increment(1);
        }
    }
}

pub fn halted(pipeline: &str, code: &str) {
    counter!(HALTS, "pipeline" => pipeline.to_owned(), "code" => code.to_owned()).increment(1);
}

pub fn halt_ended(pipeline: &str) {
    counter!(HALTS_ENDED, "pipeline" => pipeline.to_owned()).increment(1);
}

/// Begins a slot's counters of swaps at 0, so that the first swap shows as an increase.
pub fn slot_is_there(pipeline: &str, slot: &str) {
    for result in SWAP_RESULTS {
        swaps(pipeline, slot, result, 0);
    }
}

/// Counts swaps of a slot that had this result.
pub fn swaps(pipeline: &str, slot: &str, result: &'static str, count: u64) {
    counter!(SWAPS, "pipeline" => pipeline.to_owned(), "slot" => slot.to_owned(), "result" => result)
        .increment(count);
}

/// Records how long a step of a swap took.
pub fn swap_took(pipeline: &str, step: &'static str, took: std::time::Duration) {
    histogram!(SWAP_DURATION, "pipeline" => pipeline.to_owned(), "step" => step)
        .record(took.as_secs_f64());
}

pub fn describe() {
    describe_counter!("courtside_emissions_total", "Output records committed.");
    describe_counter!(DEAD_LETTERS, "Dead letters committed, by code.");
    describe_counter!(
        "courtside_duplicates_total",
        "Events skipped for their idempotency key."
    );
    describe_counter!("courtside_commits_total", "Commits.");
    describe_counter!(
        COMMIT_FAILURES,
        "Commits that the log did not take, by code; each is tried again."
    );
    describe_histogram!(COMMIT_DURATION, Unit::Seconds, "Time a commit took.");
    describe_histogram!(COMMIT_EVENTS, "Events of a commit.");
    describe_gauge!("courtside_entities_open", "Entities in memory.");
    describe_gauge!("courtside_instances", "Plugin instances.");
    describe_counter!(
        "courtside_rebalances_total",
        "Times that a worker was given partitions, or that they were taken from it."
    );
    describe_counter!(
        HALTS,
        "Entities halted: their events are dead letters until they are redriven."
    );
    describe_counter!(
        HALTS_ENDED,
        "Entities whose halt ended, because the events that they missed were redriven."
    );
    describe_counter!(
        OFFSETS_FOREIGN,
        "Committed offsets that were not the group's own when a partition was assigned."
    );
    describe_counter!(
        SWAPS,
        "Swaps, by slot and result (activated, rejected or rolled-back)."
    );
    describe_histogram!(
        SWAP_DURATION,
        Unit::Seconds,
        "Time that a step of a swap took: compile, rehearse, activate."
    );
    describe_histogram!(
        TAKEOVER_GAP,
        Unit::Seconds,
        "Time that a worker with events went without a commit around a takeover."
    );
}
