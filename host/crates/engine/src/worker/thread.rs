//! The thread around [`Processing`]: it polls, commits, and carries out orders between
//! two commits.

mod begin;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use courtside_log::{Commit, Fetched, GroupSpec, LogError, Member, Polled, RecordLog};
use courtside_process::{
    clock::thread_cpu_time,
    shutdown::{self, End},
};
use courtside_types::{Digest, NewRecord, Offset, PartitionId, slot_name::SlotName};
use crossbeam_channel::{Receiver, Sender};

use self::begin::{IdentityWatch, PendingStart};
use super::{
    figures::Gap,
    given_up::GivenUp,
    instances::Active,
    metrics::{Change, Handles},
    output,
    position::Start,
    processing::{Budget, CommitPlan, Counts, Interrupted, OUT_OF_RANGE, Processing, Stop, now_ms},
    status::{PartitionStatus, PipelineStatus},
    takeover::{Directive, Redone},
};
use crate::{pipeline::Pipeline, worker::status::PartitionState};

/// How long an idle worker waits in a poll, and so how late it may notice an order.
const IDLE_WAIT: Duration = Duration::from_millis(25);
const RETRY_WAIT_MIN: Duration = Duration::from_millis(20);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(1);
/// A run of polled records is cut short once it holds more than this many times
/// `commit_bytes_max`.
const BUDGET_COMMITS: usize = 4;
/// A run is cut short after this time, because other partitions, swaps and revokes wait
/// for its end.
const RUN_TIME_MAX: Duration = Duration::from_secs(2);
/// A key is logged up to this length, because one from another producer may have
/// megabytes.
const KEY_LOGGED_BYTES_MAX: usize = 256;
/// Dead letters of one commit that are logged one by one.
const DEAD_LETTERS_LOGGED_MAX: usize = 10;

/// After a swap each entity opens again at its next event, and a commit also stores its
/// state from before. Events then cost several times more than usual, so the worker is
/// eased: its polls and commits are smaller, which keeps commits as close together as
/// before. Eased mode ends at an idle poll once most entities of a commit were open
/// already, or with the first commit after this time.
const EASED_TIME_MAX: Duration = Duration::from_secs(3);
const EASED_POLL_BYTES: usize = 32 << 10;
const EASED_COMMIT_INTERVAL: Duration = Duration::from_millis(15);
/// Eased mode may end once fewer than one in this many entities of a commit had to be
/// opened.
const FEW_OPENED: u64 = 4;

/// How long a failed seek is tried again, unless the group waits for the member.
const SEEK_WITHIN: Duration = Duration::from_secs(60);

/// How long an idle worker tries to write its own rows.
const CHORES_TIME_MAX: Duration = Duration::from_secs(1);
/// How long an idle worker waits after such a write failed.
const CHORES_WAIT: Duration = Duration::from_secs(1);

/// The first offset that a plugin processes in each partition, after it took over.
pub type Takeover = BTreeMap<PartitionId, Offset>;

/// A request that a worker carries out between two commits.
pub enum Order {
    /// Put this plugin (or none) in force, right after a commit.
    Activate {
        slot: SlotName,
        active: Option<Arc<Active>>,
        done: Sender<Takeover>,
    },
    /// Undo the swap of a slot that the directive names, and put `active` in force. The
    /// directive stands: it holds for the worker's partitions and for those assigned
    /// later. The latest 16 directives of a slot stand.
    ///
    /// A host that starts gives the standing directives before any plugin, with no
    /// `active`. Otherwise a new swap to the same plugin would look older than the
    /// directive, which would undo it.
    Rollback {
        slot: SlotName,
        directive: Directive,
        active: Option<Arc<Active>>,
        /// Receives the events that are processed again, once the rollback is on disk.
        done: Sender<BTreeMap<PartitionId, Redone>>,
    },
    /// The directive of this id no longer stands in the slot.
    Withdraw {
        slot: SlotName,
        id: u64,
        done: Sender<()>,
    },
    /// The plugin with this digest stays in a slot, and the slot's swaps up to `at`
    /// (milliseconds since 1970) can no longer be undone. The confirmation also holds for partitions that are assigned later.
    Confirm {
        slot: SlotName,
        digest: Option<Digest>,
        at: u64,
        done: Sender<()>,
    },
    /// Commit what is pending and end, within the drain deadline counted from this
    /// instant.
    Stop(Instant),
}

/// The way to give a worker orders; it may outlive the worker's handle.
#[derive(Clone, Debug)]
pub struct Orders {
    sender: Sender<Order>,
    /// Tells a worker in the middle of a long run that a caller waits.
    interrupt: Arc<AtomicBool>,
}

