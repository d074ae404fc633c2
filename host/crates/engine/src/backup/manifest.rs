//! The manifest: the files of a backup with their digests, and what its log holds.
//!
//! It is JSON of one form only, with the digest of itself at the end, so that a
//! change of any byte of it shows.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use courtside_log::backup::LogContents;
use courtside_types::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{BackupError, LOCK, MANIFEST};

const FORMAT: u32 = 1;
const READ_BYTES: usize = 256 << 10;
/// The most bytes of a manifest that are read into memory.
const MANIFEST_BYTES_MAX: u64 = 256 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// The version that wrote it.
    courtside: String,
    /// When it was written, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// All files but this one, by their paths in the backup.
    pub files: BTreeMap<String, FileEntry>,
    pub log: LogContents,
    /// The digest of this file with 64 zeros here.
    sha256: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    pub bytes: u64,
    pub sha256: Digest,
}

impl Manifest {
    #[must_use]
    pub fn new(files: BTreeMap<String, FileEntry>, log: LogContents, created_ms: u64) -> Self {
        Self {
            format: FORMAT,
            courtside: env!("CARGO_PKG_VERSION").to_owned(),
            created_ms,
            files,
            log,
            sha256: Digest([0; 32]),
        }
    }

    /// The manifest's text, with its digest.
    pub fn seal(&mut self) -> serde_json::Result<Vec<u8>> {
        self.sha256 = Digest([0; 32]);
        self.sha256 = Digest::of(&self.text()?);
        self.text()
    }

    fn text(&self) -> serde_json::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads the manifest of a backup.
    pub fn read(dir: &Path) -> Result<Self, BackupError> {
        let path = dir.join(MANIFEST);
        let mut text = Vec::new();
        let read = File::open(&path).and_then(|file| {
            let file = file.take(MANIFEST_BYTES_MAX);
            io::BufReader::new(file).read_to_end(&mut text)
        });
        read.map_err(|error| BackupError::invalid(dir, format!("{MANIFEST}: {error}")))?;
        let damaged = |why: &str| BackupError::invalid(dir, format!("{MANIFEST} is damaged{why}"));
        let found: Self =
            serde_json::from_slice(&text).map_err(|error| damaged(&format!(": {error}")))?;
        if found.format != FORMAT {
            let reason = format!(
                "its format is {}, this program reads {FORMAT}",
                found.format
            );
            return Err(BackupError::invalid(dir, reason));
        }
        match found.clone().seal() {
            Ok(sealed) if sealed == text => Ok(found),
            _ => Err(damaged("")),
        }
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }
}

/// The files below a directory but its manifest and lock, by their paths in it.
/// Anything else than files and directories is refused.
pub fn files(dir: &Path) -> Result<BTreeMap<String, PathBuf>, BackupError> {
    let mut files = BTreeMap::new();
    let mut folders = vec![(dir.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        let failed = |error: io::Error| BackupError::invalid(dir, format!("{prefix}: {error}"));
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            let path = entry.path();
            let changed = |what| BackupError::Changed {
                path: entry.path(),
                what,
            };
            let name = entry.file_name().into_string();
            let name = name.map_err(|_| changed("does not belong to the backup"))?;
            let name = format!("{prefix}{name}");
            if kind.is_dir() {
                folders.push((path, format!("{name}/")));
            } else if !kind.is_file() {
                return Err(changed("is neither a file nor a directory"));
            } else if name != MANIFEST && name != LOCK {
                files.insert(name, path);
            }
        }
    }
    Ok(files)
}

/// A file's size and digest.
pub fn entry(path: &Path) -> io::Result<FileEntry> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(FileEntry {
                bytes,
                sha256: Digest(hash.finalize().into()),
            });
        }
        bytes += read as u64;
        hash.update(buffer.get(..read).unwrap_or_default());
    }
}
