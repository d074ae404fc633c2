//! The thread of a worker: it does what the worker's core decides.

mod log;
mod report;
mod watch;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use courtside_log::{GroupSpec, LogError, Member, RecordLog};
use courtside_process::{
    backoff::Backoff,
    shutdown::{self, End},
};
use courtside_types::{Offset, PartitionId};
use crossbeam_channel::Receiver;

use self::watch::IdentityWatch;
pub use super::orders::{Order, Orders, Takeover};
use super::{
    core::{Action, Answer, Core, Input, RETRY},
    metrics::Handles,
    status::PipelineStatus,
};
use crate::pipeline::Pipeline;

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
        let mut core = Core::new(
            Arc::clone(pipeline),
            log.checkpoints(&pipeline.group)?,
            worker,
            orders.interrupt(),
            Instant::now(),
        );
        core.count_in(Arc::clone(status.gauges()));
        let running = WorkerLoop {
            pipeline: Arc::clone(pipeline),
            status: Arc::clone(status),
            worker,
            core,
            member,
            inbox,
            interrupt: orders.interrupt(),
            starts,
            watch: IdentityWatch::of_log(log, &pipeline.identity),
            poll_backoff: RETRY,
            handles: Handles::new(&pipeline.name, worker),
            stopping: None,
        };
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

/// The loop around a worker's core: it does what the core decides.
struct WorkerLoop {
    pipeline: Arc<Pipeline>,
    status: Arc<PipelineStatus>,
    worker: u32,
    core: Core,
    member: Box<dyn Member>,
    inbox: Receiver<Order>,
    interrupt: Arc<AtomicBool>,
    /// Asks the log for the first offset that it still has of a partition.
    starts: Starts,
    watch: IdentityWatch,
    /// How long to wait after the next poll that fails.
    poll_backoff: Backoff,
    /// The metrics that the worker counts in.
    handles: Handles,
    /// The instant by which a stopping worker must have ended.
    stopping: Option<Instant>,
}

impl WorkerLoop {
    fn run(mut self) {
        while self.stopping.is_none() {
            self.step();
        }
        self.feed(Input::Stop);
        self.status.looked_at_topics(self.worker, None);
        tracing::debug!(pipeline = %self.pipeline.name, worker = self.worker, "worker ended");
    }

    /// Carries out the orders that wait, and then one turn.
    fn step(&mut self) {
        self.take_orders();
        if self.stopping.is_none() {
            self.feed(Input::Turn);
        }
    }

    /// Carries out the orders that wait, each between two commits.
    fn take_orders(&mut self) {
        self.interrupt.store(false, Ordering::Relaxed);
        while let Ok(order) = self.inbox.try_recv() {
            match order {
                Order::Stop(at) => {
                    self.stopping = Some(at + self.pipeline.settings.drain_deadline);
                    return;
                }
                order => self.feed(Input::Order(order)),
            }
        }
    }

    /// Whether a worker that was told to stop is out of time. An order to stop
    /// that comes while a commit is tried again and again is seen here.
    fn must_stop(&mut self) -> bool {
        // An order needs a commit first, so one that arrives here is dropped. Its
        // caller sees that no answer will come, and gives it again. An order to stop may
        // stand behind others.
        while self.stopping.is_none()
            && let Ok(order) = self.inbox.try_recv()
        {
            if let Order::Stop(at) = order {
                self.stopping = Some(at + self.pipeline.settings.drain_deadline);
            }
        }
        self.stopping
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Gives the core an input, and carries out what follows until the core asks for
    /// nothing more.
    fn feed(&mut self, input: Input) {
        let actions = self.core.step(input, Instant::now());
        self.carry_out(actions);
    }

    fn carry_out(&mut self, mut actions: Vec<Action>) {
        loop {
            let mut answer = None;
            for action in actions {
                answer = self.act(action);
            }
            let Some(input) = answer else {
                return;
            };
            // An order to stop may have come while the log was called.
            if self.stopping.is_some() {
                self.core.stop_reading();
            }
            actions = self.core.step(input, Instant::now());
        }
    }

    /// Carries out an action, and returns the answer if it asks for one.
    fn act(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Poll { wait, bytes_max } => return Some(self.poll(wait, bytes_max)),
            Action::Commit { commit, by } => {
                return Some(Input::CommitEnded(self.commit(&commit, by)));
            }
            Action::Seek { partition, next } => {
                return Some(Input::Sought(self.seek(partition, next)));
            }
            Action::FindStart(partition) => return Some(Input::Start((self.starts)(partition))),
            Action::CheckTopics => return Some(Input::Topics(self.look_at_topics())),
            Action::Pause(partitions) => self.member.pause(&partitions),
            Action::Resume(partitions) => self.member.resume(&partitions),
            Action::Release(partitions) => self.member.release(&partitions),
            Action::Sleep(time) => {
                std::thread::sleep(time);
                return Some(Input::Slept);
            }
            // A send fails if the caller no longer waits, and then no answer is needed.
            Action::Answer(Answer::Done(done)) => drop(done.send(())),
            Action::Answer(Answer::Takeover(done, takeover)) => drop(done.send(takeover)),
            Action::Answer(Answer::Redone(done, redone)) => drop(done.send(redone)),
            Action::Report(report) => self.report(report),
        }
        None
    }

    fn look_at_topics(&self) -> Result<(), LogError> {
        let looked = self.watch.look();
        let gone = match &looked {
            Err(error @ (LogError::TopicMissing { .. } | LogError::TopicRecreated { .. })) => {
                Some((error.code(), error.to_string()))
            }
            _ => None,
        };
        self.status.looked_at_topics(self.worker, gone);
        looked
    }
}

#[cfg(test)]
pub(crate) mod tests;
