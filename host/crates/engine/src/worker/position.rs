//! How far a group has come in a partition, by its own word.
//!
//! Each commit writes a [`PositionRow`] beside the checkpoints, in the same
//! atomic step. The log's committed offset is a copy of it, for tools: others can
//! change it, and it does not say which topic it is of. So where the two differ,
//! the row counts, and without the row nobody knows what the offset means.

use bytes::Bytes;
use courtside_log::{Assignment, Bounds, LogError, check_id};
use courtside_types::{Key, Offset, TopicId};
use serde::{Deserialize, Serialize};

use crate::{
    pipeline::{Pipeline, identity::Identity},
    worker::takeover::rows::{POSITION_KEY, Row as _},
};

/// The code of a committed offset that is not the group's own.
pub const OFFSET_FOREIGN: &str = "offset-foreign";
/// The code of a partition with a committed offset and no row.
pub const POSITION_MISSING: &str = "position-missing";

/// How far a group has come in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionRow {
    /// The id of the input that the offset is of.
    pub input: TopicId,
    /// The id of the topic that the row is in, where checkpoints are in one.
    pub checkpoints: TopicId,
    /// The offset of the next event to process.
    pub next: Offset,
    /// Events that came to the group, each counted once, since it began or was reset.
    pub events: u64,
}

impl PositionRow {
    /// The row of a group that begins at `next`.
    #[must_use]
    pub fn new(identity: &Identity, next: Offset) -> Self {
        Self {
            input: identity.input_id(),
            checkpoints: identity.checkpoints_id(),
            next,
            events: 0,
        }
    }

    /// The row as it is stored.
    #[must_use]
    pub fn checkpoint(&self) -> (Key, Bytes) {
        (Key::from_static(&POSITION_KEY), self.encode())
    }
}

/// The offset at which a partition goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub next: Offset,
    /// The number of events, as in [`PositionRow::events`].
    pub events: u64,
    pub copy: Copied,
}

/// How the log's committed offset compares with the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// There is neither a row nor a committed offset.
    Fresh,
    Same,
    /// Another program committed this offset.
    Foreign(Offset),
    /// The log no longer has a committed offset: it forgets those of a group that was
    /// away.
    Gone,
}

impl Start {
    /// The start of a partition of which nothing is known.
    #[must_use]
    pub const fn fresh(next: Offset) -> Self {
        Self {
            next,
            events: 0,
            copy: Copied::Fresh,
        }
    }

    /// The start of a partition whose row the worker wrote itself.
    #[must_use]
    pub const fn of(row: &PositionRow) -> Self {
        Self {
            next: row.next,
            events: row.events,
            copy: Copied::Same,
        }
    }

    /// Whether the next commit is to write the row and its copy, though nothing
    /// was processed.
    #[must_use]
    pub fn is_unwritten(&self) -> bool {
        self.copy != Copied::Same
    }
}

/// Why a worker does not begin with a partition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(
        "offset {committed} is committed, and the checkpoints do not have the group's position: they are gone, or another program committed the offset; `courtside reset` sets a new position"
    )]
    PositionMissing { committed: Offset },
}

impl Refusal {
    /// The stable code of `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Log(error) => error.code(),
            Self::PositionMissing { .. } => POSITION_MISSING,
        }
    }
}

/// Decides where a partition goes on, and refuses a row of other topics than the
/// pipeline's.
pub fn begin(
    pipeline: &Pipeline,
    assignment: &Assignment,
    row: Option<&PositionRow>,
) -> Result<Start, Refusal> {
    let committed = assignment.committed;
    let Some(row) = row else {
        return match committed {
            None => Ok(Start::fresh(assignment.bounds.start)),
            Some(committed) => Err(Refusal::PositionMissing { committed }),
        };
    };
    let identity = &pipeline.identity;
    check_id(&pipeline.input, row.input, Some(identity.input_id()))?;
    if let Some((topic, id)) = &identity.checkpoints {
        check_id(topic, row.checkpoints, Some(*id))?;
    }
    let Bounds { start, end } = assignment.bounds;
    if !assignment.bounds.hold(row.next) {
        return Err(Refusal::Log(LogError::OffsetOutOfRange {
            topic: pipeline.input.clone(),
            partition: assignment.partition,
            offset: row.next,
            start,
            end,
        }));
    }
    Ok(Start {
        next: row.next,
        events: row.events,
        copy: match committed {
            Some(committed) if committed == row.next => Copied::Same,
            Some(committed) => Copied::Foreign(committed),
            None => Copied::Gone,
        },
    })
}

