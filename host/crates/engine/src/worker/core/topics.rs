//! When the worker looks at the pipeline's topics: without events no commit would find
//! that a topic was made anew.

use std::time::{Duration, Instant};

use courtside_log::LogError;

/// How often a worker without events looks at the topics.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct TopicWatch {
    looked: Option<Instant>,
    /// The last look found that a topic is gone.
    is_one_missing: bool,
}

impl TopicWatch {
    pub fn is_due(&self, now: Instant) -> bool {
        self.looked
            .is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_INTERVAL)
    }

    /// Whether a topic was missing at the last look.
    pub const fn is_one_missing(&self) -> bool {
        self.is_one_missing
    }

    /// Notes what a look found. Returns true if a missing topic is back.
    pub fn looked(&mut self, found: &Result<(), LogError>, now: Instant) -> bool {
        self.looked = Some(now);
        let is_missing = matches!(found, Err(LogError::TopicMissing { .. }));
        let was_missing = std::mem::replace(&mut self.is_one_missing, is_missing);
        was_missing && found.is_ok()
    }
}
