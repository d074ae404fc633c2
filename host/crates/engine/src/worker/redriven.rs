//! The marks of redriven events: the headers that a redrive writes, and that the worker
//! reads.

use courtside_types::{Offset, PartitionId, Position, Record};

use crate::pipeline::identity::Identity;

/// On a redriven event: the `partition/offset` of its dead letter.
pub const REDRIVE: &str = "courtside-redrive";
/// On a redriven event: the `topic/partition/offset` at which it first came.
/// The header stays if the event becomes a dead letter again.
pub const ORIGIN: &str = "courtside-origin";
/// On a redriven event: it is the first of its key in a redrive.
pub const BEGINS: &str = "courtside-redrive-begins";
/// On the last redriven event of a key in a redrive: the offset up to which the
/// redrive has brought all of the key's events.
pub const UNTIL: &str = "courtside-redrive-until";

/// On a redriven event: `offset/attempt` of the record that its letter was made
/// of. The worker sees by it whether a rollback has processed that record again
/// since.
pub const MADE_OF: &str = "courtside-redrive-made-of";

/// The marks of a redriven event, which was a dead letter before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redriven {
    /// The offset that the event had when it came first.
    pub origin: Offset,
    /// The event is the first of its entity's in a redrive, so no other redrive is
    /// under way.
    pub begins: bool,
    /// Set on the last of the entity's events in a redrive, which has then brought all
    /// events up to this offset.
    pub until: Option<Offset>,
    /// The record that the dead letter was made of, and the attempt at processing it.
    pub made_of: Option<(Offset, u32)>,
}

/// The marks of a redriven event, from its headers; None for any other record.
#[must_use]
pub fn redriven(input: &Identity, record: &Record) -> Option<Redriven> {
    if !is_redriven(input, record) {
        return None;
    }
    let origin = record.header(ORIGIN).and_then(|text| position(text));
    Some(Redriven {
        origin: origin.map_or(record.offset, |origin| origin.offset),
        begins: record.header(BEGINS).is_some(),
        until: record.header(UNTIL).and_then(|text| offset(text)),
        made_of: record.header(MADE_OF).and_then(|text| made_of(text)),
    })
}

/// Whether a record of the input is a redriven event.
#[must_use]
pub fn is_redriven(input: &Identity, record: &Record) -> bool {
    record.header(REDRIVE).is_some() && input.wrote(record)
}

fn offset(text: &[u8]) -> Option<Offset> {
    std::str::from_utf8(text).ok()?.parse().ok().map(Offset)
}

fn made_of(text: &[u8]) -> Option<(Offset, u32)> {
    let (offset, attempt) = std::str::from_utf8(text).ok()?.split_once('/')?;
    Some((Offset(offset.parse().ok()?), attempt.parse().ok()?))
}

/// Parses `topic/partition/offset`.
#[must_use]
pub fn position(text: &[u8]) -> Option<Position> {
    let mut parts = std::str::from_utf8(text).ok()?.rsplitn(3, '/');
    let offset = Offset(parts.next()?.parse().ok()?);
    let partition = PartitionId(parts.next()?.parse().ok()?);
    Some(Position {
        topic: parts.next()?.to_owned().into(),
        partition,
        offset,
    })
}
