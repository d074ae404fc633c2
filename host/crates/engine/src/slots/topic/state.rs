//! The host's memory of the topic, as far as anybody asks for it. It has the last
//! [`SWAPS_KEPT`] swaps of each slot, with a place for each partition, and an entry for
//! each host. Only the last [`SLOTS_KEPT`] slots that a record was about are
//! remembered.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytestring::ByteString;
use courtside_types::{Digest, Offset, PartitionId, slot_name::SlotName};
use jiff::{SignedDuration, Timestamp};

use super::{Confirmation, Presence, TopicRecord};
use crate::worker::takeover::{
    DIRECTIVES_MAX, Directive,
    history::{Kind, TakeoverRecord},
};

/// Swaps remembered of each slot.
const SWAPS_KEPT: usize = 64;
/// Slots remembered.
const SLOTS_KEPT: usize = 4096;
/// A host that has said nothing for this long is gone.
pub const HOST_GONE_AFTER: SignedDuration = SignedDuration::from_secs(120);
/// After this long, nobody needs to know the last message of a host that is gone.
const HOST_FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_secs(60 * 60);

/// The records of all slots, as far as they are remembered.
#[derive(Debug, Default)]
pub struct TopicState {
    slots: BTreeMap<SlotName, OfSlot>,
    clock: u64,
}

/// The records of one slot, as far as they are remembered.
#[derive(Debug, Default)]
pub struct OfSlot {
    /// The swaps, the newest last.
    pub swaps: VecDeque<Swap>,
    pub hosts: BTreeMap<ByteString, Presence>,
    /// The orders to go back that stand, by their ids.
    pub directives: BTreeMap<u64, Directive>,
    pub confirmed: Option<Confirmation>,
    /// The number of each partition's latest swap.
    latest: BTreeMap<PartitionId, u64>,
    swaps_seen: u64,
    touched: u64,
}

/// One swap, which happens in each partition when its worker comes to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    number: u64,
    pub kind: Kind,
    pub digest: Option<Digest>,
    pub plugin: ByteString,
    pub previous: Option<Digest>,
    pub attempt: u32,
    pub places: BTreeMap<PartitionId, SwapPlace>,
    /// Whether no plugin ran before that anybody could go back to. The first plugin of
    /// a key is no such swap: a rollback of it leads back to the default slot.
    is_first: bool,
}

/// A stretch of a partition that a plugin processed.
#[derive(Clone, Copy, Debug)]
pub struct Stint<'a> {
    pub swap: &'a Swap,
    pub place: &'a SwapPlace,
    /// The offset at which another plugin took over; none while that has not happened.
    pub until: Option<Offset>,
}

/// Where a swap happened in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwapPlace {
    pub seq: u32,
    pub offset: Offset,
    /// For a rollback: the offset below which events are processed again.
    pub until: Option<Offset>,
    pub at: Timestamp,
    pub host: ByteString,
}

impl TopicState {
    #[must_use]
    pub fn slot(&self, name: &SlotName) -> Option<&OfSlot> {
        self.slots.get(name)
    }

    pub fn slots(&self) -> impl Iterator<Item = (&SlotName, &OfSlot)> {
        self.slots.iter()
    }

    /// Takes note of a record; pieces of plugins are for the library.
    pub fn hear(&mut self, said: TopicRecord) {
        match said {
            TopicRecord::Takeover(takeover) => self.of(&takeover.slot.clone()).took_over(takeover),
            TopicRecord::Presence(presence) => {
                let of = self.of(&presence.slot);
                of.hosts.insert(presence.host.clone(), presence);
            }
            TopicRecord::Gone { host, slot } => {
                self.of(&slot).hosts.remove(&host);
            }
            TopicRecord::Directive(directive) => {
                let of = self.of(&directive.slot);
                of.clear(Directive::place(directive.id));
                of.directives.insert(directive.id, directive);
            }
            TopicRecord::Withdrawn { slot, place } => self.of(&slot).clear(place),
            TopicRecord::Confirmation(confirmation) => {
                let of = self.of(&confirmation.slot);
                of.confirmed = Some(confirmation);
            }
            TopicRecord::Piece { .. } | TopicRecord::NoPiece { .. } => {}
        }
    }

