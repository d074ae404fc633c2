//! Restores of assigned partitions, from the request to the event for the worker.

use std::time::{Duration, Instant};

use super::session::{AssignedPartition, FetchState, MemberSession};
use crate::{
    Assignment, Polled,
    kafka::{reader::seek, restore::RestoreRequest},
};

impl MemberSession {
    /// Tells the worker that all partitions are lost, and restores them, because nobody
    /// knows what is committed. Takes up to `time` to end an open transaction.
    pub(super) fn start_over(&mut self, time: Duration) {
        self.void();
        // A restore waits for open transactions.
        self.transactions.tidy(time);
        self.restore();
    }

    /// Tells the worker that all partitions are lost. They stay assigned, as far as the
    /// client knows.
    pub(super) fn void(&mut self) {
        let mut lost: Vec<_> = Vec::new();
        for task in &mut self.tasks {
            if task.is_known() {
                lost.push(task.partition);
            }
            task.state = FetchState::Void;
            task.paused = false;
        }
        self.events
            .retain(|event| !matches!(event, Polled::Stopped { .. }));
        lost.sort_unstable();
        if !lost.is_empty() {
            self.events.push_back(Polled::Lost(lost));
        }
    }

    /// Begins to restore the void partitions.
    pub(super) fn restore(&mut self) {
        let mut wanted = Vec::new();
        for task in &mut self.tasks {
            if task.state == FetchState::Void {
                let claim = self.shared.store.claim(&self.spec.group, task.partition);
                task.state = FetchState::Restoring;
                task.claim = Some(claim);
                wanted.push(RestoreRequest {
                    partition: task.partition,
                    claim,
                });
            }
        }
        self.restorer.restore(wanted);
    }

    /// Tells the worker of restored partitions.
    pub(super) fn take_restored(&mut self) {
        let mut assigned = Vec::new();
        while let Some(restored) = self.restorer.next() {
            let wanted = restored.wanted;
            let RestoreRequest { partition, claim } = wanted;
            let assignment = Assignment {
                partition,
                committed: restored.committed,
                bounds: restored.bounds,
            };
            let next = assignment.next();
            let is_wanted = |task: &&mut AssignedPartition| {
                task.partition == partition
                    && task.state == FetchState::Restoring
                    && task.claim == Some(claim)
            };
            let Some(task) = self.tasks.iter_mut().find(is_wanted) else {
                continue;
            };
            task.next = next.min(assignment.bounds.end);
            if !assignment.bounds.hold(next) {
                task.state = FetchState::Stopped;
                assigned.push(assignment);
                continue;
            }
            let deadline = Instant::now() + self.shared.config.request_timeout;
            match seek(&self.consumer, &self.topic, partition, next, deadline) {
                Ok(()) => {
                    task.state = FetchState::Reading;
                    assigned.push(assignment);
                }
                Err(error) => {
                    tracing::warn!(group = %self.spec.group, %partition, %error, "seek to the restored offset failed, restoring the partition again");
                    self.restorer.restore(vec![wanted]);
                }
            }
        }
        if !assigned.is_empty() {
            assigned.sort_unstable_by_key(|assignment| assignment.partition);
            self.events.push_back(Polled::Assigned(assigned));
        }
    }
}
