//! Which plugin runs in a slot since when, and the way back.
//!
//! What a worker must know of this after a crash or a rebalance is in the
//! checkpoints of the partition, the one thing that is atomic with its offsets
//! and goes where the partition goes, under keys that no entity has
//! ([`rows`]). While a swap is not confirmed (a [`Trial`]), each entity that it
//! touches has its state from before kept there as well; a [`Directive`] brings
//! those back and has the events since processed again. The decisions are
//! [`Processing`](super::processing::Processing)'s; this has the words.
//!
//! Memory: a row a slot for each partition at hand. On disk: the states of the
//! entities touched since the oldest swap that is not confirmed, once for each
//! of at most [`TRIALS_MAX`] swaps.

pub mod history;
pub mod partition;
pub mod rows;

use serde::{Deserialize, Serialize};

use crate::{
    slots::name::SlotName,
    types::{Digest, Offset},
};

/// Swaps of a slot that can be taken back, one after the other, the newest
/// first. One more confirms the oldest.
pub const TRIALS_MAX: usize = 4;
/// Directives of one slot that stand: a partition that nobody had for longer
/// keeps what it has.
pub const DIRECTIVES_MAX: usize = 16;

/// What runs in a slot, in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRow {
    /// None: the slot has no plugin of its own (any more).
    pub digest: Option<Digest>,
    /// `name@version`.
    pub plugin: String,
    /// Counts what happened to the slot here, swaps and rollbacks, from 1.
    pub seq: u32,
    /// The first offset that was processed since.
    pub offset: Offset,
    /// When that was, in milliseconds since 1970.
    pub at: u64,
    /// 1 until a rollback; then one more than that of any rollback before it in
    /// the partition.
    pub attempt: u32,
    /// The swaps that are not confirmed, the oldest first.
    pub trials: Vec<Trial>,
}

/// A swap that can be taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub seq: u32,
    pub digest: Option<Digest>,
    /// Nothing below it was processed under this trial.
    pub offset: Offset,
    /// What ran before.
    pub previous: Option<Digest>,
    pub previous_plugin: String,
    pub at: u64,
    /// The slot's latest directive when it began: that one, and those before,
    /// are not about this swap.
    pub directive: u64,
}

/// "Take back the last swap of that slot where it was to `bad`." It stands: a
/// partition that nobody has now is set right when somebody gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directive {
    /// Grows from one directive of a slot to the next.
    pub id: u64,
    pub slot: SlotName,
    pub bad: Digest,
    /// What is to run again; none where the slot had no plugin before.
    pub to: Option<Digest>,
    /// When it was given, in milliseconds since 1970.
    pub at: u64,
}

impl Directive {
    /// Of the places that a slot has for its directives, the one that this has; it
    /// takes the place of the one before.
    #[must_use]
    pub const fn place(id: u64) -> u64 {
        id % DIRECTIVES_MAX as u64
    }

    /// The trial that it takes back, if it is about what runs there.
    #[must_use]
    pub fn takes_back<'a>(&self, row: &'a SlotRow) -> Option<&'a Trial> {
        let trial = row.trials.last()?;
        (trial.digest == Some(self.bad) && trial.directive < self.id).then_some(trial)
    }
}

/// What a rollback does again in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redone {
    /// Nothing below it is processed again.
    pub from: Offset,
    /// What is committed: from here on all goes on as ever.
    pub until: Offset,
}
