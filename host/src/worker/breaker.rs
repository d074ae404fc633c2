//! Plugins that run out of time: each call that does keeps a worker busy for all
//! the time that a call may take, and others wait.
//!
//! An entity that runs out of time at event after event is halted. When that
//! became of several in a row, and no call went well in between, it is the
//! plugin and no event: it is not called any more until the slot gets another,
//! and its entities are halted without a call. A rollback gives them back what
//! they were, a redrive their events. It costs a number for each slot in trouble.

use std::collections::HashMap;

use crate::slots::name::SlotName;

/// Events of an entity in a row that ran out of time; then it is halted.
pub const EVENTS_MAX: u32 = 2;
/// Entities in a row that were halted for it; then all of the slot are.
const ENTITIES_MAX: u32 = 3;

/// The slots of one worker.
#[derive(Debug, Default)]
pub struct Breakers(HashMap<SlotName, u32>);

impl Breakers {
    /// An entity was halted since its plugin ran out of time. True says that the
    /// plugin is not called any more.
    #[must_use]
    pub fn expired(&mut self, slot: &SlotName) -> bool {
        let count = self.0.entry(slot.clone()).or_default();
        *count = count.saturating_add(1);
        *count == ENTITIES_MAX
    }

    /// A call of the slot's plugin went well.
    pub fn went_well(&mut self, slot: &SlotName) {
        // Nobody is in trouble, mostly.
        if !self.0.is_empty() {
            self.0.remove(slot);
        }
    }

    /// The slot gets another plugin.
    pub fn forget(&mut self, slot: &SlotName) {
        self.0.remove(slot);
    }

    #[must_use]
    pub fn is_open(&self, slot: &SlotName) -> bool {
        self.0.get(slot).is_some_and(|count| *count >= ENTITIES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_row_of_failures_opens_it_and_only_in_its_slot() {
        let (slot, other) = (SlotName::Default, SlotName::of_key(b"a"));
        let mut breakers = Breakers::default();
        assert!(!breakers.expired(&slot));
        assert!(!breakers.expired(&slot));
        breakers.went_well(&slot);
        assert!(!breakers.expired(&slot));
        assert!(!breakers.expired(&slot));
        breakers.went_well(&other);
        assert!(!breakers.is_open(&slot));
        assert!(breakers.expired(&slot), "it is told once");
        assert!(!breakers.expired(&slot));
        assert!(breakers.is_open(&slot) && !breakers.is_open(&other));
        breakers.forget(&slot);
        assert!(!breakers.is_open(&slot));
    }
}