    fn of(&mut self, name: &SlotName) -> &mut OfSlot {
        if self.slots.len() >= SLOTS_KEPT
            && !self.slots.contains_key(name)
            && let Some(oldest) = self
                .slots
                .iter()
                .filter(|(_, of)| of.directives.is_empty())
                .min_by_key(|(_, of)| of.touched)
                .map(|(name, _)| name.clone())
        {
            self.slots.remove(&oldest);
        }
        self.clock += 1;
        let of = self.slots.entry(name.clone()).or_default();
        of.touched = self.clock;
        of
    }

    /// The hosts that have said anything lately.
    #[must_use]
    pub fn hosts(&self, now: Timestamp) -> BTreeSet<&ByteString> {
        self.slots
            .values()
            .flat_map(|of| of.present(now))
            .map(|presence| &presence.host)
            .collect()
    }

    /// The host and slot of each message from a host that has said nothing for long.
    #[must_use]
    pub fn long_gone(&self, now: Timestamp) -> Vec<(ByteString, SlotName)> {
        let gone = self.slots.iter().flat_map(|(name, of)| {
            let hosts = of.hosts.values();
            hosts
                .filter(|presence| now.duration_since(presence.at) >= HOST_FORGOTTEN_AFTER)
                .map(|presence| (presence.host.clone(), name.clone()))
        });
        gone.collect()
    }

    /// Plugins that somebody may still ask for: those of swaps that are
    /// remembered, of hosts, and of orders.
    #[must_use]
    pub fn named(&self) -> BTreeSet<Digest> {
        let mut named = BTreeSet::new();
        for of in self.slots.values() {
            for swap in &of.swaps {
                named.extend(swap.digest.into_iter().chain(swap.previous));
            }
            named.extend(of.hosts.values().filter_map(|presence| presence.digest));
            for directive in of.directives.values() {
                named.extend(directive.to.into_iter().chain([directive.bad]));
            }
        }
        named
    }

    /// Plugins that a rollback would need again.
    #[must_use]
    pub fn on_trial(&self, now: Timestamp, confirm_after: Duration) -> BTreeSet<Digest> {
        let mut wanted = BTreeSet::new();
        for of in self.slots.values() {
            let trials = of.swaps.iter().filter(|swap| {
                swap.trial_until(of.confirmed.as_ref(), confirm_after)
                    .is_some_and(|until| until > now)
            });
            wanted.extend(trials.filter_map(|swap| swap.previous));
            wanted.extend(of.latest_directive().and_then(|directive| directive.to));
        }
        wanted
    }
}

impl OfSlot {
    fn clear(&mut self, place: u64) {
        self.directives
            .retain(|id, _| Directive::place(*id) != place);
    }

    #[must_use]
    pub fn latest_directive(&self) -> Option<&Directive> {
        self.directives.values().next_back()
    }

    /// An id of at least `first` for the next directive. Its place is free, or that of
    /// the oldest directive.
    #[must_use]
    pub fn next_directive(&self, first: u64) -> u64 {
        let in_place = |id: &u64| {
            let mut ids = self.directives.keys().copied();
            ids.find(|other| Directive::place(*other) == Directive::place(*id))
        };
        let ids = (0..DIRECTIVES_MAX as u64).map(|more| first.saturating_add(more));
        ids.min_by_key(in_place).unwrap_or(first)
    }

    /// Whether the plugin that a directive undoes was put in force again after the
    /// rollback, and still runs.
    #[must_use]
    pub fn runs_again(&self, directive: &Directive) -> bool {
        let bad = Some(directive.bad);
        let ordered_at = timestamp(directive.at);
        let mut since = self.swaps.iter().filter(|swap| swap.at() > ordered_at);
        let is_done = since.any(|swap| swap.kind == Kind::Rollback && swap.previous == bad);
        is_done
            && since
                .next_back()
                .is_some_and(|last| last.kind == Kind::Swap && last.digest == bad)
    }

