//! Partitions that stop, wait for a plugin, go on, or are lost.

use courtside_log::{Commit, LogError};
use courtside_types::PartitionId;

use super::{
    Core,
    agenda::{Action, AfterSeek, AfterTopics, Job, Report},
    partitions::State,
};
use crate::worker::{
    processing::Stop,
    status::{PartitionState, PartitionStatus},
};

impl Core {
    /// Forgets partitions that the worker no longer has.
    pub(super) fn lose(&mut self, partitions: &[PartitionId]) {
        self.processing.unassign(partitions);
        for partition in partitions {
            self.partitions.remove(*partition);
            self.given_up.forget(*partition);
        }
        self.agenda.report(Report::Forgotten(partitions.to_vec()));
        if self.partitions.is_empty() {
            self.agenda.report(Report::Committed);
        }
    }

    /// Stops a partition whose records cannot be read on. Those before the error are
    /// committed by now.
    pub(super) fn stop_at(&mut self, partition: PartitionId, error: LogError) {
        if matches!(error, LogError::OffsetOutOfRange { .. }) {
            self.look_at_topics(AfterTopics::Stop(partition, error));
        } else {
            self.stop_for(partition, &error);
        }
    }

    /// Stops a partition, which the member no longer reads.
    pub(super) fn stop_for(&mut self, partition: PartitionId, error: &LogError) {
        // The worker may have lost the partition at the commit before.
        if !self.partitions.contains(partition) {
            return;
        }
        let code = self.code_of(partition, error);
        tracing::error!(pipeline = %self.pipeline.name, worker = self.worker, partition = partition.0, code, reason = %error, "partition is not processed");
        self.processing.unassign(&[partition]);
        self.given_up.forget(partition);
        self.partitions.set(partition, State::Stopped);
        let why = (code, error.to_string());
        self.report(partition, PartitionState::Stopped, Some(why));
    }

    pub(super) fn stop_partitions(&mut self, stops: Vec<(PartitionId, Stop)>) {
        for (partition, stop) in stops {
            self.agenda.act(Action::Pause(vec![partition]));
            let (state, reported) = if stop.waits {
                (State::WaitingForPlugin, PartitionState::Waiting)
            } else {
                (State::Stopped, PartitionState::Stopped)
            };
            tracing::error!(
                pipeline = %self.pipeline.name,
                partition = partition.0,
                code = stop.code,
                reason = %stop.reason,
                "partition is not processed",
            );
            self.partitions.set(partition, state);
            self.report(partition, reported, Some((stop.code, stop.reason)));
        }
    }

    pub(super) fn refuse(&mut self, partitions: &[PartitionId], code: &'static str, reason: &str) {
        let stop = |partition: &PartitionId| {
            let stop = Stop {
                code,
                reason: reason.to_owned(),
                waits: false,
            };
            (*partition, stop)
        };
        self.stop_partitions(partitions.iter().map(stop).collect());
    }

    /// Stops all partitions: a topic was made anew, and nothing that the worker holds
    /// is of the new one.
    pub(super) fn stop_all(&mut self, error: &LogError) {
        let partitions = self.partitions.ids();
        self.processing.abort();
        self.processing.unassign(&partitions);
        for partition in &partitions {
            self.given_up.forget(*partition);
        }
        self.refuse(&partitions, error.code(), &error.to_string());
    }

    /// A partition that was given up goes on once a commit of it succeeded.
    pub(super) fn note_recovered(&mut self, commit: &Commit) {
        let committed = commit.offsets.iter().map(|(partition, _)| *partition);
        for partition in self.given_up.take_committed(committed) {
            if matches!(self.partitions.get(partition), Some(State::Stopped)) {
                tracing::info!(pipeline = %self.pipeline.name, partition = partition.0, "partition goes on again");
                self.partitions.set(partition, State::Running);
                self.report(partition, PartitionState::Running, None);
            }
        }
    }

    /// Without a default plugin, all partitions wait for it.
    pub(super) fn wait_for_plugin(&mut self) {
        if self.processing.has_default() {
            return;
        }
        let running = self.partitions.running();
        self.agenda.act(Action::Pause(running.clone()));
        for partition in running {
            self.partitions.set(partition, State::WaitingForPlugin);
            let reason = format!(
                "the pipeline has no plugin: put one into {}/default.wasm",
                self.pipeline.name
            );
            let why = ("plugin-missing", reason);
            self.report(partition, PartitionState::Waiting, Some(why));
        }
    }

    /// Resumes all partitions that wait for a plugin, whichever slot changed. Each says
    /// `running` at once, and waits again at the first event that its plugin cannot read.
    pub(super) fn go_on_waiting(&mut self) {
        if !self.processing.has_default() {
            return;
        }
        let mut jobs = Vec::new();
        for partition in self.partitions.waiting_for_plugin() {
            if let Some(next) = self.processing.resume(partition) {
                jobs.push(Job::Seek {
                    partition,
                    next,
                    then: AfterSeek::Run,
                });
            }
        }
        jobs.extend([Job::ResumeWaiting, Job::NoteRedo]);
        self.agenda.first(jobs);
    }

    /// A partition that waited for a plugin was sought, and runs again.
    pub(super) fn runs_again(&mut self, partition: PartitionId) {
        self.partitions.set(partition, State::Running);
        self.report(partition, PartitionState::Running, None);
        self.resuming.push(partition);
    }

    pub(super) fn resume_waiting(&mut self) {
        let resuming = std::mem::take(&mut self.resuming);
        if !resuming.is_empty() {
            tracing::info!(pipeline = %self.pipeline.name, worker = self.worker, partitions = resuming.len(), "partitions that waited for a plugin go on");
            self.agenda.act(Action::Resume(resuming));
        }
    }

    pub(super) fn report(
        &mut self,
        partition: PartitionId,
        state: PartitionState,
        why: Option<(&'static str, String)>,
    ) {
        let (code, reason) = why.unzip();
        let status = PartitionStatus {
            worker: self.worker,
            state,
            code,
            reason,
        };
        self.agenda.report(Report::Partition(partition, status));
    }
}
