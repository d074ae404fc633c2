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
pub mod kafka;
pub mod memory;
mod name;
pub mod partitioner;
pub mod reset;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use bytestring::ByteString;
use courtside_types::{
    ENTITY_KEY_BYTES_MAX, Key, NewRecord, Offset, PartitionId, Position, Record, Topic, TopicId,
    TopicPartition, failure::ErrorCode,
};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

/// Why the log could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The log cannot be written (or reached) now; trying later may help.
    #[error("the record log is unavailable: {reason}")]
    Unavailable { reason: String },
    /// The log does not let this host in, or does not let it do this, until somebody
    /// grants it access.
    #[error("the record log refuses access: {reason}")]
    Denied { reason: String },
    /// Too much is waiting to be written; trying a little later will help.
    #[error("the record log's queue is full")]
    Busy,
    /// The disk has less room than the log keeps free.
    #[error("the disk is full: {free_bytes} bytes are free, {needed_bytes} bytes are needed")]
    Full { free_bytes: u64, needed_bytes: u64 },
    #[error("topic {topic} does not exist")]
    NoSuchTopic { topic: Topic },
    #[error("partition {partition} of topic {topic} does not exist")]
    NoSuchPartition {
        topic: Topic,
        partition: PartitionId,
    },
    /// A topic or group that cannot be as asked.
    #[error("{what} is refused: {reason}")]
    Invalid { what: String, reason: String },
    /// The existing topic differs from what the configuration asks for.
    #[error("topic {topic} has {what} {actual}, the configuration says {wanted}: {remedy}")]
    Mismatch {
        topic: Topic,
        what: &'static str,
        actual: String,
        wanted: String,
        remedy: String,
    },
    /// A topic that was there, and that somebody deleted since.
    #[error("topic {topic} is missing: {why}")]
    TopicMissing { topic: Topic, why: String },
    /// The group's offsets and checkpoints belong to a topic that is gone, and another
    /// topic has its name.
    #[error(
        "topic {topic} was deleted and created again (its id was {before}, and is {now}): the group's offsets and state belong to the old topic, and `courtside reset` sets new ones"
    )]
    TopicRecreated {
        topic: Topic,
        before: Box<TopicId>,
        now: Box<TopicId>,
    },
    #[error("topic {topic} exists already")]
    TopicExists { topic: Topic },
    /// A group reads or writes the topic now.
    #[error("group {group} is using topic {topic}: stop its hosts first")]
    TopicInUse { topic: Topic, group: GroupName },
    /// The offsets that a group has committed mean nothing without this topic.
    #[error(
        "group {group} keeps its {what} in topic {topic}, and has committed offsets that belong to it: `courtside reset` deletes state; a pipeline with another group starts without any"
    )]
    TopicKept {
        topic: Topic,
        group: GroupName,
        what: &'static str,
    },
    /// With more partitions, keys would move away from the partitions that have their
    /// checkpoints.
    #[error(
        "topic {topic} keeps its {partitions} partitions: with more of them, keys would move away from their checkpoints in group {group}; to have more, create another topic, send the events there, and let a pipeline with another group read it"
    )]
    PartitionsFixed {
        topic: Topic,
        partitions: u32,
        group: GroupName,
    },
    #[error("group {group} does not exist")]
    NoSuchGroup { group: GroupName },
    /// The operation needs a group without members.
    #[error(
        "group {group} has members: stop its hosts first, and wait for the session timeout of those that were killed"
    )]
    GroupNotEmpty { group: GroupName },
    /// Another process has the data directory.
    #[error("the data directory {path} is in use by another process")]
    InUse { path: String },
    /// The member is no longer in its group (or never held the partition).
    #[error("fenced: {reason}")]
    Fenced { reason: String },
    #[error("a record of {size_bytes} bytes is over the limit of {limit_bytes} bytes")]
    TooLarge {
        size_bytes: usize,
        limit_bytes: usize,
    },
    /// A single append or commit that is larger than the journal has room for.
    #[error(
        "a write of {size_bytes} bytes is over the {limit_bytes} bytes that log.journal_bytes_max allows"
    )]
    WriteTooLarge { size_bytes: u64, limit_bytes: u64 },
    /// A backup is made by one reader at a time.
    #[error("another backup of the record log is running")]
    BackupRunning,
    /// The log is Kafka's, so the host cannot copy it.
    #[error(
        "the record log is Kafka's, and so are its backups: mirror the topics to another cluster, or back up the brokers"
    )]
    BackupElsewhere,
    /// The brokers refuse the record's time, which is too far from their clock for
    /// the topic's settings.
    #[error("the brokers refuse the time of a record of topic {topic}")]
    TimeRefused { topic: Topic },
    /// An offset to read from, or to commit, that the partition does not have.
    #[error("offset {offset} of {topic}/{partition} is out of the log's range {start} to {end}")]
    OffsetOutOfRange {
        topic: Topic,
        partition: PartitionId,
        offset: Offset,
        start: Offset,
        end: Offset,
    },
    /// Stored bytes are not what was written.
    #[error("the record log is damaged: {reason}")]
    Corrupt { reason: String },
}

impl ErrorCode for LogError {
    fn code(&self) -> &str {
        LogError::code(self)
    }
}

impl LogError {
    /// Whether trying again may help.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. }
                | Self::Denied { .. }
                | Self::Busy
                | Self::Full { .. }
                | Self::TopicMissing { .. }
                | Self::TimeRefused { .. }
        )
    }

    /// Whether somebody may mend the cause while the host runs: a topic that does not
    /// take the records that it should, or is gone.
    #[must_use]
    pub const fn may_be_mended(&self) -> bool {
        self.may_pass()
            || matches!(
                self,
                Self::NoSuchTopic { .. }
                    | Self::NoSuchPartition { .. }
                    | Self::Invalid { .. }
                    | Self::TooLarge { .. }
                    | Self::WriteTooLarge { .. }
            )
    }

    /// The stable code of `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "log-unavailable",
            Self::Denied { .. } => "log-access-denied",
            Self::Busy => "log-busy",
            Self::Full { .. } => "disk-full",
            Self::NoSuchTopic { .. } => "no-such-topic",
            Self::NoSuchPartition { .. } => "no-such-partition",
            Self::Invalid { .. } => "log-invalid",
            Self::Mismatch { .. } => "topic-mismatch",
            Self::TopicMissing { .. } => "topic-missing",
            Self::TopicRecreated { .. } => "topic-recreated",
            Self::TopicExists { .. } => "topic-exists",
            Self::TopicInUse { .. } | Self::TopicKept { .. } => "topic-in-use",
            Self::PartitionsFixed { .. } => "partitions-fixed",
            Self::NoSuchGroup { .. } => "no-such-group",
            Self::GroupNotEmpty { .. } => "group-not-empty",
            Self::InUse { .. } => "data-dir-in-use",
            Self::Fenced { .. } => "fenced",
            Self::TooLarge { .. } => "record-too-large",
            Self::WriteTooLarge { .. } => "write-too-large",
            Self::BackupRunning => "backup-running",
            Self::BackupElsewhere => "backup-elsewhere",
            Self::TimeRefused { .. } => "time-refused",
            Self::OffsetOutOfRange { .. } => "offset-out-of-range",
            Self::Corrupt { .. } => "log-corrupt",
        }
    }
}

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
