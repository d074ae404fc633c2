//! A worker's membership in a group.
//!
//! Each partition has its own queue, so that partitions are read by turns, and
//! a paused one is simply not read: what was fetched ahead of it stays.
//!
//! A partition that is assigned is restored first (see [`super::restore`]), and
//! then told. One that is to go is told, stays until it is released, and can
//! be committed for until then.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, RebalanceProtocol, base_consumer::PartitionQueue},
    error::RDKafkaErrorCode,
};

use super::{
    Shared,
    config::Isolation,
    context::{Membership, Rebalance, assign, unassign},
    convert::{self, number},
    errors::{closed, unavailable},
    reader::{at, seek},
    restore::{Restored, Restorer, Wanted},
    transactions::{Contents, Failure, Transactions},
};
use crate::{
    log::{
        Assignment, COMMIT_EXTRA_BYTES, Commit, Fetched, GroupName, GroupSpec, KEY_BYTES_MAX,
        LogError, Member, Polled,
    },
    types::{NewRecord, Offset, PartitionId, Record, Topic, TopicPartition},
};

/// As long as a poll may wait that is to wait for ever.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How long a poll waits before it looks after the group again.
const LOOK: Duration = Duration::from_millis(100);
/// How long a partition that stopped may take to go on elsewhere by itself.
const STOPPED_SEEK: Duration = Duration::from_millis(200);
/// Events of the group that are taken at a time.
const EVENTS_MAX: usize = 64;
/// How often nothing must come to be the end: a line for the log comes as nothing.
const NOTHING_MAX: usize = 8;

/// See [`Member`]. It belongs to one thread.
pub(super) struct KafkaMember {
    shared: Arc<Shared>,
    group: GroupName,
    topic: Topic,
    checkpoints: Topic,
    worker: u32,
    consumer: Arc<BaseConsumer<Membership>>,
    restorer: Restorer,
    transactions: Transactions,
    tasks: Vec<Task>,
    next_ticket: u64,
    /// What the next polls tell.
    told: VecDeque<Polled>,
    /// Another member has the identity, and it was told.
    is_out: bool,
    /// The task to read first at the next poll.
    turn: usize,
    committed_at: Option<Instant>,
    read_since_commit: bool,
}

struct Task {
    partition: PartitionId,
    queue: PartitionQueue<Membership>,
    /// Of the next record.
    next: Offset,
    phase: Phase,
    paused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Restoring {
        ticket: u64,
    },
    Reading,
    /// Its error was told (or is about to be).
    Stopped,
}

impl KafkaMember {
    pub fn join(shared: &Arc<Shared>, spec: &GroupSpec) -> Result<Self, LogError> {
        let invalid = |reason: &str| LogError::Invalid {
            what: format!("group {:?}", &*spec.group),
            reason: reason.to_owned(),
        };
        super::topics::check_name(&spec.group).map_err(invalid)?;
        if spec.worker >= spec.workers {
            return Err(invalid("a worker's number is not below their count"));
        }
        let config = &shared.config;
        let ms = |time: Duration| time.as_millis().to_string();
        let mut consumer = config.consumer(&spec.group, Isolation::Committed);
        consumer
            .set("session.timeout.ms", ms(config.session_timeout))
            .set("heartbeat.interval.ms", ms(config.heartbeat_interval));
        if !config
            .properties
            .contains_key("partition.assignment.strategy")
        {
            consumer.set("partition.assignment.strategy", "cooperative-sticky");
        }
        if config.static_membership {
            let instance = format!("{}.{}", shared.instance, spec.worker);
            consumer.set("group.instance.id", instance);
        }
        let needs = format!("Read on group {} and on topic {}", spec.group, spec.input);
        let membership = Membership::new(Arc::clone(&shared.reach), needs);
        let signal = Arc::clone(&membership.signal);
        let mut consumer: BaseConsumer<Membership> = consumer
            .create_with_context(membership)
            .map_err(unavailable)?;
        consumer.set_nonempty_callback(move || signal.raise());
        let consumer = Arc::new(consumer);
        let restorer = Restorer::start(shared, &consumer, &spec.group, &spec.input)?;
        let id = format!("{}.{}.{}", spec.group, shared.instance, spec.worker);
        let mut transactions = Transactions::new(config, id, shared.record_bytes_max);
        // What a predecessor left open would keep the checkpoints from being
        // restored until it times out.
        transactions.ready()?;
        consumer.subscribe(&[&spec.input]).map_err(unavailable)?;
        Ok(Self {
            shared: Arc::clone(shared),
            group: spec.group.clone(),
            topic: spec.input.clone(),
            checkpoints: super::checkpoints_topic(&spec.group),
            worker: spec.worker,
            consumer,
            restorer,
            transactions,
            tasks: Vec::new(),
            next_ticket: 0,
            told: VecDeque::new(),
            is_out: false,
            turn: 0,
            committed_at: None,
            read_since_commit: false,
        })
    }

