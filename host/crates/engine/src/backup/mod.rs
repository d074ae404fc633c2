//! Backups: a consistent copy of a host's data directory, made while it runs.
//!
//! A host [sends](source) the rows of one moment of its log and its copies of
//! plugins as [frames]; the command [writes](target) them where it runs, into a
//! directory that gets its name when all of it is on disk. So a host writes
//! nowhere that a request names, and a backup can be made from another machine.
//! A [manifest] has the digest of each file and the offsets of the log, and
//! [verify](fn@verify) compares a backup with it.
//!
//! Memory: a page of rows at the host, a commit of some megabytes at the command,
//! and one plugin's file at each.
//!
//! A setting such as `backup.dir`, below which the host would write, would also keep a
//! request from naming paths. Rows over HTTP can go to another machine as well, and a
//! full disk there is not the host's.

pub mod frames;
pub mod manifest;
pub mod source;
pub mod target;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    io,
    path::{Path, PathBuf},
};

use courtside_log::LogError;
use courtside_types::failure::ErrorCode;

pub use self::verify::verify;

/// The data directory's part of a backup that is the record log.
const LOG: &str = "log";
/// The part that has the host's copies of plugins.
const PLUGINS: &str = "plugins";
/// The file that the command holds locked while it writes.
const LOCK: &str = "lock";
/// The file that makes a directory a backup.
const MANIFEST: &str = "backup.json";

/// Why a backup was not made, or why a directory is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{} exists already: a backup needs a new directory", .0.display())]
    Exists(PathBuf),
    #[error("another command is writing {}", .0.display())]
    Running(PathBuf),
    #[error("{}: {source}", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the backup was cut short: {0}; no part of it was kept")]
    CutShort(String),
    /// The host's words for what went wrong there.
    #[error("{reason}")]
    Host { code: String, reason: String },
    #[error("{} is no backup: {reason}", path.display())]
    Invalid { path: PathBuf, reason: String },
    #[error("{} {what}", path.display())]
    Changed { path: PathBuf, what: &'static str },
    #[error(transparent)]
    Log(#[from] LogError),
}

impl ErrorCode for BackupError {
    fn code(&self) -> &str {
        match self {
            Self::Exists(_) => "backup-exists",
            Self::Running(_) => "backup-running",
            Self::Unwritable { source, .. } if is_full(source) => "disk-full",
            Self::Unwritable { .. } => "backup-unwritable",
            Self::Unreadable { .. } => "backup-unreadable",
            Self::CutShort(_) => "backup-cut-short",
            Self::Host { code, .. } => code,
            Self::Invalid { .. } => "backup-invalid",
            Self::Changed { .. } => "backup-changed",
            Self::Log(error) => error.code(),
        }
    }
}

impl BackupError {
    fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Unwritable { path, source }
    }

    fn invalid(path: &Path, reason: impl ToString) -> Self {
        Self::Invalid {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
