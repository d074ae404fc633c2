//! What a worker does with records, without the log: it takes what was polled,
//! runs it through plugin instances, and says what to commit.
//!
//! Nothing here writes: a failure of a plugin is answered from memory, by
//! running again what was not committed. It costs, beside the open entities,
//! the events and emissions since the last commit; a [`Budget`] bounds those,
//! and the time that running them takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;
use slab::Slab;

use super::{
    entity::{Entity, Mark, Pending, Prepared, Produced, Verdict},
    envelope::{Envelope, Halt, Recent},
    instances::{Active, Actives, Home, InstanceId, Instances},
    output,
};
use crate::{
    ingest::{
        IDEMPOTENCY_HEADER as IDEMPOTENCY_KEY, IDEMPOTENCY_INDEX_HEADER as IDEMPOTENCY_INDEX,
    },
    log::{Assignment, Checkpoints, Commit, Fetched, KEY_BYTES_MAX, LogError},
    pipeline::Pipeline,
    plugin::{self, Event, Failure, OpenError, Outcome, SavedState},
    slots::name::SlotName,
    types::{Digest, Key, Offset, PartitionId, Record},
};

/// Events a suspect processes alone, without a failure, before it may live with
/// others again.
const SUSPICION_EVENTS: u32 = 64;

/// The digest in the checkpoint of an entity that no plugin ever processed.
const NO_PLUGIN: Digest = Digest([0; 32]);

/// Why a partition does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    pub code: &'static str,
    pub reason: String,
    /// It goes on by itself when its plugin comes.
    pub waits: bool,
}

/// How much may be run between two looks at the world outside.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Events, emissions and checkpoints held.
    pub bytes_max: usize,
    pub time_max: Duration,
    /// Set when somebody waits for the worker: then the time is cut short.
    pub hurry: Arc<AtomicBool>,
}

/// What a worker that is waited for still takes.
const HURRIED_TIME_MAX: Duration = Duration::from_millis(250);

/// Why records were not run to their end. All that is pending is to be aborted.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    #[error(transparent)]
    Log(#[from] LogError),
    /// It went over the budget: to be read again, in smaller pieces.
    #[error("the records polled lead to more than fits between two commits")]
    TooMuch,
    /// Somebody waits for the worker.
    #[error("the worker is waited for")]
    Hurried,
}

/// Counts since the worker started, for metrics: of what was committed, but
/// for calls and failures, which count as they happen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub events: u64,
    pub emissions: u64,
    pub dead_letters: u64,
    pub duplicates: u64,
    pub calls: u64,
    pub failures: u64,
}

#[derive(Debug)]
struct Task {
    committed: Offset,
    /// Of the next record to take.
    next: Offset,
    /// Dead letters that belong to no entity.
    loose: Vec<Produced>,
    /// It takes no records until it is resumed.
    stopped: bool,
}

/// All that one worker processes.
#[derive(Debug)]
pub struct Processing {
    pipeline: Arc<Pipeline>,
    checkpoints: CheckpointReader,
    actives: Actives,
    tasks: BTreeMap<PartitionId, Task>,
    entities: Slab<Entity>,
    index: FxHashMap<(PartitionId, Key), usize>,
    /// Entities in the order of their last use.
    order: BTreeMap<u64, usize>,
    clock: u64,
    instances: Instances,
    /// Entities with events since the last commit, in the order they came.
    dirty: Vec<usize>,
    pending_bytes: usize,
    pending_since: Option<Instant>,
    stops: Vec<(PartitionId, Stop)>,
    /// Some of what is pending goes where other entities publish, too: under a
    /// key that is not the entity's, or to the dead letters.
    shared: bool,
    budget: Option<Budget>,
    started: Instant,
    pub counts: Counts,
}

struct CheckpointReader(Arc<dyn Checkpoints>);

