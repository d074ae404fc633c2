//! One entity of one worker: what it has in memory between two commits.

use bytes::Bytes;

use super::{
    envelope::{Halt, REDONE_MAX, Recent, Redone},
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
    /// It is a dead letter, since the entity was halted when its turn came.
    Halted,
    /// It was processed before, under the same idempotency key.
    Duplicate,
}

/// An event since the last commit.
#[derive(Clone, Debug)]
pub struct Pending {
    pub record: Record,
    pub verdict: Verdict,
    pub redriven: Option<Redriven>,
    /// Above 1 where it is processed again, after a rollback.
    pub attempt: u32,
}

impl Pending {
    /// The offset it had when it came first.
    #[must_use]
    pub fn origin(&self) -> Offset {
        self.redriven
            .as_ref()
            .map_or(self.record.offset, |redriven| redriven.origin)
    }
}

/// What an event says that was a dead letter, and is redriven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redriven {
    /// The offset it had when it came first.
    pub origin: Offset,
    /// The first of its entity's in a redrive: no other is under way.
    pub begins: bool,
    /// The last of its entity's: with it the redrive has brought all that came
    /// up to this offset.
    pub until: Option<Offset>,
    /// The record that its letter was made of, and the attempt at processing it.
    pub made_of: Option<(Offset, u32)>,
}

/// The code of dead letters whose entity was halted.
pub const ENTITY_HALTED: &str = "entity-halted";

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
    pub halted: Option<Halt>,
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
    /// Its committed checkpoint, from when it was read until the next commit.
    pub committed: Option<Option<Bytes>>,
    /// Events it has yet to process alone, after a failure it was suspected of.
    pub suspicion: u32,
    /// Events that went over a limit, at a cost to others, since one went well.
    pub costly: u32,
    /// A call of it went well since the last commit.
    pub went_well: bool,
    pub recent: Recent,
    pub halted: Option<Halt>,
    pub redone: Vec<Redone>,
    /// As of the last commit, which is where it goes back to without a mark.
    pub halted_before: Option<Halt>,
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
        let (done, produced, halted) = match &self.mark {
            Some(mark) => (mark.done, mark.produced, &mark.halted),
            None => (0, 0, &self.halted_before),
        };
        self.done = done;
        self.halted.clone_from(halted);
        for pending in self.queue.iter_mut().skip(done) {
            if pending.verdict == Verdict::Halted {
                pending.verdict = Verdict::Process;
            }
        }
        self.produced
            .drain(produced.min(self.produced.len())..)
            .map(|produced| produced.record.size())
            .sum()
    }

    /// Notes that it processes events again. Each commit of one redo comes with
    /// the place that the entity has come to; where it began is what counts.
    pub fn note_redone(&mut self, redone: Redone) {
        if let Some(last) = self.redone.last_mut()
            && (last.until, last.attempt) == (redone.until, redone.attempt)
        {
            if redone.from < last.from {
                last.from = redone.from;
                self.touched = true;
            }
            return;
        }
        if self.redone.len() >= REDONE_MAX {
            self.redone.remove(0);
        }
        self.redone.push(redone);
        self.touched = true;
    }

    /// Whether the record that a redriven event's letter was made of was
    /// processed again since: then what is redriven has been processed, or is
    /// another letter.
    #[must_use]
    pub fn was_redone(&self, redriven: &Redriven) -> bool {
        redriven.made_of.is_some_and(|(offset, attempt)| {
            let mut redone = self.redone.iter();
            redone.any(|one| (one.from..one.until).contains(&offset) && attempt < one.attempt)
        })
    }

    /// Whether the plugin gets the next event, which is to be processed. A halted
    /// entity's does when it is redriven, and those redriven before it went well.
    pub fn admits_next(&mut self) -> bool {
        let Some(halt) = &mut self.halted else {
            return true;
        };
        let redriven = self.queue.get(self.done).and_then(|next| next.redriven);
        redriven.is_some_and(|redriven| {
            halt.is_blocked &= !redriven.begins;
            !halt.is_blocked
        })
    }

    /// The event at `done` is a dead letter for the entity's halt.
    pub fn note_letter(&mut self) {
        let Some(halt) = &mut self.halted else {
            return;
        };
        if let Some(pending) = self.queue.get(self.done) {
            halt.newest = halt.newest.max(pending.origin());
            halt.is_blocked |= pending.redriven.is_some();
            self.touched = true;
        }
    }

    /// An event was processed, or had an end of its own (it was refused, it
    /// trapped). True says that a redrive has brought all that the halt kept
    /// back, up to here, so that it is over.
    pub fn ends_halt(&mut self, position: usize) -> bool {
        let Some(halt) = &mut self.halted else {
            return false;
        };
        let redriven = self.queue.get(position).and_then(|event| event.redriven);
        let Some(redriven) = redriven else {
            return false;
        };
        halt.is_blocked &= !redriven.begins;
        let ends = !halt.is_blocked && redriven.until.is_some_and(|until| halt.newest <= until);
        if ends {
            self.halted = None;
        }
        self.touched = true;
        ends
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
        self.halted_before.clone_from(&self.halted);
        self.touched = false;
        self.prepared = Prepared::Nothing;
        self.went_well = false;
        self.loaded = None;
        self.committed = None;
    }
}
