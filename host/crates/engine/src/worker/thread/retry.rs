//! A worker that goes back to its last commit, and partitions that it tries again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_log::{Fetched, LogError};
use courtside_types::{Offset, PartitionId};

use super::{RETRY_WAIT_MAX, RETRY_WAIT_MIN, Stop, WorkerLoop};
use crate::worker::{
    position::Start,
    processing::{Budget, Interrupted},
};

/// A run of polled records is cut short once it holds more than this many times
/// `commit_bytes_max`.
const BUDGET_COMMITS: usize = 4;
/// A run is cut short after this time, because other partitions, swaps and revokes wait
/// for its end.
const RUN_TIME_MAX: Duration = Duration::from_secs(2);
/// How long a failed seek is tried again, unless the group waits for the member.
const SEEK_WITHIN: Duration = Duration::from_secs(60);

impl WorkerLoop {
    /// Takes a partition up again that was given up a while ago. It counts as stopped
    /// until something of it is committed.
    pub(super) fn try_again(&mut self) {
        let Some((partition, next)) = self.given_up.take_due(Instant::now()) else {
            return;
        };
        // No pending record of another partition may share a commit with this one.
        if self.processing.pending_since().is_some() {
            self.commit();
        }
        let begun = self.processing.position_row(partition).and_then(|row| {
            let start = row.map_or_else(|| Start::fresh(next), |row| Start::of(&row));
            self.processing.assign(partition, start)
        });
        if let Err(error) = begun {
            tracing::warn!(pipeline = %self.pipeline.name, partition = partition.0, code = error.code(), %error, "state of a stopped partition cannot be read, trying again");
            self.given_up.add(partition, next, Instant::now());
            return;
        }
        let position = self.processing.positions().find(|(id, _)| *id == partition);
        let position = position.map_or(next, |(_, position)| position);
        if self.seek(partition, position) {
            self.member.resume(&[partition]);
        }
    }

    /// Processes and commits the records of each partition by themselves.
    pub(super) fn accept_apart(&mut self, fetched: Vec<Fetched>) {
        for of_partition in fetched {
            let rewinds = self.rewinds;
            match self.processing.accept(vec![of_partition]) {
                Ok(stops) => self.stop_partitions(stops),
                Err(interrupted) => self.start_over(&interrupted),
            }
            self.commit();
            // After a rewind the records that are left are read again.
            if self.rewinds != rewinds || self.stopping.is_some() {
                return;
            }
        }
    }

    pub(super) fn set_budget(&mut self) {
        let settings = &self.pipeline.settings;
        // A poll that could not be smaller is run to its end.
        let budget = (self.poll_bytes > 1).then(|| Budget {
            bytes_max: settings.commit_bytes_max * BUDGET_COMMITS,
            time_max: RUN_TIME_MAX,
            interrupt: Arc::clone(&self.interrupt),
        });
        self.processing.set_budget(budget);
    }

    /// Goes back to what is committed after records were not run to their end, and
    /// reads them again from there.
    pub(super) fn start_over(&mut self, why: &Interrupted) {
        self.rewind();
        match why {
            Interrupted::Hurried => return,
            Interrupted::TooMuch => {
                self.poll_bytes = (self.poll_bytes / 8).max(1);
                self.set_budget();
            }
            // Each try may take as long again. A poll of the smallest size has no
            // budget, so the next try is the last.
            Interrupted::TooLong => {
                self.poll_bytes = 1;
                self.set_budget();
            }
            Interrupted::Log(error) => {
                self.status
                    .waits_for(self.worker, error.code(), error.to_string());
                std::thread::sleep(self.run_retry_wait);
                self.run_retry_wait = (self.run_retry_wait * 2).min(RETRY_WAIT_MAX);
            }
        }
        tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, poll_bytes = self.poll_bytes, %why, "processing starts over from the last commit");
    }

    /// Goes back to what is committed. A worker that stops does not read it again.
    pub(super) fn rewind(&mut self) {
        self.rewinds += 1;
        self.processing.abort();
        if self.stopping.is_some() {
            return;
        }
        let positions: Vec<_> = self.processing.positions().collect();
        for (partition, next) in positions {
            self.seek(partition, next);
        }
    }

    /// Makes the member read a partition from `next`. Returns false when that fails and
    /// the partition stops, because reading on from another offset would skip events.
    pub(super) fn seek(&mut self, partition: PartitionId, next: Offset) -> bool {
        let since = Instant::now();
        let mut wait = RETRY_WAIT_MIN;
        loop {
            let Err(error) = self.member.seek(partition, next) else {
                return true;
            };
            tracing::warn!(pipeline = %self.pipeline.name, partition = partition.0, code = error.code(), %error, "seek failed");
            if matches!(error, LogError::Fenced { .. }) {
                self.lose(&[partition]);
                return false;
            }
            let within = if self.member.is_waited_for() {
                self.pipeline.settings.drain_deadline
            } else {
                SEEK_WITHIN
            };
            if !error.may_pass() || since.elapsed() >= within || self.must_stop() {
                let stop = Stop {
                    code: self.code_of(partition, &error),
                    reason: format!("the partition cannot be read from offset {next}: {error}"),
                    waits: false,
                };
                if error.may_pass()
                    && let Some(next) = self.processing.committed(partition)
                {
                    self.given_up.add(partition, next, Instant::now());
                }
                self.processing.unassign(&[partition]);
                self.stop_partitions(vec![(partition, stop)]);
                return false;
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(RETRY_WAIT_MAX);
        }
    }
}
