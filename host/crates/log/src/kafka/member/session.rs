//! One membership: from joining until the seat is given up.
//!
//! The seat restores an assigned partition (see
//! [`restore`](crate::kafka::restore)) before it tells the worker. It tells of a
//! revoked partition at once, and the worker may commit for that one until it releases
//! it: the callback of a rebalance returns at once, and the client takes the next step
//! only when the partitions are let go of. Until then the client fetches nothing new
//! for this member either; other members go on.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_process::shutdown::waits;
use courtside_types::{Offset, PartitionId, Topic};
use rdkafka::{
    Message as _, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, base_consumer::PartitionQueue},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{gone::Gone, identity::Identity};
use crate::{
    Assignment, GroupSpec, LogError, Polled,
    kafka::{
        checkpoints::{Claim, checkpoints_topic},
        config::Assignor,
        context::{Membership, Rebalance, assign, unassign},
        convert::number,
        errors::{closed, unavailable},
        native,
        reader::seek,
        restore::{Restorer, Wanted},
        shared::Shared,
        transactions::Transactions,
    },
};

/// How long a poll waits before it looks after the group again.
const LOOK: Duration = Duration::from_millis(100);
/// Events of the group that are taken at a time.
const EVENTS_MAX: usize = 64;
/// Empty polls after which no event is taken to be left: a poll that only brings a line
/// for the log is empty, too.
const NOTHING_MAX: usize = 8;
/// How long a leaving member waits until its client has left the group, which the
/// client does once the partitions are let go of.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);
const LEAVE_LOOK: Duration = Duration::from_millis(5);
/// How often the same complaint of the group is logged.
const COMPLAINTS: Duration = Duration::from_secs(30);

pub(super) struct MemberSession {
    pub(super) shared: Arc<Shared>,
    pub(super) spec: GroupSpec,
    pub(super) topic: Topic,
    pub(super) checkpoints: Topic,
    pub(super) consumer: Arc<BaseConsumer<Membership>>,
    restorer: Restorer,
    pub(super) transactions: Transactions,
    /// The member's identity as of the last rebalance, or of the last time that the
    /// group called it an old one. Commits do not take the client's live identity: it
    /// may belong to a membership in which another member has the tasks.
    pub(super) identity: Option<Identity>,
    pub(super) tasks: Vec<AssignedPartition>,
    /// Events that the next polls tell the worker.
    pub(super) told: VecDeque<Polled>,
    /// The task to read first at the next poll.
    pub(super) turn: usize,
    pub(super) committed_at: Option<Instant>,
    pub(super) read_since_commit: bool,
    complained: Option<(Option<RDKafkaErrorCode>, Instant)>,
    /// Revoked partitions that are not let go of yet: the group waits for them.
    owed: Option<Vec<PartitionId>>,
}

pub(super) struct AssignedPartition {
    pub(super) partition: PartitionId,
    pub(super) queue: PartitionQueue<Membership>,
    /// Offset of the next record to read.
    pub(super) next: Offset,
    /// Highest value that `next` had before a seek: offsets up to it are known to be there.
    pub(super) highest: Offset,
    pub(super) phase: Phase,
    /// Right to write this partition's rows in the copy of the checkpoints, taken when
    /// its last restore began.
    pub(super) claim: Option<Claim>,
    pub(super) paused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Assigned, but not restoring yet: a restore begins only while the client has a
    /// membership, which may be over before the client says so.
    Void,
    Restoring,
    Reading,
    /// The partition cannot be read on from `next`, which the worker knows (or is
    /// about to be told).
    Stopped,
}

impl AssignedPartition {
    /// Whether the worker knows of this partition (or is about to be told).
    pub(super) fn is_known(&self) -> bool {
        matches!(self.phase, Phase::Reading | Phase::Stopped)
    }
}

