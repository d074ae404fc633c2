//! The fjall database: how it is opened, and what its errors mean to us.
//!
//! A [`Store`] lives from one opening to the next. A database that failed to write
//! takes no further writes ("poisoned"). The writer opens it anew in process, for
//! which all handles of the old one must be gone.
//!
//! No acknowledged commit is lost silently: [commits](commit) are numbered, the [mark]
//! beside the database has the last number that was acknowledged, and a database that
//! holds less is not opened ([check]). A database is [created](create) under another
//! name and then renamed, so no start finds one that is half created.
//!
//! Memory: at most three memtables a keyspace (32, 4 and 16 MiB each) and the
//! block cache. Batches go to blob files once they leave the memtable, so that
//! compactions of the tree move pointers, not records.

mod check;
mod commit;
mod create;
mod mark;
mod room;

use std::{
    fs::{File, TryLockError},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use fjall::{
    AbstractTree as _, CompressionType, Database, Keyspace, KeyspaceCreateOptions,
    KvSeparationOptions, LsmError, PersistMode, Snapshot,
    config::{BlockSizePolicy, CompressionPolicy, FilterPolicy},
};
use parking_lot::Mutex;

use self::{
    check::Checked,
    commit::{Changes, CommitRow},
    mark::{Mark, MarkFile},
};
pub(super) use self::{
    commit::{Batch, COMMIT_KEY},
    room::{ITEM_BYTES, SLACK_BYTES},
};
use super::{
    config::{EmbeddedConfig, JOURNAL_FILE_BYTES},
    disk,
    rows::{self, PartitionRow},
};
use crate::{LogError, backup::TakeRow};

/// How many stores this process has opened.
static OPENED: AtomicU64 = AtomicU64::new(0);

/// Fjall blocks a writer for as long as flushes or compactions lag too far, and never
/// checks whether these can still go on. So the host already waits at these lower
/// limits, and checks.
const SEALED_MEMTABLES_MAX: usize = 1;
const LEVEL0_RUNS_MAX: usize = 18;

const WORKER_THREADS: usize = 2;

/// How long opening waits for the lock of a directory. After a log was closed, a child
/// process between fork and exec still holds its lock for a moment. A process that was
/// just killed does as well.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Values up to this size stay in the tree.
const BLOB_FROM_BYTES: u32 = 2 << 10;

/// The keyspaces, in the order of their creation.
pub(super) const SPACES: usize = 3;
pub(super) const RECORDS: usize = 0;
pub(super) const META: usize = 1;
/// The keyspaces' numbers in journals and directories; keyspace 0 has their names.
const NAMES_ID: u64 = 0;
const SPACE_IDS: [u64; SPACES] = [1, 2, 3];

/// Where the parts of a store are in the data directory.
#[derive(Clone, Debug)]
struct Paths {
    dir: PathBuf,
}

impl Paths {
    fn db(&self) -> PathBuf {
        self.dir.join("db")
    }

    /// A database that is being created.
    fn creating(&self) -> PathBuf {
        self.dir.join("db.new")
    }

    /// Links to the tables, while they are checked.
    fn aside(&self) -> PathBuf {
        self.dir.join("db.check")
    }

    fn mark(&self) -> PathBuf {
        self.dir.join("mark")
    }

    /// A mark that is being created.
    fn creating_mark(&self) -> PathBuf {
        self.dir.join("mark.new")
    }
}

pub(super) struct Store {
    // Fields drop in order, so the database is closed before the mark is.
    db: Database,
    pub records: Keyspace,
    pub meta: Keyspace,
    pub checkpoints: Keyspace,
    progress: Mutex<Progress>,
    journal_bytes_max: u64,
    opened: u64,
}

/// The last commit, and the file that proves it.
struct Progress {
    mark: Mark,
    file: MarkFile,
}

impl Progress {
    fn advance(&mut self, rows: &[Option<CommitRow>; SPACES], changes: Changes) -> io::Result<()> {
        self.mark.advance(rows, changes);
        self.file.write(&self.mark)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Err(error) = self.file.close(&self.mark) {
            tracing::error!(%error, "the record log's mark cannot be written");
        }
    }
}

impl Store {
    /// Opens the store in a data directory, or creates it where there is none.
    pub fn open(dir: &Path, config: &EmbeddedConfig) -> Result<Self, LogError> {
        let paths = Paths {
            dir: dir.to_owned(),
        };
        let mark = create::find(&paths, config)?;
        let checked = check::check(&paths, &mark, config)?;
        let path = paths.db();
        let failed = |error| write_error(&path, config, &error);
        checked.prepare().map_err(|error| failed(error.into()))?;
        let db = Self::builder(&path, config).open().map_err(failed)?;
        let spaces = Self::keyspaces(&db).map_err(failed)?;
        let mark = opened_mark(&spaces, &checked)?;
        let file = MarkFile::open(&paths.mark(), &mark).map_err(|error| failed(error.into()))?;
        let [records, meta, checkpoints] = spaces;
        let store = Self {
            db,
            records,
            meta,
            checkpoints,
            progress: Mutex::new(Progress { mark, file }),
            journal_bytes_max: config.journal_bytes_max.as_u64(),
            opened: OPENED.fetch_add(1, Ordering::Relaxed),
        };
        let format = store.meta.get(rows::FORMAT_KEY).map_err(read_error)?;
        check_format(&format.unwrap_or_default())?;
        Ok(store)
    }

    fn builder(path: &Path, config: &EmbeddedConfig) -> fjall::DatabaseBuilder<Database> {
        // Bytes of journal files that fjall no longer writes to. Beyond this, fjall
        // flushes, which must begin before a commit waits for room.
        let sealed = config.journal_bytes_max.as_u64();
        let sealed = sealed.saturating_sub(2 * JOURNAL_FILE_BYTES);
        Database::builder(path)
            .cache_size(config.cache_bytes.as_u64())
            .journal_compression(CompressionType::None)
            .max_journaling_size(sealed.max(JOURNAL_FILE_BYTES))
            .worker_threads(WORKER_THREADS)
    }

    /// Opens the keyspaces, creating those that are not there.
    fn keyspaces(db: &Database) -> Result<[Keyspace; SPACES], fjall::Error> {
        Ok([
            db.keyspace("records", records_options)?,
            db.keyspace("meta", || {
                KeyspaceCreateOptions::default().max_memtable_size(4 << 20)
            })?,
            db.keyspace("checkpoints", || {
                KeyspaceCreateOptions::default().max_memtable_size(16 << 20)
            })?,
        ])
    }

    /// No other opening in this process has the same number.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    pub fn last_commit(&self) -> u64 {
        self.progress.lock().mark.number()
    }

    pub fn spaces(&self) -> [&Keyspace; SPACES] {
        [&self.records, &self.meta, &self.checkpoints]
    }

    /// A batch whose commit returns when it is on disk.
    pub fn batch(&self) -> Batch<'_> {
        // The journal's size and blocks are metadata that fdatasync writes too; it
        // leaves out only the times.
        let batch = self.db.batch().durability(Some(PersistMode::SyncData));
        Batch::new(self, batch)
    }

    /// A view that later commits don't change.
    pub fn snapshot(&self) -> Snapshot {
        self.db.snapshot()
    }

    /// Waits until flushes and compactions have caught up. Fails if the database is
    /// poisoned.
    pub fn wait_until_writable(&self) -> Result<(), fjall::Error> {
        loop {
            // `persist` is the only way to ask whether the database is poisoned. It does
            // nothing else here, since nothing is buffered.
            self.db.persist(PersistMode::Buffer)?;
            let lags = self.spaces().iter().any(|keyspace| {
                keyspace.tree.sealed_memtable_count() > SEALED_MEMTABLES_MAX
                    || keyspace.tree.l0_run_count() > LEVEL0_RUNS_MAX
            });
            if !lags {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Writes all memtables out, so that tables and blobs hold every row.
    pub fn write_out(&self) -> Result<(), fjall::Error> {
        for keyspace in self.spaces() {
            keyspace.rotate_memtable()?;
        }
        while self.is_flushing() {
            self.db.persist(PersistMode::Buffer)?;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn is_flushing(&self) -> bool {
        let mut spaces = self.spaces().into_iter();
        spaces.any(|keyspace| keyspace.tree.sealed_memtable_count() > 0)
    }
}

/// Whether this version reads the rows of a store, by the version in `meta`.
pub(super) fn check_format(format: &[u8]) -> Result<(), LogError> {
    if format == rows::FORMAT {
        return Ok(());
    }
    Err(LogError::Unavailable {
        reason: format!(
            "the log is of format {}, this version reads format {}",
            String::from_utf8_lossy(format),
            String::from_utf8_lossy(rows::FORMAT),
        ),
    })
}

/// Reads a store that was closed cleanly to its last row, without writing to it.
pub(super) fn verify(
    dir: &Path,
    config: &EmbeddedConfig,
    take: &mut TakeRow<'_>,
) -> Result<(), LogError> {
    let paths = Paths {
        dir: dir.to_owned(),
    };
    check::verify(&paths, &read_mark(dir)?, config, take)
}

fn read_mark(dir: &Path) -> Result<Mark, LogError> {
    let path = dir.join("mark");
    let corrupt = |what: &str| LogError::Corrupt {
        reason: format!("{} {what}", path.display()),
    };
    match mark::read(&path) {
        Ok(Some(mark)) => Ok(mark),
        Ok(None) => Err(corrupt("is damaged")),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(corrupt("is missing")),
        Err(error) => Err(LogError::Unavailable {
            reason: format!("{}: {error}", path.display()),
        }),
    }
}

fn records_options() -> KeyspaceCreateOptions {
    // Batches are compressed already. Reads look for them by ranges, and filters do
    // not help with those.
    let none = CompressionPolicy::disabled;
    KeyspaceCreateOptions::default()
        .max_memtable_size(32 << 20)
        .data_block_compression_policy(none())
        .index_block_compression_policy(none())
        .data_block_size_policy(BlockSizePolicy::all(16 << 10))
        .filter_policy(FilterPolicy::disabled())
        .with_kv_separation(Some(
            KvSeparationOptions::default()
                .compression(CompressionType::None)
                .separation_threshold(BLOB_FROM_BYTES),
        ))
}

/// The mark of a database that was opened. Each keyspace must end with the commit that
/// the check found in the files.
fn opened_mark(spaces: &[Keyspace; SPACES], checked: &Checked) -> Result<Mark, LogError> {
    for (space, last) in spaces.iter().zip(checked.last) {
        let row = space.get(COMMIT_KEY).map_err(read_error)?;
        let number = row.and_then(|row| CommitRow::parse(&row));
        let number = number.map_or(0, |row| row.number);
        if number != last {
            return Err(LogError::Corrupt {
                reason: format!(
                    "{:?} was opened up to commit {number}, its files hold commit {last}",
                    space.name(),
                ),
            });
        }
    }
    let mut mark = Mark {
        store: checked.store,
        bytes: checked.bytes,
        last: checked.last,
        ..Mark::default()
    };
    let [_, meta, _] = spaces;
    for row in meta.prefix(rows::PARTITION_PREFIX) {
        let (key, value) = row.into_inner().map_err(read_error)?;
        let place = rows::parse_partition_key(&key);
        if let Some((place, row)) = place.zip(PartitionRow::parse(&value)) {
            mark.ends.insert(place, row.end);
        }
    }
    Ok(mark)
}

/// Takes the directory for this process, until the file is dropped.
pub(crate) fn lock(dir: &Path) -> Result<File, LogError> {
    let failed = |error: std::io::Error| LogError::Unavailable {
        reason: format!(
            "the data directory {} cannot be written: {error}",
            dir.display()
        ),
    };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("lock"))
        .map_err(failed)?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(LOCK_RETRY);
            }
            Err(TryLockError::WouldBlock) => return Err(in_use(dir)),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

fn in_use(path: &Path) -> LogError {
    LogError::InUse {
        path: path.display().to_string(),
    }
}

/// Turns an error of opening or writing the database into the log's error.
pub(super) fn write_error(path: &Path, config: &EmbeddedConfig, error: &fjall::Error) -> LogError {
    let needed_bytes = config.disk_free_min.as_u64();
    let free_bytes = disk::free_bytes(path).unwrap_or(u64::MAX);
    let full = match error {
        fjall::Error::Locked => return in_use(path),
        fjall::Error::Io(io) | fjall::Error::Storage(LsmError::Io(io)) => {
            matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        }
        // A background thread of fjall failed, and fjall does not say why. So the free
        // room decides whether the disk counts as full.
        fjall::Error::Poisoned => free_bytes < needed_bytes,
        error if check::is_damage(error) => {
            return LogError::Corrupt {
                reason: format!("{}: {error}", path.display()),
            };
        }
        _ => false,
    };
    if full {
        return LogError::Full {
            free_bytes,
            needed_bytes,
        };
    }
    let reason = match error {
        fjall::Error::Poisoned => "the database failed to write what it holds in memory".to_owned(),
        error => error.to_string(),
    };
    LogError::Unavailable {
        reason: format!("{}: {reason}", path.display()),
    }
}

/// Turns an error of reading the database into the log's error.
#[allow(clippy::needless_pass_by_value)]
pub(super) fn read_error(error: fjall::Error) -> LogError {
    let reason = error.to_string();
    if check::is_damage(&error) {
        LogError::Corrupt { reason }
    } else {
        LogError::Unavailable { reason }
    }
}
