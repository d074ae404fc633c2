//! The committed checkpoints of the partitions that this host holds: a copy of
//! what the brokers have, in a store that is thrown away at the next start.
//!
//! All workers share it. A partition may move from one of them to another while
//! the first still restores it, so each assignment has a claim, and only the
//! latest one writes.
//!
//! Memory: three memtables of 16 MiB at most, and the block cache.

use std::{
    collections::HashMap,
    ops::Bound,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use courtside_types::{Key, PartitionId, Topic, topics::CHECKPOINTS_SUFFIX};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, Readable as _};
use parking_lot::RwLock;

use crate::{Checkpoints, GroupName, KEY_BYTES_MAX, LogError};

const CACHE_BYTES: u64 = 32 << 20;
const JOURNAL_BYTES_MAX: u64 = 128 << 20;
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Rows removed in one step.
const REMOVED_AT_A_TIME: usize = 1000;

/// The topic that a group's checkpoints are in on Kafka.
#[must_use]
pub fn checkpoints_topic(group: &str) -> Topic {
    format!("{group}{CHECKPOINTS_SUFFIX}").into()
}

pub(super) struct Store {
    db: Database,
    rows: Keyspace,
    claims: RwLock<HashMap<(GroupName, PartitionId), Claim>>,
    next_claim: AtomicU64,
}

/// The right to write a partition's rows, until a later assignment claims them. No
/// two claims are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim(u64);

/// A checkpoint to keep, or the key of one to drop.
pub(super) type Row = (PartitionId, Key, Option<Bytes>);

impl Store {
    /// Opens an empty store; one that is there is removed.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(LogError::Unavailable {
                    reason: format!("{} cannot be emptied: {error}", path.display()),
                });
            }
            _ => {}
        }
        let db = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .journal_compression(CompressionType::None)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(1)
            .open()
            .map_err(failed)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
        let rows = db.keyspace("checkpoints", options).map_err(failed)?;
        Ok(Self {
            db,
            rows,
            claims: RwLock::default(),
            next_claim: AtomicU64::new(1),
        })
    }

    /// Gives the caller the rows of this partition, and ends an earlier claim.
    pub fn claim(&self, group: &GroupName, partition: PartitionId) -> Claim {
        let claim = Claim(self.next_claim.fetch_add(1, Ordering::Relaxed));
        let mut claims = self.claims.write();
        claims.insert((group.clone(), partition), claim);
        claim
    }

    /// Writes the rows of partitions that are the caller's, and says whether all
    /// were. Nothing is synced: lost rows are restored from the brokers.
    pub fn put<'a>(
        &self,
        group: &GroupName,
        rows: impl IntoIterator<Item = &'a Row>,
        claim: impl Fn(PartitionId) -> Option<Claim>,
    ) -> Result<bool, LogError> {
        let claims = self.claims.read();
        let mut batch = self.db.batch();
        let mut all = true;
        for (partition, key, value) in rows {
            let held = claims.get(&(group.clone(), *partition)).copied();
            if held.is_none() || held != claim(*partition) {
                all = false;
                continue;
            }
            let row = row_key(group, *partition, key);
            match value {
                Some(value) => batch.insert(&self.rows, row, &value[..]),
                None => batch.remove(&self.rows, row),
            }
        }
        batch.commit().map_err(failed)?;
        Ok(all)
    }

    /// Removes the rows of a partition that is the caller's; says whether it is.
    pub fn clear(
        &self,
        group: &GroupName,
        partition: PartitionId,
        claim: Claim,
    ) -> Result<bool, LogError> {
        loop {
            let claims = self.claims.read();
            if claims.get(&(group.clone(), partition)) != Some(&claim) {
                return Ok(false);
            }
            let mut batch = self.db.batch();
            let mut count = 0;
            for row in self
                .db
                .snapshot()
                .range(&self.rows, range(group, partition, None))
                .take(REMOVED_AT_A_TIME)
            {
                batch.remove(&self.rows, row.key().map_err(failed)?);
                count += 1;
            }
            if count == 0 {
                return Ok(true);
            }
            batch.commit().map_err(failed)?;
        }
    }
}

/// The checkpoints of one group in the store.
pub(super) struct GroupCheckpoints {
    pub store: Arc<Store>,
    pub group: GroupName,
}

