//! How a worker begins with partitions, and what it does when a topic is another
//! than the one that its partitions' offsets and checkpoints mean.

use std::time::{Duration, Instant};

use super::{RETRY_WAIT_MAX, RETRY_WAIT_MIN, Running, Stop};
use crate::{
    log::{Assignment, LogError, RecordLog, check_id},
    pipeline::identity::Identity,
    slots::view::PartitionState,
    types::{PartitionId, Topic, TopicId},
    worker::position::{self, Copied, OFFSET_FOREIGN, Start},
};

/// How often a worker without events looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

type AskIds = Box<dyn Fn(&[Topic]) -> Result<Vec<Option<TopicId>>, LogError> + Send>;

/// A worker's look at its pipeline's topics.
pub(super) struct IdentityWatch {
    ask: AskIds,
    topics: Vec<(Topic, TopicId)>,
    looked: Instant,
    /// The last look found that one is gone.
    is_one_missing: bool,
}

impl IdentityWatch {
    pub fn of_log(log: &std::sync::Arc<dyn RecordLog>, identity: &Identity) -> Self {
        let log = std::sync::Arc::clone(log);
        Self::new(Box::new(move |topics| log.topic_ids(topics)), identity)
    }

    pub fn new(ask: AskIds, identity: &Identity) -> Self {
        Self {
            ask,
            topics: identity.topics(),
            looked: Instant::now(),
            is_one_missing: false,
        }
    }

    /// Says so where a topic is another by now, or gone.
    fn look(&mut self) -> Result<(), LogError> {
        self.looked = Instant::now();
        if self.topics.is_empty() {
            return Ok(());
        }
        let names: Vec<Topic> = self.topics.iter().map(|(topic, _)| topic.clone()).collect();
        let found = (self.ask)(&names)?;
        let mut pairs = self.topics.iter().zip(found);
        pairs.try_for_each(|((topic, id), found)| check_id(topic, *id, found))
    }

    fn is_due(&self) -> bool {
        self.looked.elapsed() >= LOOK_INTERVAL
    }
}

impl Running {
    /// Takes partitions up, where they go on by the group's own word.
    pub(super) fn begin(&mut self, assignments: &[Assignment]) {
        let partitions: Vec<_> = assignments.iter().map(|given| given.partition).collect();
        for assignment in assignments {
            let partition = assignment.partition;
            self.partitions.insert(partition);
            self.stopped.remove(&partition);
            self.given_up.forget(partition);
            let figures = self.status.figures();
            figures.assigned(partition, assignment.next());
            self.note(partition, PartitionState::Running, None);
        }
        if let Err(error) = self.patiently(&partitions, |running| running.watch.look()) {
            self.refuse(&partitions, error.code(), &error.to_string());
            return;
        }
        for assignment in assignments {
            self.begin_one(assignment);
        }
    }

    fn begin_one(&mut self, assignment: &Assignment) {
        let partition = assignment.partition;
        let read = self.patiently(&[partition], |running| {
            running.processing.position_row(partition)
        });
        let row = match read {
            Ok(row) => row,
            Err(error) => {
                let reason = format!("how far it had come: {error}");
                return self.refuse(&[partition], error.code(), &reason);
            }
        };
        let start = match position::begin(&self.pipeline, assignment, row.as_ref()) {
            Ok(start) => start,
            Err(refusal) => {
                return self.refuse(&[partition], refusal.code(), &refusal.to_string());
            }
        };
        self.compare_copy(partition, &start);
        let figures = self.status.figures();
        figures.assigned(partition, start.next);
        let begun = self.patiently(&[partition], |running| {
            running.processing.assign(partition, start)
        });
        if let Err(error) = begun {
            let reason = format!("what ran here before: {error}");
            return self.refuse(&[partition], error.code(), &reason);
        }
        if start.next != assignment.next() {
            self.seek(partition, start.next);
        }
    }

