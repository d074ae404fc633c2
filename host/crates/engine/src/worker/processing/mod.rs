//! A worker's processing of records, without the log: it takes polled records, runs
//! them through plugin instances, and says what to commit.
//!
//! Nothing here writes. When a plugin fails, what was not committed runs again from
//! memory. Memory therefore holds the events and emissions since the last commit,
//! beside the open entities; a [`Budget`] bounds those, and the time that running them
//! takes.
//!
//! When an instance fails, its entities open again from their committed checkpoints and
//! their events run again. The result does not change, because plugins are
//! deterministic; the SDK's harness checks that they are.
//!
//! When an instance fails in a call, the entity of that call becomes a suspect. A
//! suspect runs alone, one event a call, and only an event that fails there again
//! becomes a dead letter. A failure in `open` or `checkpoint` that repeats when the
//! entity runs alone halts that entity and no other. A call that goes over a limit also
//! delays every other entity of the worker, for which there is the
//! [breaker](super::breaker).

mod call;
mod checkpoints;
mod commit;
mod rollback;
mod route;
mod run;
mod takeover;
mod task;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use checkpoints::{CheckpointReader, NotRead};
use courtside_log::{Checkpoints, Commit, Fetched, LogError};
pub use courtside_process::clock::now_ms;
use courtside_types::{Key, Offset, PartitionId, slot_name::SlotName};
pub use rollback::OUT_OF_RANGE;
use rollback::{Confirmed, Directives};
use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;
use takeover::first_row;
use task::PartitionTask;

pub use self::route::usable_key;
use super::{
    breaker::Breakers,
    entity::Entity,
    envelope::Halt,
    gauges::PipelineGauges,
    instances::{Active, Actives, Instances},
    position::{PositionRow, Start},
    takeover::{
        partition::Slots,
        rows::{self, Row as _},
    },
};
use crate::pipeline::Pipeline;

/// Why a partition does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    pub code: &'static str,
    pub reason: String,
    /// The worker tries the partition again at the next activation, rollback or
    /// confirmation in any slot.
    pub waits: bool,
}

/// Bounds of a run, during which the worker answers neither orders nor the log.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Bytes of events, emissions and checkpoints that a run may hold.
    pub bytes_max: usize,
    pub time_max: Duration,
    /// Set when a caller waits for the worker, which then cuts the run short.
    pub interrupt: Arc<AtomicBool>,
}

/// Why records were not run to their end. The caller must abort everything that is
/// pending.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    #[error(transparent)]
    Log(#[from] LogError),
    /// The run went over the bytes of its budget. The records are to be read again in
    /// smaller polls.
    #[error("the polled records lead to more bytes than one commit may have")]
    TooMuch,
    /// The run took longer than other partitions and orders are to wait for it.
    #[error("the polled records take too long to process")]
    TooLong,
    /// A caller waits for the worker.
    #[error("another part of the host waits for the worker")]
    Hurried,
}

/// A commit, and the partitions that cannot go on.
pub type CommitPlan = Result<(Option<Commit>, Vec<(PartitionId, Stop)>), Interrupted>;

/// Counts since the worker started, for metrics. Calls, failures and opens count as
/// they happen, everything else once it is committed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub events: u64,
    pub emissions: u64,
    pub dead_letters: u64,
    pub duplicates: u64,
    pub calls: u64,
    pub failures: u64,
    /// Entities that a plugin opened.
    pub opens: u64,
}

/// All that one worker processes.
#[derive(Debug)]
pub struct Processing {
    pipeline: Arc<Pipeline>,
    checkpoints: CheckpointReader,
    actives: Actives,
    tasks: BTreeMap<PartitionId, PartitionTask>,
    entities: Slab<Entity>,
    index: FxHashMap<(PartitionId, Key), usize>,
    /// Entities in the order of their last use.
    order: BTreeMap<u64, usize>,
    clock: u64,
    instances: Instances,
    breakers: Breakers,
    /// Entities with events since the last commit, in the order they came.
    dirty: Vec<usize>,
    pending_bytes: usize,
    pending_since: Option<Instant>,
    stops: Vec<(PartitionId, Stop)>,
    /// Some pending emission has a key that is not its entity's, under which other
    /// entities may publish, too.
    shared: bool,
    /// Some pending records are dead letters.
    has_letters: bool,
    budget: Option<Budget>,
    started: Instant,
    directives: Directives,
    /// The confirmation of each slot.
    confirmed: HashMap<SlotName, Confirmed>,
    /// Whether confirmations may be missing in some partition.
    confirm_again: bool,
    /// The partition that was swept last.
    swept: PartitionId,
    /// Partitions that are to be read from another offset now.
    moved: BTreeSet<PartitionId>,
    pub counts: Counts,
}

/// The reason why an entity cannot run on.
enum Hurdle {
    /// The entity's instance is gone; the entity has become a suspect and is to be run
    /// again.
    Failed,
    /// The entity takes no events from here on.
    Halted(Halt),
    /// The entity's partition cannot go on.
    Stopped(Stop),
}

