//! How a worker begins with partitions, and what it does when a topic was deleted and
//! made anew. Offsets and checkpoints of the topic before mean nothing in the new one.

use std::time::{Duration, Instant};

use courtside_log::{Assignment, LogError, RecordLog, check_id};
use courtside_types::{PartitionId, Topic, TopicId};

use super::{RETRY_WAIT_MAX, RETRY_WAIT_MIN, Stop, WorkerLoop};
use crate::{
    pipeline::identity::Identity,
    worker::position::{self, Copied, OFFSET_FOREIGN, Refusal, Start},
    worker::status::PartitionState,
};

/// How often a worker without events looks at the topics.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

type AskIds = Box<dyn Fn(&[Topic]) -> Result<Vec<Option<TopicId>>, LogError> + Send>;

/// Compares the pipeline's topics in the log with those that the worker began with.
pub(super) struct IdentityWatch {
    ask: AskIds,
    topics: Vec<(Topic, TopicId)>,
    looked: Option<Instant>,
    /// The last look found that a topic is gone.
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
            looked: None,
            is_one_missing: false,
        }
    }

    /// Returns an error when a topic is gone or was made anew.
    fn look(&mut self) -> Result<(), LogError> {
        self.looked = Some(Instant::now());
        if self.topics.is_empty() {
            return Ok(());
        }
        let names: Vec<Topic> = self.topics.iter().map(|(topic, _)| topic.clone()).collect();
        let found = (self.ask)(&names)?;
        let mut pairs = self.topics.iter().zip(found);
        pairs.try_for_each(|((topic, id), found)| check_id(topic, *id, found))
    }

    fn is_due(&self) -> bool {
        self.looked
            .is_none_or(|looked| looked.elapsed() >= LOOK_INTERVAL)
    }
}

/// A partition that the worker has and could not begin with: the log did not say how
/// far the group had come, or which topic the partition is of. It is paused until it is
/// tried again.
pub(super) struct PendingStart {
    assignment: Assignment,
    wait: Duration,
    at: Instant,
}

impl WorkerLoop {
    /// Begins with assigned partitions, each at the offset in the group's own row.
    pub(super) fn begin(&mut self, assignments: &[Assignment]) {
        for assignment in assignments {
            let partition = assignment.partition;
            self.partitions.insert(partition);
            self.stopped.remove(&partition);
            self.unbegun.remove(&partition);
            self.given_up.forget(partition);
            let figures = self.status.figures();
            figures.assigned(partition, assignment.next());
            self.note(partition, PartitionState::Running, None);
        }
        if let Err(error) = self.look() {
            for assignment in assignments {
                self.put_off(assignment, RETRY_WAIT_MIN, &error);
            }
            return;
        }
        for assignment in assignments {
            match self.begin_one(assignment) {
                Ok(start) if start.next == assignment.next() => {}
                Ok(start) => {
                    self.seek(assignment.partition, start.next);
                }
                Err(refusal) => self.not_begun(assignment, RETRY_WAIT_MIN, &refusal),
            }
        }
    }

    /// Tries again to begin with partitions, each when its wait is over. The worker
    /// reads and commits other partitions meanwhile, and any partition may be revoked.
    pub(super) fn begin_due(&mut self) {
        let now = Instant::now();
        let due = self.unbegun.extract_if(.., |_, unbegun| unbegun.at <= now);
        let due: Vec<PendingStart> = due.map(|(_, unbegun)| unbegun).collect();
        if due.is_empty() {
            return;
        }
        let looked = self.look();
        for PendingStart {
            assignment, wait, ..
        } in due
        {
            let wait = (wait * 2).min(RETRY_WAIT_MAX);
            let begun = looked.clone().map_err(Refusal::Log);
            let partition = assignment.partition;
            match begun.and_then(|()| self.begin_one(&assignment)) {
                Ok(start) => {
                    self.note(partition, PartitionState::Running, None);
                    if self.seek(partition, start.next) {
                        self.member.resume(&[partition]);
                    }
                }
                Err(refusal) => self.not_begun(&assignment, wait, &refusal),
            }
        }
        self.wait_for_plugin();
        self.go_where_moved();
        self.note_redo();
    }

