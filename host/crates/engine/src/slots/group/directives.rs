//! The directives of each slot and how far this host is with them. A directive stands
//! while the topic has it. This host gives each standing directive to its workers, and
//! follows it once: it goes back, and no longer takes the undone plugin from the
//! directory.
//!
//! The host's notes on disk have the followed directive and the undone plugins of each
//! slot; the rest comes from the topic again after a start.

use std::collections::{BTreeMap, BTreeSet};

use courtside_types::{Digest, slot_name::SlotName};

use crate::{
    slots::store::RolledBack,
    worker::takeover::{DIRECTIVES_MAX, Directive},
};

#[derive(Debug, Default)]
pub struct Directives {
    slots: BTreeMap<SlotName, SlotDirectives>,
}

#[derive(Debug, Default)]
struct SlotDirectives {
    /// The directives that stand, by their ids.
    standing: BTreeMap<u64, Directive>,
    /// The ids of the directives that the workers have.
    given: BTreeSet<u64>,
    /// The effect on this host of the directives that it followed.
    rolled_back: Option<RolledBack>,
}

impl Directives {
    /// Takes over what the host noted before its restart.
    pub fn restore(&mut self, noted: BTreeMap<SlotName, RolledBack>) {
        for (slot, rolled_back) in noted {
            self.slots.entry(slot).or_default().rolled_back = Some(rolled_back);
        }
    }

    /// The effect of directives that the host has to remember over a restart.
    pub fn to_note(&self) -> impl Iterator<Item = (&SlotName, &RolledBack)> {
        let slots = self.slots.iter();
        slots.filter_map(|(slot, directives)| Some((slot, directives.rolled_back.as_ref()?)))
    }

    /// Takes note of a directive that the topic has.
    pub fn record(&mut self, directive: Directive) {
        let slot = self.slots.entry(directive.slot.clone()).or_default();
        slot.clear(Directive::place(directive.id));
        slot.standing.insert(directive.id, directive);
    }