/// The reason why an entity could not be opened.
enum NotOpened {
    Hurdle(Hurdle),
    /// The log could not be read, and the run is interrupted.
    Log(LogError),
}

impl From<Hurdle> for NotOpened {
    fn from(hurdle: Hurdle) -> Self {
        Self::Hurdle(hurdle)
    }
}

impl From<NotRead> for NotOpened {
    fn from(error: NotRead) -> Self {
        match error {
            NotRead::Unusable(stop) => Self::Hurdle(Hurdle::Stopped(stop)),
            NotRead::Log(error) => Self::Log(error),
        }
    }
}

impl From<LogError> for NotOpened {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl Processing {
    #[must_use]
    pub fn new(pipeline: Arc<Pipeline>, checkpoints: Arc<dyn Checkpoints>) -> Self {
        let instances = Instances::new(Arc::clone(&pipeline));
        Self {
            pipeline,
            checkpoints: CheckpointReader(checkpoints),
            actives: <Actives as Default>::default(),
            tasks: BTreeMap::new(),
            entities: Slab::new(),
            index: FxHashMap::default(),
            order: BTreeMap::new(),
            clock: 0,
            instances,
            breakers: <Breakers as Default>::default(),
            dirty: Vec::new(),
            pending_bytes: 0,
            pending_since: None,
            stops: Vec::new(),
            shared: false,
            has_letters: false,
            budget: None,
            started: Instant::now(),
            directives: HashMap::new(),
            confirmed: HashMap::new(),
            confirm_again: false,
            swept: PartitionId(0),
            moved: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    /// The row of a partition's position, where there is one.
    pub fn position_row(&self, partition: PartitionId) -> Result<Option<PositionRow>, LogError> {
        let bytes = self.checkpoints.0.get(partition, &rows::POSITION_KEY)?;
        let row = bytes.map(|bytes| PositionRow::decode(&bytes)).transpose();
        row.map_err(|error| LogError::Corrupt {
            reason: error.to_string(),
        })
    }

    /// Starts on a partition. If a rollback needs it read from another offset than
    /// `start`, [`moved`](Self::moved) names that.
    pub fn assign(&mut self, partition: PartitionId, start: Start) -> Result<(), LogError> {
        let mut task = PartitionTask {
            committed: start.next,
            taken: 0,
            events: 0,
            counted: start.events,
            fresh: 0,
            is_unwritten: start.is_unwritten(),
            next: start.next,
            loose: Vec::new(),
            stopped: false,
            slots: Slots::read(&*self.checkpoints.0, partition)?,
            swapped: FxHashSet::default(),
            undo: Vec::new(),
            refused: Vec::new(),
            sweep: Some(first_row()),
            staged_sweep: None,
            sweep_again: false,
        };
        task.next = task.position();
        if task.redo().is_some() {
            self.moved.insert(partition);
        }
        self.tasks.insert(partition, task);
        self.follow_orders(partition);
        Ok(())
    }

    /// Resumes a partition that stopped, and returns the offset to read from.
    pub fn resume(&mut self, partition: PartitionId) -> Option<Offset> {
        let task = self.tasks.get_mut(&partition)?;
        task.stopped = false;
        Some(task.next)
    }

    /// Forgets partitions, and what was not committed of them.
    pub fn unassign(&mut self, partitions: &[PartitionId]) {
        for partition in partitions {
            self.tasks.remove(partition);
            self.moved.remove(partition);
            self.forget_entities(*partition);
        }
        self.forget_pending_if_none();
    }

    /// The partitions at work, and the offset at which each goes on after its last
    /// commit. The offset is the committed one, or a lower one while events are
    /// processed again.
    pub fn positions(&self) -> impl Iterator<Item = (PartitionId, Offset)> + '_ {
        self.tasks.iter().map(|(id, task)| (*id, task.position()))
    }

    /// The committed offset of a partition at work.
    #[must_use]
    pub fn committed(&self, partition: PartitionId) -> Option<Offset> {
        self.tasks.get(&partition).map(|task| task.committed)
    }

    /// Sets the figures in which the calls of plugins are counted.
    pub fn count_in(&mut self, gauges: Arc<PipelineGauges>, worker: u32) {
        self.instances.count_in(gauges, worker);
    }

    /// How many events of a partition were processed and committed since it was
    /// assigned.
    #[must_use]
    pub fn events_of(&self, partition: PartitionId) -> u64 {
        self.tasks.get(&partition).map_or(0, |task| task.events)
    }

    #[must_use]
    pub const fn has_default(&self) -> bool {
        self.actives.has_default()
    }

    #[must_use]
    pub fn entities_open(&self) -> usize {
        self.entities.len()
    }

    /// Entities that the next commit touches.
    #[must_use]
    pub fn entities_pending(&self) -> usize {
        self.dirty.len()
    }

    #[must_use]
    pub fn instances(&self) -> usize {
        self.instances.len()
    }

    /// Bytes of events and emissions that wait for the commit.
    #[must_use]
    pub const fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Since when something waits for the commit.
    #[must_use]
    pub const fn pending_since(&self) -> Option<Instant> {
        self.pending_since
    }

    /// Whether that very activation is in force already.
    #[must_use]
    pub fn is_in_force(&self, slot: &SlotName, active: Option<&Arc<Active>>) -> bool {
        match (self.actives.at(slot), active) {
            (None, None) => true,
            (Some(now), Some(active)) => Arc::ptr_eq(now, active),
            _ => false,
        }
    }

    /// Puts another plugin (or none) in force in a slot. To be called right
    /// after a commit, when nothing is pending: the slot's entities open in the
    /// new plugin, from their committed checkpoints, at their next event.
    pub fn activate(&mut self, slot: &SlotName, active: Option<Arc<Active>>) {
        self.instances.retire_slot(slot);
        self.breakers.forget(slot);
        for task in self.tasks.values_mut() {
            // A partition without a row of the slot never had a plugin in it, so
            // nothing is swapped there.
            if task.slots.get(slot).is_some() {
                task.swapped.insert(slot.clone());
            }
        }
        match slot {
            SlotName::Default => {}
            SlotName::Key(key) => {
                let partitions: Vec<_> = self.tasks.keys().copied().collect();
                for partition in partitions {
                    if let Some(id) = self.index.get(&(partition, key.clone())) {
                        self.forget(*id);
                    }
                }
            }
            SlotName::Hashed(_) => {
                let covered: Vec<_> = self
                    .entities
                    .iter()
                    .filter(|(_, entity)| slot.covers(&entity.key))
                    .map(|(id, _)| id)
                    .collect();
                for id in covered {
                    self.forget(id);
                }
            }
        }
        self.actives.set(slot, active);
    }

    /// Bounds the runs from now on. `None` sets no bound, for a poll that could not be
    /// smaller.
    pub fn set_budget(&mut self, budget: Option<Budget>) {
        self.budget = budget;
    }

    /// Takes records that were polled, and runs them. Returns the partitions
    /// that cannot go on; what was not committed of those is forgotten.
    pub fn process(
        &mut self,
        fetched: Vec<Fetched>,
    ) -> Result<Vec<(PartitionId, Stop)>, Interrupted> {
        let now = Instant::now();
        self.started = now;
        for Fetched { partition, records } in fetched {
            if !self.tasks.contains_key(&partition) {
                continue;
            }
            for record in records {
                self.route(partition, record, now)?;
            }
        }
        self.run_all()?;
        Ok(std::mem::take(&mut self.stops))
    }

    /// Goes back to the committed state of everything: what was pending is
    /// forgotten, and is to be read again.
    pub fn abort(&mut self) {
        let partitions: Vec<_> = self.tasks.keys().copied().collect();
        for partition in partitions {
            self.roll_back(partition);
        }
        self.confirm_again = true;
    }

    fn stop(&mut self, partition: PartitionId, stop: Stop) {
        self.roll_back(partition);
        if let Some(task) = self.tasks.get_mut(&partition) {
            task.stopped = true;
        }
        self.stops.push((partition, stop));
    }

    /// Forgets what was not committed of a partition.
    fn roll_back(&mut self, partition: PartitionId) {
        self.forget_entities(partition);
        if let Some(task) = self.tasks.get_mut(&partition) {
            task.next = task.position();
            task.taken = 0;
            task.fresh = 0;
            task.loose.clear();
            task.slots.abort();
            task.staged_sweep = None;
        }
        self.forget_pending_if_none();
    }

    fn forget_entities(&mut self, partition: PartitionId) {
        let of_partition: Vec<_> = self
            .entities
            .iter()
            .filter(|(_, entity)| entity.partition == partition)
            .map(|(id, _)| id)
            .collect();
        for id in of_partition {
            self.forget(id);
        }
        self.dirty.retain(|id| self.entities.contains(*id));
    }

    fn forget_pending_if_none(&mut self) {
        if self.dirty.is_empty() && self.tasks.values().all(|task| task.next == task.position()) {
            self.pending_bytes = 0;
            self.pending_since = None;
            self.shared = false;
            self.has_letters = false;
        }
    }

    /// Takes an entity out of memory, closing it where it is open.
    fn forget(&mut self, id: usize) {
        let Some(entity) = self.entities.try_remove(id) else {
            return;
        };
        self.order.remove(&entity.used);
        self.index.remove(&(entity.partition, entity.key));
        if let Some(home) = entity.home {
            self.instances.close(home, id);
        }
    }

    /// Closes entities that were idle for `entity_idle`, and those used longest ago
    /// while more than `entities_open_max` are open. To be called when nothing is
    /// pending.
    pub fn close_idle(&mut self, now: Instant) {
        if !self.dirty.is_empty() {
            return;
        }
        let settings = &self.pipeline.settings;
        let (idle, count_max) = (settings.entity_idle, settings.entities_open_max);
        while let Some((_, id)) = self.order.first_key_value() {
            let id = *id;
            let stays = self.entities.len() <= count_max
                && self
                    .entities
                    .get(id)
                    .is_some_and(|entity| now.saturating_duration_since(entity.used_at) < idle);
            if stays {
                break;
            }
            self.forget(id);
        }
    }
}
