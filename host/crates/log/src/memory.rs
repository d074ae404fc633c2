//! Checkpoints in memory, for work on copies that no log keeps: replays, rehearsals of
//! files, and tests.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;
use courtside_types::{Key, PartitionId};
use parking_lot::Mutex;

use crate::{Checkpoints, Commit, LogError};

/// Checkpoints that only their owner sees.
#[derive(Debug, Default)]
pub struct MemoryCheckpoints(Mutex<BTreeMap<(PartitionId, Key), Bytes>>);

impl MemoryCheckpoints {
    pub fn put(&self, partition: PartitionId, key: Key, bytes: Bytes) {
        self.0.lock().insert((partition, key), bytes);
    }

    /// Takes the checkpoints of a commit.
    pub fn apply(&self, commit: &Commit) {
        let mut checkpoints = self.0.lock();
        for (partition, key, bytes) in &commit.checkpoints {
            match bytes {
                Some(bytes) => checkpoints.insert((*partition, key.clone()), bytes.clone()),
                None => checkpoints.remove(&(*partition, key.clone())),
            };
        }
    }

    #[cfg(any(test, feature = "conformance"))]
    pub fn all(&self) -> BTreeMap<(PartitionId, Key), Bytes> {
        self.0.lock().clone()
    }
}

impl Checkpoints for MemoryCheckpoints {
    fn get(&self, partition: PartitionId, key: &[u8]) -> Result<Option<Bytes>, LogError> {
        let key = (partition, Bytes::copy_from_slice(key));
        Ok(self.0.lock().get(&key).cloned())
    }

    fn scan(
        &self,
        partition: PartitionId,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<(Key, Bytes)>, LogError> {
        let from = match after {
            None => Bound::Included((partition, Bytes::new())),
            Some(after) => Bound::Excluded((partition, Bytes::copy_from_slice(after))),
        };
        let checkpoints = self.0.lock();
        let found = checkpoints.range((from, Bound::Unbounded));
        let of_partition = found.take_while(|((owner, _), _)| *owner == partition);
        let pairs = of_partition.map(|((_, key), bytes)| (key.clone(), bytes.clone()));
        Ok(pairs.take(count_max).collect())
    }
}
