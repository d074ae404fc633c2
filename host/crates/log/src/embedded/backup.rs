//! Backups: the rows of one snapshot, copied into a store of their own.
//!
//! A copy of rows is consistent by construction, and the new store is closed
//! cleanly, so its mark is exact and its tables hold every row. The backup reads the
//! source a page at a time through a snapshot. The snapshot holds up no writer, and
//! keeps rows that compaction would have dropped until the last page.
//!
//! A copy of files under a pause would be faster, but writers would wait for the whole
//! copy. Hard links of a store at work do not show one moment. The price of rows: the
//! host reads its log once through the block cache, and the new store compacts it anew.

use std::{
    collections::BTreeMap,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytesize::ByteSize;
use fjall::{Readable as _, Snapshot, UserValue};

use super::{
    batch::Batch,
    config::{EmbeddedConfig, PARTITIONS_MAX},
    rows::{self, OffsetRow, PartitionRow, TopicRow},
    state::EmbeddedState,
    store::{self, COMMIT_KEY, META, RECORDS, Store, read_error, write_error},
};
use crate::{
    LogError,
    backup::{BackupRows, LogContents, PartitionContents, TakeRow, TopicContents},
};

/// About how much is read at a time.
const PAGE_BYTES: usize = 512 << 10;
/// About how much a commit of the copy takes in.
const COMMIT_BYTES: usize = 8 << 20;

/// The place of the one backup that may run.
struct OnlyBackup(Arc<AtomicBool>);

impl OnlyBackup {
    fn take(running: &Arc<AtomicBool>) -> Result<Self, LogError> {
        if running.swap(true, Ordering::AcqRel) {
            return Err(LogError::BackupRunning);
        }
        Ok(Self(Arc::clone(running)))
    }
}

impl Drop for OnlyBackup {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The rows of a running engine.
pub(super) struct SnapshotRows {
    shared: Arc<EmbeddedState>,
    /// The snapshot, and the number of the store's opening that it belongs to.
    snapshot: Option<(Snapshot, u64)>,
    space: usize,
    after: Option<Vec<u8>>,
    _only: OnlyBackup,
}

impl SnapshotRows {
    pub fn new(shared: &Arc<EmbeddedState>) -> Result<Self, LogError> {
        drop(shared.store()?);
        Ok(Self {
            _only: OnlyBackup::take(&shared.backing_up)?,
            shared: Arc::clone(shared),
            snapshot: None,
            space: 0,
            after: None,
        })
    }
}

impl BackupRows for SnapshotRows {
    fn next(&mut self, take: &mut TakeRow<'_>) -> Result<bool, LogError> {
        let store = self.shared.store()?;
        let (snapshot, opened) = self
            .snapshot
            .get_or_insert_with(|| (store.snapshot(), store.opened()));
        // The writer opens a store anew after a failed write. The snapshot then
        // belongs to the store before.
        if *opened != store.opened() {
            return Err(LogError::Unavailable {
                reason: "the log was opened anew while it was read".to_owned(),
            });
        }
        let spaces = store.spaces();
        while let Some(keyspace) = spaces.get(self.space) {
            let number = u8::try_from(self.space).unwrap_or(u8::MAX);
            let mut bytes = 0;
            let from = match &self.after {
                Some(key) => Bound::Excluded(key.clone()),
                None => Bound::Unbounded,
            };
            for row in snapshot.range(keyspace, (from, Bound::Unbounded)) {
                let (key, value) = row.into_inner().map_err(read_error)?;
                if *key != *COMMIT_KEY {
                    take(number, &key, &value)?;
                }
                bytes += key.len() + value.len();
                if bytes >= PAGE_BYTES {
                    self.after = Some(key.to_vec());
                    return Ok(true);
                }
            }
            self.space += 1;
            self.after = None;
            if bytes > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A new store that rows are copied into.
pub struct LogCopy {
    dir: PathBuf,
    store: Store,
    rows: Vec<(u8, Vec<u8>, Vec<u8>)>,
    bytes: usize,
    contents: Gathered,
}

impl std::fmt::Debug for LogCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogCopy")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// The largest record of any host has room in the copy's journal.
fn config() -> EmbeddedConfig {
    EmbeddedConfig {
        journal_bytes_max: ByteSize::gib(4),
        cache_bytes: ByteSize::mib(16),
        ..EmbeddedConfig::default()
    }
}

impl LogCopy {
    /// Creates a store in a directory that has none.
    pub fn create(dir: &Path) -> Result<Self, LogError> {
        Ok(Self {
            store: Store::open(dir, &config())?,
            dir: dir.to_owned(),
            rows: Vec::new(),
            bytes: 0,
            contents: Gathered::default(),
        })
    }

    pub fn insert(&mut self, space: u8, key: &[u8], value: &[u8]) -> Result<(), LogError> {
        self.contents.take(space, key, value)?;
        self.bytes += key.len() + value.len();
        self.rows.push((space, key.to_vec(), value.to_vec()));
        if self.bytes >= COMMIT_BYTES {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), LogError> {
        let written = self.store.wait_until_writable().and_then(|()| {
            let spaces = self.store.spaces();
            let mut batch = self.store.batch();
            for (space, key, value) in self.rows.drain(..) {
                if let Some(keyspace) = spaces.get(usize::from(space)) {
                    batch.insert(keyspace, key, value);
                }
            }
            batch.commit()
        });
        self.bytes = 0;
        written.map_err(|error| write_error(&self.dir, &config(), &error))
    }

    /// Closes the copy, and says what it holds.
    pub fn finish(mut self) -> Result<LogContents, LogError> {
        self.commit()?;
        let written = self.store.write_out();
        written.map_err(|error| write_error(&self.dir, &config(), &error))?;
        let number = self.store.last_commit();
        drop(self.store);
        // Opening the copy once proves that it can be opened, and releases the room
        // that its journal had allocated in advance.
        let found = Store::open(&self.dir, &config())?.last_commit();
        if found != number {
            let reason = format!("the copy ends with commit {found}, not {number}");
            return Err(LogError::Corrupt { reason });
        }
        Ok(self.contents.finish())
    }
}

/// Reads a closed log to its last row, without writing to it, and says what it
/// holds.
pub fn verify(dir: &Path) -> Result<LogContents, LogError> {
    let mut contents = Gathered::default();
    store::verify(dir, &config(), &mut |space, key, value| {
        contents.take(space, key, value)?;
        if usize::from(space) == RECORDS
            && let Err(damage) = Batch::parse(0, UserValue::from(value))
        {
            let offset = rows::record_key_offset(key).unwrap_or_default();
            return Err(LogError::Corrupt {
                reason: format!("the batch at offset {offset}: {damage}"),
            });
        }
        Ok(())
    })?;
    Ok(contents.finish())
}

/// A log's contents, gathered from its rows.
#[derive(Default)]
struct Gathered {
    rows: u64,
    topics: BTreeMap<u32, (String, u32)>,
    partitions: BTreeMap<(u32, u32), PartitionContents>,
    committed: Vec<(String, u32, u32, u64)>,
}

impl Gathered {
    fn take(&mut self, space: u8, key: &[u8], value: &[u8]) -> Result<(), LogError> {
        let damaged = || LogError::Corrupt {
            reason: format!("a row of keyspace {space} is damaged"),
        };
        if usize::from(space) >= store::SPACES || key == COMMIT_KEY {
            return Err(damaged());
        }
        self.rows += 1;
        if usize::from(space) != META {
            return Ok(());
        }
        if key == rows::FORMAT_KEY {
            return store::check_format(value);
        }
        if let Some(name) = key.strip_prefix(rows::TOPIC_PREFIX) {
            let row: TopicRow = serde_json::from_slice(value).map_err(|_| damaged())?;
            let name = str::from_utf8(name).map_err(|_| damaged())?;
            self.topics
                .insert(row.id, (name.to_owned(), row.partitions));
        } else if let Some(place) = rows::parse_partition_key(key) {
            let row = PartitionRow::parse(value).ok_or_else(damaged)?;
            let PartitionRow { start, end, .. } = row;
            self.partitions
                .insert(place, PartitionContents { start, end });
        } else {
            let row = rows::parse_offset_key(key).zip(OffsetRow::parse(value));
            let ((group, topic, partition), row) = row.ok_or_else(damaged)?;
            self.committed
                .push((group.to_owned(), topic, partition, row.offset));
        }
        Ok(())
    }

    fn finish(self) -> LogContents {
        let mut topics: BTreeMap<u32, TopicContents> = BTreeMap::new();
        for (id, (_, count)) in &self.topics {
            let partitions = 0..(*count).min(PARTITIONS_MAX);
            let partition = |number| self.partitions.get(&(*id, number)).copied();
            let partitions = partitions.map(|number| partition(number).unwrap_or_default());
            topics.entry(*id).or_default().partitions = partitions.collect();
        }
        for (group, topic, partition, offset) in self.committed {
            if let Some(topic) = topics.get_mut(&topic) {
                let group = topic.committed.entry(group).or_default();
                group.insert(partition, offset);
            }
        }
        let mut names = self.topics;
        let named = topics
            .into_iter()
            .filter_map(|(id, topic)| Some((names.remove(&id)?.0, topic)));
        LogContents {
            rows: self.rows,
            topics: named.collect(),
        }
    }
}
