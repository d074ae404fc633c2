//! Looks at the log, of which the last one serves all readers that wait.

use std::collections::BTreeMap;

use courtside_log::Bounds;
use courtside_types::{Offset, PartitionId};
use tokio::time::Instant;

/// A group's offsets, and when the board asked for them.
pub(super) struct Committed {
    pub tick: u64,
    pub at: Instant,
    pub offsets: BTreeMap<PartitionId, Offset>,
}

/// Where the output ended, and when the log was asked. `bounds` is `None` where the
/// log did not answer.
pub(super) struct Ends {
    pub asked: Instant,
    pub bounds: Option<Vec<Bounds>>,
}