impl Orders {
    fn new() -> (Self, Receiver<Order>) {
        // Each caller waits for the answer to its order, so the channel holds only a
        // few. A bounded channel would keep orders after the worker has ended, as long
        // as a sender is left, and their callers would wait without end.
        let (sender, inbox) = crossbeam_channel::unbounded();
        let orders = Self {
            sender,
            interrupt: Arc::default(),
        };
        (orders, inbox)
    }

    /// Gives an order; false says that the worker has ended.
    #[must_use]
    pub fn give(&self, order: Order) -> bool {
        self.interrupt.store(true, Ordering::Relaxed);
        self.sender.send(order).is_ok()
    }
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    name: String,
    orders: Orders,
    thread: std::thread::JoinHandle<()>,
}

impl Worker {
    /// Starts a worker of a pipeline: joins the group on a thread of its own.
    pub fn start(
        log: &Arc<dyn RecordLog>,
        pipeline: &Arc<Pipeline>,
        status: &Arc<PipelineStatus>,
        worker: u32,
    ) -> Result<Self, LogError> {
        let member = log.join(GroupSpec {
            group: pipeline.group.clone(),
            input: pipeline.input.clone(),
            worker,
            workers: pipeline.processing.workers,
            topics: pipeline.identity.topics(),
            visits: false,
        })?;
        let (orders, inbox) = Orders::new();
        let starts: Starts = {
            let (log, input) = (Arc::clone(log), pipeline.input.clone());
            Box::new(move |partition| {
                let bounds = log.bounds(&input)?;
                let bounds = bounds.get(partition.0 as usize);
                Ok(bounds.map_or(Offset(0), |bounds| bounds.start))
            })
        };
        let mut running = WorkerLoop {
            starts,
            watch: IdentityWatch::of_log(log, &pipeline.identity),
            redoing: BTreeSet::new(),
            stopped: BTreeSet::new(),
            given_up: GivenUp::default(),
            rewinds: 0,
            chores_at: Instant::now(),
            processing: Processing::new(Arc::clone(pipeline), log.checkpoints(&pipeline.group)?),
            pipeline: Arc::clone(pipeline),
            status: Arc::clone(status),
            member,
            inbox,
            interrupt: Arc::clone(&orders.interrupt),
            poll_bytes: 0,
            warmup: None,
            wait: RETRY_WAIT_MIN,
            poll_wait: RETRY_WAIT_MIN,
            worker,
            partitions: BTreeSet::new(),
            waiting: BTreeSet::new(),
            unbegun: BTreeMap::new(),
            reported: Counts::default(),
            handles: Handles::new(&pipeline.name, worker),
            gap: Gap::new(Instant::now()),
            stopping: None,
        };
        let figures = Arc::clone(status.figures());
        running.processing.count_in(figures, worker);
        running.poll_bytes = pipeline.processing.poll_bytes_max;
        running.set_budget();
        let thread = std::thread::Builder::new()
            .name(format!("worker-{worker}"))
            .spawn(move || running.run())
            .map_err(|error| LogError::Unavailable {
                reason: format!("no thread for a worker: {error}"),
            })?;
        Ok(Self {
            name: format!("worker {worker} of {}", pipeline.name),
            orders,
            thread,
        })
    }

    #[must_use]
    pub const fn orders(&self) -> &Orders {
        &self.orders
    }

    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end of a worker that was told to stop, at most until `by`.
    #[must_use]
    pub fn end(self, by: Instant) -> End {
        shutdown::end_of(&self.name, self.thread, by)
    }
}

type Starts = Box<dyn Fn(PartitionId) -> Result<Offset, LogError> + Send>;

/// The eased mode of a worker after a swap; see [`EASED_TIME_MAX`].
struct Warmup {
    until: Instant,
    /// Few entities of the last commit had to be opened.
    few_open: bool,
}

impl Warmup {
    fn begin() -> Option<Self> {
        Some(Self {
            until: Instant::now() + EASED_TIME_MAX,
            few_open: false,
        })
    }
}

