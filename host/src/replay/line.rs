//! A record as a line of JSON: what the doors answer, replay prints and an
//! export holds. Nothing of a record is lost in it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::types::{
    DIGEST_HEADER, Digest, EVENT_TIME_HEADER, Header, NewRecord, Offset, PartitionId, Record,
    SOURCE_HEADER, TopicPartition,
};

/// On records that were made again after a rollback.
pub const ATTEMPT_HEADER: &str = "courtside-attempt";

/// Bytes in JSON: as text where they are UTF-8, else in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Text {
    Utf8(String),
    Hex { hex: String },
}

/// A line that no host of ours wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

impl Text {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        std::str::from_utf8(bytes).map_or_else(
            |_| Self::Hex {
                hex: hex::encode(bytes),
            },
            |text| Self::Utf8(text.to_owned()),
        )
    }

    pub fn bytes(&self) -> Result<Bytes, Malformed> {
        match self {
            Self::Utf8(text) => Ok(Bytes::copy_from_slice(text.as_bytes())),
            Self::Hex { hex } => hex::decode(hex)
                .map(Bytes::from)
                .map_err(|error| Malformed(format!("hexadecimal digits: {error}"))),
        }
    }
}

/// A header of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeaderLine {
    pub name: String,
    pub value: Option<Text>,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Line {
    pub topic: String,
    pub partition: u32,
    /// Its place in the partition; none where it was never appended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The offset of the event that led to it, in the entity's partition; none
    /// where it is an event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<u64>,
    pub timestamp_ms: u64,
    pub key: Option<Text>,
    pub headers: Vec<HeaderLine>,
    /// Null is a tombstone.
    pub value: Option<Text>,
}

impl Line {
    /// An event of the log.
    #[must_use]
    pub fn of_event(place: &TopicPartition, record: &Record) -> Self {
        Self {
            topic: place.topic.to_string(),
            partition: place.partition.0,
            offset: Some(record.offset.0),
            source: None,
            timestamp_ms: record.timestamp_ms,
            key: record.key.as_deref().map(Text::of),
            headers: header_lines(&record.headers),
            value: record.value.as_deref().map(Text::of),
        }
    }

    /// A record that the log has of what was published.
    #[must_use]
    pub fn of_published(place: &TopicPartition, record: &Record) -> Self {
        Self {
            source: provenance(&record.headers).map(|found| found.offset.0),
            ..Self::of_event(place, record)
        }
    }

    /// A record that would be appended.
    #[must_use]
    pub fn of_new(place: &TopicPartition, record: &NewRecord) -> Self {
        Self {
            topic: place.topic.to_string(),
            partition: place.partition.0,
            offset: None,
            source: provenance(&record.headers).map(|found| found.offset.0),
            timestamp_ms: record.timestamp_ms,
            key: record.key.as_deref().map(Text::of),
            headers: header_lines(&record.headers),
            value: record.value.as_deref().map(Text::of),
        }
    }

    /// The event it stands for.
    pub fn to_record(&self) -> Result<Record, Malformed> {
        let bytes = |text: &Option<Text>| text.as_ref().map(Text::bytes).transpose();
        let offset = self
            .offset
            .ok_or_else(|| Malformed("an event has no offset".to_owned()))?;
        let headers = self.headers.iter().map(|header| {
            Ok(Header {
                name: header.name.as_str().into(),
                value: bytes(&header.value)?,
            })
        });
        Ok(Record {
            offset: Offset(offset),
            timestamp_ms: self.timestamp_ms,
            key: bytes(&self.key)?,
            headers: headers.collect::<Result<_, Malformed>>()?,
            value: bytes(&self.value)?,
        })
    }

    /// What the host wrote on it, where it was published.
    #[must_use]
    pub fn provenance(&self) -> Option<Provenance> {
        let headers = self.headers.iter().map(|header| Header {
            name: header.name.as_str().into(),
            value: match &header.value {
                Some(Text::Utf8(text)) => Some(Bytes::copy_from_slice(text.as_bytes())),
                _ => None,
            },
        });
        provenance(&headers.collect::<Vec<_>>())
    }

    /// The text of the last header of that name.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().rfind(|header| header.name == name)?;
        match header.value.as_ref()? {
            Text::Utf8(text) => Some(text),
            Text::Hex { .. } => None,
        }
    }

    /// The time of the event that led to it. A record may have another time: that of
    /// its commit, and the event's in a header.
    #[must_use]
    pub fn event_time_ms(&self) -> u64 {
        let header = self.text(EVENT_TIME_HEADER);
        let replaced = header.and_then(|text| text.parse().ok());
        replaced.unwrap_or(self.timestamp_ms)
    }

    /// Bytes it takes in memory, about.
    #[must_use]
    pub fn size(&self) -> usize {
        const OVERHEAD_BYTES: usize = 256;
        let size = |text: &Option<Text>| match text {
            None => 0,
            Some(Text::Utf8(text) | Text::Hex { hex: text }) => text.len(),
        };
        let headers: usize = self
            .headers
            .iter()
            .map(|header| header.name.len() + size(&header.value) + OVERHEAD_BYTES / 4)
            .sum();
        OVERHEAD_BYTES + size(&self.key) + headers + size(&self.value)
    }

    /// Itself, and a line break.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Plain data to memory does not fail.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

fn header_lines(headers: &[Header]) -> Vec<HeaderLine> {
    let lines = headers.iter().map(|header| HeaderLine {
        name: header.name.to_string(),
        value: header.value.as_deref().map(Text::of),
    });
    lines.collect()
}

/// What the host wrote on a record it published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provenance {
    pub partition: PartitionId,
    /// Of the event that led to it.
    pub offset: Offset,
    /// The plugin that made it; none on a dead letter that had none.
    pub digest: Option<Digest>,
    /// 1, and more where it was made again after a rollback.
    pub attempt: u32,
}

/// Reads it from the last headers of ours: a dead letter has those of its event
/// before, which may come from another pipeline.
#[must_use]
pub fn provenance(headers: &[Header]) -> Option<Provenance> {
    let text = |header: &Header| {
        let value = header.value.as_deref()?;
        std::str::from_utf8(value).ok().map(str::to_owned)
    };
    let at = headers
        .iter()
        .rposition(|header| &*header.name == SOURCE_HEADER)?;
    let source = text(headers.get(at)?)?;
    let (rest, offset) = source.rsplit_once('/')?;
    let (_, partition) = rest.rsplit_once('/')?;
    // Ours stand together.
    let ours = headers.get(at.saturating_sub(2)..).unwrap_or_default();
    let last = |name: &str| ours.iter().rev().find(|header| &*header.name == name);
    Some(Provenance {
        partition: PartitionId(partition.parse().ok()?),
        offset: Offset(offset.parse().ok()?),
        digest: last(DIGEST_HEADER)
            .and_then(text)
            .and_then(|digest| digest.parse().ok()),
        attempt: last(ATTEMPT_HEADER)
            .and_then(text)
            .and_then(|attempt| attempt.parse().ok())
            .unwrap_or(1),
    })
}
