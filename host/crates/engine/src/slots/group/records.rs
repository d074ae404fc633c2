//! All that the host remembers of the topic. It remembers only the last [`SLOTS_KEPT`]
//! slots that a record was about, and those in which a directive stands.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytestring::ByteString;
use courtside_types::{Digest, slot_name::SlotName};
use jiff::{SignedDuration, Timestamp};

use super::{
    confirmations::Confirmations,
    directives::Directives,
    swaps::{SwapHistory, TrialRule},
};
use crate::{
    slots::topic::{Presence, TopicRecord},
    worker::takeover::Directive,
};

/// Slots remembered.
const SLOTS_KEPT: usize = 4096;
/// A host that has written nothing for this long is gone.
const HOST_GONE_AFTER: SignedDuration = SignedDuration::from_secs(120);
/// After this long, nobody needs to know the last message of a host that is gone.
const HOST_FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_secs(60 * 60);

/// The records of all slots, as far as they are remembered.
#[derive(Debug)]
pub struct GroupRecords {
    slots: BTreeMap<SlotName, SlotRecords>,
    directives: Directives,
    confirmations: Confirmations,
    confirm_after: Duration,
    /// Each record about a slot has the next number, which tells the slots in use from
    /// those that the group may forget.
    clock: u64,
}

#[derive(Debug, Default)]
struct SlotRecords {
    swaps: SwapHistory,
    hosts: BTreeMap<ByteString, Presence>,
    /// The number of the slot's latest record.
    touched: u64,
}

impl SlotRecords {
    fn present(&self, now: Timestamp) -> impl Iterator<Item = &Presence> {
        self.hosts
            .values()
            .filter(move |presence| now.duration_since(presence.at) < HOST_GONE_AFTER)
    }
}

impl GroupRecords {
    #[must_use]
    pub fn new(confirm_after: Duration) -> Self {
        Self {
            slots: BTreeMap::new(),
            directives: Directives::default(),
            confirmations: Confirmations::default(),
            confirm_after,
            clock: 0,
        }
    }

    /// Takes note of a record; pieces of plugins are for the library.
    pub fn record(&mut self, record: TopicRecord) {
        match record {
            TopicRecord::Takeover(takeover) => {
                self.touch(&takeover.slot.clone()).swaps.record(takeover);
            }
            TopicRecord::Presence(presence) => {
                let slot = self.touch(&presence.slot);
                slot.hosts.insert(presence.host.clone(), presence);
            }
            TopicRecord::Gone { host, slot } => {
                self.touch(&slot).hosts.remove(&host);
            }
            TopicRecord::Directive(directive) => {
                self.touch(&directive.slot);
                self.directives.record(directive);
            }
            TopicRecord::Withdrawn { slot, place } => {
                self.touch(&slot);
                self.directives.record_withdrawal(&slot, place);
            }
            TopicRecord::Confirmation(confirmation) => {
                self.touch(&confirmation.slot);
                self.confirmations.record(confirmation);
            }
            TopicRecord::Piece { .. } | TopicRecord::NoPiece { .. } => {}
        }
    }

    fn touch(&mut self, name: &SlotName) -> &mut SlotRecords {
        if self.slots.len() >= SLOTS_KEPT
            && !self.slots.contains_key(name)
            && let Some(oldest) = self
                .slots
                .iter()
                .filter(|(name, _)| self.directives.latest(name).is_none())
                .min_by_key(|(_, slot)| slot.touched)
                .map(|(name, _)| name.clone())
        {
            self.slots.remove(&oldest);
            self.confirmations.forget(&oldest);
        }
        self.clock += 1;
        let slot = self.slots.entry(name.clone()).or_default();
        slot.touched = self.clock;
        slot
    }

    #[must_use]
    pub const fn directives(&self) -> &Directives {
        &self.directives
    }

    pub const fn directives_mut(&mut self) -> &mut Directives {
        &mut self.directives
    }

    #[must_use]
    pub const fn confirmations(&self) -> &Confirmations {
        &self.confirmations
    }

    pub const fn confirmations_mut(&mut self) -> &mut Confirmations {
        &mut self.confirmations
    }

    /// The swaps of a slot; none if no record was about the slot.
    #[must_use]
    pub fn swaps(&self, slot: &SlotName) -> Option<&SwapHistory> {
        self.slots.get(slot).map(|records| &records.swaps)
    }

    /// Whether the plugin that a directive undoes was put in force again after the
    /// rollback, and still runs.
    #[must_use]
    pub fn runs_again(&self, directive: &Directive) -> bool {
        let swaps = self.swaps(&directive.slot);
        swaps.is_some_and(|swaps| swaps.runs_again(directive))
    }

    /// The rule of the trials in a slot.
    #[must_use]
    pub fn trial_rule(&self, slot: &SlotName) -> TrialRule {
        TrialRule::new(self.confirmations.at_ms(slot), self.confirm_after)
    }

    /// Until when the latest swap of a slot to a plugin is on trial, in milliseconds
    /// since 1970.
    #[must_use]
    pub fn trial_until(&self, slot: &SlotName, digest: Option<Digest>) -> Option<u64> {
        self.swaps(slot)?.trial_of(digest, self.trial_rule(slot))
    }

