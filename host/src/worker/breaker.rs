//! Plugins that run out of time: each call that does keeps a worker busy for all
//! the time that a call may take, and others wait.
//!
//! An entity that runs out of time at event after event, and none goes well, is
//! halted. When that became of several and no call went well in between, it is
//! the plugin and no event: its entities are halted without a call then, but for
//! one call now and then, which may show that it is well again. Another plugin in
//! the slot begins anew. A rollback gives entities back what they were, a redrive
//! their events. It costs some keys for each slot in trouble.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use crate::{
    slots::name::SlotName,
    types::{Key, PartitionId},
};

/// Events of an entity that ran out of time since one went well; then it is
/// halted.
pub const EVENTS_MAX: u32 = 2;
/// Entities that were halted for it since a call went well; then all of the slot
/// are.
const ENTITIES_MAX: usize = 3;
/// How often it is tried all the same.
const TRY_EVERY: Duration = Duration::from_secs(20);

/// What a plugin ran out of time at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Opening an entity, or processing an event.
    Work,
    Checkpoint,
}

/// The slots of one worker.
#[derive(Debug, Default)]
pub struct Breakers(HashMap<(SlotName, Step), Trouble>);

#[derive(Debug, Default)]
struct Trouble {
    /// Once for each, however often it is run again.
    entities: BTreeSet<(PartitionId, Key)>,
    /// When a call is tried next.
    try_at: Option<Instant>,
}

impl Breakers {
    /// An entity is halted since its plugin ran out of time. True says that with
    /// it the plugin is not called any more.
    #[must_use]
    pub fn expired(
        &mut self,
        slot: &SlotName,
        step: Step,
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
        trouble.try_at = Some(now + TRY_EVERY);
        true
    }

    /// A call of the slot's plugin went well.
    pub fn went_well(&mut self, slot: &SlotName, step: Step) {
        // Nobody is in trouble, mostly.
        if !self.0.is_empty() {
            self.0.remove(&(slot.clone(), step));
        }
    }

    /// The slot gets another plugin.
    pub fn forget(&mut self, slot: &SlotName) {
        self.0.retain(|(of, _), _| of != slot);
    }

    /// Whether the slot's plugin is to be called. Where it is not, one call is now
    /// and then.
    pub fn admits(&mut self, slot: &SlotName, now: impl FnOnce() -> Instant) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let of_slot = self.0.iter_mut().filter(|((of, _), _)| of == slot);
        let mut open: Vec<&mut Instant> = of_slot
            .filter_map(|(_, trouble)| trouble.try_at.as_mut())
            .collect();
        if open.is_empty() {
            return true;
        }
        let now = now();
        let is_due = open.iter().all(|try_at| **try_at <= now);
        if is_due {
            for try_at in &mut open {
                **try_at = now + TRY_EVERY;
            }
        }
        is_due
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
        let expire =
            |breakers: &mut Breakers, key| breakers.expired(&slot, Step::Work, entity(key), now);
        assert!(!expire(&mut breakers, "a") && !expire(&mut breakers, "b"));
        assert!(!expire(&mut breakers, "b"), "again, after an abort");
        breakers.went_well(&slot, Step::Checkpoint);
        breakers.went_well(&other, Step::Work);
        assert!(breakers.admits(&slot, || now));
        assert!(expire(&mut breakers, "c"), "it is told once");
        assert!(!expire(&mut breakers, "d"));
        assert!(!breakers.admits(&slot, || now) && breakers.admits(&other, || now));
        breakers.forget(&slot);
        assert!(breakers.admits(&slot, || now));
    }

    #[test]
    fn a_call_that_goes_well_in_between_begins_anew() {
        let now = Instant::now();
        let slot = SlotName::Default;
        let mut breakers = Breakers::default();
        for key in ["a", "b", "c", "d"] {
            assert!(!breakers.expired(&slot, Step::Checkpoint, entity(key), now));
            breakers.went_well(&slot, Step::Checkpoint);
        }
        assert!(breakers.admits(&slot, || now));
    }

    #[test]
    fn one_call_is_tried_now_and_then() {
        let now = Instant::now();
        let slot = SlotName::Default;
        let mut breakers = Breakers::default();
        for key in ["a", "b", "c"] {
            let _ = breakers.expired(&slot, Step::Work, entity(key), now);
        }
        let later = now + TRY_EVERY;
        assert!(breakers.admits(&slot, || later), "one");
        assert!(!breakers.admits(&slot, || later), "and no other");
        breakers.went_well(&slot, Step::Work);
        assert!(breakers.admits(&slot, || later));
    }
}
