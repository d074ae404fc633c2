//! Room in the journal, for which a commit waits.
//!
//! fjall allocates a file of 64 MiB, opens the next one at the flush of a
//! memtable once the file has more than 64,000,000 bytes, and removes a file when
//! all keyspaces have flushed the file's commits. Its own limit asks for flushes
//! and stops no writer. So a commit waits here until the files, the commit and one
//! more file together stay within `journal_bytes_max`.
//!
//! The bound is at least 192 MiB: fjall keeps one file while its commits are written
//! out and writes to another, and a commit needs room beside them. With commits of
//! 20 MiB, the journal reached 256 MB when the host only asked for flushes, and 172 MB
//! when commits waited. At 192 MiB writers wait at each file (560 MB take 2.3 s). At
//! the default of 256 MiB a file is written out meanwhile (1.2 s).

use std::{
    io::{self, ErrorKind},
    thread,
    time::{Duration, Instant},
};

use fjall::PersistMode;

use super::Store;
use crate::embedded::config::{JOURNAL_FILE_BYTES, SLACK_BYTES};

/// A batch's start and end in the journal.
pub(super) const BATCH_BYTES: u64 = 26;
/// An item's head, before its key and value.
pub(in super::super) const ITEM_BYTES: u64 = 21;

/// The journal's size falls a moment after the flushes end. Only after this time does a
/// commit that still lacks room ask for flushes again.
const ASK_AGAIN: Duration = Duration::from_millis(100);
const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl Store {
    /// Waits until the journal has room for a commit of `bytes`. Fails if the database is
    /// poisoned, or if the journal never has room for such a commit.
    pub(super) fn wait_for_room(&self, bytes: u64) -> Result<(), fjall::Error> {
        if self.has_room(bytes)? {
            return Ok(());
        }
        if needs(JOURNAL_FILE_BYTES, bytes) > self.journal_bytes_max {
            return Err(io::Error::from(ErrorKind::FileTooLarge).into());
        }
        let mut asked: Option<Instant> = None;
        loop {
            // `persist` is the only way to ask whether the database is poisoned. It
            // writes nothing else.
            self.db.persist(PersistMode::Buffer)?;
            if self.has_room(bytes)? {
                return Ok(());
            }
            if !self.is_flushing() && asked.is_none_or(|at| at.elapsed() >= ASK_AGAIN) {
                self.ask_for_flushes()?;
                asked = Some(Instant::now());
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    fn has_room(&self, bytes: u64) -> Result<bool, fjall::Error> {
        let used = self.db.journal_disk_space()?;
        Ok(needs(used, bytes) <= self.journal_bytes_max)
    }

    /// Asks for flushes of all memtables, after which only the active journal is needed.
    /// A store that was just opened knows the length of its journal only once it writes,
    /// so a commit without changes goes first.
    fn ask_for_flushes(&self) -> Result<(), fjall::Error> {
        self.batch().write()?;
        for keyspace in self.spaces() {
            keyspace.rotate_memtable()?;
        }
        Ok(())
    }
}

/// The most that the journal takes once a commit is added to what it has.
fn needs(used: u64, commit: u64) -> u64 {
    let parts = [commit, JOURNAL_FILE_BYTES, SLACK_BYTES];
    parts.into_iter().fold(used, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::Path,
        sync::atomic::{AtomicBool, Ordering},
    };

    use bytesize::ByteSize;

    use super::*;
    use crate::embedded::{
        config::{EmbeddedConfig, JOURNAL_BYTES_LEAST},
        rows,
    };

    const COMMIT_BYTES: usize = 20 << 20;

    fn least() -> EmbeddedConfig {
        EmbeddedConfig {
            journal_bytes_max: ByteSize::b(JOURNAL_BYTES_LEAST),
            ..EmbeddedConfig::default()
        }
    }

    /// Bytes of all journals of a data directory.
    fn journal_bytes(dir: &Path) -> u64 {
        let files = fs::read_dir(dir.join("db")).unwrap();
        let journals = files.filter_map(|file| {
            let file = file.unwrap();
            let is_journal = file.path().extension().is_some_and(|end| end == "jnl");
            // fjall may remove a file after it was listed.
            is_journal.then(|| file.metadata().map_or(0, |file| file.len()))
        });
        journals.sum()
    }

    /// Makes `commits` commits, and returns the most bytes that the journals had meanwhile.
    fn most_beside(dir: &Path, store: &Store, commits: u64) -> u64 {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut most = 0;
                while !done.load(Ordering::Relaxed) {
                    most = most.max(journal_bytes(dir));
                }
                most
            });
            let value = vec![7; COMMIT_BYTES];
            for number in 0..commits {
                store.wait_until_writable().unwrap();
                let mut batch = store.batch();
                // A keyspace that changes seldom keeps old journals.
                if number % 7 == 0 {
                    batch.insert(&store.checkpoints, number.to_be_bytes(), &b"seldom"[..]);
                }
                batch.insert(&store.records, rows::record_key(1, 0, number), &value[..]);
                batch.commit().unwrap();
            }
            done.store(true, Ordering::Relaxed);
            watch.join().unwrap()
        })
    }

    #[test]
    fn the_journal_keeps_its_bound_while_a_keyspace_lags_and_after_a_start() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let store = Store::open(dir.path(), &least()).unwrap();
            let most = most_beside(dir.path(), &store, 28);
            assert!(most > JOURNAL_FILE_BYTES, "{most}");
            assert!(most <= JOURNAL_BYTES_LEAST, "{most}");
        }
    }

    #[test]
    fn a_store_that_was_opened_with_a_full_journal_makes_room_before_it_writes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &EmbeddedConfig::default()).unwrap();
        most_beside(dir.path(), &store, 6);
        drop(store);
        let mut store = Store::open(dir.path(), &least()).unwrap();
        // The bound is as tight as if the file had grown to its largest size.
        let used = store.db.journal_disk_space().unwrap();
        store.journal_bytes_max = used.max(JOURNAL_FILE_BYTES) + JOURNAL_FILE_BYTES + SLACK_BYTES;
        store.wait_for_room(1).unwrap();
        assert!(store.has_room(1).unwrap());
        assert!(store.wait_for_room(store.journal_bytes_max).is_err());
    }
}
