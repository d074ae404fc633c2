//! Orders to a worker, which it carries out between two commits.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use courtside_types::{Digest, Offset, PartitionId, slot_name::SlotName};
use crossbeam_channel::{Receiver, Sender};

use super::{
    instances::Active,
    takeover::{Directive, Redone},
};

/// The first offset that a plugin processes in each partition, after it took over.
pub type Takeover = BTreeMap<PartitionId, Offset>;

/// A request that a worker carries out between two commits.
pub enum Order {
    /// Put this plugin (or none) in force, right after a commit.
    Activate {
        slot: SlotName,
        active: Option<Arc<Active>>,
        done: Sender<Takeover>,
    },
    /// Undo the swap of a slot that the directive names, and put `active` in force. The
    /// directive stands: it holds for the worker's partitions and for those assigned
    /// later. The latest 16 directives of a slot stand.
    ///
    /// A host that starts gives the standing directives before any plugin, with no
    /// `active`. Otherwise a new swap to the same plugin would look older than the
    /// directive, which would undo it.
    Rollback {
        slot: SlotName,
        directive: Directive,
        active: Option<Arc<Active>>,
        /// Receives the events that are processed again, once the rollback is on disk.
        done: Sender<BTreeMap<PartitionId, Redone>>,
    },
    /// The directive of this id no longer stands in the slot.
    Withdraw {
        slot: SlotName,
        id: u64,
        done: Sender<()>,
    },
    /// The plugin with this digest stays in a slot, and the slot's swaps up to `at`
    /// (milliseconds since 1970) can no longer be undone. The confirmation also holds for
    /// partitions that are assigned later.
    Confirm {
        slot: SlotName,
        digest: Option<Digest>,
        at: u64,
        done: Sender<()>,
    },
    /// Commit what is pending and end, within the drain deadline counted from this
    /// instant.
    Stop(Instant),
}

/// The way to give a worker orders; it may outlive the worker's handle.
#[derive(Clone, Debug)]
pub struct Orders {
    sender: Sender<Order>,
    /// Tells a worker in the middle of a long run that a caller waits.
    interrupt: Arc<AtomicBool>,
}

impl Orders {
    pub(super) fn new() -> (Self, Receiver<Order>) {
        // Each caller waits for the answer to its order, so the channel holds only a
        // few. A bounded channel would keep orders after the worker has ended, as long
        // as a sender is left, and their callers would wait without end.
        let (sender, inbox) = crossbeam_channel::unbounded();
        let orders = Self {
            sender,
            interrupt: Arc::default(),
        };
        (orders, inbox)
    }

    /// The flag that tells a worker in the middle of a long run to cut it short.
    pub(super) fn interrupt(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupt)
    }

    /// Gives an order; false says that the worker has ended.
    #[must_use]
    pub fn give(&self, order: Order) -> bool {
        self.interrupt.store(true, Ordering::Relaxed);
        self.sender.send(order).is_ok()
    }
}
