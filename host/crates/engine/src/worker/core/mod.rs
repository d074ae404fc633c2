//! The core of a worker: it decides what the worker does next, and does nothing itself.
//!
//! [`Core::step`] takes an [`Input`] and returns the [`Action`]s that follow from it.
//! The loop carries them out, and gives the answer to the last one as the next input,
//! until an action list asks for no answer: then the turn is over. The core reads
//! checkpoints and calls plugins through [`Processing`], but it writes nothing and waits
//! for nobody.
//!
//! An input is the records of a poll, an order, or the end of a commit. Actions are to
//! poll, commit, seek, pause or report. [`partitions`] has the one state of each
//! partition.
//!
//! A commit is due when a poll comes back empty, after `worker.commit_interval`, or at
//! `worker.commit_bytes_max` ([`pace`]). A poll may lead to too much: a plugin emits
//! megabytes an event, or uses its whole deadline for each. The worker then goes back
//! to its last commit and reads less at a time ([`retry`]). It also goes back while a
//! swap or the end of the host waits for it, once a run has taken 250 ms.
//!
//! A stopped partition is tried again if the reason may pass ([`given_up`]). A
//! partition that waits for a plugin is not tried by the clock. The next activation,
//! rollback or confirmation in any slot tries all partitions that wait ([`stop`]).

mod agenda;
mod begin;
mod commit;
mod given_up;
#[cfg(test)]
mod inspect;
mod orders;
mod pace;
mod partitions;
mod retry;
mod rollback;
mod stop;
mod topics;
mod warmup;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use courtside_log::{Checkpoints, Polled};
use courtside_process::backoff::Backoff;
use courtside_types::PartitionId;

pub(super) use self::agenda::{Action, Answer, CommitEnd, Input, Progress, Report, SeekError};
use self::{
    agenda::{AfterTopics, Agenda, Awaiting, Committing, Job},
    given_up::GivenUp,
    pace::Pace,
    partitions::Partitions,
    topics::TopicWatch,
};
use super::{
    gauges::{Gap, PipelineGauges},
    processing::{Counts, Processing},
};
use crate::pipeline::Pipeline;

/// How long an idle worker waits in a poll, and so how late it may notice an order.
const IDLE_WAIT: Duration = Duration::from_millis(25);
/// The waits between tries of one call of the log.
pub(super) const RETRY: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));

/// All that a worker knows.
pub(super) struct Core {
    pipeline: Arc<Pipeline>,
    worker: u32,
    processing: Processing,
    partitions: Partitions,
    /// The stopped partitions that the worker tries again now and then.
    given_up: GivenUp,
    topics: TopicWatch,
    pace: Pace,
    agenda: Agenda,
    /// The time of the current step.
    now: Instant,
    /// How long to wait after the next log error that interrupts a run.
    run_backoff: Backoff,
    /// How many times the worker went back to what is committed.
    rewinds: u64,
    /// When an idle worker may write its own rows again, after a write that failed.
    chores_at: Instant,
    /// Partitions that waited for a plugin and are about to go on.
    resuming: Vec<PartitionId>,
    /// The worker ends, so it no longer reads what it did not commit.
    is_stopping: bool,
    reported: Counts,
    gap: Gap,
}

impl Core {
    pub fn new(
        pipeline: Arc<Pipeline>,
        checkpoints: Arc<dyn Checkpoints>,
        worker: u32,
        interrupt: Arc<AtomicBool>,
        now: Instant,
    ) -> Self {
        let pace = Pace::new(&pipeline.settings, interrupt);
        let mut processing = Processing::new(Arc::clone(&pipeline), checkpoints);
        processing.set_budget(pace.budget());
        Self {
            pipeline,
            worker,
            processing,
            partitions: Partitions::default(),
            given_up: GivenUp::default(),
            topics: TopicWatch::default(),
            pace,
            agenda: Agenda::default(),
            now,
            run_backoff: RETRY,
            rewinds: 0,
            chores_at: now,
            resuming: Vec::new(),
            is_stopping: false,
            reported: Counts::default(),
            gap: Gap::new(now),
        }
    }

