//! A worker's metrics, and its log lines on dead letters and rebalances.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use courtside_log::Commit;
use courtside_process::clock::thread_cpu_time;
use courtside_types::{NewRecord, PartitionId};

use super::WorkerLoop;
use crate::worker::{metrics::Change, output};

/// A key is logged up to this length, because one from another producer may have
/// megabytes.
const KEY_LOGGED_BYTES_MAX: usize = 256;
/// Dead letters of one commit that are logged one by one.
const DEAD_LETTERS_LOGGED_MAX: usize = 10;

impl WorkerLoop {
    pub(super) fn report(&mut self, commit: &Commit, took: Duration) {
        let counts = self.processing.counts;
        let before = std::mem::replace(&mut self.reported, counts);
        self.handles.committed(
            counts.events - before.events,
            counts.emissions - before.emissions,
            counts.duplicates - before.duplicates,
            took,
        );
        let moved = commit
            .offsets
            .iter()
            .map(|(partition, next)| (*partition, *next, self.processing.events_of(*partition)));
        self.status.figures().committed(moved);
        let events = counts.events - before.events;
        if let Some(gap) = self.gap.committed(events, Instant::now()) {
            self.handles.gap(gap);
        }
        self.report_gauges();
        if counts.dead_letters > before.dead_letters {
            self.report_dead_letters(commit);
        }
    }

    pub(super) fn report_gauges(&self) {
        let processing = &self.processing;
        let (entities, instances) = (processing.entities_open(), processing.instances());
        self.handles.hold(entities, instances);
        let figures = self.status.figures();
        figures.worker_used(self.worker, thread_cpu_time());
    }

    pub(super) fn rebalanced(&self, change: Change, partitions: &[PartitionId]) {
        self.handles.rebalanced(change);
        let numbers: Vec<_> = partitions.iter().map(|id| id.0.to_string()).collect();
        tracing::info!(
            pipeline = %self.pipeline.name,
            worker = self.worker,
            change = change.word(),
            partitions = numbers.join(","),
            "rebalance changed the worker's partitions",
        );
    }

    /// Logs the dead letters of a commit, for somebody to look at. A flood of them is
    /// logged as a few and the number of the rest.
    pub(super) fn report_dead_letters(&self, commit: &Commit) {
        let letters = || {
            commit
                .records
                .iter()
                .filter(|(place, _)| place.topic == self.pipeline.dead_letter)
        };
        let text = |record: &NewRecord, name: &str| {
            let header = record.headers.iter().find(|header| &*header.name == name);
            let value = header.and_then(|header| header.value.as_deref());
            String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
        };
        let mut by_code = BTreeMap::<String, u64>::new();
        for (_, record) in letters() {
            *by_code
                .entry(text(record, &output::ERROR_CODE))
                .or_default() += 1;
        }
        for (code, count) in by_code {
            self.handles.dead_letters(&code, count);
        }
        for (_, record) in letters().take(DEAD_LETTERS_LOGGED_MAX) {
            let header = |name: &str| text(record, name);
            let key = record.key.as_deref().unwrap_or_default();
            let key = key.get(..KEY_LOGGED_BYTES_MAX).unwrap_or(key);
            tracing::warn!(
                pipeline = %self.pipeline.name,
                key = %String::from_utf8_lossy(key),
                code = header(&output::ERROR_CODE),
                reason = header(&output::ERROR_REASON),
                source = header(&output::SOURCE),
                "dead letter",
            );
        }
        let more = letters().count().saturating_sub(DEAD_LETTERS_LOGGED_MAX);
        if more > 0 {
            tracing::warn!(pipeline = %self.pipeline.name, more, "more dead letters in the same commit");
        }
    }
}