impl MemberSession {
    pub(super) fn take(shared: &Arc<Shared>, spec: &GroupSpec) -> Result<Self, LogError> {
        let config = &shared.config;
        let needs = format!("Read on group {} and on topic {}", spec.group, spec.input);
        let membership =
            Membership::new(Arc::clone(&shared.reach), config.assignor.is_eager(), needs);
        let signal = Arc::clone(&membership.signal);
        let mut consumer: BaseConsumer<Membership> = config
            .member(&spec.group, &shared.instance, spec.worker, spec.visits)
            .create_with_context(membership)
            .map_err(unavailable)?;
        consumer.set_nonempty_callback(move || signal.raise());
        let consumer = Arc::new(consumer);
        let restorer = Restorer::start(shared, &consumer, spec)?;
        let id = format!("{}.{}.{}", spec.group, shared.instance, spec.worker);
        let mut transactions = Transactions::new(config, id, shared.record_bytes_max);
        // A transaction that a predecessor left open would keep the checkpoints from
        // being restored until it times out.
        transactions.ready()?;
        consumer.subscribe(&[&spec.input]).map_err(unavailable)?;
        Ok(Self {
            shared: Arc::clone(shared),
            spec: spec.clone(),
            topic: spec.input.clone(),
            checkpoints: checkpoints_topic(&spec.group),
            consumer,
            restorer,
            transactions,
            identity: None,
            tasks: Vec::new(),
            told: VecDeque::new(),
            turn: 0,
            committed_at: None,
            read_since_commit: false,
            complained: None,
            owed: None,
        })
    }

    /// The partitions that the worker believes it holds.
    pub(super) fn held(&self) -> Vec<PartitionId> {
        let known = self.tasks.iter().filter(|task| task.is_known());
        let mut held: Vec<_> = known.map(|task| task.partition).collect();
        for told in &self.told {
            match told {
                // The worker does not know yet that it has these.
                Polled::Assigned(assigned) => {
                    held.retain(|partition| !assigned.iter().any(|new| new.partition == *partition))
                }
                Polled::Lost(lost) => held.extend(lost),
                _ => {}
            }
        }
        held.sort_unstable();
        held.dedup();
        held
    }

    /// Whether the group waits until the worker lets go of something.
    pub(super) fn is_waited_for(&self) -> bool {
        self.owed.is_some()
    }

    /// Returns the worker's next event, or why the seat has ended.
    #[allow(clippy::type_complexity)]
    pub(super) fn poll(
        &mut self,
        deadline: Instant,
        max_bytes: usize,
    ) -> Result<Result<Polled, LogError>, Gone> {
        let mut deadline = deadline;
        // A transaction is expensive. So the idle poll, on which the worker commits, waits
        // for `commit_interval_min`, and records that arrive meanwhile share one.
        if self.read_since_commit
            && let Some(at) = self.committed_at
        {
            deadline = deadline.max(at + self.shared.config.commit_interval_min);
        }
        loop {
            let seen = self.consumer.context().signal.ticks();
            let any = self.look_after_group()?;
            self.take_restored();
            if let Some(told) = self.told.pop_front() {
                return Ok(Ok(told));
            }
            if self.shared.is_closed() {
                return Ok(Err(closed()));
            }
            let fetched = self.fetch(max_bytes);
            if !fetched.is_empty() {
                self.consumer.context().permit();
                self.read_since_commit = true;
                return Ok(Ok(Polled::Records(fetched)));
            }
            if any || !self.told.is_empty() {
                continue;
            }
            let now = Instant::now();
            if now >= deadline {
                self.transactions.tidy_now_and_then();
                return Ok(Ok(Polled::Idle));
            }
            let signal = Arc::clone(&self.consumer.context().signal);
            signal.wait(seen, deadline.min(now + LOOK));
        }
    }

