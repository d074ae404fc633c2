//! The topic `<group>.plugins`: messages of the hosts of a group about their plugins,
//! and an operator's orders to them. The topic has one partition, which is compacted.
//! Its values are JSON, except for the plugins' own bytes.
//!
//! | key | |
//! | --- | --- |
//! | `takeover/<slot>/<partition>/<seq % 64>` | [`TakeoverRecord`], in the commit with which it happens |
//! | `host/<host>/<slot>` | [`Presence`], now and then |
//! | `directive/<slot>/<id % 16>` | [`Directive`], one of the latest orders to go back |
//! | `confirm/<slot>` | [`Confirmation`], the latest |
//! | `plugin/<digest>/<n>` | a piece of a plugin |
//!
//! Takeovers are written by workers, all else by the managers of slots.
//!
//! A directive stands until another one takes its place, and every host follows the
//! directives that it finds. So it does not matter which host an operator asked. A host
//! knows that a record is there when it reads the record; nobody waits for an append.

pub mod tail;

use bytes::Bytes;
use bytestring::ByteString;
use courtside_process::clock::now_ms;
use courtside_types::{
    Digest, Header, Key, NewRecord, PartitionId, Record, Topic, TopicPartition,
    slot_name::SlotName, topics::PLUGINS_SUFFIX,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    time,
    view::{FileState, SlotState},
};
use crate::worker::takeover::{Directive, history::TakeoverRecord};

/// The topic's only partition.
pub const ONLY: PartitionId = PartitionId(0);

/// The header of each piece that says how many pieces the plugin has in all.
const PIECES_HEADER: &str = "courtside-pieces";

/// The topic of a group.
#[must_use]
pub fn name(group: &str) -> Topic {
    format!("{group}{PLUGINS_SUFFIX}").into()
}

/// The only partition of a group's topic.
#[must_use]
pub fn place(group: &str) -> TopicPartition {
    TopicPartition {
        topic: name(group),
        partition: ONLY,
    }
}

/// The plugin that a host runs in a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    pub host: ByteString,
    pub slot: SlotName,
    pub digest: Option<Digest>,
    pub state: SlotState,
    /// The state of the slot's file.
    pub file: FileState,
    /// How many of its partitions process again what a rollback undid.
    pub redoing: u32,
    pub at: Timestamp,
}

/// An operator's word that the plugin that runs in a slot stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    pub slot: SlotName,
    pub digest: Option<Digest>,
    /// The time at which the operator confirmed. The record has it as a timestamp.
    #[serde(rename = "at", with = "time")]
    pub at_ms: u64,
}

impl Presence {
    #[must_use]
    pub fn record(&self) -> NewRecord {
        json(Self::key(&self.host, &self.slot), self)
    }

    /// The record of a host that is gone, or no longer has the slot.
    #[must_use]
    pub fn withdrawn(host: &str, slot: &SlotName) -> NewRecord {
        tombstone(Self::key(host, slot))
    }

    fn key(host: &str, slot: &SlotName) -> String {
        format!("host/{host}/{slot}")
    }
}

/// The record that gives a directive to all hosts.
#[must_use]
pub fn directive(directive: &Directive) -> NewRecord {
    let place = Directive::place(directive.id);
    json(format!("directive/{}/{place}", directive.slot), directive)
}

/// The record that withdraws a directive: the plugin that was undone is wanted after
/// all.
#[must_use]
pub fn no_directive(slot: &SlotName, place: u64) -> NewRecord {
    tombstone(format!("directive/{slot}/{place}"))
}

impl Confirmation {
    #[must_use]
    pub fn record(&self) -> NewRecord {
        json(format!("confirm/{}", self.slot), self)
    }
}

/// A piece of a plugin.
#[must_use]
pub fn piece(digest: Digest, number: u32, of: u32, bytes: Bytes) -> NewRecord {
    NewRecord {
        headers: vec![Header::new(PIECES_HEADER, of.to_string())],
        value: Some(bytes),
        ..tombstone(format!("plugin/{digest}/{number}"))
    }
}

/// The record that removes a piece, since nobody needs it any more.
#[must_use]
pub fn no_piece(digest: Digest, number: u32) -> NewRecord {
    tombstone(format!("plugin/{digest}/{number}"))
}

/// The content of a record of the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicRecord {
    Takeover(TakeoverRecord),
    Presence(Presence),
    Gone {
        host: ByteString,
        slot: SlotName,
    },
    Directive(Directive),
    /// The directive that had this place no longer stands.
    Withdrawn {
        slot: SlotName,
        place: u64,
    },
    Confirmation(Confirmation),
    Piece {
        digest: Digest,
        number: u32,
        of: u32,
    },
    NoPiece {
        digest: Digest,
        number: u32,
    },
}

