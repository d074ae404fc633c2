//! The latest confirmation of each slot, and the confirmation that this host's workers
//! have. All times are milliseconds since 1970.

use std::collections::BTreeMap;

use courtside_types::slot_name::SlotName;

use crate::slots::topic::Confirmation;

#[derive(Debug, Default)]
pub struct Confirmations {
    latest: BTreeMap<SlotName, Confirmation>,
    /// The time of the confirmation that the workers have.
    given_ms: BTreeMap<SlotName, u64>,
}

impl Confirmations {
    /// Takes note of a confirmation that the topic has.
    pub fn record(&mut self, confirmation: Confirmation) {
        self.latest.insert(confirmation.slot.clone(), confirmation);
    }

    /// Forgets the record of a slot that is no longer remembered.
    pub fn forget(&mut self, slot: &SlotName) {
        self.latest.remove(slot);
    }

    /// The time of a slot's latest confirmation.
    #[must_use]
    pub fn at_ms(&self, slot: &SlotName) -> Option<u64> {
        self.latest.get(slot).map(|latest| latest.at_ms)
    }

    /// The confirmations that the workers do not have yet.
    #[must_use]
    pub fn to_give(&self) -> Vec<Confirmation> {
        let is_new = |confirmation: &&Confirmation| {
            let given = self.given_ms.get(&confirmation.slot);
            given.is_none_or(|given| *given < confirmation.at_ms)
        };
        self.latest.values().filter(is_new).cloned().collect()
    }

    /// Notes that all workers have a confirmation.
    pub fn given(&mut self, confirmation: &Confirmation) {
        self.given_ms
            .insert(confirmation.slot.clone(), confirmation.at_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confirmation(at_ms: u64) -> Confirmation {
        Confirmation {
            slot: SlotName::Default,
            digest: None,
            at_ms,
        }
    }

    #[test]
    fn workers_get_each_confirmation_once() {
        let mut confirmations = Confirmations::default();
        assert!(confirmations.to_give().is_empty());
        confirmations.record(confirmation(5));
        assert_eq!(confirmations.to_give(), [confirmation(5)]);
        confirmations.given(&confirmation(5));
        assert!(confirmations.to_give().is_empty());
        confirmations.record(confirmation(6));
        assert_eq!(confirmations.to_give(), [confirmation(6)]);
    }

    /// The topic was deleted and created again, or a slot was forgotten meanwhile.
    #[test]
    fn workers_do_not_get_an_old_confirmation_again() {
        let mut confirmations = Confirmations::default();
        confirmations.record(confirmation(5));
        confirmations.given(&confirmation(5));
        confirmations.forget(&SlotName::Default);
        assert_eq!(confirmations.at_ms(&SlotName::Default), None);
        confirmations.record(confirmation(4));
        assert_eq!(confirmations.at_ms(&SlotName::Default), Some(4));
        assert!(confirmations.to_give().is_empty());
    }
}
