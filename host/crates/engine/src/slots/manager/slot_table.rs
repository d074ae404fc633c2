//! The slots that this host has of a pipeline: those with a plugin or a file, and the
//! default slot.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    sync::Arc,
    time::Instant,
};

use bytestring::ByteString;
use courtside_plugin_host::Plugin;
use courtside_types::{Digest, slot_name::SlotName};

use crate::{
    slots::{files::Entry, slot::Slot},
    worker::metrics,
};

pub(super) struct SlotTable {
    pipeline: ByteString,
    slots: BTreeMap<SlotName, Slot>,
}

impl SlotTable {
    /// The table of a pipeline that has only its default slot.
    pub fn new(pipeline: ByteString, now: Instant) -> Self {
        let default = Slot::new(&pipeline, SlotName::Default, now);
        Self {
            slots: BTreeMap::from([(SlotName::Default, default)]),
            pipeline,
        }
    }

    /// `<pipeline>/default` or `<pipeline>/keys/<key>`.
    pub fn full_name(&self, name: &SlotName) -> String {
        format!("{}/{name}", self.pipeline)
    }

    pub fn get(&self, name: &SlotName) -> Option<&Slot> {
        self.slots.get(name)
    }

    /// A slot. The table makes it if it is missing.
    pub fn get_or_make(&mut self, name: &SlotName) -> &mut Slot {
        self.slots.entry(name.clone()).or_insert_with(|| {
            metrics::slot_is_there(&self.pipeline, &name.to_string());
            Slot::new(&self.pipeline, name.clone(), Instant::now())
        })
    }

    pub fn iter(&self) -> btree_map::Iter<'_, SlotName, Slot> {
        self.slots.iter()
    }

    /// The names of the slots in the order in which their files are to be taken. No event
    /// is processed before the default plugin runs. So the plugins of single keys start
    /// first: otherwise their events would go to the default plugin.
    pub fn names(&self) -> Vec<SlotName> {
        let mut names: Vec<_> = self.slots.keys().cloned().collect();
        if !self.runs(&SlotName::Default) {
            // The default slot is the first in the order of names.
            names.reverse();
        }
        names
    }

    /// Takes note of the directory's entries. Each entry has a slot.
    pub fn observe(&mut self, entries: &BTreeMap<SlotName, Entry>, now: Instant) {
        for name in entries.keys() {
            self.get_or_make(name);
        }
        for (name, slot) in &mut self.slots {
            slot.observe(entries.get(name).cloned(), now);
        }
    }

    /// Forgets the slots with neither a plugin nor a file, except for the default slot.
    pub fn forget_vacant(&mut self) {
        self.slots
            .retain(|name, slot| *name == SlotName::Default || !slot.is_vacant());
    }

    /// The digest of the plugin that runs in a slot.
    pub fn digest(&self, name: &SlotName) -> Option<Digest> {
        self.slots.get(name).and_then(Slot::digest)
    }

    /// The digests of the plugins that run.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        self.slots.values().filter_map(Slot::digest)
    }

    /// The slots in which a plugin runs, with the plugin's digest.
    pub fn running(&self) -> BTreeMap<SlotName, Digest> {
        let slots = self.slots.iter();
        slots
            .filter_map(|(name, slot)| Some((name.clone(), slot.digest()?)))
            .collect()
    }

    /// The plugin that runs in a slot.
    pub fn plugin(&self, name: &SlotName) -> Option<&Arc<dyn Plugin>> {
        let running = self.slots.get(name)?.running.as_ref()?;
        Some(&running.active.plugin)
    }

    /// The plugin that processes a slot's events: its own, or else that of the default
    /// slot.
    pub fn plugin_in_force(&self, name: &SlotName) -> Option<&Arc<dyn Plugin>> {
        self.plugin(name)
            .or_else(|| self.plugin(&SlotName::Default))
    }

    pub fn runs(&self, name: &SlotName) -> bool {
        self.plugin(name).is_some()
    }

    /// The slots of single keys in which a plugin runs.
    pub fn key_slots(&self) -> Vec<SlotName> {
        let slots = self.slots.iter();
        slots
            .filter(|(name, slot)| **name != SlotName::Default && slot.running.is_some())
            .map(|(name, _)| name.clone())
            .collect()
    }

    pub fn has_file(&self, name: &SlotName) -> bool {
        self.slots.get(name).is_some_and(Slot::has_file)
    }

    /// The directory's entry for a slot.
    pub fn entry(&self, name: &SlotName) -> Option<&Entry> {
        self.slots.get(name).and_then(Slot::entry)
    }

    /// Judges a slot's file anew. The decision on a missing file stays as it is.
    pub fn reconsider_file(&mut self, name: &SlotName) {
        if let Some(slot) = self.slots.get_mut(name).filter(|slot| slot.has_file()) {
            slot.reconsider_file();
        }
    }

    /// Lets removals that were rejected be tried again.
    pub fn reconsider_removals(&mut self) {
        self.slots.values_mut().for_each(Slot::reconsider_removal);
    }

    /// The names of `others` that the table does not have.
    pub fn missing<'a>(&self, others: impl Iterator<Item = &'a SlotName>) -> BTreeSet<SlotName> {
        let missing = others.filter(|name| !self.slots.contains_key(*name));
        missing.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> (SlotTable, Instant) {
        let now = Instant::now();
        (SlotTable::new("scores".into(), now), now)
    }

    fn entries(keys: &[&str]) -> BTreeMap<SlotName, Entry> {
        let entry = || Entry::Unreadable("a link".to_owned());
        let keys = keys.iter().map(|key| SlotName::of_key(key.as_bytes()));
        keys.map(|name| (name, entry())).collect()
    }

    #[test]
    fn a_slot_is_there_while_it_has_a_file() {
        let (mut table, now) = table();
        table.observe(&entries(&["one", "two"]), now);
        table.forget_vacant();
        assert_eq!(table.iter().count(), 3);
        let one = SlotName::of_key(b"one");
        assert!(table.has_file(&one));
        assert_eq!(table.full_name(&one), "scores/keys/one");
        table.observe(&entries(&["two"]), now);
        assert!(!table.has_file(&one));
        table.forget_vacant();
        assert!(table.get(&one).is_none());
        let names = table.iter().map(|(name, _)| name.clone());
        let names: Vec<_> = names.collect();
        assert_eq!(names, [SlotName::Default, SlotName::of_key(b"two")]);
        assert_eq!(table.missing([&one].into_iter()), BTreeSet::from([one]));
    }

    #[test]
    fn the_default_plugin_starts_after_those_of_single_keys() {
        let (mut table, now) = table();
        table.observe(&entries(&["one"]), now);
        let names = table.names();
        assert_eq!(names, [SlotName::of_key(b"one"), SlotName::Default]);
    }
}
