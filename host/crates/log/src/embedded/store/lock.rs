//! The lock of a data directory, which one process holds at a time.

use std::{
    fs::{File, TryLockError},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::errors::in_use;
use crate::LogError;

/// How long opening waits for the lock of a directory. After a log was closed, a child
/// process between fork and exec still holds its lock for a moment. A process that was
/// just killed does as well.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(5);

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
