//! A redrive as the operator controls it: planned, begun on a thread of its own, and
//! ended.

use std::sync::Arc;

use courtside_log::LogError;
use courtside_process::clock::now_ms;
use courtside_types::{Offset, PartitionId};

use super::{
    error::DeadLettersError,
    redrive, sharing,
    state::DeadLetters,
    view::{Plan, RedriveState, RedriveView, Selection},
};

impl DeadLetters {
    /// Says what a redrive would do, as far as that is known before it begins.
    pub fn plan(&self, selection: &Selection) -> Result<Plan, DeadLettersError> {
        self.notes.lock().read(&*self.log)?;
        self.check(selection)?;
        redrive::plan(self, selection)
    }

    /// Begins a redrive; [`Self::progress`] says how it goes.
    pub fn redrive(
        self: &Arc<Self>,
        selection: Selection,
    ) -> Result<RedriveView, DeadLettersError> {
        self.check(&selection)?;
        let begun = {
            let mut progress = self.progress.lock();
            if progress.state == RedriveState::Running {
                return Err(DeadLettersError::Running);
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
                let error = DeadLettersError::Log(LogError::Unavailable {
                    reason: format!("the redrive's thread cannot start: {error}"),
                });
                self.end(Err(error.clone()));
                return Err(error);
            }
        }
        Ok(begun)
    }

    /// Refuses a redrive that is known to be wrong before it begins.
    fn check(&self, selection: &Selection) -> Result<(), DeadLettersError> {
        if let Selection::One { partition, offset } = selection {
            let letter = self.one(PartitionId(*partition), Offset(*offset))?;
            let notes = self.notes.lock();
            let (partition, offset) = (letter.partition, letter.record.offset);
            let is_open =
                !notes.is_redriven(partition, offset) && !notes.is_void(partition, offset);
            if letter.is_of_halt() && is_open {
                return Err(DeadLettersError::NeedsKey);
            }
        }
        let sharers = sharing::sharers(&*self.log, &self.pipeline)?;
        if sharers.is_empty() {
            return Ok(());
        }
        Err(DeadLettersError::SharedInput {
            topic: self.pipeline.input.clone(),
            sharers,
        })
    }

    fn run(&self, selection: &Selection) {
        tracing::info!(pipeline = %self.pipeline.name, ?selection, "redrive begins");
        let outcome = redrive::run(self, selection);
        self.end(outcome);
    }

    fn end(&self, outcome: Result<(), DeadLettersError>) {
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
