//! The database's errors as errors of the log.

use std::{
    io::{self, ErrorKind},
    path::Path,
};

use fjall::LsmError;

use crate::{
    LogError,
    embedded::{config::EmbeddedConfig, disk},
};

/// Whether an error means that the data is damaged, and not that reading failed.
pub(super) fn is_damage(error: &fjall::Error) -> bool {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) => matches!(
            error.kind(),
            io::ErrorKind::NotFound
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::InvalidData
                | io::ErrorKind::InvalidInput
        ),
        fjall::Error::Locked | fjall::Error::Poisoned => false,
        _ => true,
    }
}

pub(super) fn in_use(path: &Path) -> LogError {
    LogError::InUse {
        path: path.display().to_string(),
    }
}

/// Turns an error of opening or writing the database into the log's error.
pub(in super::super) fn write_error(
    path: &Path,
    config: &EmbeddedConfig,
    error: &fjall::Error,
) -> LogError {
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
        error if is_damage(error) => {
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
pub(in super::super) fn read_error(error: fjall::Error) -> LogError {
    let reason = error.to_string();
    if is_damage(&error) {
        LogError::Corrupt { reason }
    } else {
        LogError::Unavailable { reason }
    }
}
