//! Files that failed their rehearsal, over rollbacks and restarts.
//!
//! Whether a plugin can read the live states depends on the plugin that wrote them. So
//! a file that was rejected once could pass later, with nobody wanting it. The file
//! stays rejected until another file is offered, or somebody puts this one again.

use courtside_plugin_host::Rejection;
use courtside_types::{Digest, slot_name::SlotName};

use super::{manager_loop::ManagerLoop, swap::SwapOutcome};
use crate::slots::{
    slot::Slot,
    store::FailedRehearsal,
    view::{FileState, SlotState},
};

impl ManagerLoop {
    /// Whether a slot's file failed its rehearsal, and no other file was offered since.
    /// Where no plugin runs that could go on instead, the file is tried again: a reset
    /// may have deleted the states.
    pub fn is_unfit(&self, name: &SlotName, digest: Digest) -> bool {
        let runs = |name: &SlotName| self.slots.get(name).and_then(Slot::digest).is_some();
        let unfit = self.unfit.get(name);
        unfit.is_some_and(|unfit| unfit.digest == digest)
            && (runs(name) || runs(&SlotName::Default))
    }

    pub fn note_unfit(&mut self, name: &SlotName, digest: Digest, rejection: &Rejection) {
        let unfit = FailedRehearsal {
            digest,
            code: rejection.code.to_owned(),
            reason: rejection.message.clone(),
            directive: self.group.known().directives().followed(name),
        };
        self.unfit.insert(name.clone(), unfit);
        self.note_as_it_is(name);
    }

    /// Leaves a file that failed its rehearsal before. Where no order came since, the
    /// slot goes back to the state that the failure left.
    pub fn leave_unfit(&mut self, name: &SlotName, digest: Digest) -> SwapOutcome {
        let Some(unfit) = self.unfit.get(name).cloned() else {
            return SwapOutcome::Left;
        };
        let is_latest = self.group.known().directives().followed(name) <= unfit.directive;
        let slot = self.slot(name);
        tracing::info!(slot = %slot.full_name(), digest = %digest.short(), code = unfit.code, "file stays rejected: its plugin failed the rehearsal before");
        if is_latest && slot.state() != SlotState::Rejected {
            slot.reject(Some(digest), &unfit.code, &unfit.reason);
        } else {
            slot.leave(
                FileState::Rejected,
                Some(digest),
                &unfit.code,
                &unfit.reason,
            );
        }
        SwapOutcome::Left
    }

    /// Forgets the verdicts on files that are gone: the next file of the slot is a new
    /// offer.
    pub fn forget_unfit_files(&mut self) {
        let is_there = |name: &SlotName| self.slots.get(name).is_some_and(Slot::has_file);
        let gone: Vec<SlotName> = self
            .unfit
            .keys()
            .filter(|name| !is_there(name))
            .cloned()
            .collect();
        for name in gone {
            self.unfit.remove(&name);
            self.note_as_it_is(&name);
        }
    }

    /// Writes the notes that outlive the host, where the plugin of a slot stays.
    pub fn note_as_it_is(&self, name: &SlotName) {
        let digest = self.slots.get(name).and_then(Slot::digest);
        if let Err(error) = self.note(name, digest) {
            tracing::error!(slot = %format!("{}/{name}", self.setup.pipeline.name), code = "plugin-store-failed", %error, "decision about a slot's file cannot be noted on disk");
        }
    }
}