    /// Takes what the group has to say. True where there was something.
    fn look_after_group(&mut self) -> bool {
        let mut nothing = 0;
        for _ in 0..EVENTS_MAX {
            match self.consumer.poll(Duration::ZERO) {
                // Every partition has its own queue; one that came this way all
                // the same is read again by it.
                Some(Ok(message)) => {
                    let partition = u32::try_from(message.partition()).unwrap_or_default();
                    drop(message);
                    self.reread(PartitionId(partition));
                }
                Some(Err(error)) => {
                    tracing::debug!(group = %self.group, worker = self.worker, %error, "consumer error");
                }
                None if nothing < NOTHING_MAX => nothing += 1,
                None => break,
            }
        }
        let mut any = false;
        while let Some(rebalance) = self.consumer.context().next_rebalance() {
            any = true;
            match rebalance {
                Rebalance::Assigned(partitions) => self.take_over(&partitions),
                Rebalance::Revoked(partitions) => self.revoke(partitions),
                Rebalance::Lost(partitions) => {
                    self.let_go(&partitions);
                    self.lose(&partitions);
                }
            }
        }
        if !self.is_out && self.is_fenced() {
            any = true;
            self.is_out = true;
            let all: Vec<_> = self.tasks.iter().map(|task| task.partition).collect();
            self.lose(&all);
        }
        any
    }

    fn is_fenced(&self) -> bool {
        self.consumer.client().fatal_error().is_some()
    }

