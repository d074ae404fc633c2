//! The end of a membership: its reason, and how long the member stays away.

use std::time::Duration;

/// The reason why a membership can no longer be used.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    pub code: &'static str,
    pub reason: String,
    /// Longest time that the member stays away for this reason.
    pub away_max: Duration,
}

impl Gone {
    /// Two hosts that push each other out must each have time to work.
    pub fn taken(reason: String) -> Self {
        Self {
            code: "instance-taken",
            reason,
            away_max: Duration::from_secs(60),
        }
    }

    /// The brokers wait for the end of our own last session.
    pub fn unreleased(reason: String) -> Self {
        Self {
            code: "instance-unreleased",
            reason,
            away_max: Duration::from_secs(2),
        }
    }

    pub fn refused(reason: String) -> Self {
        Self {
            code: "group-refused",
            reason,
            away_max: Duration::from_secs(30),
        }
    }
}
