//! What the workers of a pipeline say of their partitions, for the doors.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::figures::PipelineFigures;
use crate::{slots::view::PartitionState, types::PartitionId};

/// What a worker says of one of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    pub worker: u32,
    pub state: PartitionState,
    pub code: Option<&'static str>,
    pub reason: Option<String>,
}

/// The partitions of a pipeline that workers of this host have, and what is
/// counted of them and of its slots.
#[derive(Debug, Default)]
pub struct PipelineStatus {
    partitions: Mutex<BTreeMap<PartitionId, PartitionStatus>>,
    figures: Arc<PipelineFigures>,
}

impl PipelineStatus {
    pub fn set(&self, partition: PartitionId, status: PartitionStatus) {
        self.partitions.lock().insert(partition, status);
    }

    pub fn forget<'a>(&self, partitions: impl Iterator<Item = &'a PartitionId>) {
        let mut held = self.partitions.lock();
        for partition in partitions {
            held.remove(partition);
            self.figures.forget(*partition);
        }
    }

    #[must_use]
    pub fn get(&self, partition: PartitionId) -> Option<PartitionStatus> {
        self.partitions.lock().get(&partition).cloned()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partitions.lock().is_empty()
    }

    #[must_use]
    pub const fn figures(&self) -> &Arc<PipelineFigures> {
        &self.figures
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> BTreeMap<PartitionId, PartitionStatus> {
        self.partitions.lock().clone()
    }
}
