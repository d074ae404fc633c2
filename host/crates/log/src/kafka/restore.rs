//! Restoring what a member needs before it may process a partition: the offset to go
//! on from, and the checkpoints.
//!
//! The order matters. The restorer reads the committed offset first: the brokers
//! withhold it while a transaction that moves it is open. Next it asks for the end of
//! the checkpoints, including those of open transactions, and waits until these
//! transactions are over. Only then it reads the committed checkpoints up to that end.
//! So no checkpoint is older than the offset. The restorer has a thread of its own, so
//! that the member's other partitions go on meanwhile.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use courtside_types::{Offset, PartitionId, Topic};
use crossbeam_channel::{Receiver, Sender};
use rdkafka::{
    Message as _, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    checkpoints::{Claim, Row, checkpoints_topic},
    config::Isolation,
    context::{Membership, PlainContext, take_end},
    convert::{self, number},
    errors::{closed, is_denial, unavailable, without},
    state::KafkaState,
};
use crate::{Bounds, GroupName, GroupSpec, LogError};

/// Wait after a denial: an operator must grant something first.
const DENIED_WAIT: Duration = Duration::from_secs(1);
const RETRY_WAIT: Duration = Duration::from_millis(100);
/// How often the restorer looks whether open transactions are over.
const OPEN_WAIT: Duration = Duration::from_millis(20);
/// How long a poll may keep the restorer from noticing that it must stop.
const POLL: Duration = Duration::from_millis(100);
/// Checkpoints written at a time.
const ROWS_MAX: usize = 1000;
/// KiB that are fetched ahead of each partition of the checkpoints.
const FETCH_AHEAD_KIB: &str = "4096";

/// A partition to restore; the claim tells one assignment from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RestoreRequest {
    pub partition: PartitionId,
    pub claim: Claim,
}

/// A partition that is restored.
#[derive(Debug)]
pub(super) struct Restored {
    pub wanted: RestoreRequest,
    pub committed: Option<Offset>,
    pub bounds: Bounds,
}

pub(super) struct Restorer {
    wanted: Option<Sender<Vec<RestoreRequest>>>,
    restored: Receiver<Restored>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Restorer {
    pub fn start(
        shared: &Arc<KafkaState>,
        consumer: &Arc<BaseConsumer<Membership>>,
        spec: &GroupSpec,
    ) -> Result<Self, LogError> {
        let (wanted, inbox) = crossbeam_channel::unbounded();
        let (outbox, restored) = crossbeam_channel::unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let work = Work {
            shared: Arc::clone(shared),
            consumer: Arc::clone(consumer),
            group: spec.group.clone(),
            input: spec.input.clone(),
            checkpoints: checkpoints_topic(&spec.group),
            has_checkpoints: !spec.visits,
            stop: Arc::clone(&stop),
            outbox,
        };
        let thread = std::thread::Builder::new()
            .name("restore".to_owned())
            .spawn(move || work.run(&inbox))
            .map_err(|error| LogError::Unavailable {
                reason: format!("no thread to restore checkpoints: {error}"),
            })?;
        Ok(Self {
            wanted: Some(wanted),
            restored,
            stop,
            thread: Some(thread),
        })
    }

    pub fn restore(&self, wanted: Vec<RestoreRequest>) {
        if let Some(inbox) = &self.wanted
            && !wanted.is_empty()
        {
            // The send succeeds: the thread ends only with this restorer.
            drop(inbox.send(wanted));
        }
    }

    pub fn next(&self) -> Option<Restored> {
        self.restored.try_recv().ok()
    }
}

impl Drop for Restorer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wanted.take();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread that restores checkpoints had panicked");
        }
    }
}

struct Work {
    shared: Arc<KafkaState>,
    consumer: Arc<BaseConsumer<Membership>>,
    group: GroupName,
    input: Topic,
    checkpoints: Topic,
    has_checkpoints: bool,
    stop: Arc<AtomicBool>,
    outbox: Sender<Restored>,
}

