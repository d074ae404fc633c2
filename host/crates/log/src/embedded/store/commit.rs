//! Commits: numbered batches of the store.
//!
//! Each commit leaves a [`CommitRow`] in every keyspace that it touches, in the
//! same atomic batch. The row names the commit and the one before it that
//! touched the keyspace, so a reader of the journal and of the tables sees
//! whether anything between them is missing ([check](super::check)).

use fjall::{Keyspace, OwnedWriteBatch, UserKey, UserValue};

use super::{
    META, SPACES, Store,
    mark::{Mark, Place},
    room::{BATCH_BYTES, ITEM_BYTES},
};
use crate::embedded::rows::{self, PartitionRow};

/// The key of a commit's row in each keyspace. No other row has this key: records' keys
/// are longer, those of `meta` begin with a letter, and those of checkpoints with the
/// length of a group's name, which is never empty.
pub(in super::super) const COMMIT_KEY: &[u8] = &[0];

/// A commit's own row in each keyspace that it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CommitRow {
    /// The identity of the store.
    pub store: u64,
    /// Commits are numbered without gaps.
    pub number: u64,
    /// The commit before this one that touched the keyspace, 0 for none.
    pub previous: u64,
    /// The database's sequence number of the commit is not below this.
    pub seqno_min: u64,
    /// The synced mark had at least this number when the commit was written.
    pub marked: u64,
    /// Bytes of all commits up to this one.
    pub bytes: u64,
    /// The last commit of each keyspace, this one included. By these numbers the check
    /// detects keyspaces that were copied at different moments.
    pub last: [u64; SPACES],
}

impl CommitRow {
    pub fn to_bytes(self) -> Vec<u8> {
        [
            self.store,
            self.number,
            self.previous,
            self.seqno_min,
            self.marked,
            self.bytes,
        ]
        .iter()
        .chain(&self.last)
        .flat_map(|number| number.to_le_bytes())
        .collect()
    }

    pub fn parse(value: &[u8]) -> Option<Self> {
        let [store, number, previous, seqno_min, marked, bytes, last @ ..] =
            rows::parse_numbers::<{ 6 + SPACES }>(value)?;
        Some(Self {
            store,
            number,
            previous,
            seqno_min,
            marked,
            bytes,
            last,
        })
    }
}

/// Changes of the store that become visible and durable together.
pub(in super::super) struct Batch<'a> {
    store: &'a Store,
    inner: OwnedWriteBatch,
    changes: Changes,
    items: u64,
}

/// The changes of a commit to the [`Mark`].
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub touched: [bool; SPACES],
    pub bytes: u64,
    /// `None` for a partition that is deleted.
    pub ends: Vec<(Place, Option<u64>)>,
}

impl Mark {
    /// The rows of the commit that follows this mark, by keyspace.
    pub(super) fn next_rows(
        &self,
        changes: &Changes,
        seqno_min: u64,
        marked: u64,
    ) -> [Option<CommitRow>; SPACES] {
        let number = self.number() + 1;
        let mut last = self.last;
        for (last, touched) in last.iter_mut().zip(changes.touched) {
            *last = if touched { number } else { *last };
        }
        let mut rows = [None; SPACES];
        let spaces = rows.iter_mut().zip(self.last).zip(changes.touched);
        for ((row, previous), touched) in spaces {
            *row = touched.then_some(CommitRow {
                store: self.store,
                number,
                previous,
                seqno_min,
                marked,
                bytes: self.bytes + changes.bytes,
                last,
            });
        }
        rows
    }

    /// Moves the mark on to the commit that has these rows.
    pub(super) fn advance(&mut self, rows: &[Option<CommitRow>; SPACES], changes: Changes) {
        for (last, row) in self.last.iter_mut().zip(rows) {
            if let Some(row) = row {
                *last = row.number;
                self.bytes = row.bytes;
            }
        }
        for (place, end) in changes.ends {
            match end {
                Some(end) => self.ends.insert(place, end),
                None => self.ends.remove(&place),
            };
        }
    }
}

impl<'a> Batch<'a> {
    pub fn new(store: &'a Store, inner: OwnedWriteBatch) -> Self {
        let mut changes = Changes::default();
        // Every commit touches `meta`, so the numbers there have no gaps.
        changes.touched[META] = true;
        Self {
            store,
            inner,
            changes,
            items: 0,
        }
    }

    pub fn insert(
        &mut self,
        keyspace: &Keyspace,
        key: impl Into<UserKey>,
        value: impl Into<UserValue>,
    ) {
        let (key, value) = (key.into(), value.into());
        self.note(keyspace, &key, value.len());
        if keyspace == &self.store.meta
            && let Some(place) = rows::parse_partition_key(&key)
        {
            let row = PartitionRow::parse(&value);
            self.changes.ends.push((place, row.map(|row| row.end)));
        }
        self.inner.insert(keyspace, key, value);
    }

    pub fn remove(&mut self, keyspace: &Keyspace, key: impl Into<UserKey>) {
        let key = key.into();
        self.note(keyspace, &key, 0);
        if keyspace == &self.store.meta
            && let Some(place) = rows::parse_partition_key(&key)
        {
            self.changes.ends.push((place, None));
        }
        self.inner.remove(keyspace, key);
    }

    fn note(&mut self, keyspace: &Keyspace, key: &[u8], value_bytes: usize) {
        let spaces = self.store.spaces();
        let touched = spaces.iter().zip(&mut self.changes.touched);
        for (_, touched) in touched.filter(|(space, _)| **space == keyspace) {
            *touched = true;
        }
        self.changes.bytes += (key.len() + value_bytes) as u64;
        self.items += 1;
    }

    /// Writes the batch once the journal has room for it, syncs it and marks it as
    /// acknowledged.
    pub fn commit(self) -> Result<(), fjall::Error> {
        let bytes = BATCH_BYTES + self.changes.bytes + self.items * ITEM_BYTES;
        self.store.wait_for_room(bytes)?;
        self.write()
    }

    pub(super) fn write(mut self) -> Result<(), fjall::Error> {
        let mut progress = self.store.progress.lock();
        let seqno_min = self.store.db.seqno();
        let synced = progress.file.synced();
        let rows = progress.mark.next_rows(&self.changes, seqno_min, synced);
        for (keyspace, row) in self.store.spaces().into_iter().zip(&rows) {
            if let Some(row) = row {
                self.inner.insert(keyspace, COMMIT_KEY, row.to_bytes());
            }
        }
        self.inner.commit()?;
        progress.advance(&rows, self.changes)?;
        Ok(())
    }
}
