//! A worker's metrics, and its log lines on dead letters and rebalances.

use std::collections::BTreeMap;

use courtside_log::Commit;
use courtside_process::clock::thread_cpu_time;
use courtside_types::{NewRecord, PartitionId};

use super::WorkerLoop;
use crate::worker::{
    core::{Progress, Report},
    metrics::Change,
    output,
};

/// A key is logged up to this length, because one from another producer may have
/// megabytes.
const KEY_LOGGED_BYTES_MAX: usize = 256;
/// Dead letters of one commit that are logged one by one.
const DEAD_LETTERS_LOGGED_MAX: usize = 10;

impl WorkerLoop {
    /// Passes a change on to the pipeline's status and to metrics.
    pub(super) fn report(&self, report: Report) {
        let (status, worker) = (&self.status, self.worker);
        match report {
            Report::Partition(partition, reported) => status.set(partition, reported),
            Report::Assigned(partition, next) => status.gauges().assigned(partition, next),
            Report::Forgotten(partitions) => status.forget(partitions.iter()),
            Report::CommitWaits(code, reason) => status.waits_for(worker, code, reason),
            Report::Committed => status.goes_on(worker),
            Report::Progress(progress) => self.report_progress(&progress),
            Report::OffsetForeign => self.handles.offset_foreign(),
            Report::Gauges => self.report_gauges(),
        }
    }

    fn report_progress(&self, progress: &Progress) {
        let counts = &progress.counts;
        self.handles.committed(
            counts.events,
            counts.emissions,
            counts.duplicates,
            progress.took,
        );
        let moved = progress.moved.iter().copied();
        self.status.gauges().committed(moved);
        if let Some(gap) = progress.gap {
            self.handles.gap(gap);
        }
        self.report_gauges();
        if counts.dead_letters > 0 {
            self.report_dead_letters(&progress.commit);
        }
    }

    fn report_gauges(&self) {
        let (entities, instances) = self.core.open();
        self.handles.hold(entities, instances);
        let gauges = self.status.gauges();
        gauges.worker_used(self.worker, thread_cpu_time());
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
    fn report_dead_letters(&self, commit: &Commit) {
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
