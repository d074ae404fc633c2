//! The host's notes of one pipeline for its next start, by the names of slots. On disk
//! they stand under the full names.

use std::{collections::BTreeMap, io};

use courtside_types::{Digest, slot_name::SlotName};

use crate::slots::store::{FailedRehearsal, PluginStore, RolledBack, StoredDecisions};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// The plugin that is to run in each slot.
    pub running: BTreeMap<SlotName, Digest>,
    pub rolled_back: BTreeMap<SlotName, RolledBack>,
    pub unfit: BTreeMap<SlotName, FailedRehearsal>,
}

impl Notes {
    pub fn read(store: &PluginStore, pipeline: &str) -> io::Result<Self> {
        let stored = store.read_decisions()?;
        Ok(Self {
            running: by_name(stored.slots, pipeline),
            rolled_back: by_name(stored.undone, pipeline),
            unfit: by_name(stored.unfit, pipeline),
        })
    }

    pub fn write(self, store: &PluginStore, pipeline: &str) -> io::Result<()> {
        store.write_decisions(&StoredDecisions {
            slots: by_full_name(self.running, pipeline),
            undone: by_full_name(self.rolled_back, pipeline),
            unfit: by_full_name(self.unfit, pipeline),
        })
    }
}

fn by_name<T>(stored: BTreeMap<String, T>, pipeline: &str) -> BTreeMap<SlotName, T> {
    let name = |full_name: &str| {
        let name = full_name.strip_prefix(pipeline)?.strip_prefix('/')?;
        SlotName::parse(name)
    };
    let stored = stored.into_iter();
    stored
        .filter_map(|(full_name, note)| Some((name(&full_name)?, note)))
        .collect()
}

fn by_full_name<T>(notes: BTreeMap<SlotName, T>, pipeline: &str) -> BTreeMap<String, T> {
    let notes = notes.into_iter();
    notes
        .map(|(name, note)| (format!("{pipeline}/{name}"), note))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_reads_its_own_notes() {
        let dir = tempfile::tempdir().unwrap();
        let store = PluginStore::open(dir.path()).unwrap();
        assert_eq!(Notes::read(&store, "scores").unwrap(), Notes::default());
        let digest = Digest::of(b"one");
        let notes = Notes {
            running: BTreeMap::from([(SlotName::of_key(b"a/b c"), digest)]),
            rolled_back: BTreeMap::from([(
                SlotName::Default,
                RolledBack {
                    directive: 7,
                    digests: vec![digest],
                },
            )]),
            unfit: BTreeMap::new(),
        };
        notes.clone().write(&store, "scores").unwrap();
        assert_eq!(Notes::read(&store, "scores").unwrap(), notes);
        assert_eq!(Notes::read(&store, "score").unwrap(), Notes::default());
    }
}
