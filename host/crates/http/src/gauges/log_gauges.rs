//! The figures that only the log knows. The host does not wait long for a log that
//! is away: a reader of the figures would take the host for one that is down.
//!
//! One thread asks at a time; it lives as long as the log takes to answer.

use std::{sync::Arc, time::Duration};

use courtside_engine::pipeline::Pipeline;
use courtside_log::{Bounds, GroupStatus, RecordLog};
use parking_lot::{Condvar, Mutex};

/// How long the figures wait for the log. Prometheus waits for ten seconds, by default.
const PATIENCE: Duration = Duration::from_secs(3);

/// The log's answers about one pipeline; `None` where it did not answer.
#[derive(Clone, Debug, Default)]
pub struct LogAnswer {
    pub group: Option<GroupStatus>,
    /// Bounds of the partitions of the pipeline's input.
    pub bounds: Option<Vec<Bounds>>,
}

#[derive(Default)]
struct State {
    is_asking: bool,
    /// How many times the log has answered.
    round: u64,
    answers: Vec<LogAnswer>,
}

/// Asks the log for the figures of all pipelines.
pub struct LogGauges {
    log: Arc<dyn RecordLog>,
    pipelines: Vec<Arc<Pipeline>>,
    state: Mutex<State>,
    changed: Condvar,
}

impl std::fmt::Debug for LogGauges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogGauges")
    }
}

impl LogGauges {
    #[must_use]
    pub fn new(log: Arc<dyn RecordLog>, pipelines: Vec<Arc<Pipeline>>) -> Arc<Self> {
        Arc::new(Self {
            log,
            pipelines,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// The log's answers of now about each pipeline, in their order.
    #[must_use]
    pub fn ask(self: &Arc<Self>) -> Vec<LogAnswer> {
        self.ask_within(PATIENCE)
    }

    fn ask_within(self: &Arc<Self>, patience: Duration) -> Vec<LogAnswer> {
        let mut state = self.state.lock();
        if !state.is_asking {
            let gauges = Arc::clone(self);
            let spawned = std::thread::Builder::new()
                .name("figures".to_owned())
                .spawn(move || gauges.run());
            state.is_asking = spawned.is_ok();
        }
        let before = state.round;
        let is_new = |state: &mut State| state.round == before && state.is_asking;
        self.changed.wait_while_for(&mut state, is_new, patience);
        if state.round == before {
            return vec![LogAnswer::default(); self.pipelines.len()];
        }
        state.answers.clone()
    }

    fn run(&self) {
        let answers = self.pipelines.iter().map(|pipeline| LogAnswer {
            group: self.log.group_status(&pipeline.group, &pipeline.input).ok(),
            bounds: self.log.bounds(&pipeline.input).ok(),
        });
        let answers = answers.collect();
        let mut state = self.state.lock();
        state.answers = answers;
        state.round += 1;
        state.is_asking = false;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ingest::testing::MemoryLog, tests::trace::pipeline};

    #[test]
    fn a_log_that_does_not_answer_is_not_waited_for() {
        let pipeline = Arc::new(pipeline());
        let log = MemoryLog::new(&[(&*pipeline.input, 1)]);
        let gauges = LogGauges::new(Arc::clone(&log) as _, vec![pipeline]);
        let answers = |answers: &[LogAnswer]| {
            let [answer] = answers else {
                panic!("one pipeline, and {} answers", answers.len());
            };
            assert_eq!(answer.group.is_some(), answer.bounds.is_some());
            answer.group.is_some()
        };
        let long = Duration::from_secs(60);
        assert!(answers(&gauges.ask_within(long)));
        let stalled = log.stall();
        for _ in 0..3 {
            assert!(!answers(&gauges.ask_within(Duration::from_millis(5))));
        }
        drop(stalled);
        assert!(answers(&gauges.ask_within(long)));
    }
}
