//! Turns a body into records, and checks it whole before any of them is appended.
//!
//! A record's value is the event's own bytes as they were sent, without the
//! whitespace around them: a slice of the body, so that nothing is copied and
//! unknown fields survive.
//!
//! JSON leaves some points open, which are decided here. A field that matters may
//! stand in its object once; other fields are the plugin's business, twice or not. A byte
//! order mark, `NaN`, and anything after the value are errors. In NDJSON, lines
//! of nothing but whitespace are skipped (their numbers count). An empty array
//! or an NDJSON body without events is a request for nothing, and succeeds.

use std::{borrow::Cow, collections::HashMap, fmt};

use bytes::Bytes;
use courtside_types::{
    Header, NewRecord, PartitionId,
    headers::{IDEMPOTENCY_HEADER, IDEMPOTENCY_INDEX_HEADER},
};
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    Endpoint, Format, Schema,
    error::{Fault, Place, Reason, Refused},
    score,
};

/// The limits of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub event_bytes: usize,
    pub events: usize,
    pub levels: u32,
}

/// The values that every event of a request gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp<'a> {
    pub timestamp_ms: u64,
    pub idempotency_key: Option<&'a str>,
}

/// The events of one request, ready to be appended.
#[derive(Debug)]
pub(super) struct Events {
    /// Whether the body was an array or NDJSON, so that the answer is an array too.
    pub many: bool,
    pub records: Vec<(PartitionId, NewRecord)>,
}

pub(super) fn read(
    endpoint: &Endpoint,
    limits: Limits,
    format: Format,
    body: &Bytes,
    stamp: Stamp<'_>,
) -> Result<Events, Refused> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let detail = format!("not UTF-8 at byte {}", error.valid_up_to());
        Fault::new(Reason::InvalidUtf8, detail).at(Place::Whole)
    })?;
    if text.starts_with('\u{feff}') {
        let detail = "the body begins with a byte order mark";
        return Err(Fault::new(Reason::InvalidJson, detail).at(Place::Whole));
    }
    let mut reader = Reader {
        endpoint,
        limits,
        body,
        stamp,
        records: Vec::new(),
        counts: HashMap::new(),
    };
    let value = trim(text);
    let many = match format {
        // Untrimmed, so that lines have the numbers that an editor gives them.
        Format::NdJson => {
            reader.lines(text)?;
            true
        }
        Format::Json if value.starts_with('[') => {
            reader.array(value)?;
            true
        }
        Format::Json if value.is_empty() => {
            return Err(Fault::new(Reason::InvalidJson, "the body is empty").at(Place::Whole));
        }
        Format::Json => {
            reader.event(value, Place::Whole, false)?;
            false
        }
    };
    Ok(Events {
        many,
        records: reader.records,
    })
}

/// Trims JSON's whitespace, and no other.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r', '\n'])
}

struct Reader<'a> {
    endpoint: &'a Endpoint,
    limits: Limits,
    body: &'a Bytes,
    stamp: Stamp<'a>,
    records: Vec<(PartitionId, NewRecord)>,
    /// The number of events of each key so far, where events are numbered.
    counts: HashMap<Bytes, u32>,
}

impl Reader<'_> {
    fn lines(&mut self, text: &str) -> Result<(), Refused> {
        for (index, line) in text.split('\n').enumerate() {
            let line = trim(line);
            if !line.is_empty() {
                self.event(line, Place::Line(index.saturating_add(1)), true)?;
            }
        }
        Ok(())
    }

    fn array(&mut self, text: &str) -> Result<(), Refused> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let mut refused = None;
        let read = Elements {
            reader: self,
            refused: &mut refused,
        }
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end());
        match (refused, read) {
            (Some(refused), _) => Err(refused),
            (None, Err(error)) => Err(Fault::json(&error, Place::Whole).at(Place::Whole)),
            (None, Ok(())) => Ok(()),
        }
    }

    /// Checks one event and keeps it.
    fn event(&mut self, text: &str, place: Place, among_many: bool) -> Result<(), Refused> {
        let refuse = |reason, detail| Err(Fault::new(reason, detail).at(place));
        if self.records.len() >= self.limits.events {
            let detail = format!("a request may have at most {} events", self.limits.events);
            return refuse(Reason::TooManyEvents, detail);
        }
        if text.len() > self.limits.event_bytes {
            let (size, limit) = (text.len(), self.limits.event_bytes);
            let detail = format!("an event of {size} bytes is over the limit of {limit} bytes");
            return refuse(Reason::EventTooLarge, detail);
        }
        let key = self.key(text, place).map_err(|fault| fault.at(place))?;
        let key = match key {
            Cow::Borrowed(key) => self.body.slice_ref(key.as_bytes()),
            Cow::Owned(key) => Bytes::from(key),
        };
        let mut headers = Vec::new();
        if let Some(idempotency_key) = self.stamp.idempotency_key {
            let idempotency_key = idempotency_key.to_owned();
            headers.push(self.endpoint.mark.clone());
            headers.push(Header::new(IDEMPOTENCY_HEADER, idempotency_key));
            if among_many {
                let count = self.counts.entry(key.clone()).or_default();
                headers.push(Header::new(IDEMPOTENCY_INDEX_HEADER, count.to_string()));
                *count = count.saturating_add(1);
            }
        }
        let endpoint = self.endpoint;
        let partition = endpoint.partitioner.partition(&key, endpoint.partitions);
        let record = NewRecord {
            timestamp_ms: self.stamp.timestamp_ms,
            key: Some(key),
            headers,
            value: Some(self.body.slice_ref(text.as_bytes())),
        };
        self.records.push((partition, record));
        Ok(())
    }

    fn key<'t>(&self, text: &'t str, place: Place) -> Result<Cow<'t, str>, Fault> {
        let levels = self.limits.levels;
        match self.endpoint.schema {
            None => self.endpoint.key.find(text, levels, place),
            Some(Schema::Score) => {
                let game_id = score::check(text, levels, place)?;
                if self.endpoint.key.pointer() == super::GAME_ID_POINTER {
                    Ok(game_id)
                } else {
                    self.endpoint.key.find(text, levels, place)
                }
            }
        }
    }
}

/// The elements of an array, each handed to the reader as it is met, so that a
/// long array stops at the first thing wrong.
struct Elements<'r, 'a> {
    reader: &'r mut Reader<'a>,
    refused: &'r mut Option<Refused>,
}

impl<'de> DeserializeSeed<'de> for Elements<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        for index in 0_usize.. {
            let Some(element) = seq.next_element::<&RawValue>()? else {
                break;
            };
            let place = Place::Index(index);
            if let Err(refused) = self.reader.event(trim(element.get()), place, true) {
                *self.refused = Some(refused);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}
