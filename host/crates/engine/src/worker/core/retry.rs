//! A worker that goes back to its last commit, and partitions that it tries again.

use std::{collections::VecDeque, time::Instant};

use courtside_log::Fetched;
use courtside_types::{Offset, PartitionId};

use super::{
    Core,
    agenda::{Action, AfterSeek, Awaiting, Job, Report, SeekError},
};
use crate::worker::{
    position::Start,
    processing::{Interrupted, Stop},
};

impl Core {
    pub(super) fn process(&mut self, fetched: Vec<Fetched>) {
        let processed = self.processing.process(fetched);
        // Plugins may have taken long, and a commit may be due since.
        self.now = Instant::now();
        match processed {
            Ok(stops) => self.stop_partitions(stops),
            Err(interrupted) => self.start_over(&interrupted),
        }
    }

    /// Processes and commits the records of one partition, and then those of the rest.
    pub(super) fn process_apart(&mut self, mut rest: VecDeque<Fetched>, rewinds: u64) {
        // After a rewind the records that are left are read again.
        if self.rewinds != rewinds || self.is_stopping {
            return;
        }
        if let Some(of_partition) = rest.pop_front() {
            self.agenda
                .first([Job::commit_events(), Job::ProcessApart { rest, rewinds }]);
            self.process(vec![of_partition]);
        }
    }

    /// Takes a partition up again that was given up a while ago. It counts as stopped
    /// until something of it is committed.
    pub(super) fn try_again(&mut self) {
        let Some((partition, next)) = self.given_up.take_due(self.now) else {
            return;
        };
        self.agenda.first([Job::Retry(partition, next)]);
        // No pending record of another partition may share a commit with this one.
        if self.processing.pending_since().is_some() {
            self.agenda.first([Job::commit_events()]);
        }
    }

    pub(super) fn retry(&mut self, partition: PartitionId, next: Offset) {
        // The commit before may have ended the trial, and the worker may have lost the
        // partition.
        if !self.given_up.is_on_trial(partition) {
            return;
        }
        let begun = self.processing.position_row(partition).and_then(|row| {
            let start = row.map_or_else(|| Start::fresh(next), |row| Start::of(&row));
            self.processing.assign(partition, start)
        });
        if let Err(error) = begun {
            tracing::warn!(pipeline = %self.pipeline.name, partition = partition.0, code = error.code(), %error, "state of a stopped partition cannot be read, trying again");
            self.given_up.add(partition, next, self.now);
            return;
        }
        let position = self.processing.positions().find(|(id, _)| *id == partition);
        self.agenda.first([Job::Seek {
            partition,
            next: position.map_or(next, |(_, position)| position),
            then: AfterSeek::Resume,
        }]);
    }

    /// Goes back to what is committed after records were not run to their end, and
    /// reads them again from there.
    pub(super) fn start_over(&mut self, why: &Interrupted) {
        match why {
            Interrupted::Hurried => {}
            Interrupted::TooMuch => self.pace.shrink(),
            Interrupted::TooLong => self.pace.shrink_fully(),
            Interrupted::Log(error) => {
                let waits = Report::CommitWaits(error.code(), error.to_string());
                self.agenda.report(waits);
                self.agenda
                    .first([Job::Sleep(self.run_backoff.next_wait())]);
            }
        }
        self.rewind();
        self.processing.set_budget(self.pace.budget());
        if !matches!(why, Interrupted::Hurried) {
            tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, poll_bytes = self.pace.poll_bytes(), %why, "processing starts over from the last commit");
        }
    }

    /// Goes back to what is committed. A worker that stops does not read it again.
    pub(super) fn rewind(&mut self) {
        self.rewinds += 1;
        self.processing.abort();
        if self.is_stopping {
            return;
        }
        let seeks: Vec<_> = self
            .processing
            .positions()
            .map(|(partition, next)| Job::Seek {
                partition,
                next,
                then: AfterSeek::Read,
            })
            .collect();
        self.agenda.first(seeks);
    }

    /// Has the member read a partition from `next`.
    pub(super) fn seek(&mut self, partition: PartitionId, next: Offset, then: AfterSeek) {
        // The partition may have been lost since the seek was planned.
        if self.partitions.contains(partition) {
            self.agenda.ask(
                Action::Seek { partition, next },
                Awaiting::Seek {
                    partition,
                    next,
                    then,
                },
            );
        }
    }

    /// Goes on after a seek. If it failed the partition stops, because reading on from
    /// another offset would skip events.
    pub(super) fn sought(
        &mut self,
        partition: PartitionId,
        next: Offset,
        then: AfterSeek,
        sought: Result<(), SeekError>,
    ) {
        match sought {
            Ok(()) => match then {
                AfterSeek::Read => {}
                AfterSeek::Resume => self.agenda.act(Action::Resume(vec![partition])),
                AfterSeek::Run => self.runs_again(partition),
            },
            Err(SeekError::Fenced) => self.lose(&[partition]),
            Err(SeekError::Failed(error)) => {
                let stop = Stop {
                    code: self.code_of(partition, &error),
                    reason: format!("the partition cannot be read from offset {next}: {error}"),
                    waits: false,
                };
                if error.may_pass()
                    && let Some(next) = self.processing.committed(partition)
                {
                    self.given_up.add(partition, next, self.now);
                }
                self.processing.unassign(&[partition]);
                self.stop_partitions(vec![(partition, stop)]);
            }
        }
    }
}
