//! The swaps of one slot in the whole group: the last [`SWAPS_KEPT`], with a place for
//! each partition. All times are milliseconds since 1970.

use std::{
    collections::{BTreeMap, VecDeque, vec_deque},
    time::Duration,
};

use bytestring::ByteString;
use courtside_types::{Digest, Offset, PartitionId, slot_name::SlotName};

use crate::worker::takeover::{
    Directive,
    history::{Kind, TakeoverRecord},
};

/// Swaps remembered of each slot.
const SWAPS_KEPT: usize = 64;

/// The swaps of a slot, as far as they are remembered.
#[derive(Debug, Default)]
pub struct SwapHistory {
    /// The swaps, the newest last.
    swaps: VecDeque<Swap>,
    /// The number of each partition's latest swap.
    latest: BTreeMap<PartitionId, u64>,
    /// Each swap has the next number, and keeps it when older swaps are forgotten.
    count: u64,
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

/// Where a swap happened in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwapPlace {
    pub seq: u32,
    pub offset: Offset,
    pub at_ms: u64,
}

/// A stretch of a partition that a plugin processed.
#[derive(Clone, Copy, Debug)]
pub struct Stint<'a> {
    pub swap: &'a Swap,
    pub place: &'a SwapPlace,
    /// The offset at which another plugin took over; none while that has not happened.
    pub until: Option<Offset>,
}

/// The rule of the trials in a slot: a swap can be undone for a while, unless a
/// confirmation came after it.
#[derive(Clone, Copy, Debug)]
pub struct TrialRule {
    confirmed_ms: Option<u64>,
    trial_ms: u64,
}

