//! Reads of any partition from any offset.
//!
//! The whole host has two consumers: one reads on where it was, for callers that
//! follow a topic; the other jumps, for callers that look something up. Each has
//! an open queue for each partition that was ever read, which holds a bounded
//! number of records ahead.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_types::{Offset, PartitionId, Record, Topic};
use parking_lot::Mutex;
use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, base_consumer::PartitionQueue},
    error::KafkaError,
    message::{BorrowedMessage, Message as _},
};
use tokio::sync::watch;

use super::{
    config::{Isolation, KafkaConfig},
    context::{PlainContext, take_end},
    convert::{self, number},
    errors::{of_partition, unavailable},
    topics::Topics,
};
use crate::{
    Bounds, LogError,
    latest::{LatestRecords, are_latest},
};

/// The `group.id` of these consumers, which join no group.
const READERS: &str = "courtside-readers";
/// KiB that are fetched ahead of each partition.
const FETCH_AHEAD_KIB: &str = "1024";
const FETCH_WAIT_MS: &str = "20";
/// Pause before the next try to jump in a partition that is not ready yet.
const JUMP_WAIT: Duration = Duration::from_millis(10);

pub(super) struct Readers {
    follow: Lane,
    jump: Lane,
    timeout: Duration,
}

struct Lane {
    consumer: Arc<BaseConsumer<PlainContext>>,
    open: Mutex<HashMap<(Topic, PartitionId), Opened>>,
    /// Channel that tells watchers of new records.
    changes: Option<watch::Sender<u64>>,
}

type Opened = Arc<Mutex<Open>>;

/// A partition with an open queue.
struct Open {
    queue: PartitionQueue<PlainContext>,
    /// The next offset to hand out.
    next: Offset,
    /// No record before this offset is still to be handed out.
    covered: Offset,
    /// A record that was taken from the queue and did not fit into the last read.
    held: Option<Record>,
}

impl Readers {
    pub fn new(config: &KafkaConfig, changes: &watch::Sender<u64>) -> Result<Self, LogError> {
        let lane = |changes| {
            let mut consumer = config.consumer(READERS, Isolation::Committed);
            consumer
                .set("enable.partition.eof", "true")
                .set("queued.max.messages.kbytes", FETCH_AHEAD_KIB)
                .set("fetch.wait.max.ms", FETCH_WAIT_MS);
            let consumer = consumer
                .create_with_context(PlainContext { reach: None })
                .map_err(unavailable)?;
            Ok(Lane {
                consumer: Arc::new(consumer),
                open: Mutex::default(),
                changes,
            })
        };
        Ok(Self {
            follow: lane(Some(changes.clone()))?,
            jump: lane(None)?,
            timeout: config.request_timeout,
        })
    }

    /// Lets go of all open partitions.
    pub fn close(&self) {
        for lane in [&self.follow, &self.jump] {
            lane.open.lock().clear();
        }
    }

    /// Committed records from `from` on. Waits for a record only where there was one at
    /// the call.
    pub fn read(
        &self,
        topics: &Topics,
        topic: &Topic,
        partition: PartitionId,
        from: Offset,
        bytes_max: usize,
    ) -> Result<Vec<Record>, LogError> {
        let end = topics.end(topic, partition)?;
        let from = from.max(topics.start(topic, partition)?);
        if from >= end {
            return Ok(Vec::new());
        }
        let place = (topic, partition);
        self.read_on_lane(place, from, |open, deadline| {
            open.read(place, end, bytes_max, deadline)
        })
    }

    /// The latest committed record of each key from `from` on, before the end of
    /// `bounds`.
    pub fn read_latest(
        &self,
        place: (&Topic, PartitionId),
        from: Offset,
        bounds: Bounds,
        bytes_max: usize,
    ) -> Result<LatestRecords, LogError> {
        let from = from.max(bounds.start);
        if from >= bounds.end {
            return Ok(LatestRecords::of(Vec::new(), bounds.end));
        }
        self.read_on_lane(place, from, |open, deadline| {
            open.read_latest(place, bounds.end, bytes_max, deadline)
        })
    }

