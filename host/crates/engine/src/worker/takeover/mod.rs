//! The record of which plugin runs in a slot since when, and the way back.
//!
//! A worker needs the record after a crash or a rebalance. It is in the checkpoints of
//! the partition, under keys that no entity has ([`rows`]), because checkpoints alone
//! are atomic with the offsets and go where the partition goes. While a swap is not
//! confirmed (a [`Trial`]), the state from before of each entity that it touches is
//! kept there as well. A [`Directive`] brings those states back and has the events
//! since processed again. [`Processing`](super::processing::Processing) decides; this
//! module has the types.
//!
//! Memory holds one row for each slot of each partition at hand. The disk holds the
//! states of the entities touched since the oldest swap that is not confirmed, once for
//! each of at most [`TRIALS_MAX`] swaps.
//!
//! The topic `<group>.plugins` has no such states. It is for people, and for messages
//! between hosts; checkpoints work alike on both engines.

pub mod history;
pub mod partition;
pub mod rows;

use courtside_types::{Digest, Offset, slot_name::SlotName};
use serde::{Deserialize, Serialize};

/// Plugins of a slot that are on trial at a time. One more confirms the one that has
/// not run for the longest.
pub const TRIALS_MAX: usize = 4;
/// Directives of one slot that stand. A partition that no worker had while more were
/// given never follows the oldest ones.
pub const DIRECTIVES_MAX: usize = 16;

/// The plugin that runs in a slot, in one partition.
///
/// A trial is of a plugin, and not of a range of offsets: a partition may go from host
/// to host while they run different plugins, and all that one plugin did on trial is
/// undone at once. No two trials of a slot are therefore of the same plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRow {
    /// None: the slot has no plugin of its own (any more).
    pub digest: Option<Digest>,
    /// `name@version`.
    pub plugin: String,
    /// The number of the slot's latest swap or rollback in this partition, from 1.
    pub seq: u32,
    /// The first offset processed since the latest swap or rollback.
    pub offset: Offset,
    /// When the latest swap or rollback was, in milliseconds since 1970.
    pub at: u64,
    /// 1 until a rollback, which makes it one more than any attempt in the partition
    /// before.
    pub attempt: u32,
    /// The plugins that are not confirmed, in the order in which they came first.
    pub trials: Vec<Trial>,
}

impl SlotRow {
    /// The trial of the plugin that runs, if it is on trial.
    #[must_use]
    pub fn current_trial(&self) -> Option<&Trial> {
        self.trials
            .iter()
            .rfind(|trial| trial.digest == self.digest)
    }

    /// Whether this plugin ran before all those that are on trial.
    #[must_use]
    pub fn is_before_all_trials(&self, digest: Option<Digest>) -> bool {
        self.trials
            .first()
            .is_some_and(|first| first.previous == digest)
    }
}

/// A plugin whose work can be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The number of the takeover with which the trial began.
    pub seq: u32,
    pub digest: Option<Digest>,
    /// No event below this offset was processed under this trial.
    pub offset: Offset,
    /// The plugin that ran before this one came for the first time.
    pub previous: Option<Digest>,
    pub previous_plugin: String,
    /// When the plugin came last, in milliseconds since 1970.
    pub at: u64,
    /// The id of the slot's latest directive when the plugin came last. That directive,
    /// and those before it, do not undo this trial.
    pub directive: u64,
}

/// "Undo all that `bad` did on trial in that slot." The directive stands: a partition
/// that no worker has now is set right when a worker gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directive {
    /// A number that grows from one directive of a slot to the next.
    pub id: u64,
    pub slot: SlotName,
    pub bad: Digest,
    /// The plugin that is to run again; none where the slot had no plugin before.
    pub to: Option<Digest>,
    /// When the directive was given, in milliseconds since 1970.
    pub at: u64,
}

impl Directive {
    /// The place of a directive among the [`DIRECTIVES_MAX`] that a slot has. A new
    /// directive replaces the one that had its place before.
    #[must_use]
    pub const fn place(id: u64) -> u64 {
        id % DIRECTIVES_MAX as u64
    }

    /// The trial that the directive undoes, whether that plugin runs now or another.
    #[must_use]
    pub fn undoes<'a>(&self, row: &'a SlotRow) -> Option<&'a Trial> {
        let mut trials = row.trials.iter();
        trials.rfind(|trial| trial.digest == Some(self.bad) && trial.directive < self.id)
    }
}

/// The events that a rollback processes again in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redone {
    /// No event below this offset is processed again.
    pub from: Offset,
    /// The committed offset: events from here on are processed for the first time.
    pub until: Offset,
}