    /// Sets the gauges in which the calls of plugins are counted.
    pub fn count_in(&mut self, gauges: Arc<PipelineGauges>) {
        self.processing.count_in(gauges, self.worker);
    }

    /// How many entities are open, and in how many instances of plugins.
    pub fn open(&self) -> (usize, usize) {
        let processing = &self.processing;
        (processing.entities_open(), processing.instances())
    }

    /// The worker was told to stop. From now on it does not read again what it could not
    /// commit.
    pub const fn stop_reading(&mut self) {
        self.is_stopping = true;
    }

    /// Takes an event or an answer, and says what the loop has to do.
    pub fn step(&mut self, input: Input, now: Instant) -> Vec<Action> {
        self.now = now;
        match (self.agenda.take_awaiting(), input) {
            (None, Input::Turn) => self.begin_turn(),
            (None, Input::Order(order)) => self.take_order(order),
            (None, Input::Stop) => self.end(),
            (Some(Awaiting::Poll { is_restoring }), Input::Polled(polled)) => {
                self.take_polled(polled, is_restoring);
            }
            (Some(Awaiting::Commit { commit, then }), Input::CommitEnded(end)) => {
                self.commit_ended(&commit, then, end);
            }
            (
                Some(Awaiting::Seek {
                    partition,
                    next,
                    then,
                }),
                Input::Sought(sought),
            ) => self.sought(partition, next, then, sought),
            (Some(Awaiting::RollbackStart(partition, from)), Input::Start(start)) => {
                self.begin_rollback(partition, from, start);
            }
            (Some(Awaiting::MoveStart(partition, next)), Input::Start(start)) => {
                self.move_from(partition, next, start);
            }
            (Some(Awaiting::Topics(then)), Input::Topics(found)) => {
                self.looked_at_topics(then, found);
            }
            (Some(Awaiting::Poll { .. }), Input::PollFailed)
            | (Some(Awaiting::Sleep), Input::Slept) => {}
            _ => {
                tracing::error!(pipeline = %self.pipeline.name, worker = self.worker, "worker was given an answer to another question")
            }
        }
        self.advance()
    }

    /// Does what is on the agenda, up to the next question.
    fn advance(&mut self) -> Vec<Action> {
        while let Some(job) = self.agenda.next() {
            self.carry_out(job);
        }
        self.agenda.take_actions()
    }

    fn begin_turn(&mut self) {
        self.agenda
            .last([Job::BeginRollbacks, Job::BeginDue, Job::TryAgain]);
        // A worker that gets events is never idle, so it looks here whether the topic
        // is back.
        if self.topics.is_one_missing() {
            self.agenda.last([Job::WatchTopics]);
        }
        self.agenda.last([Job::Poll]);
    }