impl TrialRule {
    #[must_use]
    pub fn new(confirmed_ms: Option<u64>, confirm_after: Duration) -> Self {
        Self {
            confirmed_ms,
            trial_ms: u64::try_from(confirm_after.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The end of a trial that began at `began_ms`; none if it was confirmed.
    #[must_use]
    pub fn end(self, began_ms: u64) -> Option<u64> {
        let is_confirmed = self.confirmed_ms.is_some_and(|at_ms| at_ms >= began_ms);
        (!is_confirmed).then(|| began_ms.saturating_add(self.trial_ms))
    }
}

impl SwapHistory {
    /// Takes note of a takeover that a worker reports.
    pub fn record(&mut self, takeover: TakeoverRecord) {
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
            at_ms: takeover.at,
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
        self.count += 1;
        self.latest.insert(partition, self.count);
        self.swaps.push_back(Swap {
            number: self.count,
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

    /// The swaps, the newest last.
    pub fn iter(&self) -> vec_deque::Iter<'_, Swap> {
        self.swaps.iter()
    }

    /// Whether the plugin that a directive undoes was put in force again after the
    /// rollback, and still runs.
    #[must_use]
    pub fn runs_again(&self, directive: &Directive) -> bool {
        let bad = Some(directive.bad);
        let mut since = self.swaps.iter().filter(|swap| swap.at_ms() > directive.at);
        let is_done = since.any(|swap| swap.kind == Kind::Rollback && swap.previous == bad);
        is_done
            && since
                .next_back()
                .is_some_and(|last| last.kind == Kind::Swap && last.digest == bad)
    }

    /// `name@version` of a plugin that ran in the slot, where it is known.
    #[must_use]
    pub fn plugin_name(&self, digest: Option<Digest>) -> Option<String> {
        let mut swaps = self.swaps.iter().rev();
        let swap = swaps.find(|swap| swap.digest == digest)?;
        Some(swap.plugin.to_string()).filter(|plugin| !plugin.is_empty())
    }

    /// Until when the latest swap to a plugin is on trial.
    #[must_use]
    pub fn trial_of(&self, digest: Option<Digest>, rule: TrialRule) -> Option<u64> {
        let swap = self.latest_swap_to(digest)?;
        swap.trial_until(swap.at_ms(), rule)
    }

    /// Until when a swap that this host began at `began_ms` is on trial. Workers report
    /// the swap only with their next commits. Before that, an earlier swap to the
    /// plugin says nothing about this one.
    #[must_use]
    pub fn trial_since(
        &self,
        digest: Option<Digest>,
        began_ms: u64,
        rule: TrialRule,
    ) -> Option<u64> {
        let is_reported = |swap: &Swap| swap.at_ms() >= began_ms;
        if self.latest_swap_to(digest).is_some_and(is_reported) {
            return self.trial_of(digest, rule);
        }
        rule.end(began_ms)
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
    pub fn at_ms(&self) -> u64 {
        let at_ms = self.places.values().map(|place| place.at_ms).max();
        at_ms.unwrap_or_default()
    }

    /// Until when the swap can be undone where it happened at `at_ms`. None where it
    /// never could be, or was confirmed.
    #[must_use]
    pub fn trial_until(&self, at_ms: u64, rule: TrialRule) -> Option<u64> {
        if self.kind != Kind::Swap || self.is_first {
            return None;
        }
        rule.end(at_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: TrialRule = TrialRule {
        confirmed_ms: None,
        trial_ms: 3_600_000,
    };

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    const fn at_ms(seconds: u64) -> u64 {
        (1_800_000_000 + seconds) * 1000
    }

    fn swap(partition: u32, seq: u32, from: Option<&str>, to: &str) -> TakeoverRecord {
        TakeoverRecord {
            slot: SlotName::Default,
            partition: PartitionId(partition),
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
        }
    }

    fn recorded(takeovers: impl IntoIterator<Item = TakeoverRecord>) -> SwapHistory {
        let mut history = SwapHistory::default();
        for takeover in takeovers {
            history.record(takeover);
        }
        history
    }

    #[test]
    fn a_swap_is_one_for_all_partitions() {
        let history = recorded([
            swap(0, 0, None, "a"),
            swap(1, 0, None, "a"),
            swap(0, 1, Some("a"), "b"),
            swap(0, 2, Some("b"), "a"),
            swap(0, 3, Some("a"), "b"),
            // Partition 1 reports late, and in its own order.
            swap(1, 1, Some("a"), "b"),
            swap(1, 2, Some("b"), "a"),
        ]);
        let swaps: Vec<_> = history
            .iter()
            .map(|swap| (&*swap.plugin, swap.places.len()))
            .collect();
        assert_eq!(swaps, [("a", 2), ("b", 1), ("a", 1), ("b", 2), ("a", 1)]);
        let latest = |partition| {
            let mut swaps = history.iter().rev();
            swaps.find_map(|swap| {
                let place = swap.places.get(&PartitionId(partition))?;
                Some((&*swap.plugin, place.seq))
            })
        };
        assert_eq!(latest(0), Some(("b", 3)));
        assert_eq!(latest(1), Some(("a", 2)));
    }

    #[test]
    fn a_plugin_has_a_stint_each_time_that_it_takes_over() {
        let moved = |seq, from, to| TakeoverRecord {
            kind: Kind::Return,
            ..swap(0, seq, Some(from), to)
        };
        let stints = |history: &SwapHistory| {
            let stints = history.stints(PartitionId(0), digest("b"));
            let bounds = stints.iter().map(|stint| {
                let until = stint.until.map(|until| until.0);
                (stint.place.offset.0, until)
            });
            bounds.collect::<Vec<_>>()
        };
        let mut history = recorded([
            swap(0, 0, None, "a"),
            swap(0, 1, Some("a"), "b"),
            swap(1, 1, Some("a"), "b"),
            moved(2, "b", "a"),
            swap(0, 3, Some("a"), "b"),
        ]);
        assert_eq!(stints(&history), [(10, Some(20)), (30, None)]);
        assert_eq!(
            history.trial_of(Some(digest("a")), RULE),
            None,
            "nobody swapped to it"
        );
        history.record(TakeoverRecord {
            kind: Kind::Rollback,
            attempt: 2,
            ..swap(0, 4, Some("b"), "a")
        });
        assert_eq!(stints(&history), [], "all of it is undone");
        history.record(swap(0, 5, Some("a"), "b"));
        assert_eq!(stints(&history), [(50, None)]);
    }

    #[test]
    fn memory_is_bounded() {
        let swaps = (0..1000).map(|seq| swap(0, seq, Some("a"), &format!("{seq}")));
        let history = recorded(swaps);
        assert_eq!(history.iter().len(), SWAPS_KEPT);
        assert_eq!(&*history.iter().last().unwrap().plugin, "999");
    }

    #[test]
    fn what_was_undone_may_run_again() {
        let directive = |id, seconds| Directive {
            id,
            slot: SlotName::Default,
            bad: digest("b"),
            to: Some(digest("a")),
            at: at_ms(seconds),
        };
        let order = directive(1, 2);
        let mut history = recorded([swap(0, 0, None, "a"), swap(0, 1, Some("a"), "b")]);
        assert!(!history.runs_again(&order));
        // A host that has not read the directive takes over in another partition.
        history.record(swap(1, 3, Some("a"), "b"));
        assert!(!history.runs_again(&order));
        history.record(TakeoverRecord {
            kind: Kind::Rollback,
            attempt: 2,
            ..swap(0, 4, Some("b"), "a")
        });
        assert!(!history.runs_again(&order));
        history.record(swap(0, 5, Some("a"), "b"));
        assert!(history.runs_again(&order));
        assert!(!history.runs_again(&directive(2, 6)));
        history.record(swap(0, 7, Some("b"), "c"));
        assert!(!history.runs_again(&order));
    }

    #[test]
    fn a_plugin_has_the_name_that_its_latest_swap_gives() {
        let history = recorded([swap(0, 0, None, "a"), swap(0, 1, Some("a"), "")]);
        let name = |of| history.plugin_name(Some(digest(of)));
        assert_eq!(name("a").as_deref(), Some("a"));
        assert_eq!(name(""), None);
        assert_eq!(name("b"), None);
    }
}