impl CheckpointReader {
    fn envelope(&self, partition: PartitionId, key: &[u8]) -> Result<Option<Envelope>, LogError> {
        let bytes = self.0.get(partition, key)?;
        bytes
            .map(|bytes| {
                Envelope::decode(&bytes).map_err(|error| LogError::Corrupt {
                    reason: error.to_string(),
                })
            })
            .transpose()
    }
}

impl std::fmt::Debug for CheckpointReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checkpoints")
    }
}

/// What stands in the way of an entity.
enum Hurdle {
    /// Its instance is gone; it has been made a suspect and is to be run again.
    Failed,
    /// The entity takes no events from here on.
    Halted(Halt),
    /// Its partition cannot go on.
    Stopped(Stop),
}

impl Processing {
    #[must_use]
    pub fn new(pipeline: Arc<Pipeline>, checkpoints: Arc<dyn Checkpoints>) -> Self {
        let instances = Instances::new(pipeline.processing.entities_per_instance);
        Self {
            pipeline,
            checkpoints: CheckpointReader(checkpoints),
            actives: Actives::default(),
            tasks: BTreeMap::new(),
            entities: Slab::new(),
            index: FxHashMap::default(),
            order: BTreeMap::new(),
            clock: 0,
            instances,
            dirty: Vec::new(),
            pending_bytes: 0,
            pending_since: None,
            stops: Vec::new(),
            shared: false,
            budget: None,
            started: Instant::now(),
            counts: Counts::default(),
        }
    }

    /// Starts on partitions.
    pub fn assign(&mut self, assignments: &[Assignment]) {
        for assignment in assignments {
            self.tasks.insert(
                assignment.partition,
                Task {
                    committed: assignment.next,
                    next: assignment.next,
                    loose: Vec::new(),
                    stopped: false,
                },
            );
        }
    }

    /// Goes on with partitions that stopped; says from where.
    pub fn resume(&mut self, partition: PartitionId) -> Option<Offset> {
        let task = self.tasks.get_mut(&partition)?;
        task.stopped = false;
        Some(task.next)
    }

    /// Forgets partitions, and what was not committed of them.
    pub fn unassign(&mut self, partitions: &[PartitionId]) {
        for partition in partitions {
            self.tasks.remove(partition);
            self.forget_entities(*partition);
        }
        self.forget_pending_if_none();
    }

