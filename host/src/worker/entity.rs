//! One entity of one worker: what it has in memory between two commits.

use bytes::Bytes;

use super::{
    envelope::{Halt, Recent},
    instances::Home,
};
use crate::{
    plugin::SavedState,
    types::{Key, NewRecord, Offset, PartitionId, Record, TopicPartition},
};

/// Events and records that an entity keeps room for.
const SETTLED_CAPACITY: usize = 8;

/// What is to become of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The plugin gets it.
    Process,
    /// It is a dead letter.
    Dead { code: &'static str, reason: String },
    /// It was processed before, under the same idempotency key.
    Duplicate,
}

/// An event since the last commit.
#[derive(Clone, Debug)]
pub struct Pending {
    pub record: Record,
    pub verdict: Verdict,
    /// Above 1 where it is processed again, after a rollback.
    pub attempt: u32,
}

/// A record that an event led to.
#[derive(Clone, Debug)]
pub struct Produced {
    /// The event's place: the order that records of one key go out in.
    pub source: (PartitionId, Offset),
    pub place: TopicPartition,
    pub record: NewRecord,
}

/// How far an entity that runs alone has come, so that a failure later on does
/// not run everything again.
#[derive(Clone, Debug)]
pub struct Mark {
    pub done: usize,
    pub produced: usize,
    pub saved: Option<SavedState>,
}

/// What the next commit is to do with an entity's checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// Not decided yet, or there is nothing to change.
    Nothing,
    Store(Bytes),
    Delete,
}

/// An entity. It is in memory while it is open in an instance, or has events
/// that are not committed.
#[derive(Debug)]
pub struct Entity {
    pub partition: PartitionId,
    pub key: Key,
    pub home: Option<Home>,
    /// Its committed state, from when it was brought into memory until it is
    /// opened first.
    pub loaded: Option<Option<SavedState>>,
    /// Events it has yet to process alone, after a failure it was suspected of.
    pub suspicion: u32,
    pub recent: Recent,
    pub halted: Option<Halt>,
    /// Events since the last commit, in offset order.
    pub queue: Vec<Pending>,
    /// How many of them were run.
    pub done: usize,
    /// What they led to.
    pub produced: Vec<Produced>,
    pub mark: Option<Mark>,
    /// Its checkpoint must be written though no event went to the plugin.
    pub touched: bool,
    pub prepared: Prepared,
    /// Where it stands, while it is behind its partition's committed offset:
    /// from there on its events are processed again.
    pub late: Option<Offset>,
    /// The trial (its number in the entity's slot) that found its state kept; 0
    /// is none.
    pub kept: u32,
    /// When it was used last; the key of the worker's order of use.
    pub used: u64,
    pub used_at: std::time::Instant,
}

impl Entity {
    /// Whether the plugin's state may differ from the committed one.
    #[must_use]
    pub fn processed(&self) -> bool {
        self.queue
            .iter()
            .any(|pending| pending.verdict == Verdict::Process)
    }

    /// The offset its next checkpoint stands at.
    #[must_use]
    pub fn last_offset(&self) -> Option<Offset> {
        self.queue.last().map(|pending| pending.record.offset)
    }

    /// Remembers an idempotency key; false says that the event was seen before.
    pub fn remember(&mut self, key: &[u8], index: Option<&Bytes>) -> bool {
        self.touched = true;
        self.recent.insert(key, index.map_or(b"", |index| &**index))
    }

    /// Goes back to the last mark, or the last commit: the instance it lived in
    /// is gone. Returns the bytes of the records that go with it.
    pub fn rewind(&mut self) -> usize {
        self.home = None;
        self.prepared = Prepared::Nothing;
        let (done, produced) = self
            .mark
            .as_ref()
            .map_or((0, 0), |mark| (mark.done, mark.produced));
        self.done = done;
        self.produced
            .drain(produced.min(self.produced.len())..)
            .map(|produced| produced.record.size())
            .sum()
    }

    /// Everything since the last commit is committed.
    pub fn settle(&mut self) {
        // What a burst needed is not kept: there may be very many entities.
        self.queue.clear();
        self.queue.shrink_to(SETTLED_CAPACITY);
        self.done = 0;
        self.produced.clear();
        self.produced.shrink_to(SETTLED_CAPACITY);
        self.mark = None;
        self.touched = false;
        self.prepared = Prepared::Nothing;
        self.loaded = None;
    }
}
