//! Letting a plugin stay: here, and on all hosts.

use courtside_process::clock::now_ms;
use courtside_types::slot_name::SlotName;

use super::manager_loop::ManagerLoop;
use crate::{
    slots::{
        request::{RequestError, RequestResult},
        topic::{Confirmation, TopicRecord},
    },
    worker::thread::Order,
};

impl ManagerLoop {
    /// Lets the plugin that runs in a slot stay.
    pub fn confirm(&mut self, name: &SlotName) -> RequestResult {
        let Some(slot) = self.slots.get(name) else {
            return Err(RequestError::NoSuchSlot(format!(
                "{}/{name}",
                self.setup.pipeline.name
            )));
        };
        let confirmation = Confirmation {
            slot: name.clone(),
            digest: slot.digest(),
            at_ms: now_ms(),
        };
        self.group.tail().say(confirmation.record())?;
        tracing::info!(slot = %slot.full_name(), digest = slot.digest().map(|digest| digest.short()), "plugin confirmed, it can no longer be rolled back");
        self.group
            .known_mut()
            .record(TopicRecord::Confirmation(confirmation));
        self.confirm_where_told();
        self.publish();
        self.shown(name)
    }

    pub fn confirm_where_told(&mut self) {
        for confirmation in self.group.known().confirmations().to_give() {
            for worker in &self.setup.workers {
                let told = self.tell(worker, |done| Order::Confirm {
                    slot: confirmation.slot.clone(),
                    digest: confirmation.digest,
                    at: confirmation.at_ms,
                    done,
                });
                if told.is_none() {
                    return;
                }
            }
            let confirmations = self.group.known_mut().confirmations_mut();
            confirmations.given(&confirmation);
        }
    }
}
