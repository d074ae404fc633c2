//! Dead letters for the operator: how they are listed ([`pages`]), and how their
//! events are processed after all ([`redrive`]).
//!
//! A [`Letters`] serves one pipeline and lives as long as the host. A redrive
//! runs on a thread of its own, one at a time. Between redrives, the host keeps
//! only the notes of redriven letters, which it reads at the first request.

pub mod event;
pub mod notes;
mod pages;
mod redrive;
pub mod sharing;
#[cfg(test)]
mod tests;
pub mod view;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use courtside_log::{LogError, RecordLog};
use courtside_process::shutdown::{self, End};
use courtside_types::{Offset, PartitionId, Topic, topics::DEAD_LETTER_SUFFIX};
use metrics::{counter, describe_counter};
use parking_lot::Mutex;

pub use self::pages::{Filter, From};
use self::{
    notes::Notes,
    sharing::Sharer,
    view::{Plan, RedriveState, RedriveView, Selection},
};
use crate::pipeline::Pipeline;

/// Where a group's dead letters go.
#[must_use]
pub fn topic(group: &str) -> Topic {
    format!("{group}{DEAD_LETTER_SUFFIX}").into()
}

/// Why a question about letters has no answer, or a redrive did not come to its
/// end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LettersError {
    #[error(
        "there is no dead letter {partition}/{offset}: it never existed, or retention has removed it"
    )]
    NotFound {
        partition: PartitionId,
        offset: Offset,
    },
    #[error("a redrive of the pipeline is running: GET its progress")]
    Running,
    #[error(
        "another host redrives dead letters of the pipeline, or was killed during a redrive less than a session timeout ago"
    )]
    Elsewhere,
    #[error(
        "the dead letter is one of many of a halted entity, whose events must be processed in order: redrive its key"
    )]
    NeedsKey,
    #[error(
        "redriven events of partition {partition} are not processed yet: {lag} records are left up to the last of them; the pipeline's plugin may be missing, or the partition may be stopped"
    )]
    NotProcessed { partition: PartitionId, lag: u64 },
    #[error(
        "other groups use the input {topic}: {}. Nothing was redriven", sharers.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    SharedInput { topic: Topic, sharers: Vec<Sharer> },
    #[error(
        "the host stops, or is no longer a member of the redrive's group: redrive again, no event is redriven twice"
    )]
    Interrupted,
    #[error(transparent)]
    Log(#[from] LogError),
}

impl LettersError {
    /// The stable code of `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "letter-not-found",
            Self::Running => "redrive-running",
            Self::Elsewhere => "redrive-elsewhere",
            Self::NeedsKey => "redrive-needs-key",
            Self::NotProcessed { .. } => "redrive-not-processed",
            Self::SharedInput { .. } => "redrive-shared-input",
            Self::Interrupted => "redrive-interrupted",
            Self::Log(error) => error.code(),
        }
    }
}

/// The dead letters of a pipeline.
pub struct Letters {
    log: Arc<dyn RecordLog>,
    pipeline: Arc<Pipeline>,
    notes: Mutex<Notes>,
    progress: Mutex<RedriveView>,
    stop: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Letters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Letters")
            .field("pipeline", &self.pipeline.name)
            .finish_non_exhaustive()
    }
}

impl Letters {
    #[must_use]
    pub fn new(log: Arc<dyn RecordLog>, pipeline: Arc<Pipeline>) -> Arc<Self> {
        for name in [redrive::REDRIVEN, redrive::DEAD_AGAIN] {
            counter!(name, "pipeline" => pipeline.name.to_string()).increment(0);
        }
        Arc::new(Self {
            notes: Mutex::new(Notes::new(&pipeline.group, pipeline.partitions)),
            log,
            pipeline,
            progress: Mutex::default(),
            stop: AtomicBool::new(false),
            thread: Mutex::new(None),
        })
    }

    /// Says what a redrive would do, as far as that is known before it begins.
    pub fn plan(&self, selection: &Selection) -> Result<Plan, LettersError> {
        self.notes.lock().read(&*self.log)?;
        redrive::plan(self, selection)
    }

    /// Begins a redrive; [`Self::progress`] says how it goes.
    pub fn redrive(self: &Arc<Self>, selection: Selection) -> Result<RedriveView, LettersError> {
        self.check(&selection)?;
        let begun = {
            let mut progress = self.progress.lock();
            if progress.state == RedriveState::Running {
                return Err(LettersError::Running);
            }
            *progress = RedriveView {
                state: RedriveState::Running,
                selection: Some(selection.clone()),
                started_at_ms: Some(now_ms()),
                ..RedriveView::default()
            };
            progress.clone()
        };
        let letters = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("redrive".to_owned())
            .spawn(move || letters.run(&selection));
        match thread {
            Ok(thread) => *self.thread.lock() = Some(thread),
            Err(error) => {
                let error = LettersError::Log(LogError::Unavailable {
                    reason: format!("the redrive's thread cannot start: {error}"),
                });
                self.end(Err(error.clone()));
                return Err(error);
            }
        }
        Ok(begun)
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

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Refuses a redrive that is known to be wrong before it begins.
    fn check(&self, selection: &Selection) -> Result<(), LettersError> {
        if let Selection::One { partition, offset } = selection {
            let letter = self.one(PartitionId(*partition), Offset(*offset))?;
            let notes = self.notes.lock();
            let (partition, offset) = (letter.partition, letter.record.offset);
            let is_open =
                !notes.is_redriven(partition, offset) && !notes.is_void(partition, offset);
            if letter.is_of_halt() && is_open {
                return Err(LettersError::NeedsKey);
            }
        }
        sharing::check(&*self.log, &self.pipeline)
    }

    fn run(&self, selection: &Selection) {
        tracing::info!(pipeline = %self.pipeline.name, ?selection, "redrive begins");
        let outcome = redrive::run(self, selection);
        self.end(outcome);
    }

    fn end(&self, outcome: Result<(), LettersError>) {
        let mut progress = self.progress.lock();
        progress.ended_at_ms = Some(now_ms());
        progress.state = RedriveState::Done;
        if let Err(error) = outcome {
            tracing::warn!(pipeline = %self.pipeline.name, code = error.code(), %error, "redrive failed");
            progress.state = RedriveState::Failed;
            progress.code = Some(error.code().to_owned());
            progress.reason = Some(error.to_string());
        }
        tracing::info!(
            pipeline = %self.pipeline.name,
            redriven = progress.redriven,
            dead_again = progress.dead_again,
            unfit = progress.unfit.values().sum::<u64>(),
            "redrive ends",
        );
    }
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Describes the metrics of redrives.
pub fn describe() {
    describe_counter!(
        redrive::REDRIVEN,
        "Dead letters whose events were appended to the input again."
    );
    describe_counter!(
        redrive::DEAD_AGAIN,
        "Redriven events that became dead letters again."
    );
}
