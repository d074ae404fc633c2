//! The types that the parts share: ids and records. Each part has its own errors.
//!
//! Everything here is plain data, cheap to clone (bytes are reference-counted).

pub mod failure;
pub mod headers;
pub mod slot_name;
pub mod topics;

pub use headers::{
    ATTEMPT_HEADER, DIGEST_HEADER, EVENT_TIME_HEADER, HOST_HEADER_PREFIX, PLUGIN_HEADER,
    SOURCE_HEADER, TOPIC_HEADER,
};

use std::{fmt, str::FromStr};

use bytes::Bytes;
use bytesize::ByteSize;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A topic's name.
pub type Topic = ByteString;

/// A record key. In the pipeline `scores`, a game.
pub type Key = Bytes;

/// Why a host is not ready; a host without such reasons is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NotReady {
    /// Stable code.
    pub code: String,
    pub reason: String,
}

/// A size as a `usize`; a larger size becomes the largest `usize`.
#[must_use]
pub fn usize_of(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

/// The longest key that an entity has.
pub const ENTITY_KEY_BYTES_MAX: usize = 4096;

/// The number of a partition within its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(pub u32);

/// A record's place in its partition: the first is 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Offset(pub u64);

impl Offset {
    /// The offset after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id that tells a topic from another of its name: a topic that is deleted and
/// made anew has another id.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub u128);

impl TopicId {
    /// The id of topics that were created without one.
    pub const NONE: Self = Self(0);

    #[must_use]
    pub fn random() -> Self {
        Self(rand::random::<u128>().max(1))
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TopicId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// Writes the id as text for people, and as its number elsewhere.
impl Serialize for TopicId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for TopicId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            u128::deserialize(deserializer).map(Self)
        }
    }
}

/// One partition of one topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: Topic,
    pub partition: PartitionId,
}

/// Where a record stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub topic: Topic,
    pub partition: PartitionId,
    pub offset: Offset,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

/// A record header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub name: ByteString,
    pub value: Option<Bytes>,
}

impl Header {
    pub fn new(name: impl Into<ByteString>, value: impl Into<Bytes>) -> Self {
        Self {
            name: name.into(),
            value: Some(value.into()),
        }
    }

    /// The header with an event's own time, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn event_time(timestamp_ms: u64) -> Self {
        let name = ByteString::from_static(EVENT_TIME_HEADER);
        Self::new(name, timestamp_ms.to_string())
    }
}

/// A record before the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    pub timestamp_ms: u64,
    pub key: Option<Key>,
    pub headers: Vec<Header>,
    /// None is a tombstone.
    pub value: Option<Bytes>,
}

impl NewRecord {
    /// The bytes that the record counts for against a limit: its contents, and a
    /// fixed sum for the memory around them.
    #[must_use]
    pub fn size(&self) -> usize {
        Self::size_of(self.key.as_ref(), &self.headers, self.value.as_ref())
    }

    /// The size of a record of these parts.
    #[must_use]
    pub fn size_of(key: Option<&Bytes>, headers: &[Header], value: Option<&Bytes>) -> usize {
        record_size(key, headers, value)
    }
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset: Offset,
    pub timestamp_ms: u64,
    pub key: Option<Key>,
    pub headers: Vec<Header>,
    /// None is a tombstone.
    pub value: Option<Bytes>,
}

impl Record {
    /// As [`NewRecord::size`].
    #[must_use]
    pub fn size(&self) -> usize {
        record_size(self.key.as_ref(), &self.headers, self.value.as_ref())
    }

    /// A copy in buffers of its own: a record may share its buffer with all records
    /// of the same read, and keep them in memory.
    #[must_use]
    pub fn detached(&self) -> Self {
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let headers = self.headers.iter().map(|header| Header {
            name: ByteString::from(&*header.name),
            value: header.value.as_ref().map(copy),
        });
        Self {
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_ref().map(copy),
            headers: headers.collect(),
            value: self.value.as_ref().map(copy),
        }
    }

    /// The value of the first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers
            .iter()
            .find(|header| &*header.name == name)
            .and_then(|header| header.value.as_ref())
    }
}

const RECORD_OVERHEAD_BYTES: usize = 64;

fn record_size(key: Option<&Bytes>, headers: &[Header], value: Option<&Bytes>) -> usize {
    let headers: usize = headers
        .iter()
        .map(|header| header.name.len() + header.value.as_ref().map_or(0, Bytes::len))
        .sum();
    RECORD_OVERHEAD_BYTES + key.map_or(0, Bytes::len) + headers + value.map_or(0, Bytes::len)
}

/// The SHA-256 of a plugin's bytes: what tells one build from another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The first twelve hexadecimal digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for Digest {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

/// Writes the digest as text for people, and as its bytes elsewhere.
impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 32]>::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detached_record_is_the_same_and_keeps_nothing_else() {
        let batch = Bytes::from(b"key, name, value and much more".to_vec());
        let name = ByteString::try_from(batch.slice(5..9)).unwrap();
        let record = Record {
            offset: Offset(1),
            timestamp_ms: 2,
            key: Some(batch.slice(..3)),
            headers: vec![Header {
                name,
                value: Some(batch.slice(11..16)),
            }],
            value: Some(batch.slice(11..16)),
        };
        let detached = record.detached();
        assert_eq!(detached, record);
        assert!(!batch.is_unique());
        drop(record);
        assert!(batch.is_unique());
    }
}
