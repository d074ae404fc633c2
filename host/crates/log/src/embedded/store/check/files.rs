//! The files that a store must have. Those that are small enough are compared with
//! their checksums at each start.
//!
//! fjall creates a file that is missing, and deletes a file that it does not know. So
//! the host looks through a store before fjall sees it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::refusal::Refusal;
use crate::embedded::store::database::{NAMES_ID, SPACE_IDS};

pub(super) const TABLES: &str = "tables";
pub(super) const BLOBS: &str = "blobs";
pub(super) const CURRENT: &str = "current";
pub(super) const LOCK: &str = "lock";
pub(super) const VERSION: &str = "version";
const VERSION_BYTES: &[u8] = b"FJL\x03";

/// A file of tables or blobs ends with a trailer that locates its table of contents.
const TOC_TRAILER_BYTES: u64 = 38;
const TOC_TRAILER_MAGIC: &[u8] = b"SFA!\x01\x00";
const TOC_BYTES_MAX: u64 = 64 << 10;

/// A keyspace's folder and the name of its manifest in force: `v` and a number.
pub(super) struct Keyspace {
    pub path: PathBuf,
    pub manifest: String,
}

/// The files of a store that were looked at.
pub(super) struct Files {
    pub keyspaces: Vec<Keyspace>,
    /// The journals in the order of their numbers. fjall writes to the last one.
    pub journals: Vec<PathBuf>,
}

pub(super) fn look(db: &Path) -> Result<Files, Refusal> {
    let version = db.join(VERSION);
    if read(&version)? != VERSION_BYTES {
        return Err(Refusal::file(&version, "is damaged"));
    }
    let journals = journals(db)?;
    let all = db.join("keyspaces");
    let mut keyspaces = Vec::new();
    for id in [NAMES_ID].into_iter().chain(SPACE_IDS) {
        let path = all.join(id.to_string());
        let manifest = manifest(&path)?;
        keyspaces.push(Keyspace { path, manifest });
    }
    for name in names(&all)? {
        let known = |space: &Keyspace| space.path.file_name() == Some(name.as_ref());
        if !keyspaces.iter().any(known) {
            return Err(Refusal::file(
                &all.join(name),
                "does not belong to the store",
            ));
        }
    }
    Ok(Files {
        keyspaces,
        journals,
    })
}

/// The journals. Their numbers have no gaps, since fjall removes the oldest first.
fn journals(db: &Path) -> Result<Vec<PathBuf>, Refusal> {
    let mut numbers = Vec::new();
    for name in names(db)? {
        if let Some(number) = name.strip_suffix(".jnl") {
            let number = number.parse::<u64>();
            let number = number.map_err(|_| Refusal::file(&db.join(&name), "is no journal"))?;
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    let path = |number: &u64| db.join(format!("{number}.jnl"));
    if numbers.is_empty() {
        return Err(Refusal::file(db, "has no journal"));
    }
    let gap = numbers.windows(2).find_map(|pair| match pair {
        [one, next] if one + 1 != *next => Some(one + 1),
        _ => None,
    });
    match gap {
        Some(number) => Err(Refusal::file(&path(&number), "is missing")),
        None => Ok(numbers.iter().map(path).collect()),
    }
}

/// Compares a keyspace's manifest with the checksum in `current`, which fjall does
/// not do.
fn manifest(keyspace: &Path) -> Result<String, Refusal> {
    let current = keyspace.join(CURRENT);
    let bytes = read(&current)?;
    let parsed = || {
        let (version, rest) = bytes.split_first_chunk::<8>()?;
        let (checksum, kind) = rest.split_first_chunk::<16>()?;
        let numbers = (u64::from_le_bytes(*version), u128::from_le_bytes(*checksum));
        (kind == [0]).then_some(numbers)
    };
    let (version, checksum) = parsed().ok_or_else(|| Refusal::file(&current, "is damaged"))?;
    let name = format!("v{version}");
    let path = keyspace.join(&name);
    if xxh3_128(&read(&path)?) != checksum {
        return Err(Refusal::file(
            &path,
            "is not the manifest that `current` names",
        ));
    }
    Ok(name)
}

/// Compares the table of contents of a file of tables or blobs with its checksum.
/// lsm-tree allocates memory as that table says before it compares the checksum.
pub(super) fn has_table_of_contents(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut trailer = [0; TOC_TRAILER_BYTES as usize];
    let Some(at) = len.checked_sub(TOC_TRAILER_BYTES) else {
        return Ok(false);
    };
    file.read_exact_at(&mut trailer, at)?;
    let parsed = || {
        let rest = trailer.strip_prefix(TOC_TRAILER_MAGIC)?;
        let (checksum, rest) = rest.split_first_chunk::<16>()?;
        let (from, len) = rest.split_first_chunk::<8>()?;
        let len = u64::from_le_bytes(len.try_into().ok()?);
        let (checksum, from) = (u128::from_le_bytes(*checksum), u64::from_le_bytes(*from));
        let is_before_trailer = from.checked_add(len) == Some(at) && len <= TOC_BYTES_MAX;
        is_before_trailer.then_some((checksum, from, len))
    };
    let Some((checksum, from, len)) = parsed() else {
        return Ok(false);
    };
    let mut toc = vec![0; usize::try_from(len).unwrap_or_default()];
    file.read_exact_at(&mut toc, from)?;
    Ok(xxh3_128(&toc) == checksum)
}

/// The checksum of a whole file, as a manifest has it for tables and blobs.
pub(super) fn checksum(path: &Path) -> io::Result<u128> {
    let mut file = File::open(path)?;
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = io::Read::read(&mut file, &mut buffer)?;
        if read == 0 {
            return Ok(hash.digest128());
        }
        hash.update(buffer.get(..read).unwrap_or_default());
    }
}

pub(super) fn names(folder: &Path) -> Result<Vec<String>, Refusal> {
    let failed = |error: io::Error| Refusal::io(folder, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.into_string();
        let name =
            name.map_err(|name| Refusal::file(&folder.join(name), "does not belong to the store"))?;
        names.push(name);
    }
    Ok(names)
}

fn read(path: &Path) -> Result<Vec<u8>, Refusal> {
    fs::read(path).map_err(|error| Refusal::io(path, error))
}