    fn begin_one(&mut self, assignment: &Assignment) -> Result<Start, Refusal> {
        let partition = assignment.partition;
        let row = self.processing.position_row(partition)?;
        let start = position::begin(&self.pipeline, assignment, row.as_ref())?;
        self.processing.assign(partition, start)?;
        self.compare_copy(partition, &start);
        self.status.figures().assigned(partition, start.next);
        Ok(start)
    }

    fn not_begun(&mut self, assignment: &Assignment, wait: Duration, refusal: &Refusal) {
        match refusal {
            Refusal::Log(error) => self.put_off(assignment, wait, error),
            refusal => self.refuse(
                &[assignment.partition],
                refusal.code(),
                &refusal.to_string(),
            ),
        }
    }

    /// An error that may pass has the partition wait, any other stops it.
    fn put_off(&mut self, assignment: &Assignment, wait: Duration, error: &LogError) {
        let partition = assignment.partition;
        if !error.may_pass() {
            return self.refuse(&[partition], error.code(), &error.to_string());
        }
        tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, partition = partition.0, code = error.code(), %error, "processing of the partition cannot begin yet, trying again");
        self.member.pause(&[partition]);
        let why = (error.code(), error.to_string());
        self.note(partition, PartitionState::Waiting, Some(why));
        let unbegun = PendingStart {
            assignment: assignment.clone(),
            wait,
            at: Instant::now() + wait,
        };
        self.unbegun.insert(partition, unbegun);
    }

    /// Reports a committed offset that another program wrote. The worker does not use
    /// that offset, which is a copy for tools.
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

    /// Stops all partitions: a topic was made anew, and nothing that the worker holds
    /// is of the new one.
    pub(super) fn stop_all(&mut self, error: &LogError) {
        let partitions: Vec<_> = self.partitions.iter().copied().collect();
        self.processing.abort();
        self.processing.unassign(&partitions);
        self.unbegun.clear();
        for partition in &partitions {
            self.given_up.forget(*partition);
        }
        self.refuse(&partitions, error.code(), &error.to_string());
    }

    /// Looks at the pipeline's topics, and notes in the status if one is gone or was
    /// made anew. The worker may have no partition whose own status would say so.
    fn look(&mut self) -> Result<(), LogError> {
        let looked = self.watch.look();
        self.watch.is_one_missing = matches!(looked, Err(LogError::TopicMissing { .. }));
        let gone = match &looked {
            Err(error @ (LogError::TopicMissing { .. } | LogError::TopicRecreated { .. })) => {
                Some((error.code(), error.to_string()))
            }
            _ => None,
        };
        self.status.looked_at_topics(self.worker, gone);
        looked
    }

    /// Looks at the topics now and then: without events no commit would find that a
    /// topic was made anew.
    pub(super) fn look_at_topics(&mut self) {
        if !self.watch.is_due() {
            return;
        }
        let was_missing = self.watch.is_one_missing;
        let looked = self.look();
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
                tracing::debug!(pipeline = %self.pipeline.name, %error, "ids of the pipeline's topics cannot be read");
            }
        }
    }

    /// Whether a topic was missing at the last look.
    pub(super) const fn is_a_topic_missing(&self) -> bool {
        self.watch.is_one_missing
    }

    /// The reason why a partition cannot be read on. A topic that was made anew may
    /// have fewer records, so an offset of the topic before is out of its range.
    pub(super) fn true_reason(&mut self, error: LogError) -> LogError {
        if !matches!(error, LogError::OffsetOutOfRange { .. }) {
            return error;
        }
        match self.look() {
            Err(recreated @ LogError::TopicRecreated { .. }) => recreated,
            _ => error,
        }
    }
}
