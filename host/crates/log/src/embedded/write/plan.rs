//! Makes one atomic batch of the store of several requests, and gives the offsets.
//!
//! A plan changes nothing in memory until it is written; one that fails is
//! dropped.

use std::{collections::HashMap, sync::Arc};

use super::{CheckpointRow, CommitRequest, OffsetMove, Part, check_topics};
use crate::{
    LogError,
    embedded::{
        batch::{self, Encoded},
        groups::GroupKey,
        rows::{self, OffsetRow, PartitionRow},
        state::EmbeddedState,
        store::{Store, batch::Batch, read_error},
        topics::TopicState,
    },
};

/// Batches of several requests are joined while their records are shorter than this,
/// so that many small appends are read back as few batches.
const JOIN_BYTES_MAX: u32 = 64 << 10;

pub(super) struct Plan<'a> {
    shared: &'a EmbeddedState,
    store: &'a Store,
    batch: Batch<'a>,
    partitions: HashMap<(u32, u32), Planned>,
    offsets: HashMap<(GroupKey, u32), OffsetRow>,
    now_ms: u64,
}

struct Planned {
    topic: Arc<TopicState>,
    partition: u32,
    row: PartitionRow,
    /// Batches to be joined, the first offset of the first, and their length.
    small: Vec<Encoded>,
    small_base: u64,
    small_len: u32,
}

/// The outcome of planning a commit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Planning {
    /// The commit is part of the plan.
    Planned,
    /// The commit is in the store already.
    Happened,
}

/// The changes in memory that follow from a written plan.
pub(super) struct Written {
    partitions: Vec<(Arc<TopicState>, u32, PartitionRow)>,
    offsets: HashMap<(GroupKey, u32), OffsetRow>,
}

impl<'a> Plan<'a> {
    pub fn new(shared: &'a EmbeddedState, store: &'a Store, now_ms: u64) -> Self {
        Self {
            shared,
            store,
            batch: store.batch(),
            partitions: HashMap::new(),
            offsets: HashMap::new(),
            now_ms,
        }
    }

    /// Appends batches to a partition, and returns the first record's offset.
    pub fn append(&mut self, part: Part) -> u64 {
        let Part {
            topic,
            partition,
            batches,
        } = part;
        let planned = self
            .partitions
            .entry((topic.id, partition))
            .or_insert_with(|| Planned {
                row: topic.row(partition),
                topic,
                partition,
                small: Vec::new(),
                small_base: 0,
                small_len: 0,
            });
        let first = planned.row.end;
        for batch in batches {
            let count = u64::from(batch.head.count);
            let joinable = batch.is_joinable();
            let len = batch.head.raw_len;
            if !joinable || planned.small_len.saturating_add(len) > JOIN_BYTES_MAX {
                planned.close_small(self.store, &mut self.batch);
            }
            if joinable && len <= JOIN_BYTES_MAX {
                if planned.small.is_empty() {
                    planned.small_base = planned.row.end;
                }
                planned.small_len += len;
                planned.small.push(batch);
            } else {
                planned.insert(self.store, &mut self.batch, planned.row.end, batch);
            }
            planned.row.end += count;
        }
        first
    }

