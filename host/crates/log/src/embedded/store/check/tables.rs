//! The tables of a store, opened where nothing can happen to them.
//!
//! Opening a store deletes files that its manifests do not name. So the host first
//! opens the tables in a directory of hard links, without journals and without
//! threads that compact.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use fjall::{AbstractTree as _, Keyspace};

use super::{
    files::{self, BLOBS, CURRENT, Files, LOCK, TABLES, VERSION},
    refusal::Refusal,
};
use crate::{
    LogError,
    backup::TakeRow,
    embedded::{
        config::EmbeddedConfig,
        rows::{self, PartitionRow, TopicRow},
        store::{
            commit::{COMMIT_KEY, CommitRow},
            database::{self, META, SPACE_IDS, SPACES},
            errors::read_error,
            mark::PartitionKey,
        },
    },
};

/// The newest tables and blobs up to this many bytes are compared with their
/// checksums at the start. Reads find damage in the others.
const CHECKED_BYTES_MAX: u64 = 256 << 20;

/// The contents of the tables, without the journals.
#[derive(Debug, Default)]
pub(super) struct Flushed {
    pub rows: [Option<CommitRow>; SPACES],
    pub ends: BTreeMap<PartitionKey, u64>,
    pub topics: BTreeMap<u32, String>,
}

/// A directory that is removed when this value is dropped.
struct Aside(PathBuf);

impl Aside {
    fn new(path: &Path) -> io::Result<Self> {
        remove(path)?;
        fs::create_dir_all(path)?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "temporary copy of the record log's tables cannot be removed");
        }
    }
}

/// Removes a directory that may not be there.
pub(in super::super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

pub(super) fn read(
    db: &Path,
    found: &Files,
    aside: &Path,
    config: &EmbeddedConfig,
) -> Result<Flushed, Refusal> {
    let aside = Aside::new(aside).map_err(|error| Refusal::io(aside, error))?;
    let opened = Opened::new(db, found, &aside.0, Link::Hard, config)?;
    compare_checksums(db, &opened.database.spaces, CHECKED_BYTES_MAX)?;
    opened.flushed()
}

/// The tables of a store, opened beside it.
pub(super) struct Opened {
    db: PathBuf,
    database: Database,
}

impl Opened {
    /// Opens the tables by symbolic links in an empty directory, and compares all
    /// of them with their checksums.
    pub fn links(
        db: &Path,
        found: &Files,
        aside: &Path,
        config: &EmbeddedConfig,
    ) -> Result<Self, Refusal> {
        let db = db.canonicalize().map_err(|error| Refusal::io(db, error))?;
        let opened = Self::new(&db, found, aside, Link::Symbolic, config)?;
        compare_checksums(&db, &opened.database.spaces, u64::MAX)?;
        Ok(opened)
    }

    fn new(
        db: &Path,
        found: &Files,
        aside: &Path,
        link: Link,
        config: &EmbeddedConfig,
    ) -> Result<Self, Refusal> {
        let left_out = link_tables(db, found, aside, link)?;
        let database = Database::open(aside, config).map_err(|error| {
            let refusal = Refusal::fjall(db, error);
            match left_out.first() {
                Some(path) if refusal.is_damage() => Refusal::file(path, "is damaged"),
                _ => refusal,
            }
        })?;
        Ok(Self {
            db: db.to_owned(),
            database,
        })
    }

    pub fn flushed(&self) -> Result<Flushed, Refusal> {
        let (db, spaces) = (&self.db, &self.database.spaces);
        let mut flushed = Flushed::default();
        for (keyspace, row) in spaces.iter().zip(&mut flushed.rows) {
            let value = keyspace.get(COMMIT_KEY);
            if let Some(value) = value.map_err(|error| Refusal::fjall(db, error))? {
                let parsed = CommitRow::parse(&value);
                *row =
                    Some(parsed.ok_or_else(|| Refusal::file(db, "has a damaged row of a commit"))?);
            }
        }
        if let Some(meta) = spaces.get(META) {
            read_meta(meta, &mut flushed).map_err(|error| Refusal::fjall(db, error))?;
        }
        Ok(flushed)
    }

    /// Reads all rows but those of commits.
    pub fn read_rows(&self, take: &mut TakeRow<'_>) -> Result<(), LogError> {
        for (number, keyspace) in (0..).zip(&self.database.spaces) {
            for row in keyspace.iter() {
                let (key, value) = row.into_inner().map_err(read_error)?;
                if *key != *COMMIT_KEY {
                    take(number, &key, &value)?;
                }
            }
        }
        Ok(())
    }
}

/// The kind of links by which tables appear in another directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// For a directory on the file system of the store, which must be writable.
    Hard,
    /// For a directory on any file system.
    Symbolic,
}

/// The keyspaces of a database without threads.
struct Database {
    spaces: Vec<Keyspace>,
    _db: fjall::Database,
}

