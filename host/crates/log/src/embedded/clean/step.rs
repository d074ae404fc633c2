//! One step of cleaning: the part of a partition that it reads, and the change that the
//! writer applies.

use std::sync::Arc;

use fjall::UserValue;

use crate::{
    LogError,
    embedded::{
        batch::Encoded,
        read::Batches,
        rows::RECORD_KEY_BYTES,
        state::EmbeddedState,
        topics::TopicState,
        write::{Clean, Request, queue::closed},
    },
};

/// About how much of a partition is read at a time.
pub(super) const CHUNK_BYTES: usize = 2 << 20;

/// The partition that is being cleaned.
pub(super) struct PartitionCleaner<'a> {
    pub shared: &'a EmbeddedState,
    pub topic: &'a Arc<TopicState>,
    pub partition: u32,
}

impl PartitionCleaner<'_> {
    /// The offset before which every group that reads the topic has committed all;
    /// `u64::MAX` if no group reads it. Cleaning does not wait for a group that is away
    /// longer than `group_retention`.
    pub fn read_up_to(&self, now_ms: u64) -> u64 {
        let since_ms = self.shared.groups_since(now_ms);
        let groups = &self.shared.groups;
        let read = groups.read_up_to(self.topic.id, self.partition, since_ms);
        read.unwrap_or(u64::MAX)
    }

    /// Batches from offset `from` to before `to`, up to about `bytes_max`; empty if
    /// there are no more.
    pub fn chunk(
        &self,
        from: u64,
        to: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, UserValue)>, LogError> {
        if self.shared.queue.is_closed() {
            return Err(closed());
        }
        let store = self.shared.store()?;
        let partition = (self.topic.id, self.partition);
        let mut bytes = 0;
        let mut chunk = Vec::new();
        for batch in Batches::from_within(&store, partition, from, to) {
            let batch = batch?;
            bytes += batch.1.len();
            chunk.push(batch);
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(chunk)
    }

    pub fn apply(&self, step: Step) -> Result<(), LogError> {
        self.shared.ask(|reply| {
            Request::Clean(Box::new(Clean {
                topic: Arc::clone(self.topic),
                partition: self.partition,
                remove: step.remove,
                insert: step.insert,
                removed_bytes: step.removed_bytes,
                start: step.start,
                cleaned: step.cleaned,
                reply,
            }))
        })
    }
}

/// The changes to a partition in one atomic step.
#[derive(Default)]
pub(super) struct Step {
    /// First offsets of the batches to remove.
    pub remove: Vec<u64>,
    pub removed_bytes: u64,
    pub insert: Vec<(u64, Encoded)>,
    pub inserted_raw_bytes: usize,
    pub start: Option<u64>,
    pub cleaned: Option<(u64, u64)>,
}

impl Step {
    const REMOVED_MAX: usize = 512;
    const INSERTED_RAW_BYTES_MAX: usize = 2 << 20;

    pub fn remove(&mut self, base: u64, bytes: u64) {
        self.remove.push(base);
        self.removed_bytes += bytes;
    }

    pub fn insert(&mut self, base: u64, batch: Encoded) {
        self.inserted_raw_bytes += batch.head.raw_len as usize;
        self.insert.push((base, batch));
    }

    /// Whether the step would hold up appends if it grew.
    pub fn is_large(&self) -> bool {
        self.remove.len() >= Self::REMOVED_MAX
            || self.inserted_raw_bytes >= Self::INSERTED_RAW_BYTES_MAX
    }
}

pub(super) fn stored_bytes(value: &UserValue) -> u64 {
    (RECORD_KEY_BYTES + value.len()) as u64
}
