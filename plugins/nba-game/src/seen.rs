//! The sequence numbers that have been seen, as ranges.
//!
//! A game whose events come in order is one range, whatever its length. The
//! number of ranges is bounded: over it, the two lowest become one, and the game
//! no longer knows which numbers between them came. An event with such a number
//! is refused and so becomes a dead letter, for it may be a basket that counts.

use serde::{Deserialize, Serialize};

/// The longest NBA game had some 700 events; with gaps around each of them, the
/// game still fits.
const RANGES_MAX: usize = 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// The first and last number of each range, ascending. Ranges neither touch
    /// nor overlap.
    ranges: Vec<(u32, u32)>,
    /// How many numbers were ever added, which the ranges no longer tell once two
    /// of them were made one.
    count: u32,
    /// The range from the beginning of the lowest forgotten gap to the end of the highest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forgotten: Option<(u32, u32)>,
}

impl Seen {
    /// Adds a number; false if it was there, or may have been.
    pub(crate) fn insert(&mut self, seq: u32) -> bool {
        // The first range that does not end before the number.
        let at = self.ranges.partition_point(|&(_, last)| last < seq);
        let (below, above) = self.ranges.split_at_mut(at);
        let above = above.first_mut();
        if above.as_ref().is_some_and(|(first, _)| *first <= seq) {
            return false;
        }
        let below = below.last_mut().filter(|(_, last)| *last + 1 == seq);
        let above = above.filter(|(first, _)| *first == seq + 1);
        match (below, above) {
            (Some(below), Some(above)) => {
                below.1 = above.1;
                self.ranges.remove(at);
            }
            (Some(below), None) => below.1 = seq,
            (None, Some(above)) => above.0 = seq,
            (None, None) => self.ranges.insert(at, (seq, seq)),
        }
        self.count += 1;
        self.forget();
        true
    }

    fn forget(&mut self) {
        if self.ranges.len() > RANGES_MAX
            && let [lowest, next, ..] = self.ranges.as_mut_slice()
        {
            let gap = (lowest.1 + 1, next.0 - 1);
            let (first, last) = self.forgotten.unwrap_or(gap);
            self.forgotten = Some((first.min(gap.0), last.max(gap.1)));
            lowest.1 = next.1;
            self.ranges.remove(1);
        }
    }

    /// Whether the number came, as far as is known.
    pub(crate) fn contains(&self, seq: u32) -> bool {
        let at = self.ranges.partition_point(|&(_, last)| last < seq);
        self.ranges.get(at).is_some_and(|&(first, _)| first <= seq)
    }

    /// Whether the number lies where the game no longer knows which numbers came.
    pub(crate) fn is_forgotten(&self, seq: u32) -> bool {
        self.forgotten
            .is_some_and(|(first, last)| (first..=last).contains(&seq))
    }

    /// The highest number seen; 0 before the first.
    pub(crate) fn last(&self) -> u32 {
        self.ranges.last().map_or(0, |&(_, last)| last)
    }

    /// How many numbers below the last were never seen.
    pub(crate) fn gaps(&self) -> u32 {
        self.last().saturating_sub(self.count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{RANGES_MAX, Seen};

    #[test]
    fn a_game_in_order_is_one_range() {
        let mut seen = Seen::default();
        assert!((1..=500).all(|seq| seen.insert(seq)));
        assert_eq!(seen.ranges, [(1, 500)]);
    }

    #[test]
    fn the_highest_number_has_a_place() {
        let mut seen = Seen::default();
        for (seq, new) in [
            (u32::MAX, true),
            (u32::MAX, false),
            (u32::MAX - 1, true),
            (1, true),
        ] {
            assert_eq!(seen.insert(seq), new);
        }
        assert_eq!(seen.last(), u32::MAX);
        assert_eq!(seen.gaps(), u32::MAX - 3);
    }

    #[test]
    fn over_the_bound_the_lowest_gaps_are_forgotten_and_stay_gaps() {
        let mut seen = Seen::default();
        let ranges = u32::try_from(RANGES_MAX).unwrap() + 2;
        assert!((1..=ranges).all(|nth| seen.insert(nth * 2)));
        assert_eq!(seen.ranges.len(), RANGES_MAX);
        assert_eq!(seen.ranges.first(), Some(&(2, 6)));
        assert_eq!(seen.gaps(), ranges);
        for (seq, contained, forgotten) in [
            (1, false, false),
            (2, true, false),
            (3, true, true),
            (4, true, true),
            (5, true, true),
            (6, true, false),
            (7, false, false),
        ] {
            assert_eq!(seen.contains(seq), contained, "{seq}");
            assert_eq!(seen.is_forgotten(seq), forgotten, "{seq}");
        }
        assert!(seen.insert(1), "below all that was forgotten");
        assert!(seen.insert(7), "still known to be missing");
        assert!(!seen.is_forgotten(7) && !seen.insert(7));
        assert_eq!(seen.gaps(), ranges - 2);
    }

    /// At most one of two events with one number is ever new. A number that is
    /// neither known nor forgotten never came.
    #[test]
    fn a_number_is_never_lost_in_silence_however_many_gaps_there_are() {
        let mut seen = Seen::default();
        let mut set = BTreeSet::new();
        let mut seq = 1_u32;
        for _ in 0..5_000 {
            seq = seq.wrapping_mul(7_919) % 60_013 + 1;
            let new = !set.contains(&seq);
            if seen.is_forgotten(seq) {
                continue;
            }
            assert_eq!(seen.insert(seq), new, "{seq}");
            set.insert(seq);
        }
        assert!(seen.forgotten.is_some(), "or the bound was not tried");
    }

    proptest! {
        #[test]
        fn it_is_a_set(numbers in prop::collection::vec(1_u32..120, 0..200)) {
            let mut seen = Seen::default();
            let mut set = BTreeSet::new();
            for number in numbers {
                prop_assert_eq!(seen.insert(number), set.insert(number));
                let last = set.last().copied().unwrap_or(0);
                prop_assert_eq!(seen.last(), last);
                prop_assert_eq!(seen.gaps() as usize, last as usize - set.len());
                prop_assert!(seen.ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            }
        }
    }
}
