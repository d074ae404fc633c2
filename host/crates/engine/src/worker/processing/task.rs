//! One partition of a worker, with all that is not yet committed of it.

use courtside_types::{Digest, Key, Offset, slot_name::SlotName};
use rustc_hash::FxHashSet;

use crate::worker::{
    entity::Produced,
    takeover::{partition::Slots, rows::Redo},
};

#[derive(Debug)]
pub(super) struct PartitionTask {
    pub committed: Offset,
    /// `taken` counts records since the last commit, `events` those whose processing
    /// was committed since the partition was assigned.
    pub taken: u64,
    pub events: u64,
    /// `counted` is the number of events since the group began or was reset, as of the
    /// last commit, and `fresh` that of the events since.
    pub counted: u64,
    pub fresh: u64,
    /// The partition's position row is to be written, though nothing was processed.
    pub is_unwritten: bool,
    /// The offset of the next record to take.
    pub next: Offset,
    /// Dead letters that belong to no entity.
    pub loose: Vec<Produced>,
    /// The partition has stopped, or waits for a plugin: it takes no records until it is
    /// resumed.
    pub stopped: bool,
    /// The plugins in the partition's slots, and the events that are processed again.
    pub slots: Slots,
    /// Slots that swapped while this worker had the partition.
    pub swapped: FxHashSet<SlotName>,
    /// Trials that are to be undone.
    pub undo: Vec<Undo>,
    /// Trials that were to be undone when the partition stopped, because the log lacks
    /// their events.
    pub refused: Vec<Undo>,
    /// The host's rows after this key are to be looked through for rows that are no
    /// longer of use.
    pub sweep: Option<Key>,
    pub staged_sweep: Option<Option<Key>>,
    /// More rows became useless since the sweep began.
    pub sweep_again: bool,
}

/// A trial that is to be undone.
#[derive(Debug)]
pub(super) struct Undo {
    pub slot: SlotName,
    pub seq: u32,
    /// The plugin that ran on trial.
    pub bad: Digest,
    /// No event below this offset is processed again.
    pub from: Offset,
    /// When the swap was, in milliseconds since 1970.
    pub at: u64,
    /// The log still has the events that are to be processed again.
    pub approved: bool,
}

impl PartitionTask {
    /// The offset at which the partition goes on after its last commit.
    pub fn position(&self) -> Offset {
        let redo = self.slots.committed_redo();
        redo.map_or(self.committed, |redo| redo.next)
    }

    /// The events that are processed again, as on disk.
    pub const fn redo(&self) -> Option<&Redo> {
        self.slots.committed_redo()
    }

    /// Whether the partition takes no records, because entities do not have the states
    /// from before a swap back yet.
    pub fn is_held(&self) -> bool {
        !self.undo.is_empty() || self.redo().is_some_and(|redo| !redo.restoring.is_empty())
    }
}