    /// The committed offset is for tools; one that is not ours is told.
    fn compare_copy(&self, partition: PartitionId, start: &Start) {
        match start.copy {
            Copied::Fresh | Copied::Same => {}
            Copied::Foreign(committed) => {
                self.handles.offset_foreign();
                tracing::warn!(
                    pipeline = %self.pipeline.name,
                    partition = partition.0,
                    code = OFFSET_FOREIGN,
                    committed = committed.0,
                    next = start.next.0,
                    events = start.events,
                    "another program committed an offset in the group; the partition goes on from its own",
                );
            }
            Copied::Gone => tracing::info!(
                pipeline = %self.pipeline.name,
                partition = partition.0,
                next = start.next.0,
                events = start.events,
                "the log has no committed offset any more; the partition goes on from its own",
            ),
        }
    }

    /// Tries again what may pass, and tells meanwhile that partitions wait for it:
    /// until the worker must stop, or others have waited long enough for them.
    fn patiently<T>(
        &mut self,
        partitions: &[PartitionId],
        mut step: impl FnMut(&mut Self) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let mut wait = RETRY_WAIT_MIN;
        let mut waited_for: Option<Instant> = None;
        let mut has_waited = false;
        loop {
            let error = match step(self) {
                Ok(done) => {
                    if has_waited {
                        for partition in partitions {
                            self.note(*partition, PartitionState::Running, None);
                        }
                    }
                    return Ok(done);
                }
                Err(error) => error,
            };
            if self.member.is_waited_for() {
                waited_for.get_or_insert_with(Instant::now);
            }
            let drain_deadline = self.pipeline.processing.drain_deadline;
            let is_over = waited_for.is_some_and(|since| since.elapsed() >= drain_deadline);
            if !error.may_pass() || is_over || self.must_stop() {
                return Err(error);
            }
            tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, code = error.code(), %error, "partitions are not begun with yet, trying again");
            has_waited = true;
            self.status
                .waits_for(self.worker, error.code(), error.to_string());
            for partition in partitions {
                let why = (error.code(), error.to_string());
                self.note(*partition, PartitionState::Waiting, Some(why));
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(RETRY_WAIT_MAX);
        }
    }

    fn refuse(&mut self, partitions: &[PartitionId], code: &'static str, reason: &str) {
        let stop = |partition: &PartitionId| {
            let stop = Stop {
                code,
                reason: reason.to_owned(),
                waits: false,
            };
            (*partition, stop)
        };
        self.stop_partitions(partitions.iter().map(stop).collect());
    }

    /// Nothing that the worker holds is of the topics that are there by now.
    pub(super) fn stop_all(&mut self, error: &LogError) {
        let partitions: Vec<_> = self.partitions.iter().copied().collect();
        self.processing.abort();
        self.processing.unassign(&partitions);
        for partition in &partitions {
            self.given_up.forget(*partition);
        }
        self.refuse(&partitions, error.code(), &error.to_string());
    }

    /// Without events there is no commit that would find that a topic is another.
    pub(super) fn look_at_topics(&mut self) {
        if self.partitions.is_empty() || !self.watch.is_due() {
            return;
        }
        let was_missing = self.watch.is_one_missing;
        let looked = self.watch.look();
        self.watch.is_one_missing = matches!(looked, Err(LogError::TopicMissing { .. }));
        let running: Vec<_> = {
            let held = self.partitions.iter().copied();
            held.filter(|id| self.is_running(*id)).collect()
        };
        match looked {
            Ok(()) if was_missing => {
                for partition in running {
                    self.note(partition, PartitionState::Running, None);
                }
                self.note_redo();
            }
            Ok(()) => {}
            Err(error @ LogError::TopicRecreated { .. }) => self.stop_all(&error),
            Err(error @ LogError::TopicMissing { .. }) => {
                for partition in running {
                    let why = (error.code(), error.to_string());
                    self.note(partition, PartitionState::Waiting, Some(why));
                }
            }
            Err(error) => {
                tracing::debug!(pipeline = %self.pipeline.name, %error, "the topics are not looked at");
            }
        }
    }

    /// Why a partition cannot be read on: of a topic that was made anew there may
    /// be less than of the one before.
    pub(super) fn true_reason(&mut self, error: LogError) -> LogError {
        if !matches!(error, LogError::OffsetOutOfRange { .. }) {
            return error;
        }
        match self.watch.look() {
            Err(recreated @ LogError::TopicRecreated { .. }) => recreated,
            _ => error,
        }
    }
}
