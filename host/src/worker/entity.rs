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
    /// Events it has yet to process alone, after a failure it was suspected of.
    pub suspicion: u32,
    pub recent: Recent,
    pub halted: Option<Halt>,
    /// Events since the last commit, in offset order.
    pub queue: Vec<Pending>,
    /// How many of them were run.
    pub done: usize,
    /// What they led to.
    pub produced: Vec<(TopicPartition, NewRecord)>,
    pub mark: Option<Mark>,
    /// Its checkpoint must be written though no event went to the plugin.
    pub touched: bool,
    pub prepared: Prepared,
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

    /// Goes back to the last mark, or the last commit: the instance it lived in
    /// is gone.
    pub fn rewind(&mut self) {
        self.home = None;
        self.prepared = Prepared::Nothing;
        let (done, produced) = self
            .mark
            .as_ref()
            .map_or((0, 0), |mark| (mark.done, mark.produced));
        self.done = done;
        self.produced.truncate(produced);
    }

    /// Everything since the last commit is committed.
    pub fn settle(&mut self) {
        self.queue.clear();
        self.done = 0;
        self.produced.clear();
        self.mark = None;
        self.touched = false;
        self.prepared = Prepared::Nothing;
    }
}
