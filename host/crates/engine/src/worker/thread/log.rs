//! The worker's calls of the log that may fail and are tried again.

use std::time::{Duration, Instant};

use courtside_log::{Commit, LogError, Polled};
use courtside_types::{Offset, PartitionId};

use super::WorkerLoop;
use crate::worker::{
    core::{CommitEnd, Input, RETRY, SeekError},
    metrics::Change,
};

/// How long a failed seek is tried again, unless the group waits for the member.
const SEEK_WITHIN: Duration = Duration::from_secs(60);

impl WorkerLoop {
    pub(super) fn poll(&mut self, wait: Duration, bytes_max: usize) -> Input {
        match self.member.poll(wait, bytes_max) {
            Ok(polled) => {
                self.poll_backoff.reset();
                match &polled {
                    Polled::Assigned(assignments) => {
                        let given = assignments.iter().map(|given| given.partition);
                        self.rebalanced(Change::Assigned, &given.collect::<Vec<_>>());
                    }
                    Polled::Revoked(partitions) => self.rebalanced(Change::Revoked, partitions),
                    Polled::Lost(partitions) => self.rebalanced(Change::Lost, partitions),
                    Polled::Records(_) | Polled::Stopped { .. } | Polled::Idle => {}
                }
                Input::Polled(polled)
            }
            Err(error) => {
                tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, code = error.code(), %error, "poll of the record log failed, trying again");
                std::thread::sleep(self.poll_backoff.next_wait());
                Input::PollFailed
            }
        }
    }

    /// Tries to write a commit, again and again until the deadline: this one, or the
    /// earlier one of a stop or a revoke.
    pub(super) fn commit(&mut self, commit: &Commit, mut deadline: Option<Instant>) -> CommitEnd {
        self.status.waits(self.worker);
        let started = Instant::now();
        // The first retry comes at once: a group that has just moved on takes it.
        let mut wait = Duration::ZERO;
        let mut backoff = RETRY;
        loop {
            deadline = deadline.into_iter().chain(self.stopping).min();
            let written = match deadline {
                None => self.member.commit(commit),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.member.commit_within(commit, left)
                }
            };
            let Err(error) = written else {
                return CommitEnd::Committed(started.elapsed());
            };
            self.handles.commit_failed(error.code(), 1);
            if matches!(error, LogError::Fenced { .. }) {
                self.status
                    .waits_for(self.worker, error.code(), error.to_string());
                tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, code = error.code(), %error, "commit fenced, its events are processed again");
                return CommitEnd::Fenced;
            }
            if !error.may_pass() {
                return CommitEnd::Refused(error);
            }
            self.status
                .waits_for(self.worker, error.code(), error.to_string());
            tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, code = error.code(), %error, "commit failed, trying again");
            let now = Instant::now();
            if deadline.is_none() && self.member.is_waited_for() {
                deadline = Some(now + self.pipeline.settings.drain_deadline);
            }
            if self.must_stop() || deadline.is_some_and(|deadline| now >= deadline) {
                return CommitEnd::Overdue;
            }
            std::thread::sleep(deadline.map_or(wait, |deadline| wait.min(deadline - now)));
            wait = backoff.next_wait();
        }
    }

    /// Makes the member read a partition from `next`.
    pub(super) fn seek(&mut self, partition: PartitionId, next: Offset) -> Result<(), SeekError> {
        let since = Instant::now();
        let mut backoff = RETRY;
        loop {
            let Err(error) = self.member.seek(partition, next) else {
                return Ok(());
            };
            tracing::warn!(pipeline = %self.pipeline.name, partition = partition.0, code = error.code(), %error, "seek failed");
            if matches!(error, LogError::Fenced { .. }) {
                return Err(SeekError::Fenced);
            }
            let within = if self.member.is_waited_for() {
                self.pipeline.settings.drain_deadline
            } else {
                SEEK_WITHIN
            };
            if !error.may_pass() || since.elapsed() >= within || self.must_stop() {
                return Err(SeekError::Failed(error));
            }
            std::thread::sleep(backoff.next_wait());
        }
    }
}
