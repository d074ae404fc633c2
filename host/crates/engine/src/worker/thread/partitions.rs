//! The partitions of a worker, from their release to their states.

use std::time::Instant;

use courtside_types::PartitionId;

use super::{Stop, WorkerLoop, commit::CommitOutcome};
use crate::worker::status::{PartitionState, PartitionStatus};

impl WorkerLoop {
    /// Commits and releases partitions that another member waits for. At the drain
    /// deadline they go without the commit, and their next member reads the events
    /// again.
    pub(super) fn let_go(&mut self, partitions: &[PartitionId]) {
        let deadline = Instant::now() + self.pipeline.settings.drain_deadline;
        let outcome = self.commit_by(Some(deadline));
        self.lose(partitions);
        self.member.release(partitions);
        if outcome == CommitOutcome::Overdue {
            tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, partitions = partitions.len(), "partitions released without a last commit");
            self.rewind();
        }
    }

    pub(super) fn lose(&mut self, partitions: &[PartitionId]) {
        self.processing.unassign(partitions);
        for partition in partitions {
            self.forget(*partition);
        }
        self.status.forget(partitions.iter());
        if self.partitions.is_empty() {
            self.status.goes_on(self.worker);
        }
    }

    pub(super) fn forget(&mut self, partition: PartitionId) {
        self.partitions.remove(&partition);
        self.waiting.remove(&partition);
        self.unbegun.remove(&partition);
        self.redoing.remove(&partition);
        self.stopped.remove(&partition);
        self.given_up.forget(partition);
    }

    pub(super) fn is_running(&self, partition: PartitionId) -> bool {
        self.partitions.contains(&partition)
            && !self.waiting.contains(&partition)
            && !self.unbegun.contains_key(&partition)
            && !self.stopped.contains(&partition)
    }

    pub(super) fn stop_partitions(&mut self, stops: Vec<(PartitionId, Stop)>) {
        for (partition, stop) in stops {
            self.member.pause(&[partition]);
            let state = if stop.waits {
                self.waiting.insert(partition);
                PartitionState::Waiting
            } else {
                self.waiting.remove(&partition);
                self.stopped.insert(partition);
                PartitionState::Stopped
            };
            tracing::error!(
                pipeline = %self.pipeline.name,
                partition = partition.0,
                code = stop.code,
                reason = %stop.reason,
                "partition is not processed",
            );
            self.note(partition, state, Some((stop.code, stop.reason)));
        }
    }

    /// Without a default plugin, all partitions wait for it.
    pub(super) fn wait_for_plugin(&mut self) {
        if self.processing.has_default() {
            return;
        }
        let running = self.partitions.iter().copied();
        let running: Vec<_> = running.filter(|id| self.is_running(*id)).collect();
        self.member.pause(&running);
        for partition in running {
            self.waiting.insert(partition);
            let reason = format!(
                "the pipeline has no plugin: put one into {}/default.wasm",
                self.pipeline.name
            );
            self.note(
                partition,
                PartitionState::Waiting,
                Some(("plugin-missing", reason)),
            );
        }
    }

    /// Resumes all partitions that wait for a plugin, whichever slot changed. Each says
    /// `running` at once, and waits again at the first event that its plugin cannot read.
    pub(super) fn go_on_waiting(&mut self) {
        if !self.processing.has_default() {
            return;
        }
        let mut going = Vec::new();
        for partition in std::mem::take(&mut self.waiting) {
            if let Some(next) = self.processing.resume(partition)
                && self.seek(partition, next)
            {
                self.note(partition, PartitionState::Running, None);
                going.push(partition);
            }
        }
        if !going.is_empty() {
            tracing::info!(pipeline = %self.pipeline.name, worker = self.worker, partitions = going.len(), "partitions that waited for a plugin go on");
        }
        self.member.resume(&going);
        self.note_redo();
    }

    pub(super) fn note(
        &self,
        partition: PartitionId,
        state: PartitionState,
        why: Option<(&'static str, String)>,
    ) {
        let (code, reason) = why.unzip();
        self.status.set(
            partition,
            PartitionStatus {
                worker: self.worker,
                state,
                code,
                reason,
            },
        );
    }
}
