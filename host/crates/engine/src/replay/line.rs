//! A record as a line of JSON: what the routes answer, replay prints and an
//! export holds. Nothing of a record is lost in it.

use bytes::Bytes;
use courtside_types::{
    ATTEMPT_HEADER, DIGEST_HEADER, Digest, EVENT_TIME_HEADER, Header, NewRecord, Offset,
    PartitionId, Record, SOURCE_HEADER, TopicPartition,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bytes in JSON: as text where they are UTF-8, else in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Text {
    Utf8(String),
    Hex { hex: String },
}

/// A line that no Courtside host wrote.
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
    /// The line of an event in the log.
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

    /// The line of a published record in the log.
    #[must_use]
    pub fn of_published(place: &TopicPartition, record: &Record) -> Self {
        Self {
            source: provenance(&record.headers).map(|found| found.offset.0),
            ..Self::of_event(place, record)
        }
    }

    /// The line of a record that is not appended yet.
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

    /// The event that the line stands for.
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

    /// The host's headers on a published record.
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

    /// The time of the event that led to the record. The record itself may have the
    /// time of its commit, and the event's time in a header.
    #[must_use]
    pub fn event_time_ms(&self) -> u64 {
        let header = self.text(EVENT_TIME_HEADER);
        let replaced = header.and_then(|text| text.parse().ok());
        replaced.unwrap_or(self.timestamp_ms)
    }

    /// Approximate bytes that the line takes in memory.
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

    /// The line as JSON, with a line break.
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

/// Origin of a published record, as the host's headers state it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provenance {
    pub partition: PartitionId,
    /// Offset of the event that led to the record.
    pub offset: Offset,
    /// The plugin that made the record; None on a dead letter that had no plugin.
    pub digest: Option<Digest>,
    /// 1, or more if the record was made again after a rollback.
    pub attempt: u32,
}

/// Reads the origin from the last headers that a host wrote. Before these, a dead
/// letter has those of its event, which may come from another pipeline.
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
    // The plugin and its digest stand right before the source.
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
