//! The wait of a swap for the host's partitions. On a log whose checkpoints come with
//! its partitions, a rehearsal without partitions proves nothing. A host that gets no
//! partitions is a spare one, and waits for them at most [`WAIT_MAX`].

use std::time::{Duration, Instant};

/// How long a swap waits for the host to get partitions.
const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct PartitionsWait {
    /// Since when the host has had no partitions.
    empty_since: Option<Instant>,
}

impl PartitionsWait {
    /// Takes note whether the host has partitions.
    pub fn observe(&mut self, has_partitions: bool, now: Instant) {
        if has_partitions {
            self.empty_since = None;
        } else {
            self.empty_since.get_or_insert(now);
        }
    }

    /// Whether the host is a spare one.
    pub fn is_over(&self, now: Instant) -> bool {
        self.empty_since
            .is_some_and(|since| now.saturating_duration_since(since) >= WAIT_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_gets_no_partitions_is_a_spare_one() {
        let now = Instant::now();
        let mut wait = PartitionsWait::default();
        assert!(!wait.is_over(now));
        wait.observe(false, now);
        wait.observe(false, now + WAIT_MAX / 2);
        assert!(!wait.is_over(now + WAIT_MAX / 2));
        assert!(wait.is_over(now + WAIT_MAX));
        wait.observe(true, now + WAIT_MAX);
        assert!(!wait.is_over(now + WAIT_MAX));
    }
}
