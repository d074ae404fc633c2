//! A journal file of fjall, read only.
//!
//! fjall itself cuts a journal at the first entry that it cannot read, and goes
//! on; so the journal is read here before fjall sees it. The format is that of
//! the version in `Cargo.lock`, and a test compares what is read here with what
//! was written.
//!
//! A file is a run of batches, then zeros that were allocated in advance. All
//! numbers are little-endian:
//!
//! | entry | bytes |
//! | ----- | ----- |
//! | start | tag 1, items (u32), sequence number (u64) |
//! | item  | tag 2, kind of value, compression, keyspace (u64), lengths of key (u16), value and stored value (u32), key, value |
//! | end   | tag 3, XXH3 of all items (u64), `FJL` and 3 |

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom},
    path::Path,
};

use xxhash_rust::xxh3::Xxh3;

use crate::embedded::{
    rows::{self, PartitionRow, TopicRow},
    store::{
        commit::{COMMIT_KEY, CommitRow},
        database::{META, SPACE_IDS, SPACES},
        mark::PartitionKey,
    },
};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const TRAILER: &[u8] = b"FJL\x03";
/// Kind of value: 0 is a value, 1 a tombstone. The host writes no other kinds.
const VALUE: u8 = 0;
const TOMBSTONE: u8 = 1;

/// A commit's sequence number exceeds its `seqno_min` by less than this. Changes of
/// tables take sequence numbers, too, but few between two commits.
const SEQNO_SLACK: u64 = 1 << 16;

const READ_BYTES: usize = 256 << 10;
static ZEROS: [u8; READ_BYTES] = [0; READ_BYTES];

/// The parts of a batch that the check needs.
#[derive(Debug, Default)]
pub(super) struct Commit {
    pub rows: [Option<CommitRow>; SPACES],
    pub touched: [bool; SPACES],
    pub seqno: u64,
    pub ends: Vec<(PartitionKey, Option<u64>)>,
    /// Names of topics, by id.
    pub topics: Vec<(u32, String)>,
}

/// The next item of a journal file.
#[derive(Debug)]
pub(super) enum Step {
    Commit(Box<Commit>),
    /// Nothing was written behind this.
    End,
    /// The bytes here are no batch.
    Damage,
}

/// Why bytes are no batch, or could not be read.
enum Stop {
    Damage,
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damage,
            _ => Self::Io(error),
        }
    }
}

/// Reads a file from its beginning.
pub(super) struct Journal {
    file: BufReader<File>,
    len: u64,
    /// Where the next batch begins.
    position: u64,
}

impl Journal {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self {
            len: file.metadata()?.len(),
            file: BufReader::with_capacity(READ_BYTES, file),
            position: 0,
        })
    }

    /// The place where the last batch that was read ended.
    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn next(&mut self) -> io::Result<Step> {
        match self.file.fill_buf()?.first() {
            None => return Ok(Step::End),
            Some(0) => {
                let written = self.last_byte()?.is_some();
                return Ok(if written { Step::Damage } else { Step::End });
            }
            Some(_) => {}
        }
        let mut batch = BatchReader::new(&mut self.file, self.len - self.position);
        match batch.read() {
            Ok(commit) => {
                self.position = self.len - batch.left;
                Ok(Step::Commit(Box::new(commit)))
            }
            Err(Stop::Damage) => Ok(Step::Damage),
            Err(Stop::Io(error)) => Err(error),
        }
    }

    /// How many bytes from the position on were written: up to the last that is
    /// not zero.
    pub fn written_bytes(&mut self) -> io::Result<u64> {
        Ok(self.last_byte()?.map_or(0, |last| last + 1 - self.position))
    }

    /// The place of the last byte that is not zero, at the position or behind it.
    fn last_byte(&mut self) -> io::Result<Option<u64>> {
        self.file.seek(SeekFrom::Start(self.position))?;
        let (mut at, mut last) = (self.position, None);
        loop {
            let bytes = self.file.fill_buf()?;
            if bytes.is_empty() {
                return Ok(last);
            }
            let len = bytes.len();
            // Most chunks are zeros, and a comparison is faster than a search.
            if ZEROS.get(..len) != Some(bytes)
                && let Some(place) = bytes.iter().rposition(|byte| *byte != 0)
            {
                last = Some(at + place as u64);
            }
            at += len as u64;
            self.file.consume(len);
        }
    }

    /// Whether a whole batch of the store follows behind the position. A write
    /// that was torn is the last one, so nothing follows it. Returns `None` if bounded
    /// work does not decide it.
    pub fn has_batch_behind(&mut self, store: u64) -> io::Result<Option<bool>> {
        self.file.seek(SeekFrom::Start(self.position))?;
        let written = self.written_bytes()?;
        self.file.seek(SeekFrom::Start(self.position))?;
        let mut bytes = Vec::new();
        (&mut self.file).take(written).read_to_end(&mut bytes)?;
        // No byte costs more than a batch's head and an item's.
        let mut work = 64 * bytes.len() as u64 + (1 << 20);
        for at in 0..bytes.len() {
            let Some(rest) = bytes.get(at..).filter(|rest| rest.first() == Some(&START)) else {
                continue;
            };
            let mut slice = rest;
            let mut batch = BatchReader::new(&mut slice, rest.len() as u64);
            let found = batch.read();
            let Some(left) = work.checked_sub(rest.len() as u64 - batch.left) else {
                return Ok(None);
            };
            work = left;
            if let Ok(commit) = found
                && commit.rows.iter().flatten().any(|row| row.store == store)
            {
                return Ok(Some(true));
            }
        }
        Ok(Some(false))
    }
}

