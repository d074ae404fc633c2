//! Encoding of records into batches, with one part for each partition. It runs on the
//! thread of the caller that appends or commits.

use std::sync::Arc;

use courtside_process::clock::now_ms;
use courtside_types::{NewRecord, TopicPartition};
use rustc_hash::FxHashMap;

use super::{
    batch::{Builder, Encoded},
    state::EmbeddedState,
    topics::TopicState,
    write::Part,
};
use crate::{COMMIT_EXTRA_BYTES, LogError};

/// Encodes records for many partitions, each partition's in the order given.
pub(super) fn encode<'a>(
    shared: &EmbeddedState,
    records: impl Iterator<Item = (&'a TopicPartition, &'a NewRecord)>,
) -> Result<Vec<Part>, LogError> {
    let mut parts: Vec<PartBuilder> = Vec::new();
    let mut places: FxHashMap<&TopicPartition, usize> = FxHashMap::default();
    for (place, record) in records {
        let index = match places.get(place) {
            Some(index) => *index,
            None => {
                let topic = shared.topics.read().get(&place.topic)?;
                let partition = topic.check(place.partition)?;
                parts.push(PartBuilder::new(topic, partition));
                places.insert(place, parts.len() - 1);
                parts.len() - 1
            }
        };
        if let Some(part) = parts.get_mut(index) {
            part.push(shared, record)?;
        }
    }
    Ok(parts.into_iter().map(PartBuilder::finish).collect())
}

/// Cuts the records of a partition into batches.
pub(super) struct PartBuilder {
    topic: Arc<TopicState>,
    partition: u32,
    batches: Vec<Encoded>,
    open: Builder,
}

impl PartBuilder {
    pub fn new(topic: Arc<TopicState>, partition: u32) -> Self {
        Self {
            topic,
            partition,
            batches: Vec::new(),
            open: Builder::dense().appended_at(now_ms()),
        }
    }

    pub fn partition(&self) -> u32 {
        self.partition
    }

    pub fn push(&mut self, shared: &EmbeddedState, record: &NewRecord) -> Result<(), LogError> {
        let size = check_size(record, shared.record_bytes_max() + COMMIT_EXTRA_BYTES)?;
        if self.open.is_full_for(size) {
            let next = Builder::dense().appended_at(now_ms());
            let full = std::mem::replace(&mut self.open, next);
            self.batches.push(full.seal());
        }
        self.open.push(
            record.timestamp_ms,
            record.key.as_ref(),
            &record.headers,
            record.value.as_ref(),
        );
        Ok(())
    }

    pub fn finish(mut self) -> Part {
        if self.open.count() > 0 {
            self.batches.push(self.open.seal());
        }
        Part {
            topic: self.topic,
            partition: self.partition,
            batches: self.batches,
        }
    }
}

/// A record's size, which must be within the limit.
pub(super) fn check_size(record: &NewRecord, limit_bytes: usize) -> Result<usize, LogError> {
    let size_bytes = record.size();
    if size_bytes > limit_bytes {
        return Err(LogError::TooLarge {
            size_bytes,
            limit_bytes,
        });
    }
    Ok(size_bytes)
}