impl Checkpoints for GroupCheckpoints {
    fn get(&self, partition: PartitionId, key: &[u8]) -> Result<Option<Bytes>, LogError> {
        if key.len() > KEY_BYTES_MAX {
            return Ok(None);
        }
        let row = row_key(&self.group, partition, key);
        let value = self.store.rows.get(row).map_err(failed)?;
        Ok(value.map(Bytes::from_owner))
    }

    fn scan(
        &self,
        partition: PartitionId,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<(Key, Bytes)>, LogError> {
        let prefix = row_key(&self.group, partition, b"").len();
        let rows = self
            .store
            .db
            .snapshot()
            .range(&self.store.rows, range(&self.group, partition, after));
        let mut found = Vec::new();
        for row in rows.take(count_max) {
            let (key, value) = row.into_inner().map_err(failed)?;
            let key = key.get(prefix..).unwrap_or_default();
            found.push((Key::copy_from_slice(key), Bytes::copy_from_slice(&value)));
        }
        Ok(found)
    }
}

/// A row begins with the group (after its length) and the partition, so that a
/// partition's rows are in key order.
fn row_key(group: &str, partition: PartitionId, key: &[u8]) -> Vec<u8> {
    let len = u16::try_from(group.len()).unwrap_or(u16::MAX);
    let mut row = Vec::with_capacity(group.len() + key.len() + 6);
    row.extend_from_slice(&len.to_be_bytes());
    row.extend_from_slice(group.as_bytes());
    row.extend_from_slice(&partition.0.to_be_bytes());
    row.extend_from_slice(key);
    row
}

fn range(
    group: &str,
    partition: PartitionId,
    after: Option<&[u8]>,
) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let from = match after {
        None => Bound::Included(row_key(group, partition, b"")),
        Some(after) => Bound::Excluded(row_key(group, partition, after)),
    };
    // A partition's number is not all ones, so there is a number after it.
    let next = PartitionId(partition.0.saturating_add(1));
    (from, Bound::Excluded(row_key(group, next, b"")))
}

#[allow(clippy::needless_pass_by_value)]
fn failed(error: fjall::Error) -> LogError {
    LogError::Unavailable {
        reason: format!("the copy of the checkpoints: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_and_groups_are_apart_and_cleared_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
        let row = |partition, key: &str| -> Row {
            (
                PartitionId(partition),
                key.to_owned().into(),
                Some("v".into()),
            )
        };
        let [g, gg] = ["g", "gg"].map(GroupName::from_static);
        let claims: Vec<_> = (0..3).map(|n| store.claim(&g, PartitionId(n))).collect();
        let held = |partition: PartitionId| claims.get(partition.0 as usize).copied();
        let many: Vec<Row> = (0..2500).map(|n| row(1, &format!("{n:04}"))).collect();
        assert!(store.put(&g, &many, held).unwrap());
        assert!(store.put(&g, &[row(0, "a"), row(2, "b")], held).unwrap());
        let other = store.claim(&gg, PartitionId(1));
        assert!(store.put(&gg, &[row(1, "c")], |_| Some(other)).unwrap());
        let of = |group: &str| GroupCheckpoints {
            store: Arc::clone(&store),
            group: group.into(),
        };
        let count = |group, partition| {
            let found = of(group).scan(PartitionId(partition), None, usize::MAX);
            found.unwrap().len()
        };
        assert_eq!([count("g", 0), count("g", 1), count("g", 2)], [1, 2500, 1]);
        assert!(store.clear(&g, PartitionId(1), claims[1]).unwrap());
        assert_eq!([count("g", 0), count("g", 1), count("g", 2)], [1, 0, 1]);
        assert_eq!(count("gg", 1), 1);
        // The earlier claim can no longer write or clear.
        let latest = store.claim(&g, PartitionId(2));
        let rows = [row(0, "new"), row(2, "stale")];
        assert!(!store.put(&g, &rows, held).unwrap());
        assert!(!store.clear(&g, PartitionId(2), claims[2]).unwrap());
        assert_eq!([count("g", 0), count("g", 2)], [2, 1]);
        assert!(store.put(&g, &[row(2, "mine")], |_| Some(latest)).unwrap());
        assert_eq!(count("g", 2), 2);
        drop(store);
        let store = Store::open(&dir.path().join("store")).unwrap();
        let group = GroupCheckpoints {
            store: Arc::new(store),
            group: "gg".into(),
        };
        assert_eq!(
            group.get(PartitionId(1), b"c").unwrap(),
            None,
            "it starts empty"
        );
    }
}
