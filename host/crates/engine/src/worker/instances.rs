//! The plugin instances of one worker, and which entities live in them.
//!
//! An instance is made when an entity finds no room, and goes when its last
//! entity does, when it fails, or when its slot gets another plugin. Giving one
//! back to the system takes a while, so that is left to a thread of its own.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use courtside_plugin_host::{EntityId, Failure, Instance, Plugin};
use courtside_types::{Digest, Key, slot_name::SlotName};
use rustc_hash::{FxHashMap, FxHashSet};

use super::gauges::{PipelineGauges, SlotGauges};
use crate::pipeline::Pipeline;

/// A plugin in force in a slot. Each activation makes a new one, even of a plugin that
/// ran there before.
pub struct Active {
    pub slot: SlotName,
    pub plugin: Arc<dyn Plugin>,
    /// The plugin's `name@version`, as output records have it in a header.
    pub plugin_header: Bytes,
    pub digest_header: Bytes,
}

impl std::fmt::Debug for Active {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Active({}, {:?})", self.slot, self.plugin.digest())
    }
}

impl Active {
    #[must_use]
    pub fn new(slot: SlotName, plugin: Arc<dyn Plugin>) -> Arc<Self> {
        let description = plugin.description();
        Arc::new(Self {
            slot,
            plugin_header: format!("{}@{}", description.name, description.version).into(),
            digest_header: plugin.digest().to_string().into(),
            plugin,
        })
    }
}

/// The plugins in force in a worker.
#[derive(Debug, Default)]
pub struct Actives {
    default: Option<Arc<Active>>,
    keys: HashMap<Key, Arc<Active>>,
    hashed: HashMap<Digest, Arc<Active>>,
}

impl Actives {
    /// The plugin that a key's events go to.
    #[must_use]
    pub fn of(&self, key: &[u8]) -> Option<&Arc<Active>> {
        if let Some(active) = self.keys.get(key) {
            return Some(active);
        }
        if !self.hashed.is_empty()
            && let Some(active) = self.hashed.get(&Digest::of(key))
        {
            return Some(active);
        }
        self.default.as_ref()
    }

    /// The plugin of the default slot.
    #[must_use]
    pub const fn default(&self) -> Option<&Arc<Active>> {
        self.default.as_ref()
    }

    #[must_use]
    pub const fn has_default(&self) -> bool {
        self.default.is_some()
    }

    /// The plugin that a slot has of its own.
    #[must_use]
    pub fn at(&self, slot: &SlotName) -> Option<&Arc<Active>> {
        match slot {
            SlotName::Default => self.default.as_ref(),
            SlotName::Key(key) => self.keys.get(key),
            SlotName::Hashed(digest) => self.hashed.get(digest),
        }
    }

    pub fn set(&mut self, slot: &SlotName, active: Option<Arc<Active>>) {
        match (slot, active) {
            (SlotName::Default, active) => self.default = active,
            (SlotName::Key(key), Some(active)) => {
                self.keys.insert(key.clone(), active);
            }
            (SlotName::Key(key), None) => {
                self.keys.remove(key);
            }
            (SlotName::Hashed(digest), Some(active)) => {
                self.hashed.insert(*digest, active);
            }
            (SlotName::Hashed(digest), None) => {
                self.hashed.remove(digest);
            }
        }
    }
}

/// Instances that wait to be dropped by the reaper.
const REAPER_QUEUE_MAX: usize = 256;

/// An instance's number, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(u64);

/// The place where an open entity lives.
#[derive(Clone, Copy, Debug)]
pub struct Home {
    pub instance: InstanceId,
    pub entity: EntityId,
}

/// An instance and the entities that live in it.
pub struct Held {
    pub active: Arc<Active>,
    pub instance: Box<dyn Instance>,
    /// The instance was made for one suspect, and takes no other entity.
    pub alone: bool,
    /// The figures in which the instance's calls are counted.
    pub gauges: Arc<SlotGauges>,
    /// The entities that live in the instance, by their numbers in the worker.
    residents: FxHashSet<usize>,
}

/// All instances of a worker.
pub struct Instances {
    held: FxHashMap<InstanceId, Held>,
    /// Instances with room, by slot.
    room: HashMap<SlotName, Vec<InstanceId>>,
    pipeline: Arc<Pipeline>,
    next: u64,
    /// The pipeline's figures, and the number of the worker that has the instances.
    gauges: Option<(Arc<PipelineGauges>, u32)>,
    reaper: crossbeam_channel::Sender<Box<dyn Instance>>,
}

impl std::fmt::Debug for Instances {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Instances({})", self.held.len())
    }
}

impl Instances {
    #[must_use]
    pub fn new(pipeline: Arc<Pipeline>) -> Self {
        let (reaper, doomed) = crossbeam_channel::bounded::<Box<dyn Instance>>(REAPER_QUEUE_MAX);
        // The thread ends when the sender goes. If there is no thread, the channel is
        // closed at once and instances are dropped in place.
        let spawned = std::thread::Builder::new()
            .name("reaper".into())
            .spawn(move || doomed.into_iter().for_each(drop));
        if let Err(error) = spawned {
            tracing::warn!(%error, "thread that drops instances cannot start, so workers drop them");
        }
        Self {
            held: FxHashMap::default(),
            room: HashMap::new(),
            pipeline,
            next: 0,
            gauges: None,
            reaper,
        }
    }

