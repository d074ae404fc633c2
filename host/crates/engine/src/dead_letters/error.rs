//! Errors of dead letters and their redrives, with their codes.

use courtside_log::LogError;
use courtside_types::{Offset, PartitionId, Topic};

use super::sharing::Sharer;

/// Why a question about letters has no answer, or a redrive did not come to its
/// end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeadLettersError {
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

impl DeadLettersError {
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