    /// Assigned: read from where the restorer will tell. Until then nothing is
    /// read, and what is fetched is void.
    fn take_over(&mut self, partitions: &[PartitionId]) {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        let mut wanted = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let queue = self
                .consumer
                .split_partition_queue(&self.topic, number(*partition));
            let added =
                list.add_partition_offset(&self.topic, number(*partition), KafkaOffset::End);
            let (Some(mut queue), Ok(())) = (queue, added) else {
                tracing::error!(topic = %self.topic, %partition, "a partition cannot be read");
                continue;
            };
            let signal = Arc::clone(&self.consumer.context().signal);
            queue.set_nonempty_callback(move || signal.raise());
            let ticket = self.ticket();
            wanted.push(Wanted {
                partition: *partition,
                ticket,
            });
            self.tasks.retain(|task| task.partition != *partition);
            self.tasks.push(Task {
                partition: *partition,
                queue,
                next: Offset(0),
                phase: Phase::Restoring { ticket },
                paused: false,
            });
        }
        if let Err(error) = assign(&self.consumer, &list) {
            tracing::error!(group = %self.group, %error, "partitions were not taken over");
        }
        self.restorer.restore(wanted);
    }

    fn ticket(&mut self) -> u64 {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        self.next_ticket
    }

    /// To be let go of. Those that were not told of yet need no telling.
    fn revoke(&mut self, partitions: Vec<PartitionId>) {
        let known = |partition: &PartitionId| {
            self.tasks.iter().any(|task| {
                task.partition == *partition && !matches!(task.phase, Phase::Restoring { .. })
            })
        };
        if partitions.iter().any(known) {
            // All at once: an eager group lets go of all or nothing.
            self.told.push_back(Polled::Revoked(partitions));
        } else {
            self.release(&partitions);
        }
    }

    fn lose(&mut self, partitions: &[PartitionId]) {
        let mut lost: Vec<_> = Vec::new();
        self.tasks.retain(|task| {
            let goes = partitions.contains(&task.partition);
            if goes && !matches!(task.phase, Phase::Restoring { .. }) {
                lost.push(task.partition);
            }
            !goes
        });
        self.told.retain(|told| match told {
            Polled::Stopped { partition, .. } => !partitions.contains(partition),
            Polled::Revoked(revoked) => !revoked.iter().all(|one| partitions.contains(one)),
            _ => true,
        });
        if !lost.is_empty() {
            lost.sort_unstable();
            self.told.push_back(Polled::Lost(lost));
        }
    }

    fn let_go(&self, partitions: &[PartitionId]) {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.topic, number(*partition));
        }
        if let Err(error) = unassign(&self.consumer, &list) {
            tracing::debug!(group = %self.group, %error, "partitions were not let go of");
        }
    }

    /// Nobody knows what is committed: all is told to be lost, and restored.
    fn start_over(&mut self) {
        let all: Vec<_> = self.tasks.iter().map(|task| task.partition).collect();
        let mut lost: Vec<_> = Vec::new();
        let mut wanted = Vec::new();
        for partition in all {
            let ticket = self.ticket();
            let Some(task) = self
                .tasks
                .iter_mut()
                .find(|task| task.partition == partition)
            else {
                continue;
            };
            if !matches!(task.phase, Phase::Restoring { .. }) {
                lost.push(partition);
                task.phase = Phase::Restoring { ticket };
                task.paused = false;
                wanted.push(Wanted { partition, ticket });
            }
        }
        self.told
            .retain(|told| !matches!(told, Polled::Stopped { .. }));
        lost.sort_unstable();
        if !lost.is_empty() {
            self.told.push_back(Polled::Lost(lost));
        }
        self.restorer.restore(wanted);
    }

    /// Tells of partitions that are restored.
    fn take_restored(&mut self) {
        let mut assigned = Vec::new();
        while let Some(Restored { wanted, next }) = self.restorer.next() {
            let Wanted { partition, ticket } = wanted;
            let is_wanted = |task: &&mut Task| {
                task.partition == partition && task.phase == Phase::Restoring { ticket }
            };
            let Some(task) = self.tasks.iter_mut().find(is_wanted) else {
                continue;
            };
            let begun = next.and_then(|next| {
                let deadline = Instant::now() + self.shared.config.request_timeout;
                seek(&self.consumer, &self.topic, partition, next, deadline)?;
                Ok(next)
            });
            match begun {
                Ok(next) => {
                    task.next = next;
                    task.phase = Phase::Reading;
                    assigned.push(Assignment { partition, next });
                }
                Err(error @ LogError::OffsetOutOfRange { .. }) => {
                    task.phase = Phase::Stopped;
                    self.told.push_back(Polled::Stopped { partition, error });
                }
                Err(error) => {
                    tracing::warn!(group = %self.group, %partition, %error, "a partition is restored again");
                    self.restorer.restore(vec![wanted]);
                }
            }
        }
        if !assigned.is_empty() {
            assigned.sort_unstable_by_key(|assignment| assignment.partition);
            self.told.push_back(Polled::Assigned(assigned));
        }
    }

    fn fetch(&mut self, bytes_max: usize) -> Vec<Fetched> {
        let mut fetched = Vec::new();
        let mut stopped = Vec::new();
        let mut bytes = 0_usize;
        let count = self.tasks.len();
        let (late, early) = self.tasks.split_at_mut(self.turn.min(count));
        self.turn = if self.turn + 1 < count {
            self.turn + 1
        } else {
            0
        };
        for task in early.iter_mut().chain(late) {
            if task.paused || task.phase != Phase::Reading {
                continue;
            }
            let mut records: Vec<Record> = Vec::new();
            while bytes < bytes_max || fetched.is_empty() && records.is_empty() {
                match task.queue.poll(Duration::ZERO) {
                    Some(Ok(message)) => {
                        let record = convert::record(&message);
                        if record.offset >= task.next {
                            task.next = record.offset.next();
                            bytes = bytes.saturating_add(record.size());
                            records.push(record);
                        }
                    }
                    Some(Err(error)) => match error.rdkafka_error_code() {
                        Some(
                            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
                        ) => {
                            task.phase = Phase::Stopped;
                            stopped.push((task.partition, task.next));
                            break;
                        }
                        _ => {
                            tracing::debug!(topic = %self.topic, partition = %task.partition, %error, "reading");
                        }
                    },
                    None => break,
                }
            }
            if !records.is_empty() {
                let partition = task.partition;
                fetched.push(Fetched { partition, records });
            }
        }
        for (partition, offset) in stopped {
            let error = self.out_of_range(partition, offset);
            self.told.push_back(Polled::Stopped { partition, error });
        }
        fetched
    }

    fn out_of_range(&self, partition: PartitionId, offset: Offset) -> LogError {
        let topics = &self.shared.topics;
        let one = [partition];
        let first = |offsets: Result<Vec<Offset>, LogError>| {
            offsets.ok().and_then(|offsets| offsets.first().copied())
        };
        LogError::OffsetOutOfRange {
            topic: self.topic.clone(),
            partition,
            offset,
            start: first(topics.starts_now(&self.topic, &one)).unwrap_or_default(),
            end: first(topics.ends(&self.shared.uncommitted, &self.topic, &one))
                .unwrap_or_default(),
        }
    }

    fn reread(&mut self, partition: PartitionId) {
        let Ok(task) = self.task(partition) else {
            return;
        };
        let next = task.next;
        if task.phase == Phase::Reading
            && let Err(error) = self.seek(partition, next)
        {
            tracing::error!(group = %self.group, %partition, %error, "a partition was not read again");
            self.start_over();
        }
    }

    fn task(&mut self, partition: PartitionId) -> Result<&mut Task, LogError> {
        let found = self
            .tasks
            .iter_mut()
            .filter(|task| !matches!(task.phase, Phase::Restoring { .. }))
            .find(|task| task.partition == partition);
        found.ok_or_else(|| LogError::Fenced {
            reason: format!("partition {partition} is not assigned to this member"),
        })
    }

    /// An offset beyond what was read is looked up.
    fn check_range(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        if next <= self.task(partition)?.next {
            return Ok(());
        }
        let topics = &self.shared.topics;
        let ends = topics.ends(&self.shared.uncommitted, &self.topic, &[partition])?;
        if ends.first().is_some_and(|end| next <= *end) {
            return Ok(());
        }
        Err(self.out_of_range(partition, next))
    }

    /// What a commit says, checked as far as it can be here.
    fn check(&mut self, commit: &Commit) -> Result<(), LogError> {
        for (partition, next) in &commit.offsets {
            self.task(*partition)?;
            self.check_range(*partition, *next)?;
        }
        for (partition, key, _) in &commit.checkpoints {
            self.task(*partition)?;
            if key.len() > KEY_BYTES_MAX {
                return Err(LogError::TooLarge {
                    size_bytes: key.len(),
                    limit_bytes: KEY_BYTES_MAX,
                });
            }
        }
        let limit_bytes = self
            .shared
            .record_bytes_max
            .saturating_add(COMMIT_EXTRA_BYTES);
        for (place, record) in &commit.records {
            self.shared.topics.check(&place.topic, place.partition)?;
            let size_bytes = record.size();
            if size_bytes > limit_bytes {
                return Err(LogError::TooLarge {
                    size_bytes,
                    limit_bytes,
                });
            }
        }
        Ok(())
    }

    fn offsets(&self, commit: &Commit) -> Result<TopicPartitionList, LogError> {
        let mut list = TopicPartitionList::with_capacity(commit.offsets.len());
        for (partition, next) in &commit.offsets {
            let next = KafkaOffset::Offset(i64::try_from(next.0).unwrap_or(i64::MAX));
            list.add_partition_offset(&self.topic, number(*partition), next)
                .map_err(unavailable)?;
        }
        Ok(list)
    }

    fn transact(&mut self, commit: &Commit) -> Result<(), Failure> {
        let again = Failure::Again;
        let offsets = self.offsets(commit).map_err(again)?;
        let checkpoints: Vec<(TopicPartition, NewRecord)> = commit
            .checkpoints
            .iter()
            .map(|(partition, key, value)| {
                let place = TopicPartition {
                    topic: self.checkpoints.clone(),
                    partition: *partition,
                };
                let record = NewRecord {
                    timestamp_ms: 0,
                    key: Some(key.clone()),
                    headers: Vec::new(),
                    value: value.clone(),
                };
                (place, record)
            })
            .collect();
        let records = commit.records.iter().chain(&checkpoints);
        let contents = Contents {
            records: records.map(|(place, record)| (place, record)).collect(),
            offsets,
        };
        let identity = self.consumer.context().identity();
        let identity = identity.ok_or_else(|| Failure::Generation("no group yet".to_owned()))?;
        self.transactions.commit(&contents, &identity)
    }

    fn fenced(&self) -> LogError {
        LogError::Fenced {
            reason: format!("another member took over worker {}", self.worker),
        }
    }
}

