//! Times in the two forms that the records of the group have: milliseconds since 1970,
//! which workers and all decisions use, and timestamps, which people read.

use jiff::Timestamp;
use serde::{Deserialize as _, Deserializer, Serializer};

/// The milliseconds since 1970 of a timestamp.
#[must_use]
pub fn milliseconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or_default()
}

/// The timestamp of a number of milliseconds since 1970.
#[must_use]
pub fn timestamp(ms: u64) -> Timestamp {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}

/// Writes milliseconds as a timestamp.
pub fn serialize<S: Serializer>(ms: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&timestamp(*ms))
}

/// Reads a timestamp as milliseconds.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Timestamp::deserialize(deserializer).map(milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_the_same_in_both_forms() {
        let at: Timestamp = "2026-11-20T19:30:00.5Z".parse().unwrap();
        assert_eq!(milliseconds(at), 1_795_203_000_500);
        assert_eq!(timestamp(1_795_203_000_500), at);
        assert_eq!(timestamp(u64::MAX), Timestamp::MAX);
        assert_eq!(milliseconds("1960-01-01T00:00:00Z".parse().unwrap()), 0);
    }
}
