//! The rows of the host among a partition's checkpoints. An entity's key is UTF-8, so
//! none begins with the byte 0xFF; the host's keys do, and stand after all entities.
//!
//! | key | value |
//! | --- | --- |
//! | `0xFF` `b`, slot's hash, seq, entity's key | [`Before`]: the entity as the trial of that seq found it |
//! | `0xFF` `l`, redo's id, entity's key | how far an entity has come that is processed again |
//! | `0xFF` `p` | [`PositionRow`]: how far the group has come |
//! | `0xFF` `r` | [`Redo`]: what is processed again, and how far it has come |
//! | `0xFF` `t`, slot's name | [`SlotRow`] |
//!
//! Numbers in keys are big-endian. Values begin with a version, but for offsets.

use bytes::{BufMut as _, Bytes, BytesMut};
use courtside_types::{Key, Offset, slot_name::SlotName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::SlotRow;
use crate::worker::position::PositionRow;

/// The byte that no entity's key begins with.
pub use courtside_log::HOST_KEY as RESERVED;

const BEFORE: u8 = b'b';
const LATE: u8 = b'l';
const POSITION: u8 = b'p';
const REDO: u8 = b'r';
const SLOT: u8 = b't';

const VERSION: u8 = 1;

/// Whether a checkpoint's key is the host's own.
#[must_use]
pub fn is_reserved(key: &[u8]) -> bool {
    key.first() == Some(&RESERVED)
}

/// A trial, as the keys of its rows name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrialId {
    /// The hash of the slot's name.
    pub slot: u64,
    pub seq: u32,
}

impl TrialId {
    #[must_use]
    pub fn of(slot: &SlotName, seq: u32) -> Self {
        Self {
            slot: slot_hash(slot),
            seq,
        }
    }
}

#[must_use]
pub fn slot_hash(slot: &SlotName) -> u64 {
    xxhash_rust::xxh3::xxh3_64(slot.to_string().as_bytes())
}

/// Events that are processed again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redo {
    /// The id in the keys of late entities' rows. No two redos of a partition have the
    /// same id.
    pub id: u32,
    /// No event below this offset is processed again.
    pub from: Offset,
    /// The next offset to be processed again. The redo ends at the partition's
    /// committed offset.
    pub next: Offset,
    /// The attempt that the redo's output records name: 2 for the first.
    pub attempt: u32,
    /// Trials whose entities are not all restored yet, in the order of restoring. The
    /// partition takes no records until they are.
    pub restoring: Vec<TrialId>,
    /// The redo is done. Its row stays, so that the next redo gets another id.
    pub ended: bool,
}

/// An entity before a trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// All of the entity's events below this offset had been processed, and none from
    /// it on.
    pub position: Offset,
    /// The entity's checkpoint, if it had one.
    pub envelope: Option<Bytes>,
}

pub fn slot_key(slot: &SlotName) -> Key {
    let mut key = vec![RESERVED, SLOT];
    key.extend_from_slice(slot.to_string().as_bytes());
    key.into()
}

/// The prefix of the keys of all slots.
pub const SLOTS: [u8; 2] = [RESERVED, SLOT];
/// The key of the position.
pub const POSITION_KEY: [u8; 2] = [RESERVED, POSITION];
/// The key of the redo.
pub const REDO_KEY: [u8; 2] = [RESERVED, REDO];
/// The prefix of the keys of all states from before trials.
pub const BEFORES: [u8; 2] = [RESERVED, BEFORE];
/// The prefix of the keys of all late entities.
pub const LATES: [u8; 2] = [RESERVED, LATE];

const BEFORE_PREFIX_BYTES: usize = 14;
const LATE_PREFIX_BYTES: usize = 6;

#[must_use]
pub fn slot_of(key: &[u8]) -> Option<SlotName> {
    SlotName::parse(std::str::from_utf8(key.strip_prefix(&SLOTS)?).ok()?)
}

#[must_use]
pub fn before_key(trial: TrialId, entity: &[u8]) -> Key {
    let mut key = BytesMut::with_capacity(BEFORE_PREFIX_BYTES + entity.len());
    key.put_slice(&BEFORES);
    key.put_u64(trial.slot);
    key.put_u32(trial.seq);
    key.put_slice(entity);
    key.freeze()
}

/// A key after all keys of a trial, which end in entities' keys and so in UTF-8.
#[must_use]
pub fn after_trial(trial: TrialId) -> Key {
    before_key(trial, &[RESERVED])
}

/// The trial and the entity of a state from before.
#[must_use]
pub fn before_of(key: &Key) -> Option<(TrialId, Key)> {
    let rest = key.strip_prefix(&BEFORES)?;
    let (slot, rest) = rest.split_first_chunk()?;
    let (seq, entity) = rest.split_first_chunk()?;
    let trial = TrialId {
        slot: u64::from_be_bytes(*slot),
        seq: u32::from_be_bytes(*seq),
    };
    Some((trial, key.slice_ref(entity)))
}

#[must_use]
pub fn late_key(redo: u32, entity: &[u8]) -> Key {
    let mut key = BytesMut::with_capacity(LATE_PREFIX_BYTES + entity.len());
    key.put_slice(&LATES);
    key.put_u32(redo);
    key.put_slice(entity);
    key.freeze()
}

