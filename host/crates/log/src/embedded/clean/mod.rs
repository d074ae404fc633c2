//! Dropping records that are old ([retention]) or superseded ([compaction]).
//!
//! One thread cleans all partitions once per `cleanup_interval`. It reads like any
//! reader, and the writer applies its decisions in small atomic steps. Each step leaves
//! the partition readable, with every record that should stay. So a crash between two
//! steps costs only some repeated work.
//!
//! Neither retention nor compaction drops records that a reading group has not
//! committed yet.

mod compaction;
mod retention;

use std::{sync::Arc, thread::JoinHandle};

use crossbeam_channel::{RecvTimeoutError, Sender};
use fjall::UserValue;

use super::{
    Shared,
    batch::Encoded,
    now_ms,
    read::Batches,
    rows::{CleanupRow, RECORD_KEY_BYTES},
    topics::TopicState,
    write::{Clean, Request},
};
use crate::LogError;

/// About how much of a partition is read at a time.
const CHUNK_BYTES: usize = 2 << 20;

pub(super) struct Cleaner {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Cleaner {
    pub fn start(shared: &Arc<Shared>) -> std::io::Result<Self> {
        let (stop, stopped) = crossbeam_channel::bounded(1);
        let shared = Arc::clone(shared);
        let thread = std::thread::Builder::new()
            .name("log-cleaner".to_owned())
            .spawn(move || {
                let interval = shared.config.cleanup_interval;
                while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    if let Err(error) = clean_all(&shared) {
                        tracing::warn!(code = error.code(), %error, "retention and compaction of the record log failed, trying again");
                    }
                }
            })?;
        Ok(Self { stop, thread })
    }

    pub fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the thread that cleans the record log had panicked");
        }
    }
}

/// Cleans all partitions. A partition that fails does not hold up the others; the
/// first error is returned.
pub(super) fn clean_all(shared: &Shared) -> Result<(), LogError> {
    let _cleaning = shared.cleaning.lock();
    let topics: Vec<_> = shared.topics.read().iter().cloned().collect();
    let mut outcome = Ok(());
    for topic in topics {
        let cleanup = topic.cleanup.read().clone();
        for partition in 0..topic.count() {
            if shared.queue.is_closed() {
                return outcome;
            }
            let place = Place {
                shared,
                topic: &topic,
                partition,
            };
            let cleaned = match &cleanup {
                CleanupRow::Delete {
                    retention_ms,
                    retention_bytes,
                } => retention::apply(&place, *retention_ms, *retention_bytes, now_ms()),
                CleanupRow::Compact {
                    tombstone_retention_ms,
                } => {
                    let now_ms = now_ms();
                    let before_ms = now_ms.saturating_sub(*tombstone_retention_ms);
                    compaction::apply(&place, before_ms, now_ms)
                }
            };
            outcome = outcome.and(cleaned);
        }
    }
    outcome
}

/// Drops all records of a topic, even those that a group has not read. The caller
/// holds `cleaning`.
pub(super) fn empty(shared: &Shared, topic: &Arc<TopicState>) -> Result<(), LogError> {
    for partition in 0..topic.count() {
        let place = Place {
            shared,
            topic,
            partition,
        };
        loop {
            let row = topic.row(partition);
            let mut step = Step {
                start: Some(row.end),
                ..Step::default()
            };
            for (base, value) in place.chunk(row.start, row.end, CHUNK_BYTES)? {
                if step.is_large() {
                    step.start = Some(base);
                    break;
                }
                step.remove(base, stored_bytes(&value));
            }
            let more = step.remove.is_empty();
            place.apply(step)?;
            if more {
                break;
            }
        }
    }
    Ok(())
}

/// The partition that is being cleaned.
struct Place<'a> {
    shared: &'a Shared,
    topic: &'a Arc<TopicState>,
    partition: u32,
}

impl Place<'_> {
    /// The offset before which every group that reads the topic has committed all;
    /// `u64::MAX` if no group reads it. Cleaning does not wait for a group that is away
    /// longer than `group_retention`.
    fn read_up_to(&self, now_ms: u64) -> u64 {
        let since_ms = self.shared.groups_since(now_ms);
        let groups = &self.shared.groups;
        let read = groups.read_up_to(self.topic.id, self.partition, since_ms);
        read.unwrap_or(u64::MAX)
    }

    /// Batches from offset `from` to before `to`, up to about `bytes_max`; empty if
    /// there are no more.
    fn chunk(
        &self,
        from: u64,
        to: u64,
        bytes_max: usize,
    ) -> Result<Vec<(u64, UserValue)>, LogError> {
        if self.shared.queue.is_closed() {
            return Err(super::write::queue::closed());
        }
        let store = self.shared.store()?;
        let place = (self.topic.id, self.partition);
        let mut bytes = 0;
        let mut chunk = Vec::new();
        for batch in Batches::from_within(&store, place, from, to) {
            let batch = batch?;
            bytes += batch.1.len();
            chunk.push(batch);
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(chunk)
    }

    fn apply(&self, step: Step) -> Result<(), LogError> {
        self.shared.ask(|reply| {
            Request::Clean(Box::new(Clean {
                topic: Arc::clone(self.topic),
                partition: self.partition,
                remove: step.remove,
                insert: step.insert,
                removed_bytes: step.removed_bytes,
                start: step.start,
                cleaned: step.cleaned,
                reply,
            }))
        })
    }
}

/// The changes to a partition in one atomic step.
#[derive(Default)]
struct Step {
    /// First offsets of the batches to remove.
    remove: Vec<u64>,
    removed_bytes: u64,
    insert: Vec<(u64, Encoded)>,
    inserted_raw_bytes: usize,
    start: Option<u64>,
    cleaned: Option<(u64, u64)>,
}

impl Step {
    const REMOVED_MAX: usize = 512;
    const INSERTED_RAW_BYTES_MAX: usize = 2 << 20;

    fn remove(&mut self, base: u64, bytes: u64) {
        self.remove.push(base);
        self.removed_bytes += bytes;
    }

    fn insert(&mut self, base: u64, batch: Encoded) {
        self.inserted_raw_bytes += batch.head.raw_len as usize;
        self.insert.push((base, batch));
    }

    /// Whether the step would hold up appends if it grew.
    fn is_large(&self) -> bool {
        self.remove.len() >= Self::REMOVED_MAX
            || self.inserted_raw_bytes >= Self::INSERTED_RAW_BYTES_MAX
    }
}

fn stored_bytes(value: &UserValue) -> u64 {
    (RECORD_KEY_BYTES + value.len()) as u64
}
