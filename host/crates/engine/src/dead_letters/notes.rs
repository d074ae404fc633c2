//! Notes of the letters that were redriven: the topic `<group>.redrive`, and a
//! copy of it in memory.
//!
//! A note covers [`CHUNK`] letters of one partition, in the same partition of
//! the topic. The commit that redrives letters also writes their notes, so a
//! letter is noted if, and only if, it was redriven. The topic is compacted,
//! and a redrive drops the notes of letters that the log no longer has. A
//! host's copy takes one bit for each letter near a redriven one.

use std::collections::BTreeMap;

use bytes::Bytes;
use courtside_log::{LogError, RecordLog};
use courtside_process::clock::now_ms;
use courtside_types::{NewRecord, Offset, PartitionId, Record, Topic, topics::REDRIVE_SUFFIX};

/// Letters that one note covers.
const CHUNK: u64 = 1024;
const WORDS: usize = (CHUNK / 64) as usize;
/// Key of the note that says below which offset letters are void.
const VOID: &[u8] = b"void";
const READ_BYTES: usize = 1 << 20;
/// Most notes that one commit drops.
const DROPPED_MAX: usize = 256;

/// The topic of a group's notes.
#[must_use]
pub fn topic(group: &str) -> Topic {
    format!("{group}{REDRIVE_SUFFIX}").into()
}

/// The record that says that no letter below `end` can be redriven, because the
/// state that the letters belong to was deleted.
#[must_use]
pub fn void(end: Offset) -> NewRecord {
    record(VOID.into(), Some(end.to_string().into()))
}

/// The copy of the notes of all partitions.
#[derive(Debug)]
pub struct Notes {
    topic: Topic,
    partitions: Vec<Partition>,
}

#[derive(Clone, Debug, Default)]
struct Partition {
    /// Offset of the next note to read.
    next: Offset,
    void_below: Offset,
    /// One bit for each redriven letter, by the number of its chunk.
    chunks: BTreeMap<u64, [u64; WORDS]>,
}

impl Notes {
    #[must_use]
    pub fn new(group: &str, partitions: u32) -> Self {
        Self {
            topic: topic(group),
            partitions: vec![Partition::default(); partitions as usize],
        }
    }

    #[must_use]
    pub const fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Reads the notes of all partitions that are committed by now.
    pub fn read(&mut self, log: &dyn RecordLog) -> Result<(), LogError> {
        let ends = log.bounds(&self.topic)?;
        for (number, (partition, bounds)) in (0..).zip(self.partitions.iter_mut().zip(ends)) {
            while partition.next < bounds.end {
                let id = PartitionId(number);
                let records = log.read(&self.topic, id, partition.next, READ_BYTES)?;
                partition.next = records
                    .last()
                    .map_or(bounds.end, |record| record.offset.next());
                records.iter().for_each(|record| partition.apply(record));
            }
        }
        Ok(())
    }

    #[must_use]
    pub fn is_redriven(&self, partition: PartitionId, letter: Offset) -> bool {
        self.of(partition).is_some_and(|notes| notes.has(letter))
    }

    #[must_use]
    pub fn is_void(&self, partition: PartitionId, letter: Offset) -> bool {
        self.of(partition)
            .is_some_and(|notes| letter < notes.void_below)
    }

    /// The first offset from `start` on that is neither void nor noted as
    /// redriven.
    #[must_use]
    pub fn first_open(&self, partition: PartitionId, start: Offset) -> Offset {
        let Some(notes) = self.of(partition) else {
            return start;
        };
        let mut first = start.max(notes.void_below);
        while notes.has(first) {
            first = first.next();
        }
        first
    }

    /// The notes to write for these letters, which keep the letters noted
    /// before.
    #[must_use]
    pub fn with(&self, partition: PartitionId, letters: &[Offset]) -> Vec<NewRecord> {
        let mut changed: BTreeMap<u64, [u64; WORDS]> = BTreeMap::new();
        for letter in letters {
            let chunk = letter.0 / CHUNK;
            let bits = changed.entry(chunk).or_insert_with(|| {
                let notes = self.of(partition);
                let known = notes.and_then(|notes| notes.chunks.get(&chunk));
                known.copied().unwrap_or_default()
            });
            let (word, bit) = place(*letter);
            if let Some(word) = bits.get_mut(word) {
                *word |= bit;
            }
        }
        changed
            .into_iter()
            .map(|(chunk, bits)| record(key(chunk), Some(ranges(chunk, &bits).into())))
            .collect()
    }

    /// Tombstones for the notes whose letters the log no longer has.
    #[must_use]
    pub fn dropped(&self, partition: PartitionId, start: Offset) -> Vec<NewRecord> {
        let chunks = self.of(partition).map(|notes| &notes.chunks);
        let old = chunks.into_iter().flat_map(|chunks| chunks.keys());
        old.take_while(|chunk| (**chunk + 1).saturating_mul(CHUNK) <= start.0)
            .take(DROPPED_MAX)
            .map(|chunk| record(key(*chunk), None))
            .collect()
    }

