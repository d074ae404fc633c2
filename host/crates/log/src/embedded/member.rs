//! A worker's membership in a group.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_types::{Offset, PartitionId, Record, Topic, TopicId};
use fjall::UserValue;

use super::{
    groups::{GroupKey, Listener},
    parts,
    read::Cursor,
    rows,
    state::EmbeddedState,
    topics::TopicState,
    write::{CheckpointRow, CommitRequest, Join, OffsetMove, Request, queue::closed},
};
use crate::{
    Assignment, Bounds, Commit, Fetched, GroupSpec, LogError, Member, Polled, check_id,
    name::check_name,
};

/// A poll waits at most this long if its timeout is too long for the clock.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The embedded engine's [`Member`], which belongs to one thread.
pub(super) struct EmbeddedMember {
    shared: Arc<EmbeddedState>,
    topic: Arc<TopicState>,
    group: GroupKey,
    /// The topics that the member's commits name, with the ids they must have.
    topics: Vec<(Topic, TopicId)>,
    listener: Arc<Listener>,
    state: MembershipState,
    /// Partitions assigned and not released, by number.
    tasks: Vec<AssignedPartition>,
    /// Errors that stopped a partition and that no poll has returned yet.
    stopped: VecDeque<(PartitionId, LogError)>,
    /// The task to read first at the next poll.
    turn: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MembershipState {
    /// Partitions are to be assigned at the next poll.
    Joining,
    Reading,
    /// The member has lost its partitions. The next poll says so, and the one after
    /// it assigns them anew.
    Lost,
    /// Another member has taken over this worker, and a poll has said so.
    Out,
}

struct AssignedPartition {
    cursor: Cursor,
    committed: Option<u64>,
    paused: bool,
    stopped: bool,
}

impl EmbeddedMember {
    pub fn join(shared: &Arc<EmbeddedState>, spec: &GroupSpec) -> Result<Self, LogError> {
        let invalid = |reason: &str| LogError::Invalid {
            what: format!("group {:?}", &*spec.group),
            reason: reason.to_owned(),
        };
        check_name(&spec.group).map_err(invalid)?;
        if spec.worker >= spec.workers {
            return Err(invalid(
                "a worker's number must be below the number of workers",
            ));
        }
        let topic = shared.topics.read().get(&spec.input)?;
        let group = GroupKey {
            group: spec.group.clone(),
            topic: topic.id,
        };
        let listener = Arc::new(Listener::new(spec.worker, spec.workers));
        shared.ask(|reply| {
            Request::Join(Join {
                topic: Arc::clone(&topic),
                group: group.clone(),
                member: Arc::clone(&listener),
                reply,
            })
        })?;
        Ok(Self {
            shared: Arc::clone(shared),
            topic,
            group,
            topics: spec.topics.clone(),
            listener,
            state: MembershipState::Joining,
            tasks: Vec::new(),
            stopped: VecDeque::new(),
            turn: 0,
        })
    }

    fn assign(&mut self) -> Vec<Assignment> {
        self.state = MembershipState::Reading;
        self.turn = 0;
        self.stopped.clear();
        let mut assigned = Vec::new();
        let owned = (0..self.topic.count()).filter(|partition| self.listener.owns(*partition));
        for partition in owned {
            let row = self.topic.row(partition);
            let committed = self.shared.groups.committed(&self.group, partition);
            let assignment = Assignment {
                partition: PartitionId(partition),
                committed: committed.map(Offset),
                bounds: Bounds {
                    start: Offset(row.start),
                    end: Offset(row.end),
                },
            };
            let next = assignment.next();
            self.tasks.push(AssignedPartition {
                cursor: Cursor::new(Arc::clone(&self.topic), partition, next.0),
                committed,
                paused: false,
                stopped: !assignment.bounds.hold(next),
            });
            assigned.push(assignment);
        }
        assigned
    }

