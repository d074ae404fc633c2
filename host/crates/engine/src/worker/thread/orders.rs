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

use super::{WorkerLoop, commit::CommitOutcome, warmup::Warmup};
use crate::worker::{
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
    pub(super) interrupt: Arc<AtomicBool>,
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

    /// Gives an order; false says that the worker has ended.
    #[must_use]
    pub fn give(&self, order: Order) -> bool {
        self.interrupt.store(true, Ordering::Relaxed);
        self.sender.send(order).is_ok()
    }
}

impl WorkerLoop {
    /// Carries out the orders that wait, each between two commits.
    pub(super) fn take_orders(&mut self) {
        self.interrupt.store(false, Ordering::Relaxed);
        while let Ok(order) = self.inbox.try_recv() {
            match order {
                Order::Stop(told) => {
                    self.stopping = Some(told + self.pipeline.settings.drain_deadline);
                    return;
                }
                Order::Activate { slot, active, done } => {
                    self.commit();
                    let is_first = self.processing.is_in_force(&slot, None);
                    self.processing.activate(&slot, active);
                    if !is_first {
                        self.warm_up();
                    }
                    self.wait_for_plugin();
                    self.go_on_waiting();
                    // The send fails if the caller no longer waits, and then no answer
                    // is needed.
                    drop(done.send(self.processing.positions().collect()));
                }
                Order::Rollback {
                    slot,
                    directive,
                    active,
                    done,
                } => {
                    self.commit();
                    // An order that is given again finds the plugin in force already.
                    if !self.processing.is_in_force(&slot, active.as_ref()) {
                        self.processing.activate(&slot, active);
                        self.warm_up();
                    }
                    self.roll_back(&slot, directive, &done);
                }
                Order::Withdraw { slot, id, done } => {
                    self.commit();
                    self.processing.withdraw(&slot, id);
                    self.go_where_moved();
                    done.send(()).ok();
                }
                Order::Confirm {
                    slot,
                    digest,
                    at,
                    done,
                } => {
                    self.commit();
                    self.confirm(&slot, digest, at, &done);
                    self.wait_for_plugin();
                    self.go_on_waiting();
                }
            }
        }
    }

    fn warm_up(&mut self) {
        self.gap.taken_over();
        self.warmup = Some(Warmup::begin());
    }

    fn roll_back(
        &mut self,
        slot: &SlotName,
        directive: Directive,
        done: &Sender<BTreeMap<PartitionId, Redone>>,
    ) {
        tracing::info!(pipeline = %self.pipeline.name, worker = self.worker, %slot, bad = %directive.bad.short(), "rollback begins");
        self.processing.direct(directive);
        self.begin_rollbacks();
        self.commit();
        self.wait_for_plugin();
        self.go_on_waiting();
        // The rollback may wait for the log, or may not be on disk yet. Then the order
        // gets no answer, and its caller gives it again.
        if !self.processing.is_to_begin() {
            let redone = self.processing.redoing();
            drop(done.send(redone.map(|(id, redone, _)| (id, redone)).collect()));
        }
    }

    /// Confirms a slot's swaps. The order gets no answer until the log has the
    /// confirmation, and its caller gives it again.
    fn confirm(&mut self, slot: &SlotName, digest: Option<Digest>, at: u64, done: &Sender<()>) {
        for released in self.processing.confirm(slot, digest, at) {
            if self.stopped.remove(&released) && self.processing.has_default() {
                self.waiting.insert(released);
            }
        }
        match self.commit_idle(None) {
            CommitOutcome::Committed => {
                done.send(()).ok();
            }
            CommitOutcome::Overdue => self.rewind(),
            CommitOutcome::Rewound | CommitOutcome::Refused => {}
        }
    }

    /// Whether a worker that was told to stop is out of time. An order to stop
    /// that comes while a commit is tried again and again is seen here.
    pub(super) fn must_stop(&mut self) -> bool {
        // An order needs a commit first, so one that arrives here is dropped. Its
        // caller sees that no answer will come, and gives it again.
        if self.stopping.is_none()
            && let Ok(Order::Stop(told)) = self.inbox.try_recv()
        {
            self.stopping = Some(told + self.pipeline.settings.drain_deadline);
        }
        self.stopping
            .is_some_and(|deadline| Instant::now() >= deadline)
    }
}