    /// Reads where a consumer can go on at `from`, or lets one jump there.
    fn read_on_lane<T>(
        &self,
        (topic, partition): (&Topic, PartitionId),
        from: Offset,
        read: impl Fn(&mut Open, Instant) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let deadline = Instant::now() + self.timeout;
        let open = self.follow.open(topic, partition, from)?;
        let mut following = open.lock();
        if following.advance(from) {
            let outcome = read(&mut following, deadline);
            return outcome.inspect_err(|_| self.follow.close(topic, partition));
        }
        drop(following);
        let open = self.jump.open(topic, partition, from)?;
        let mut jumping = open.lock();
        if !jumping.advance(from) {
            seek(&self.jump.consumer, topic, partition, from, deadline)?;
            jumping.next = from;
            jumping.covered = from;
            jumping.held = None;
        }
        let outcome = read(&mut jumping, deadline);
        outcome.inspect_err(|_| self.jump.close(topic, partition))
    }
}

impl Lane {
    /// The open partition; one that is not open yet is opened at `from`.
    fn open(
        &self,
        topic: &Topic,
        partition: PartitionId,
        from: Offset,
    ) -> Result<Opened, LogError> {
        let mut all = self.open.lock();
        let key = (topic.clone(), partition);
        if let Some(open) = all.get(&key) {
            return Ok(Arc::clone(open));
        }
        let queue = self
            .consumer
            .split_partition_queue(topic, number(partition));
        let mut queue = queue.ok_or_else(|| LogError::NoSuchPartition {
            topic: topic.clone(),
            partition,
        })?;
        if let Some(changes) = self.changes.clone() {
            queue.set_nonempty_callback(move || {
                changes.send_modify(|ticks| *ticks = ticks.wrapping_add(1));
            });
        }
        self.consumer
            .incremental_assign(&at(topic, partition, from)?)
            .map_err(unavailable)?;
        let open = Arc::new(Mutex::new(Open {
            queue,
            next: from,
            covered: from,
            held: None,
        }));
        all.insert(key, Arc::clone(&open));
        Ok(open)
    }

    /// Closes a partition after an error, so that the next read begins anew.
    fn close(&self, topic: &Topic, partition: PartitionId) {
        let mut all = self.open.lock();
        all.remove(&(topic.clone(), partition));
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(topic, number(partition));
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            tracing::debug!(%topic, %partition, %error, "partition cannot be unassigned");
        }
    }
}

/// A list of one partition and an offset.
pub(super) fn at(
    topic: &Topic,
    partition: PartitionId,
    offset: Offset,
) -> Result<TopicPartitionList, LogError> {
    let mut list = TopicPartitionList::with_capacity(1);
    let offset = KafkaOffset::Offset(i64::try_from(offset.0).unwrap_or(i64::MAX));
    list.add_partition_offset(topic, number(partition), offset)
        .map_err(unavailable)?;
    Ok(list)
}

/// Goes on reading at `to`. Records that the consumer held are void. The seek is
/// repeated, because a partition that was assigned just now is not ready at once.
pub(super) fn seek<C: rdkafka::consumer::ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &Topic,
    partition: PartitionId,
    to: Offset,
    deadline: Instant,
) -> Result<(), LogError> {
    let offset = KafkaOffset::Offset(i64::try_from(to.0).unwrap_or(i64::MAX));
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match consumer.seek(topic, number(partition), offset, left.max(JUMP_WAIT)) {
            Ok(()) => return Ok(()),
            Err(error) if left.is_zero() => return Err(unavailable(error)),
            Err(_) => std::thread::sleep(JUMP_WAIT),
        }
    }
}

impl Open {
    /// Whether reading can go on at `from` without a seek: `from` is the next offset,
    /// or no records are in between.
    fn advance(&mut self, from: Offset) -> bool {
        if !(self.next..=self.covered.max(self.next)).contains(&from) {
            return false;
        }
        self.next = from;
        true
    }

