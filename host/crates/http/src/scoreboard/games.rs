//! The index of one output: the latest committed record of each key.
//!
//! It is plain data with no lock and no IO. An update costs a hash lookup and
//! two steps in a tree of sequence numbers; a game costs some 300 bytes, and
//! its value while it is among those held. Each update gets the next sequence
//! number, local to this host, so that a reader is nothing but the number it
//! has read up to. The index no longer has the records superseded meanwhile.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, OnceLock},
};

use bytes::{Bytes, BytesMut};
use courtside_types::{
    DIGEST_HEADER, Key, Offset, PLUGIN_HEADER, PartitionId, Record, SOURCE_HEADER,
};
use serde::de::IgnoredAny;

use super::deflate::deflate;

/// The contents of an output record.
#[derive(Debug)]
pub struct Latest {
    pub timestamp_ms: u64,
    pub value: Bytes,
    /// The plugin that made the record.
    pub plugin: Option<Bytes>,
    /// The digest of that plugin.
    pub digest: Option<Bytes>,
    /// The input record that led to it.
    pub source: Option<Bytes>,
    is_json: OnceLock<bool>,
    deflated: OnceLock<Option<Bytes>>,
}

impl Latest {
    /// Whether the value is JSON. The check runs once, for all readers.
    #[must_use]
    pub fn is_json(&self) -> bool {
        *self.is_json.get_or_init(|| {
            // `serde_json` does not check the UTF-8 of values that it skips.
            std::str::from_utf8(&self.value)
                .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
        })
    }