    /// Until when a swap that this host began at `began_ms` is on trial, as
    /// [`trial_until`](Self::trial_until).
    #[must_use]
    pub fn trial_since(
        &self,
        slot: &SlotName,
        digest: Option<Digest>,
        began_ms: u64,
    ) -> Option<u64> {
        let rule = self.trial_rule(slot);
        match self.swaps(slot) {
            Some(swaps) => swaps.trial_since(digest, began_ms, rule),
            None => rule.end(began_ms),
        }
    }

    /// The messages of the hosts that are present, for a slot.
    pub fn present(&self, slot: &SlotName, now: Timestamp) -> impl Iterator<Item = &Presence> {
        let slot = self.slots.get(slot).into_iter();
        slot.flat_map(move |records| records.present(now))
    }

    /// The hosts that have written anything lately.
    #[must_use]
    pub fn hosts(&self, now: Timestamp) -> BTreeSet<&ByteString> {
        self.slots
            .values()
            .flat_map(|records| records.present(now))
            .map(|presence| &presence.host)
            .collect()
    }

    /// Whether all hosts that are present run the same plugin in a slot.
    #[must_use]
    pub fn is_agreed(&self, slot: &SlotName, now: Timestamp) -> bool {
        let records = self.slots.get(slot);
        let mut digests = self.hosts(now).into_iter().map(|host| {
            let presence = records.and_then(|records| records.hosts.get(host));
            presence.and_then(|presence| presence.digest)
        });
        let first = digests.next();
        digests.all(|digest| Some(digest) == first)
    }

    /// The host and slot of each message from a host that has written nothing for long.
    #[must_use]
    pub fn long_gone(&self, now: Timestamp) -> Vec<(ByteString, SlotName)> {
        let gone = self.slots.iter().flat_map(|(name, records)| {
            let hosts = records.hosts.values();
            hosts
                .filter(|presence| now.duration_since(presence.at) >= HOST_FORGOTTEN_AFTER)
                .map(|presence| (presence.host.clone(), name.clone()))
        });
        gone.collect()
    }

    /// Plugins that somebody may still ask for: those of swaps that are
    /// remembered, of hosts, and of directives.
    #[must_use]
    pub fn named(&self) -> BTreeSet<Digest> {
        let mut named = BTreeSet::new();
        for records in self.slots.values() {
            for swap in records.swaps.iter() {
                named.extend(swap.digest.into_iter().chain(swap.previous));
            }
            let hosts = records.hosts.values();
            named.extend(hosts.filter_map(|presence| presence.digest));
        }
        for directive in self.directives.standing() {
            named.extend(directive.to.into_iter().chain([directive.bad]));
        }
        named
    }