    /// Waits only where it has no record yet; otherwise it takes those that are there.
    fn read(
        &mut self,
        place: (&Topic, PartitionId),
        end: Offset,
        bytes_max: usize,
        deadline: Instant,
    ) -> Result<Vec<Record>, LogError> {
        let mut records = Vec::new();
        let mut bytes = 0_usize;
        loop {
            let is_enough = !records.is_empty() && bytes >= bytes_max;
            if is_enough || self.covered >= end && records.is_empty() {
                return Ok(records);
            }
            let record = match self.held.take() {
                Some(record) => record,
                None => {
                    let wait = wait(records.is_empty(), deadline);
                    match poll(&self.queue, &mut self.covered, place, wait)? {
                        Some(message) => convert::record(&message),
                        None if !records.is_empty() => return Ok(records),
                        None => {
                            in_time(place, self.covered, end, deadline)?;
                            continue;
                        }
                    }
                }
            };
            if record.offset < self.next {
                continue;
            }
            let size = record.size();
            if !records.is_empty() && bytes.saturating_add(size) > bytes_max {
                self.held = Some(record);
                return Ok(records);
            }
            self.next = record.offset.next();
            self.covered = self.next.max(self.covered);
            bytes = bytes.saturating_add(size);
            records.push(record);
        }
    }

    /// Reads as [`Open::read`] does, and copies the latest record of each key alone out
    /// of the client's memory.
    fn read_latest(
        &mut self,
        place: (&Topic, PartitionId),
        end: Offset,
        bytes_max: usize,
        deadline: Instant,
    ) -> Result<LatestRecords, LogError> {
        if self.held.is_some() {
            let held = self.read(place, end, 1, deadline)?;
            return Ok(LatestRecords::of(held, end));
        }
        let mut messages: Vec<BorrowedMessage<'_>> = Vec::new();
        let mut bytes = 0_usize;
        loop {
            let is_enough = !messages.is_empty() && bytes >= bytes_max;
            if is_enough || self.covered >= end && messages.is_empty() {
                break;
            }
            let wait = wait(messages.is_empty(), deadline);
            match poll(&self.queue, &mut self.covered, place, wait)? {
                Some(message) => {
                    let offset = convert::offset(&message);
                    if offset < self.next {
                        continue;
                    }
                    self.next = offset.next();
                    self.covered = self.next.max(self.covered);
                    bytes = bytes
                        .saturating_add(message.key_len())
                        .saturating_add(message.payload_len());
                    messages.push(message);
                }
                None if !messages.is_empty() => break,
                None => in_time(place, self.covered, end, deadline)?,
            }
        }
        if messages.is_empty() {
            return Ok(LatestRecords::of(Vec::new(), end));
        }
        let keep = are_latest(messages.iter().map(|message| message.key()));
        let latest = messages.iter().zip(keep).filter(|(_, keep)| *keep);
        Ok(LatestRecords {
            records: latest
                .map(|(message, _)| convert::record(message))
                .collect(),
            next: self.next,
            read: messages.len(),
        })
    }
}

fn wait(is_empty: bool, deadline: Instant) -> Duration {
    if is_empty {
        deadline.saturating_duration_since(Instant::now())
    } else {
        Duration::ZERO
    }
}

/// The next record of a queue. An end that the consumer has reached moves `covered`.
fn poll<'q>(
    queue: &'q PartitionQueue<PlainContext>,
    covered: &mut Offset,
    (topic, partition): (&Topic, PartitionId),
    wait: Duration,
) -> Result<Option<BorrowedMessage<'q>>, LogError> {
    match queue.poll(wait) {
        Some(Ok(message)) => Ok(Some(message)),
        Some(Err(KafkaError::PartitionEOF(_))) => {
            if let Some(end) = take_end() {
                *covered = Offset(end).max(*covered);
            }
            Ok(None)
        }
        Some(Err(error)) => Err(of_partition(&error, topic, partition)),
        None => Ok(None),
    }
}

/// Refuses to wait on after the deadline.
fn in_time(
    (topic, partition): (&Topic, PartitionId),
    covered: Offset,
    end: Offset,
    deadline: Instant,
) -> Result<(), LogError> {
    if covered >= end || Instant::now() < deadline {
        return Ok(());
    }
    Err(LogError::Unavailable {
        reason: format!("{topic}/{partition} was not read to {end} within the time for a request"),
    })
}
