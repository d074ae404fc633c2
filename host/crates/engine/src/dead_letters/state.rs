//! The dead letters of one pipeline, with what the host keeps of them: the notes, and
//! the redrive that runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use courtside_log::{Bounds, LogError, RecordLog};
use courtside_process::shutdown::{self, End};
use courtside_types::{Offset, PartitionId, Topic};
use parking_lot::Mutex;

use super::{error::DeadLettersError, metrics, notes::Notes, view::RedriveView};
use crate::pipeline::Pipeline;

const LOOK: Duration = Duration::from_millis(10);

/// The dead letters of a pipeline.
pub struct DeadLetters {
    pub(super) log: Arc<dyn RecordLog>,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) notes: Mutex<Notes>,
    pub(super) progress: Mutex<RedriveView>,
    stop: AtomicBool,
    pub(super) thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Letters")
            .field("pipeline", &self.pipeline.name)
            .finish_non_exhaustive()
    }
}

impl DeadLetters {
    #[must_use]
    pub fn new(log: Arc<dyn RecordLog>, pipeline: Arc<Pipeline>) -> Arc<Self> {
        metrics::begin(&pipeline.name);
        Arc::new(Self {
            notes: Mutex::new(Notes::new(&pipeline.group, pipeline.partitions)),
            log,
            pipeline,
            progress: Mutex::default(),
            stop: AtomicBool::new(false),
            thread: Mutex::new(None),
        })
    }

    #[must_use]
    pub fn progress(&self) -> RedriveView {
        self.progress.lock().clone()
    }

    /// Ends a running redrive after its current commit; the next redrive does
    /// the rest.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Waits until `by` at most for the end of a redrive that was told to stop.
    #[must_use]
    pub fn end_by(&self, by: Instant) -> End {
        let name = format!("redrive of {}", self.pipeline.name);
        let thread = self.thread.lock().take();
        thread.map_or(End::Clean, |thread| shutdown::end_of(&name, thread, by))
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Waits until readers see all that was written to a partition by now, and
    /// returns the end.
    pub(super) fn settled_end(
        &self,
        topic: &Topic,
        partition: PartitionId,
        within: Duration,
    ) -> Result<Offset, DeadLettersError> {
        let log = &*self.log;
        let end_of = |bounds: Vec<Bounds>| {
            let bounds = bounds.get(partition.0 as usize);
            bounds.map_or(Offset(0), |bounds| bounds.end)
        };
        let end = end_of(log.written(topic)?);
        let deadline = Instant::now() + within;
        while end_of(log.bounds(topic)?) < end {
            if self.is_stopped() {
                return Err(DeadLettersError::Interrupted);
            }
            if Instant::now() >= deadline {
                let reason = format!("a transaction on {topic}/{partition} stays open");
                return Err(LogError::Unavailable { reason }.into());
            }
            std::thread::sleep(LOOK);
        }
        Ok(end)
    }
}
