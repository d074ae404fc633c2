//! Writing: one thread writes for all callers.
//!
//! Callers encode on their own threads and put a [`Request`] into the
//! [queue]. The [writer] takes the requests that have gathered, makes one atomic
//! batch of the store of them ([plan]), syncs once, and answers all callers. A
//! lone append is written at once; under load batches form by themselves.

mod change;
pub(super) mod plan;
pub(super) mod queue;
pub(super) mod writer;

use std::sync::Arc;

use courtside_types::Topic;
use crossbeam_channel::Sender;
use fjall::UserValue;
use tokio::sync::oneshot;

use self::queue::Reservation;
use super::{
    batch::Encoded,
    groups::{GroupKey, Listener},
    rows::CleanupRow,
    store::room::ITEM_BYTES,
    topics::TopicState,
};
use crate::{LogError, TopicSpec};

/// A request to the writer.
#[derive(Debug)]
pub(super) enum Request {
    Append(Append),
    Commit(Box<CommitRequest>),
    Join(Join),
    EnsureTopics(EnsureTopics),
    Change(ChangeTopic),
    Clean(Box<Clean>),
}

impl Request {
    /// Bytes that the request has the store write.
    fn stored_bytes(&self) -> usize {
        let values = |parts: &[Part]| -> usize {
            let batches = parts.iter().flat_map(|part| &part.batches);
            let item = |batch: &Encoded| batch.stored_bytes() as usize + ITEM_BYTES as usize;
            batches.map(item).sum()
        };
        match self {
            Self::Append(append) => values(&append.parts),
            Self::Commit(commit) => {
                let checkpoints = commit.checkpoints.iter();
                let checkpoints: usize = checkpoints
                    .map(|(key, value)| {
                        let value = value.as_ref().map_or(0, |value| value.len());
                        ITEM_BYTES as usize + key.len() + value
                    })
                    .sum();
                values(&commit.parts) + checkpoints
            }
            Self::Clean(clean) => {
                let batches = clean.insert.iter().map(|(_, batch)| batch.value.len());
                batches.sum::<usize>() + clean.remove.len() * super::rows::RECORD_KEY_BYTES
            }
            Self::Join(_) | Self::EnsureTopics(_) | Self::Change(_) => 0,
        }
    }

    /// Answers an append or a commit that is not written.
    fn refuse(self, error: LogError) {
        match self {
            Self::Append(append) => {
                // The room is released before the caller can ask for more.
                drop(append.reservation);
                drop(append.reply.send(Err(error)));
            }
            Self::Commit(commit) => drop(commit.reply.send(Err(error))),
            Self::Join(_) | Self::EnsureTopics(_) | Self::Change(_) | Self::Clean(_) => {}
        }
    }
}

/// Batches for one partition, in order.
#[derive(Debug)]
pub(super) struct Part {
    pub topic: Arc<TopicState>,
    pub partition: u32,
    pub batches: Vec<Encoded>,
}

/// Refuses parts of a topic that was deleted after they were made.
fn check_topics(parts: &[Part]) -> Result<(), LogError> {
    parts.iter().try_for_each(|part| part.topic.check_exists())
}

#[derive(Debug)]
pub(super) struct Append {
    /// At most one part for each partition.
    pub parts: Vec<Part>,
    /// The offset of each part's first record, once it is durable.
    pub reply: oneshot::Sender<Result<Vec<u64>, LogError>>,
    pub reservation: Reservation,
}

#[derive(Debug)]
pub(super) struct CommitRequest {
    pub group: GroupKey,
    pub member: Arc<Listener>,
    pub parts: Vec<Part>,
    pub checkpoints: Vec<CheckpointRow>,
    pub offsets: Vec<OffsetMove>,
    pub reply: Sender<Result<(), LogError>>,
}

impl CommitRequest {
    /// Whether no offset moves. A worker commits so when it repeats records that are
    /// below the committed offset.
    pub fn repeats_its_offsets(&self) -> bool {
        let mut offsets = self.offsets.iter();
        offsets.all(|offset| offset.from == Some(offset.to))
    }
}

/// A row's key and its new value; `None` removes the row.
pub(super) type CheckpointRow = (Vec<u8>, Option<UserValue>);

/// A committed offset that moves. By `from`, the writer tells whether a commit that
/// was answered with an error has happened after all.
#[derive(Clone, Copy, Debug)]
pub(super) struct OffsetMove {
    pub partition: u32,
    pub from: Option<u64>,
    pub to: u64,
}

#[derive(Debug)]
pub(super) struct Join {
    pub topic: Arc<TopicState>,
    pub group: GroupKey,
    pub member: Arc<Listener>,
    pub reply: Sender<Result<(), LogError>>,
}

#[derive(Debug)]
pub(super) struct EnsureTopics {
    pub topics: Vec<TopicSpec>,
    pub reply: Sender<Result<(), LogError>>,
}

/// An operator's change of a topic.
#[derive(Debug)]
pub(super) struct ChangeTopic {
    pub topic: Topic,
    pub change: Change,
    pub reply: Sender<Result<(), LogError>>,
}

#[derive(Debug)]
pub(super) enum Change {
    /// The topic must not exist yet. The writer gives it an id.
    Create {
        partitions: u32,
        cleanup: CleanupRow,
        altered: bool,
    },
    Alter {
        partitions: u32,
        cleanup: CleanupRow,
        altered: bool,
    },
    /// The caller has dropped the topic's records already.
    Delete,
}

/// One atomic step of cleaning a partition.
#[derive(Debug)]
pub(super) struct Clean {
    pub topic: Arc<TopicState>,
    pub partition: u32,
    /// First offsets of the batches to remove.
    pub remove: Vec<u64>,
    pub insert: Vec<(u64, Encoded)>,
    pub removed_bytes: u64,
    /// The start to which retention moves the partition.
    pub start: Option<u64>,
    /// The offset up to which compaction is done, and the dirty bytes before it.
    pub cleaned: Option<(u64, u64)>,
    pub reply: Sender<Result<(), LogError>>,
}
