//! The thread around [`Processing`]: it polls, commits, and carries out orders between
//! two commits.

mod begin;
mod commit;
mod orders;
mod partitions;
mod report;
mod retry;
mod rollback;
mod warmup;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use courtside_log::{GroupSpec, LogError, Member, Polled, RecordLog};
use courtside_process::shutdown::{self, End};
use courtside_types::{Offset, PartitionId};
use crossbeam_channel::Receiver;

pub use self::orders::{Order, Orders, Takeover};
use self::{
    begin::{IdentityWatch, PendingStart},
    warmup::{WARMUP_POLL_BYTES, Warmup},
};
use super::{
    gauges::Gap,
    given_up::GivenUp,
    metrics::{Change, Handles},
    processing::{Counts, Processing, Stop},
    status::{PartitionState, PipelineStatus},
};
use crate::pipeline::Pipeline;

/// How long an idle worker waits in a poll, and so how late it may notice an order.
const IDLE_WAIT: Duration = Duration::from_millis(25);
const RETRY_WAIT_MIN: Duration = Duration::from_millis(20);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(1);
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
            workers: pipeline.settings.workers,
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
            run_retry_wait: RETRY_WAIT_MIN,
            poll_retry_wait: RETRY_WAIT_MIN,
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
        running.poll_bytes = pipeline.settings.poll_bytes_max;
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
    run_retry_wait: Duration,
    /// How long to wait after the next poll that fails.
    poll_retry_wait: Duration,
    worker: u32,
    partitions: BTreeSet<PartitionId>,
    /// Asks the log for the first offset that it still has of a partition.
    starts: Starts,
    watch: IdentityWatch,
    /// Partitions that process events again.
    redoing: BTreeSet<PartitionId>,
    /// Stopped partitions, which no plugin makes go on.
    stopped: BTreeSet<PartitionId>,
    /// The stopped partitions that the worker tries again now and then.
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
            Some(_) => self.poll_bytes.min(WARMUP_POLL_BYTES),
            None => self.poll_bytes,
        };
        let polled = self.member.poll(timeout, poll_bytes);
        if polled.is_ok() {
            self.poll_retry_wait = RETRY_WAIT_MIN;
        }
        self.take_polled(polled, is_restoring);
    }

    fn take_polled(&mut self, polled: Result<Polled, LogError>, is_restoring: bool) {
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
                self.warmup = self.warmup.take().filter(|warmup| !warmup.ends_when_idle());
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
            Ok(Polled::Stopped { partition, error }) => self.stop_at(partition, error),
            Err(error) => {
                tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, code = error.code(), %error, "poll of the record log failed, trying again");
                std::thread::sleep(self.poll_retry_wait);
                self.poll_retry_wait = (self.poll_retry_wait * 2).min(RETRY_WAIT_MAX);
            }
        }
    }

    /// Stops a partition whose records cannot be read on.
    fn stop_at(&mut self, partition: PartitionId, error: LogError) {
        // The records before the error are good, so they are committed.
        self.commit();
        let error = self.true_reason(error);
        let code = self.code_of(partition, &error);
        tracing::error!(pipeline = %self.pipeline.name, worker = self.worker, partition = partition.0, code, reason = %error, "partition is not processed");
        self.processing.unassign(&[partition]);
        self.forget(partition);
        self.note(
            partition,
            PartitionState::Stopped,
            Some((code, error.to_string())),
        );
    }
}

#[cfg(test)]
pub(crate) mod tests;
