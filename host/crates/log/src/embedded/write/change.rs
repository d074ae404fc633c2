//! An operator's changes of topics: one atomic batch for each change.

use std::sync::Arc;

use courtside_types::{Topic, TopicId};

use super::{Change, queue::closed, writer::Writer};
use crate::{
    LogError,
    embedded::{
        catalog,
        rows::{self, TopicRow},
        topics::TopicState,
    },
};

impl Writer {
    pub(super) fn change(&mut self, name: &Topic, change: &Change) -> Result<(), LogError> {
        let known = self.shared.topics.read().get(name);
        let row = match (change, &known) {
            (Change::Create { .. }, Ok(_)) => {
                return Err(LogError::TopicExists {
                    topic: name.clone(),
                });
            }
            (
                Change::Create {
                    partitions,
                    cleanup,
                    altered,
                },
                Err(_),
            ) => TopicRow {
                id: self.shared.topics.read().next_id(),
                uid: TopicId::random(),
                partitions: *partitions,
                cleanup: cleanup.clone(),
                altered: *altered,
            },
            (
                Change::Alter {
                    partitions,
                    cleanup,
                    altered,
                },
                Ok(topic),
            ) => TopicRow {
                id: topic.id,
                uid: topic.uid,
                partitions: topic.count().max(*partitions),
                cleanup: cleanup.clone(),
                altered: *altered,
            },
            (Change::Delete, Ok(topic)) => return self.delete(topic),
            (Change::Alter { .. } | Change::Delete, Err(error)) => return Err(error.clone()),
        };
        self.check_writable(0, self.shared.config.disk_free_min.as_u64())?;
        let shared = Arc::clone(&self.shared);
        let guard = shared.store.read();
        let store = guard.as_ref().ok_or_else(closed)?;
        let mut batch = store.batch();
        let bytes = catalog::encode_topic(&row)?;
        batch.insert(&store.meta, rows::topic_key(name), bytes);
        let written = batch.commit();
        drop(guard);
        written.map_err(|error| self.failed(&error))?;
        catalog::apply_topics(&shared, vec![(name.clone(), row)]);
        Ok(())
    }

    /// The last step of a deletion. No row with the topic's id is left, so that another
    /// topic may have the id.
    fn delete(&mut self, topic: &Arc<TopicState>) -> Result<(), LogError> {
        // A client appended to the topic after its records were dropped.
        if topic.rows().iter().any(|row| row.start != row.end) {
            return Err(LogError::Busy);
        }
        self.check_writable(0, 0)?;
        let shared = Arc::clone(&self.shared);
        let guard = shared.store.read();
        let store = guard.as_ref().ok_or_else(closed)?;
        let mut batch = store.batch();
        batch.remove(&store.meta, rows::topic_key(&topic.name));
        for partition in 0..topic.count() {
            batch.remove(&store.meta, rows::partition_key(topic.id, partition));
        }
        for (group, _) in shared.groups.all() {
            if group.topic != topic.id {
                continue;
            }
            for partition in shared.groups.all_committed(&group).into_keys() {
                let key = rows::offset_key(&group.group, group.topic, partition);
                batch.remove(&store.meta, key);
            }
        }
        let written = batch.commit();
        drop(guard);
        written.map_err(|error| self.failed(&error))?;
        topic.set_deleted();
        shared.topics.write().remove(&topic.name);
        shared.groups.forget(topic.id);
        Ok(())
    }
}
