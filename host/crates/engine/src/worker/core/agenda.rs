//! The agenda of a turn: what is left to do, what the loop is to do now, and which
//! answer the core waits for.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_log::{Assignment, Commit, Fetched, LogError, Polled};
use courtside_process::backoff::Backoff;
use courtside_types::{Offset, PartitionId};
use crossbeam_channel::Sender;

use crate::worker::{
    orders::{Order, Takeover},
    processing::Counts,
    status::PartitionStatus,
    takeover::Redone,
};

/// An event from outside, or the answer to the last action.
pub(in crate::worker) enum Input {
    /// A turn begins: the worker does what is due, and polls once.
    Turn,
    Order(Order),
    /// The worker is to commit what is pending, to release its partitions, and to end.
    Stop,
    Polled(Polled),
    /// The poll failed, and its turn is over.
    PollFailed,
    CommitEnded(CommitEnd),
    Sought(Result<(), SeekError>),
    /// The first offset that the log still has of a partition.
    Start(Result<Offset, LogError>),
    /// An error if one of the pipeline's topics is gone or was made anew.
    Topics(Result<(), LogError>),
    Slept,
}

/// The end of an [`Action::Commit`].
pub(in crate::worker) enum CommitEnd {
    /// The log has the commit, after this time.
    Committed(Duration),
    /// The group has moved on without the member.
    Fenced,
    /// The log refuses the commit and would refuse it again.
    Refused(LogError),
    /// A deadline passed first.
    Overdue,
}

/// Why a member cannot read a partition from another offset.
pub(in crate::worker) enum SeekError {
    /// The partition is no longer the member's.
    Fenced,
    Failed(LogError),
}

/// A step of the loop. Only the last action of a list may ask for an answer.
pub(in crate::worker) enum Action {
    /// Asks for [`Input::Polled`] or [`Input::PollFailed`].
    Poll {
        wait: Duration,
        bytes_max: usize,
    },
    /// Asks for [`Input::CommitEnded`]. Until then nothing else is read, so that memory
    /// stays bounded.
    Commit {
        commit: Arc<Commit>,
        by: Option<Instant>,
    },
    /// Asks for [`Input::Sought`].
    Seek {
        partition: PartitionId,
        next: Offset,
    },
    /// Asks for [`Input::Start`].
    FindStart(PartitionId),
    /// Asks for [`Input::Topics`].
    CheckTopics,
    Pause(Vec<PartitionId>),
    Resume(Vec<PartitionId>),
    Release(Vec<PartitionId>),
    /// Asks for [`Input::Slept`].
    Sleep(Duration),
    Answer(Answer),
    Report(Report),
}

/// The answer to an order.
pub(in crate::worker) enum Answer {
    Done(Sender<()>),
    Takeover(Sender<Takeover>, Takeover),
    Redone(
        Sender<BTreeMap<PartitionId, Redone>>,
        BTreeMap<PartitionId, Redone>,
    ),
}

/// A change that the loop passes on to the pipeline's status and to metrics.
pub(in crate::worker) enum Report {
    Partition(PartitionId, PartitionStatus),
    /// The partition is the worker's, from this offset on.
    Assigned(PartitionId, Offset),
    /// The partitions are no longer the worker's.
    Forgotten(Vec<PartitionId>),
    /// The worker cannot commit, because of an error with this code and text.
    CommitWaits(&'static str, String),
    /// Nothing waits to be committed.
    Committed,
    /// A commit is settled.
    Progress(Progress),
    /// Another program committed an offset in the group.
    OffsetForeign,
    /// The worker was idle, and the numbers of open entities and instances are to be
    /// looked at.
    Gauges,
}

/// The work that a commit settled.
pub(in crate::worker) struct Progress {
    pub commit: Arc<Commit>,
    /// Counts since the commit before.
    pub counts: Counts,
    /// The committed offset of each partition, and its events since it was assigned.
    pub moved: Vec<(PartitionId, Offset, u64)>,
    pub took: Duration,
    /// The time from the last commit before a takeover to the first after it.
    pub gap: Option<Duration>,
}

/// A piece of work that the core does once the pieces before it are done.
pub(super) enum Job {
    BeginRollbacks,
    BeginRollback(PartitionId, Offset),
    /// Begins with the partitions whose starts are to be tried again.
    BeginDue,
    /// Takes up a partition again that was given up.
    TryAgain,
    WatchTopics,
    Poll,
    /// Carries out an order; nothing is pending.
    CarryOut(Order),
    AnswerTakeover(Sender<Takeover>),
    AnswerRollback(Sender<BTreeMap<PartitionId, Redone>>),
    AnswerDone(Sender<()>),
    Commit {
        what: Committing,
        by: Option<Instant>,
        then: AfterCommit,
    },
    CommitIfDue {
        /// A rollback had states to bring back before the poll.
        is_restoring: bool,
    },
    AfterCommit(AfterCommit, CommitOutcome),
    Chores,
    CloseIdle,
    /// Seeks the partitions that go on at another offset because of a rollback.
    Move,
    MoveTo(PartitionId, Offset),
    Seek {
        partition: PartitionId,
        next: Offset,
        then: AfterSeek,
    },
    NoteRedo,
    WaitForPlugin,
    GoOnWaiting,
    /// Resumes the partitions that waited for a plugin and could be sought.
    ResumeWaiting,
    /// Takes a partition on trial, which may share no commit with others.
    Retry(PartitionId, Offset),
    /// Processes and commits the records of each partition by themselves.
    ProcessApart {
        rest: VecDeque<Fetched>,
        /// How many times the worker had gone back when the records were polled.
        rewinds: u64,
    },
    /// Stops a partition whose records cannot be read on; those before are committed.
    StopAt(PartitionId, LogError),
    Sleep(Duration),
}

/// The contents of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Committing {
    /// The pending events alone.
    Pending,
    /// The pending events, and the rows that an idle worker writes.
    WithChores,
}