    fn of(&self, partition: PartitionId) -> Option<&Partition> {
        self.partitions.get(partition.0 as usize)
    }
}

impl Partition {
    fn has(&self, letter: Offset) -> bool {
        let (word, bit) = place(letter);
        let bits = self.chunks.get(&(letter.0 / CHUNK));
        bits.and_then(|bits| bits.get(word))
            .is_some_and(|word| word & bit != 0)
    }

    /// Applies a note; a record that is no note is ignored.
    fn apply(&mut self, record: &Record) {
        let value = record.value.as_deref();
        let Some(key) = record.key.as_deref().map(String::from_utf8_lossy) else {
            return;
        };
        if key.as_bytes() == VOID {
            let end = value.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
            self.void_below = self.void_below.max(Offset(end.unwrap_or_default()));
            return;
        }
        let Ok(first) = key.parse::<u64>() else {
            return;
        };
        let chunk = first / CHUNK;
        let Some(value) = value else {
            self.chunks.remove(&chunk);
            return;
        };
        let Ok(ranges) = serde_json::from_slice::<Vec<(u64, u64)>>(value) else {
            return;
        };
        let mut bits = [0; WORDS];
        for (first, last) in ranges {
            let last = last.min((chunk + 1).saturating_mul(CHUNK) - 1);
            for letter in first.max(chunk * CHUNK)..=last {
                let (word, bit) = place(Offset(letter));
                if let Some(word) = bits.get_mut(word) {
                    *word |= bit;
                }
            }
        }
        self.chunks.insert(chunk, bits);
    }
}

const fn place(letter: Offset) -> (usize, u64) {
    let at = letter.0 % CHUNK;
    ((at / 64) as usize, 1 << (at % 64))
}

fn key(chunk: u64) -> Bytes {
    (chunk * CHUNK).to_string().into()
}

fn record(key: Bytes, value: Option<Bytes>) -> NewRecord {
    NewRecord {
        timestamp_ms: now_ms(),
        key: Some(key),
        headers: Vec::new(),
        value,
    }
}

/// `[[first,last],…]` of the letters, so that people can read the topic.
fn ranges(chunk: u64, bits: &[u64; WORDS]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for letter in chunk * CHUNK..(chunk + 1) * CHUNK {
        let (word, bit) = place(Offset(letter));
        if bits.get(word).is_none_or(|word| word & bit == 0) {
            continue;
        }
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == letter => *last = letter,
            _ => ranges.push((letter, letter)),
        }
    }
    serde_json::to_string(&ranges).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_what_was_noted() {
        let mut notes = Notes::new("g", 2);
        let p = PartitionId(1);
        let letters = [1, 2, 3, 1023, 1024, 5000].map(Offset);
        let apply = |notes: &mut Notes, records: Vec<NewRecord>| {
            for new in records {
                let record = Record {
                    offset: Offset(0),
                    timestamp_ms: 0,
                    key: new.key,
                    headers: Vec::new(),
                    value: new.value,
                };
                notes.partitions[1].apply(&record);
            }
        };
        let written = notes.with(p, &letters);
        assert_eq!(written.len(), 3);
        assert_eq!(written[0].key.as_deref(), Some(&b"0"[..]));
        assert_eq!(
            written[0].value.as_deref(),
            Some(&b"[[1,3],[1023,1023]]"[..])
        );
        apply(&mut notes, written);
        let more = notes.with(p, &[Offset(0)]);
        assert_eq!(more[0].value.as_deref(), Some(&b"[[0,3],[1023,1023]]"[..]));
        apply(&mut notes, more);
        for letter in 0..6000 {
            let redriven = letter == 0 || letters.contains(&Offset(letter));
            assert_eq!(notes.is_redriven(p, Offset(letter)), redriven, "{letter}");
            assert!(!notes.is_redriven(PartitionId(0), Offset(letter)));
        }
        assert_eq!(notes.first_open(p, Offset(0)), Offset(4));
        assert_eq!(notes.first_open(p, Offset(1023)), Offset(1025));
        // The notes of letters that are gone are dropped.
        assert_eq!(notes.dropped(p, Offset(1023)), []);
        let dropped = notes.dropped(p, Offset(2048));
        assert_eq!(dropped.len(), 2);
        apply(&mut notes, dropped);
        assert!(!notes.is_redriven(p, Offset(2)) && notes.is_redriven(p, Offset(5000)));
        apply(&mut notes, vec![void(Offset(5001))]);
        assert!(notes.is_void(p, Offset(5000)) && !notes.is_void(p, Offset(5001)));
        assert_eq!(notes.first_open(p, Offset(0)), Offset(5001));
    }
}