struct BatchReader<'r, R> {
    reader: &'r mut R,
    /// Bytes up to the end of the file.
    left: u64,
    hash: Xxh3,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl<'r, R: Read> BatchReader<'r, R> {
    fn new(reader: &'r mut R, left: u64) -> Self {
        Self {
            reader,
            left,
            hash: Xxh3::new(),
            key: Vec::new(),
            value: Vec::new(),
        }
    }

    fn read(&mut self) -> Result<Commit, Stop> {
        let [tag] = self.bytes()?;
        let (items, seqno) = (u32::from_le_bytes(self.bytes()?), self.u64()?);
        check(tag == START)?;
        let mut commit = Commit {
            seqno,
            ..Commit::default()
        };
        for _ in 0..items {
            self.item(&mut commit)?;
        }
        let [tag] = self.bytes()?;
        let (checksum, trailer) = (self.u64()?, self.bytes::<4>()?);
        check(tag == END && trailer == TRAILER && checksum == self.hash.digest())?;
        check(has_rows(&commit))?;
        Ok(commit)
    }

    fn item(&mut self, commit: &mut Commit) -> Result<(), Stop> {
        let head: [u8; 21] = self.bytes()?;
        self.hash.update(&head);
        let mut head = &head[..];
        let (tag, kind, compression) = (byte(&mut head)?, byte(&mut head)?, byte(&mut head)?);
        let keyspace = u64::from_le_bytes(array(&mut head)?);
        let key_len = u16::from_le_bytes(array(&mut head)?);
        let value_len = u32::from_le_bytes(array(&mut head)?);
        let stored_len = u32::from_le_bytes(array(&mut head)?);
        check(tag == ITEM && compression == 0 && value_len == stored_len)?;
        check(kind == VALUE || kind == TOMBSTONE)?;
        let space = SPACE_IDS.iter().position(|id| *id == keyspace);
        let space = space.ok_or(Stop::Damage)?;
        let (mut key, mut value) = (
            std::mem::take(&mut self.key),
            std::mem::take(&mut self.value),
        );
        self.fill(&mut key, key_len.into())?;
        self.fill(&mut value, value_len)?;
        commit.take(space, &key, (kind == VALUE).then_some(&value));
        (self.key, self.value) = (key, value);
        Ok(())
    }

    fn fill(&mut self, buffer: &mut Vec<u8>, len: u32) -> Result<(), Stop> {
        // A damaged length takes no more memory than the file is long.
        self.left = self.left.checked_sub(len.into()).ok_or(Stop::Damage)?;
        buffer.clear();
        buffer.resize(usize::try_from(len).map_err(|_| Stop::Damage)?, 0);
        self.reader.read_exact(buffer)?;
        self.hash.update(buffer);
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        self.left = self.left.checked_sub(N as u64).ok_or(Stop::Damage)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u64(&mut self) -> Result<u64, Stop> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }
}

impl Commit {
    fn take(&mut self, space: usize, key: &[u8], value: Option<&Vec<u8>>) {
        if let Some(touched) = self.touched.get_mut(space) {
            *touched = true;
        }
        if key == COMMIT_KEY {
            if let Some(row) = self.rows.get_mut(space) {
                *row = value.and_then(|value| CommitRow::parse(value));
            }
        } else if space != META {
        } else if let Some(place) = rows::parse_partition_key(key) {
            let row = value.and_then(|value| PartitionRow::parse(value));
            self.ends.push((place, row.map(|row| row.end)));
        } else if let Some(name) = key.strip_prefix(rows::TOPIC_PREFIX)
            && let Some(value) = value
            && let Ok(row) = serde_json::from_slice::<TopicRow>(value)
        {
            let name = String::from_utf8_lossy(name).into_owned();
            self.topics.push((row.id, name));
        }
    }
}

