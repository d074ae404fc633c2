//! The bounds of the scoreboard's memory, and how often it looks at the log.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// Configuration of the scoreboard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreboardConfig {
    /// The outputs held in memory, shared equally by the pipelines; others
    /// are read from the log when asked for. On top come the index of all
    /// games, some 300 bytes each, and what of the outputs held was compressed
    /// for readers, which is smaller. At least 1 MiB.
    pub memory_bytes_max: ByteSize,
    /// The most bytes read from a partition at a time. At least 4 KiB.
    pub read_bytes_max: ByteSize,
    /// How many deleted games are remembered, for readers that come back. At
    /// least 1.
    pub deleted_max: usize,
    /// The shortest time between two looks at the log: under load, records
    /// that come meanwhile are taken together. Between 0 and 100 ms.
    #[serde(with = "humantime_serde")]
    pub interval_min: Duration,
    /// The longest time between two looks at the log, should nobody tell that
    /// something has changed. Between 10 ms and 1 minute.
    #[serde(with = "humantime_serde")]
    pub interval_max: Duration,
}

impl Default for ScoreboardConfig {
    fn default() -> Self {
        Self {
            memory_bytes_max: ByteSize::mib(256),
            read_bytes_max: ByteSize::mib(1),
            deleted_max: 10_000,
            interval_min: Duration::from_millis(1),
            interval_max: Duration::from_secs(1),
        }
    }
}

impl ScoreboardConfig {
    /// The first value out of its range, in words.
    pub fn check(&self) -> Result<(), String> {
        let rules = [
            (
                self.memory_bytes_max >= ByteSize::mib(1),
                "scoreboard.memory_bytes_max must be at least 1 MiB",
            ),
            (
                self.read_bytes_max >= ByteSize::kib(4),
                "scoreboard.read_bytes_max must be at least 4 KiB",
            ),
            (
                self.deleted_max >= 1,
                "scoreboard.deleted_max must be at least 1",
            ),
            (
                self.interval_min <= Duration::from_millis(100),
                "scoreboard.interval_min must be at most 100ms",
            ),
            (
                (Duration::from_millis(10)..=Duration::from_secs(60)).contains(&self.interval_max),
                "scoreboard.interval_max must be from 10ms to 1m",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(rule.to_owned()),
            None => Ok(()),
        }
    }
}