    /// The value as JSON. A value that is not JSON becomes an object with its
    /// bytes in hexadecimal.
    #[must_use]
    pub fn json(&self) -> Bytes {
        if self.is_json() {
            self.value.clone()
        } else {
            format!(r#"{{"hex":"{}"}}"#, hex::encode(&self.value)).into()
        }
    }

    /// The value compressed by [`deflate`]; `None` where that gains nothing.
    /// The result is made once, for all readers, and stays with the value: it
    /// is always smaller.
    #[must_use]
    pub fn deflated(&self) -> Option<&Bytes> {
        self.deflated.get_or_init(|| deflate(&self.value)).as_ref()
    }

    /// Copies the parts of a record that the index keeps, so that one value
    /// does not hold on to the whole batch it was read in.
    pub(super) fn copy(record: &Record, value: &Bytes, made_by: &MadeBy) -> Self {
        let source = record.header(SOURCE_HEADER);
        let size = value.len().saturating_add(source.map_or(0, Bytes::len));
        let mut bytes = BytesMut::with_capacity(size);
        bytes.extend_from_slice(value);
        let value = bytes.split().freeze();
        let source = source.map(|source| {
            bytes.extend_from_slice(source);
            bytes.freeze()
        });
        Self {
            timestamp_ms: record.timestamp_ms,
            value,
            plugin: shared(record.header(PLUGIN_HEADER), made_by.plugin.as_ref()),
            digest: shared(record.header(DIGEST_HEADER), made_by.digest.as_ref()),
            source,
            is_json: OnceLock::new(),
            deflated: OnceLock::new(),
        }
    }

    fn size(&self) -> usize {
        let source = self.source.as_ref().map_or(0, Bytes::len);
        self.value.len() + source + LATEST_OVERHEAD_BYTES
    }
}

/// The plugin that made a record.
#[derive(Clone, Debug, Default)]
pub(super) struct MadeBy {
    plugin: Option<Bytes>,
    digest: Option<Bytes>,
}

/// A copy of a header's value, or the known copy where it is equal.
fn shared(value: Option<&Bytes>, known: Option<&Bytes>) -> Option<Bytes> {
    if value == known {
        known.cloned()
    } else {
        value.map(|value| Bytes::copy_from_slice(value))
    }
}

/// Memory around a value: the allocation, its count, and four handles to bytes.
const LATEST_OVERHEAD_BYTES: usize = 256;

/// Where an output record stands in its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub partition: PartitionId,
    pub offset: Offset,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

/// The state of a game in the index.
#[derive(Clone, Debug)]
pub enum State {
    Held(Arc<Latest>),
    /// The index has dropped the value; the log has it.
    Dropped,
    /// The latest record is a tombstone.
    Deleted,
}

/// One game, as a reader finds it.
#[derive(Clone, Debug)]
pub struct Found {
    pub key: Key,
    pub place: Place,
    pub seq: u64,
    pub state: State,
}

/// Games after a sequence number.
#[derive(Debug, Default)]
pub struct Newer {
    pub found: Vec<Found>,
    /// Everything up to this sequence number was looked at.
    pub cursor: u64,
    /// There may be more after the cursor.
    pub more: bool,
}

type Slot = usize;

/// The index of one output.
#[derive(Debug)]
pub struct Games {
    entries: Vec<Found>,
    free: Vec<Slot>,
    index: HashMap<Key, Slot>,
    /// Games that are not deleted, in key order.
    names: BTreeMap<Key, Slot>,
    by_seq: BTreeMap<u64, Slot>,
    /// The deleted games, by sequence number.
    deleted: BTreeMap<u64, Slot>,
    seq: u64,
    /// The index drops values in the order of their sequence numbers, and holds
    /// none up to this one.
    dropped_up_to: u64,
    held_bytes: usize,
    held_bytes_max: usize,
    deleted_max: usize,
    /// The last plugin and digest seen: nearly all records share them.
    made_by: MadeBy,
}

impl Games {
    pub fn new(held_bytes_max: usize, deleted_max: usize) -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            index: HashMap::new(),
            names: BTreeMap::new(),
            by_seq: BTreeMap::new(),
            deleted: BTreeMap::new(),
            seq: 0,
            dropped_up_to: 0,
            held_bytes: 0,
            held_bytes_max,
            deleted_max,
            made_by: MadeBy::default(),
        }
    }

    /// How many games there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The sequence number of the last update.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Takes a record. The records of a partition come in the order of offsets.
    pub fn apply(&mut self, partition: PartitionId, record: &Record) {
        let Some(key) = &record.key else {
            return;
        };
        let place = Place {
            partition,
            offset: record.offset,
        };
        let state = match &record.value {
            Some(value) => State::Held(Arc::new(self.keep(record, value))),
            None => State::Deleted,
        };
        self.seq = self.seq.saturating_add(1);
        let seq = self.seq;
        if let State::Held(latest) = &state {
            self.held_bytes = self.held_bytes.saturating_add(latest.size());
        }
        let deleted = matches!(state, State::Deleted);
        let slot = match self.index.get(key) {
            Some(slot) => {
                let slot = *slot;
                let Some(entry) = self.entries.get_mut(slot) else {
                    return;
                };
                let old = std::mem::replace(&mut entry.state, state);
                let old_seq = std::mem::replace(&mut entry.seq, seq);
                entry.place = place;
                let key = entry.key.clone();
                self.by_seq.remove(&old_seq);
                match old {
                    State::Held(latest) => {
                        self.held_bytes = self.held_bytes.saturating_sub(latest.size());
                    }
                    State::Dropped => {}
                    State::Deleted => {
                        self.deleted.remove(&old_seq);
                        if !deleted {
                            self.names.insert(key.clone(), slot);
                        }
                    }
                }
                if deleted {
                    self.names.remove(&key);
                }
                slot
            }
            None => {
                // The key is a slice of the batch that the log read; a copy releases it.
                let key = Bytes::copy_from_slice(key);
                let found = Found {
                    key: key.clone(),
                    place,
                    seq,
                    state,
                };
                let slot = self.insert(found);
                self.index.insert(key.clone(), slot);
                if !deleted {
                    self.names.insert(key, slot);
                }
                slot
            }
        };
        self.by_seq.insert(seq, slot);
        if deleted {
            self.deleted.insert(seq, slot);
            self.forget_deleted();
        }
        self.drop_values();
    }

    pub fn get(&self, key: &[u8]) -> Option<&Found> {
        self.index.get(key).and_then(|slot| self.entries.get(*slot))
    }

    /// Games in key order after a key.
    pub fn page(&self, after: Option<&[u8]>, count_max: usize) -> Vec<Found> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.names
            .range::<[u8], _>((from, Bound::Unbounded))
            .take(count_max)
            .filter_map(|(_, slot)| self.entries.get(*slot).cloned())
            .collect()
    }

    /// Games updated after a sequence number, the longest untouched first: at
    /// most `count_max` of those wanted, found among at most `scan_max`.
    pub fn newer(
        &self,
        cursor: u64,
        count_max: usize,
        scan_max: usize,
        mut wanted: impl FnMut(&Found) -> bool,
    ) -> Newer {
        let mut newer = Newer {
            cursor,
            ..Newer::default()
        };
        let after = self
            .by_seq
            .range((Bound::Excluded(cursor), Bound::Unbounded));
        for (scanned, (seq, slot)) in after.enumerate() {
            if newer.found.len() >= count_max || scanned >= scan_max {
                newer.more = true;
                return newer;
            }
            newer.cursor = *seq;
            newer.found.extend(
                self.entries
                    .get(*slot)
                    .filter(|found| wanted(found))
                    .cloned(),
            );
        }
        newer
    }

    fn keep(&mut self, record: &Record, value: &Bytes) -> Latest {
        let latest = Latest::copy(record, value, &self.made_by);
        if latest.plugin != self.made_by.plugin || latest.digest != self.made_by.digest {
            self.made_by = MadeBy {
                plugin: latest.plugin.clone(),
                digest: latest.digest.clone(),
            };
        }
        latest
    }

    fn insert(&mut self, found: Found) -> Slot {
        while let Some(slot) = self.free.pop() {
            if let Some(entry) = self.entries.get_mut(slot) {
                *entry = found;
                return slot;
            }
        }
        self.entries.push(found);
        self.entries.len().saturating_sub(1)
    }

    fn forget_deleted(&mut self) {
        while self.deleted.len() > self.deleted_max {
            let Some((seq, slot)) = self.deleted.pop_first() else {
                return;
            };
            self.by_seq.remove(&seq);
            if let Some(entry) = self.entries.get_mut(slot) {
                self.index.remove(&std::mem::take(&mut entry.key));
            }
            self.free.push(slot);
        }
    }

    fn drop_values(&mut self) {
        while self.held_bytes > self.held_bytes_max {
            let after = (Bound::Excluded(self.dropped_up_to), Bound::Unbounded);
            let Some((seq, slot)) = self.by_seq.range(after).next() else {
                return;
            };
            self.dropped_up_to = *seq;
            if let Some(entry) = self.entries.get_mut(*slot)
                && let State::Held(latest) = &entry.state
            {
                self.held_bytes = self.held_bytes.saturating_sub(latest.size());
                entry.state = State::Dropped;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use courtside_types::Header;
    use proptest::prelude::*;

    use super::*;

    fn record(offset: u64, key: &str, value: Option<&str>) -> Record {
        Record {
            offset: Offset(offset),
            timestamp_ms: 1,
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            headers: vec![Header::new(SOURCE_HEADER, "in/0/1".as_bytes())],
            value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
        }
    }

    proptest! {
        /// After any updates the index agrees with a map of the latest records,
        /// in both orders, and holds no more than it may.
        #[test]
        fn is_the_latest_of_each(
            updates in prop::collection::vec((0..12_u8, prop::option::of("[a-z]{0,40}")), 0..200),
        ) {
            let mut games = Games::new(2_000, 3);
            let mut model: BTreeMap<String, (u64, Option<String>)> = BTreeMap::new();
            for (offset, (key, value)) in (0..).zip(&updates) {
                let key = format!("game-{key:02}");
                games.apply(PartitionId(0), &record(offset, &key, value.as_deref()));
                model.insert(key, (offset, value.clone()));
                prop_assert!(games.held_bytes <= 2_000);
            }
            let held: usize = games.entries.iter().map(|found| match &found.state {
                State::Held(latest) => latest.size(),
                _ => 0,
            }).sum();
            prop_assert_eq!(held, games.held_bytes);

            let names: Vec<_> = games.page(None, 100).into_iter().map(|found| found.key).collect();
            let expected: Vec<_> = model.iter().filter(|(_, (_, value))| value.is_some())
                .map(|(key, _)| Bytes::from(key.clone())).collect();
            prop_assert_eq!(&names, &expected);
            prop_assert_eq!(games.len(), expected.len());

            let newer = games.newer(0, 100, 100, |_| true).found;
            let deleted = newer.iter().filter(|found| matches!(found.state, State::Deleted));
            prop_assert!(deleted.count() <= 3);
            prop_assert!(newer.is_sorted_by_key(|found| found.place.offset.0));
            for found in &newer {
                let (offset, value) = &model[std::str::from_utf8(&found.key).unwrap()];
                prop_assert_eq!(found.place.offset.0, *offset);
                match &found.state {
                    State::Held(latest) => {
                        prop_assert_eq!(Some(&*latest.value), value.as_ref().map(String::as_bytes));
                        prop_assert_eq!(latest.source.as_deref(), Some(&b"in/0/1"[..]));
                    }
                    State::Dropped => prop_assert!(value.is_some()),
                    State::Deleted => prop_assert!(value.is_none()),
                }
            }
        }

        /// A reader that takes a few at a time, while updates go on, ends with
        /// the latest of each.
        #[test]
        fn a_cursor_misses_nothing(
            updates in prop::collection::vec((0..12_u8, 0..4_u8), 1..200), count_max in 1..5_usize,
        ) {
            let mut games = Games::new(1_000_000, 3);
            let mut seen: BTreeMap<Bytes, u64> = BTreeMap::new();
            let mut cursor = 0;
            let mut read = |games: &Games| {
                let newer = games.newer(cursor, count_max, 7, |_| true);
                for found in newer.found {
                    seen.insert(found.key, found.place.offset.0);
                }
                cursor = newer.cursor;
                newer.more
            };
            for (offset, (key, reads)) in (0..).zip(&updates) {
                games.apply(PartitionId(0), &record(offset, &format!("{key}"), Some("x")));
                for _ in 0..*reads {
                    read(&games);
                }
            }
            while read(&games) {}
            let latest: BTreeMap<_, _> = games.page(None, 100).into_iter()
                .map(|found| (found.key, found.place.offset.0)).collect();
            prop_assert_eq!(seen, latest);
        }
    }
}
