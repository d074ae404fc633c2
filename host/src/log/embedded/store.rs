//! The fjall database: how it is opened, and what its errors mean to us.
//!
//! A [`Store`] lives from one opening to the next: a database that failed to
//! write takes no writes any more ("poisoned"), and is opened anew in process,
//! for which all handles of the old one must be gone.
//!
//! Memory: at most three memtables a keyspace (32, 4 and 16 MiB each) and the
//! block cache. Batches go to blob files once they leave the memtable, so that
//! compactions of the tree move pointers, not records.

use std::{
    fs::{File, TryLockError},
    io::ErrorKind,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use fjall::{
    AbstractTree as _, CompressionType, Database, Keyspace, KeyspaceCreateOptions,
    KvSeparationOptions, LsmError, OwnedWriteBatch, PersistMode, Snapshot,
    config::{BlockSizePolicy, CompressionPolicy, FilterPolicy},
};

use super::{config::EmbeddedConfig, disk, rows};
use crate::log::LogError;

/// Fjall stops writers for as long as flushes or compactions lag by more than
/// these, and never looks whether they still can go on; so we wait before that,
/// and look.
const SEALED_MEMTABLES_MAX: usize = 1;
const LEVEL0_RUNS_MAX: usize = 18;

const WORKER_THREADS: usize = 2;

/// How long the lock of a directory may take to be let go of: one that was
/// closed is still held for a moment by a process that is being started (it has
/// all files until it becomes another program), or by one that was just killed.
const LOCK_WAIT: Duration = Duration::from_millis(500);
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Values up to this size stay in the tree.
const BLOB_FROM_BYTES: u32 = 2 << 10;

pub(super) struct Store {
    db: Database,
    pub records: Keyspace,
    pub meta: Keyspace,
    pub checkpoints: Keyspace,
}

impl Store {
    pub fn open(path: &Path, config: &EmbeddedConfig) -> Result<Self, LogError> {
        let failed = |error| write_error(path, config, &error);
        discard_half_created(path).map_err(|error| failed(error.into()))?;
        let db = Database::builder(path)
            .cache_size(config.cache_bytes.as_u64())
            .journal_compression(CompressionType::None)
            .max_journaling_size(config.journal_bytes_max.as_u64())
            .worker_threads(WORKER_THREADS)
            .open()
            .map_err(failed)?;
        let keyspace = |name, options: fn() -> KeyspaceCreateOptions| {
            db.keyspace(name, options).map_err(failed)
        };
        let store = Self {
            records: keyspace("records", records_options)?,
            meta: keyspace("meta", || {
                KeyspaceCreateOptions::default().max_memtable_size(4 << 20)
            })?,
            checkpoints: keyspace("checkpoints", || {
                KeyspaceCreateOptions::default().max_memtable_size(16 << 20)
            })?,
            db,
        };
        store.check_format(path, config)?;
        Ok(store)
    }

    fn check_format(&self, path: &Path, config: &EmbeddedConfig) -> Result<(), LogError> {
        match self.meta.get(rows::FORMAT_KEY).map_err(read_error)? {
            Some(format) if format == rows::FORMAT => Ok(()),
            Some(format) => Err(LogError::Unavailable {
                reason: format!(
                    "{} is of format {}, this version reads format {}",
                    path.display(),
                    String::from_utf8_lossy(&format),
                    String::from_utf8_lossy(rows::FORMAT),
                ),
            }),
            None => {
                let mut batch = self.batch();
                batch.insert(&self.meta, rows::FORMAT_KEY, rows::FORMAT);
                batch
                    .commit()
                    .map_err(|error| write_error(path, config, &error))
            }
        }
    }

    /// A batch whose commit returns when it is on disk.
    pub fn batch(&self) -> OwnedWriteBatch {
        // The journal's size and blocks are metadata that fdatasync writes too;
        // what it leaves out are the times.
        self.db.batch().durability(Some(PersistMode::SyncData))
    }

    /// A view that later commits don't change.
    pub fn snapshot(&self) -> Snapshot {
        self.db.snapshot()
    }

    /// Waits until flushes and compactions have caught up; an error when the
    /// database is poisoned.
    pub fn wait_until_writable(&self) -> Result<(), fjall::Error> {
        loop {
            // The only way to ask: with nothing buffered, it does nothing else.
            self.db.persist(PersistMode::Buffer)?;
            let lags = [&self.records, &self.meta, &self.checkpoints]
                .iter()
                .any(|keyspace| {
                    keyspace.tree.sealed_memtable_count() > SEALED_MEMTABLES_MAX
                        || keyspace.tree.l0_run_count() > LEVEL0_RUNS_MAX
                });
            if !lags {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn records_options() -> KeyspaceCreateOptions {
    // Batches are compressed already, and are looked for by ranges, which
    // filters are no help for.
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

/// A process killed while it created a database leaves one that can be neither
/// opened nor created. Nothing was ever written to it.
fn discard_half_created(path: &Path) -> std::io::Result<()> {
    if path.try_exists()? && !path.join("version").try_exists()? {
        std::fs::remove_dir_all(path)?;
    }
    Ok(())
}

/// Takes the directory for this process, until the file is dropped.
pub(in crate::log) fn lock(dir: &Path) -> Result<File, LogError> {
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

/// What an error of opening or writing means.
pub(super) fn write_error(path: &Path, config: &EmbeddedConfig, error: &fjall::Error) -> LogError {
    let needed_bytes = config.disk_free_min.as_u64();
    let free_bytes = disk::free_bytes(path).unwrap_or(u64::MAX);
    let full = match error {
        fjall::Error::Locked => return in_use(path),
        fjall::Error::Io(io) | fjall::Error::Storage(LsmError::Io(io)) => {
            matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        }
        // What failed was in the background, and is not told.
        fjall::Error::Poisoned => free_bytes < needed_bytes,
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

/// What an error of reading means.
#[allow(clippy::needless_pass_by_value)]
pub(super) fn read_error(error: fjall::Error) -> LogError {
    let reason = error.to_string();
    match error {
        fjall::Error::Io(_) | fjall::Error::Storage(LsmError::Io(_)) => {
            LogError::Unavailable { reason }
        }
        _ => LogError::Corrupt { reason },
    }
}