struct WorkerLoop {
    pipeline: Arc<Pipeline>,
    status: Arc<PipelineStatus>,
    member: Box<dyn Member>,
    processing: Processing,
    inbox: Receiver<Order>,
    interrupt: Arc<AtomicBool>,
    /// How many bytes a poll asks for: fewer after the records of a poll went over the
    /// budget.
    poll_bytes: usize,
    /// Set for a while after a swap, when polls and commits are small.
    warmup: Option<Warmup>,
    /// How long to wait after the next log error that interrupts a run.
    wait: Duration,
    /// How long to wait after the next poll that fails.
    poll_wait: Duration,
    worker: u32,
    partitions: BTreeSet<PartitionId>,
    /// Asks the log for the first offset that it still has of a partition.
    starts: Starts,
    watch: IdentityWatch,
    /// Partitions that process events again.
    redoing: BTreeSet<PartitionId>,
    /// Partitions that do not go on by themselves, whatever plugin comes.
    stopped: BTreeSet<PartitionId>,
    /// Stopped partitions that the worker tries again now and then.
    given_up: GivenUp,
    /// How many times the worker went back to what is committed.
    rewinds: u64,
    /// When an idle worker may write its own rows again, after a write that failed.
    chores_at: Instant,
    /// Partitions that wait for a plugin.
    waiting: BTreeSet<PartitionId>,
    /// Partitions that the worker could not begin with yet.
    unbegun: BTreeMap<PartitionId, PendingStart>,
    reported: Counts,
    /// The metrics that the worker counts in.
    handles: Handles,
    gap: Gap,
    /// The instant by which a stopping worker must have ended.
    stopping: Option<Instant>,
}

impl WorkerLoop {
    fn run(mut self) {
        while self.stopping.is_none() {
            self.step();
        }
        self.commit();
        let partitions: Vec<_> = self.partitions.iter().copied().collect();
        self.member.release(&partitions);
        self.status.forget(self.partitions.iter());
        self.status.goes_on(self.worker);
        self.status.looked_at_topics(self.worker, None);
        tracing::debug!(pipeline = %self.pipeline.name, worker = self.worker, "worker ended");
    }

