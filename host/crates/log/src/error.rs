//! The errors of the record log, with their codes.

use courtside_types::{Offset, PartitionId, Topic, TopicId, failure::ErrorCode};

use crate::GroupName;

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