    /// Takes note that the directive at a place of the slot no longer stands.
    pub fn record_withdrawal(&mut self, slot: &SlotName, place: u64) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.clear(place);
        }
    }

    /// The directives that stand, in each slot the oldest first.
    pub fn standing(&self) -> impl Iterator<Item = &Directive> {
        let slots = self.slots.values();
        slots.flat_map(|directives| directives.standing.values())
    }

    /// The directives that stand in a slot, the oldest first.
    pub fn standing_in(&self, slot: &SlotName) -> impl Iterator<Item = &Directive> {
        let slot = self.slots.get(slot).into_iter();
        slot.flat_map(|directives| directives.standing.values())
    }

    #[must_use]
    pub fn latest(&self, slot: &SlotName) -> Option<&Directive> {
        let (_, latest) = self.slots.get(slot)?.standing.last_key_value()?;
        Some(latest)
    }

    /// The id of a new directive of the slot, later than all before. Its place is free,
    /// or that of the oldest directive.
    #[must_use]
    pub fn next_id(&self, slot: &SlotName, now_ms: u64) -> u64 {
        let standing = self.latest(slot).map_or(0, |directive| directive.id);
        let latest = standing.max(self.followed(slot));
        let first = now_ms.max(latest.saturating_add(1));
        let in_place = |id: &u64| {
            let place = Directive::place(*id);
            let mut others = self.standing_in(slot);
            let other = others.find(|other| Directive::place(other.id) == place);
            other.map(|other| other.id)
        };
        let ids = (0..DIRECTIVES_MAX as u64).map(|more| first.saturating_add(more));
        ids.min_by_key(in_place).unwrap_or(first)
    }

    /// The places of the directives that undo a plugin.
    #[must_use]
    pub fn places_against(&self, slot: &SlotName, bad: Digest) -> Vec<u64> {
        let against = self.standing_in(slot).filter(|order| order.bad == bad);
        against
            .map(|directive| Directive::place(directive.id))
            .collect()
    }

    /// Notes that the workers get a directive.
    pub fn give(&mut self, directive: &Directive) {
        let slot = self.slots.entry(directive.slot.clone()).or_default();
        slot.given.insert(directive.id);
    }

    /// The directives that the workers have although they no longer stand.
    #[must_use]
    pub fn to_withdraw(&self) -> Vec<(SlotName, u64)> {
        let slots = self.slots.iter();
        slots
            .flat_map(|(slot, directives)| {
                let given = directives.given.iter();
                given
                    .filter(|id| !directives.standing.contains_key(id))
                    .map(|id| (slot.clone(), *id))
            })
            .collect()
    }

    /// Notes that the workers no longer have a directive.
    pub fn withdrawn(&mut self, slot: &SlotName, id: u64) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.given.remove(&id);
        }
    }

    /// The id of the latest directive of a slot that this host has followed.
    #[must_use]
    pub fn followed(&self, slot: &SlotName) -> u64 {
        let rolled_back = self.rolled_back(slot);
        rolled_back.map_or(0, |rolled_back| rolled_back.directive)
    }

    /// Whether this host has followed a directive.
    #[must_use]
    pub fn is_followed(&self, directive: &Directive) -> bool {
        directive.id <= self.followed(&directive.slot)
    }

    /// Notes that a directive was followed, and that the plugin it undoes is not taken
    /// from the directory. A plugin that is wanted again may still be taken.
    pub fn follow(&mut self, directive: &Directive, is_wanted: bool) {
        let slot = self.slots.entry(directive.slot.clone()).or_default();
        let rolled_back = slot.rolled_back.get_or_insert_default();
        rolled_back.directive = directive.id;
        if is_wanted {
            rolled_back.remove(directive.bad);
        } else {
            rolled_back.insert(directive.bad);
        }
    }

    /// Whether a plugin was undone, so that it is not taken from the directory.
    #[must_use]
    pub fn is_rolled_back(&self, slot: &SlotName, digest: Digest) -> bool {
        let rolled_back = self.rolled_back(slot);
        rolled_back.is_some_and(|rolled_back| rolled_back.has(digest))
    }

    /// The undone plugins of which no directive stands.
    #[must_use]
    pub fn to_release(&self) -> Vec<(SlotName, Digest)> {
        let slots = self.slots.iter();
        slots
            .flat_map(|(slot, directives)| {
                let digests = directives.rolled_back.iter().flat_map(|one| &one.digests);
                let is_undone = |digest: &Digest| {
                    let mut standing = directives.standing.values();
                    standing.any(|order| order.bad == *digest)
                };
                digests
                    .filter(move |digest| !is_undone(digest))
                    .map(|digest| (slot.clone(), *digest))
            })
            .collect()
    }

    /// Lets an undone plugin be taken from the directory again. Returns false if this
    /// host never followed a directive of the slot.
    pub fn release(&mut self, slot: &SlotName, digest: Digest) -> bool {
        let slot = self.slots.get_mut(slot);
        let rolled_back = slot.and_then(|slot| slot.rolled_back.as_mut());
        rolled_back
            .map(|rolled_back| rolled_back.remove(digest))
            .is_some()
    }

    /// Lets all undone plugins of a slot be taken from the directory again.
    pub fn release_all(&mut self, slot: &SlotName) {
        let slot = self.slots.get_mut(slot);
        if let Some(rolled_back) = slot.and_then(|slot| slot.rolled_back.as_mut()) {
            rolled_back.digests.clear();
        }
    }

    fn rolled_back(&self, slot: &SlotName) -> Option<&RolledBack> {
        self.slots.get(slot)?.rolled_back.as_ref()
    }
}