/// A batch has a row for each keyspace that it touches, all of one commit, and
/// a sequence number that the rows allow: no checksum covers that number.
fn has_rows(commit: &Commit) -> bool {
    let Some(meta) = commit.rows.get(META).copied().flatten() else {
        return false;
    };
    let mut spaces = commit.touched.iter().zip(&commit.rows);
    let one = spaces.all(|(touched, row)| match row {
        Some(row) => (row.store, row.number) == (meta.store, meta.number),
        None => !touched,
    });
    let seqnos = meta.seqno_min..meta.seqno_min.saturating_add(SEQNO_SLACK);
    one && seqnos.contains(&commit.seqno)
}

fn check(holds: bool) -> Result<(), Stop> {
    if holds { Ok(()) } else { Err(Stop::Damage) }
}

fn byte(bytes: &mut &[u8]) -> Result<u8, Stop> {
    array::<1>(bytes).map(|[byte]| byte)
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Stop> {
    let (array, rest) = bytes.split_first_chunk().ok_or(Stop::Damage)?;
    *bytes = rest;
    Ok(*array)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::{config::EmbeddedConfig, store::Store};

    /// Fails if fjall changes the format of its journals. Then this reader must follow.
    #[test]
    fn a_journal_is_read_as_fjall_writes_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &EmbeddedConfig::default()).unwrap();
        for number in 0..20u32 {
            let mut batch = store.batch();
            let row = PartitionRow {
                end: u64::from(number) + 1,
                ..PartitionRow::default()
            };
            batch.insert(&store.meta, rows::partition_key(1, number), row.to_bytes());
            if number % 2 == 0 {
                let value = vec![7; number as usize * 1000];
                batch.insert(&store.records, rows::record_key(1, number, 0), value);
                batch.remove(&store.records, rows::record_key(2, number, 0));
            }
            batch.commit().unwrap();
        }
        let path = dir.path().join("db/0.jnl");
        assert!(path.exists());
        let mut journal = Journal::open(&path).unwrap();
        let mut seqno = None;
        for number in 1..=21 {
            let Step::Commit(commit) = journal.next().unwrap() else {
                panic!("no commit {number}");
            };
            let meta = commit.rows[1].unwrap();
            assert_eq!((meta.number, meta.previous), (number, number - 1));
            assert_eq!(
                commit.touched,
                [number % 2 == 0 || number == 1, true, number == 1]
            );
            assert!(Some(commit.seqno) > seqno);
            seqno = Some(commit.seqno);
            if let Some(partition) = u32::try_from(number).unwrap().checked_sub(2) {
                assert_eq!(commit.ends, [((1, partition), Some(number - 1))]);
            }
        }
        assert!(matches!(journal.next().unwrap(), Step::End));
        assert_eq!(journal.written_bytes().unwrap(), 0);
        assert_eq!(journal.has_batch_behind(0).unwrap(), Some(false));
    }

    /// A file of whole batches, and then these bytes.
    fn with_tail(tail: &[u8]) -> (tempfile::TempDir, Journal) {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path(), &EmbeddedConfig::default()).unwrap());
        let path = dir.path().join("db/0.jnl");
        let mut whole = Journal::open(&path).unwrap();
        while let Step::Commit(_) = whole.next().unwrap() {}
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(usize::try_from(whole.position()).unwrap());
        bytes.extend_from_slice(tail);
        std::fs::write(&path, bytes).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        while let Step::Commit(_) = journal.next().unwrap() {}
        assert_eq!(journal.written_bytes().unwrap(), tail.len() as u64);
        (dir, journal)
    }

    /// Every byte of the tail may begin a batch, and none does.
    #[test]
    fn a_torn_write_of_equal_bytes_is_no_batch() {
        let (_dir, mut journal) = with_tail(&vec![START; 1 << 20]);
        assert_eq!(journal.has_batch_behind(0).unwrap(), Some(false));
    }

    /// Each head claims an item as long as many heads, so reading them all would take
    /// the square of the tail's length.
    #[test]
    fn a_search_for_batches_ends_though_each_head_claims_much() {
        let mut head = vec![START];
        head.extend(1_u32.to_le_bytes());
        head.extend(7_u64.to_le_bytes());
        head.extend([ITEM, VALUE, 0]);
        head.extend(SPACE_IDS[META].to_le_bytes());
        head.extend(1_u16.to_le_bytes());
        head.extend([60_000_u32.to_le_bytes(); 2].concat());
        let mut tail = head.repeat(20_000);
        tail.push(START);
        let (_dir, mut journal) = with_tail(&tail);
        assert_eq!(journal.has_batch_behind(0).unwrap(), None);
    }
}
