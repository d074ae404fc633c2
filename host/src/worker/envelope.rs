//! What the host keeps beside a plugin's state in an entity's checkpoint.

use std::collections::VecDeque;

use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};

use crate::{
    plugin::SavedState,
    types::{Digest, Offset},
};

/// How many idempotency keys an entity remembers.
const RECENT_MAX: usize = 128;

const VERSION: u8 = 1;

/// A checkpoint as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Of the plugin that wrote the state.
    pub digest: Digest,
    /// The offset the state stands at: of the last event that went into it.
    pub offset: Offset,
    pub recent: Recent,
    pub halted: Option<Halt>,
    /// None where the entity halted before it ever had a checkpoint.
    pub saved: Option<SavedState>,
}

/// Why an entity takes no events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// The stable code of `docs/errors.md`.
    pub code: ByteString,
    pub reason: String,
}

/// The idempotency keys seen last, as hashes, each with the number of the last
/// event it brought: a request may bring many, of which an entity sees its own
/// in their order. Two of an entity's last 128 keys are taken for one with a
/// chance of about 1 in 10^17.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recent(VecDeque<(u64, u32)>);

impl Recent {
    /// Remembers an event's key and its number in the request, in decimal
    /// digits (anything else is 0); false says that it was known.
    pub fn insert(&mut self, key: &[u8], index: &[u8]) -> bool {
        let hash = xxhash_rust::xxh3::xxh3_64(key);
        let index = std::str::from_utf8(index)
            .ok()
            .and_then(|index| index.parse().ok())
            .unwrap_or(0);
        // The newest are asked for most.
        if let Some((_, last)) = self.0.iter_mut().rev().find(|(known, _)| *known == hash) {
            if index <= *last {
                return false;
            }
            *last = index;
            return true;
        }
        if self.0.len() >= RECENT_MAX {
            self.0.pop_front();
        }
        self.0.push_back((hash, index));
        true
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    version: u8,
    digest: [u8; 32],
    offset: u64,
    recent: Vec<(u64, u32)>,
    halted: Option<Halt>,
    #[serde(borrow)]
    saved: Option<(&'a str, &'a [u8])>,
}

/// Stored bytes that are no checkpoint of ours.
#[derive(Debug, thiserror::Error)]
#[error("not a checkpoint: {0}")]
pub struct NotACheckpoint(String);

impl Envelope {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let stored = Stored {
            version: VERSION,
            digest: self.digest.0,
            offset: self.offset.0,
            recent: self.recent.0.iter().copied().collect(),
            halted: self.halted.clone(),
            saved: self
                .saved
                .as_ref()
                .map(|saved| (&*saved.format, &*saved.state)),
        };
        // Writing plain data to memory does not fail.
        postcard::to_stdvec(&stored).unwrap_or_default().into()
    }

    pub fn decode(bytes: &Bytes) -> Result<Self, NotACheckpoint> {
        let stored: Stored =
            postcard::from_bytes(bytes).map_err(|error| NotACheckpoint(error.to_string()))?;
        if stored.version != VERSION {
            return Err(NotACheckpoint(format!(
                "version {}, this host knows {VERSION}",
                stored.version
            )));
        }
        Ok(Self {
            digest: Digest(stored.digest),
            offset: Offset(stored.offset),
            recent: Recent(stored.recent.into()),
            halted: stored.halted,
            saved: stored.saved.map(|(format, state)| SavedState {
                format: format.into(),
                state: bytes.slice_ref(state),
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_round_trip() {
        let mut recent = Recent::default();
        assert!(recent.insert(b"a", b""));
        assert!(!recent.insert(b"a", b""));
        let envelope = Envelope {
            digest: Digest::of(b"plugin"),
            offset: Offset(7),
            recent,
            halted: Some(Halt {
                code: "plugin-trap".into(),
                reason: "unreachable".into(),
            }),
            saved: Some(SavedState {
                format: "nba-scoring/1".into(),
                state: Bytes::from_static(b"{}"),
            }),
        };
        assert_eq!(Envelope::decode(&envelope.encode()).unwrap(), envelope);
    }

    #[test]
    fn refuses_what_it_did_not_write() {
        assert!(Envelope::decode(&Bytes::from_static(b"")).is_err());
        assert!(Envelope::decode(&Bytes::from_static(b"\x09garbage")).is_err());
    }

    #[test]
    fn remembers_the_last_keys_only() {
        let mut recent = Recent::default();
        for number in 0..=RECENT_MAX {
            assert!(recent.insert(number.to_string().as_bytes(), b""));
        }
        assert!(recent.insert(b"0", b""), "the oldest was forgotten");
        assert!(!recent.insert(b"128", b""));
    }

    #[test]
    fn a_request_of_any_size_is_known_again() {
        let mut recent = Recent::default();
        let sent = |recent: &mut Recent, count: u32| -> Vec<bool> {
            (0..count)
                .map(|index| recent.insert(b"request", index.to_string().as_bytes()))
                .collect()
        };
        assert_eq!(sent(&mut recent, 1000), [true; 1000]);
        assert_eq!(sent(&mut recent, 1000), [false; 1000]);
        // One that was cut off goes on where it was.
        assert_eq!(
            sent(&mut recent, 1002).iter().filter(|new| **new).count(),
            2
        );
    }
}