impl Member for KafkaMember {
    fn poll(&mut self, timeout: Duration, max_bytes: usize) -> Result<Polled, LogError> {
        let now = Instant::now();
        let mut deadline = now.checked_add(timeout).unwrap_or(now + FOREVER);
        // Transactions have their price: what comes soon goes with this one.
        if self.read_since_commit
            && let Some(at) = self.committed_at
        {
            deadline = deadline.max(at + self.shared.config.commit_interval_min);
        }
        loop {
            let seen = self.consumer.context().signal.ticks();
            let any = self.look_after_group();
            self.take_restored();
            if let Some(told) = self.told.pop_front() {
                return Ok(told);
            }
            if self.is_out {
                return Err(self.fenced());
            }
            if self.shared.is_closed() {
                return Err(closed());
            }
            let fetched = self.fetch(max_bytes);
            if !fetched.is_empty() {
                self.consumer.context().permit();
                self.read_since_commit = true;
                return Ok(Polled::Records(fetched));
            }
            if any || !self.told.is_empty() {
                continue;
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(Polled::Idle);
            }
            let signal = Arc::clone(&self.consumer.context().signal);
            signal.wait(seen, deadline.min(now + LOOK));
        }
    }

    fn pause(&mut self, partitions: &[PartitionId]) {
        for partition in partitions {
            if let Ok(task) = self.task(*partition) {
                task.paused = true;
            }
        }
    }

