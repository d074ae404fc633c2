//! A dead letter, the event in it, and the record that takes the event back to
//! the input. The record has the headers of [`redriven`](crate::worker::redriven).

use bytes::Bytes;
use courtside_log::{COMMIT_EXTRA_BYTES, LogError, RecordLog};
use courtside_types::{
    ATTEMPT_HEADER, DIGEST_HEADER, EVENT_TIME_HEADER, Header, Key, NewRecord, Offset,
    PLUGIN_HEADER, PartitionId, Position, Record, SOURCE_HEADER, TOPIC_HEADER, Topic,
    headers::{IDEMPOTENCY_HEADER, IDEMPOTENCY_INDEX_HEADER},
    topics::DEAD_LETTER_SUFFIX,
};

use crate::{
    pipeline::{Pipeline, identity::Identity},
    worker::{
        entity::ENTITY_HALTED,
        output::{CUT, ERROR_CODE, ERROR_REASON},
        processing::usable_key,
        redriven::{BEGINS, MADE_OF, ORIGIN, REDRIVE, UNTIL, is_redriven, position},
    },
};

/// Where a group's dead letters go.
#[must_use]
pub fn topic(group: &str) -> Topic {
    format!("{group}{DEAD_LETTER_SUFFIX}").into()
}

/// Bytes that the headers of a redriven event may take.
const HEADERS_BYTES: usize = 512;

/// Why an event can never be redriven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unfit {
    /// The event has no entity or no value, as the code of its letter says.
    Event(&'static str),
    /// The letter is of another input, or does not say where its event comes
    /// from.
    Foreign,
    /// The event was too large for its letter, and the log no longer has it.
    Gone,
    /// The event is too large for the log with the headers that a redrive adds.
    TooLarge,
}

impl Unfit {
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Event(code) => code,
            Self::Foreign => "letter-foreign",
            Self::Gone => "event-gone",
            Self::TooLarge => "record-too-large",
        }
    }
}

/// Why a letter has no event to redrive.
#[derive(Debug)]
pub enum EventError {
    Unfit(Unfit),
    Log(LogError),
}

impl From<Unfit> for EventError {
    fn from(unfit: Unfit) -> Self {
        Self::Unfit(unfit)
    }
}

impl From<LogError> for EventError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

/// A dead letter.
#[derive(Clone, Debug)]
pub struct Letter {
    pub partition: PartitionId,
    pub record: Record,
    /// Stable code of why the event is a dead letter.
    pub code: String,
    /// The record of the input that the letter was made of.
    pub source: Option<Position>,
    /// Position at which the event first came: the source, unless the source
    /// was redriven itself.
    pub origin: Option<Position>,
    /// The event was redriven, and became a letter again.
    pub is_again: bool,
}

impl Letter {
    #[must_use]
    pub fn of(input: &Identity, partition: PartitionId, record: Record) -> Self {
        let is_again = is_redriven(input, &record);
        let source = last(&record, SOURCE_HEADER).and_then(|text| position(text));
        let origin = record.header(ORIGIN).filter(|_| is_again);
        let origin = origin.and_then(|text| position(text));
        Self {
            partition,
            code: text(&record, &ERROR_CODE).unwrap_or_default(),
            origin: origin.or_else(|| source.clone()),
            source,
            is_again,
            record,
        }
    }

