//! An entity's checkpoint: the plugin's state, and what the host keeps beside it.

use std::{borrow::Cow, collections::VecDeque};

use bytes::Bytes;
use bytestring::ByteString;
use courtside_plugin_host::SavedState;
use courtside_types::{Digest, Offset};
use serde::{Deserialize, Serialize};

/// How many idempotency keys an entity remembers.
const RECENT_MAX: usize = 128;

/// How many runs of missing events an entity remembers, over all its keys. With the
/// keys, the reason of a halt and the rest, they fit into the room that the
/// configuration leaves for an envelope.
const HOLES_MAX: usize = 256;

const VERSION: u8 = 3;

/// A checkpoint as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The digest of the plugin that wrote the state.
    pub digest: Digest,
    /// The offset of the last event that went into the state.
    pub offset: Offset,
    pub recent: Recent,
    pub halted: Option<Halt>,
    /// The events that rollbacks had the entity process again, the latest last.
    pub redone: Vec<Redone>,
    /// None where the entity halted before it ever had a checkpoint.
    pub saved: Option<SavedState>,
}

/// Why an entity takes no events but those that are redriven, and what a redrive has to
/// bring before the halt is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// The stable code of `docs/errors.md`.
    pub code: ByteString,
    pub reason: String,
    /// The newest of the entity's events that became dead letters because of the halt.
    /// A redrive has brought all when it has brought this one.
    pub newest: Offset,
    /// Redriven events are dead letters, too, until another redrive begins: an event
    /// before them was not processed.
    pub is_blocked: bool,
}

/// Events that an entity processed again after a rollback. Their earlier results are
/// void, dead letters among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redone {
    /// The first offset of the events.
    pub from: Offset,
    /// The offset after the events.
    pub until: Offset,
    /// 2 for the first time that the events were processed again.
    pub attempt: u32,
}

/// How many [`Redone`] an entity remembers.
pub const REDONE_MAX: usize = 8;

/// The idempotency keys seen last. A request may bring many events, of which an entity
/// sees its own, numbered from 0, in their order. The last number of each key is
/// therefore enough, with the numbers missing below it: an append that failed midway
/// leaves holes, which a retry fills.
///
/// Keys are kept as hashes: two of an entity's last 128 are taken for one with
/// a chance of about 1 in 10^17.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recent {
    /// A key, and the last number that came with it.
    keys: VecDeque<(u64, u32)>,
    /// A key, and the first and last number of a run below its last number that did not
    /// come. The oldest hole is first.
    holes: VecDeque<(u64, u32, u32)>,
}

