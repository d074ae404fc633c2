//! What the workers of a pipeline say of their partitions, for the doors.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::{slots::view::PartitionState, types::PartitionId};

/// What a worker says of one of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    pub worker: u32,
    pub state: PartitionState,
    pub code: Option<&'static str>,
    pub reason: Option<String>,
}

/// The partitions of a pipeline that workers of this host have.
#[derive(Debug, Default)]
pub struct PipelineStatus(Mutex<BTreeMap<PartitionId, PartitionStatus>>);

impl PipelineStatus {
    pub fn set(&self, partition: PartitionId, status: PartitionStatus) {
        self.0.lock().insert(partition, status);
    }

    pub fn forget<'a>(&self, partitions: impl Iterator<Item = &'a PartitionId>) {
        let mut held = self.0.lock();
        for partition in partitions {
            held.remove(partition);
        }
    }

    #[must_use]
    pub fn get(&self, partition: PartitionId) -> Option<PartitionStatus> {
        self.0.lock().get(&partition).cloned()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> BTreeMap<PartitionId, PartitionStatus> {
        self.0.lock().clone()
    }
}
