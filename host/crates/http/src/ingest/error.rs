//! Why events were not taken, in words a client can act on.

use std::fmt;

use courtside_log::LogError;

/// Why a request's events were not taken.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The events are not as they should be: nothing of the request was
    /// appended, and sending it again will not help.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Bodies being read and appended hold all the memory they may.
    #[error("the requests under way hold as many bytes as ingest.in_flight_bytes_max allows")]
    Busy,
    /// The log took none of the events.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log did not say in time what became of the events. They may or may
    /// not be in it.
    #[error("the record log did not answer in time, the events may still be appended")]
    Timeout,
}

impl IngestError {
    /// The stable code of `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Refused(refused) => refused.reason.code(),
            Self::Busy => "host-busy",
            Self::Log(error) => error.code(),
            Self::Timeout => "append-timeout",
        }
    }
}

/// The kind of fault in an event, or in the body it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    InvalidJson,
    InvalidUtf8,
    /// A field is there and is not what it should be.
    InvalidField,
    MissingField,
    /// One object has the same field twice, so that nobody can say which counts.
    DuplicateField,
    TooDeep,
    EventTooLarge,
    TooManyEvents,
}

impl Reason {
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid-json",
            Self::InvalidUtf8 => "invalid-utf8",
            Self::InvalidField => "invalid-field",
            Self::MissingField => "missing-field",
            Self::DuplicateField => "duplicate-field",
            Self::TooDeep => "too-deep",
            Self::EventTooLarge => "event-too-large",
            Self::TooManyEvents => "too-many-events",
        }
    }

    /// Whether the fault is one of size (413) rather than of sense (400).
    #[must_use]
    pub const fn is_size(self) -> bool {
        matches!(self, Self::EventTooLarge | Self::TooManyEvents)
    }
}

/// Where in a body an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The event is the whole body.
    Whole,
    /// Element of an array, from 0.
    Index(usize),
    /// Line of an NDJSON body, from 1.
    Line(usize),
}

/// One thing that is wrong with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub reason: Reason,
    pub field: Option<String>,
    /// The fault in words, about the field if there is one ("must be …").
    pub detail: String,
}

impl Fault {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            field: None,
            detail: detail.into(),
        }
    }

    pub fn field(reason: Reason, field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            reason,
            field: Some(field.into()),
            detail: detail.into(),
        }
    }

    /// `serde_json` counts lines and columns from where it started to read; a
    /// place of our own replaces the line, where there is one.
    pub fn json(error: &serde_json::Error, place: Place) -> Self {
        let mut detail = error.to_string();
        if matches!(place, Place::Line(_))
            && let Some(end) = detail.rfind(" at line ")
        {
            detail.truncate(end);
            detail = format!("{detail} at column {}", error.column());
        }
        Self::new(Reason::InvalidJson, detail)
    }

    pub fn at(self, place: Place) -> Refused {
        Refused {
            reason: self.reason,
            place,
            field: self.field,
            detail: self.detail,
        }
    }
}

/// Why a body was refused: the first thing found wrong in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    pub reason: Reason,
    pub place: Place,
    /// The field's name; the JSON pointer of the key where the pipeline has one.
    pub field: Option<String>,
    pub detail: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.place, &self.field) {
            (Place::Whole, None) => write!(f, "{}", self.detail),
            (Place::Whole, Some(field)) => write!(f, "{field} {}", self.detail),
            (Place::Index(index), None) => write!(f, "[{index}]: {}", self.detail),
            (Place::Index(index), Some(field)) if field.starts_with('/') => {
                write!(f, "[{index}]{field} {}", self.detail)
            }
            (Place::Index(index), Some(field)) => write!(f, "[{index}].{field} {}", self.detail),
            (Place::Line(line), None) => write!(f, "line {line}: {}", self.detail),
            (Place::Line(line), Some(field)) => write!(f, "line {line}: {field} {}", self.detail),
        }
    }
}
