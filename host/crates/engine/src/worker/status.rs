//! The status of a pipeline's partitions, as its workers report it to the API.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_types::PartitionId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::gauges::PipelineGauges;

/// The state of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionState {
    /// No worker of this host has it.
    Elsewhere,
    Running,
    /// Waits for a plugin, or for the log or a topic before it can begin.
    Waiting,
    /// Processes events again after a rollback, those of the entities that it
    /// brought back; the others wait until it has caught up.
    Redoing,
    /// Events wait, and nothing could be committed for more than ten seconds. The
    /// host tries on, and the partition runs again once that succeeds.
    Stalled,
    /// Stopped by an error that needs an operator.
    Stopped,
}

impl PartitionState {
    /// The state's name in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Elsewhere => "elsewhere",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Redoing => "redoing",
            Self::Stalled => "stalled",
            Self::Stopped => "stopped",
        }
    }
}

/// A worker's report on one of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    pub worker: u32,
    pub state: PartitionState,
    pub code: Option<&'static str>,
    pub reason: Option<String>,
}

/// A worker whose events wait for longer than this to be committed is stalled.
pub const STALLED_AFTER: Duration = Duration::from_secs(10);

/// The wait of a worker's events to be committed.
#[derive(Clone, Debug)]
struct Wait {
    since: Instant,
    /// Why the last try failed; none until a try has failed.
    why: Option<(&'static str, String)>,
}

/// The partitions of a pipeline that workers of this host have, and what is
/// counted of them and of its slots.
#[derive(Debug, Default)]
pub struct PipelineStatus {
    partitions: Mutex<BTreeMap<PartitionId, PartitionStatus>>,
    /// Waits by worker, because one commit is for all partitions of a worker.
    waits: Mutex<BTreeMap<u32, Wait>>,
    /// By worker, why one of the pipeline's topics is gone or was made anew.
    topics_gone: Mutex<BTreeMap<u32, (&'static str, String)>>,
    gauges: Arc<PipelineGauges>,
}

impl PipelineStatus {
    pub fn set(&self, partition: PartitionId, status: PartitionStatus) {
        self.partitions.lock().insert(partition, status);
    }

    pub fn forget<'a>(&self, partitions: impl Iterator<Item = &'a PartitionId>) {
        let mut held = self.partitions.lock();
        for partition in partitions {
            held.remove(partition);
            self.gauges.forget(*partition);
        }
    }

    /// Notes that a worker has events to commit. Its wait begins with the first call,
    /// and lasts until the events are committed or are no longer its own.
    pub fn waits(&self, worker: u32) {
        self.waits_since(worker, Instant::now());
    }

    fn waits_since(&self, worker: u32, since: Instant) {
        let mut waits = self.waits.lock();
        waits.entry(worker).or_insert(Wait { since, why: None });
    }

    /// Notes why a worker could not commit.
    pub fn waits_for(&self, worker: u32, code: &'static str, reason: String) {
        let mut waits = self.waits.lock();
        let wait = waits.entry(worker).or_insert_with(|| Wait {
            since: Instant::now(),
            why: None,
        });
        wait.why = Some((code, reason));
    }

    /// Ends the wait of a worker that has committed, or has nothing to commit.
    pub fn goes_on(&self, worker: u32) {
        self.waits.lock().remove(&worker);
    }

