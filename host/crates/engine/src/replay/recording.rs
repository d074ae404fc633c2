//! A recording: what a log has of one entity, fetched from a host or read from a file.

use std::collections::BTreeMap;

use bytes::Bytes;
use courtside_types::{Digest, PartitionId};

use super::{
    entity::{EntityPartition, PipelineView},
    line::Line,
};

/// Most bytes of events in a recording, and most bytes of published records.
pub const RECORDING_BYTES_MAX: usize = 1 << 30;

/// All that is known of one entity: what replay needs, and an export holds.
#[derive(Clone, Debug)]
pub struct Recording {
    pub pipeline: PipelineView,
    pub key: String,
    /// Its partition: the bounds of the log, the checkpoint, the takeovers.
    pub at: EntityPartition,
    /// Events below the committed offset, in offset order.
    pub events: Vec<Line>,
    /// Records that the events led to, including dead letters, as far as the log
    /// has them.
    pub published: Vec<Line>,
    /// The plugins that processed the events, as far as copies are left.
    pub plugins: BTreeMap<Digest, Bytes>,
}

impl Recording {
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        PartitionId(self.at.partition)
    }

    /// Whether the log may have lost events that came before the first recorded
    /// one.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.at.start > 0
    }

    /// Says what is missing from before the first event, if anything may be.
    #[must_use]
    pub fn reservation(&self) -> Option<String> {
        self.is_cut().then(|| {
            let before = self.published.iter().filter_map(|line| line.source);
            let before = before.filter(|source| *source < self.at.start).count();
            let known = match before {
                0 => "it is not known whether this key had any".to_owned(),
                _ => format!("{before} records published for them are left"),
            };
            format!(
                "the log no longer has the events of partition {} before offset {} ({known}). The replay begins at this offset, with a new entity: it shows what a plugin does with these events, and not whether they led to the published records",
                self.at.partition, self.at.start,
            )
        })
    }
}
