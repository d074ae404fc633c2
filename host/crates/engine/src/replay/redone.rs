//! The events that rollbacks had an entity process again, by the takeovers on record.
//!
//! A replay takes each event once, by the plugin that got it in the end. Still it must
//! know which events the entity processed again: the worker skips a redriven letter if
//! its event was processed again after the letter was made.

use courtside_types::Offset;

use super::{entity::TakeoverView, recording::Recording};
use crate::{slots::view::SwapKind, worker::envelope::Redone};

/// The events that each rollback had processed again, in the order of their first
/// events.
pub(super) fn of(recording: &Recording) -> Vec<Redone> {
    let offsets: Vec<u64> = recording
        .events
        .iter()
        .filter_map(|event| event.offset)
        .collect();
    let own = of_slot(&recording.at.takeovers, |slot| slot != "default");
    let default = of_slot(&recording.at.takeovers, |slot| slot == "default");
    let mut redone: Vec<Redone> = rollbacks(&own)
        .filter_map(|(rollback, before)| redone_by(rollback, before, &offsets))
        .collect();
    // The default slot's plugin got the events for which the key's own slot had no
    // plugin.
    let of_default: Vec<u64> = offsets
        .into_iter()
        .filter(|offset| running_at(&own, *offset).is_none())
        .collect();
    redone.extend(
        rollbacks(&default)
            .filter_map(|(rollback, before)| redone_by(rollback, before, &of_default)),
    );
    redone.sort_by_key(|redone| (redone.from, redone.attempt));
    redone
}

fn of_slot(all: &[TakeoverView], is_meant: impl Fn(&str) -> bool) -> Vec<&TakeoverView> {
    let mut takeovers: Vec<_> = all
        .iter()
        .filter(|takeover| is_meant(&takeover.slot))
        .collect();
    takeovers.sort_by_key(|takeover| takeover.seq);
    takeovers
}

/// The rollbacks of a slot, each with the takeovers before it.
fn rollbacks<'a>(
    takeovers: &'a [&'a TakeoverView],
) -> impl Iterator<Item = (&'a TakeoverView, &'a [&'a TakeoverView])> {
    let numbered = takeovers.iter().enumerate();
    numbered
        .filter(|(_, takeover)| takeover.kind == SwapKind::Rollback)
        .map(|(index, rollback)| (*rollback, takeovers.get(..index).unwrap_or_default()))
}

/// The plugin that ran in a slot when an event came first.
fn running_at<'a>(takeovers: &[&'a TakeoverView], offset: u64) -> Option<&'a str> {
    let swaps = takeovers
        .iter()
        .filter(|takeover| takeover.kind != SwapKind::Rollback);
    let last = swaps.rev().find(|takeover| takeover.offset <= offset)?;
    last.digest.as_deref()
}

/// The events that one rollback had an entity process again, from the first that the
/// undone plugin got. None if that plugin got none of them.
fn redone_by(rollback: &TakeoverView, before: &[&TakeoverView], offsets: &[u64]) -> Option<Redone> {
    let until = rollback.until?;
    let range = rollback.offset..until;
    let undone = rollback.previous.as_deref();
    let mut in_range = offsets.iter().filter(|offset| range.contains(offset));
    let from = in_range.find(|offset| running_at(before, **offset) == undone)?;
    Some(Redone {
        from: Offset(*from),
        until: Offset(until),
        attempt: rollback.attempt,
    })
}