/// The end of a commit, after the core has drawn its conclusions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommitOutcome {
    /// The log has the commit, or nothing had to be written.
    Committed,
    /// The log does not have the commit. The worker went back to the one before, or
    /// stopped the partitions.
    Failed,
    /// A deadline passed first, and everything is still pending.
    Overdue,
}

/// The reason for a commit, which says what follows from its end.
pub(super) enum AfterCommit {
    /// The events that were taken are to be committed.
    Events,
    /// An idle worker writes its own rows.
    Chores,
    /// The group takes these partitions away.
    Revoke(Vec<PartitionId>),
    /// An order to confirm is answered once the log has the confirmation.
    Confirm(Sender<()>),
    /// The worker ends.
    End,
}

/// The next step after a seek that went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterSeek {
    /// The partition is not paused.
    Read,
    Resume,
    /// The partition waited for a plugin, and runs from now on.
    Run,
}

/// The answer that the core waits for, with what it needs to go on.
pub(super) enum Awaiting {
    Poll {
        is_restoring: bool,
    },
    Commit {
        commit: Arc<Commit>,
        then: AfterCommit,
    },
    Seek {
        partition: PartitionId,
        next: Offset,
        then: AfterSeek,
    },
    /// A rollback in the partition processes events from this offset on again.
    RollbackStart(PartitionId, Offset),
    /// The partition goes on at this offset because of a rollback.
    MoveStart(PartitionId, Offset),
    Topics(AfterTopics),
    Sleep,
}

/// The reason for a look at the pipeline's topics, which says what follows from it.
pub(super) enum AfterTopics {
    /// The worker begins with these partitions. A partition that is tried again has the
    /// waits before further tries.
    Begin(Vec<(Assignment, Option<Backoff>)>),
    /// The look was due.
    Watch,
    /// The partition cannot be read on.
    Stop(PartitionId, LogError),
}

#[derive(Default)]
pub(super) struct Agenda {
    jobs: VecDeque<Job>,
    actions: Vec<Action>,
    awaiting: Option<Awaiting>,
}

impl Agenda {
    /// Adds jobs, which come before all others and keep their order.
    pub fn first<I>(&mut self, jobs: I)
    where
        I: IntoIterator<Item = Job>,
        I::IntoIter: DoubleEndedIterator,
    {
        for job in jobs.into_iter().rev() {
            self.jobs.push_front(job);
        }
    }

    /// Adds jobs, which come after all others.
    pub fn last(&mut self, jobs: impl IntoIterator<Item = Job>) {
        self.jobs.extend(jobs);
    }

    /// Adds an action that asks for no answer.
    pub fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub fn report(&mut self, report: Report) {
        self.act(Action::Report(report));
    }

    /// Adds an action whose answer comes before any other job.
    pub fn ask(&mut self, action: Action, awaiting: Awaiting) {
        self.actions.push(action);
        self.awaiting = Some(awaiting);
    }

    /// Takes the answer that the core waits for; the core no longer waits.
    pub const fn take_awaiting(&mut self) -> Option<Awaiting> {
        self.awaiting.take()
    }

    /// The next job, unless the core waits for an answer first.
    pub fn next(&mut self) -> Option<Job> {
        match self.awaiting {
            Some(_) => None,
            None => self.jobs.pop_front(),
        }
    }

    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }
}
