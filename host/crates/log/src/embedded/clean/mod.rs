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
mod step;

use std::{sync::Arc, thread::JoinHandle};

use courtside_process::clock::now_ms;
use crossbeam_channel::{RecvTimeoutError, Sender};

use self::step::{CHUNK_BYTES, PartitionCleaner, Step, stored_bytes};
use super::{rows::CleanupRow, state::EmbeddedState, topics::TopicState};
use crate::LogError;

pub(super) struct Cleaner {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Cleaner {
    pub fn start(shared: &Arc<EmbeddedState>) -> std::io::Result<Self> {
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
pub(super) fn clean_all(shared: &EmbeddedState) -> Result<(), LogError> {
    let _cleaning = shared.cleaning.lock();
    let topics: Vec<_> = shared.topics.read().iter().cloned().collect();
    let mut outcome = Ok(());
    for topic in topics {
        let cleanup = topic.cleanup.read().clone();
        for partition in 0..topic.count() {
            if shared.queue.is_closed() {
                return outcome;
            }
            let cleaner = PartitionCleaner {
                shared,
                topic: &topic,
                partition,
            };
            let cleaned = match &cleanup {
                CleanupRow::Delete {
                    retention_ms,
                    retention_bytes,
                } => retention::apply(&cleaner, *retention_ms, *retention_bytes, now_ms()),
                CleanupRow::Compact {
                    tombstone_retention_ms,
                } => {
                    let now_ms = now_ms();
                    let before_ms = now_ms.saturating_sub(*tombstone_retention_ms);
                    compaction::apply(&cleaner, before_ms, now_ms)
                }
            };
            outcome = outcome.and(cleaned);
        }
    }
    outcome
}

/// Drops all records of a topic, even those that a group has not read. The caller
/// holds `cleaning`.
pub(super) fn empty(shared: &EmbeddedState, topic: &Arc<TopicState>) -> Result<(), LogError> {
    for partition in 0..topic.count() {
        let cleaner = PartitionCleaner {
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
            for (base, value) in cleaner.chunk(row.start, row.end, CHUNK_BYTES)? {
                if step.is_large() {
                    step.start = Some(base);
                    break;
                }
                step.remove(base, stored_bytes(&value));
            }
            let more = step.remove.is_empty();
            cleaner.apply(step)?;
            if more {
                break;
            }
        }
    }
    Ok(())
}