impl Database {
    fn open(path: &Path, config: &EmbeddedConfig) -> Result<Self, fjall::Error> {
        let db = database::builder(path, config)
            .worker_threads_unchecked(0)
            .open()?;
        let spaces = database::keyspaces(&db)?;
        if !spaces.iter().map(Keyspace::id).eq(SPACE_IDS) {
            return Err(fjall::Error::Unrecoverable);
        }
        Ok(Self {
            spaces: spaces.into(),
            _db: db,
        })
    }
}

fn read_meta(meta: &Keyspace, flushed: &mut Flushed) -> Result<(), fjall::Error> {
    for row in meta.prefix(rows::PARTITION_PREFIX) {
        let (key, value) = row.into_inner()?;
        if let Some(place) = rows::parse_partition_key(&key)
            && let Some(row) = PartitionRow::parse(&value)
        {
            flushed.ends.insert(place, row.end);
        }
    }
    for row in meta.prefix(rows::TOPIC_PREFIX) {
        let (key, value) = row.into_inner()?;
        if let Ok(row) = serde_json::from_slice::<TopicRow>(&value) {
            let name = key.get(rows::TOPIC_PREFIX.len()..).unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            flushed.topics.insert(row.id, name);
        }
    }
    Ok(())
}

/// Compares files with the checksums in the manifests, the newest first.
fn compare_checksums(db: &Path, spaces: &[Keyspace], bytes_max: u64) -> Result<(), Refusal> {
    let mut known = Vec::new();
    for keyspace in spaces {
        let folder = db.join("keyspaces").join(keyspace.id().to_string());
        let version = keyspace.tree.current_version();
        for table in version.iter_tables() {
            let path = folder.join(TABLES).join(table.id().to_string());
            known.push((table.id(), path, table.checksum()));
        }
        for blobs in version.blob_files.iter() {
            let path = folder.join(BLOBS).join(blobs.id().to_string());
            known.push((blobs.id(), path, blobs.checksum()));
        }
    }
    known.sort_by(|(one, ..), (other, ..)| other.cmp(one));
    let mut left = bytes_max;
    for (_, path, checksum) in known {
        let failed = |error: io::Error| Refusal::io(&path, error);
        let bytes = fs::metadata(&path).map_err(failed)?.len();
        let Some(rest) = left.checked_sub(bytes) else {
            break;
        };
        left = rest;
        if files::checksum(&path).map_err(failed)? != checksum.into_u128() {
            return Err(Refusal::file(
                &path,
                "has changed since the backup was written",
            ));
        }
    }
    Ok(())
}

/// Links the tables, and copies the small files. Returns the files that are no tables.
fn link_tables(
    db: &Path,
    found: &Files,
    aside: &Path,
    link: Link,
) -> Result<Vec<PathBuf>, Refusal> {
    let failed = |error: io::Error| Refusal::io(db, error);
    copy_or_link(&db.join(VERSION), &aside.join(VERSION)).map_err(failed)?;
    fs::write(aside.join(LOCK), []).map_err(failed)?;
    // Without any journal, fjall would create one of 64 MiB.
    fs::write(aside.join("0.jnl"), []).map_err(failed)?;
    let mut left_out = Vec::new();
    for keyspace in &found.keyspaces {
        let name = keyspace.path.file_name().unwrap_or_default();
        let to = aside.join("keyspaces").join(name);
        // lsm-tree notices missing files only in a folder that exists.
        for folder in [TABLES, BLOBS] {
            fs::create_dir_all(to.join(folder)).map_err(failed)?;
        }
        for name in [CURRENT, &keyspace.manifest] {
            copy_or_link(&keyspace.path.join(name), &to.join(name)).map_err(failed)?;
        }
        for folder in [TABLES, BLOBS] {
            let from = keyspace.path.join(folder);
            if from.try_exists().map_err(failed)? {
                link_all(&from, &to.join(folder), link, &mut left_out)?;
            }
        }
    }
    Ok(left_out)
}

/// Copies a file that opening reads whole. A disk without a free byte takes a link
/// only, which serves as well: opening replaces such files and never writes into them.
fn copy_or_link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::copy(from, to) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            remove_file(to)?;
            fs::hard_link(from, to)
        }
        outcome => outcome.map(drop),
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Links the files of a folder, or copies them where the file system has no
/// links. One that is not whole is left out: a process that was killed leaves
/// such files, and no manifest names them.
fn link_all(
    from: &Path,
    to: &Path,
    link: Link,
    left_out: &mut Vec<PathBuf>,
) -> Result<(), Refusal> {
    for name in files::names(from)? {
        let path = from.join(&name);
        let failed = |error: io::Error| Refusal::io(&path, error);
        if name.parse::<u64>().is_err() {
            return Err(Refusal::file(&path, "does not belong to the store"));
        }
        if !files::has_table_of_contents(&path).map_err(failed)? {
            left_out.push(path);
            continue;
        }
        let to = to.join(name);
        match link {
            Link::Symbolic => {
                let path = path.canonicalize().map_err(failed)?;
                std::os::unix::fs::symlink(path, &to).map_err(failed)?;
            }
            Link::Hard if fs::hard_link(&path, &to).is_ok() => {}
            Link::Hard => drop(fs::copy(&path, &to).map_err(failed)?),
        }
    }
    Ok(())
}
