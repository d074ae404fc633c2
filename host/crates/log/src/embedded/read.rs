//! Reading records: from an offset on, batch by batch.

use std::{iter::Peekable, sync::Arc};

use courtside_types::{Offset, Record};
use fjall::{Readable as _, Snapshot, UserValue};

use super::{
    batch::{Batch, Damage, Head, Records},
    rows::{record_key, record_key_offset},
    store::{Store, read_error},
    topics::TopicState,
};
use crate::LogError;

/// A place in a partition, with the records left of its open batch.
#[derive(Debug)]
pub(super) struct Cursor {
    topic: Arc<TopicState>,
    partition: u32,
    position: u64,
    open: Option<Peekable<Records>>,
}

impl Cursor {
    pub fn new(topic: Arc<TopicState>, partition: u32, position: u64) -> Self {
        Self {
            topic,
            partition,
            position,
            open: None,
        }
    }

    pub fn partition(&self) -> u32 {
        self.partition
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn seek(&mut self, position: u64) {
        self.position = position;
        self.open = None;
    }

    /// Whether there is something to read.
    pub fn lags(&self) -> bool {
        self.position < self.topic.row(self.partition).end
    }

    /// Reads committed records: one at least, if there is one, then up to
    /// `bytes_max`.
    pub fn read(&mut self, store: &Store, bytes_max: usize) -> Result<Vec<Record>, LogError> {
        let mut records = Vec::new();
        let row = self.topic.row(self.partition);
        self.position = self.position.max(row.start);
        let mut bytes = 0;
        let mut batches: Option<Batches> = None;
        while self.position < row.end {
            let Some(open) = &mut self.open else {
                let batches = batches.get_or_insert_with(|| {
                    let place = (self.topic.id, self.partition);
                    Batches::from_within(store, place, self.position, row.end)
                });
                match batches.next() {
                    None => self.position = row.end,
                    Some(Err(error)) => return self.stop(records, error),
                    Some(Ok((base, value))) => match Batch::parse(base, value) {
                        Ok(batch) => self.open = Some(batch.records().peekable()),
                        Err(damage) => {
                            let error = damaged(&self.topic, self.partition, base, damage);
                            return self.stop(records, error);
                        }
                    },
                }
                continue;
            };
            match open.peek() {
                None => self.open = None,
                Some(Err(damage)) => {
                    let error = damaged(&self.topic, self.partition, self.position, *damage);
                    self.open = None;
                    return self.stop(records, error);
                }
                Some(Ok(record)) => {
                    let size = record.size();
                    if !records.is_empty() && bytes + size > bytes_max {
                        break;
                    }
                    if let Some(Ok(record)) = open.next()
                        && record.offset.0 >= self.position
                    {
                        self.position = record.offset.0.saturating_add(1);
                        bytes += size;
                        records.push(record);
                    }
                }
            }
        }
        Ok(records)
    }

    /// Returns the records read before an error first. The next read meets the error again.
    fn stop(&mut self, records: Vec<Record>, error: LogError) -> Result<Vec<Record>, LogError> {
        if records.is_empty() {
            Err(error)
        } else {
            Ok(records)
        }
    }
}

pub(super) fn damaged(topic: &TopicState, partition: u32, offset: u64, damage: Damage) -> LogError {
    let at = courtside_types::Position {
        topic: topic.name.clone(),
        partition: courtside_types::PartitionId(partition),
        offset: Offset(offset),
    };
    LogError::Corrupt {
        reason: format!("the batch at {at}: {damage}"),
    }
}

/// A partition's batches, in offset order, with the first offset of each.
pub(super) struct Batches {
    first: Option<Result<(u64, UserValue), LogError>>,
    rest: fjall::Iter,
}

impl Batches {
    /// Batches of `place` (topic id and partition) from the one that has
    /// offset `from`, or the next there is, to the one before offset `to`.
    pub fn from_within(store: &Store, place: (u32, u32), from: u64, to: u64) -> Self {
        let key = |offset| record_key(place.0, place.1, offset);
        let snapshot = store.snapshot();
        let first = within(store, &snapshot, place, from).transpose();
        let rest = snapshot.range(&store.records, key(from)..key(to.max(from)));
        Self { first, rest }
    }
}

/// The batch that has an offset, unless the offset is its first.
fn within(
    store: &Store,
    snapshot: &Snapshot,
    (topic, partition): (u32, u32),
    offset: u64,
) -> Result<Option<(u64, UserValue)>, LogError> {
    let keys = record_key(topic, partition, 0)..=record_key(topic, partition, offset);
    let Some(found) = snapshot.range(&store.records, keys).next_back() else {
        return Ok(None);
    };
    let (base, value) = entry(found)?;
    if base == offset {
        return Ok(None);
    }
    match Head::parse(&value) {
        Ok(head) if base.saturating_add(head.last_delta.into()) < offset => Ok(None),
        // The caller finds the damage when it parses the batch.
        _ => Ok(Some((base, value))),
    }
}

fn entry(guard: fjall::Guard) -> Result<(u64, UserValue), LogError> {
    let (key, value) = guard.into_inner().map_err(read_error)?;
    let base = record_key_offset(&key).ok_or_else(|| LogError::Corrupt {
        reason: "a key of the records".to_owned(),
    })?;
    Ok((base, value))
}

impl Iterator for Batches {
    type Item = Result<(u64, UserValue), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.first.take().or_else(|| self.rest.next().map(entry))
    }
}
