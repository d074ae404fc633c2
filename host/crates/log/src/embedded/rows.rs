//! The rows of the store: their keys, in an order that can be searched, and
//! the small values.
//!
//! | keyspace      | key                                              | value |
//! | ------------- | ------------------------------------------------ | ----- |
//! | `records`     | topic id, partition, first offset                | a [batch](super::batch) |
//! | `meta`        | `v`                                              | the format's version |
//! |               | `t`, topic name                                  | [`TopicRow`], JSON |
//! |               | `p`, topic id, partition                         | [`PartitionRow`] |
//! |               | `o`, group's length and name, topic id, partition| [`OffsetRow`] |
//! | each          | one byte of zero                                 | the last [commit](super::store) |
//! | `checkpoints` | group's length and name, partition, key          | the checkpoint |
//!
//! Numbers in keys are big-endian, so that rows of a partition stand in offset
//! order; those in values are little-endian.

use std::time::Duration;

use courtside_types::TopicId;
use serde::{Deserialize, Serialize};

use crate::Cleanup;

pub(super) const FORMAT_KEY: &[u8] = b"v";
pub(super) const FORMAT: &[u8] = b"1";

pub(super) const RECORD_KEY_BYTES: usize = 16;

/// Keys of records (and so of checkpoints) are this long at most: fjall takes
/// 65,535 bytes, the group's name and the partition among them.
pub(super) const KEY_BYTES_MAX: usize = 65_000;

pub(super) fn record_key(topic: u32, partition: u32, offset: u64) -> [u8; RECORD_KEY_BYTES] {
    let number = u128::from(topic) << 96 | u128::from(partition) << 64 | u128::from(offset);
    number.to_be_bytes()
}

/// The first offset of the batch under a key.
pub(super) fn record_key_offset(key: &[u8]) -> Option<u64> {
    let (_, offset) = key.split_last_chunk()?;
    (key.len() == RECORD_KEY_BYTES).then(|| u64::from_be_bytes(*offset))
}

pub(super) fn topic_key(name: &str) -> Vec<u8> {
    [TOPIC_PREFIX, name.as_bytes()].concat()
}

pub(super) const TOPIC_PREFIX: &[u8] = b"t";
pub(super) const PARTITION_PREFIX: &[u8] = b"p";
pub(super) const OFFSET_PREFIX: &[u8] = b"o";

pub(super) fn partition_key(topic: u32, partition: u32) -> Vec<u8> {
    [
        PARTITION_PREFIX,
        &topic.to_be_bytes(),
        &partition.to_be_bytes(),
    ]
    .concat()
}

/// Topic id and partition of a partition's row.
pub(super) fn parse_partition_key(key: &[u8]) -> Option<(u32, u32)> {
    let (topic, partition) = key.strip_prefix(PARTITION_PREFIX)?.split_first_chunk()?;
    Some((
        u32::from_be_bytes(*topic),
        u32::from_be_bytes(partition.try_into().ok()?),
    ))
}

pub(super) fn offset_key(group: &str, topic: u32, partition: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(10 + group.len());
    key.extend_from_slice(OFFSET_PREFIX);
    put_group(&mut key, group);
    key.extend_from_slice(&topic.to_be_bytes());
    key.extend_from_slice(&partition.to_be_bytes());
    key
}

/// Group, topic id and partition of an offset's row.
pub(super) fn parse_offset_key(key: &[u8]) -> Option<(&str, u32, u32)> {
    let (len, rest) = key.strip_prefix(OFFSET_PREFIX)?.split_first()?;
    let (group, rest) = rest.split_at_checked(usize::from(*len))?;
    let (topic, partition) = rest.split_first_chunk()?;
    Some((
        str::from_utf8(group).ok()?,
        u32::from_be_bytes(*topic),
        u32::from_be_bytes(partition.try_into().ok()?),
    ))
}

pub(super) fn checkpoint_key(group: &str, partition: u32, key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(5 + group.len() + key.len());
    put_group(&mut row, group);
    row.extend_from_slice(&partition.to_be_bytes());
    row.extend_from_slice(key);
    row
}

