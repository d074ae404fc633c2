//! Orders to all workers of the pipeline. Each method returns once every worker has
//! carried the order out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use courtside_types::slot_name::SlotName;
use crossbeam_channel::Sender;

use crate::{
    slots::{request::RequestError, topic::Confirmation},
    worker::{
        instances::Active,
        takeover::Directive,
        thread::{Order, Orders, Takeover},
    },
};

/// How soon an order that was not carried out is given again.
const GIVE_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The worker has ended, or the host is stopping.
#[derive(Debug)]
pub(super) struct WorkersStopped;

impl From<WorkersStopped> for RequestError {
    fn from(_: WorkersStopped) -> Self {
        Self::Stopping
    }
}

#[derive(Clone, Copy)]
pub(super) struct Workers<'a> {
    orders: &'a [Orders],
    /// Set when the manager is to end.
    stopping: &'a AtomicBool,
}

impl<'a> Workers<'a> {
    pub const fn new(orders: &'a [Orders], stopping: &'a AtomicBool) -> Self {
        Self { orders, stopping }
    }

    /// Puts a plugin (or none) in force, and returns where it begins in each partition.
    pub fn activate(
        self,
        slot: &SlotName,
        active: Option<&Arc<Active>>,
    ) -> Result<Takeover, WorkersStopped> {
        let mut takeover = Takeover::new();
        for worker in self.orders {
            takeover.extend(self.give(worker, |done| Order::Activate {
                slot: slot.clone(),
                active: active.cloned(),
                done,
            })?);
        }
        Ok(takeover)
    }

    /// Gives a directive, and returns where each partition begins again.
    pub fn roll_back(
        self,
        directive: &Directive,
        active: Option<&Arc<Active>>,
    ) -> Result<Takeover, WorkersStopped> {
        let mut takeover = Takeover::new();
        for worker in self.orders {
            let redone = self.give(worker, |done| Order::Rollback {
                slot: directive.slot.clone(),
                directive: directive.clone(),
                active: active.cloned(),
                done,
            })?;
            let begins = redone
                .into_iter()
                .map(|(partition, redone)| (partition, redone.from));
            takeover.extend(begins);
        }
        Ok(takeover)
    }

    /// Withdraws a directive.
    pub fn withdraw(self, slot: &SlotName, id: u64) -> Result<(), WorkersStopped> {
        for worker in self.orders {
            self.give(worker, |done| Order::Withdraw {
                slot: slot.clone(),
                id,
                done,
            })?;
        }
        Ok(())
    }

    pub fn confirm(self, confirmation: &Confirmation) -> Result<(), WorkersStopped> {
        for worker in self.orders {
            self.give(worker, |done| Order::Confirm {
                slot: confirmation.slot.clone(),
                digest: confirmation.digest,
                at: confirmation.at_ms,
                done,
            })?;
        }
        Ok(())
    }

    /// Gives a worker an order, and waits until it is carried out.
    fn give<T>(
        self,
        worker: &Orders,
        order: impl Fn(Sender<T>) -> Order,
    ) -> Result<T, WorkersStopped> {
        loop {
            let (done, answer) = crossbeam_channel::bounded(1);
            if !worker.give(order(done)) {
                return Err(WorkersStopped);
            }
            // A worker that cannot commit drops the order unanswered, and may do so
            // until it is told to stop. A host that stops waits for this thread first,
            // so the thread must not wait on.
            match answer.recv() {
                Ok(done) => return Ok(done),
                Err(_) if self.stopping.load(Ordering::Relaxed) => return Err(WorkersStopped),
                Err(_) => std::thread::sleep(GIVE_AGAIN_AFTER),
            }
        }
    }
}
