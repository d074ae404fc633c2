//! One entity of one worker: what it has in memory between two commits.

use bytes::Bytes;
use courtside_plugin_host::SavedState;
use courtside_types::{Key, NewRecord, Offset, PartitionId, Record, TopicPartition};

use super::{
    envelope::{Halt, REDONE_MAX, Recent, Redone},
    instances::Home,
    redriven::Redriven,
};

/// Events and records that an entity keeps room for.
const SETTLED_CAPACITY: usize = 8;

/// The decision on an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The plugin gets the event.
    Process,
    /// The event is a dead letter.
    Dead { code: &'static str, reason: String },
    /// The event is a dead letter, since the entity was halted when its turn came.
    Halted,
    /// The event was processed before: under the same idempotency key, or by a rollback
    /// since its dead letter.
    Duplicate,
}

/// An event since the last commit.
#[derive(Clone, Debug)]
pub struct Pending {
    pub record: Record,
    pub verdict: Verdict,
    pub redriven: Option<Redriven>,
    /// Above 1 where the event is processed again, after a rollback.
    pub attempt: u32,
}

impl Pending {
    /// The offset that the event had when it came first.
    #[must_use]
    pub fn origin(&self) -> Offset {
        self.redriven
            .as_ref()
            .map_or(self.record.offset, |redriven| redriven.origin)
    }
}

/// The code of dead letters whose entity was halted.
pub const ENTITY_HALTED: &str = "entity-halted";

/// A record that an event led to.
#[derive(Clone, Debug)]
pub struct Produced {
    /// The event's place, which orders the records of one key.
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

/// The change that the next commit makes to an entity's checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// The change is not decided yet, or the checkpoint stays as it is.
    Nothing,
    Store(Bytes),
    Delete,
}

/// The committed state of an entity; none if it has no state.
#[derive(Debug)]
pub struct Loaded {
    pub saved: Option<SavedState>,
}

/// The committed checkpoint of an entity; none if it has no checkpoint.
#[derive(Debug)]
pub struct Committed {
    pub bytes: Option<Bytes>,
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
    pub loaded: Option<Loaded>,
    /// Its committed checkpoint, from when it was read until the next commit.
    pub committed: Option<Committed>,
    /// Events it has yet to process alone, after a failure it was suspected of.
    pub suspicion: u32,
    /// Events that went over a limit, at a cost to others, since one went well.
    pub overruns: u32,
    /// A call of the entity went well since the last commit.
    pub went_well: bool,
    pub recent: Recent,
    pub halted: Option<Halt>,
    pub redone: Vec<Redone>,
    /// The halt as of the last commit, which is where an entity without a mark goes
    /// back to.
    pub halted_before: Option<Halt>,
    /// Events since the last commit, in offset order.
    pub queue: Vec<Pending>,
    /// How many events of the queue were run.
    pub done: usize,
    /// The records that the events led to.
    pub produced: Vec<Produced>,
    pub mark: Option<Mark>,
    /// Its checkpoint must be written though no event went to the plugin.
    pub touched: bool,
    pub prepared: Prepared,
    /// The offset from which the entity's events are processed again, while it is
    /// behind its partition's committed offset.
    pub late: Option<Offset>,
    /// The number, in the entity's slot, of the trial that has kept the entity's state
    /// from before; 0 stands for no trial.
    pub kept: u32,
    /// When the entity was used last; the key of the worker's order of use.
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

    /// Goes back to the last mark, or the last commit, since the entity's instance is
    /// gone. Returns the bytes of the records that this drops.
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

    /// Notes that the entity processes events again. Each commit of a redo notes the
    /// offset that the entity has come to, but only the lowest counts.
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

    /// Whether a rollback has processed an event again since it became the letter that
    /// is redriven. Then the event has been processed, or has become another letter.
    #[must_use]
    pub fn was_redone(&self, redriven: &Redriven) -> bool {
        redriven.made_of.is_some_and(|(offset, attempt)| {
            let mut redone = self.redone.iter();
            redone.any(|one| (one.from..one.until).contains(&offset) && attempt < one.attempt)
        })
    }

    /// Whether the plugin gets the next event, whose verdict is to process it. A halted
    /// entity takes an event only if that is redriven, and those redriven before it
    /// went well.
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

    /// Notes that the event at `done` is a dead letter because of the entity's halt.
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

    /// Notes that an event was processed, or had an end of its own (it was refused, it
    /// trapped). Returns true if the halt is over, because a redrive has brought all
    /// events that the halt kept back.
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

    /// Clears what the entity kept for the commit that was just made.
    pub fn settle(&mut self) {
        // The room that a burst needed is given back, because there may be very many
        // entities.
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
