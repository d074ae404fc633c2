//! The rollbacks of a worker: they begin, move partitions back, and end.

use std::{collections::BTreeMap, time::Duration};

use courtside_log::LogError;
use courtside_types::{Offset, PartitionId};

use super::{
    Core,
    agenda::{AfterSeek, Job, Report},
    partitions::State,
};
use crate::worker::{
    processing::OUT_OF_RANGE,
    status::{PartitionState, PartitionStatus},
};

/// The wait after the log did not say which events of a partition it still has.
const START_WAIT: Duration = Duration::from_millis(20);

impl Core {
    /// Begins the rollbacks that are wanted, one after another.
    pub(super) fn begin_rollbacks(&mut self) {
        let wanted = self.processing.wanted().into_iter();
        self.agenda
            .first(wanted.map(|(partition, from)| Job::BeginRollback(partition, from)));
    }

    /// Begins a rollback, if the log still has the events that it needs. Until that is
    /// known nothing changes.
    pub(super) fn begin_rollback(
        &mut self,
        partition: PartitionId,
        from: Offset,
        start: Result<Offset, LogError>,
    ) {
        match start {
            Ok(start) if from < start => self.refuse_rollback(partition, from, start),
            Ok(_) => self.processing.approve(partition),
            Err(error) => {
                tracing::warn!(pipeline = %self.pipeline.name, partition = partition.0, code = error.code(), %error, "rollback waits: the partition's first offset cannot be read");
                self.agenda.first([Job::Sleep(START_WAIT)]);
            }
        }
    }

    /// Goes on at another offset because of a rollback, if the log still has it.
    pub(super) fn move_from(
        &mut self,
        partition: PartitionId,
        next: Offset,
        start: Result<Offset, LogError>,
    ) {
        match start {
            // Retention has deleted the events meanwhile.
            Ok(start) if next < start => self.refuse_rollback(partition, next, start),
            // If the log does not answer, the read will show whether the events are
            // there.
            _ => self.agenda.first([Job::Seek {
                partition,
                next,
                then: AfterSeek::Read,
            }]),
        }
    }

    fn refuse_rollback(&mut self, partition: PartitionId, from: Offset, start: Offset) {
        let stop = self.processing.refuse(partition, from, start);
        self.stop_partitions(vec![(partition, stop)]);
    }

    /// Reports how far each rollback has come, and which ones are done.
    pub(super) fn note_redo(&mut self) {
        let redoing: BTreeMap<_, _> = self
            .processing
            .redoing()
            .map(|(partition, redone, next)| (partition, (redone, next)))
            .collect();
        for (partition, (redone, next)) in &redoing {
            if !self.partitions.is_running(*partition) {
                continue;
            }
            self.partitions.set(*partition, State::Redoing);
            let status = PartitionStatus {
                worker: self.worker,
                state: PartitionState::Redoing,
                code: None,
                reason: Some(format!(
                    "processing again after a rollback: from offset {} up to {}, now at {next}",
                    redone.from, redone.until
                )),
            };
            self.agenda.report(Report::Partition(*partition, status));
        }
        for partition in self.partitions.redoing() {
            if !redoing.contains_key(&partition) {
                tracing::info!(pipeline = %self.pipeline.name, partition = partition.0, "rollback of the partition done");
                self.partitions.set(partition, State::Running);
                self.report(partition, PartitionState::Running, None);
            }
        }
    }

    /// The code under which an error stops a partition. A rollback has a code of its
    /// own for events that the log no longer has.
    pub(super) fn code_of(&self, partition: PartitionId, error: &LogError) -> &'static str {
        let is_redone = matches!(self.partitions.get(partition), Some(State::Redoing))
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