    /// One poll and what follows from it.
    fn step(&mut self) {
        self.take_orders();
        if self.stopping.is_some() {
            return;
        }
        self.begin_rollbacks();
        self.begin_due();
        self.try_again();
        // A worker that gets events is never idle, so it looks here whether the topic
        // is back.
        if self.is_a_topic_missing() {
            self.look_at_topics();
        }
        let is_restoring = self.processing.is_restoring();
        let timeout = match self.processing.pending_since() {
            None if !is_restoring => IDLE_WAIT,
            _ => Duration::ZERO,
        };
        let poll_bytes = match self.warmup {
            Some(_) => self.poll_bytes.min(EASED_POLL_BYTES),
            None => self.poll_bytes,
        };
        let polled = self.member.poll(timeout, poll_bytes);
        if polled.is_ok() {
            self.poll_wait = RETRY_WAIT_MIN;
        }
        match polled {
            Ok(Polled::Records(fetched)) if self.given_up.has_trials() => {
                self.accept_apart(fetched);
            }
            Ok(Polled::Records(fetched)) => {
                match self.processing.accept(fetched) {
                    Ok(stops) => self.stop_partitions(stops),
                    Err(interrupted) => self.start_over(&interrupted),
                }
                if is_restoring || self.is_due() {
                    self.commit();
                }
            }
            Ok(Polled::Idle) => {
                self.warmup = self.warmup.take().filter(|warmup| !warmup.few_open);
                if is_restoring || self.processing.pending_since().is_some() {
                    self.commit();
                } else {
                    self.status.goes_on(self.worker);
                    self.gap.idle(Instant::now());
                    self.do_chores();
                    self.look_at_topics();
                    self.processing.close_idle(Instant::now());
                    self.report_gauges();
                }
            }
            Ok(Polled::Assigned(assignments)) => {
                let given = assignments.iter().map(|given| given.partition);
                self.rebalanced(Change::Assigned, &given.collect::<Vec<_>>());
                self.begin(&assignments);
                self.wait_for_plugin();
                self.go_where_moved();
                self.note_redo();
            }
            Ok(Polled::Revoked(partitions)) => {
                self.rebalanced(Change::Revoked, &partitions);
                self.let_go(&partitions);
            }
            Ok(Polled::Lost(partitions)) => {
                self.rebalanced(Change::Lost, &partitions);
                self.lose(&partitions);
            }
            Ok(Polled::Stopped { partition, error }) => {
                // The records before the error are good, so they are committed.
                self.commit();
                let error = self.true_reason(error);
                let code = self.code_of(partition, &error);
                tracing::error!(pipeline = %self.pipeline.name, worker = self.worker, partition = partition.0, code, reason = %error, "partition does not go on");
                self.processing.unassign(&[partition]);
                self.forget(partition);
                self.note(
                    partition,
                    PartitionState::Stopped,
                    Some((code, error.to_string())),
                );
            }
            Err(error) => {
                tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, code = error.code(), %error, "poll failed");
                std::thread::sleep(self.poll_wait);
                self.poll_wait = (self.poll_wait * 2).min(RETRY_WAIT_MAX);
            }
        }
    }

    fn is_due(&self) -> bool {
        let settings = &self.pipeline.processing;
        // Polls are this small after a run went over its budget. Each commit doubles
        // them, so the worker commits at once.
        if self.poll_bytes < settings.poll_bytes_max.min(EASED_POLL_BYTES) {
            return true;
        }
        let interval = match self.warmup {
            Some(_) => settings.commit_interval.min(EASED_COMMIT_INTERVAL),
            None => settings.commit_interval,
        };
        self.processing.pending_bytes() >= settings.commit_bytes_max
            || self
                .processing
                .pending_since()
                .is_some_and(|since| since.elapsed() >= interval)
    }

    /// Decides after a commit of `entities` entities whether eased mode may end.
    fn note_opened(&mut self, entities: usize) {
        let opened = self.processing.counts.opens - self.reported.opens;
        if let Some(warmup) = &mut self.warmup {
            warmup.few_open = entities > 0 && opened * FEW_OPENED < entities as u64;
            if Instant::now() >= warmup.until {
                self.warmup = None;
            }
        }
    }

    fn take_orders(&mut self) {
        self.interrupt.store(false, Ordering::Relaxed);
        while let Ok(order) = self.inbox.try_recv() {
            match order {
                Order::Stop(told) => {
                    self.stopping = Some(told + self.pipeline.processing.drain_deadline);
                    return;
                }
                Order::Activate { slot, active, done } => {
                    self.commit();
                    let is_first = self.processing.is_in_force(&slot, None);
                    self.processing.activate(&slot, active);
                    if !is_first {
                        self.gap.taken_over();
                        self.warmup = Warmup::begin();
                    }
                    self.wait_for_plugin();
                    self.go_on_waiting();
                    // The send fails if the caller no longer waits, and then no answer
                    // is needed.
                    drop(done.send(self.processing.positions().collect()));
                }
                Order::Rollback {
                    slot,
                    directive,
                    active,
                    done,
                } => {
                    self.commit();
                    // An order that is given again finds the plugin in force already.
                    if !self.processing.is_in_force(&slot, active.as_ref()) {
                        self.processing.activate(&slot, active);
                        self.gap.taken_over();
                        self.warmup = Warmup::begin();
                    }
                    tracing::info!(pipeline = %self.pipeline.name, worker = self.worker, %slot, bad = %directive.bad.short(), "rollback");
                    self.processing.direct(directive);
                    self.begin_rollbacks();
                    self.commit();
                    self.wait_for_plugin();
                    self.go_on_waiting();
                    // The rollback may wait for the log, or may not be on disk yet.
                    // Then the order gets no answer, and its caller gives it again.
                    if !self.processing.is_to_begin() {
                        let redone = self.processing.redoing();
                        drop(done.send(redone.map(|(id, redone, _)| (id, redone)).collect()));
                    }
                }
                Order::Withdraw { slot, id, done } => {
                    self.commit();
                    self.processing.withdraw(&slot, id);
                    self.go_where_moved();
                    done.send(()).ok();
                }
                Order::Confirm {
                    slot,
                    digest,
                    at,
                    done,
                } => {
                    self.commit();
                    for released in self.processing.confirm(&slot, digest, at) {
                        if self.stopped.remove(&released) && self.processing.has_default() {
                            self.waiting.insert(released);
                        }
                    }
                    if self.commit_idle(None) {
                        done.send(()).ok();
                    } else {
                        self.rewind();
                    }
                    self.wait_for_plugin();
                    self.go_on_waiting();
                }
            }
        }
    }

    /// Commits what is pending, however long it takes: until then nothing else
    /// is read, so that memory stays bounded.
    fn commit(&mut self) {
        if self.commit_by(None) {
            return;
        }
        // The worker must stop, or the group has waited long enough for its partitions.
        // Uncommitted events are not lost: they are read again after the next start, or
        // now.
        self.rewind();
    }

    /// Commits and releases partitions that another member waits for. At the drain
    /// deadline they go without the commit, and their next member reads the events
    /// again.
    fn let_go(&mut self, partitions: &[PartitionId]) {
        let deadline = Instant::now() + self.pipeline.processing.drain_deadline;
        let is_done = self.commit_by(Some(deadline));
        self.lose(partitions);
        self.member.release(partitions);
        if !is_done {
            tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, partitions = partitions.len(), "partitions go without a last commit");
            self.rewind();
        }
    }

    /// Commits what is pending. Returns false when a deadline passed first (this one,
    /// or that of a stop or a revoke): then everything is still pending.
    fn commit_by(&mut self, deadline: Option<Instant>) -> bool {
        let prepared = self.processing.prepare();
        self.write(prepared, deadline)
    }

    /// Commits what is pending, and what an idle worker has to write. Returns false as
    /// [`commit_by`](Self::commit_by) does.
    fn commit_idle(&mut self, deadline: Option<Instant>) -> bool {
        let prepared = self.processing.prepare_idle();
        self.write(prepared, deadline)
    }

    fn write(&mut self, prepared: CommitPlan, mut deadline: Option<Instant>) -> bool {
        let (commit, stops) = match prepared {
            Ok(prepared) => prepared,
            Err(interrupted) => {
                self.start_over(&interrupted);
                return true;
            }
        };
        self.stop_partitions(stops);
        let Some(commit) = commit else {
            self.go_where_moved();
            return true;
        };
        self.status.waits(self.worker);
        let started = Instant::now();
        // The first retry comes at once: a group that has just moved on takes it.
        let mut wait = Duration::ZERO;
        loop {
            deadline = deadline.into_iter().chain(self.stopping).min();
            let outcome = match deadline {
                None => self.member.commit(&commit),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.member.commit_within(&commit, left)
                }
            };
            match outcome {
                Ok(()) => break,
                Err(error @ LogError::Fenced { .. }) => {
                    self.handles.commit_failed(error.code(), 1);
                    self.status
                        .waits_for(self.worker, error.code(), error.to_string());
                    tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, code = error.code(), %error, "commit fenced");
                    // The rewind seeks each partition: those that the member still has
                    // go on, and the others are forgotten.
                    self.rewind();
                    return true;
                }
                Err(error) if !error.may_pass() => {
                    self.handles.commit_failed(error.code(), 1);
                    self.give_up(&commit, &error);
                    return true;
                }
                Err(error) => {
                    self.handles.commit_failed(error.code(), 1);
                    self.status
                        .waits_for(self.worker, error.code(), error.to_string());
                    tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, code = error.code(), %error, "commit failed, trying again");
                }
            }
            let now = Instant::now();
            if deadline.is_none() && self.member.is_waited_for() {
                deadline = Some(now + self.pipeline.processing.drain_deadline);
            }
            if self.must_stop() || deadline.is_some_and(|deadline| now >= deadline) {
                return false;
            }
            std::thread::sleep(deadline.map_or(wait, |deadline| wait.min(deadline - now)));
            wait = (wait * 2).clamp(RETRY_WAIT_MIN, RETRY_WAIT_MAX);
        }
        self.status.goes_on(self.worker);
        self.note_opened(self.processing.entities_pending());
        self.processing.settle(&commit);
        self.note_recovered(&commit);
        self.wait = RETRY_WAIT_MIN;
        let poll_bytes_max = self.pipeline.processing.poll_bytes_max;
        if self.poll_bytes < poll_bytes_max {
            self.poll_bytes = (self.poll_bytes * 2).min(poll_bytes_max);
            self.set_budget();
        }
        self.go_where_moved();
        self.note_redo();
        self.report(&commit, started.elapsed());
        true
    }

    /// Stops the partitions of a commit that the log refuses and would refuse again.
    /// The worker tries them again later if somebody may mend the cause.
    fn give_up(&mut self, commit: &Commit, error: &LogError) {
        self.status.goes_on(self.worker);
        if matches!(error, LogError::TopicRecreated { .. }) {
            self.stop_all(error);
            return;
        }
        self.processing.abort();
        let mut stops = Vec::with_capacity(commit.offsets.len());
        for (partition, _) in &commit.offsets {
            match self.processing.committed(*partition) {
                Some(next) if error.may_be_mended() => {
                    self.given_up.add(*partition, next, Instant::now());
                }
                _ => self.given_up.forget(*partition),
            }
            self.processing.unassign(&[*partition]);
            let stop = Stop {
                code: error.code(),
                reason: format!("commit: {error}"),
                waits: false,
            };
            stops.push((*partition, stop));
        }
        self.stop_partitions(stops);
    }

    /// Takes a partition up again that was given up a while ago. It counts as stopped
    /// until something of it is committed.
    fn try_again(&mut self) {
        let Some((partition, next)) = self.given_up.take_due(Instant::now()) else {
            return;
        };
        // No pending record of another partition may share a commit with this one.
        if self.processing.pending_since().is_some() {
            self.commit();
        }
        let begun = self.processing.position_row(partition).and_then(|row| {
            let start = row.map_or_else(|| Start::fresh(next), |row| Start::of(&row));
            self.processing.assign(partition, start)
        });
        if let Err(error) = begun {
            tracing::warn!(pipeline = %self.pipeline.name, partition = partition.0, code = error.code(), %error, "what ran here before is not read, trying again");
            self.given_up.add(partition, next, Instant::now());
            return;
        }
        let position = self.processing.positions().find(|(id, _)| *id == partition);
        let position = position.map_or(next, |(_, position)| position);
        if self.seek(partition, position) {
            self.member.resume(&[partition]);
        }
    }

    /// Processes and commits the records of each partition by themselves.
    fn accept_apart(&mut self, fetched: Vec<Fetched>) {
        for of_partition in fetched {
            let rewinds = self.rewinds;
            match self.processing.accept(vec![of_partition]) {
                Ok(stops) => self.stop_partitions(stops),
                Err(interrupted) => self.start_over(&interrupted),
            }
            self.commit();
            // After a rewind the records that are left are read again.
            if self.rewinds != rewinds || self.stopping.is_some() {
                return;
            }
        }
    }

    /// A partition that was given up goes on once a commit of it succeeded.
    fn note_recovered(&mut self, commit: &Commit) {
        let committed = commit.offsets.iter().map(|(partition, _)| *partition);
        for partition in self.given_up.take_committed(committed) {
            self.stopped.remove(&partition);
            if self.is_running(partition) {
                tracing::info!(pipeline = %self.pipeline.name, partition = partition.0, "partition goes on again");
                self.note(partition, PartitionState::Running, None);
            }
        }
    }

    fn set_budget(&mut self) {
        let settings = &self.pipeline.processing;
        // A poll that could not be smaller is run to its end.
        let budget = (self.poll_bytes > 1).then(|| Budget {
            bytes_max: settings.commit_bytes_max * BUDGET_COMMITS,
            time_max: RUN_TIME_MAX,
            interrupt: Arc::clone(&self.interrupt),
        });
        self.processing.set_budget(budget);
    }

    /// Whether a worker that was told to stop is out of time. An order to stop
    /// that comes while a commit is tried again and again is seen here.
    fn must_stop(&mut self) -> bool {
        // An order needs a commit first, so one that arrives here is dropped. Its
        // caller sees that no answer will come, and gives it again.
        if self.stopping.is_none()
            && let Ok(Order::Stop(told)) = self.inbox.try_recv()
        {
            self.stopping = Some(told + self.pipeline.processing.drain_deadline);
        }
        self.stopping
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Goes back to what is committed after records were not run to their end, and
    /// reads them again from there.
    fn start_over(&mut self, why: &Interrupted) {
        self.rewind();
        match why {
            Interrupted::Hurried => return,
            Interrupted::TooMuch => {
                self.poll_bytes = (self.poll_bytes / 8).max(1);
                self.set_budget();
            }
            // Each try may take as long again. A poll of the smallest size has no
            // budget, so the next try is the last.
            Interrupted::TooLong => {
                self.poll_bytes = 1;
                self.set_budget();
            }
            Interrupted::Log(error) => {
                self.status
                    .waits_for(self.worker, error.code(), error.to_string());
                std::thread::sleep(self.wait);
                self.wait = (self.wait * 2).min(RETRY_WAIT_MAX);
            }
        }
        tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, poll_bytes = self.poll_bytes, %why, "processing starts over from the last commit");
    }

    /// Goes back to what is committed. A worker that stops does not read it again.
    fn rewind(&mut self) {
        self.rewinds += 1;
        self.processing.abort();
        if self.stopping.is_some() {
            return;
        }
        let positions: Vec<_> = self.processing.positions().collect();
        for (partition, next) in positions {
            self.seek(partition, next);
        }
    }

    /// Writes the rows that an idle worker has to write. No caller waits for them, so a
    /// try is short, and a failed one is repeated later.
    fn do_chores(&mut self) {
        let now = Instant::now();
        if now < self.chores_at || !self.processing.has_chores(now_ms()) {
            return;
        }
        if !self.commit_idle(Some(now + CHORES_TIME_MAX)) {
            self.rewind();
            self.chores_at = now + CHORES_WAIT;
        }
    }

    /// Checks that the log still has the events that rollbacks need, before they change
    /// anything.
    fn begin_rollbacks(&mut self) {
        for (partition, from) in self.processing.wanted() {
            match (self.starts)(partition) {
                Ok(start) if from < start => {
                    let stop = self.processing.refuse(partition, from, start);
                    self.stop_partitions(vec![(partition, stop)]);
                }
                Ok(_) => self.processing.approve(partition),
                Err(error) => {
                    tracing::warn!(pipeline = %self.pipeline.name, partition = partition.0, code = error.code(), %error, "rollback waits for the log");
                    std::thread::sleep(RETRY_WAIT_MIN);
                }
            }
        }
    }

    /// Seeks the partitions that go on at another offset because of a rollback.
    fn go_where_moved(&mut self) {
        for (partition, next) in self.processing.moved() {
            match (self.starts)(partition) {
                // Retention has deleted the events meanwhile.
                Ok(start) if next < start => {
                    let stop = self.processing.refuse(partition, next, start);
                    self.stop_partitions(vec![(partition, stop)]);
                }
                // If the log does not answer, the read will show whether the events are
                // there.
                _ => {
                    self.seek(partition, next);
                }
            }
        }
    }

    /// Notes in the status how far each rollback has come, and which ones are done.
    fn note_redo(&mut self) {
        let redoing: BTreeMap<_, _> = self
            .processing
            .redoing()
            .map(|(partition, redone, next)| (partition, (redone, next)))
            .collect();
        for (partition, (redone, next)) in &redoing {
            if self.waiting.contains(partition) {
                continue;
            }
            let reason = format!(
                "after a rollback: from offset {} up to {}, now at {next}",
                redone.from, redone.until
            );
            self.status.set(
                *partition,
                PartitionStatus {
                    worker: self.worker,
                    state: PartitionState::Redoing,
                    code: None,
                    reason: Some(reason),
                },
            );
        }
        for partition in std::mem::take(&mut self.redoing) {
            if redoing.contains_key(&partition) || self.stopped.contains(&partition) {
                continue;
            }
            tracing::info!(pipeline = %self.pipeline.name, partition = partition.0, "a rollback is done");
            if self.is_running(partition) {
                self.note(partition, PartitionState::Running, None);
            }
        }
        self.redoing = redoing.into_keys().collect();
    }

    fn forget(&mut self, partition: PartitionId) {
        self.partitions.remove(&partition);
        self.waiting.remove(&partition);
        self.unbegun.remove(&partition);
        self.redoing.remove(&partition);
        self.stopped.remove(&partition);
        self.given_up.forget(partition);
    }

    fn is_running(&self, partition: PartitionId) -> bool {
        self.partitions.contains(&partition)
            && !self.waiting.contains(&partition)
            && !self.unbegun.contains_key(&partition)
            && !self.stopped.contains(&partition)
    }

    /// Makes the member read a partition from `next`. Returns false when that fails and
    /// the partition stops, because reading on from another offset would skip events.
    fn seek(&mut self, partition: PartitionId, next: Offset) -> bool {
        let since = Instant::now();
        let mut wait = RETRY_WAIT_MIN;
        loop {
            let Err(error) = self.member.seek(partition, next) else {
                return true;
            };
            tracing::warn!(pipeline = %self.pipeline.name, partition = partition.0, code = error.code(), %error, "seek failed");
            if matches!(error, LogError::Fenced { .. }) {
                self.lose(&[partition]);
                return false;
            }
            let within = if self.member.is_waited_for() {
                self.pipeline.processing.drain_deadline
            } else {
                SEEK_WITHIN
            };
            if !error.may_pass() || since.elapsed() >= within || self.must_stop() {
                let stop = Stop {
                    code: self.code_of(partition, &error),
                    reason: format!("to read from offset {next}: {error}"),
                    waits: false,
                };
                if error.may_pass()
                    && let Some(next) = self.processing.committed(partition)
                {
                    self.given_up.add(partition, next, Instant::now());
                }
                self.processing.unassign(&[partition]);
                self.stop_partitions(vec![(partition, stop)]);
                return false;
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(RETRY_WAIT_MAX);
        }
    }

    /// The code under which an error stops a partition. A rollback has a code of its
    /// own for events that the log no longer has.
    fn code_of(&self, partition: PartitionId, error: &LogError) -> &'static str {
        let is_redone = self.redoing.contains(&partition)
            || self
                .processing
                .redoing()
                .any(|(redone, ..)| redone == partition);
        if is_redone && matches!(error, LogError::OffsetOutOfRange { .. }) {
            OUT_OF_RANGE
        } else {
            error.code()
        }
    }

    fn lose(&mut self, partitions: &[PartitionId]) {
        self.processing.unassign(partitions);
        for partition in partitions {
            self.forget(*partition);
        }
        self.status.forget(partitions.iter());
        if self.partitions.is_empty() {
            self.status.goes_on(self.worker);
        }
    }

    fn stop_partitions(&mut self, stops: Vec<(PartitionId, Stop)>) {
        for (partition, stop) in stops {
            self.member.pause(&[partition]);
            let state = if stop.waits {
                self.waiting.insert(partition);
                PartitionState::Waiting
            } else {
                self.waiting.remove(&partition);
                self.stopped.insert(partition);
                PartitionState::Stopped
            };
            tracing::error!(
                pipeline = %self.pipeline.name,
                partition = partition.0,
                code = stop.code,
                reason = %stop.reason,
                "partition does not go on",
            );
            self.note(partition, state, Some((stop.code, stop.reason)));
        }
    }

    /// Without a default plugin, all partitions wait for it.
    fn wait_for_plugin(&mut self) {
        if self.processing.has_default() {
            return;
        }
        let running = self.partitions.iter().copied();
        let running: Vec<_> = running.filter(|id| self.is_running(*id)).collect();
        self.member.pause(&running);
        for partition in running {
            self.waiting.insert(partition);
            let reason = format!("put a plugin into {}/default.wasm", self.pipeline.name);
            self.note(
                partition,
                PartitionState::Waiting,
                Some(("plugin-missing", reason)),
            );
        }
    }

    /// Resumes the partitions that waited for a plugin; each may stop again.
    fn go_on_waiting(&mut self) {
        if !self.processing.has_default() {
            return;
        }
        let mut going = Vec::new();
        for partition in std::mem::take(&mut self.waiting) {
            if let Some(next) = self.processing.resume(partition)
                && self.seek(partition, next)
            {
                self.note(partition, PartitionState::Running, None);
                going.push(partition);
            }
        }
        self.member.resume(&going);
        self.note_redo();
    }

    fn note(
        &self,
        partition: PartitionId,
        state: PartitionState,
        why: Option<(&'static str, String)>,
    ) {
        let (code, reason) = why.unzip();
        self.status.set(
            partition,
            PartitionStatus {
                worker: self.worker,
                state,
                code,
                reason,
            },
        );
    }

    fn report(&mut self, commit: &Commit, took: Duration) {
        let counts = self.processing.counts;
        let before = std::mem::replace(&mut self.reported, counts);
        self.handles.committed(
            counts.events - before.events,
            counts.emissions - before.emissions,
            counts.duplicates - before.duplicates,
            took,
        );
        let moved = commit
            .offsets
            .iter()
            .map(|(partition, next)| (*partition, *next, self.processing.events_of(*partition)));
        self.status.figures().committed(moved);
        let events = counts.events - before.events;
        if let Some(gap) = self.gap.committed(events, Instant::now()) {
            self.handles.gap(gap);
        }
        self.report_gauges();
        if counts.dead_letters > before.dead_letters {
            self.report_dead_letters(commit);
        }
    }

    fn report_gauges(&self) {
        let processing = &self.processing;
        let (entities, instances) = (processing.entities_open(), processing.instances());
        self.handles.hold(entities, instances);
        let figures = self.status.figures();
        figures.worker_used(self.worker, thread_cpu_time());
    }

    fn rebalanced(&self, change: Change, partitions: &[PartitionId]) {
        self.handles.rebalanced(change);
        let numbers: Vec<_> = partitions.iter().map(|id| id.0.to_string()).collect();
        tracing::info!(
            pipeline = %self.pipeline.name,
            worker = self.worker,
            change = change.word(),
            partitions = numbers.join(","),
            "partitions change hands",
        );
    }

    /// Logs the dead letters of a commit, for somebody to look at. A flood of them is
    /// logged as a few and the number of the rest.
    fn report_dead_letters(&self, commit: &Commit) {
        let letters = || {
            commit
                .records
                .iter()
                .filter(|(place, _)| place.topic == self.pipeline.dead_letter)
        };
        let text = |record: &NewRecord, name: &str| {
            let header = record.headers.iter().find(|header| &*header.name == name);
            let value = header.and_then(|header| header.value.as_deref());
            String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
        };
        let mut by_code = BTreeMap::<String, u64>::new();
        for (_, record) in letters() {
            *by_code
                .entry(text(record, &output::ERROR_CODE))
                .or_default() += 1;
        }
        for (code, count) in by_code {
            self.handles.dead_letters(&code, count);
        }
        for (_, record) in letters().take(DEAD_LETTERS_LOGGED_MAX) {
            let header = |name: &str| text(record, name);
            let key = record.key.as_deref().unwrap_or_default();
            let key = key.get(..KEY_LOGGED_BYTES_MAX).unwrap_or(key);
            tracing::warn!(
                pipeline = %self.pipeline.name,
                key = %String::from_utf8_lossy(key),
                code = header(&output::ERROR_CODE),
                reason = header(&output::ERROR_REASON),
                source = header(&output::SOURCE),
                "dead letter",
            );
        }
        let more = letters().count().saturating_sub(DEAD_LETTERS_LOGGED_MAX);
        if more > 0 {
            tracing::warn!(pipeline = %self.pipeline.name, more, "dead letters");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
