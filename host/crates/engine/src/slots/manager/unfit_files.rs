//! Files that failed their rehearsal, over rollbacks and restarts.
//!
//! Whether a plugin can read the live states depends on the plugin that wrote them. So
//! a file that was rejected once could pass later, with nobody wanting it. The file
//! stays rejected until another file is offered, or somebody puts this one again.

use std::collections::BTreeMap;

use courtside_types::{Digest, slot_name::SlotName};

use crate::slots::store::FailedRehearsal;

/// The failed rehearsal of each slot's file.
#[derive(Default)]
pub(super) struct UnfitFiles {
    slots: BTreeMap<SlotName, FailedRehearsal>,
}

impl UnfitFiles {
    /// Takes over what the host noted before its restart.
    pub fn restore(&mut self, noted: BTreeMap<SlotName, FailedRehearsal>) {
        self.slots = noted;
    }

    /// The failures that the host has to remember over a restart.
    pub const fn to_note(&self) -> &BTreeMap<SlotName, FailedRehearsal> {
        &self.slots
    }

    /// The failure of a slot's file, if no other file was offered since.
    pub fn failure(&self, name: &SlotName, digest: Digest) -> Option<&FailedRehearsal> {
        let failure = self.slots.get(name)?;
        (failure.digest == digest).then_some(failure)
    }

    pub fn insert(&mut self, name: &SlotName, failure: FailedRehearsal) {
        self.slots.insert(name.clone(), failure);
    }

    pub fn remove(&mut self, name: &SlotName) {
        self.slots.remove(name);
    }

    /// The slots whose file is gone: the next file of such a slot is a new offer.
    pub fn without_file(&self, has_file: impl Fn(&SlotName) -> bool) -> Vec<SlotName> {
        let names = self.slots.keys();
        names.filter(|name| !has_file(name)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_stays_unfit_until_another_is_offered() {
        let (name, digest) = (SlotName::Default, Digest::of(b"one"));
        let failure = |digest| FailedRehearsal {
            digest,
            code: "plugin-cannot-read".to_owned(),
            reason: "it reads something else".to_owned(),
            directive: 3,
        };
        let mut unfit = UnfitFiles::default();
        assert_eq!(unfit.failure(&name, digest), None);
        unfit.insert(&name, failure(digest));
        assert_eq!(unfit.failure(&name, digest), Some(&failure(digest)));
        assert_eq!(unfit.failure(&name, Digest::of(b"two")), None);
        assert!(unfit.without_file(|_| true).is_empty());
        assert_eq!(unfit.without_file(|_| false), [SlotName::Default]);

        let mut restored = UnfitFiles::default();
        restored.restore(unfit.to_note().clone());
        assert!(restored.failure(&name, digest).is_some());
        restored.remove(&name);
        assert_eq!(restored.failure(&name, digest), None);
    }
}