impl SlotDirectives {
    fn clear(&mut self, place: u64) {
        self.standing.retain(|id, _| Directive::place(*id) != place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: SlotName = SlotName::Default;

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn directive(id: u64, bad: &str, to: &str) -> Directive {
        Directive {
            id,
            slot: SLOT,
            bad: digest(bad),
            to: Some(digest(to)),
            at: 0,
        }
    }

    fn recorded(directives: impl IntoIterator<Item = Directive>) -> Directives {
        let mut all = Directives::default();
        for directive in directives {
            all.record(directive);
        }
        all
    }

    #[test]
    fn directives_stand_beside_each_other() {
        let mut directives = recorded([directive(100, "c", "b"), directive(101, "b", "a")]);
        let ids = |directives: &Directives| {
            let standing = directives.standing_in(&SLOT);
            standing.map(|directive| directive.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(&directives), [100, 101]);
        directives.record_withdrawal(&SLOT, Directive::place(100));
        assert_eq!(ids(&directives), [101]);
        // Ids come from times, and are not consecutive. A new directive still takes a
        // free place, or that of the oldest.
        let mut next = 101;
        for _ in 0..100 {
            next = directives.next_id(&SLOT, next + 16);
            directives.record(directive(next, "c", "b"));
        }
        let all = ids(&directives);
        assert_eq!(all.len(), DIRECTIVES_MAX);
        let first = directives.next_id(&SLOT, next + 1);
        assert_eq!(Directive::place(first), Directive::place(all[0]));
    }

    #[test]
    fn an_id_is_later_than_all_before_though_the_clock_goes_back() {
        let mut directives = recorded([directive(100, "b", "a")]);
        assert_eq!(directives.next_id(&SLOT, 7), 101);
        directives.follow(&directive(200, "b", "a"), false);
        assert_eq!(directives.next_id(&SLOT, 7), 201);
        let other = SlotName::of_key(b"other");
        assert_eq!(directives.next_id(&other, 7), 7);
    }

    #[test]
    fn a_withdrawn_directive_goes_from_the_workers_and_releases_its_plugin() {
        let order = directive(100, "b", "a");
        let mut directives = recorded([order.clone()]);
        assert!(!directives.is_followed(&order));
        directives.give(&order);
        directives.follow(&order, false);
        assert!(directives.is_followed(&order));
        assert!(directives.is_rolled_back(&SLOT, digest("b")));
        assert_eq!(directives.to_withdraw(), []);
        assert_eq!(directives.to_release(), []);

        let places = directives.places_against(&SLOT, digest("b"));
        assert_eq!(places, [Directive::place(100)]);
        assert!(directives.places_against(&SLOT, digest("a")).is_empty());
        directives.record_withdrawal(&SLOT, places[0]);
        assert_eq!(directives.to_withdraw(), [(SLOT, 100)]);
        assert_eq!(directives.to_release(), [(SLOT, digest("b"))]);
        directives.withdrawn(&SLOT, 100);
        assert!(directives.release(&SLOT, digest("b")));
        assert_eq!(directives.to_withdraw(), []);
        assert_eq!(directives.to_release(), []);
        assert!(!directives.is_rolled_back(&SLOT, digest("b")));
        assert!(directives.is_followed(&order), "it is not followed again");
    }

    #[test]
    fn a_plugin_stays_rolled_back_while_one_of_its_directives_stands() {
        let (one, two) = (directive(100, "b", "a"), directive(101, "b", "c"));
        let mut directives = recorded([one.clone(), two.clone()]);
        directives.follow(&one, false);
        directives.follow(&two, false);
        directives.record_withdrawal(&SLOT, Directive::place(100));
        assert_eq!(directives.to_release(), []);
    }

    #[test]
    fn a_plugin_that_is_wanted_again_is_not_rolled_back() {
        let order = directive(100, "b", "a");
        let mut directives = recorded([order.clone()]);
        directives.follow(&order, true);
        assert!(directives.is_followed(&order));
        assert!(!directives.is_rolled_back(&SLOT, digest("b")));
        directives.follow(&directive(101, "c", "a"), false);
        directives.release_all(&SLOT);
        assert!(!directives.is_rolled_back(&SLOT, digest("c")));
    }

    #[test]
    fn only_the_effect_on_this_host_outlives_it() {
        let order = directive(100, "b", "a");
        let mut directives = recorded([order.clone()]);
        assert_eq!(directives.to_note().count(), 0);
        assert!(!directives.release(&SLOT, digest("b")));
        directives.follow(&order, false);
        let noted = directives.to_note();
        let noted = noted.map(|(slot, noted)| (slot.clone(), noted.clone()));
        let mut restored = Directives::default();
        restored.restore(noted.collect());
        assert!(restored.is_followed(&order));
        assert!(restored.is_rolled_back(&SLOT, digest("b")));
        assert_eq!(restored.standing().count(), 0);
    }
}
