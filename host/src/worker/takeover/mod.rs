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

/// Plugins of a slot that are on trial at a time. One more confirms the one that has
/// not run for the longest.
pub const TRIALS_MAX: usize = 4;
/// Directives of one slot that stand: a partition that nobody had for longer
/// keeps what it has.
pub const DIRECTIVES_MAX: usize = 16;

/// What runs in a slot, in one partition.
///
/// A trial is of a plugin, and not of a stretch of offsets: a partition may go from
/// host to host while they run different plugins, and all that one of them did on
/// trial is undone at once. So no two trials of a slot are of the same plugin.
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
    /// The plugins that are not confirmed, in the order in which they came first.
    pub trials: Vec<Trial>,
}

impl SlotRow {
    /// The trial of what runs, if it is on trial.
    #[must_use]
    pub fn current_trial(&self) -> Option<&Trial> {
        self.trials
            .iter()
            .rfind(|trial| trial.digest == self.digest)
    }

    /// The plugin that ran before all that is on trial.
    #[must_use]
    pub fn is_before_all_trials(&self, digest: Option<Digest>) -> bool {
        self.trials
            .first()
            .is_some_and(|first| first.previous == digest)
    }
}

/// A plugin whose doings can be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Of the takeover with which it began.
    pub seq: u32,
    pub digest: Option<Digest>,
    /// Nothing below it was processed under this trial.
    pub offset: Offset,
    /// What ran before it came first.
    pub previous: Option<Digest>,
    pub previous_plugin: String,
    /// When it came last, in milliseconds since 1970.
    pub at: u64,
    /// The slot's latest directive when it came last: that one, and those before,
    /// are not about this trial.
    pub directive: u64,
}

/// "Undo all that `bad` did on trial in that slot." It stands: a partition that nobody
/// has now is set right when somebody gets it.
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

    /// The trial that it undoes, whether that plugin runs now or another.
    #[must_use]
    pub fn undoes<'a>(&self, row: &'a SlotRow) -> Option<&'a Trial> {
        let mut trials = row.trials.iter();
        trials.rfind(|trial| trial.digest == Some(self.bad) && trial.directive < self.id)
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
