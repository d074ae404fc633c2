//! Dead letters and redrives as HTTP shows them.

use std::collections::BTreeMap;

use courtside_types::Position;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{event::Letter, notes::Notes};
use crate::pipeline::Pipeline;

/// The state of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LetterState {
    /// It can be redriven.
    Open,
    /// Its event was appended to the input again.
    Redriven,
    /// A reset deleted the state that it belongs to.
    Void,
    /// It can never be redriven: `unfit` says why.
    Unfit,
}

/// Where a record is, or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Place {
    pub topic: String,
    pub partition: u32,
    pub offset: u64,
}

impl From<&Position> for Place {
    fn from(position: &Position) -> Self {
        Self {
            topic: position.topic.to_string(),
            partition: position.partition.0,
            offset: position.offset.0,
        }
    }
}

/// A dead letter in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LetterView {
    /// The letter's partition, and its event's as well.
    pub partition: u32,
    pub offset: u64,
    /// The event's; what is not UTF-8 in it is replaced.
    pub key: Option<String>,
    /// Stable code: why it is a dead letter.
    pub code: String,
    /// Why, in words.
    pub reason: String,
    /// The event's own time, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// When the event became a dead letter, which its topic's retention counts from.
    pub dead_since_ms: u64,
    /// Where the event was first.
    pub origin: Option<Place>,
    /// The record that this letter was made of: another one than `origin` where
    /// the event was redriven before.
    pub source: Option<Place>,
    /// The plugin that was in force when the letter was made, `name@version`.
    pub plugin: Option<String>,
    pub digest: Option<String>,
    pub state: LetterState,
    /// Why it can never be redriven.
    pub unfit: Option<String>,
}

impl LetterView {
    #[must_use]
    pub fn of(letter: &Letter, pipeline: &Pipeline, notes: &Notes) -> Self {
        let (partition, offset) = (letter.partition, letter.record.offset);
        let unfit = letter.key(pipeline).err();
        let state = if notes.is_redriven(partition, offset) {
            LetterState::Redriven
        } else if notes.is_void(partition, offset) {
            LetterState::Void
        } else if unfit.is_some() {
            LetterState::Unfit
        } else {
            LetterState::Open
        };
        let key = letter.record.key.as_deref();
        Self {
            partition: partition.0,
            offset: offset.0,
            key: key.map(|key| String::from_utf8_lossy(key).into_owned()),
            code: letter.code.clone(),
            reason: letter
                .header(&crate::worker::output::ERROR_REASON)
                .unwrap_or_default(),
            timestamp_ms: letter.event_time_ms(),
            dead_since_ms: letter.record.timestamp_ms,
            origin: letter.origin.as_ref().map(Into::into),
            source: letter.source.as_ref().map(Into::into),
            plugin: letter.header(courtside_types::PLUGIN_HEADER),
            digest: letter.header(courtside_types::DIGEST_HEADER),
            state,
            unfit: unfit.map(|unfit| unfit.code().to_owned()),
        }
    }
}

/// A header of a record. Bytes of its value that are not UTF-8 are replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeaderView {
    pub name: String,
    pub value: Option<String>,
}

/// A dead letter with all that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LetterDetails {
    #[serde(flatten)]
    pub letter: LetterView,
    /// All of them, the event's own first.
    pub headers: Vec<HeaderView>,
    /// The event's value, where it is text.
    pub value: Option<String>,
    /// The event's value in hexadecimal digits, where it is not.
    pub value_hex: Option<String>,
    /// The bytes of the event, where the letter had to leave out its value and
    /// headers.
    pub cut_bytes: Option<u64>,
}

/// A page of dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LettersPage {
    pub pipeline: String,
    pub topic: String,
    pub letters: Vec<LetterView>,
    /// `after` of the next page; none where there is no more. A page may have few
    /// letters, or none, and a next one: a request looks at so many at most.
    pub next: Option<String>,
    /// False where more letters may be like these: of the newest, older ones that
    /// were not looked at or have no place here; else those of the next page.
    pub complete: bool,
}

/// Which letters to redrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    All,
    Key(String),
    One { partition: u32, offset: u64 },
}

/// The effect that a redrive would have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Letters to redrive.
    pub letters: u64,
    /// Keys that they are of.
    pub keys: u64,
    /// The first of these.
    pub key_examples: Vec<String>,
    /// Letters by code.
    pub by_code: BTreeMap<String, u64>,
    /// Letters that can never be redriven, by why.
    pub unfit: BTreeMap<String, u64>,
    /// Letters that were redriven before.
    pub redriven_before: u64,
    /// Letters whose state a reset deleted.
    pub void: u64,
    /// False where there are more letters than one look takes.
    pub complete: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RedriveState {
    /// There was none since the host started.
    #[default]
    None,
    Running,
    Done,
    /// It ended before its end; `code` and `reason` say why.
    Failed,
}

/// A redrive: the one that runs, or the last one of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RedriveView {
    pub state: RedriveState,
    pub selection: Option<Selection>,
    pub started_at_ms: Option<u64>,
    pub ended_at_ms: Option<u64>,
    /// Letters whose events were appended to the input again.
    pub redriven: u64,
    /// The redriven events that are dead letters again.
    pub dead_again: u64,
    /// Letters that can never be redriven, by why.
    pub unfit: BTreeMap<String, u64>,
    /// Entities that halted again.
    pub halted: u64,
    /// The first of these.
    pub halted_keys: Vec<String>,
    /// Letters of halted entities that came meanwhile, and are left for the next
    /// redrive.
    pub left: u64,
    /// Why it failed.
    pub code: Option<String>,
    pub reason: Option<String>,
}
