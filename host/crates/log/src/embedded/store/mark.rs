//! The mark: what the host has acknowledged, in a file beside the store.
//!
//! The writer updates it after each sync of the journal and before the answer,
//! so a store that holds less than its mark has lost acknowledged records. A
//! write is one `pwrite` without a sync: it survives the end of the process. A
//! thread syncs the mark some milliseconds later, so after a power cut the mark
//! may lag by that much. When the store is closed, the mark is synced.
//!
//! The file has four slots with a checksum each. A write never touches the slot
//! that holds the latest mark, nor one that is being synced, nor the latest that
//! was synced; so a torn write leaves an earlier mark whole.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use xxhash_rust::xxh3::xxh3_64;

use super::database::SPACES;

const MAGIC: &[u8; 8] = b"csmark01";
const SLOTS: usize = 4;
const SLOT_BYTES: usize = 64 << 10;
/// Magic, checksum and length.
const HEAD_BYTES: usize = 20;
/// Identity, bytes, a number for each keyspace, and a count.
const FIXED_BYTES: usize = 16 + 8 * SPACES + 4;
const END_BYTES: usize = 16;
/// The mark names at most this many partitions. A report of missing records leaves out
/// the others.
const ENDS_MAX: usize = (SLOT_BYTES - HEAD_BYTES - FIXED_BYTES) / END_BYTES;

/// How long the mark waits for a later commit before it is synced.
const SYNC_AFTER: Duration = Duration::from_millis(5);

/// Topic id and partition.
pub(in super::super) type PartitionKey = (u32, u32);

/// The progress of a store: its last commits and the ends of its partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Mark {
    /// The store's identity, drawn at its creation.
    pub store: u64,
    /// Bytes of all commits since the creation.
    pub bytes: u64,
    /// The number of the last commit that touched each keyspace.
    pub last: [u64; SPACES],
    /// The next offset of each partition.
    pub ends: BTreeMap<PartitionKey, u64>,
}

impl Mark {
    /// The number of the last commit: each touches `meta`.
    pub fn number(&self) -> u64 {
        self.last.iter().copied().max().unwrap_or_default()
    }

    fn encode(&self, into: &mut Vec<u8>) {
        let count = self.ends.len().min(ENDS_MAX);
        let len = FIXED_BYTES + count * END_BYTES;
        into.clear();
        into.extend_from_slice(MAGIC);
        into.extend_from_slice(&[0; 8]);
        into.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        into.extend_from_slice(&self.store.to_le_bytes());
        into.extend_from_slice(&self.bytes.to_le_bytes());
        for number in self.last {
            into.extend_from_slice(&number.to_le_bytes());
        }
        into.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        for ((topic, partition), end) in self.ends.iter().take(count) {
            into.extend_from_slice(&topic.to_le_bytes());
            into.extend_from_slice(&partition.to_le_bytes());
            into.extend_from_slice(&end.to_le_bytes());
        }
        let checksum = xxh3_64(into.get(16..).unwrap_or_default());
        if let Some(place) = into.get_mut(8..16) {
            place.copy_from_slice(&checksum.to_le_bytes());
        }
    }

    fn decode(slot: &[u8]) -> Option<Self> {
        let (magic, rest) = slot.split_first_chunk::<8>()?;
        let (checksum, rest) = rest.split_first_chunk::<8>()?;
        let (len, payload) = rest.split_first_chunk::<4>()?;
        let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
        let summed = rest.get(..len.checked_add(4)?)?;
        if magic != MAGIC || xxh3_64(summed) != u64::from_le_bytes(*checksum) {
            return None;
        }
        let mut reader = Numbers(payload.get(..len)?);
        let (store, bytes) = (reader.u64()?, reader.u64()?);
        let mut last = [0; SPACES];
        for number in &mut last {
            *number = reader.u64()?;
        }
        let mut ends = BTreeMap::new();
        for _ in 0..reader.u32()? {
            let place = (reader.u32()?, reader.u32()?);
            ends.insert(place, reader.u64()?);
        }
        Some(Self {
            store,
            bytes,
            last,
            ends,
        })
    }
}

struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn u32(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*number))
    }

    fn u64(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }
}

/// The latest whole mark of the file; `None` if no slot holds one.
pub(super) fn read(path: &Path) -> io::Result<Option<Mark>> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    file.take((SLOTS * SLOT_BYTES) as u64)
        .read_to_end(&mut bytes)?;
    let marks = bytes.chunks(SLOT_BYTES).filter_map(Mark::decode);
    Ok(marks.max_by_key(Mark::number))
}

/// The file, open for the store's lifetime.
pub(super) struct MarkFile {
    file: Arc<File>,
    slots: Arc<Slots>,
    syncer: Option<JoinHandle<()>>,
    buffer: Vec<u8>,
}

#[derive(Default)]
struct Slots {
    state: Mutex<SlotState>,
    changed: Condvar,
}

#[derive(Default)]
struct SlotState {
    /// Slot and number of the latest mark.
    last: (usize, u64),
    /// Slot and number of the latest mark that was synced.
    synced: (usize, u64),
    syncing: Option<usize>,
    closed: bool,
    /// A sync failed, so the contents of the file on disk are unknown.
    failed: bool,
}