    /// Plugins that a rollback would need again.
    #[must_use]
    pub fn on_trial(&self, now_ms: u64) -> BTreeSet<Digest> {
        let mut wanted = BTreeSet::new();
        for (name, records) in &self.slots {
            let rule = self.trial_rule(name);
            let trials = records.swaps.iter().filter(|swap| {
                let until = swap.trial_until(swap.at_ms(), rule);
                until.is_some_and(|until| until > now_ms)
            });
            wanted.extend(trials.filter_map(|swap| swap.previous));
            let latest = self.directives.latest(name);
            wanted.extend(latest.and_then(|directive| directive.to));
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use courtside_types::{Offset, PartitionId};

    use super::*;
    use crate::{
        slots::{
            topic::Confirmation,
            view::{FileState, SlotState},
        },
        worker::takeover::history::{Kind, TakeoverRecord},
    };

    const SLOT: SlotName = SlotName::Default;
    const HOUR: Duration = Duration::from_secs(3600);
    const START_SECONDS: u64 = 1_800_000_000;

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    const fn at_ms(seconds: u64) -> u64 {
        (START_SECONDS + seconds) * 1000
    }

    fn at(seconds: u64) -> Timestamp {
        crate::slots::time::timestamp(at_ms(seconds))
    }

    fn swap(seq: u32, from: Option<&str>, to: &str) -> TopicRecord {
        TopicRecord::Takeover(TakeoverRecord {
            slot: SLOT,
            partition: PartitionId(0),
            seq,
            offset: Offset(u64::from(seq) * 10),
            until: None,
            digest: Some(digest(to)),
            plugin: to.to_owned(),
            previous: from.map(digest),
            host: "here".to_owned(),
            at: at_ms(seq.into()),
            kind: Kind::Swap,
            attempt: 1,
        })
    }

    fn confirmation(seconds: u64) -> TopicRecord {
        TopicRecord::Confirmation(Confirmation {
            slot: SLOT,
            digest: Some(digest("b")),
            at_ms: at_ms(seconds),
        })
    }

    fn presence(host: &str, plugin: &str, seconds: u64) -> TopicRecord {
        TopicRecord::Presence(Presence {
            host: host.into(),
            slot: SLOT,
            digest: Some(digest(plugin)),
            state: SlotState::Active,
            file: FileState::Runs,
            redoing: 0,
            at: at(seconds),
        })
    }

    fn recorded(all: impl IntoIterator<Item = TopicRecord>) -> GroupRecords {
        let mut records = GroupRecords::new(HOUR);
        all.into_iter().for_each(|record| records.record(record));
        records
    }

    #[test]
    fn a_swap_is_on_trial_until_it_is_confirmed() {
        let mut records = recorded([swap(0, None, "a"), swap(5, Some("a"), "b")]);
        let trial = |records: &GroupRecords, of: &str| records.trial_until(&SLOT, Some(digest(of)));
        assert_eq!(trial(&records, "a"), None, "there was nothing before");
        assert_eq!(trial(&records, "b"), Some(at_ms(3605)));
        assert_eq!(records.on_trial(at_ms(3604)), BTreeSet::from([digest("a")]));
        assert!(records.on_trial(at_ms(3605)).is_empty());
        records.record(confirmation(4));
        assert_eq!(trial(&records, "b"), Some(at_ms(3605)), "it was of another");
        records.record(confirmation(6));
        assert_eq!(trial(&records, "b"), None);
    }

    /// The plugin ran before, and the trial of that swap is over or is another one.
    #[test]
    fn a_swap_that_nobody_has_reported_yet_is_on_trial_since_it_began() {
        let mut records = recorded([
            swap(0, None, "a"),
            swap(1, Some("a"), "b"),
            swap(2, Some("b"), "a"),
        ]);
        let since =
            |records: &GroupRecords| records.trial_since(&SLOT, Some(digest("b")), at_ms(10));
        assert_eq!(since(&records), Some(at_ms(3610)));
        // In a partition without events the swap happens a moment later.
        records.record(swap(11, Some("a"), "b"));
        assert_eq!(since(&records), Some(at_ms(3611)));
        records.record(confirmation(12));
        assert_eq!(since(&records), None);
        assert_eq!(
            since(&GroupRecords::new(HOUR)),
            Some(at_ms(3610)),
            "a key's first plugin"
        );
    }

    #[test]
    fn a_host_is_there_while_it_says_so() {
        let mut records = recorded([presence("one", "a", 0), presence("two", "b", 60)]);
        let there = |records: &GroupRecords, seconds| {
            let hosts = records.hosts(at(seconds));
            hosts.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(there(&records, 119), ["one", "two"]);
        assert_eq!(there(&records, 120), ["two"]);
        assert!(records.long_gone(at(3599)).is_empty());
        assert_eq!(records.long_gone(at(3600)), [("one".into(), SLOT)]);
        records.record(TopicRecord::Gone {
            host: "two".into(),
            slot: SLOT,
        });
        assert!(there(&records, 119).iter().all(|host| host == "one"));
    }

    #[test]
    fn hosts_agree_while_all_that_are_present_run_the_same_plugin() {
        let mut records = recorded([presence("one", "a", 0)]);
        assert!(records.is_agreed(&SLOT, at(0)));
        records.record(presence("two", "b", 60));
        assert!(!records.is_agreed(&SLOT, at(60)));
        assert!(records.is_agreed(&SLOT, at(120)), "one is gone");
        records.record(presence("one", "b", 121));
        assert!(records.is_agreed(&SLOT, at(121)));
        let other = SlotName::of_key(b"other");
        assert!(
            records.is_agreed(&other, at(121)),
            "nobody runs a plugin there"
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut records = recorded([confirmation(1)]);
        let withdrawn = |key: usize| TopicRecord::Withdrawn {
            slot: SlotName::of_key(format!("{key}").as_bytes()),
            place: 0,
        };
        for key in 0..SLOTS_KEPT + 10 {
            records.record(withdrawn(key));
        }
        assert_eq!(records.slots.len(), SLOTS_KEPT);
        assert_eq!(records.confirmations.at_ms(&SLOT), None);
    }

    #[test]
    fn a_slot_with_a_standing_directive_is_not_forgotten() {
        let directive = Directive {
            id: 1,
            slot: SLOT,
            bad: digest("b"),
            to: None,
            at: 0,
        };
        let mut records = recorded([
            swap(1, Some("a"), "b"),
            TopicRecord::Directive(directive),
            confirmation(1),
        ]);
        for key in 0..SLOTS_KEPT + 10 {
            records.record(TopicRecord::Withdrawn {
                slot: SlotName::of_key(format!("{key}").as_bytes()),
                place: 0,
            });
        }
        assert!(records.swaps(&SLOT).is_some());
        assert_eq!(records.confirmations.at_ms(&SLOT), Some(at_ms(1)));
    }

    #[test]
    fn what_is_named_is_kept() {
        let directive = Directive {
            id: 1,
            slot: SLOT,
            bad: digest("c"),
            to: Some(digest("d")),
            at: 0,
        };
        let records = recorded([
            swap(1, Some("a"), "b"),
            presence("one", "e", 0),
            TopicRecord::Directive(directive),
        ]);
        let wanted = ["a", "b", "c", "d", "e"].map(digest);
        assert_eq!(records.named(), BTreeSet::from(wanted));
    }
}
