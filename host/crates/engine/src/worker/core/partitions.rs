//! The partitions of a worker, each in one state.

use std::{collections::BTreeMap, time::Instant};

use courtside_log::Assignment;
use courtside_process::backoff::Backoff;
use courtside_types::PartitionId;

/// The state of one partition. The worker reports it to the pipeline's status, which
/// other parts of the host read.
#[derive(Debug)]
pub(super) enum State {
    /// Processing could not begin yet, and the partition is paused until the next try.
    Starting(PendingStart),
    Running,
    /// The partition processes events again after a rollback.
    Redoing,
    /// The partition is paused until a plugin that can process its events is in force.
    WaitingForPlugin,
    /// The partition is paused, and no plugin makes it go on.
    Stopped,
}

/// A start that failed, because the log did not say how far the group had come or which
/// topic the partition is of.
#[derive(Debug)]
pub(super) struct PendingStart {
    pub assignment: Assignment,
    pub backoff: Backoff,
    /// When the start is tried again.
    pub at: Instant,
}

/// The partitions that the worker has.
#[derive(Debug, Default)]
pub(super) struct Partitions(BTreeMap<PartitionId, State>);

impl Partitions {
    /// Sets the state of a partition, which is the worker's from now on.
    pub fn assign(&mut self, partition: PartitionId) {
        self.0.insert(partition, State::Running);
    }

    /// Changes the state of a partition that the worker has.
    pub fn set(&mut self, partition: PartitionId, state: State) {
        if let Some(now) = self.0.get_mut(&partition) {
            *now = state;
        }
    }

    pub fn remove(&mut self, partition: PartitionId) {
        self.0.remove(&partition);
    }

    pub fn contains(&self, partition: PartitionId) -> bool {
        self.0.contains_key(&partition)
    }

    pub fn get(&self, partition: PartitionId) -> Option<&State> {
        self.0.get(&partition)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn ids(&self) -> Vec<PartitionId> {
        self.0.keys().copied().collect()
    }

    /// The partitions that take events.
    pub fn running(&self) -> Vec<PartitionId> {
        self.that(State::is_running)
    }

    pub fn is_running(&self, partition: PartitionId) -> bool {
        self.0.get(&partition).is_some_and(State::is_running)
    }

    pub fn waiting_for_plugin(&self) -> Vec<PartitionId> {
        self.that(|state| matches!(state, State::WaitingForPlugin))
    }

    pub fn redoing(&self) -> Vec<PartitionId> {
        self.that(|state| matches!(state, State::Redoing))
    }

    fn that(&self, is: impl Fn(&State) -> bool) -> Vec<PartitionId> {
        let those = self.0.iter().filter(|(_, state)| is(state));
        those.map(|(partition, _)| *partition).collect()
    }

    /// Takes the starts that are to be tried again now. Their partitions run until a
    /// start fails again.
    pub fn take_due_starts(&mut self, now: Instant) -> Vec<PendingStart> {
        let mut due = Vec::new();
        for state in self.0.values_mut() {
            if matches!(state, State::Starting(start) if start.at <= now)
                && let State::Starting(start) = std::mem::replace(state, State::Running)
            {
                due.push(start);
            }
        }
        due
    }
}

impl State {
    const fn is_running(&self) -> bool {
        matches!(self, Self::Running | Self::Redoing)
    }
}
