//! The bounds of requests and events, and how long an append may take.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// Configuration of the ways in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// The largest body of a request. At least 1 KiB.
    pub body_bytes_max: ByteSize,
    /// The largest event. At least 128 bytes.
    pub event_bytes_max: ByteSize,
    /// The most events in a request. At least 1.
    pub events_max: usize,
    /// The most arrays and objects within each other in an event, from 1 to 100.
    pub json_depth_max: u32,
    /// The bodies that may be held at a time, in all; beyond it a request is
    /// answered with 429. At least `body_bytes_max`.
    pub in_flight_bytes_max: ByteSize,
    /// How long the log may take to say what became of events. At least 1 s.
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
    /// The first value out of its range, in words.
    pub fn check(&self) -> Result<(), String> {
        let rules = [
            (
                self.body_bytes_max >= ByteSize::kib(1),
                "ingest.body_bytes_max must be at least 1 KiB",
            ),
            (
                self.event_bytes_max >= ByteSize::b(128),
                "ingest.event_bytes_max must be at least 128 B",
            ),
            (self.events_max >= 1, "ingest.events_max must be at least 1"),
            (
                (1..=100).contains(&self.json_depth_max),
                "ingest.json_depth_max must be from 1 to 100",
            ),
            (
                self.in_flight_bytes_max >= self.body_bytes_max,
                "ingest.in_flight_bytes_max must be at least ingest.body_bytes_max",
            ),
            (
                self.append_timeout >= Duration::from_secs(1),
                "ingest.append_timeout must be at least 1s",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(rule.to_owned()),
            None => Ok(()),
        }
    }
}
