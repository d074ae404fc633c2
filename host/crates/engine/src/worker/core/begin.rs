//! How a worker begins with partitions, and what it does when a topic was deleted and
//! made anew. Offsets and checkpoints of the topic before mean nothing in the new one.

use courtside_log::{Assignment, LogError};
use courtside_process::backoff::Backoff;
use courtside_types::PartitionId;

use super::{
    Core, RETRY,
    agenda::{Action, AfterSeek, AfterTopics, Awaiting, Job, Report},
    partitions::{PendingStart, State},
};
use crate::worker::{
    position::{self, Copied, OFFSET_FOREIGN, Refusal, Start},
    status::PartitionState,
};

impl Core {
    /// Begins with assigned partitions, each at the offset in the group's own row.
    pub(super) fn assigned(&mut self, assignments: Vec<Assignment>) {
        for assignment in &assignments {
            let partition = assignment.partition;
            self.partitions.assign(partition);
            self.given_up.forget(partition);
            let assigned = Report::Assigned(partition, assignment.next());
            self.agenda.report(assigned);
            self.report(partition, PartitionState::Running, None);
        }
        let starts = assignments.into_iter().map(|assignment| (assignment, None));
        self.look_at_topics(AfterTopics::Begin(starts.collect()));
        self.agenda.first(Job::AFTER_BEGIN);
    }

    /// Tries again to begin with partitions, each when its wait is over. The worker
    /// reads and commits other partitions meanwhile, and any partition may be revoked.
    pub(super) fn begin_due(&mut self) {
        let due = self.partitions.take_due_starts(self.now);
        if due.is_empty() {
            return;
        }
        let due = due.into_iter();
        let due = due.map(|start| (start.assignment, Some(start.backoff)));
        self.look_at_topics(AfterTopics::Begin(due.collect()));
        self.agenda.first(Job::AFTER_BEGIN);
    }

    /// Looks at the pipeline's topics. The loop notes the outcome in the worker's
    /// status, because the worker may have no partition whose status has it.
    pub(super) fn look_at_topics(&mut self, then: AfterTopics) {
        self.agenda.ask(Action::CheckTopics, Awaiting::Topics(then));
    }

    pub(super) fn looked_at_topics(&mut self, then: AfterTopics, found: Result<(), LogError>) {
        if self.topics.looked(&found, self.now) {
            for partition in self.partitions.running() {
                self.report(partition, PartitionState::Running, None);
            }
            self.note_redo();
        }
        match then {
            AfterTopics::Begin(starts) => {
                let jobs: Vec<_> = starts
                    .iter()
                    .filter_map(|(assignment, backoff)| {
                        self.try_begin(assignment, *backoff, &found)
                    })
                    .collect();
                self.agenda.first(jobs);
            }
            AfterTopics::Watch => self.watched(found),
            AfterTopics::Stop(partition, error) => {
                // A topic that was made anew may have fewer records, so an offset of the
                // topic before is out of its range.
                let error = match found {
                    Err(recreated @ LogError::TopicRecreated { .. }) => recreated,
                    _ => error,
                };
                self.stop_for(partition, &error);
            }
        }
    }

    /// Begins with a partition, and returns the seek that this needs. The partition is
    /// paused if it has the backoff of a try before.
    fn try_begin(
        &mut self,
        assignment: &Assignment,
        backoff: Option<Backoff>,
        topics: &Result<(), LogError>,
    ) -> Option<Job> {
        let partition = assignment.partition;
        let start = match self.begin(assignment, topics) {
            Ok(start) => start,
            Err(refusal) => {
                self.not_begun(assignment, backoff.unwrap_or(RETRY), &refusal);
                return None;
            }
        };
        let then = if backoff.is_some() {
            self.report(partition, PartitionState::Running, None);
            AfterSeek::Resume
        } else if start.next == assignment.next() {
            return None;
        } else {
            AfterSeek::Read
        };
        Some(Job::Seek {
            partition,
            next: start.next,
            then,
        })
    }

    fn begin(
        &mut self,
        assignment: &Assignment,
        topics: &Result<(), LogError>,
    ) -> Result<Start, Refusal> {
        topics.clone()?;
        let partition = assignment.partition;
        let row = self.processing.position_row(partition)?;
        let start = position::begin(&self.pipeline, assignment, row.as_ref())?;
        self.processing.assign(partition, start)?;
        self.compare_copy(partition, &start);
        self.agenda.report(Report::Assigned(partition, start.next));
        Ok(start)
    }

    fn not_begun(&mut self, assignment: &Assignment, backoff: Backoff, refusal: &Refusal) {
        match refusal {
            Refusal::Log(error) => self.put_off(assignment, backoff, error),
            refusal => self.refuse(
                &[assignment.partition],
                refusal.code(),
                &refusal.to_string(),
            ),
        }
    }

    /// An error that may pass has the partition wait, any other stops it.
    fn put_off(&mut self, assignment: &Assignment, mut backoff: Backoff, error: &LogError) {
        let partition = assignment.partition;
        if !error.may_pass() {
            return self.refuse(&[partition], error.code(), &error.to_string());
        }
        tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, partition = partition.0, code = error.code(), %error, "processing of the partition cannot begin yet, trying again");
        self.agenda.act(Action::Pause(vec![partition]));
        let why = (error.code(), error.to_string());
        self.report(partition, PartitionState::Waiting, Some(why));
        let start = PendingStart {
            assignment: assignment.clone(),
            at: self.now + backoff.next_wait(),
            backoff,
        };
        self.partitions.set(partition, State::Starting(start));
    }

    /// Reports a committed offset that another program wrote. The worker does not use
    /// that offset, which is a copy for tools.
    fn compare_copy(&mut self, partition: PartitionId, start: &Start) {
        match start.copy {
            Copied::Fresh | Copied::Same => {}
            Copied::Foreign(committed) => {
                self.agenda.report(Report::OffsetForeign);
                tracing::warn!(
                    pipeline = %self.pipeline.name,
                    partition = partition.0,
                    code = OFFSET_FOREIGN,
                    committed = committed.0,
                    next = start.next.0,
                    events = start.events,
                    "another program committed an offset in the consumer group; the partition goes on from its own position",
                );
            }
            Copied::Gone => tracing::info!(
                pipeline = %self.pipeline.name,
                partition = partition.0,
                next = start.next.0,
                events = start.events,
                "the record log no longer has the committed offset; the partition goes on from its own position",
            ),
        }
    }

    /// Draws conclusions from a look at the topics that was due.
    fn watched(&mut self, found: Result<(), LogError>) {
        match found {
            Ok(()) => {}
            Err(error @ LogError::TopicRecreated { .. }) => self.stop_all(&error),
            Err(error @ LogError::TopicMissing { .. }) => {
                for partition in self.partitions.running() {
                    let why = (error.code(), error.to_string());
                    self.report(partition, PartitionState::Waiting, Some(why));
                }
            }
            Err(error) => {
                tracing::debug!(pipeline = %self.pipeline.name, %error, "ids of the pipeline's topics cannot be read");
            }
        }
    }
}

impl Job {
    /// The jobs after a worker began with partitions.
    const AFTER_BEGIN: [Self; 3] = [Self::WaitForPlugin, Self::Move, Self::NoteRedo];
}
