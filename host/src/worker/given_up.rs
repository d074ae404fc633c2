//! Partitions that a worker gave up, and when it tries each again.
//!
//! The log refused a commit for a reason that does not pass by itself: an output takes
//! no records of that size any more, or is gone. Somebody may mend that, and then the
//! partition goes on without being asked. While a partition is on trial, each
//! partition's events are committed by themselves, so the one that cannot be committed
//! stops no other.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::types::{Offset, PartitionId};

const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct GivenUp(BTreeMap<PartitionId, Try>);

#[derive(Debug)]
struct Try {
    /// The committed offset.
    next: Offset,
    wait: Duration,
    /// When it is tried again; none while it is.
    at: Option<Instant>,
}

impl GivenUp {
    /// A partition does not go on after its committed offset. Each time in a row it
    /// waits for longer.
    pub fn add(&mut self, partition: PartitionId, next: Offset, now: Instant) {
        let before = self.0.get(&partition).map(|known| known.wait);
        let wait = before.map_or(WAIT_MIN, |wait| (wait * 2).min(WAIT_MAX));
        let at = Some(now + wait);
        self.0.insert(partition, Try { next, wait, at });
    }

    /// The partitions to try now, each with its committed offset. They are on trial
    /// from here on.
    pub fn take_due(&mut self, now: Instant) -> Vec<(PartitionId, Offset)> {
        let due = self.0.iter_mut();
        let due = due.filter(|(_, one)| one.at.is_some_and(|at| now >= at));
        due.map(|(partition, one)| {
            one.at = None;
            (*partition, one.next)
        })
        .collect()
    }

    #[must_use]
    pub fn has_trials(&self) -> bool {
        self.0.values().any(|one| one.at.is_none())
    }

    /// What of these was on trial, and went well: it was committed.
    pub fn take_committed(
        &mut self,
        committed: impl Iterator<Item = PartitionId>,
    ) -> Vec<PartitionId> {
        committed
            .filter(|partition| self.0.remove(partition).is_some())
            .collect()
    }

    /// The partition is somebody else's.
    pub fn forget(&mut self, partition: PartitionId) {
        self.0.remove(&partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(0);

    #[test]
    fn a_partition_is_tried_again_after_longer_and_longer_waits() {
        let start = Instant::now();
        let mut given_up = GivenUp::default();
        let mut now = start;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            given_up.add(P, Offset(7), now);
            assert!(!given_up.has_trials());
            now += Duration::from_secs(seconds);
            assert_eq!(given_up.take_due(now - Duration::from_millis(1)), []);
            assert_eq!(given_up.take_due(now), [(P, Offset(7))]);
            assert!(given_up.has_trials());
            assert_eq!(given_up.take_due(now), [], "it is on trial");
        }
        assert_eq!(
            given_up.take_committed([PartitionId(1), P].into_iter()),
            [P]
        );
        assert!(!given_up.has_trials());
        // The next time is the first again.
        given_up.add(P, Offset(9), now);
        assert_eq!(given_up.take_due(now + WAIT_MIN), [(P, Offset(9))]);
    }
}
