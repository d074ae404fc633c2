//! The bounds of the scoreboard's memory, and how often it looks at the log.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// Configuration of the scoreboard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreboardConfig {
    /// The pipelines share the memory equally. On top come the index of all games,
    /// some 300 bytes each, and the compressed parts of the outputs held, which are
    /// smaller.
    pub memory_bytes_max: ByteSize,
    pub read_bytes_max: ByteSize,
    pub deleted_max: usize,
    /// Under load, the records that come in this time are taken together.
    #[serde(with = "humantime_serde")]
    pub interval_min: Duration,
    /// After this time, the scoreboard also finds a change that nobody reported to it.
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
    /// The first value over its limit, in words. The host's table of settings has the
    /// minimums.
    pub fn check(&self) -> Result<(), String> {
        if self.interval_min > Duration::from_millis(100) {
            return Err("scoreboard.interval_min must be at most 100ms".to_owned());
        }
        if self.interval_max > Duration::from_secs(60) {
            return Err("scoreboard.interval_max must be from 10ms to 1m".to_owned());
        }
        Ok(())
    }
}
