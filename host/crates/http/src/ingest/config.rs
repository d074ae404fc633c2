//! The bounds of requests and events, and how long an append may take.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// Configuration of the ways in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    pub body_bytes_max: ByteSize,
    pub event_bytes_max: ByteSize,
    pub events_max: usize,
    pub json_depth_max: u32,
    pub in_flight_bytes_max: ByteSize,
    #[serde(with = "humantime_serde")]
    pub append_timeout: Duration,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            body_bytes_max: ByteSize::mib(8),
            event_bytes_max: ByteSize::kib(64),
            events_max: 100_000,
            json_depth_max: 32,
            in_flight_bytes_max: ByteSize::mib(256),
            append_timeout: Duration::from_secs(30),
        }
    }
}

impl IngestConfig {
    /// A rule that does not hold, in words. The host's table of settings has the
    /// minimums.
    pub fn check(&self) -> Result<(), String> {
        if self.json_depth_max > 100 {
            return Err("ingest.json_depth_max must be from 1 to 100".to_owned());
        }
        if self.in_flight_bytes_max < self.body_bytes_max {
            return Err(
                "ingest.in_flight_bytes_max must be at least ingest.body_bytes_max".to_owned(),
            );
        }
        Ok(())
    }
}
