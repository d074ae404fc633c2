//! Commits: the worker writes what is pending, and draws conclusions from the end of
//! the commit.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_log::{Commit, LogError};

use super::{
    Core,
    agenda::{
        Action, AfterCommit, Answer, Awaiting, CommitEnd, CommitOutcome, Committing, Job, Progress,
        Report,
    },
};
use crate::worker::processing::{Counts, Stop, now_ms};

/// How long an idle worker tries to write its own rows.
const CHORES_TIME_MAX: Duration = Duration::from_secs(1);
/// How long an idle worker waits after such a write failed.
const CHORES_WAIT: Duration = Duration::from_secs(1);

impl Core {
    pub(super) fn is_commit_due(&self) -> bool {
        let processing = &self.processing;
        let (bytes, since) = (processing.pending_bytes(), processing.pending_since());
        self.pace.is_commit_due(bytes, since, self.now)
    }

    pub(super) fn commit(&mut self, what: Committing, by: Option<Instant>, then: AfterCommit) {
        let prepared = match what {
            Committing::Pending => self.processing.prepare(),
            Committing::WithChores => self.processing.prepare_idle(),
        };
        match prepared {
            Err(interrupted) => {
                let outcome = CommitOutcome::Failed;
                self.agenda.first([Job::AfterCommit(then, outcome)]);
                self.start_over(&interrupted);
            }
            Ok((None, stops)) => {
                self.stop_partitions(stops);
                let outcome = CommitOutcome::Committed;
                self.agenda
                    .first([Job::Move, Job::AfterCommit(then, outcome)]);
            }
            Ok((Some(commit), stops)) => {
                self.stop_partitions(stops);
                let commit = Arc::new(commit);
                self.agenda.ask(
                    Action::Commit {
                        commit: Arc::clone(&commit),
                        by,
                    },
                    Awaiting::Commit { commit, then },
                );
            }
        }
    }

    pub(super) fn commit_ended(&mut self, commit: &Arc<Commit>, then: AfterCommit, end: CommitEnd) {
        let outcome = match end {
            CommitEnd::Committed(took) => {
                let after = Job::AfterCommit(then, CommitOutcome::Committed);
                self.agenda.first([Job::Move, Job::NoteRedo, after]);
                self.settle(commit, took);
                return;
            }
            CommitEnd::Fenced => CommitOutcome::Failed,
            CommitEnd::Refused(ref error) => {
                self.give_up(commit, error);
                CommitOutcome::Failed
            }
            CommitEnd::Overdue => CommitOutcome::Overdue,
        };
        self.agenda.first([Job::AfterCommit(then, outcome)]);
        if matches!(end, CommitEnd::Fenced) {
            // The rewind seeks each partition: those that the member still has go on,
            // and the others are forgotten.
            self.rewind();
        }
    }

    /// Takes note of a commit that the log has.
    fn settle(&mut self, commit: &Arc<Commit>, took: Duration) {
        self.agenda.report(Report::Committed);
        let opened = self.processing.counts.opens - self.reported.opens;
        let entities = self.processing.entities_pending();
        self.processing.settle(commit);
        self.note_recovered(commit);
        self.run_backoff.reset();
        if self.pace.committed(entities, opened, self.now) {
            self.processing.set_budget(self.pace.budget());
        }
        let counts = self.processing.counts;
        let before = std::mem::replace(&mut self.reported, counts);
        let counts = counts.since(&before);
        let events_of = |partition| self.processing.events_of(partition);
        let offsets = commit.offsets.iter();
        let progress = Progress {
            commit: Arc::clone(commit),
            counts,
            moved: offsets
                .map(|(partition, next)| (*partition, *next, events_of(*partition)))
                .collect(),
            took,
            gap: self.gap.committed(counts.events, self.now),
        };
        self.agenda.report(Report::Progress(progress));
    }

    /// Stops the partitions of a commit that the log refuses and would refuse again.
    /// The worker tries them again later if somebody may mend the cause.
    fn give_up(&mut self, commit: &Commit, error: &LogError) {
        self.agenda.report(Report::Committed);
        if matches!(error, LogError::TopicRecreated { .. }) {
            self.stop_all(error);
            return;
        }
        self.processing.abort();
        let mut stops = Vec::with_capacity(commit.offsets.len());
        for (partition, _) in &commit.offsets {
            match self.processing.committed(*partition) {
                Some(next) if error.may_be_mended() => {
                    self.given_up.add(*partition, next, self.now);
                }
                _ => self.given_up.forget(*partition),
            }
            self.processing.unassign(&[*partition]);
            let stop = Stop {
                code: error.code(),
                reason: format!("a commit failed: {error}"),
                waits: false,
            };
            stops.push((*partition, stop));
        }
        self.stop_partitions(stops);
    }

    pub(super) fn after_commit(&mut self, then: AfterCommit, outcome: CommitOutcome) {
        let is_overdue = outcome == CommitOutcome::Overdue;
        match then {
            AfterCommit::Events => {
                // The worker must stop, or the group has waited long enough for its
                // partitions. Uncommitted events are not lost: they are read again after
                // the next start, or now.
                if is_overdue {
                    self.rewind();
                }
            }
            AfterCommit::Chores => {
                if is_overdue {
                    self.chores_at = self.now + CHORES_WAIT;
                    self.rewind();
                }
            }
            AfterCommit::Revoke(partitions) => {
                self.lose(&partitions);
                let count = partitions.len();
                self.agenda.act(Action::Release(partitions));
                if is_overdue {
                    tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, partitions = count, "partitions released without a last commit");
                    self.rewind();
                }
            }
            AfterCommit::Confirm(done) => match outcome {
                CommitOutcome::Committed => self.agenda.act(Action::Answer(Answer::Done(done))),
                CommitOutcome::Overdue => self.rewind(),
                CommitOutcome::Failed => {}
            },
            AfterCommit::End => {
                if is_overdue {
                    self.rewind();
                }
                let partitions = self.partitions.ids();
                self.agenda.act(Action::Release(partitions.clone()));
                self.agenda.report(Report::Forgotten(partitions));
                self.agenda.report(Report::Committed);
            }
        }
    }

    /// Writes the rows that an idle worker has to write. No caller waits for them, so a
    /// try is short, and a failed one is repeated later.
    pub(super) fn do_chores(&mut self) {
        if self.now < self.chores_at || !self.processing.has_chores(now_ms()) {
            return;
        }
        self.agenda.first([Job::Commit {
            what: Committing::WithChores,
            by: Some(self.now + CHORES_TIME_MAX),
            then: AfterCommit::Chores,
        }]);
    }
}

impl Counts {
    /// The counts since `before`.
    const fn since(&self, before: &Self) -> Self {
        Self {
            events: self.events - before.events,
            emissions: self.emissions - before.emissions,
            dead_letters: self.dead_letters - before.dead_letters,
            duplicates: self.duplicates - before.duplicates,
            calls: self.calls - before.calls,
            failures: self.failures - before.failures,
            opens: self.opens - before.opens,
        }
    }
}
