//! The rollbacks of a worker: they begin, move partitions back, and end.

use std::collections::BTreeMap;

use courtside_log::LogError;
use courtside_types::PartitionId;

use super::{RETRY_WAIT_MIN, WorkerLoop};
use crate::worker::{
    processing::OUT_OF_RANGE,
    status::{PartitionState, PartitionStatus},
};

impl WorkerLoop {
    /// Checks that the log still has the events that rollbacks need, before they change
    /// anything.
    pub(super) fn begin_rollbacks(&mut self) {
        for (partition, from) in self.processing.wanted() {
            match (self.starts)(partition) {
                Ok(start) if from < start => {
                    let stop = self.processing.refuse(partition, from, start);
                    self.stop_partitions(vec![(partition, stop)]);
                }
                Ok(_) => self.processing.approve(partition),
                Err(error) => {
                    tracing::warn!(pipeline = %self.pipeline.name, partition = partition.0, code = error.code(), %error, "rollback waits: the partition's first offset cannot be read");
                    std::thread::sleep(RETRY_WAIT_MIN);
                }
            }
        }
    }

    /// Seeks the partitions that go on at another offset because of a rollback.
    pub(super) fn go_where_moved(&mut self) {
        for (partition, next) in self.processing.moved() {
            match (self.starts)(partition) {
                // Retention has deleted the events meanwhile.
                Ok(start) if next < start => {
                    let stop = self.processing.refuse(partition, next, start);
                    self.stop_partitions(vec![(partition, stop)]);
                }
                // If the log does not answer, the read will show whether the events are
                // there.
                _ => {
                    self.seek(partition, next);
                }
            }
        }
    }

    /// Notes in the status how far each rollback has come, and which ones are done.
    pub(super) fn note_redo(&mut self) {
        let redoing: BTreeMap<_, _> = self
            .processing
            .redoing()
            .map(|(partition, redone, next)| (partition, (redone, next)))
            .collect();
        for (partition, (redone, next)) in &redoing {
            if self.waiting.contains(partition) {
                continue;
            }
            let reason = format!(
                "processing again after a rollback: from offset {} up to {}, now at {next}",
                redone.from, redone.until
            );
            self.status.set(
                *partition,
                PartitionStatus {
                    worker: self.worker,
                    state: PartitionState::Redoing,
                    code: None,
                    reason: Some(reason),
                },
            );
        }
        for partition in std::mem::take(&mut self.redoing) {
            let is_held = self.stopped.contains(&partition) || self.waiting.contains(&partition);
            if redoing.contains_key(&partition) || is_held {
                continue;
            }
            tracing::info!(pipeline = %self.pipeline.name, partition = partition.0, "rollback of the partition done");
            if self.is_running(partition) {
                self.note(partition, PartitionState::Running, None);
            }
        }
        self.redoing = redoing.into_keys().collect();
    }

    /// The code under which an error stops a partition. A rollback has a code of its
    /// own for events that the log no longer has.
    pub(super) fn code_of(&self, partition: PartitionId, error: &LogError) -> &'static str {
        let is_redone = self.redoing.contains(&partition)
            || self
                .processing
                .redoing()
                .any(|(redone, ..)| redone == partition);
        if is_redone && matches!(error, LogError::OffsetOutOfRange { .. }) {
            OUT_OF_RANGE
        } else {
            error.code()
        }
    }
}