impl MarkFile {
    /// Writes a mark to all slots, syncs it, and keeps the file open. If the file is new,
    /// the caller must sync the directory.
    pub fn open(path: &Path, mark: &Mark) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        let mut this = Self {
            file: Arc::new(file),
            slots: Arc::default(),
            syncer: None,
            buffer: Vec::new(),
        };
        this.write_all_slots(mark)?;
        *this.slots.state.lock() = SlotState {
            last: (0, mark.number()),
            synced: (0, mark.number()),
            ..SlotState::default()
        };
        let (slots, file) = (Arc::clone(&this.slots), Arc::clone(&this.file));
        let syncer = thread::Builder::new()
            .name("log-mark".to_owned())
            .spawn(move || slots.sync_when_due(&file))?;
        this.syncer = Some(syncer);
        Ok(this)
    }

    /// Blocks of the file are allocated here once, so that no later write needs
    /// room on the disk.
    fn write_all_slots(&mut self, mark: &Mark) -> io::Result<()> {
        mark.encode(&mut self.buffer);
        let mut slot = self.buffer.clone();
        slot.resize(SLOT_BYTES, 0);
        // The second half stays whole until the first is on disk.
        for half in [0..SLOTS / 2, SLOTS / 2..SLOTS] {
            for number in half {
                self.file.write_all_at(&slot, slot_offset(number))?;
            }
            self.file.sync_all()?;
        }
        Ok(())
    }

    /// Writes a mark. When it returns, the mark survives the process.
    pub fn write(&mut self, mark: &Mark) -> io::Result<()> {
        mark.encode(&mut self.buffer);
        let mut state = self.slots.state.lock();
        if state.failed {
            return Err(io::Error::other("the mark could not be synced"));
        }
        let in_use = [Some(state.last.0), Some(state.synced.0), state.syncing];
        let free = (0..SLOTS).find(|slot| !in_use.contains(&Some(*slot)));
        let slot = free.unwrap_or_default();
        self.file.write_all_at(&self.buffer, slot_offset(slot))?;
        state.last = (slot, mark.number());
        drop(state);
        self.slots.changed.notify_one();
        Ok(())
    }

    /// The number of the latest mark that survives a power cut.
    pub fn synced(&self) -> u64 {
        self.slots.state.lock().synced.1
    }

    /// Ends the thread and leaves one mark in all slots, synced.
    pub fn close(&mut self, mark: &Mark) -> io::Result<()> {
        self.stop();
        self.write_all_slots(mark)
    }

    fn stop(&mut self) {
        self.slots.state.lock().closed = true;
        self.slots.changed.notify_one();
        if let Some(syncer) = self.syncer.take()
            && syncer.join().is_err()
        {
            tracing::error!("the thread that syncs the record log's mark had panicked");
        }
    }
}

impl Drop for MarkFile {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Slots {
    fn sync_when_due(&self, file: &File) {
        let mut state = self.state.lock();
        loop {
            while !state.closed && state.last == state.synced {
                self.changed.wait(&mut state);
            }
            if state.closed {
                return;
            }
            // Commits during this sleep move the mark on, and one sync covers them all.
            drop(state);
            thread::sleep(SYNC_AFTER);
            state = self.state.lock();
            let last = state.last;
            state.syncing = Some(last.0);
            drop(state);
            let outcome = file.sync_data();
            state = self.state.lock();
            state.syncing = None;
            if let Err(error) = outcome {
                tracing::error!(%error, "the record log's mark cannot be synced");
                state.failed = true;
                return;
            }
            state.synced = last;
        }
    }
}

fn slot_offset(slot: usize) -> u64 {
    (slot * SLOT_BYTES) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: u64) -> Mark {
        Mark {
            store: 7,
            bytes: number * 100,
            last: [number, number, 0],
            ends: (0..9).map(|n| ((1, n), u64::from(n) * number)).collect(),
        }
    }

    #[test]
    fn the_latest_mark_is_read_back_and_any_damage_to_its_slot_gives_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        let mut file = MarkFile::open(&path, &mark(1)).unwrap();
        for number in 2..100 {
            file.write(&mark(number)).unwrap();
            assert_eq!(read(&path).unwrap(), Some(mark(number)));
            let slot = file.slots.state.lock().last.0;
            let mut bytes = [0];
            let at = slot_offset(slot) + number;
            let readable = File::open(&path).unwrap();
            readable.read_exact_at(&mut bytes, at).unwrap();
            file.file.write_all_at(&[bytes[0] ^ 4], at).unwrap();
            let earlier = read(&path).unwrap().unwrap();
            assert!(earlier.number() < number);
            assert!(earlier.number() >= file.synced().min(number - 1));
            file.file.write_all_at(&bytes, at).unwrap();
        }
    }

    #[test]
    fn a_closed_mark_survives_the_loss_of_any_three_slots() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mark");
        let mut file = MarkFile::open(&path, &mark(1)).unwrap();
        file.write(&mark(2)).unwrap();
        file.close(&mark(2)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for kept in 0..SLOTS {
            let mut bytes = vec![0; whole.len()];
            let slot = kept * SLOT_BYTES..(kept + 1) * SLOT_BYTES;
            bytes[slot.clone()].copy_from_slice(&whole[slot]);
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read(&path).unwrap(), Some(mark(2)));
        }
        std::fs::write(&path, b"").unwrap();
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn a_mark_is_synced_soon_also_when_no_commit_follows() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = MarkFile::open(&dir.path().join("mark"), &mark(1)).unwrap();
        file.write(&mark(2)).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while file.synced() < 2 {
            assert!(std::time::Instant::now() < deadline);
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn more_partitions_than_a_slot_holds_leave_the_number_right() {
        let mut many = mark(5);
        many.ends = (0..20_000).map(|n| ((n, 0), 1)).collect();
        let mut bytes = Vec::new();
        many.encode(&mut bytes);
        assert!(bytes.len() <= SLOT_BYTES);
        let read = Mark::decode(&bytes).unwrap();
        assert_eq!((read.number(), read.ends.len()), (5, ENDS_MAX));
    }
}
