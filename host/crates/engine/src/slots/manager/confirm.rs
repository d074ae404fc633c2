//! Letting a plugin stay: here, and on all hosts.

use courtside_types::slot_name::SlotName;
use jiff::Timestamp;

use super::manager_loop::ManagerLoop;
use crate::{
    slots::{
        ask::{AskError, RequestResult},
        topic::{Confirmation, TopicRecord},
    },
    worker::thread::Order,
};

impl ManagerLoop {
    /// Lets the plugin that runs in a slot stay.
    pub fn confirm(&mut self, name: &SlotName) -> RequestResult {
        let Some(slot) = self.slots.get(name) else {
            return Err(AskError::NoSuchSlot(format!(
                "{}/{name}",
                self.setup.pipeline.name
            )));
        };
        let confirmation = Confirmation {
            slot: name.clone(),
            digest: slot.digest(),
            at: Timestamp::now(),
        };
        self.group.tail().say(confirmation.record())?;
        tracing::info!(slot = %slot.full_name(), digest = slot.digest().map(|digest| digest.short()), "plugin confirmed, it can no longer be rolled back");
        self.group
            .known_mut()
            .hear(TopicRecord::Confirmation(confirmation));
        self.confirm_where_told();
        self.publish();
        self.shown(name)
    }

    pub fn confirm_where_told(&mut self) {
        let told: Vec<Confirmation> = self
            .group
            .known()
            .slots()
            .filter_map(|(_, of)| of.confirmed.clone())
            .collect();
        for confirmation in told {
            let name = &confirmation.slot;
            let given = self.confirmed.get(name);
            if given.is_some_and(|given| *given >= confirmation.at) {
                continue;
            }
            let at = u64::try_from(confirmation.at.as_millisecond()).unwrap_or_default();
            for worker in &self.setup.workers {
                let told = self.tell(worker, |done| Order::Confirm {
                    slot: name.clone(),
                    digest: confirmation.digest,
                    at,
                    done,
                });
                if told.is_none() {
                    return;
                }
            }
            self.confirmed.insert(name.clone(), confirmation.at);
        }
    }
}