impl Recent {
    /// Remembers an event's key and its number in the request, in decimal
    /// digits (anything else is 0); false says that it was known.
    pub fn insert(&mut self, key: &[u8], number: &[u8]) -> bool {
        let hash = xxhash_rust::xxh3::xxh3_64(key);
        let number = std::str::from_utf8(number)
            .ok()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0);
        // The newest keys are asked for most.
        let known = self.keys.iter_mut().rev().find(|(known, _)| *known == hash);
        match known {
            Some((_, last)) if number <= *last => self.fill(hash, number),
            Some((_, last)) => {
                let missing = last.saturating_add(1);
                *last = number;
                self.miss(hash, missing, number);
                true
            }
            None => {
                if self.keys.len() >= RECENT_MAX
                    && let Some((oldest, _)) = self.keys.pop_front()
                {
                    self.holes.retain(|(hash, ..)| *hash != oldest);
                }
                self.keys.push_back((hash, number));
                self.miss(hash, 0, number);
                true
            }
        }
    }

    /// Remembers that numbers from `first` on, up to and without `end`, did not come.
    /// If there are too many holes, the oldest is taken for filled.
    fn miss(&mut self, hash: u64, first: u32, end: u32) {
        if first >= end {
            return;
        }
        if self.holes.len() >= HOLES_MAX {
            self.holes.pop_front();
        }
        self.holes.push_back((hash, first, end - 1));
    }

    /// Takes a number out of the hole that it is in. Returns false if it is in none.
    fn fill(&mut self, hash: u64, number: u32) -> bool {
        let hole = self
            .holes
            .iter()
            .position(|(of, first, last)| *of == hash && (*first..=*last).contains(&number));
        let Some((_, first, last)) = hole.and_then(|hole| self.holes.remove(hole)) else {
            return false;
        };
        self.miss(hash, first, number);
        self.miss(hash, number.saturating_add(1), last.saturating_add(1));
        true
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    version: u8,
    digest: [u8; 32],
    offset: u64,
    recent: Cow<'a, Recent>,
    halted: Option<Cow<'a, Halt>>,
    #[serde(borrow)]
    saved: Option<(&'a str, &'a [u8])>,
    redone: Cow<'a, [Redone]>,
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
            recent: Cow::Borrowed(&self.recent),
            halted: self.halted.as_ref().map(Cow::Borrowed),
            saved: self
                .saved
                .as_ref()
                .map(|saved| (&*saved.format, &*saved.state)),
            redone: Cow::Borrowed(&self.redone),
        };
        // Writing plain data to memory does not fail.
        postcard::to_stdvec(&stored).unwrap_or_default().into()
    }

    pub fn decode(bytes: &Bytes) -> Result<Self, NotACheckpoint> {
        let version = bytes.first().copied().unwrap_or_default();
        if version != VERSION {
            return Err(NotACheckpoint(format!(
                "it has version {version}, this host reads version {VERSION}"
            )));
        }
        let stored: Stored<'_> =
            postcard::from_bytes(bytes).map_err(|error| NotACheckpoint(error.to_string()))?;
        Ok(Self {
            digest: Digest(stored.digest),
            offset: Offset(stored.offset),
            recent: stored.recent.into_owned(),
            halted: stored.halted.map(Cow::into_owned),
            saved: stored.saved.map(|(format, state)| SavedState {
                format: format.into(),
                state: bytes.slice_ref(state),
            }),
            redone: stored.redone.into_owned(),
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
                newest: Offset(9),
                is_blocked: true,
            }),
            redone: vec![Redone {
                from: Offset(3),
                until: Offset(7),
                attempt: 2,
            }],
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

    fn sent(recent: &mut Recent, numbers: impl IntoIterator<Item = u32>) -> Vec<bool> {
        let numbers = numbers.into_iter();
        numbers
            .map(|number| recent.insert(b"request", number.to_string().as_bytes()))
            .collect()
    }

    #[test]
    fn a_request_of_any_size_is_known_again() {
        let mut recent = Recent::default();
        assert_eq!(sent(&mut recent, 0..1000), [true; 1000]);
        assert_eq!(sent(&mut recent, 0..1000), [false; 1000]);
        // A retry of a request that was cut off goes on where that ended.
        assert_eq!(sent(&mut recent, 998..1002), [false, false, true, true]);
        assert_eq!(recent.holes, []);
    }

    /// An event that never came is new when it comes, in whatever order, and only once.
    #[test]
    fn the_holes_of_a_request_are_filled_by_its_retry() {
        for missing in [
            vec![0],
            vec![1],
            vec![0, 1, 2],
            vec![1, 3],
            vec![2, 3, 4, 7],
            vec![8],
        ] {
            for reversed in [false, true] {
                let mut recent = Recent::default();
                assert!(recent.insert(b"other", b"3"), "a hole of another request");
                sent(
                    &mut recent,
                    (0..10).filter(|number| !missing.contains(number)),
                );
                let mut numbers: Vec<u32> = (0..10).collect();
                if reversed {
                    numbers.reverse();
                }
                let expected: Vec<_> = numbers
                    .iter()
                    .map(|number| missing.contains(number))
                    .collect();
                assert_eq!(sent(&mut recent, numbers.clone()), expected, "{missing:?}");
                assert_eq!(sent(&mut recent, numbers), [false; 10], "{missing:?}");
                assert_eq!(recent.holes.len(), 1, "{missing:?}");
            }
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut recent = Recent::default();
        for key in 0..1000_u32 {
            for number in (0..2000).step_by(100) {
                recent.insert(&key.to_le_bytes(), number.to_string().as_bytes());
            }
        }
        assert_eq!(recent.keys.len(), RECENT_MAX);
        assert_eq!(recent.holes.len(), HOLES_MAX);
        let envelope = Envelope {
            digest: Digest::of(b"plugin"),
            offset: Offset(u64::MAX),
            recent: recent.clone(),
            halted: None,
            redone: Vec::new(),
            saved: None,
        };
        let stored = envelope.encode();
        assert!(stored.len() < 8 * 1024, "{} bytes", stored.len());
        assert_eq!(Envelope::decode(&stored).unwrap().recent, recent);
        // A key that is forgotten takes its holes along.
        for key in 0..RECENT_MAX as u32 {
            recent.insert(format!("later {key}").as_bytes(), b"");
        }
        assert_eq!(recent.holes, []);
    }
}