impl Work {
    fn run(&self, inbox: &Receiver<Vec<RestoreRequest>>) {
        while let Ok(wanted) = inbox.recv() {
            while !self.is_stopped() {
                match self.restore(&wanted) {
                    Ok(()) => break,
                    Err(LogError::Denied { reason }) => {
                        self.consumer.context().deny(&reason);
                        std::thread::sleep(DENIED_WAIT);
                    }
                    Err(error) => {
                        tracing::warn!(group = %self.group, code = error.code(), %error, "restore of checkpoints failed, trying again");
                        std::thread::sleep(RETRY_WAIT);
                    }
                }
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn restore(&self, wanted: &[RestoreRequest]) -> Result<(), LogError> {
        let partitions: Vec<_> = wanted.iter().map(|wanted| wanted.partition).collect();
        let committed = self.committed(&partitions)?;
        let topics = &self.shared.topics;
        let starts = topics.starts_now(&self.input, &partitions)?;
        let ends = topics.ends(&self.shared.uncommitted, &self.input, &partitions)?;
        if self.has_checkpoints {
            self.restore_checkpoints(wanted, &partitions)?;
        }
        for (((wanted, committed), start), end) in
            wanted.iter().zip(committed).zip(starts).zip(ends)
        {
            let restored = Restored {
                wanted: *wanted,
                committed,
                bounds: Bounds {
                    start,
                    end: end.max(start),
                },
            };
            drop(self.outbox.send(restored));
        }
        self.consumer.context().signal.raise();
        Ok(())
    }

    fn committed(&self, partitions: &[PartitionId]) -> Result<Vec<Option<Offset>>, LogError> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.input, number(*partition));
        }
        let found = self
            .consumer
            .committed_offsets(list, self.shared.config.request_timeout)
            .map_err(|error| without(|| format!("Read on group {}", self.group), error))?;
        let of = |partition: &PartitionId| {
            let Some(element) = found.find_partition(&self.input, number(*partition)) else {
                return Ok(None);
            };
            element.error().map_err(unavailable)?;
            Ok(match element.offset() {
                KafkaOffset::Offset(offset) => u64::try_from(offset).ok().map(Offset),
                _ => None,
            })
        };
        partitions.iter().map(of).collect()
    }

    fn restore_checkpoints(
        &self,
        wanted: &[RestoreRequest],
        partitions: &[PartitionId],
    ) -> Result<(), LogError> {
        let topics = &self.shared.topics;
        let uncommitted = topics.ends(&self.shared.uncommitted, &self.checkpoints, partitions)?;
        self.await_open(partitions, &uncommitted)?;
        let mut held = Vec::with_capacity(wanted.len());
        for (wanted, end) in wanted.iter().zip(uncommitted) {
            let store = &self.shared.store;
            // A partition that another assignment has claimed by now is left to it.
            if store.clear(&self.group, wanted.partition, wanted.claim)? && end.0 > 0 {
                held.push((*wanted, end));
            }
        }
        self.read(&held)
    }

    /// Waits until transactions that were open before the ends `uncommitted` are
    /// committed or aborted.
    fn await_open(
        &self,
        partitions: &[PartitionId],
        uncommitted: &[Offset],
    ) -> Result<(), LogError> {
        loop {
            let topics = &self.shared.topics;
            let stable = topics.ends(&self.shared.committed, &self.checkpoints, partitions)?;
            if stable
                .iter()
                .zip(uncommitted)
                .all(|(stable, end)| stable >= end)
            {
                return Ok(());
            }
            if self.is_stopped() {
                return Err(closed());
            }
            std::thread::sleep(OPEN_WAIT);
        }
    }

    /// Reads partitions of the checkpoints to these ends at least: a new leader may
    /// for a moment know of an earlier end.
    fn read(&self, wanted: &[(RestoreRequest, Offset)]) -> Result<(), LogError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let mut config = self
            .shared
            .config
            .consumer(&self.group, Isolation::Committed);
        config
            .set("enable.partition.eof", "true")
            .set("queued.max.messages.kbytes", FETCH_AHEAD_KIB);
        let reader: BaseConsumer<PlainContext> = config
            .create_with_context(PlainContext { reach: None })
            .map_err(unavailable)?;
        let mut list = TopicPartitionList::with_capacity(wanted.len());
        for (wanted, _) in wanted {
            list.add_partition_offset(
                &self.checkpoints,
                number(wanted.partition),
                KafkaOffset::Beginning,
            )
            .map_err(unavailable)?;
        }
        reader.assign(&list).map_err(unavailable)?;
        let claim = |partition| {
            let mut wanted = wanted.iter().map(|(wanted, _)| wanted);
            let found = wanted.find(|wanted| wanted.partition == partition);
            found.map(|wanted| wanted.claim)
        };
        let mut left: BTreeMap<i32, Offset> = wanted
            .iter()
            .map(|(wanted, end)| (number(wanted.partition), *end))
            .collect();
        let mut rows: Vec<Row> = Vec::new();
        while !left.is_empty() {
            match reader.poll(POLL) {
                Some(Ok(message)) => {
                    let partition = u32::try_from(message.partition()).unwrap_or_default();
                    let record = convert::record(&message);
                    if let Some(key) = record.key {
                        rows.push((PartitionId(partition), key, record.value));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    let end = take_end().map(Offset);
                    if end >= left.get(&partition).copied() {
                        left.remove(&partition);
                    }
                }
                // The client does not read on after these errors.
                Some(Err(error)) if is_final(&error) => return Err(unavailable(error)),
                Some(Err(error)) if is_denial(&error) => {
                    let needs = || format!("Read on topic {}", self.checkpoints);
                    return Err(without(needs, error));
                }
                Some(Err(error)) => {
                    tracing::debug!(group = %self.group, %error, "error while reading checkpoints");
                }
                None if self.is_stopped() => return Err(closed()),
                None => {}
            }
            if rows.len() >= ROWS_MAX || left.is_empty() {
                self.shared.store.put(&self.group, &rows, claim)?;
                rows.clear();
            }
        }
        Ok(())
    }
}

fn is_final(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
        )
    )
}
