//! One membership: from joining until the session is given up.
//!
//! The session restores an assigned partition (see [`restore`](crate::kafka::restore))
//! before the worker learns of it. It tells the worker of a revoked partition at once,
//! and the worker may commit for the partition until it releases it. The callback of a
//! rebalance returns at once, and the client takes the next step only when the session
//! lets go of the partitions. Until then the client fetches nothing new for this
//! member; other members go on.
//!
//! So nothing waits for a worker under the client's lock. A worker that cannot commit
//! by `worker.drain_deadline` releases its partitions without a commit.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_types::{Offset, PartitionId, Topic};
use rdkafka::{
    Message as _,
    consumer::{BaseConsumer, Consumer as _, base_consumer::PartitionQueue},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    end::{SessionEnd, SessionError},
    identity::Identity,
};
use crate::{
    GroupSpec, LogError, Polled,
    kafka::{
        checkpoints::{Claim, checkpoints_topic},
        context::{Membership, Rebalance},
        errors::{closed, unavailable},
        restore::Restorer,
        state::KafkaState,
        transactions::Transactions,
    },
};

/// How long a poll waits before it looks after the group again.
const LOOK: Duration = Duration::from_millis(100);
/// Events of the group that are taken at a time.
pub(super) const EVENTS_MAX: usize = 64;
/// Empty polls after which no event is taken to be left: a poll that only brings a line
/// for the log is empty, too.
const NOTHING_MAX: usize = 8;
/// How often the same complaint of the group is logged.
const COMPLAINTS: Duration = Duration::from_secs(30);

pub(super) struct MemberSession {
    pub(super) shared: Arc<KafkaState>,
    pub(super) spec: GroupSpec,
    pub(super) topic: Topic,
    pub(super) checkpoints: Topic,
    pub(super) consumer: Arc<BaseConsumer<Membership>>,
    pub(super) restorer: Restorer,
    pub(super) transactions: Transactions,
    /// The member's identity as of the last rebalance, or of the last time that the
    /// group called it an old one. Commits do not take the client's live identity: it
    /// may belong to a membership in which another member has the tasks.
    pub(super) identity: Option<Identity>,
    pub(super) tasks: Vec<AssignedPartition>,
    /// Events that the next polls tell the worker.
    pub(super) events: VecDeque<Polled>,
    /// The task to read first at the next poll.
    pub(super) turn: usize,
    pub(super) committed_at: Option<Instant>,
    pub(super) read_since_commit: bool,
    complained: Option<(Option<RDKafkaErrorCode>, Instant)>,
    /// Revoked partitions that are not let go of yet: the group waits for them.
    pub(super) unreleased: Option<Vec<PartitionId>>,
}

pub(super) struct AssignedPartition {
    pub(super) partition: PartitionId,
    pub(super) queue: PartitionQueue<Membership>,
    /// Offset of the next record to read.
    pub(super) next: Offset,
    /// Highest value that `next` had before a seek: offsets up to it are known to be there.
    pub(super) highest: Offset,
    pub(super) state: FetchState,
    /// Right to write this partition's rows in the copy of the checkpoints, taken when
    /// its last restore began.
    pub(super) claim: Option<Claim>,
    pub(super) paused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FetchState {
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
        matches!(self.state, FetchState::Reading | FetchState::Stopped)
    }
}

impl MemberSession {
    pub(super) fn begin(shared: &Arc<KafkaState>, spec: &GroupSpec) -> Result<Self, LogError> {
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
            events: VecDeque::new(),
            turn: 0,
            committed_at: None,
            read_since_commit: false,
            complained: None,
            unreleased: None,
        })
    }

    /// The partitions that the worker believes it holds.
    pub(super) fn held(&self) -> Vec<PartitionId> {
        let known = self.tasks.iter().filter(|task| task.is_known());
        let mut held: Vec<_> = known.map(|task| task.partition).collect();
        for event in &self.events {
            match event {
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
        self.unreleased.is_some()
    }

    /// Returns the worker's next event.
    pub(super) fn poll(
        &mut self,
        deadline: Instant,
        max_bytes: usize,
    ) -> Result<Polled, SessionError> {
        let mut deadline = deadline;
        // A transaction is expensive. So the idle poll, on which the worker commits, waits
        // for `commit_interval_min`, and records that arrive meanwhile share one.
        if self.read_since_commit
            && let Some(at) = self.committed_at
        {
            deadline = deadline.max(at + self.shared.config.commit_interval_min);
        }
        loop {
            let ticks = self.consumer.context().signal.ticks();
            let any = self.look_after_group()?;
            self.take_restored();
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if self.shared.is_closed() {
                return Err(closed().into());
            }
            let fetched = self.fetch(max_bytes);
            if !fetched.is_empty() {
                self.consumer.context().permit();
                self.read_since_commit = true;
                return Ok(Polled::Records(fetched));
            }
            if any || !self.events.is_empty() {
                continue;
            }
            let now = Instant::now();
            if now >= deadline {
                self.transactions.tidy_now_and_then();
                return Ok(Polled::Idle);
            }
            let signal = Arc::clone(&self.consumer.context().signal);
            signal.wait(ticks, deadline.min(now + LOOK));
        }
    }

    /// Serves the group's events. True where the member's partitions changed.
    pub(super) fn look_after_group(&mut self) -> Result<bool, SessionEnd> {
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
                RDKafkaErrorCode::FencedInstanceId => SessionEnd::taken(reason),
                RDKafkaErrorCode::UnreleasedInstanceId => SessionEnd::unreleased(reason),
                _ => SessionEnd::refused(reason),
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
}
