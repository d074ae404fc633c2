//! How much room the disk has.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// An answer of the file system holds for this time, and for this many bytes written.
const GOOD_FOR: Duration = Duration::from_millis(100);
const GOOD_FOR_BYTES: u64 = 16 << 20;

/// Free bytes of the file system that `path` is on, for other users than root.
pub(super) fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Free bytes of a file system, which is not asked for each write.
#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    asked: Option<(Instant, u64)>,
    written_bytes: u64,
}

impl Disk {
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            asked: None,
            written_bytes: 0,
        }
    }

    /// Free bytes before `to_write_bytes` are written. A file system that gives no answer
    /// counts as one with room, since a write fails if it has none.
    pub fn free_bytes(&mut self, to_write_bytes: u64) -> u64 {
        let before = self.written_bytes;
        self.written_bytes = before.saturating_add(to_write_bytes);
        if let Some((at, free)) = self.asked
            && before < GOOD_FOR_BYTES
            && at.elapsed() < GOOD_FOR
        {
            return free.saturating_sub(before);
        }
        self.written_bytes = to_write_bytes;
        let free = free_bytes(&self.path).unwrap_or(u64::MAX);
        self.asked = Some((Instant::now(), free));
        free
    }
}
