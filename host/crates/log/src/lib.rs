//! The record log: topics of partitions of records, groups that read them, and
//! commits that are atomic.
//!
//! This module is the interface; an engine is a folder behind it. The code above never
//! asks which engine it has. Calls of [`RecordLog`] come from any thread; a [`Member`]
//! belongs to one worker thread and may block it.

pub mod admin;
pub mod backup;
pub mod block;
#[cfg(any(test, feature = "conformance"))]
#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests run it"
)]
pub mod conformance;
pub mod embedded;
mod error;
pub mod kafka;
mod latest;
pub mod memory;
mod name;
pub mod partitioner;
pub mod reset;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use bytestring::ByteString;
use courtside_types::{
    ENTITY_KEY_BYTES_MAX, Key, NewRecord, Offset, PartitionId, Position, Record, Topic, TopicId,
    TopicPartition,
};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

pub use self::{error::LogError, latest::LatestRecords};

/// How a topic discards old records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// The latest record of each key stays; a tombstone goes, with its key,
    /// after `tombstone_retention`.
    Compact { tombstone_retention: Duration },
    /// The oldest records go. Neither bound is exact: records go a batch at a time.
    Delete {
        retention: Option<Duration>,
        retention_bytes: Option<u64>,
    },
}

/// A topic as a pipeline needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    pub name: Topic,
    /// Number of partitions; `None` takes the existing number, or the engine's default.
    pub partitions: Option<u32>,
    pub cleanup: Cleanup,
}

/// Refuses to go on with a topic that no longer has this id.
pub fn check_id(topic: &Topic, id: TopicId, found: Option<TopicId>) -> Result<(), LogError> {
    match found {
        Some(now) if now == id => Ok(()),
        Some(now) => Err(LogError::TopicRecreated {
            topic: topic.clone(),
            before: Box::new(id),
            now: Box::new(now),
        }),
        None => Err(LogError::TopicMissing {
            topic: topic.clone(),
            why: "it existed, and was deleted".to_owned(),
        }),
    }
}

/// A group, as one of its members joins it. Each worker is a member.
#[derive(Clone, Debug)]
pub struct GroupSpec {
    pub group: GroupName,
    pub input: Topic,
    /// This member's number among the host's workers of the group.
    pub worker: u32,
    /// How many workers the host has for the group.
    pub workers: u32,
    /// Topics that the member's commits mean, by their ids. A commit is refused
    /// once a topic of that name has another id.
    pub topics: Vec<(Topic, TopicId)>,
    /// Whether the member joins only for a while, to commit. Such a member leaves the
    /// group when it ends, and has no checkpoints.
    pub visits: bool,
}

/// A consumer group's name.
pub type GroupName = bytestring::ByteString;

/// A partition that was just assigned, ready to be processed: its checkpoints
/// are restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub partition: PartitionId,
    /// The committed offset, whoever committed it.
    pub committed: Option<Offset>,
    /// The offsets that the partition holds.
    pub bounds: Bounds,
}

impl Assignment {
    /// The offset at which the member reads on. If it is out of the log's range, the
    /// member brings no records of the partition until the caller seeks another offset.
    #[must_use]
    pub fn next(&self) -> Offset {
        self.committed.unwrap_or(self.bounds.start)
    }
}

/// Records of one partition, in offset order.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub partition: PartitionId,
    pub records: Vec<Record>,
}

/// The outcome of a poll.
#[derive(Debug)]
pub enum Polled {
    Records(Vec<Fetched>),
    Assigned(Vec<Assignment>),
    /// The member must give up these partitions: finish and commit (or drop) the
    /// records read from them, then call [`Member::release`].
    Revoked(Vec<PartitionId>),
    /// The member has already lost these partitions: records that it read from them and
    /// did not commit are void.
    Lost(Vec<PartitionId>),
    /// The member cannot read on in this partition: the next offset is out of the log's
    /// range, or stored bytes are damaged. The other partitions go on. This one stays
    /// with the member, and is reported once, until it is released or sought elsewhere.
    Stopped {
        partition: PartitionId,
        error: LogError,
    },
    /// Nothing came within the timeout.
    Idle,
}