    /// The partitions at work, and the offset each is committed to.
    pub fn committed(&self) -> impl Iterator<Item = (PartitionId, Offset)> + '_ {
        self.tasks.iter().map(|(id, task)| (*id, task.committed))
    }

    #[must_use]
    pub const fn has_default(&self) -> bool {
        self.actives.has_default()
    }

    #[must_use]
    pub fn entities_open(&self) -> usize {
        self.entities.len()
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

    /// Puts another plugin (or none) in force in a slot. To be called right
    /// after a commit, when nothing is pending: the slot's entities open in the
    /// new plugin, from their committed checkpoints, at their next event.
    pub fn activate(&mut self, slot: &SlotName, active: Option<Arc<Active>>) {
        self.instances.retire_slot(slot);
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

    /// What running records may take from now on; none sets no bound, which is
    /// for a poll so small that it could not be smaller.
    pub fn set_budget(&mut self, budget: Option<Budget>) {
        self.budget = budget;
    }

    /// Takes records that were polled, and runs them. Returns the partitions
    /// that cannot go on; what was not committed of those is forgotten.
    pub fn accept(
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
                self.take(partition, record, now)?;
            }
        }
        self.run_all()?;
        Ok(std::mem::take(&mut self.stops))
    }

    /// What the next commit is to hold; none where nothing is pending. The
    /// stops are as [`Self::accept`] returns them.
    #[allow(clippy::type_complexity)]
    pub fn prepare(&mut self) -> Result<(Option<Commit>, Vec<(PartitionId, Stop)>), Interrupted> {
        self.started = Instant::now();
        // A checkpoint that fails sends its neighbours back to work, so this
        // goes round until all are prepared. Each round that is not the last
        // makes a suspect or halts one, so there are as many as entities.
        loop {
            self.run_all()?;
            if self.prepare_round()? {
                break;
            }
        }
        let stops = std::mem::take(&mut self.stops);
        if self.pending_since.is_none() {
            return Ok((None, stops));
        }
        let mut commit = Commit::default();
        let mut produced = Vec::new();
        for (partition, task) in &mut self.tasks {
            produced.append(&mut task.loose);
            if task.next > task.committed {
                commit.offsets.push((*partition, task.next));
            }
        }
        for id in &self.dirty {
            let Some(entity) = self.entities.get_mut(*id) else {
                continue;
            };
            produced.append(&mut entity.produced);
            let checkpoint = match std::mem::replace(&mut entity.prepared, Prepared::Nothing) {
                Prepared::Nothing => continue,
                Prepared::Store(bytes) => Some(bytes),
                Prepared::Delete => None,
            };
            commit
                .checkpoints
                .push((entity.partition, entity.key.clone(), checkpoint));
        }
        // Each entity's records are in order. Where entities share a key or a
        // topic, so must be what they publish there, however events were
        // batched. It is not done for all: the records of one entity resemble
        // each other, and compress better side by side.
        if self.shared {
            produced.sort_by_key(|produced| produced.source);
        }
        commit.records = produced
            .into_iter()
            .map(|produced| (produced.place, produced.record))
            .collect();
        Ok((Some(commit), stops))
    }

    /// What [`Self::prepare`] gave was committed.
    pub fn settle(&mut self, commit: &Commit) {
        for (partition, next) in &commit.offsets {
            if let Some(task) = self.tasks.get_mut(partition) {
                task.committed = *next;
            }
        }
        for (place, _) in &commit.records {
            if place.topic == self.pipeline.dead_letter {
                self.counts.dead_letters += 1;
            } else {
                self.counts.emissions += 1;
            }
        }
        let gone: BTreeSet<(PartitionId, &Key)> = commit
            .checkpoints
            .iter()
            .filter(|(_, _, bytes)| bytes.is_none())
            .map(|(partition, key, _)| (*partition, key))
            .collect();
        for id in std::mem::take(&mut self.dirty) {
            let Some(entity) = self.entities.get_mut(id) else {
                continue;
            };
            self.counts.events += entity.queue.len() as u64;
            self.counts.duplicates += entity
                .queue
                .iter()
                .filter(|pending| pending.verdict == Verdict::Duplicate)
                .count() as u64;
            entity.settle();
            if gone.contains(&(entity.partition, &entity.key)) {
                self.forget(id);
            }
        }
        self.pending_bytes = 0;
        self.pending_since = None;
        self.shared = false;
        self.close_idle(Instant::now());
    }

    /// Goes back to the committed state of everything: what was pending is
    /// forgotten, and is to be read again.
    pub fn abort(&mut self) {
        let partitions: Vec<_> = self.tasks.keys().copied().collect();
        for partition in partitions {
            self.roll_back(partition);
        }
    }

    fn take(
        &mut self,
        partition: PartitionId,
        record: Record,
        now: Instant,
    ) -> Result<(), LogError> {
        let Some(task) = self.tasks.get_mut(&partition) else {
            return Ok(());
        };
        if task.stopped || record.offset < task.next {
            return Ok(());
        }
        task.next = record.offset.next();
        self.pending_bytes += record.size();
        self.pending_since.get_or_insert(now);
        let key = match usable_key(&record) {
            Ok(key) => key.clone(),
            Err((code, reason)) => {
                let (place, letter) =
                    output::dead_letter(&self.pipeline, None, partition, &record, code, reason);
                self.shared = true;
                task.loose.push(Produced {
                    source: (partition, record.offset),
                    place,
                    record: letter,
                });
                return Ok(());
            }
        };
        let id = match self.index.get(&(partition, key.clone())) {
            Some(id) => *id,
            None => match self.load(partition, key, now)? {
                Some(id) => id,
                // The partition stopped: the record will be read again.
                None => return Ok(()),
            },
        };
        let Some(entity) = self.entities.get_mut(id) else {
            return Ok(());
        };
        if entity.queue.is_empty() {
            self.dirty.push(id);
            self.order.remove(&entity.used);
            self.clock += 1;
            entity.used = self.clock;
            entity.used_at = now;
            self.order.insert(entity.used, id);
        }
        let verdict = if record.value.is_none() {
            Verdict::Dead {
                code: "event-without-value",
                reason: "the record has no value".into(),
            }
        } else if let Some(key) = record.header(IDEMPOTENCY_KEY)
            && !entity.remember(key, record.header(IDEMPOTENCY_INDEX))
        {
            Verdict::Duplicate
        } else if let Some(halt) = &entity.halted {
            Verdict::Dead {
                code: "entity-halted",
                reason: format!("halted by {}: {}", halt.code, halt.reason),
            }
        } else {
            Verdict::Process
        };
        entity.queue.push(Pending { record, verdict });
        Ok(())
    }

    /// Brings an entity into memory with what its checkpoint says of it; the
    /// plugin opens it later. None where its partition has to stop.
    fn load(
        &mut self,
        partition: PartitionId,
        key: Key,
        now: Instant,
    ) -> Result<Option<usize>, LogError> {
        let mut recent = Recent::default();
        let mut halted = None;
        let mut saved = None;
        match self.checkpoints.envelope(partition, &key) {
            Err(LogError::Corrupt { reason }) => {
                self.stop(partition, corrupt(&key, &reason));
                return Ok(None);
            }
            Err(error) => return Err(error),
            Ok(None) => {}
            Ok(Some(envelope)) => {
                let committed = self.tasks.get(&partition).map(|task| task.committed);
                if let Some(committed) = committed
                    && envelope.offset >= committed
                {
                    let reason = format!(
                        "the checkpoint of {} stands at offset {}, the partition is committed to {committed}",
                        String::from_utf8_lossy(&key),
                        envelope.offset,
                    );
                    let stop = Stop {
                        code: "checkpoint-ahead",
                        reason,
                        waits: false,
                    };
                    self.stop(partition, stop);
                    return Ok(None);
                }
                recent = envelope.recent;
                halted = envelope.halted;
                saved = envelope.saved;
            }
        }
        // A copy: a slice would keep the batch in memory that it came in.
        let key = Key::copy_from_slice(&key);
        self.clock += 1;
        let id = self.entities.insert(Entity {
            partition,
            key: key.clone(),
            home: None,
            loaded: Some(saved),
            suspicion: 0,
            recent,
            halted,
            queue: Vec::new(),
            done: 0,
            produced: Vec::new(),
            mark: None,
            touched: false,
            prepared: Prepared::Nothing,
            used: self.clock,
            used_at: now,
        });
        self.order.insert(self.clock, id);
        self.index.insert((partition, key), id);
        Ok(Some(id))
    }

    /// Runs every entity to the end of its queue.
    fn run_all(&mut self) -> Result<(), Interrupted> {
        // It ends: each failure makes an entity a suspect, an event a dead
        // letter, or halts an entity, and there are finitely many of each.
        let mut again = true;
        while again {
            again = false;
            let mut position = 0;
            while let Some(id) = self.dirty.get(position).copied() {
                position += 1;
                while let Some(hurdle) = self.advance(id)? {
                    // Its neighbours may have work to do again.
                    again = true;
                    self.overcome(id, hurdle);
                }
            }
        }
        Ok(())
    }

    /// Runs an entity to the end of its queue, or into a hurdle.
    fn advance(&mut self, id: usize) -> Result<Option<Hurdle>, Interrupted> {
        loop {
            self.keep_within_budget()?;
            let Some(entity) = self.entities.get_mut(id) else {
                return Ok(None);
            };
            let Some(pending) = entity.queue.get(entity.done) else {
                // Who ran alone has its state in its mark, and needs the
                // instance no more: so a worker has one such at a time.
                if let Some(home) = entity.home
                    && self.instances.is_alone(home.instance)
                {
                    entity.home = None;
                    self.instances.close(home, id);
                }
                return Ok(None);
            };
            match &pending.verdict {
                Verdict::Duplicate => entity.done += 1,
                Verdict::Dead { code, reason } => {
                    let active = self.actives.of(&entity.key);
                    let (place, record) = output::dead_letter(
                        &self.pipeline,
                        active,
                        entity.partition,
                        &pending.record,
                        code,
                        reason,
                    );
                    self.pending_bytes += record.size();
                    self.shared = true;
                    entity.produced.push(Produced {
                        source: (entity.partition, pending.record.offset),
                        place,
                        record,
                    });
                    entity.done += 1;
                }
                Verdict::Process => {
                    let home = match entity.home {
                        Some(home) if self.instances.contains(home.instance) => home,
                        _ => match self.open(id)? {
                            Ok(home) => home,
                            Err(hurdle) => return Ok(Some(hurdle)),
                        },
                    };
                    if let Some(hurdle) = self.call(id, home) {
                        return Ok(Some(hurdle));
                    }
                }
            }
        }
    }

    /// Opens an entity from its mark or its committed checkpoint.
    fn open(&mut self, id: usize) -> Result<Result<Home, Hurdle>, LogError> {
        let Some(entity) = self.entities.get_mut(id) else {
            return Ok(Err(Hurdle::Failed));
        };
        entity.home = None;
        let Some(active) = self.actives.of(&entity.key).cloned() else {
            return Ok(Err(Hurdle::Stopped(Stop {
                code: "plugin-missing",
                reason: "the pipeline has no plugin".into(),
                waits: true,
            })));
        };
        let saved = match (&entity.mark, entity.loaded.take()) {
            (Some(mark), _) => mark.saved.clone(),
            (None, Some(saved)) => saved,
            (None, None) => match self.checkpoints.envelope(entity.partition, &entity.key) {
                Err(LogError::Corrupt { reason }) => {
                    return Ok(Err(Hurdle::Stopped(corrupt(&entity.key, &reason))));
                }
                envelope => envelope?.and_then(|envelope| envelope.saved),
            },
        };
        let description = active.plugin.description();
        if let Some(saved) = &saved
            && !description.reads.contains(&saved.format)
        {
            return Ok(Err(Hurdle::Stopped(Stop {
                code: "plugin-cannot-read",
                reason: format!(
                    "the checkpoint of {} is in format {}, the plugin {} {} reads {}",
                    String::from_utf8_lossy(&entity.key),
                    saved.format,
                    description.name,
                    description.version,
                    description.reads.join(", "),
                ),
                waits: true,
            })));
        }
        let alone = entity.suspicion > 0;
        let key = entity.key.clone();
        // The plugin was instantiated when it was compiled: what fails now is
        // the host's, which is short of something, and no entity's.
        let instance = self
            .instances
            .with_room(&active, alone)
            .map_err(|failure| LogError::Unavailable {
                reason: format!("no plugin instance: {failure}"),
            })?;
        let opened = self.open_in(instance, &key, saved.as_ref());
        Ok(match opened {
            Ok(home) => {
                if let Some(entity) = self.entities.get_mut(id) {
                    entity.home = Some(home);
                }
                self.instances.moved_in(home.instance, id);
                Ok(home)
            }
            Err(OpenError::Failed(failure)) if !alone => {
                self.suspect(id, &failure);
                Err(Hurdle::Failed)
            }
            Err(OpenError::Failed(failure)) => Err(Hurdle::Halted(halt_of(&failure))),
            Err(OpenError::Refused(reason)) => Err(Hurdle::Halted(Halt {
                code: "plugin-open-refused".into(),
                reason,
            })),
        })
    }

    fn open_in(
        &mut self,
        instance: InstanceId,
        key: &[u8],
        saved: Option<&SavedState>,
    ) -> Result<Home, OpenError> {
        let Some(held) = self.instances.get_mut(instance) else {
            return Err(OpenError::Refused("the instance is gone".into()));
        };
        // Keys that are not UTF-8 became dead letters before.
        let opened = held.instance.open(&String::from_utf8_lossy(key), saved);
        let alone = held.alone;
        match opened {
            Ok(entity) => Ok(Home { instance, entity }),
            Err(error) => {
                if alone || matches!(error, OpenError::Failed(_)) {
                    self.retire_and_rewind(instance);
                }
                Err(error)
            }
        }
    }

    /// One call of the plugin, with as many of an entity's next events as fit.
    fn call(&mut self, id: usize, home: Home) -> Option<Hurdle> {
        let entity = self.entities.get_mut(id)?;
        let held = self.instances.get_mut(home.instance)?;
        let settings = &self.pipeline.processing;
        let count_max = if held.alone {
            1
        } else {
            settings.call_events_max
        };
        let mut bytes = 0;
        let events: Vec<Event<'_>> = entity
            .queue
            .get(entity.done..)
            .unwrap_or_default()
            .iter()
            .take(count_max)
            .take_while(|pending| {
                bytes += pending.record.size();
                pending.verdict == Verdict::Process
                    && (bytes <= settings.call_bytes_max || bytes == pending.record.size())
            })
            .map(|pending| Event {
                record: &pending.record,
                seed: plugin::seed(
                    &self.pipeline.input,
                    entity.partition,
                    pending.record.offset,
                ),
            })
            .collect();
        let count = events.len();
        self.counts.calls += 1;
        let outcome = held
            .instance
            .process(home.entity, &events)
            .and_then(|outcome| output::check(&self.pipeline, count, outcome));
        drop(events);
        let Outcome {
            mut emissions,
            refused,
        } = match outcome {
            Ok(outcome) => outcome,
            Err(failure) => {
                let alone = held.alone;
                if alone && let Some(pending) = entity.queue.get_mut(entity.done) {
                    pending.verdict = Verdict::Dead {
                        code: failure.kind.code(),
                        reason: failure.message.clone(),
                    };
                }
                self.suspect(id, &failure);
                self.retire_and_rewind(home.instance);
                return Some(Hurdle::Failed);
            }
        };
        let active = Arc::clone(&held.active);
        let first = entity.done;
        if !emissions.is_sorted_by_key(|emission| emission.event) {
            // Apart, the events would have led to them in this order.
            emissions.sort_by_key(|emission| emission.event);
        }
        for emission in emissions {
            let Some(pending) = entity.queue.get(first + emission.event) else {
                continue;
            };
            self.shared |= emission.key.as_ref().is_some_and(|key| *key != entity.key);
            let Some((place, record)) = output::emission(
                &self.pipeline,
                &active,
                entity.partition,
                &entity.key,
                &pending.record,
                emission,
            ) else {
                continue;
            };
            self.pending_bytes += record.size();
            entity.produced.push(Produced {
                source: (entity.partition, pending.record.offset),
                place,
                record,
            });
        }
        entity.done = first + refused.as_ref().map_or(count, |refusal| refusal.index);
        if let Some(refusal) = refused
            && let Some(pending) = entity.queue.get_mut(entity.done)
        {
            // The state is as before this event, so it need not be asked again.
            pending.verdict = Verdict::Dead {
                code: "event-refused",
                reason: refusal.reason,
            };
        }
        if self.instances.is_alone(home.instance) {
            return self.mark(id, home);
        }
        None
    }

    /// Notes how far an entity has come that runs alone.
    fn mark(&mut self, id: usize, home: Home) -> Option<Hurdle> {
        let entity = self.entities.get_mut(id)?;
        let held = self.instances.get_mut(home.instance)?;
        entity.suspicion = entity.suspicion.saturating_sub(1);
        match held.instance.checkpoint(home.entity) {
            Ok(saved) => {
                entity.mark = Some(Mark {
                    done: entity.done,
                    produced: entity.produced.len(),
                    saved,
                });
                None
            }
            Err(failure) => {
                self.retire_and_rewind(home.instance);
                Some(Hurdle::Halted(halt_of(&failure)))
            }
        }
    }

    /// Asks the plugin for the checkpoints that the next commit needs. False
    /// says that something failed, and there is work to do again.
    fn prepare_round(&mut self) -> Result<bool, Interrupted> {
        for position in 0..self.dirty.len() {
            self.keep_within_budget()?;
            let Some(id) = self.dirty.get(position).copied() else {
                break;
            };
            let Some(entity) = self.entities.get_mut(id) else {
                continue;
            };
            if entity.prepared != Prepared::Nothing {
                continue;
            }
            let Some(offset) = entity.last_offset() else {
                continue;
            };
            if entity.halted.is_none() && entity.processed() {
                let saved = match (&entity.mark, entity.home) {
                    // Who runs alone has its state at hand.
                    (Some(mark), _) => Ok(mark.saved.clone()),
                    (None, Some(home)) => {
                        let Some(held) = self.instances.get_mut(home.instance) else {
                            continue;
                        };
                        held.instance
                            .checkpoint(home.entity)
                            .map_err(|failure| (home.instance, failure))
                    }
                    (None, None) => continue,
                };
                match saved {
                    Ok(None) if entity.recent.is_empty() => entity.prepared = Prepared::Delete,
                    Ok(saved) => {
                        let envelope = Envelope {
                            digest: self
                                .actives
                                .of(&entity.key)
                                .map_or(NO_PLUGIN, |active| active.plugin.digest()),
                            offset,
                            recent: entity.recent.clone(),
                            halted: None,
                            saved,
                        };
                        let bytes = envelope.encode();
                        self.pending_bytes += bytes.len();
                        entity.prepared = Prepared::Store(bytes);
                    }
                    Err((instance, failure)) => {
                        self.suspect(id, &failure);
                        self.retire_and_rewind(instance);
                        return Ok(false);
                    }
                }
            } else if entity.touched {
                // The state stays as it was; what the host keeps beside it has
                // changed. A halted entity may have come as far as its mark.
                let (digest, saved) = match &entity.mark {
                    Some(mark) => (
                        self.actives
                            .of(&entity.key)
                            .map_or(NO_PLUGIN, |active| active.plugin.digest()),
                        mark.saved.clone(),
                    ),
                    None => self
                        .checkpoints
                        .envelope(entity.partition, &entity.key)?
                        .map_or((NO_PLUGIN, None), |envelope| {
                            (envelope.digest, envelope.saved)
                        }),
                };
                let envelope = Envelope {
                    digest,
                    offset,
                    recent: entity.recent.clone(),
                    halted: entity.halted.clone(),
                    saved,
                };
                entity.prepared = Prepared::Store(envelope.encode());
            }
        }
        Ok(true)
    }

    /// Clears what a hurdle left behind.
    fn overcome(&mut self, id: usize, hurdle: Hurdle) {
        match hurdle {
            Hurdle::Failed => {}
            Hurdle::Halted(halt) => self.halt(id, halt),
            Hurdle::Stopped(stop) => {
                if let Some(partition) = self.entities.get(id).map(|entity| entity.partition) {
                    self.stop(partition, stop);
                }
            }
        }
    }

    fn suspect(&mut self, id: usize, failure: &Failure) {
        self.counts.failures += 1;
        if let Some(entity) = self.entities.get_mut(id) {
            entity.suspicion = SUSPICION_EVENTS;
            tracing::warn!(
                pipeline = %self.pipeline.name,
                partition = entity.partition.0,
                key = %String::from_utf8_lossy(&entity.key),
                code = failure.kind.code(),
                error = %failure.message,
                "plugin failed",
            );
        }
    }

    /// The entity takes no events from here on: they are dead letters, until it
    /// is redriven. What it did before stays, up to its mark or last commit.
    fn halt(&mut self, id: usize, halt: Halt) {
        let Some(entity) = self.entities.get_mut(id) else {
            return;
        };
        tracing::error!(
            pipeline = %self.pipeline.name,
            partition = entity.partition.0,
            key = %String::from_utf8_lossy(&entity.key),
            code = %halt.code,
            reason = %halt.reason,
            "entity halted",
        );
        let home = entity.home;
        self.pending_bytes = self.pending_bytes.saturating_sub(entity.rewind());
        for pending in entity.queue.iter_mut().skip(entity.done) {
            if pending.verdict == Verdict::Process {
                pending.verdict = Verdict::Dead {
                    code: "entity-halted",
                    reason: format!("halted by {}: {}", halt.code, halt.reason),
                };
            }
        }
        entity.halted = Some(halt);
        entity.touched = true;
        entity.suspicion = 0;
        if let Some(home) = home {
            self.instances.close(home, id);
        }
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
            task.next = task.committed;
            task.loose.clear();
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
        if self.dirty.is_empty() && self.tasks.values().all(|task| task.next == task.committed) {
            self.pending_bytes = 0;
            self.pending_since = None;
            self.shared = false;
        }
    }

    fn keep_within_budget(&self) -> Result<(), Interrupted> {
        let Some(budget) = &self.budget else {
            return Ok(());
        };
        let took = self.started.elapsed();
        if took > HURRIED_TIME_MAX && budget.hurry.load(Ordering::Relaxed) {
            return Err(Interrupted::Hurried);
        }
        if self.pending_bytes > budget.bytes_max || took > budget.time_max {
            return Err(Interrupted::TooMuch);
        }
        Ok(())
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

    /// Drops an instance, and sends everyone in it back to work from the last
    /// commit.
    fn retire_and_rewind(&mut self, instance: InstanceId) {
        for resident in self.instances.retire(instance) {
            if let Some(entity) = self.entities.get_mut(resident) {
                self.pending_bytes = self.pending_bytes.saturating_sub(entity.rewind());
            }
        }
    }

    /// Closes who was idle for long, and who is too many. To be called when
    /// nothing is pending.
    pub fn close_idle(&mut self, now: Instant) {
        if !self.dirty.is_empty() {
            return;
        }
        let settings = &self.pipeline.processing;
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

/// The key of a record, or why it can have no entity.
fn usable_key(record: &Record) -> Result<&Key, (&'static str, &'static str)> {
    match &record.key {
        None => Err(("event-without-key", "the record has no key")),
        Some(key) if key.len() > KEY_BYTES_MAX => Err((
            "event-key-too-long",
            "the record's key is longer than 4096 bytes",
        )),
        Some(key) if std::str::from_utf8(key).is_err() => {
            Err(("event-key-not-utf8", "the record's key is not UTF-8"))
        }
        Some(key) => Ok(key),
    }
}

fn halt_of(failure: &Failure) -> Halt {
    Halt {
        code: failure.kind.code().into(),
        reason: failure.message.clone(),
    }
}

fn corrupt(key: &[u8], reason: &str) -> Stop {
    Stop {
        code: "checkpoint-corrupt",
        reason: format!("checkpoint of {}: {reason}", String::from_utf8_lossy(key)),
        waits: false,
    }
}