/// Group names are checked on joining, so their length fits a byte.
fn put_group(key: &mut Vec<u8>, group: &str) {
    key.push(u8::try_from(group.len()).unwrap_or(u8::MAX));
    key.extend_from_slice(group.as_bytes());
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TopicRow {
    /// The id in the keys of the topic's rows. Another topic may get the id later.
    pub id: u32,
    /// The id that no other topic ever gets.
    #[serde(default)]
    pub uid: TopicId,
    pub partitions: u32,
    pub cleanup: CleanupRow,
    /// An operator has set how the topic is cleaned, and the configuration leaves it so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub altered: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CleanupRow {
    Compact {
        tombstone_retention_ms: u64,
    },
    Delete {
        retention_ms: Option<u64>,
        retention_bytes: Option<u64>,
    },
}

/// A time as the rows have it, in milliseconds.
pub(super) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl From<&Cleanup> for CleanupRow {
    fn from(cleanup: &Cleanup) -> Self {
        match cleanup {
            Cleanup::Compact {
                tombstone_retention,
            } => Self::Compact {
                tombstone_retention_ms: ms(*tombstone_retention),
            },
            Cleanup::Delete {
                retention,
                retention_bytes,
            } => Self::Delete {
                retention_ms: retention.map(ms),
                retention_bytes: *retention_bytes,
            },
        }
    }
}

impl CleanupRow {
    /// Kafka's word for the policy.
    pub const fn policy(&self) -> &'static str {
        match self {
            Self::Compact { .. } => "compact",
            Self::Delete { .. } => "delete",
        }
    }
}

/// The state of a partition that is known without reading its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PartitionRow {
    /// The first offset that retention left.
    pub start: u64,
    /// The offset of the next record.
    pub end: u64,
    /// Stored bytes of its batches.
    pub bytes: u64,
    /// Compaction has seen all records before this offset.
    pub cleaned: u64,
    /// The part of `bytes` that is stored from offset `cleaned` on.
    pub dirty_bytes: u64,
}

impl PartitionRow {
    pub fn to_bytes(self) -> Vec<u8> {
        [
            self.start,
            self.end,
            self.bytes,
            self.cleaned,
            self.dirty_bytes,
        ]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
    }

    pub fn parse(value: &[u8]) -> Option<Self> {
        let [start, end, bytes, cleaned, dirty_bytes] = parse_numbers(value)?;
        let row = Self {
            start,
            end,
            bytes,
            cleaned,
            dirty_bytes,
        };
        (start <= end && cleaned <= end).then_some(row)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OffsetRow {
    /// The offset of the next record to process.
    pub offset: u64,
    /// When it was committed, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl OffsetRow {
    pub fn to_bytes(self) -> Vec<u8> {
        [self.offset, self.at_ms]
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect()
    }

    pub fn parse(value: &[u8]) -> Option<Self> {
        let [offset, at_ms] = parse_numbers(value)?;
        Some(Self { offset, at_ms })
    }
}

pub(super) fn parse_numbers<const N: usize>(value: &[u8]) -> Option<[u64; N]> {
    let (numbers, rest) = value.as_chunks();
    if !rest.is_empty() {
        return None;
    }
    let numbers: &[[u8; 8]; N] = numbers.try_into().ok()?;
    Some(numbers.map(u64::from_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_their_bytes() {
        let row = PartitionRow {
            start: 1,
            end: u64::MAX,
            bytes: 3,
            cleaned: 4,
            dirty_bytes: 5,
        };
        assert_eq!(PartitionRow::parse(&row.to_bytes()), Some(row));
        assert_eq!(PartitionRow::parse(&row.to_bytes()[..39]), None);
        let row = OffsetRow {
            offset: 7,
            at_ms: 8,
        };
        assert_eq!(OffsetRow::parse(&row.to_bytes()), Some(row));
        let key = offset_key("a-group", 3, 4);
        assert_eq!(parse_offset_key(&key), Some(("a-group", 3, 4)));
        for len in 0..key.len() {
            assert_eq!(parse_offset_key(&key[..len]), None);
        }
        let key = partition_key(3, 4);
        assert_eq!(parse_partition_key(&key), Some((3, 4)));
        for len in 0..key.len() {
            assert_eq!(parse_partition_key(&key[..len]), None);
        }
    }

    #[test]
    fn records_stand_in_order_of_topic_partition_and_offset() {
        let keys = [(1, 0, 300), (1, 1, 2), (1, 1, 256), (2, 0, 0)];
        let keys = keys.map(|(topic, partition, offset)| record_key(topic, partition, offset));
        assert!(keys.is_sorted());
        assert_eq!(record_key_offset(&keys[2]), Some(256));
        assert_eq!(record_key_offset(&keys[2][1..]), None);
    }
}