impl TopicRecord {
    /// The content of a record; none where a newer version may have written it.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        let key = std::str::from_utf8(record.key.as_ref()?).ok()?;
        let (kind, rest) = key.split_once('/')?;
        let Some(value) = &record.value else {
            return Self::taken_back(kind, rest);
        };
        match kind {
            "takeover" => parse(value).map(Self::Takeover),
            "host" => parse(value).map(Self::Presence),
            "directive" => parse(value).map(Self::Directive),
            "confirm" => parse(value).map(Self::Confirmation),
            "plugin" => {
                let (digest, number) = numbered(rest)?;
                let of = std::str::from_utf8(record.header(PIECES_HEADER)?).ok()?;
                let of = of.parse().ok()?;
                Some(Self::Piece { digest, number, of })
            }
            _ => None,
        }
    }

    fn taken_back(kind: &str, rest: &str) -> Option<Self> {
        match kind {
            "host" => {
                let (host, slot) = rest.split_once('/')?;
                Some(Self::Gone {
                    host: host.into(),
                    slot: SlotName::parse(slot)?,
                })
            }
            "directive" => {
                let (slot, place) = rest.rsplit_once('/')?;
                Some(Self::Withdrawn {
                    slot: SlotName::parse(slot)?,
                    place: place.parse().ok()?,
                })
            }
            "plugin" => {
                let (digest, number) = numbered(rest)?;
                Some(Self::NoPiece { digest, number })
            }
            _ => None,
        }
    }
}

fn numbered(rest: &str) -> Option<(Digest, u32)> {
    let (digest, number) = rest.split_once('/')?;
    Some((digest.parse().ok()?, number.parse().ok()?))
}

fn parse<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    serde_json::from_slice(value).ok()
}

fn json(key: String, value: &impl Serialize) -> NewRecord {
    NewRecord {
        // The values have only plain fields, which JSON can always hold.
        value: Some(serde_json::to_vec(value).unwrap_or_default().into()),
        ..tombstone(key)
    }
}

fn tombstone(key: String) -> NewRecord {
    NewRecord {
        timestamp_ms: now_ms(),
        key: Some(Key::from(key)),
        headers: Vec::new(),
        value: None,
    }
}

#[cfg(test)]
mod tests {
    use courtside_types::Offset;

    use super::*;
    use crate::worker::takeover::history::Kind;

    fn slot() -> SlotName {
        SlotName::of_key(b"a/b c")
    }

    fn digest() -> Digest {
        Digest::of(b"x")
    }

    fn read(record: NewRecord) -> Option<TopicRecord> {
        TopicRecord::of(&Record {
            offset: Offset(0),
            timestamp_ms: record.timestamp_ms,
            key: record.key,
            headers: record.headers,
            value: record.value,
        })
    }

    #[test]
    fn a_takeover_is_read_as_it_was_written() {
        let takeover = TakeoverRecord {
            slot: slot(),
            partition: PartitionId(3),
            seq: 65,
            offset: Offset(42),
            until: None,
            digest: Some(digest()),
            plugin: "nba-scoring@1.0.0".to_owned(),
            previous: None,
            host: "host-1".to_owned(),
            at: 1,
            kind: Kind::Swap,
            attempt: 1,
        };
        let record = takeover.record();
        assert_eq!(read(record), Some(TopicRecord::Takeover(takeover)));
    }

    #[test]
    fn a_presence_is_read_as_it_was_written() {
        let presence = Presence {
            host: "host-1".into(),
            slot: slot(),
            digest: Some(digest()),
            state: SlotState::Active,
            file: FileState::Runs,
            redoing: 0,
            at: "2026-11-20T19:30:00.5Z".parse().unwrap(),
        };
        let record = presence.record();
        assert_eq!(read(record), Some(TopicRecord::Presence(presence)));
        assert_eq!(
            read(Presence::withdrawn("host-1", &slot())),
            Some(TopicRecord::Gone {
                host: "host-1".into(),
                slot: slot()
            })
        );
    }

    #[test]
    fn a_directive_is_read_as_it_was_written() {
        let order = Directive {
            id: 7,
            slot: slot(),
            bad: digest(),
            to: None,
            at: 1,
        };
        assert_eq!(read(directive(&order)), Some(TopicRecord::Directive(order)));
        assert_eq!(
            read(no_directive(&slot(), 7)),
            Some(TopicRecord::Withdrawn {
                slot: slot(),
                place: 7
            })
        );
    }

    #[test]
    fn a_confirmation_is_read_as_it_was_written() {
        let confirmation = Confirmation {
            slot: slot(),
            digest: None,
            at_ms: 1_795_203_000_500,
        };
        let record = confirmation.record();
        let value = record.value.clone().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&value).unwrap();
        assert_eq!(json["at"], "2026-11-20T19:30:00.5Z");
        assert_eq!(read(record), Some(TopicRecord::Confirmation(confirmation)));
    }

    #[test]
    fn a_piece_is_read_as_it_was_written() {
        assert_eq!(
            read(piece(digest(), 1, 2, Bytes::from_static(b"\0asm"))),
            Some(TopicRecord::Piece {
                digest: digest(),
                number: 1,
                of: 2
            })
        );
        assert_eq!(
            read(no_piece(digest(), 1)),
            Some(TopicRecord::NoPiece {
                digest: digest(),
                number: 1
            })
        );
    }

    #[test]
    fn what_is_not_known_is_passed_over() {
        for (key, value) in [
            ("else", Some("{}")),
            ("directive/default/0", Some("{}")),
            ("directive/nowhere/0", None),
            ("directive/default/x", None),
            ("plugin/abc/0", None),
        ] {
            let value = value.map(Bytes::from);
            let record = NewRecord {
                value,
                ..tombstone(key.to_owned())
            };
            assert_eq!(read(record), None, "{key}");
        }
    }
}