    fn lose(&mut self) -> Polled {
        let lost = self
            .tasks
            .drain(..)
            .map(|task| PartitionId(task.cursor.partition()));
        Polled::Lost(lost.collect())
    }

    fn fetch(&mut self, bytes_max: usize) -> Result<Vec<Fetched>, LogError> {
        let mut fetched: Vec<Fetched> = Vec::new();
        let mut bytes = 0;
        let count = self.tasks.len();
        let (last, first) = self.tasks.split_at_mut(self.turn.min(count));
        self.turn = if self.turn + 1 < count {
            self.turn + 1
        } else {
            0
        };
        let is_next =
            |task: &AssignedPartition| !task.paused && !task.stopped && task.cursor.lags();
        let mut left = first
            .iter()
            .chain(&*last)
            .filter(|task| is_next(task))
            .count();
        for task in first.iter_mut().chain(last) {
            if !is_next(task) {
                continue;
            }
            if bytes >= bytes_max && !fetched.is_empty() {
                break;
            }
            // Each partition has its share, so that none waits for the whole backlog of
            // another.
            let share = bytes_max.saturating_sub(bytes) / left.max(1);
            left = left.saturating_sub(1);
            let partition = PartitionId(task.cursor.partition());
            // Retention keeps records from the committed offset on. A member that reads
            // below that offset must get an error rather than miss records.
            if task.committed.is_some()
                && let Err(error) = in_range(&self.topic, partition.0, task.cursor.position())
            {
                task.stopped = true;
                self.stopped.push_back((partition, error));
                continue;
            }
            let store = self.shared.store()?;
            match task.cursor.read(&store, share) {
                Ok(records) if records.is_empty() => {}
                Ok(records) => {
                    bytes += records.iter().map(Record::size).sum::<usize>();
                    fetched.push(Fetched { partition, records });
                }
                Err(error @ LogError::Corrupt { .. }) => {
                    task.stopped = true;
                    self.stopped.push_back((partition, error));
                }
                // The cursors have passed the fetched records, so the poll returns them.
                Err(_) if !fetched.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(fetched)
    }

    fn task(&mut self, partition: PartitionId) -> Result<&mut AssignedPartition, LogError> {
        let found = self
            .tasks
            .iter_mut()
            .find(|task| task.cursor.partition() == partition.0);
        found.ok_or_else(|| LogError::Fenced {
            reason: format!("partition {partition} is not assigned to this member"),
        })
    }

    fn moves(&mut self, commit: &Commit) -> Result<Vec<OffsetMove>, LogError> {
        let mut moves = Vec::with_capacity(commit.offsets.len());
        for (partition, next) in &commit.offsets {
            let from = self.task(*partition)?.committed;
            in_range(&self.topic, partition.0, next.0)?;
            moves.push(OffsetMove {
                partition: partition.0,
                from,
                to: next.0,
            });
        }
        Ok(moves)
    }

    /// No operator can delete a topic that has members, so the outcome of this check
    /// holds until the commit is written.
    fn check_topics(&self) -> Result<(), LogError> {
        let known = self.shared.topics.read();
        let found = |name: &Topic| known.get(name).ok().map(|topic| topic.uid);
        let mut topics = self.topics.iter();
        topics.try_for_each(|(name, id)| check_id(name, *id, found(name)))
    }

    fn checkpoints(&mut self, commit: &Commit) -> Result<Vec<CheckpointRow>, LogError> {
        let mut rows = Vec::with_capacity(commit.checkpoints.len());
        for (partition, key, value) in &commit.checkpoints {
            self.task(*partition)?;
            check_key(key.len())?;
            let key = rows::checkpoint_key(&self.group.group, partition.0, key);
            rows.push((key, value.as_deref().map(UserValue::from)));
        }
        Ok(rows)
    }
}

impl Member for EmbeddedMember {
    fn poll(&mut self, timeout: Duration, max_bytes: usize) -> Result<Polled, LogError> {
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or(now + FOREVER);
        loop {
            let seen = self.listener.ticks();
            if self.listener.is_fenced() && self.state != MembershipState::Out {
                self.state = MembershipState::Out;
                return Ok(self.lose());
            }
            match self.state {
                MembershipState::Out => {
                    return Err(LogError::Fenced {
                        reason: format!("another member took over worker {}", self.listener.worker),
                    });
                }
                MembershipState::Lost => {
                    self.state = MembershipState::Joining;
                    return Ok(self.lose());
                }
                MembershipState::Joining => {
                    let assigned = self.assign();
                    if !assigned.is_empty() {
                        return Ok(Polled::Assigned(assigned));
                    }
                }
                MembershipState::Reading => {}
            }
            let fetched = self.fetch(max_bytes)?;
            if !fetched.is_empty() {
                return Ok(Polled::Records(fetched));
            }
            if let Some((partition, error)) = self.stopped.pop_front() {
                return Ok(Polled::Stopped { partition, error });
            }
            if self.shared.queue.is_closed() {
                return Err(closed());
            }
            if !self.listener.wait(seen, deadline) {
                return Ok(Polled::Idle);
            }
        }
    }

    fn pause(&mut self, partitions: &[PartitionId]) {
        for partition in partitions {
            if let Ok(task) = self.task(*partition) {
                task.paused = true;
            }
        }
    }

    fn resume(&mut self, partitions: &[PartitionId]) {
        for partition in partitions {
            if let Ok(task) = self.task(*partition) {
                task.paused = false;
            }
        }
    }

    fn seek(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        self.task(partition)?;
        in_range(&self.topic, partition.0, next.0)?;
        let task = self.task(partition)?;
        task.cursor.seek(next.0);
        task.stopped = false;
        self.stopped.retain(|(stopped, _)| *stopped != partition);
        Ok(())
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), LogError> {
        if commit.is_empty() {
            return Ok(());
        }
        if self.listener.is_fenced() {
            return Err(LogError::Fenced {
                reason: format!("another member took over worker {}", self.listener.worker),
            });
        }
        self.check_topics()?;
        let offsets = self.moves(commit)?;
        let checkpoints = self.checkpoints(commit)?;
        let records = commit.records.iter().map(|(place, record)| (place, record));
        let parts = parts::encode(&self.shared, records)?;
        let outcome = self.shared.ask(|reply| {
            Request::Commit(Box::new(CommitRequest {
                group: self.group.clone(),
                member: Arc::clone(&self.listener),
                parts,
                checkpoints,
                offsets,
                reply,
            }))
        });
        match &outcome {
            Ok(()) => {
                for (partition, next) in &commit.offsets {
                    self.task(*partition)?.committed = Some(next.0);
                }
            }
            Err(LogError::Fenced { .. }) => self.state = MembershipState::Lost,
            Err(_) => {}
        }
        outcome
    }

    fn release(&mut self, partitions: &[PartitionId]) {
        let goes = |partition| partitions.contains(&PartitionId(partition));
        self.tasks.retain(|task| !goes(task.cursor.partition()));
        self.stopped.retain(|(partition, _)| !goes(partition.0));
    }
}

impl Drop for EmbeddedMember {
    fn drop(&mut self) {
        self.shared.groups.leave(&self.group, &self.listener);
        let mut listeners = self.topic.listeners.write();
        listeners.retain(|listener| !Arc::ptr_eq(listener, &self.listener));
    }
}

/// Fails unless an offset is in the partition, or is that of the next record.
fn in_range(topic: &TopicState, partition: u32, offset: u64) -> Result<(), LogError> {
    let row = topic.row(partition);
    if (row.start..=row.end).contains(&offset) {
        return Ok(());
    }
    Err(LogError::OffsetOutOfRange {
        topic: topic.name.clone(),
        partition: PartitionId(partition),
        offset: Offset(offset),
        start: Offset(row.start),
        end: Offset(row.end),
    })
}

/// Checkpoints of long keys would make longer rows than the store takes.
fn check_key(len: usize) -> Result<(), LogError> {
    if len <= rows::KEY_BYTES_MAX {
        return Ok(());
    }
    Err(LogError::TooLarge {
        size_bytes: len,
        limit_bytes: rows::KEY_BYTES_MAX,
    })
}

#[cfg(test)]
mod tests {
    use courtside_types::TopicPartition;

    use super::*;
    use crate::{
        RecordLog as _,
        conformance::{append, deleted, record, values},
        embedded::{Embedded, EmbeddedConfig},
    };

    /// A failed write that recovery found in the journal: the commit has
    /// happened, and its member does not know.
    #[test]
    fn a_commit_that_happened_after_all_is_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let log = Embedded::open(dir.path(), EmbeddedConfig::default()).unwrap();
        let (input, output): (Topic, Topic) = ("in".into(), "out".into());
        log.ensure_topics(&[deleted(&input, 2), deleted(&output, 1)])
            .unwrap();
        append(&*log, &input, 0, &["a", "b"]);
        let spec = GroupSpec {
            group: "g".into(),
            input,
            worker: 0,
            workers: 1,
            topics: Vec::new(),
            visits: false,
        };
        let mut member = EmbeddedMember::join(&log.shared, &spec).unwrap();
        let Polled::Assigned(assigned) = member.poll(Duration::ZERO, 1).unwrap() else {
            panic!("nothing is assigned");
        };
        assert_eq!(assigned.len(), 2);
        let place = TopicPartition {
            topic: output.clone(),
            partition: PartitionId(0),
        };
        let commit = |next, value: &str| Commit {
            records: vec![(place.clone(), record("k", value))],
            checkpoints: vec![(PartitionId(0), "k".into(), Some(value.to_owned().into()))],
            offsets: vec![(PartitionId(0), Offset(next)), (PartitionId(1), Offset(0))],
        };
        let forget = |member: &mut EmbeddedMember| {
            member
                .tasks
                .iter_mut()
                .for_each(|task| task.committed = None);
        };
        member.commit(&commit(1, "a")).unwrap();

        forget(&mut member);
        member.commit(&commit(1, "a")).unwrap();
        assert_eq!(
            values(&*log, &output, 0, 0),
            ["a"],
            "told so, and not doubled"
        );
        member.commit(&commit(2, "b")).unwrap();
        assert_eq!(
            values(&*log, &output, 0, 0),
            ["a", "b"],
            "it goes on from there"
        );

        // The commit moves no offset, so its checkpoints say whether it has happened.
        let again = |value: &str| Commit {
            offsets: vec![(PartitionId(0), Offset(2))],
            ..commit(2, value)
        };
        for value in ["c", "c", "d"] {
            member.commit(&again(value)).unwrap();
        }
        assert_eq!(values(&*log, &output, 0, 0), ["a", "b", "c", "d"]);
        member.commit(&again("b")).unwrap();

        forget(&mut member);
        let error = member.commit(&commit(1, "something else")).unwrap_err();
        assert_eq!(error.code(), "fenced");
        assert_eq!(values(&*log, &output, 0, 0), ["a", "b", "c", "d", "b"]);
        let checkpoints = log.checkpoints("g").unwrap();
        assert_eq!(checkpoints.get(PartitionId(0), b"k").unwrap().unwrap(), "b");
        // The member goes back to the committed offsets.
        let Polled::Lost(lost) = member.poll(Duration::ZERO, 1).unwrap() else {
            panic!("nothing is lost");
        };
        assert_eq!(lost, [PartitionId(0), PartitionId(1)]);
        let Polled::Assigned(assigned) = member.poll(Duration::ZERO, 1).unwrap() else {
            panic!("nothing is assigned");
        };
        assert_eq!(assigned[0].next(), Offset(2));
    }
}
