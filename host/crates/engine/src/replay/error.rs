//! Errors of a replay, in the words that the command prints.

use courtside_types::{Digest, Offset, PartitionId, failure::ErrorCode};

use super::{line::Malformed, recording::RECORDING_BYTES_MAX};

/// Why there is no replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("export-invalid: {0}")]
    Export(String),
    #[error(
        "recording-too-large: the events of {key:?}, or the records published for them, are over {RECORDING_BYTES_MAX} bytes"
    )]
    TooLarge { key: String },
    #[error("entity-not-found: the log has no event of {key:?} in partition {partition}")]
    NoEvents { key: String, partition: PartitionId },
    #[error(
        "partition-ambiguous: {key:?} has events in partitions {partitions}, an entity in each: name one with --partition"
    )]
    Ambiguous { key: String, partitions: String },
    #[error(
        "plugin-unknown: neither the published records nor the records of takeovers say which plugin processed {key:?}: name one with --plugin"
    )]
    PluginUnknown { key: String },
    #[error(
        "plugin-unavailable: the plugin {digest} processed events from offset {from} on, and no copy of it is left: name another with --plugin"
    )]
    PluginUnavailable { digest: Digest, from: Offset },
    /// The file is no plugin; the code is the rejection's.
    #[error("{0}")]
    Rejected(#[from] courtside_plugin_host::Rejection),
    #[error("replay-stopped: at offset {next}: {code}: {reason}")]
    Stopped {
        next: Offset,
        code: &'static str,
        reason: String,
    },
    #[error("replay-failed: {0}")]
    Failed(String),
}

impl ErrorCode for ReplayError {
    fn code(&self) -> &str {
        match self {
            Self::Export(_) => "export-invalid",
            Self::TooLarge { .. } => "recording-too-large",
            Self::NoEvents { .. } => "entity-not-found",
            Self::Ambiguous { .. } => "partition-ambiguous",
            Self::PluginUnknown { .. } => "plugin-unknown",
            Self::PluginUnavailable { .. } => "plugin-unavailable",
            Self::Rejected(rejection) => rejection.code,
            Self::Stopped { .. } => "replay-stopped",
            Self::Failed(_) => "replay-failed",
        }
    }
}

impl From<Malformed> for ReplayError {
    fn from(error: Malformed) -> Self {
        Self::Export(error.to_string())
    }
}