/// One atomic step: all of it, or none.
#[derive(Debug, Default)]
pub struct Commit {
    /// Emissions and dead letters, in the order to append them.
    pub records: Vec<(TopicPartition, NewRecord)>,
    /// The checkpoints of the entities touched; `None` deletes.
    pub checkpoints: Vec<(PartitionId, Key, Option<Bytes>)>,
    /// The offset of the next record to process in each partition touched.
    pub offsets: Vec<(PartitionId, Offset)>,
}

impl Commit {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.checkpoints.is_empty() && self.offsets.is_empty()
    }
}

/// The offsets a partition holds: from `start` up to, not including, `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub start: Offset,
    /// The end a reader of committed records sees.
    pub end: Offset,
}

impl Bounds {
    /// Whether a reader can start at this offset. The end counts, too: the next record
    /// will be there.
    #[must_use]
    pub fn hold(&self, offset: Offset) -> bool {
        (self.start..=self.end).contains(&offset)
    }
}

/// A member of a group, as an operator sees it.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    pub member: String,
    /// The name it keeps over restarts, where it is a static member.
    pub instance: Option<String>,
    pub client_id: String,
    pub host: String,
    pub partitions: Vec<PartitionId>,
}

/// A group, as an operator sees it.
#[derive(Clone, Debug, Default)]
pub struct GroupStatus {
    pub members: Vec<MemberStatus>,
    /// The committed offset of each partition that has one.
    pub committed: BTreeMap<PartitionId, Offset>,
}

/// Whether the log takes records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Ready,
    /// Reads go on; appends and commits fail until the reason is gone.
    ReadOnly {
        code: &'static str,
        reason: String,
    },
}

/// The first byte of the keys of the host's own checkpoints. No entity's key begins
/// with it, since entities' keys are UTF-8.
pub const HOST_KEY: u8 = 0xFF;

/// The longest key of a checkpoint: an entity's key, with the prefix that the host's
/// own rows put before it.
pub const KEY_BYTES_MAX: usize = ENTITY_KEY_BYTES_MAX + 64;

/// Bytes that a record may have in a commit beyond the limit of an append. The headers
/// that tell why an event is a dead letter must never make it too large.
pub const COMMIT_EXTRA_BYTES: usize = 16 * 1024;

