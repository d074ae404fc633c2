//! The messages in which this host tells its group which plugin it runs in each slot,
//! and the log lines about hosts that come to agree.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytestring::ByteString;
use courtside_types::slot_name::SlotName;
use jiff::Timestamp;

use super::{group_topic::GroupTopic, slot_table::SlotTable};
use crate::slots::{slot::Slot, topic::Presence};

/// How often a host repeats its message, where nothing changes.
const REPEAT_AFTER: Duration = Duration::from_secs(30);

pub(super) struct Announcer {
    host: ByteString,
    /// The last message that this host wrote of each slot, and when.
    written: BTreeMap<SlotName, (Presence, Instant)>,
    /// Whether the hosts agreed on each slot at the last look.
    agreed: BTreeMap<SlotName, bool>,
}

impl Announcer {
    pub const fn new(host: ByteString) -> Self {
        Self {
            host,
            written: BTreeMap::new(),
            agreed: BTreeMap::new(),
        }
    }

    /// Writes a message of each slot that changed, and of each that is due again. A
    /// message that cannot be written now is written at the next look.
    pub fn announce(&mut self, slots: &SlotTable, redoing: u32, topic: &GroupTopic) {
        let now = Instant::now();
        for (name, slot) in slots.iter() {
            let presence = self.presence(name, slot, redoing);
            if self.is_due(&presence, now) && topic.write(presence.record()).is_ok() {
                self.written.insert(name.clone(), (presence, now));
            }
        }
        for name in slots.missing(self.written.keys()) {
            self.withdraw(&name, topic);
        }
        self.log_agreement(slots, topic);
    }

    /// Withdraws all messages, since the host ends.
    pub fn leave(&mut self, topic: &GroupTopic) {
        let names: Vec<SlotName> = self.written.keys().cloned().collect();
        for name in names {
            self.withdraw(&name, topic);
        }
    }

    fn presence(&self, name: &SlotName, slot: &Slot, redoing: u32) -> Presence {
        Presence {
            host: self.host.clone(),
            slot: name.clone(),
            digest: slot.digest(),
            state: slot.state(),
            file: slot.file().state,
            redoing,
            at: Timestamp::now(),
        }
    }

    fn is_due(&self, presence: &Presence, now: Instant) -> bool {
        self.written
            .get(&presence.slot)
            .is_none_or(|(written, at)| {
                let as_before = Presence {
                    at: written.at,
                    ..presence.clone()
                };
                as_before != *written || now.saturating_duration_since(*at) >= REPEAT_AFTER
            })
    }

    fn withdraw(&mut self, name: &SlotName, topic: &GroupTopic) {
        if topic.write(Presence::withdrawn(&self.host, name)).is_ok() {
            self.written.remove(name);
        }
    }

    /// Logs where hosts have come to agree, or no longer agree.
    fn log_agreement(&mut self, slots: &SlotTable, topic: &GroupTopic) {
        let now = Timestamp::now();
        let hosts = topic.records().hosts(now).len();
        for (name, slot) in slots.iter() {
            let agree = topic.records().is_agreed(name, now);
            let before = self.agreed.insert(name.clone(), agree);
            if hosts < 2 || before == Some(agree) {
                continue;
            }
            let digest = slot.digest().map(|digest| digest.short());
            if agree {
                tracing::info!(slot = %slots.full_name(name), hosts, digest, "all hosts run the same plugin");
            } else {
                tracing::info!(slot = %slots.full_name(name), hosts, digest, "hosts run different plugins");
            }
        }
        self.agreed.retain(|name, _| slots.get(name).is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::view::SlotState;

    #[test]
    fn a_message_is_due_when_it_changed_and_now_and_then() {
        let now = Instant::now();
        let mut slot = Slot::new("scores", SlotName::Default, now);
        let mut announcer = Announcer::new("host-1".into());
        let presence = announcer.presence(&SlotName::Default, &slot, 0);
        assert!(announcer.is_due(&presence, now));
        announcer
            .written
            .insert(SlotName::Default, (presence.clone(), now));
        assert!(!announcer.is_due(&presence, now));
        assert!(announcer.is_due(&presence, now + REPEAT_AFTER));
        let again = announcer.presence(&SlotName::Default, &slot, 0);
        assert!(!announcer.is_due(&again, now), "only its time differs");
        slot.enter(SlotState::Loading, None);
        let loading = announcer.presence(&SlotName::Default, &slot, 0);
        assert!(announcer.is_due(&loading, now));
    }
}