    /// Serves the group's events. True where the member's partitions changed.
    pub(super) fn look_after_group(&mut self) -> Result<bool, Gone> {
        let mut nothing = 0;
        for _ in 0..EVENTS_MAX {
            match self.consumer.poll(Duration::ZERO) {
                // Every partition has its own queue. A record that came this way all
                // the same is dropped, and the partition's queue reads it again.
                Some(Ok(message)) => {
                    let partition = u32::try_from(message.partition()).unwrap_or_default();
                    drop(message);
                    self.reread(PartitionId(partition));
                }
                Some(Err(error)) => self.complain(&error),
                None if nothing < NOTHING_MAX => nothing += 1,
                None => break,
            }
        }
        let mut any = false;
        while let Some(rebalance) = self.consumer.context().next_rebalance() {
            any = true;
            match rebalance {
                Rebalance::Assigned(partitions) => {
                    self.renew();
                    self.take_over(&partitions);
                }
                Rebalance::Revoked(partitions) => {
                    self.renew();
                    self.revoke(partitions);
                }
                Rebalance::Lost(partitions) => {
                    self.identity = None;
                    self.let_go(&partitions);
                    self.lose(&partitions);
                }
            }
        }
        if self.identity.is_none() && !self.tasks.is_empty() {
            self.renew();
        }
        match self.consumer.client().fatal_error() {
            None => Ok(any),
            Some((code, reason)) => Err(match code {
                RDKafkaErrorCode::FencedInstanceId => Gone::taken(reason),
                RDKafkaErrorCode::UnreleasedInstanceId => Gone::unreleased(reason),
                _ => Gone::refused(reason),
            }),
        }
    }

    /// Asks the client for the member's identity. Where the last membership is over,
    /// all partitions are lost, even before the client says so.
    pub(super) fn renew(&mut self) {
        let now = Identity::now(&self.consumer);
        if !Identity::is_same(self.identity.as_ref(), now.as_ref()) {
            self.void();
        }
        self.identity = now;
        if self.identity.is_some() {
            self.restore();
        }
    }

    /// Logs an error that the group has with the member. The client tries again by
    /// itself.
    fn complain(&mut self, error: &KafkaError) {
        let code = error.rdkafka_error_code();
        let is_about_brokers = matches!(
            code,
            None | Some(
                RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::Resolve
            )
        );
        let is_new = self
            .complained
            .is_none_or(|(last, at)| last != code || at.elapsed() >= COMPLAINTS);
        if is_about_brokers || !is_new {
            tracing::debug!(group = %self.spec.group, worker = self.spec.worker, %error, "consumer error");
            return;
        }
        self.complained = Some((code, Instant::now()));
        tracing::warn!(group = %self.spec.group, worker = self.spec.worker, code = "group-refused", %error, "consumer group refuses a worker");
    }

    /// Takes assigned partitions over. The restorer will tell from where to read them.
    /// Until then the seat reads nothing, and records that the client fetches are void.
    fn take_over(&mut self, partitions: &[PartitionId]) {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        let places = self.places(partitions);
        for (partition, place) in partitions.iter().zip(places) {
            let queue = self
                .consumer
                .split_partition_queue(&self.topic, number(*partition));
            let added = list.add_partition_offset(&self.topic, number(*partition), place);
            let (Some(mut queue), Ok(())) = (queue, added) else {
                tracing::error!(topic = %self.topic, %partition, "assigned partition cannot be read");
                continue;
            };
            let signal = Arc::clone(&self.consumer.context().signal);
            queue.set_nonempty_callback(move || signal.raise());
            self.tasks.retain(|task| task.partition != *partition);
            self.tasks.push(AssignedPartition {
                partition: *partition,
                queue,
                next: Offset(0),
                highest: Offset(0),
                phase: Phase::Void,
                claim: None,
                paused: false,
            });
        }
        if let Err(error) = assign(&self.consumer, &list) {
            tracing::error!(group = %self.spec.group, %error, "assigned partitions cannot be taken over");
        }
        if self.identity.is_some() {
            self.restore();
        }
        self.wake();
    }

    /// Wakes the client's threads that fetch. A rebalance has the client pause the
    /// partitions that stay, and resume them without waking these threads, which may
    /// sleep for a second. A seek to the next offset wakes them.
    fn wake(&self) {
        if self.shared.config.assignor.is_eager() {
            return;
        }
        for task in &self.tasks {
            if task.phase == Phase::Reading {
                let at = KafkaOffset::Offset(i64::try_from(task.next.0).unwrap_or(i64::MAX));
                let partition = number(task.partition);
                let sought = self
                    .consumer
                    .seek(&self.topic, partition, at, Duration::ZERO);
                if let Err(error) = sought {
                    tracing::debug!(topic = %self.topic, partition, %error, "fetch of a partition cannot be woken");
                }
            }
        }
    }