    /// Adds a commit to the plan, unless its member is fenced or its offsets do not
    /// move from the committed ones.
    pub fn commit(&mut self, request: &mut CommitRequest) -> Result<Planning, LogError> {
        if request.member.is_fenced() {
            return Err(LogError::Fenced {
                reason: format!("another member took over worker {}", request.member.worker),
            });
        }
        check_topics(&request.parts)?;
        let stored = |offset: &OffsetMove| {
            let key = (request.group.clone(), offset.partition);
            let planned = self.offsets.get(&key).map(|row| row.offset);
            planned.or_else(|| self.shared.groups.committed(&key.0, offset.partition))
        };
        let moved = request
            .offsets
            .iter()
            .find(|offset| stored(offset) != offset.from);
        if let Some(offset) = moved {
            if request
                .offsets
                .iter()
                .all(|offset| stored(offset) == Some(offset.to))
            {
                return Ok(Planning::Happened);
            }
            return Err(LogError::Fenced {
                reason: format!(
                    "partition {} was committed up to {:?}, not {:?}",
                    offset.partition,
                    stored(offset),
                    offset.from,
                ),
            });
        }
        if request.repeats_its_offsets() && self.has(&request.checkpoints)? {
            return Ok(Planning::Happened);
        }
        for part in request.parts.drain(..) {
            self.append(part);
        }
        for (key, value) in request.checkpoints.drain(..) {
            match value {
                Some(value) => self.batch.insert(&self.store.checkpoints, key, value),
                None => self.batch.remove(&self.store.checkpoints, key),
            }
        }
        for offset in &request.offsets {
            let row = OffsetRow {
                offset: offset.to,
                at_ms: self.now_ms,
            };
            self.offsets
                .insert((request.group.clone(), offset.partition), row);
        }
        Ok(Planning::Planned)
    }

    /// Whether the store has the checkpoints as a commit would leave them. A commit that
    /// moves no offset is recognized by its checkpoints, of which it changes some.
    fn has(&self, checkpoints: &[CheckpointRow]) -> Result<bool, LogError> {
        for (key, value) in checkpoints {
            let stored = self.store.checkpoints.get(key).map_err(read_error)?;
            if stored != *value {
                return Ok(false);
            }
        }
        Ok(!checkpoints.is_empty())
    }

    /// Writes the plan durably.
    pub fn write(mut self) -> Result<Written, fjall::Error> {
        let mut partitions = Vec::with_capacity(self.partitions.len());
        for (_, mut planned) in self.partitions {
            planned.close_small(self.store, &mut self.batch);
            let key = rows::partition_key(planned.topic.id, planned.partition);
            self.batch
                .insert(&self.store.meta, key, planned.row.to_bytes());
            partitions.push((planned.topic, planned.partition, planned.row));
        }
        for ((group, partition), row) in &self.offsets {
            let key = rows::offset_key(&group.group, group.topic, *partition);
            self.batch.insert(&self.store.meta, key, row.to_bytes());
        }
        self.batch.commit()?;
        Ok(Written {
            partitions,
            offsets: self.offsets,
        })
    }
}

impl Planned {
    fn insert(&mut self, store: &Store, to: &mut Batch<'_>, base: u64, batch: Encoded) {
        let bytes = batch.stored_bytes();
        self.row.bytes += bytes;
        self.row.dirty_bytes += bytes;
        let key = rows::record_key(self.topic.id, self.partition, base);
        to.insert(&store.records, key, batch.value);
    }

    fn close_small(&mut self, store: &Store, to: &mut Batch<'_>) {
        let mut small = std::mem::take(&mut self.small);
        self.small_len = 0;
        let batch = match small.len() {
            0 | 1 => small.pop(),
            _ => Some(batch::join(&small)),
        };
        if let Some(batch) = batch {
            self.insert(store, to, self.small_base, batch);
        }
    }
}

impl Written {
    /// Makes the changes visible, and wakes the members that wait for them.
    pub fn publish(self, shared: &EmbeddedState) {
        for ((group, partition), row) in &self.offsets {
            shared.groups.set_committed(group, *partition, *row);
        }
        let mut topics: HashMap<u32, (Arc<TopicState>, Vec<u32>)> = HashMap::new();
        for (topic, partition, row) in self.partitions {
            topic.set_row(partition, row);
            let id = topic.id;
            topics
                .entry(id)
                .or_insert_with(|| (topic, Vec::new()))
                .1
                .push(partition);
        }
        for (topic, partitions) in topics.values() {
            topic.wake(partitions.iter().copied());
        }
        shared.tick();
    }
}