#[cfg(test)]
mod tests {
    use courtside_types::PartitionId;

    use super::*;
    use crate::worker::tests::pipeline;

    const INPUT: TopicId = TopicId(7);
    const CHECKPOINTS: TopicId = TopicId(8);
    const OTHER: TopicId = TopicId(9);

    /// Each case has the row's input, checkpoints and offset, if there is a row; the
    /// committed offset; and the expected start or code. The log has offsets 10 to 20.
    #[test]
    fn the_groups_own_word_decides() {
        use Copied::{Foreign, Fresh, Gone, Same};
        let own = |next| Some((INPUT, CHECKPOINTS, next));
        for (row, committed, expected) in [
            (None, None, Ok((10, Fresh))),
            (None, Some(12), Err("position-missing")),
            // Without a row, an offset at the log's start or below it is refused, too.
            (None, Some(10), Err("position-missing")),
            (None, Some(0), Err("position-missing")),
            (own(12), Some(12), Ok((12, Same))),
            (own(10), Some(10), Ok((10, Same))),
            (own(20), Some(20), Ok((20, Same))),
            (own(12), Some(15), Ok((12, Foreign(Offset(15))))),
            (own(12), Some(10), Ok((12, Foreign(Offset(10))))),
            (own(12), Some(0), Ok((12, Foreign(Offset(0))))),
            (own(12), Some(99), Ok((12, Foreign(Offset(99))))),
            (own(12), None, Ok((12, Gone))),
            // A row of another topic is refused, wherever that topic ends, and whoever
            // committed.
            (Some((OTHER, CHECKPOINTS, 12)), None, Err("topic-recreated")),
            (
                Some((OTHER, CHECKPOINTS, 12)),
                Some(12),
                Err("topic-recreated"),
            ),
            (
                Some((OTHER, CHECKPOINTS, 99)),
                Some(99),
                Err("topic-recreated"),
            ),
            (
                Some((TopicId::NONE, CHECKPOINTS, 12)),
                Some(12),
                Err("topic-recreated"),
            ),
            (Some((INPUT, OTHER, 12)), Some(12), Err("topic-recreated")),
            // Retention has deleted the offset, or the log is of another time.
            (own(9), Some(9), Err("offset-out-of-range")),
            (own(9), Some(12), Err("offset-out-of-range")),
            (own(21), Some(21), Err("offset-out-of-range")),
            (own(21), None, Err("offset-out-of-range")),
        ] {
            let mut pipeline = Pipeline::clone(&pipeline(1, 1));
            pipeline.identity = Identity {
                input: Some(("in".into(), INPUT)),
                checkpoints: Some(("g.checkpoints".into(), CHECKPOINTS)),
            };
            let assignment = Assignment {
                partition: PartitionId(0),
                committed: committed.map(Offset),
                bounds: Bounds {
                    start: Offset(10),
                    end: Offset(20),
                },
            };
            let stored = row.map(|(input, checkpoints, next)| PositionRow {
                input,
                checkpoints,
                next: Offset(next),
                events: 5,
            });
            let begun = begin(&pipeline, &assignment, stored.as_ref());
            let said = begun.as_ref().map(|start| (start.next.0, start.copy));
            let said = said.map_err(Refusal::code);
            assert_eq!(said, expected, "{row:?} {committed:?}");
            if let Ok(start) = begun {
                assert_eq!(start.events, if row.is_some() { 5 } else { 0 });
                assert_eq!(start.is_unwritten(), start.copy != Same);
            }
        }
    }
}
