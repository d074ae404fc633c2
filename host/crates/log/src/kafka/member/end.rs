//! The end of a membership: its reason, and how long the member stays away.

use std::time::{Duration, Instant};

use crate::LogError;

/// A producer that is fenced again within this time has a rival.
const RIVAL_WITHIN: Duration = Duration::from_secs(60);

/// The reason why a membership can no longer be used.
#[derive(Clone, Debug)]
pub(super) struct SessionEnd {
    pub code: &'static str,
    pub reason: String,
    /// Longest time that the member stays away for this reason.
    pub away_max: Duration,
}

impl SessionEnd {
    /// Two hosts that push each other out must each have time to work.
    pub fn taken(reason: String) -> Self {
        Self {
            code: "instance-taken",
            reason,
            away_max: Duration::from_secs(60),
        }
    }

    /// Another producer took the transactional id, and takes it again and again.
    pub fn rival(error: LogError) -> Self {
        let reason = match error {
            LogError::Fenced { reason } => reason,
            error => error.to_string(),
        };
        Self::taken(format!(
            "another host commits under the name of this host: {reason}"
        ))
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

/// Why a call of the session failed.
pub(super) enum SessionError {
    Log(LogError),
    /// The session can no longer be used.
    End(SessionEnd),
}

impl From<LogError> for SessionError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<SessionEnd> for SessionError {
    fn from(end: SessionEnd) -> Self {
        Self::End(end)
    }
}

/// The last time that another producer took the transactional id. A worker's sessions
/// share it.
#[derive(Debug, Default)]
pub(super) struct Fencing(Option<Instant>);

impl Fencing {
    /// Notes that another producer took the id, and returns whether it is a rival. The
    /// first time, it may have been an old producer of this host, left by a slow restart,
    /// or the brokers, which end slow transactions: the member takes the id back. The
    /// second time, it is a rival.
    pub fn note(&mut self, now: Instant) -> bool {
        let before = self.0.replace(now);
        before.is_some_and(|before| now < before + RIVAL_WITHIN)
    }
}