    fn carry_out(&mut self, job: Job) {
        match job {
            Job::BeginRollbacks => self.begin_rollbacks(),
            Job::BeginRollback(partition, from) => self.agenda.ask(
                Action::FindStart(partition),
                Awaiting::RollbackStart(partition, from),
            ),
            Job::BeginDue => self.begin_due(),
            Job::TryAgain => self.try_again(),
            Job::WatchTopics => {
                if self.topics.is_due(self.now) {
                    self.look_at_topics(AfterTopics::Watch);
                }
            }
            Job::Poll => self.poll(),
            Job::CarryOut(order) => self.carry_out_order(order),
            Job::AnswerTakeover(done) => {
                let takeover = self.processing.positions().collect();
                let answer = Answer::Takeover(done, takeover);
                self.agenda.act(Action::Answer(answer));
            }
            Job::AnswerRollback(done) => self.answer_rollback(done),
            Job::AnswerDone(done) => self.agenda.act(Action::Answer(Answer::Done(done))),
            Job::Commit { what, by, then } => self.commit(what, by, then),
            Job::CommitIfDue { is_restoring } => {
                if is_restoring || self.is_commit_due() {
                    self.agenda.first([Job::commit_events()]);
                }
            }
            Job::AfterCommit(then, outcome) => self.after_commit(then, outcome),
            Job::Chores => self.do_chores(),
            Job::CloseIdle => {
                self.processing.close_idle(self.now);
                self.agenda.report(Report::Gauges);
            }
            Job::Move => {
                let moved = self.processing.moved().into_iter();
                self.agenda
                    .first(moved.map(|(partition, next)| Job::MoveTo(partition, next)));
            }
            Job::MoveTo(partition, next) => self.agenda.ask(
                Action::FindStart(partition),
                Awaiting::MoveStart(partition, next),
            ),
            Job::Seek {
                partition,
                next,
                then,
            } => self.seek(partition, next, then),
            Job::NoteRedo => self.note_redo(),
            Job::WaitForPlugin => self.wait_for_plugin(),
            Job::GoOnWaiting => self.go_on_waiting(),
            Job::ResumeWaiting => self.resume_waiting(),
            Job::Retry(partition, next) => self.retry(partition, next),
            Job::ProcessApart { rest, rewinds } => self.process_apart(rest, rewinds),
            Job::StopAt(partition, error) => self.stop_at(partition, error),
            Job::Sleep(time) => self.agenda.ask(Action::Sleep(time), Awaiting::Sleep),
        }
    }

    fn poll(&mut self) {
        let is_restoring = self.processing.is_restoring();
        let wait = match self.processing.pending_since() {
            None if !is_restoring => IDLE_WAIT,
            _ => Duration::ZERO,
        };
        let bytes_max = self.pace.poll_bytes();
        self.agenda.ask(
            Action::Poll { wait, bytes_max },
            Awaiting::Poll { is_restoring },
        );
    }

    fn take_polled(&mut self, polled: Polled, is_restoring: bool) {
        match polled {
            Polled::Records(fetched) if self.given_up.has_trials() => {
                self.agenda.first([Job::ProcessApart {
                    rest: fetched.into(),
                    rewinds: self.rewinds,
                }]);
            }
            Polled::Records(fetched) => {
                self.agenda.first([Job::CommitIfDue { is_restoring }]);
                self.process(fetched);
            }
            Polled::Idle => {
                self.pace.idle();
                if is_restoring || self.processing.pending_since().is_some() {
                    self.agenda.first([Job::commit_events()]);
                } else {
                    self.agenda.report(Report::Committed);
                    self.gap.idle(self.now);
                    self.agenda.first([Job::CloseIdle]);
                    // Brokers that are down take seconds to fail each call, and a
                    // caller that waits may be the host, which stops.
                    if !self.pace.is_interrupted() {
                        self.agenda.first([Job::Chores, Job::WatchTopics]);
                    }
                }
            }
            Polled::Assigned(assignments) => self.assigned(assignments),
            Polled::Revoked(partitions) => self.agenda.first([Job::Commit {
                what: Committing::Pending,
                by: Some(self.now + self.pipeline.settings.drain_deadline),
                then: agenda::AfterCommit::Revoke(partitions),
            }]),
            Polled::Lost(partitions) => self.lose(&partitions),
            Polled::Stopped { partition, error } => self
                .agenda
                .first([Job::commit_events(), Job::StopAt(partition, error)]),
        }
    }

    /// Commits what is pending, however long that takes, and ends.
    fn end(&mut self) {
        self.is_stopping = true;
        self.agenda.last([Job::Commit {
            what: Committing::Pending,
            by: None,
            then: agenda::AfterCommit::End,
        }]);
    }
}

impl Job {
    /// A commit of the events that were taken.
    const fn commit_events() -> Self {
        Self::Commit {
            what: Committing::Pending,
            by: None,
            then: agenda::AfterCommit::Events,
        }
    }
}
