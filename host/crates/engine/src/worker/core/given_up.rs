//! Partitions that a worker gave up, and when it tries each again.
//!
//! The log refused a commit for a reason that does not pass by itself: an output no
//! longer takes records of that size, or is gone. Somebody may mend that, and then the
//! partition goes on without being asked. While a partition is on trial, each
//! partition's events are committed by themselves, so the one that cannot be committed
//! stops no other.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use courtside_process::backoff::Backoff;
use courtside_types::{Offset, PartitionId};

const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct GivenUp(BTreeMap<PartitionId, Try>);

#[derive(Debug)]
struct Try {
    /// The committed offset.
    next: Offset,
    backoff: Backoff,
    /// When the partition is tried, or when its trial began.
    at: Instant,
    is_on_trial: bool,
}

impl GivenUp {
    /// Notes that a partition does not go on after its committed offset. Each time in a
    /// row the partition waits for longer.
    pub fn add(&mut self, partition: PartitionId, next: Offset, now: Instant) {
        let before = self.0.get(&partition).map(|known| known.backoff);
        let mut backoff = before.unwrap_or(Backoff::new(WAIT_MIN, WAIT_MAX));
        let waiting = Try {
            next,
            at: now + backoff.next_wait(),
            backoff,
            is_on_trial: false,
        };
        self.0.insert(partition, waiting);
    }

    /// Returns the partition to try now, with its committed offset, and puts it on
    /// trial. Only one partition is on trial at a time: a commit may hold a row of each
    /// partition that the worker has begun with, so a refusal of one would hit the
    /// others. A trial that finds nothing to commit keeps others waiting for
    /// [`WAIT_MAX`] only.
    pub fn take_due(&mut self, now: Instant) -> Option<(PartitionId, Offset)> {
        let mut all = self.0.values();
        if all.any(|one| one.is_on_trial && now < one.at + WAIT_MAX) {
            return None;
        }
        let waiting = self.0.iter_mut().filter(|(_, one)| !one.is_on_trial);
        let (partition, due) = waiting.min_by_key(|(_, one)| one.at)?;
        if now < due.at {
            return None;
        }
        due.at = now;
        due.is_on_trial = true;
        Some((*partition, due.next))
    }

    #[must_use]
    pub fn has_trials(&self) -> bool {
        self.0.values().any(|one| one.is_on_trial)
    }

    #[must_use]
    pub fn is_on_trial(&self, partition: PartitionId) -> bool {
        self.0.get(&partition).is_some_and(|one| one.is_on_trial)
    }

    /// Removes the committed partitions, and returns those that were given up before:
    /// their trials went well.
    pub fn take_committed(
        &mut self,
        committed: impl Iterator<Item = PartitionId>,
    ) -> Vec<PartitionId> {
        committed
            .filter(|partition| self.0.remove(partition).is_some())
            .collect()
    }

    /// Forgets a partition, which is not tried again.
    pub fn forget(&mut self, partition: PartitionId) {
        self.0.remove(&partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(0);
    const Q: PartitionId = PartitionId(1);

    #[test]
    fn a_partition_is_tried_again_after_longer_and_longer_waits() {
        let mut now = Instant::now();
        let mut given_up = GivenUp::default();
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            given_up.add(P, Offset(7), now);
            assert!(!given_up.has_trials());
            now += Duration::from_secs(seconds);
            assert_eq!(given_up.take_due(now - Duration::from_millis(1)), None);
            assert_eq!(given_up.take_due(now), Some((P, Offset(7))));
            assert!(given_up.has_trials());
            assert_eq!(given_up.take_due(now), None, "it is on trial");
        }
        assert_eq!(given_up.take_committed([Q, P].into_iter()), [P]);
        assert!(!given_up.has_trials());
        // The waits begin with the shortest again.
        given_up.add(P, Offset(9), now);
        assert_eq!(given_up.take_due(now + WAIT_MIN), Some((P, Offset(9))));
    }

    #[test]
    fn one_partition_is_tried_at_a_time() {
        let now = Instant::now();
        let mut given_up = GivenUp::default();
        given_up.add(Q, Offset(1), now);
        given_up.add(P, Offset(2), now + Duration::from_millis(1));
        let due = now + WAIT_MIN + Duration::from_millis(1);
        assert_eq!(given_up.take_due(due), Some((Q, Offset(1))));
        assert_eq!(given_up.take_due(due), None);
        given_up.add(Q, Offset(1), due);
        assert_eq!(given_up.take_due(due), Some((P, Offset(2))));
        // The partition on trial has nothing to commit, and the other waits for a while
        // only.
        assert_eq!(given_up.take_due(due + WAIT_MAX / 2), None);
        assert_eq!(given_up.take_due(due + WAIT_MAX), Some((Q, Offset(1))));
        assert_eq!(given_up.take_committed([P].into_iter()), [P]);
        assert_eq!(given_up.take_committed([Q].into_iter()), [Q]);
    }
}
