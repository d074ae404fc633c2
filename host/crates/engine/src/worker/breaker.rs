//! Plugins that go over their limits: each call that does keeps a worker busy for
//! all the time, memory or output that a call may use, and others wait.
//!
//! An entity is halted if its plugin goes over a limit at event after event, and none
//! goes well. If several entities were halted and no call went well in between, the
//! cause is the plugin and no single event. The plugin's entities are then halted
//! without a call, except for one call now and then, which may show that the plugin is
//! well again. Another plugin in the slot begins anew. A rollback gives entities their
//! states back, a redrive their events. The memory needed is a few keys for each slot
//! in trouble.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use courtside_plugin_host::FailureKind;
use courtside_types::{Key, PartitionId, slot_name::SlotName};

/// An entity is halted after this many events that went over a limit, if none went well
/// in between.
pub const EVENTS_MAX: u32 = 2;
/// All entities of a slot are halted after this many were, if no call went well in
/// between.
const ENTITIES_MAX: usize = 3;
/// How often a plugin that is no longer called is tried all the same.
const TRY_EVERY: Duration = Duration::from_secs(20);

/// The step at which a plugin went over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Opening an entity, or processing an event.
    Work,
    Checkpoint,
}

/// The slots of one worker that are in trouble.
#[derive(Debug, Default)]
pub struct Breakers(HashMap<(SlotName, Step), Trouble>);

#[derive(Debug, Default)]
struct Trouble {
    /// The halted entities. Each counts once, however often it is run again.
    entities: BTreeSet<(PartitionId, Key)>,
    /// Set while the plugin is not called.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// The limit that the plugin was over when the last of the entities was halted.
    limit: FailureKind,
    /// When a call is tried next.
    try_at: Instant,
}

impl Breakers {
    /// Notes that an entity is halted because its plugin went over a limit. Returns
    /// true if the plugin is no longer called from here on.
    #[must_use]
    pub fn halted(
        &mut self,
        slot: &SlotName,
        step: Step,
        limit: FailureKind,
        entity: (PartitionId, Key),
        now: Instant,
    ) -> bool {
        let trouble = self.0.entry((slot.clone(), step)).or_default();
        if trouble.entities.len() >= ENTITIES_MAX {
            return false;
        }
        trouble.entities.insert(entity);
        if trouble.entities.len() < ENTITIES_MAX {
            return false;
        }
        let try_at = now + TRY_EVERY;
        trouble.open = Some(Open { limit, try_at });
        true
    }

    /// Ends the trouble of a slot, because a call of its plugin went well.
    pub fn went_well(&mut self, slot: &SlotName, step: Step) {
        // Most of the time no slot is in trouble.
        if !self.0.is_empty() {
            self.0.remove(&(slot.clone(), step));
        }
    }

    /// Ends all trouble of a slot, because it gets another plugin.
    pub fn forget(&mut self, slot: &SlotName) {
        self.0.retain(|(of, _), _| of != slot);
    }

    /// The limit because of which the slot's plugin is not to be called, if any. One
    /// call now and then is let through.
    pub fn refuses(
        &mut self,
        slot: &SlotName,
        now: impl FnOnce() -> Instant,
    ) -> Option<FailureKind> {
        if self.0.is_empty() {
            return None;
        }
        let of_slot = self.0.iter_mut().filter(|((of, _), _)| of == slot);
        let mut open: Vec<&mut Open> = of_slot
            .filter_map(|(_, trouble)| trouble.open.as_mut())
            .collect();
        let limit = open.first()?.limit;
        let now = now();
        if open.iter().any(|open| now < open.try_at) {
            return Some(limit);
        }
        for open in &mut open {
            open.try_at = now + TRY_EVERY;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(key: &'static str) -> (PartitionId, Key) {
        (PartitionId(0), Key::from_static(key.as_bytes()))
    }

    #[test]
    fn only_different_entities_in_a_row_open_it_and_only_in_their_slot() {
        let now = Instant::now();
        let (slot, other) = (SlotName::Default, SlotName::of_key(b"a"));
        let mut breakers = Breakers::default();
        let halt = |breakers: &mut Breakers, key| {
            breakers.halted(&slot, Step::Work, FailureKind::Memory, entity(key), now)
        };
        assert!(!halt(&mut breakers, "a") && !halt(&mut breakers, "b"));
        assert!(!halt(&mut breakers, "b"), "again, after an abort");
        breakers.went_well(&slot, Step::Checkpoint);
        breakers.went_well(&other, Step::Work);
        assert_eq!(breakers.refuses(&slot, || now), None);
        assert!(halt(&mut breakers, "c"), "it is told once");
        assert!(!halt(&mut breakers, "d"));
        assert_eq!(breakers.refuses(&slot, || now), Some(FailureKind::Memory));
        assert_eq!(breakers.refuses(&other, || now), None);
        breakers.forget(&slot);
        assert_eq!(breakers.refuses(&slot, || now), None);
    }

    #[test]
    fn a_call_that_goes_well_in_between_begins_anew() {
        let now = Instant::now();
        let slot = SlotName::Default;
        let mut breakers = Breakers::default();
        for key in ["a", "b", "c", "d"] {
            let limit = FailureKind::Deadline;
            assert!(!breakers.halted(&slot, Step::Checkpoint, limit, entity(key), now));
            breakers.went_well(&slot, Step::Checkpoint);
        }
        assert_eq!(breakers.refuses(&slot, || now), None);
    }

    #[test]
    fn one_call_is_tried_now_and_then() {
        let now = Instant::now();
        let slot = SlotName::Default;
        let mut breakers = Breakers::default();
        for key in ["a", "b", "c"] {
            let _ = breakers.halted(&slot, Step::Work, FailureKind::Emitted, entity(key), now);
        }
        let later = now + TRY_EVERY;
        assert_eq!(breakers.refuses(&slot, || later), None, "one");
        assert!(breakers.refuses(&slot, || later).is_some(), "and no other");
        breakers.went_well(&slot, Step::Work);
        assert_eq!(breakers.refuses(&slot, || later), None);
    }
}
