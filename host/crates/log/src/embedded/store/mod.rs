//! The store of the embedded engine: a fjall database that is checked and opened.
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

pub(super) mod batch;
mod check;
mod commit;
mod create;
mod database;
mod errors;
mod lock;
mod mark;
mod paths;
pub(super) mod room;

use std::{
    io::{self, ErrorKind},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use fjall::{AbstractTree as _, Database, Keyspace, PersistMode, Snapshot};
use parking_lot::Mutex;

pub(crate) use self::lock::lock;
use self::{
    check::Checked,
    commit::{Changes, CommitRow},
    mark::{Mark, MarkFile},
    paths::Paths,
};
pub(super) use self::{
    commit::COMMIT_KEY,
    database::{META, RECORDS, SPACES},
    errors::{read_error, write_error},
};
use super::{
    config::EmbeddedConfig,
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
        let db = database::builder(&path, config).open().map_err(failed)?;
        let spaces = database::keyspaces(&db).map_err(failed)?;
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