pub trait RecordLog: Send + Sync + 'static {
    /// The largest record that can be appended.
    fn record_bytes_max(&self) -> usize;

    /// The name of this host among those that share the log. The name stays the same
    /// after a restart.
    fn host(&self) -> ByteString {
        ByteString::from_static("this")
    }

    /// Creates the topics that are missing; differences from what exists are
    /// an error.
    fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError>;

    /// How many partitions a topic has.
    fn partitions(&self, topic: &Topic) -> Result<u32, LogError>;

    /// The ids of topics, as of a moment after the call; none for a topic that does not
    /// exist.
    fn topic_ids(&self, topics: &[Topic]) -> Result<Vec<Option<TopicId>>, LogError>;

    /// The offsets each partition of a topic holds, by partition number.
    fn bounds(&self, topic: &Topic) -> Result<Vec<Bounds>, LogError>;

    /// As [`bounds`](Self::bounds), but the ends count all that was written, even where
    /// its commit does not show yet. A reader that has read up to there has seen every
    /// commit made before the call.
    fn written(&self, topic: &Topic) -> Result<Vec<Bounds>, LogError> {
        self.bounds(topic)
    }

    /// Appends records, each to its partition, in the order given. The queue takes
    /// either all of them (then the future gives the outcome of each, once it is
    /// durable), or none (`Err`, at once: `Busy` when the queue is full). Dropping the
    /// future does not take the records back.
    #[allow(clippy::type_complexity)]
    fn append(
        &self,
        topic: &Topic,
        records: Vec<(PartitionId, NewRecord)>,
    ) -> Result<BoxFuture<'static, Vec<Result<Position, LogError>>>, LogError>;

    /// Committed records of a partition from `from` on (or the next there is),
    /// at least one where there is one, then up to `max_bytes`.
    fn read(
        &self,
        topic: &Topic,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Vec<Record>, LogError>;

    /// The latest record of each key of the committed records from `from` on that are
    /// before the end of `bounds`, which the log told a moment ago. Reads about
    /// `max_bytes` at most, and an empty answer means that no record is left there.
    fn read_latest(
        &self,
        topic: &Topic,
        partition: PartitionId,
        from: Offset,
        bounds: Bounds,
        max_bytes: usize,
    ) -> Result<LatestRecords, LogError> {
        let records = self.read(topic, partition, from, max_bytes)?;
        Ok(LatestRecords::of(records, bounds.end))
    }

    /// The topic that a group's checkpoints are in, where the engine keeps them
    /// in one.
    fn checkpoints_topic(&self, _group: &str) -> Option<TopicSpec> {
        None
    }

    /// Creates the storage that the log needs for a group, before its first member
    /// joins.
    fn ensure_group(&self, _group: &str, _input: &Topic) -> Result<(), LogError> {
        Ok(())
    }

    /// Joins a group.
    fn join(&self, spec: GroupSpec) -> Result<Box<dyn Member>, LogError>;

    /// The committed checkpoints of a group.
    fn checkpoints(&self, group: &str) -> Result<Arc<dyn Checkpoints>, LogError>;

    fn group_status(&self, group: &str, input: &Topic) -> Result<GroupStatus, LogError>;

    /// The names of all groups that have members or committed offsets, in order; also
    /// of groups that are not Courtside's.
    fn group_names(&self) -> Result<Vec<GroupName>, LogError>;

    /// Whether a group reads a topic: it has a member there, or committed offsets
    /// that the log still counts.
    fn reads(&self, group: &str, topic: &Topic) -> Result<bool, LogError>;

    /// Ticks after any writer has committed records. The value means nothing.
    fn changes(&self) -> watch::Receiver<u64>;

    fn health(&self) -> Health;

    /// The rows of a backup, for an engine whose log is the host's own.
    fn backup(&self) -> Result<Box<dyn backup::BackupRows>, LogError> {
        Err(LogError::BackupElsewhere)
    }

    /// Finishes the queued writes and releases the disk; calls after it fail with
    /// `Unavailable`. All members have left before.
    fn close(&self);
}

/// The committed checkpoints of the partitions this host holds.
pub trait Checkpoints: Send + Sync {
    fn get(&self, partition: PartitionId, key: &[u8]) -> Result<Option<Bytes>, LogError>;

    /// Checkpoints in key order, after a key, at most `count_max` of them.
    fn scan(
        &self,
        partition: PartitionId,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<(Key, Bytes)>, LogError>;
}

/// A worker's membership in a group.
pub trait Member: Send {
    /// Waits up to `timeout` for something to do. Records come from partitions that are
    /// assigned and not paused, about `max_bytes` in all, each record once: the member
    /// remembers how far it has read, independently of commits.
    fn poll(&mut self, timeout: Duration, max_bytes: usize) -> Result<Polled, LogError>;

    /// Stops the records of these partitions; records that were polled already do not
    /// come again.
    fn pause(&mut self, partitions: &[PartitionId]);

    fn resume(&mut self, partitions: &[PartitionId]);

    /// Goes on reading a partition from `next`, forward or back.
    fn seek(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError>;

    /// One atomic step. After an error nothing of it happened (unless the
    /// error is [`LogError::Fenced`], after which the partitions are lost),
    /// and it may be tried again. Readers see it soon after it succeeded.
    fn commit(&mut self, commit: &Commit) -> Result<(), LogError>;

    /// As [`commit`](Self::commit), for a member that others wait for: a commit that
    /// could take longer than `time` fails then.
    fn commit_within(&mut self, commit: &Commit, _time: Duration) -> Result<(), LogError> {
        self.commit(commit)
    }

    /// Whether other members wait until this one releases revoked partitions, which the
    /// next poll reports.
    fn is_waited_for(&self) -> bool {
        false
    }

    /// Lets go of revoked partitions.
    fn release(&mut self, partitions: &[PartitionId]);
}
