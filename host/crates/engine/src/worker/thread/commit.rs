//! Commits: what is pending is written, again and again if need be, or given up.

use std::time::{Duration, Instant};

use courtside_log::{Commit, LogError};

use super::{
    RETRY_WAIT_MAX, RETRY_WAIT_MIN, Stop, WorkerLoop,
    warmup::{WARMUP_COMMIT_INTERVAL, WARMUP_POLL_BYTES},
};
use crate::worker::{
    processing::{CommitPlan, now_ms},
    status::PartitionState,
};

/// How long an idle worker tries to write its own rows.
const CHORES_TIME_MAX: Duration = Duration::from_secs(1);
/// How long an idle worker waits after such a write failed.
const CHORES_WAIT: Duration = Duration::from_secs(1);

/// The end of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum CommitOutcome {
    /// The log has the commit, or nothing had to be written.
    Committed,
    /// The worker went back to its last commit, because the member was fenced or the run
    /// was interrupted.
    Rewound,
    /// The log refuses the commit and would refuse it again, so its partitions stopped.
    Refused,
    /// A deadline passed first, and everything is still pending.
    Overdue,
}

impl WorkerLoop {
    pub(super) fn is_due(&self) -> bool {
        let settings = &self.pipeline.settings;
        // Polls are this small after a run went over its budget. Each commit doubles
        // them, so the worker commits at once.
        if self.poll_bytes < settings.poll_bytes_max.min(WARMUP_POLL_BYTES) {
            return true;
        }
        let interval = match self.warmup {
            Some(_) => settings.commit_interval.min(WARMUP_COMMIT_INTERVAL),
            None => settings.commit_interval,
        };
        self.processing.pending_bytes() >= settings.commit_bytes_max
            || self
                .processing
                .pending_since()
                .is_some_and(|since| since.elapsed() >= interval)
    }

    /// Decides after a commit of `entities` entities whether the warm-up ends.
    fn note_opened(&mut self, entities: usize) {
        let opened = self.processing.counts.opens - self.reported.opens;
        self.warmup
            .take_if(|warmup| warmup.committed(entities, opened));
    }

    /// Commits what is pending, however long it takes: until then nothing else
    /// is read, so that memory stays bounded.
    pub(super) fn commit(&mut self) {
        if self.commit_by(None) == CommitOutcome::Overdue {
            // The worker must stop, or the group has waited long enough for its
            // partitions. Uncommitted events are not lost: they are read again after the
            // next start, or now.
            self.rewind();
        }
    }

    /// Commits what is pending, by this deadline, and by that of a stop or a revoke.
    pub(super) fn commit_by(&mut self, deadline: Option<Instant>) -> CommitOutcome {
        let prepared = self.processing.prepare();
        self.write(prepared, deadline)
    }

    /// Commits what is pending, and what an idle worker has to write.
    pub(super) fn commit_idle(&mut self, deadline: Option<Instant>) -> CommitOutcome {
        let prepared = self.processing.prepare_idle();
        self.write(prepared, deadline)
    }

    fn write(&mut self, prepared: CommitPlan, mut deadline: Option<Instant>) -> CommitOutcome {
        let (commit, stops) = match prepared {
            Ok(prepared) => prepared,
            Err(interrupted) => {
                self.start_over(&interrupted);
                return CommitOutcome::Rewound;
            }
        };
        self.stop_partitions(stops);
        let Some(commit) = commit else {
            self.go_where_moved();
            return CommitOutcome::Committed;
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
                    tracing::warn!(pipeline = %self.pipeline.name, worker = self.worker, code = error.code(), %error, "commit fenced, its events are processed again");
                    // The rewind seeks each partition: those that the member still has
                    // go on, and the others are forgotten.
                    self.rewind();
                    return CommitOutcome::Rewound;
                }
                Err(error) if !error.may_pass() => {
                    self.handles.commit_failed(error.code(), 1);
                    self.give_up(&commit, &error);
                    return CommitOutcome::Refused;
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
                deadline = Some(now + self.pipeline.settings.drain_deadline);
            }
            if self.must_stop() || deadline.is_some_and(|deadline| now >= deadline) {
                return CommitOutcome::Overdue;
            }
            std::thread::sleep(deadline.map_or(wait, |deadline| wait.min(deadline - now)));
            wait = (wait * 2).clamp(RETRY_WAIT_MIN, RETRY_WAIT_MAX);
        }
        self.settle(&commit, started.elapsed());
        CommitOutcome::Committed
    }

    /// Takes note of a commit that the log has.
    fn settle(&mut self, commit: &Commit, took: Duration) {
        self.status.goes_on(self.worker);
        self.note_opened(self.processing.entities_pending());
        self.processing.settle(commit);
        self.note_recovered(commit);
        self.run_retry_wait = RETRY_WAIT_MIN;
        let poll_bytes_max = self.pipeline.settings.poll_bytes_max;
        if self.poll_bytes < poll_bytes_max {
            self.poll_bytes = (self.poll_bytes * 2).min(poll_bytes_max);
            self.set_budget();
        }
        self.go_where_moved();
        self.note_redo();
        self.report(commit, took);
    }

    /// Stops the partitions of a commit that the log refuses and would refuse again.
    /// The worker tries them again later if somebody may mend the cause.
    pub(super) fn give_up(&mut self, commit: &Commit, error: &LogError) {
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
                reason: format!("a commit failed: {error}"),
                waits: false,
            };
            stops.push((*partition, stop));
        }
        self.stop_partitions(stops);
    }

    /// A partition that was given up goes on once a commit of it succeeded.
    pub(super) fn note_recovered(&mut self, commit: &Commit) {
        let committed = commit.offsets.iter().map(|(partition, _)| *partition);
        for partition in self.given_up.take_committed(committed) {
            self.stopped.remove(&partition);
            if self.is_running(partition) {
                tracing::info!(pipeline = %self.pipeline.name, partition = partition.0, "partition goes on again");
                self.note(partition, PartitionState::Running, None);
            }
        }
    }

    /// Writes the rows that an idle worker has to write. No caller waits for them, so a
    /// try is short, and a failed one is repeated later.
    pub(super) fn do_chores(&mut self) {
        let now = Instant::now();
        if now < self.chores_at || !self.processing.has_chores(now_ms()) {
            return;
        }
        if self.commit_idle(Some(now + CHORES_TIME_MAX)) == CommitOutcome::Overdue {
            self.rewind();
            self.chores_at = now + CHORES_WAIT;
        }
    }
}