    /// The offsets at which partitions are assigned until they are restored: their
    /// ends, so that the client fetches nothing in vain. The ends are numbers, because
    /// the client looks a logical end up, and then goes there late, in spite of a seek
    /// made meanwhile.
    fn places(&self, partitions: &[PartitionId]) -> Vec<KafkaOffset> {
        if partitions.is_empty() {
            return Vec::new();
        }
        let _wait = waits::begin(format!("the ends of {}", self.topic));
        let topics = &self.shared.topics;
        let ends = topics.ends(&self.shared.uncommitted, &self.topic, partitions);
        let ends = ends.or_else(|_| {
            let start = |partition: &PartitionId| topics.start(&self.topic, *partition);
            partitions.iter().map(start).collect()
        });
        let ends = ends.unwrap_or_else(|_| vec![Offset::default(); partitions.len()]);
        let place = |end: Offset| KafkaOffset::Offset(i64::try_from(end.0).unwrap_or_default());
        ends.into_iter().map(place).collect()
    }

    /// Tells the worker to release partitions. The seat itself lets go of partitions
    /// that the worker was not told of yet.
    fn revoke(&mut self, partitions: Vec<PartitionId>) {
        let known = |partition: &PartitionId| {
            self.tasks
                .iter()
                .any(|task| task.partition == *partition && task.is_known())
        };
        if partitions.iter().any(known) {
            // The list stays whole: an eager group lets go of all partitions or none.
            self.owed = Some(partitions.clone());
            self.told.push_back(Polled::Revoked(partitions));
        } else {
            // An empty list is let go of, too: the client waits for the call.
            self.release(&partitions);
        }
    }

    fn lose(&mut self, partitions: &[PartitionId]) {
        let mut lost: Vec<_> = Vec::new();
        self.tasks.retain(|task| {
            let goes = partitions.contains(&task.partition);
            if goes && task.is_known() {
                lost.push(task.partition);
            }
            !goes
        });
        self.told.retain(|told| match told {
            Polled::Stopped { partition, .. } => !partitions.contains(partition),
            Polled::Revoked(revoked) => !revoked.iter().all(|one| partitions.contains(one)),
            _ => true,
        });
        self.owed = None;
        if !lost.is_empty() {
            lost.sort_unstable();
            self.told.push_back(Polled::Lost(lost));
        }
    }