    fn took_over(&mut self, takeover: TakeoverRecord) {
        let partition = takeover.partition;
        let after = self.latest.get(&partition).copied();
        let same = self.swaps.iter_mut().rev().find(|swap| {
            swap.kind == takeover.kind
                && swap.digest == takeover.digest
                && swap.previous == takeover.previous
                && swap.attempt == takeover.attempt
        });
        let place = SwapPlace {
            seq: takeover.seq,
            offset: takeover.offset,
            until: takeover.until,
            at: timestamp(takeover.at),
            host: takeover.host.into(),
        };
        // A partition goes through its swaps in order, so a swap before its latest is
        // another one.
        if let Some(swap) = same
            && after.is_none_or(|after| swap.number > after)
        {
            swap.places.insert(partition, place);
            self.latest.insert(partition, swap.number);
            return;
        }
        if self.swaps.len() >= SWAPS_KEPT {
            self.swaps.pop_front();
        }
        self.swaps_seen += 1;
        self.latest.insert(partition, self.swaps_seen);
        self.swaps.push_back(Swap {
            number: self.swaps_seen,
            kind: takeover.kind,
            digest: takeover.digest,
            plugin: takeover.plugin.into(),
            previous: takeover.previous,
            attempt: takeover.attempt,
            is_first: takeover.slot == SlotName::Default
                && takeover.previous.is_none()
                && takeover.seq <= 1,
            places: BTreeMap::from([(partition, place)]),
        });
    }

    /// The messages of the hosts that are present, for the slot.
    pub fn present(&self, now: Timestamp) -> impl Iterator<Item = &Presence> {
        self.hosts
            .values()
            .filter(move |presence| now.duration_since(presence.at) < HOST_GONE_AFTER)
    }

    /// Until when the latest swap to a plugin is on trial.
    #[must_use]
    pub fn trial_of(&self, digest: Option<Digest>, confirm_after: Duration) -> Option<Timestamp> {
        let swap = self.latest_swap_to(digest)?;
        swap.trial_until(self.confirmed.as_ref(), confirm_after)
    }

    /// Until when a swap that this host began at `began` is on trial. Workers report
    /// the swap only with their next commits. Before that, an earlier swap to the
    /// plugin tells nothing of this one.
    #[must_use]
    pub fn trial_since(
        &self,
        digest: Option<Digest>,
        began: Timestamp,
        confirm_after: Duration,
    ) -> Option<Timestamp> {
        let is_told = |swap: &Swap| swap.at() >= began;
        if self.latest_swap_to(digest).is_some_and(is_told) {
            return self.trial_of(digest, confirm_after);
        }
        let is_confirmed = |confirmed: &Confirmation| confirmed.at >= began;
        if self.confirmed.as_ref().is_some_and(is_confirmed) {
            return None;
        }
        Some(end_of_trial(began, confirm_after))
    }

    /// The stints of a plugin in a partition since it was last undone there, the oldest
    /// first.
    #[must_use]
    pub fn stints(&self, partition: PartitionId, digest: Digest) -> Vec<Stint<'_>> {
        let mut stints: Vec<Stint<'_>> = Vec::new();
        for swap in &self.swaps {
            let Some(place) = swap.places.get(&partition) else {
                continue;
            };
            if let Some(last) = stints.last_mut().filter(|last| last.until.is_none()) {
                last.until = Some(place.offset.max(last.place.offset));
            }
            if swap.kind == Kind::Rollback && swap.previous == Some(digest) {
                stints.clear();
            } else if swap.kind == Kind::Swap && swap.digest == Some(digest) {
                stints.push(Stint {
                    swap,
                    place,
                    until: None,
                });
            }
        }
        stints
    }

    fn latest_swap_to(&self, digest: Option<Digest>) -> Option<&Swap> {
        let mut swaps = self.swaps.iter().rev();
        swaps.find(|swap| swap.digest == digest && swap.kind == Kind::Swap)
    }
}