    fn resume(&mut self, partitions: &[PartitionId]) {
        for partition in partitions {
            if let Ok(task) = self.task(*partition) {
                task.paused = false;
            }
        }
    }

    fn seek(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        self.task(partition)?;
        self.check_range(partition, next)?;
        let is_stopped = self.task(partition)?.phase == Phase::Stopped;
        let wait = if is_stopped {
            STOPPED_SEEK
        } else {
            self.shared.config.request_timeout
        };
        let sought = seek(
            &self.consumer,
            &self.topic,
            partition,
            next,
            Instant::now() + wait,
        );
        let is_eager = matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Eager);
        if sought.is_err() && is_stopped && !is_eager {
            // The client may have given it up: then it begins anew.
            let list = at(&self.topic, partition, next)?;
            self.let_go(&[partition]);
            assign(&self.consumer, &list).map_err(unavailable)?;
        } else {
            sought?;
        }
        let task = self.task(partition)?;
        task.next = next;
        task.phase = Phase::Reading;
        self.told.retain(|told| {
            !matches!(told, Polled::Stopped { partition: stopped, .. } if *stopped == partition)
        });
        Ok(())
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), LogError> {
        if commit.is_empty() {
            return Ok(());
        }
        self.look_after_group();
        if self.is_out {
            return Err(self.fenced());
        }
        self.check(commit)?;
        let outcome = self.transact(commit);
        self.committed_at = Some(Instant::now());
        self.read_since_commit = false;
        match outcome {
            Ok(()) => {
                self.consumer.context().permit();
                if let Err(error) = self.shared.store.put(&self.group, &commit.checkpoints) {
                    // It is committed; the copy is not what it should be.
                    tracing::warn!(group = %self.group, %error, "checkpoints are restored anew");
                    self.start_over();
                }
                self.shared.tick();
                Ok(())
            }
            Err(Failure::Again(error)) => {
                if let LogError::Denied { reason } = &error {
                    self.consumer.context().deny(reason);
                }
                Err(error)
            }
            Err(Failure::Generation(reason)) => {
                // Either partitions went, which the group tells, or it moved on
                // with us in it, and the next try is of the new generation.
                self.look_after_group();
                if self.is_out {
                    return Err(self.fenced());
                }
                self.check(commit)?;
                Err(LogError::Unavailable { reason })
            }
            Err(Failure::Lost(reason)) => {
                self.look_after_group();
                self.start_over();
                Err(LogError::Fenced { reason })
            }
        }
    }

    fn release(&mut self, partitions: &[PartitionId]) {
        self.tasks
            .retain(|task| !partitions.contains(&task.partition));
        self.told.retain(|told| match told {
            Polled::Stopped { partition, .. } => !partitions.contains(partition),
            _ => true,
        });
        if !partitions.is_empty() {
            self.let_go(partitions);
        }
    }
}

impl Drop for KafkaMember {
    fn drop(&mut self) {
        self.consumer.context().close();
        self.tasks.clear();
    }
}
