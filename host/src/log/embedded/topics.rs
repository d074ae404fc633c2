//! What is known in memory of topics and their partitions: a mirror of the
//! rows in the store, changed by the writer alone and after it wrote them.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::{Mutex, RwLock};

use super::{
    groups::Listener,
    rows::{CleanupRow, PartitionRow},
};
use crate::{
    log::LogError,
    types::{PartitionId, Topic},
};

#[derive(Debug, Default)]
pub(super) struct Topics {
    by_name: BTreeMap<Topic, Arc<TopicState>>,
}

impl Topics {
    pub fn get(&self, name: &str) -> Result<Arc<TopicState>, LogError> {
        self.by_name
            .get(name)
            .cloned()
            .ok_or_else(|| LogError::NoSuchTopic { topic: name.into() })
    }

    pub fn insert(&mut self, topic: Arc<TopicState>) {
        self.by_name.insert(topic.name.clone(), topic);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<TopicState>> {
        self.by_name.values()
    }

    pub fn next_id(&self) -> u32 {
        let last = self.iter().map(|topic| topic.id).max();
        last.map_or(1, |id| id.saturating_add(1))
    }
}

/// A topic. It is never deleted.
#[derive(Debug)]
pub(super) struct TopicState {
    pub name: Topic,
    pub id: u32,
    pub cleanup: RwLock<CleanupRow>,
    partitions: Vec<Mutex<PartitionRow>>,
    /// Members that wait for its records.
    pub listeners: RwLock<Vec<Arc<Listener>>>,
}

impl TopicState {
    pub fn new(name: Topic, id: u32, cleanup: CleanupRow, rows: Vec<PartitionRow>) -> Self {
        Self {
            name,
            id,
            cleanup: RwLock::new(cleanup),
            partitions: rows.into_iter().map(Mutex::new).collect(),
            listeners: RwLock::default(),
        }
    }

    pub fn count(&self) -> u32 {
        u32::try_from(self.partitions.len()).unwrap_or(u32::MAX)
    }

    pub fn check(&self, partition: PartitionId) -> Result<u32, LogError> {
        if partition.0 < self.count() {
            Ok(partition.0)
        } else {
            Err(LogError::NoSuchPartition {
                topic: self.name.clone(),
                partition,
            })
        }
    }

    /// A partition's row; an empty one for a partition that is not there.
    pub fn row(&self, partition: u32) -> PartitionRow {
        self.partitions
            .get(partition as usize)
            .map(|row| *row.lock())
            .unwrap_or_default()
    }

    pub fn rows(&self) -> impl Iterator<Item = PartitionRow> {
        self.partitions.iter().map(|row| *row.lock())
    }

    pub fn set_row(&self, partition: u32, row: PartitionRow) {
        if let Some(place) = self.partitions.get(partition as usize) {
            *place.lock() = row;
        }
    }

    /// Wakes the members that read these partitions.
    pub fn wake(&self, partitions: impl Iterator<Item = u32> + Clone) {
        for listener in self.listeners.read().iter() {
            if partitions.clone().any(|partition| listener.owns(partition)) {
                listener.wake();
            }
        }
    }
}