/// The redo that an entity is late for.
#[must_use]
pub fn late_of(key: &[u8]) -> Option<u32> {
    let (redo, _) = key.strip_prefix(&LATES)?.split_first_chunk()?;
    Some(u32::from_be_bytes(*redo))
}

/// Stored bytes that are no row of ours.
#[derive(Debug, thiserror::Error)]
#[error("not a row of the host: {0}")]
pub struct NotARow(String);

fn encode(row: &impl Serialize) -> Bytes {
    // Writing plain data to memory does not fail.
    let mut bytes = vec![VERSION];
    bytes.extend(postcard::to_stdvec(row).unwrap_or_default());
    bytes.into()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, NotARow> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            postcard::from_bytes(rest).map_err(|error| NotARow(error.to_string()))
        }
        Some((version, _)) => Err(NotARow(format!(
            "it has version {version}, this host reads version {VERSION}"
        ))),
        None => Err(NotARow("it is empty".to_owned())),
    }
}

/// A row that is stored in its serialized form, after a version.
pub trait Row: Serialize + DeserializeOwned {
    fn encode(&self) -> Bytes {
        encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, NotARow> {
        decode(bytes)
    }
}

impl Row for PositionRow {}
impl Row for SlotRow {}
impl Row for Redo {}

impl Before {
    /// Writes the version, the position, whether there is an envelope, and the
    /// envelope.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let envelope = self.envelope.as_deref();
        let mut bytes = BytesMut::with_capacity(10 + envelope.map_or(0, <[u8]>::len));
        bytes.put_u8(VERSION);
        bytes.put_u64(self.position.0);
        bytes.put_u8(u8::from(envelope.is_some()));
        bytes.put_slice(envelope.unwrap_or_default());
        bytes.freeze()
    }

    pub fn decode(bytes: &Bytes) -> Result<Self, NotARow> {
        let short = || NotARow("it is too short".to_owned());
        let Some((&VERSION, rest)) = bytes.split_first() else {
            return Err(NotARow("it has another version".to_owned()));
        };
        let (position, rest) = rest.split_first_chunk().ok_or_else(short)?;
        let (there, envelope) = rest.split_first().ok_or_else(short)?;
        Ok(Self {
            position: Offset(u64::from_be_bytes(*position)),
            envelope: (*there != 0).then(|| bytes.slice_ref(envelope)),
        })
    }
}

#[must_use]
pub fn encode_offset(offset: Offset) -> Bytes {
    Bytes::copy_from_slice(&offset.0.to_be_bytes())
}

pub fn decode_offset(bytes: &[u8]) -> Result<Offset, NotARow> {
    let bytes = bytes
        .try_into()
        .map_err(|_| NotARow("it is no offset".to_owned()))?;
    Ok(Offset(u64::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use courtside_types::Digest;

    use super::*;

    #[test]
    fn rows_survive_a_round_trip() {
        for slot in [SlotName::Default, SlotName::of_key("Dončić/ä".as_bytes())] {
            let key = slot_key(&slot);
            assert!(is_reserved(&key));
            assert_eq!(slot_of(&key), Some(slot));
        }
        let trial = TrialId::of(&SlotName::Default, 7);
        let key = before_key(trial, b"k");
        assert_eq!(before_of(&key), Some((trial, Key::from_static(b"k"))));
        assert_eq!(late_of(&late_key(9, b"k")), Some(9));
        for envelope in [None, Some(Bytes::new()), Some("x".into())] {
            let before = Before {
                position: Offset(u64::MAX),
                envelope,
            };
            assert_eq!(Before::decode(&before.encode()).unwrap(), before);
        }
        let row = SlotRow {
            digest: Some(Digest::of(b"plugin")),
            plugin: "a@1".to_owned(),
            seq: 3,
            offset: Offset(4),
            at: 5,
            attempt: 1,
            trials: Vec::new(),
        };
        assert_eq!(SlotRow::decode(&row.encode()).unwrap(), row);
        assert_eq!(decode_offset(&encode_offset(Offset(5))).unwrap(), Offset(5));
    }

    #[test]
    fn refuses_what_it_did_not_write() {
        assert!(SlotRow::decode(b"").is_err());
        assert!(Redo::decode(b"\x09x").is_err());
        assert!(Before::decode(&Bytes::from_static(b"\x01short")).is_err());
        assert!(decode_offset(b"x").is_err());
    }

    /// The rows of a trial are together, and those of the slots last.
    #[test]
    fn rows_stand_in_order() {
        let (default, key) = (SlotName::Default, SlotName::of_key(b"k"));
        let mut keys = [
            Key::from_static("\u{10FFFF}".as_bytes()),
            before_key(TrialId { slot: 1, seq: 2 }, b"z"),
            after_trial(TrialId { slot: 1, seq: 2 }),
            before_key(TrialId { slot: 1, seq: 256 }, b"a"),
            before_key(TrialId { slot: 2, seq: 1 }, b"a"),
            late_key(1, b"z"),
            late_key(2, b"a"),
            Key::copy_from_slice(&POSITION_KEY),
            Key::copy_from_slice(&REDO_KEY),
            slot_key(&default),
            slot_key(&key),
        ];
        let sorted = keys.clone();
        keys.reverse();
        keys.sort();
        assert_eq!(keys, sorted);
    }
}