    /// Sets the figures in which instances that are made from now on count their calls.
    pub fn count_in(&mut self, gauges: Arc<PipelineGauges>, worker: u32) {
        self.gauges = Some((gauges, worker));
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub fn get_mut(&mut self, id: InstanceId) -> Option<&mut Held> {
        self.held.get_mut(&id)
    }

    #[must_use]
    pub fn contains(&self, id: InstanceId) -> bool {
        self.held.contains_key(&id)
    }

    #[must_use]
    pub fn is_alone(&self, id: InstanceId) -> bool {
        self.held.get(&id).is_some_and(|held| held.alone)
    }

    /// An instance of that plugin with room for one more.
    pub fn with_room(&mut self, active: &Arc<Active>, alone: bool) -> Result<InstanceId, Failure> {
        if !alone
            && let Some(rooms) = self.room.get(&active.slot)
            && let Some(id) = rooms.last()
        {
            return Ok(*id);
        }
        let id = InstanceId(self.next);
        self.next += 1;
        let held = Held {
            active: Arc::clone(active),
            instance: active.plugin.instantiate()?,
            alone,
            gauges: self
                .gauges
                .as_ref()
                .map(|(gauges, worker)| gauges.of_slot(*worker, active))
                .unwrap_or_default(),
            residents: FxHashSet::default(),
        };
        held.gauges.instance_made();
        self.held.insert(id, held);
        if !alone {
            self.room.entry(active.slot.clone()).or_default().push(id);
        }
        Ok(id)
    }

    /// Notes that an entity was opened in an instance.
    pub fn moved_in(&mut self, id: InstanceId, resident: usize) {
        let Some(held) = self.held.get_mut(&id) else {
            return;
        };
        held.residents.insert(resident);
        if !held.alone
            && held.residents.len() >= self.pipeline.entities_per_instance(&held.active.slot)
        {
            let slot = held.active.slot.clone();
            self.full(&slot, id);
        }
    }

    /// Closes an entity, and drops its instance if no other entity lives in it.
    pub fn close(&mut self, home: Home, resident: usize) {
        let Some(held) = self.held.get_mut(&home.instance) else {
            return;
        };
        held.instance.close(home.entity);
        let residents_max = self.pipeline.entities_per_instance(&held.active.slot);
        let was_full = held.residents.len() >= residents_max;
        held.residents.remove(&resident);
        if held.residents.is_empty() {
            self.retire(home.instance);
        } else if was_full && !held.alone {
            let slot = held.active.slot.clone();
            self.room.entry(slot).or_default().push(home.instance);
        }
    }

    /// Drops an instance, and returns the entities that lived in it.
    pub fn retire(&mut self, id: InstanceId) -> Vec<usize> {
        let Some(held) = self.held.remove(&id) else {
            return Vec::new();
        };
        held.gauges.instance_gone();
        self.full(&held.active.slot, id);
        let residents = held.residents.into_iter().collect();
        // If the reaper is behind, the instance is dropped here.
        drop(self.reaper.try_send(held.instance));
        residents
    }

    /// Drops every instance of a slot.
    pub fn retire_slot(&mut self, slot: &SlotName) {
        let of_slot: Vec<_> = self
            .held
            .iter()
            .filter(|(_, held)| held.active.slot == *slot)
            .map(|(id, _)| *id)
            .collect();
        for id in of_slot {
            self.retire(id);
        }
    }

    fn full(&mut self, slot: &SlotName, id: InstanceId) {
        if let Some(rooms) = self.room.get_mut(slot) {
            rooms.retain(|other| *other != id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pipeline::SlotLimits,
        worker::tests::{Faulty, pipeline},
    };

    /// Opens entities in a slot, and returns the number of instances that this takes.
    fn instances_of(pipeline: &Arc<Pipeline>, slot: SlotName, entities: usize) -> usize {
        let mut instances = Instances::new(Arc::clone(pipeline));
        let active = Active::new(slot, Faulty::new("a", &["faulty/1"]));
        for resident in 0..entities {
            let id = instances.with_room(&active, false).unwrap();
            instances.moved_in(id, resident);
        }
        instances.len()
    }

    #[test]
    fn how_many_share_an_instance_is_the_slots_to_say() {
        let mut own = Arc::unwrap_or_clone(pipeline(4, 100));
        let solo = SlotName::of_key(b"solo");
        let limits = SlotLimits {
            limits: own.limits.clone(),
            entities_per_instance: 1,
        };
        own.slot_limits.insert(solo.clone(), limits);
        let own = Arc::new(own);
        assert_eq!(instances_of(&own, SlotName::Default, 8), 2);
        assert_eq!(instances_of(&own, solo, 8), 8);
    }
}
