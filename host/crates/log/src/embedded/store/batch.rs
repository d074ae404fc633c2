//! A batch of changes, which the store makes one commit.

use fjall::{Keyspace, OwnedWriteBatch, PersistMode, UserKey, UserValue};

use super::{
    Store,
    commit::{COMMIT_KEY, Changes},
    database::META,
    room::{BATCH_BYTES, ITEM_BYTES},
};
use crate::embedded::rows::{self, PartitionRow};

/// Changes of the store that become visible and durable together.
pub(in super::super) struct Batch<'a> {
    store: &'a Store,
    inner: OwnedWriteBatch,
    changes: Changes,
    items: u64,
}

impl Store {
    /// A batch whose commit returns when it is on disk.
    pub fn batch(&self) -> Batch<'_> {
        // The journal's size and blocks are metadata that fdatasync writes too; it
        // leaves out only the times.
        let batch = self.db.batch().durability(Some(PersistMode::SyncData));
        Batch::new(self, batch)
    }
}

impl<'a> Batch<'a> {
    fn new(store: &'a Store, inner: OwnedWriteBatch) -> Self {
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
