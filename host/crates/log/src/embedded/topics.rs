//! Topics and their partitions in memory: a mirror of the rows in the store. Only the
//! writer changes it, after it has written the rows.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use courtside_types::{PartitionId, Topic, TopicId};
use parking_lot::{Mutex, RwLock};

use super::{
    groups::Listener,
    rows::{CleanupRow, PartitionRow, TopicRow},
};
use crate::LogError;

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

    pub fn remove(&mut self, name: &str) {
        self.by_name.remove(name);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<TopicState>> {
        self.by_name.values()
    }

    pub fn next_id(&self) -> u32 {
        let last = self.iter().map(|topic| topic.id).max();
        last.map_or(1, |id| id.saturating_add(1))
    }
}

/// A topic. A thread that still holds a deleted topic sees that, and writes nothing.
#[derive(Debug)]
pub(super) struct TopicState {
    pub name: Topic,
    pub id: u32,
    pub uid: TopicId,
    pub cleanup: RwLock<CleanupRow>,
    /// An operator has set how the topic is cleaned, and the configuration leaves it so.
    altered: AtomicBool,
    deleted: AtomicBool,
    /// The rows of the partitions, whose number only grows.
    partitions: RwLock<Vec<Mutex<PartitionRow>>>,
    /// Members that wait for its records.
    pub listeners: RwLock<Vec<Arc<Listener>>>,
}

impl TopicState {
    pub fn new(name: Topic, row: TopicRow, partitions: Vec<PartitionRow>) -> Self {
        Self {
            name,
            id: row.id,
            uid: row.uid,
            cleanup: RwLock::new(row.cleanup),
            altered: AtomicBool::new(row.altered),
            deleted: AtomicBool::new(false),
            partitions: RwLock::new(partitions.into_iter().map(Mutex::new).collect()),
            listeners: RwLock::default(),
        }
    }

    /// The topic's row, as it was written last.
    pub fn topic_row(&self) -> TopicRow {
        TopicRow {
            id: self.id,
            uid: self.uid,
            partitions: self.count(),
            cleanup: self.cleanup.read().clone(),
            altered: self.altered.load(Ordering::Acquire),
        }
    }

    /// Takes over a row that was written.
    pub fn set_topic_row(&self, row: TopicRow) {
        *self.cleanup.write() = row.cleanup;
        self.altered.store(row.altered, Ordering::Release);
        let mut partitions = self.partitions.write();
        while partitions.len() < row.partitions as usize {
            partitions.push(Mutex::default());
        }
    }

    /// Refuses a topic that was deleted.
    pub fn check_exists(&self) -> Result<(), LogError> {
        if self.deleted.load(Ordering::Acquire) {
            return Err(LogError::NoSuchTopic {
                topic: self.name.clone(),
            });
        }
        Ok(())
    }

    pub fn set_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
    }

    pub fn count(&self) -> u32 {
        u32::try_from(self.partitions.read().len()).unwrap_or(u32::MAX)
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
        let partitions = self.partitions.read();
        let row = partitions.get(partition as usize).map(|row| *row.lock());
        row.unwrap_or_default()
    }

    pub fn rows(&self) -> Vec<PartitionRow> {
        let partitions = self.partitions.read();
        partitions.iter().map(|row| *row.lock()).collect()
    }

    pub fn set_row(&self, partition: u32, row: PartitionRow) {
        if let Some(place) = self.partitions.read().get(partition as usize) {
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