impl Swap {
    /// When the swap last happened in any partition.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        let at = self.places.values().map(|place| place.at).max();
        at.unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// Until when the swap can be undone; none where it never could be, or was
    /// confirmed.
    #[must_use]
    pub fn trial_until(
        &self,
        confirmed: Option<&Confirmation>,
        confirm_after: Duration,
    ) -> Option<Timestamp> {
        self.trial_since(self.at(), confirmed, confirm_after)
    }

    /// Until when the swap can be undone in one partition.
    #[must_use]
    pub fn trial_of_place(
        &self,
        place: &SwapPlace,
        confirmed: Option<&Confirmation>,
        confirm_after: Duration,
    ) -> Option<Timestamp> {
        self.trial_since(place.at, confirmed, confirm_after)
    }

    fn trial_since(
        &self,
        at: Timestamp,
        confirmed: Option<&Confirmation>,
        confirm_after: Duration,
    ) -> Option<Timestamp> {
        if self.kind != Kind::Swap || self.is_first {
            return None;
        }
        if confirmed.is_some_and(|confirmed| confirmed.at >= at) {
            return None;
        }
        Some(end_of_trial(at, confirm_after))
    }
}

fn end_of_trial(began: Timestamp, confirm_after: Duration) -> Timestamp {
    let after = SignedDuration::try_from(confirm_after).unwrap_or(SignedDuration::MAX);
    began.saturating_add(after).unwrap_or(Timestamp::MAX)
}