    pub(super) fn let_go(&self, partitions: &[PartitionId]) {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.topic, number(*partition));
        }
        if let Err(error) = unassign(&self.consumer, &list) {
            tracing::debug!(group = %self.spec.group, %error, "partitions cannot be unassigned");
        }
        self.wake();
    }

    /// Tells the worker that all partitions are lost, and restores them, because nobody
    /// knows what is committed. Takes up to `time` to end an open transaction.
    pub(super) fn start_over(&mut self, time: Duration) {
        self.void();
        // A restore waits for open transactions.
        self.transactions.tidy(time);
        self.restore();
    }

    /// Tells the worker that all partitions are lost. They stay assigned, as far as the
    /// client knows.
    fn void(&mut self) {
        let mut lost: Vec<_> = Vec::new();
        for task in &mut self.tasks {
            if task.is_known() {
                lost.push(task.partition);
            }
            task.phase = Phase::Void;
            task.paused = false;
        }
        self.told
            .retain(|told| !matches!(told, Polled::Stopped { .. }));
        lost.sort_unstable();
        if !lost.is_empty() {
            self.told.push_back(Polled::Lost(lost));
        }
    }

    /// Begins to restore the void partitions.
    fn restore(&mut self) {
        let mut wanted = Vec::new();
        for task in &mut self.tasks {
            if task.phase == Phase::Void {
                let claim = self.shared.store.claim(&self.spec.group, task.partition);
                task.phase = Phase::Restoring;
                task.claim = Some(claim);
                wanted.push(Wanted {
                    partition: task.partition,
                    claim,
                });
            }
        }
        self.restorer.restore(wanted);
    }

    /// Tells the worker of restored partitions.
    fn take_restored(&mut self) {
        let mut assigned = Vec::new();
        while let Some(restored) = self.restorer.next() {
            let wanted = restored.wanted;
            let Wanted { partition, claim } = wanted;
            let assignment = Assignment {
                partition,
                committed: restored.committed,
                bounds: restored.bounds,
            };
            let next = assignment.next();
            let is_wanted = |task: &&mut AssignedPartition| {
                task.partition == partition
                    && task.phase == Phase::Restoring
                    && task.claim == Some(claim)
            };
            let Some(task) = self.tasks.iter_mut().find(is_wanted) else {
                continue;
            };
            task.next = next.min(assignment.bounds.end);
            if !assignment.bounds.hold(next) {
                task.phase = Phase::Stopped;
                assigned.push(assignment);
                continue;
            }
            let deadline = Instant::now() + self.shared.config.request_timeout;
            match seek(&self.consumer, &self.topic, partition, next, deadline) {
                Ok(()) => {
                    task.phase = Phase::Reading;
                    assigned.push(assignment);
                }
                Err(error) => {
                    tracing::warn!(group = %self.spec.group, %partition, %error, "seek to the restored offset failed, restoring the partition again");
                    self.restorer.restore(vec![wanted]);
                }
            }
        }
        if !assigned.is_empty() {
            assigned.sort_unstable_by_key(|assignment| assignment.partition);
            self.told.push_back(Polled::Assigned(assigned));
        }
    }

    pub(super) fn task(
        &mut self,
        partition: PartitionId,
    ) -> Result<&mut AssignedPartition, LogError> {
        let found = self
            .tasks
            .iter_mut()
            .filter(|task| task.is_known())
            .find(|task| task.partition == partition);
        found.ok_or_else(|| LogError::Fenced {
            reason: format!("partition {partition} is not assigned to this member"),
        })
    }

    pub(super) fn release(&mut self, partitions: &[PartitionId]) {
        self.tasks
            .retain(|task| !partitions.contains(&task.partition));
        self.told.retain_mut(|told| match told {
            Polled::Stopped { partition, .. } => !partitions.contains(partition),
            // These partitions were restored just now, and are released before a poll
            // told of them.
            Polled::Assigned(assigned) => {
                assigned.retain(|new| !partitions.contains(&new.partition));
                !assigned.is_empty()
            }
            _ => true,
        });
        self.owed = None;
        self.let_go(partitions);
    }
}

impl MemberSession {
    /// Leaves the group, so that nobody waits for the session to end. The client
    /// does so by itself when it closes, but neither for a member without
    /// partitions (of a cooperative group) nor for a static one. A member that
    /// unsubscribes first leaves in each case.
    fn leave(&self) {
        let config = &self.shared.config;
        // A static member of the `consumer` protocol cannot leave: its client always
        // tells the brokers that the member comes back.
        let stays = config.static_membership && !self.spec.visits && !config.leave_at_stop;
        if stays || config.assignor == Assignor::Consumer {
            return;
        }
        self.serve_group();
        self.consumer.unsubscribe();
        let deadline = Instant::now() + LEAVE_WITHIN;
        while !native::member_id(self.consumer.client()).is_empty() && Instant::now() < deadline {
            drop(self.consumer.poll(LEAVE_LOOK));
        }
    }

    /// Serves the client's callbacks, in which a closing member lets go of partitions.
    fn serve_group(&self) {
        for _ in 0..EVENTS_MAX {
            drop(self.consumer.poll(Duration::ZERO));
        }
    }
}

impl Drop for MemberSession {
    fn drop(&mut self) {
        self.consumer.context().close();
        self.tasks.clear();
        // The client cannot end before every rebalance has its answer.
        while let Some(rebalance) = self.consumer.context().next_rebalance() {
            match rebalance {
                Rebalance::Assigned(_) => {
                    if let Err(error) = assign(&self.consumer, &TopicPartitionList::new()) {
                        tracing::debug!(group = %self.spec.group, %error, "assignment cannot be emptied while the consumer closes");
                    }
                }
                Rebalance::Revoked(partitions) | Rebalance::Lost(partitions) => {
                    self.let_go(&partitions);
                }
            }
        }
        if let Some(partitions) = self.owed.take() {
            self.let_go(&partitions);
        }
        self.leave();
    }
}