    /// Detaches the record, so that the letter keeps nothing else in memory.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.record = self.record.detached();
        self
    }

    #[must_use]
    pub fn is_of_halt(&self) -> bool {
        self.code == ENTITY_HALTED
    }

    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        text(&self.record, name)
    }

    /// Size of the event in bytes, if the letter had to leave it out.
    #[must_use]
    pub fn cut_bytes(&self) -> Option<u64> {
        self.own(&CUT)
    }

    /// The attempt at processing the source record that led to this letter.
    fn attempt(&self) -> u32 {
        self.own(ATTEMPT_HEADER).unwrap_or(1)
    }

    /// The event's own time. In a letter of an older host, it is the letter's
    /// timestamp.
    #[must_use]
    pub fn event_time_ms(&self) -> u64 {
        self.own(EVENT_TIME_HEADER)
            .unwrap_or(self.record.timestamp_ms)
    }

    /// The value of the host's own header of that name, not of one that the
    /// event brought.
    fn own<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        let headers = &self.record.headers;
        let own = headers
            .get(event_header_count(headers)..)
            .unwrap_or_default();
        let header = own.iter().find(|header| &*header.name == name)?;
        let text = std::str::from_utf8(header.value.as_ref()?).ok()?;
        text.parse().ok()
    }

    /// The event's place in the order of its entity.
    #[must_use]
    pub fn order(&self) -> Offset {
        let origin = self.origin.as_ref();
        origin.map_or(self.record.offset, |origin| origin.offset)
    }

    /// The entity's key, or why the event can never be redriven, as far as the
    /// letter itself shows it.
    pub fn key(&self, pipeline: &Pipeline) -> Result<&Key, Unfit> {
        let here = |at: &Position| at.topic == pipeline.input && at.partition == self.partition;
        if !self.origin.as_ref().is_some_and(here) {
            return Err(Unfit::Foreign);
        }
        let key = usable_key(&self.record).map_err(|(code, _)| Unfit::Event(code))?;
        if self.record.value.is_none() && self.cut_bytes().is_none() {
            return Err(Unfit::Event("event-without-value"));
        }
        Ok(key)
    }

    /// The event as it came, to be appended to the input again.
    pub fn event(&self, log: &dyn RecordLog, pipeline: &Pipeline) -> Result<NewRecord, EventError> {
        self.key(pipeline)?;
        let mut origin = self.origin.clone();
        let (mut headers, value) = if self.cut_bytes().is_some() {
            let Some(source) = self.source.clone() else {
                return Err(Unfit::Foreign.into());
            };
            let found = log.read(&source.topic, source.partition, source.offset, 1)?;
            let found = found.into_iter().next();
            let Some(event) = found.filter(|event| event.offset == source.offset) else {
                return Err(Unfit::Gone.into());
            };
            // The event's origin header was cut from the letter, so it is read
            // from the source.
            if is_redriven(&pipeline.identity, &event) {
                origin = event.header(ORIGIN).and_then(|text| position(text));
            }
            (event.headers, event.value)
        } else {
            let mut headers = self.record.headers.clone();
            headers.truncate(event_header_count(&headers));
            (headers, self.record.value.clone())
        };
        headers.retain(|header| !OF_REDRIVES.contains(&&*header.name));
        let letter = format!("{}/{}", self.partition, self.record.offset);
        headers.push(pipeline.identity.mark());
        headers.push(Header::new(REDRIVE, letter));
        if let Some(source) = &self.source {
            let made_of = format!("{}/{}", source.offset, self.attempt());
            headers.push(Header::new(MADE_OF, made_of));
        }
        if let Some(origin) = origin {
            headers.push(Header::new(ORIGIN, origin.to_string()));
        }
        let event = NewRecord {
            timestamp_ms: self.event_time_ms(),
            key: self.record.key.clone(),
            headers,
            value,
        };
        let limit_bytes = pipeline.record_bytes_max + COMMIT_EXTRA_BYTES;
        if event.size() + HEADERS_BYTES > limit_bytes {
            return Err(Unfit::TooLarge.into());
        }
        Ok(event)
    }
}

/// Headers that a redriven event does not keep. The idempotency key goes,
/// because the host noted it when the event first came.
const OF_REDRIVES: [&str; 8] = [
    TOPIC_HEADER,
    IDEMPOTENCY_HEADER,
    IDEMPOTENCY_INDEX_HEADER,
    REDRIVE,
    ORIGIN,
    BEGINS,
    UNTIL,
    MADE_OF,
];

/// The number of a letter's headers that came with its event. The host's headers come
/// after them, in the order in which `worker::output::dead_letter` writes them. The event
/// may have headers of these names, too, from another pipeline.
fn event_header_count(headers: &[Header]) -> usize {
    let mut left = headers;
    let mut skip = |names: &[&str], count_max: usize| {
        for _ in 0..count_max {
            match left.split_last() {
                Some((header, rest)) if names.contains(&&*header.name) => left = rest,
                _ => break,
            }
        }
    };
    let last = [
        &*ERROR_REASON,
        &ERROR_CODE,
        &CUT,
        EVENT_TIME_HEADER,
        ATTEMPT_HEADER,
    ];
    skip(&last, last.len());
    skip(&[SOURCE_HEADER], 1);
    skip(&[ATTEMPT_HEADER], 1);
    skip(&[DIGEST_HEADER], 1);
    skip(&[PLUGIN_HEADER], 1);
    left.len()
}

/// The value of the last header of that name: the host's own.
fn last<'a>(record: &'a Record, name: &str) -> Option<&'a Bytes> {
    let mut headers = record.headers.iter().rev();
    let header = headers.find(|header| &*header.name == name)?;
    header.value.as_ref()
}

fn text(record: &Record, name: &str) -> Option<String> {
    last(record, name).map(|value| String::from_utf8_lossy(value).into_owned())
}
