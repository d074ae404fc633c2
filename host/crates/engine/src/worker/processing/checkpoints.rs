//! The reads of committed checkpoints.

use std::sync::Arc;

use bytes::Bytes;
use courtside_log::{Checkpoints, LogError};
use courtside_types::PartitionId;

use super::Stop;
use crate::worker::envelope::Envelope;

/// The reason why a checkpoint could not be read.
pub(super) enum NotRead {
    /// The checkpoint cannot be used, and stops its partition.
    Unusable(Stop),
    Log(LogError),
}

/// Committed checkpoints, as the parts of processing read them.
pub(super) struct CheckpointReader(pub Arc<dyn Checkpoints>);

impl CheckpointReader {
    /// A committed checkpoint, with the bytes it is made of.
    pub fn read(
        &self,
        partition: PartitionId,
        key: &[u8],
    ) -> Result<Option<(Bytes, Envelope)>, NotRead> {
        self.decoded(partition, key).map_err(|error| match error {
            LogError::Corrupt { reason } => NotRead::Unusable(Stop {
                code: "checkpoint-corrupt",
                reason: format!("checkpoint of {}: {reason}", String::from_utf8_lossy(key)),
                waits: false,
            }),
            error => NotRead::Log(error),
        })
    }

    fn decoded(
        &self,
        partition: PartitionId,
        key: &[u8],
    ) -> Result<Option<(Bytes, Envelope)>, LogError> {
        let bytes = self.0.get(partition, key)?;
        bytes
            .map(|bytes| match Envelope::decode(&bytes) {
                Ok(envelope) => Ok((bytes, envelope)),
                Err(error) => Err(LogError::Corrupt {
                    reason: error.to_string(),
                }),
            })
            .transpose()
    }

    pub fn envelope(
        &self,
        partition: PartitionId,
        key: &[u8],
    ) -> Result<Option<Envelope>, LogError> {
        let read = self.decoded(partition, key)?;
        Ok(read.map(|(_, envelope)| envelope))
    }
}

impl std::fmt::Debug for CheckpointReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checkpoints")
    }
}