/// The timestamp of a number of milliseconds since 1970.
#[must_use]
pub fn timestamp(ms: u64) -> Timestamp {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: SlotName = SlotName::Default;
    const HOUR: Duration = Duration::from_secs(3600);

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn swap(partition: u32, seq: u32, from: Option<&str>, to: &str) -> TopicRecord {
        TopicRecord::Takeover(TakeoverRecord {
            slot: SLOT,
            partition: PartitionId(partition),
            seq,
            offset: Offset(u64::from(seq) * 10),
            until: None,
            digest: Some(digest(to)),
            plugin: to.to_owned(),
            previous: from.map(digest),
            host: "here".to_owned(),
            at: at(seq.into()).as_millisecond().try_into().unwrap(),
            kind: Kind::Swap,
            attempt: 1,
        })
    }

    fn presence(host: &str, plugin: &str, seconds: i64) -> TopicRecord {
        TopicRecord::Presence(Presence {
            host: host.into(),
            slot: SLOT,
            digest: Some(digest(plugin)),
            state: crate::slots::view::SlotState::Active,
            file: crate::slots::view::FileState::Runs,
            redoing: 0,
            at: at(seconds),
        })
    }

    fn heard(said: impl IntoIterator<Item = TopicRecord>) -> TopicState {
        let mut known = TopicState::default();
        said.into_iter().for_each(|said| known.hear(said));
        known
    }

    #[test]
    fn a_swap_is_one_for_all_partitions() {
        let known = heard([
            swap(0, 0, None, "a"),
            swap(1, 0, None, "a"),
            swap(0, 1, Some("a"), "b"),
            swap(0, 2, Some("b"), "a"),
            swap(0, 3, Some("a"), "b"),
            // Partition 1 reports late, and in its own order.
            swap(1, 1, Some("a"), "b"),
            swap(1, 2, Some("b"), "a"),
        ]);
        let of = known.slot(&SLOT).unwrap();
        let swaps: Vec<_> = of
            .swaps
            .iter()
            .map(|swap| (&*swap.plugin, swap.places.len()))
            .collect();
        assert_eq!(swaps, [("a", 2), ("b", 1), ("a", 1), ("b", 2), ("a", 1)]);
        let latest = |partition| {
            let mut swaps = of.swaps.iter().rev();
            swaps.find_map(|swap| {
                let place = swap.places.get(&PartitionId(partition))?;
                Some((&*swap.plugin, place.seq))
            })
        };
        assert_eq!(latest(0), Some(("b", 3)));
        assert_eq!(latest(1), Some(("a", 2)));
    }

    #[test]
    fn a_swap_is_on_trial_until_it_is_confirmed() {
        let mut known = heard([swap(0, 0, None, "a"), swap(0, 5, Some("a"), "b")]);
        let trial = |known: &TopicState, of: &str| {
            known.slot(&SLOT).unwrap().trial_of(Some(digest(of)), HOUR)
        };
        assert_eq!(trial(&known, "a"), None, "there was nothing before");
        assert_eq!(trial(&known, "b"), Some(at(3605)));
        assert_eq!(
            known.on_trial(at(3604), HOUR),
            BTreeSet::from([digest("a")])
        );
        assert!(known.on_trial(at(3605), HOUR).is_empty());
        let confirm = |seconds| {
            TopicRecord::Confirmation(Confirmation {
                slot: SLOT,
                digest: Some(digest("b")),
                at: at(seconds),
            })
        };
        known.hear(confirm(4));
        assert_eq!(trial(&known, "b"), Some(at(3605)), "it was of another");
        known.hear(confirm(6));
        assert_eq!(trial(&known, "b"), None);
    }

    #[test]
    fn a_plugin_has_a_stint_each_time_that_it_takes_over() {
        let moved = |seq, from, to| match swap(0, seq, Some(from), to) {
            TopicRecord::Takeover(told) => TopicRecord::Takeover(TakeoverRecord {
                kind: Kind::Return,
                ..told
            }),
            said => said,
        };
        let stints = |known: &TopicState| {
            let of = known.slot(&SLOT).unwrap();
            let stints = of.stints(PartitionId(0), digest("b"));
            let bounds = stints.iter().map(|stint| {
                let until = stint.until.map(|until| until.0);
                (stint.place.offset.0, until)
            });
            bounds.collect::<Vec<_>>()
        };
        let mut known = heard([
            swap(0, 0, None, "a"),
            swap(0, 1, Some("a"), "b"),
            swap(1, 1, Some("a"), "b"),
            moved(2, "b", "a"),
            swap(0, 3, Some("a"), "b"),
        ]);
        assert_eq!(stints(&known), [(10, Some(20)), (30, None)]);
        let of = known.slot(&SLOT).unwrap();
        assert_eq!(
            of.trial_of(Some(digest("a")), HOUR),
            None,
            "nobody swapped to it"
        );
        let TopicRecord::Takeover(told) = swap(0, 4, Some("b"), "a") else {
            panic!("a takeover")
        };
        known.hear(TopicRecord::Takeover(TakeoverRecord {
            kind: Kind::Rollback,
            attempt: 2,
            ..told
        }));
        assert_eq!(stints(&known), [], "all of it is undone");
        known.hear(swap(0, 5, Some("a"), "b"));
        assert_eq!(stints(&known), [(50, None)]);
    }

    /// The plugin ran before, and the trial of that swap is over or is another one.
    #[test]
    fn a_swap_that_nobody_has_told_of_yet_is_on_trial_since_it_began() {
        let mut known = heard([
            swap(0, 0, None, "a"),
            swap(0, 1, Some("a"), "b"),
            swap(0, 2, Some("b"), "a"),
        ]);
        let since = |known: &TopicState| {
            let of = known.slot(&SLOT).unwrap();
            of.trial_since(Some(digest("b")), at(10), HOUR)
        };
        assert_eq!(since(&known), Some(at(3610)));
        // In a partition without events the swap happens a moment later.
        known.hear(swap(0, 11, Some("a"), "b"));
        assert_eq!(since(&known), Some(at(3611)));
        known.hear(TopicRecord::Confirmation(Confirmation {
            slot: SLOT,
            digest: Some(digest("b")),
            at: at(12),
        }));
        assert_eq!(since(&known), None);
        assert_eq!(
            OfSlot::default().trial_since(Some(digest("b")), at(10), HOUR),
            Some(at(3610)),
            "a key's first plugin"
        );
    }

    #[test]
    fn a_host_is_there_while_it_says_so() {
        let mut known = heard([presence("one", "a", 0), presence("two", "b", 60)]);
        let there = |known: &TopicState, seconds| {
            let hosts = known.hosts(at(seconds));
            hosts.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(there(&known, 119), ["one", "two"]);
        assert_eq!(there(&known, 120), ["two"]);
        assert!(known.long_gone(at(3599)).is_empty());
        assert_eq!(known.long_gone(at(3600)), [("one".into(), SLOT)]);
        known.hear(TopicRecord::Gone {
            host: "two".into(),
            slot: SLOT,
        });
        assert!(there(&known, 119).iter().all(|host| host == "one"));
    }

    #[test]
    fn memory_is_bounded() {
        let mut known = TopicState::default();
        for seq in 0..1000 {
            known.hear(swap(0, seq, Some("a"), &format!("{seq}")));
        }
        let of = known.slot(&SLOT).unwrap();
        assert_eq!(of.swaps.len(), SWAPS_KEPT);
        assert_eq!(&*of.swaps.back().unwrap().plugin, "999");
        for key in 0..SLOTS_KEPT + 10 {
            known.hear(TopicRecord::Withdrawn {
                slot: SlotName::of_key(format!("{key}").as_bytes()),
                place: 0,
            });
        }
        assert_eq!(known.slots().count(), SLOTS_KEPT);
    }

    fn directive(id: u64, bad: &str, to: &str, seconds: i64) -> Directive {
        Directive {
            id,
            slot: SLOT,
            bad: digest(bad),
            to: Some(digest(to)),
            at: at(seconds).as_millisecond().try_into().unwrap(),
        }
    }

    #[test]
    fn directives_stand_beside_each_other() {
        let mut known = heard([
            TopicRecord::Directive(directive(100, "c", "b", 0)),
            TopicRecord::Directive(directive(101, "b", "a", 0)),
        ]);
        let ids = |known: &TopicState| {
            let of = known.slot(&SLOT).unwrap();
            of.directives.keys().copied().collect::<Vec<_>>()
        };
        assert_eq!(ids(&known), [100, 101]);
        known.hear(TopicRecord::Withdrawn {
            slot: SLOT,
            place: Directive::place(100),
        });
        assert_eq!(ids(&known), [101]);
        // Ids come from times, and are not consecutive. A new directive still takes a
        // free place, or that of the oldest.
        let mut next = 101;
        for _ in 0..100 {
            next = known.slot(&SLOT).unwrap().next_directive(next + 16);
            known.hear(TopicRecord::Directive(directive(next, "c", "b", 0)));
        }
        let all = ids(&known);
        assert_eq!(all.len(), DIRECTIVES_MAX);
        let first = known.slot(&SLOT).unwrap().next_directive(next + 1);
        assert_eq!(Directive::place(first), Directive::place(all[0]));
    }

    #[test]
    fn what_was_undone_may_run_again() {
        let rollback = |seq, attempt| match swap(0, seq, Some("b"), "a") {
            TopicRecord::Takeover(told) => TopicRecord::Takeover(TakeoverRecord {
                kind: Kind::Rollback,
                attempt,
                ..told
            }),
            said => said,
        };
        let order = directive(1, "b", "a", 2);
        let runs_again =
            |known: &TopicState, order: &Directive| known.slot(&SLOT).unwrap().runs_again(order);
        let mut known = heard([swap(0, 0, None, "a"), swap(0, 1, Some("a"), "b")]);
        assert!(!runs_again(&known, &order));
        // A host that has not heard of the order takes over in another partition.
        known.hear(swap(1, 3, Some("a"), "b"));
        assert!(!runs_again(&known, &order));
        known.hear(rollback(4, 2));
        assert!(!runs_again(&known, &order));
        known.hear(swap(0, 5, Some("a"), "b"));
        assert!(runs_again(&known, &order));
        assert!(!runs_again(&known, &directive(2, "b", "a", 6)));
        known.hear(swap(0, 7, Some("b"), "c"));
        assert!(!runs_again(&known, &order));
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
        let known = heard([
            swap(0, 1, Some("a"), "b"),
            presence("one", "e", 0),
            TopicRecord::Directive(directive),
        ]);
        let wanted = ["a", "b", "c", "d", "e"].map(digest);
        assert_eq!(known.named(), BTreeSet::from(wanted));
    }
}
