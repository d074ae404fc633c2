//! A group's committed checkpoints, read from the rows of the store.

use std::{ops::Bound, sync::Arc};

use bytes::Bytes;
use courtside_types::{Key, PartitionId};
use fjall::Readable as _;

use super::{rows::checkpoint_key, state::EmbeddedState, store::read_error};
use crate::{Checkpoints, GroupName, LogError};

pub(super) struct GroupCheckpoints {
    shared: Arc<EmbeddedState>,
    group: GroupName,
}

impl GroupCheckpoints {
    pub fn new(shared: &Arc<EmbeddedState>, group: &str) -> Self {
        Self {
            shared: Arc::clone(shared),
            group: group.into(),
        }
    }
}

impl Checkpoints for GroupCheckpoints {
    fn get(&self, partition: PartitionId, key: &[u8]) -> Result<Option<Bytes>, LogError> {
        let store = self.shared.store()?;
        let row = checkpoint_key(&self.group, partition.0, key);
        let value = store.checkpoints.get(row).map_err(read_error)?;
        Ok(value.map(Bytes::from_owner))
    }

    fn scan(
        &self,
        partition: PartitionId,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Vec<(Key, Bytes)>, LogError> {
        let store = self.shared.store()?;
        let prefix = checkpoint_key(&self.group, partition.0, b"");
        let from = match after {
            None => Bound::Included(prefix.clone()),
            Some(after) => Bound::Excluded(checkpoint_key(&self.group, partition.0, after)),
        };
        // A partition's number is never `u32::MAX`, so there is a number after it.
        let to = checkpoint_key(&self.group, partition.0.saturating_add(1), b"");
        let rows = store
            .snapshot()
            .range(&store.checkpoints, (from, Bound::Excluded(to)));
        let mut found = Vec::new();
        for row in rows.take(count_max) {
            let (key, value) = row.into_inner().map_err(read_error)?;
            let key = key.get(prefix.len()..).unwrap_or_default();
            found.push((Key::copy_from_slice(key), Bytes::copy_from_slice(&value)));
        }
        Ok(found)
    }
}