    /// Notes a worker's look at the pipeline's topics: why one is gone or was made
    /// anew, or that none is.
    pub fn looked_at_topics(&self, worker: u32, gone: Option<(&'static str, String)>) {
        let mut all = self.topics_gone.lock();
        match gone {
            Some(why) => all.insert(worker, why),
            None => all.remove(&worker),
        };
    }

    /// Why one of the pipeline's topics is gone or was made anew. No partition may say
    /// so, because the group takes partitions away when their topic is gone.
    #[must_use]
    pub fn topics_gone(&self) -> Option<(&'static str, String)> {
        self.topics_gone.lock().values().next().cloned()
    }

    #[must_use]
    pub fn get(&self, partition: PartitionId) -> Option<PartitionStatus> {
        let status = self.partitions.lock().get(&partition).cloned()?;
        Some(self.as_of(status, Instant::now()))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partitions.lock().is_empty()
    }

    #[must_use]
    pub const fn gauges(&self) -> &Arc<PipelineGauges> {
        &self.gauges
    }

    #[must_use]
    pub fn all(&self) -> BTreeMap<PartitionId, PartitionStatus> {
        let held = self.partitions.lock().clone();
        let now = Instant::now();
        held.into_iter()
            .map(|(partition, status)| (partition, self.as_of(status, now)))
            .collect()
    }

    /// A worker's report, and whether the worker is stalled by now. A partition that
    /// processes events again keeps its state when it stalls, because a rollback waits
    /// for its end.
    fn as_of(&self, mut status: PartitionStatus, now: Instant) -> PartitionStatus {
        let is_at_work = matches!(
            status.state,
            PartitionState::Running | PartitionState::Redoing
        );
        let waits = self.waits.lock();
        let stalled = waits
            .get(&status.worker)
            .filter(|wait| now.saturating_duration_since(wait.since) > STALLED_AFTER);
        let Some(wait) = stalled.filter(|_| is_at_work) else {
            return status;
        };
        let (code, reason) = wait.why.clone().unwrap_or_else(|| {
            let reason = "the log has not answered a commit".to_owned();
            ("log-unavailable", reason)
        });
        let seconds = now.saturating_duration_since(wait.since).as_secs();
        status.code = Some(code);
        status.reason = Some(format!("nothing was committed for {seconds} s: {reason}"));
        if status.state == PartitionState::Running {
            status.state = PartitionState::Stalled;
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(
        status: &PipelineStatus,
        partition: u32,
    ) -> (PartitionState, Option<&'static str>) {
        let all = status.all();
        let one = all.get(&PartitionId(partition)).unwrap();
        (one.state, one.code)
    }

    #[test]
    fn a_worker_that_waits_for_long_stalls_its_partitions_by_the_reasons_code() {
        let status = PipelineStatus::default();
        for (partition, worker, state) in [
            (0, 0, PartitionState::Running),
            (1, 0, PartitionState::Redoing),
            (2, 0, PartitionState::Waiting),
            (3, 1, PartitionState::Running),
        ] {
            let code = (state == PartitionState::Waiting).then_some("plugin-missing");
            let told = PartitionStatus {
                worker,
                state,
                code,
                reason: None,
            };
            status.set(PartitionId(partition), told);
        }
        // The wait is not long yet.
        status.waits(0);
        status.waits_for(0, "log-access-denied", "told to".to_owned());
        assert_eq!(status_of(&status, 0), (PartitionState::Running, None));
        status.goes_on(0);

        let long_ago = Instant::now() - STALLED_AFTER - Duration::from_secs(1);
        status.waits_since(0, long_ago);
        let stalled = PartitionState::Stalled;
        assert_eq!(status_of(&status, 0), (stalled, Some("log-unavailable")));
        status.waits_for(0, "log-access-denied", "told to".to_owned());
        // A second call does not begin the wait anew.
        status.waits(0);
        let denied = Some("log-access-denied");
        assert_eq!(status_of(&status, 0), (stalled, denied));
        assert_eq!(status_of(&status, 1), (PartitionState::Redoing, denied));
        let missing = (PartitionState::Waiting, Some("plugin-missing"));
        assert_eq!(status_of(&status, 2), missing);
        assert_eq!(status_of(&status, 3), (PartitionState::Running, None));
        let told = status.get(PartitionId(0)).unwrap();
        assert!(told.reason.unwrap().ends_with("told to"));
        status.goes_on(0);
        assert_eq!(status_of(&status, 0), (PartitionState::Running, None));
        assert_eq!(status_of(&status, 1), (PartitionState::Redoing, None));
    }
}
