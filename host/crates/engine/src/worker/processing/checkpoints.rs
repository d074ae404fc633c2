//! The reads of committed checkpoints.

use std::sync::Arc;

use bytes::Bytes;
use courtside_log::{Checkpoints, LogError};
use courtside_types::PartitionId;

use crate::worker::envelope::Envelope;

/// Committed checkpoints, as the parts of processing read them.
pub(super) struct CheckpointReader(pub Arc<dyn Checkpoints>);

impl CheckpointReader {
    /// A committed checkpoint, with the bytes it is made of.
    pub fn read(
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
        let read = self.read(partition, key)?;
        Ok(read.map(|(_, envelope)| envelope))
    }
}

impl std::fmt::Debug for CheckpointReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checkpoints")
    }
}
