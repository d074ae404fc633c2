//! A worker's warm-up after a swap.

use std::time::{Duration, Instant};

/// After a swap each entity opens again at its next event, and a commit also stores its
/// state from before. Events then cost several times more than usual, so the worker
/// warms up: its polls and commits are smaller, which keeps commits as close together as
/// before. The warm-up ends at an idle poll once most entities of a commit were open
/// already, or with the first commit after this time.
const WARMUP_TIME_MAX: Duration = Duration::from_secs(3);
pub(super) const WARMUP_POLL_BYTES: usize = 32 << 10;
pub(super) const WARMUP_COMMIT_INTERVAL: Duration = Duration::from_millis(15);
/// The warm-up may end once fewer than one in this many entities of a commit had to be
/// opened.
const FEW_OPENED: u64 = 4;

/// The warm-up of a worker, which lasts at most [`WARMUP_TIME_MAX`] and one commit.
#[derive(Debug)]
pub(super) struct Warmup {
    until: Instant,
    /// Few entities of the last commit had to be opened.
    few_opened: bool,
}

impl Warmup {
    pub fn begin(now: Instant) -> Self {
        Self {
            until: now + WARMUP_TIME_MAX,
            few_opened: false,
        }
    }

    /// Whether an idle poll ends the warm-up.
    pub const fn ends_when_idle(&self) -> bool {
        self.few_opened
    }

    /// Notes a commit of `entities` entities, of which `opened` had to be opened. Returns
    /// whether the commit ends the warm-up.
    pub fn committed(&mut self, entities: usize, opened: u64, now: Instant) -> bool {
        self.few_opened = entities > 0 && opened * FEW_OPENED < entities as u64;
        now >= self.until
    }
}
