//! Retention: the oldest batches go, by age and by what a partition holds.
//!
//! A batch goes whole, when its latest record is too old or when what is left
//! without it is still as much as is to be kept. Its latest record is no later than
//! its append; where the clock has gone back since, batches from after now are given
//! the time at which that was seen, and age from there. A batch stays while a group that
//! reads the topic has not committed past it: a difference from Kafka, on
//! purpose, for here the disk's fill is watched and nobody loses events to a
//! plugin that was away.

use super::{CHUNK_BYTES, Place, Step, stored_bytes};
use crate::log::{
    LogError,
    embedded::{
        batch::{Batch, Head},
        read::damaged,
    },
};

pub(super) fn apply(
    place: &Place<'_>,
    retention_ms: Option<u64>,
    retention_bytes: Option<u64>,
    now_ms: u64,
) -> Result<(), LogError> {
    if retention_ms.is_none() && retention_bytes.is_none() {
        return Ok(());
    }
    let read = place.read_up_to(now_ms);
    if retention_ms.is_some() {
        restamp(place, now_ms)?;
    }
    let expired = |head: &Head| {
        retention_ms.is_some_and(|ms| head.timestamp_ms_max.saturating_add(ms) < now_ms)
    };
    // Mostly nothing is to go, and the first batch alone says so.
    let mut chunk_bytes = 1;
    loop {
        let row = place.topic.row(place.partition);
        let mut left_bytes = row.bytes;
        let mut step = Step::default();
        for (base, value) in place.chunk(row.start, row.end, chunk_bytes)? {
            let head = Head::parse(&value)
                .map_err(|damage| damaged(place.topic, place.partition, base, damage))?;
            let next = base
                .saturating_add(head.last_delta.into())
                .saturating_add(1);
            let bytes = stored_bytes(&value);
            let rest = left_bytes.saturating_sub(bytes);
            let too_much = retention_bytes.is_some_and(|keep| rest >= keep);
            if next > read || step.is_large() || !(expired(&head) || too_much) {
                break;
            }
            left_bytes = rest;
            step.remove(base, bytes);
            step.start = Some(next);
        }
        if step.remove.is_empty() {
            return Ok(());
        }
        place.apply(step)?;
        chunk_bytes = CHUNK_BYTES;
    }
}

/// How far the clock may go back before batches count as from after now.
const CLOCK_BACK_MS: u64 = 60_000;

/// Gives batches from after now the time of now, where the first one is: it would
/// keep all of the others. Mostly it is not, and nothing else is looked at.
fn restamp(place: &Place<'_>, now_ms: u64) -> Result<(), LogError> {
    let is_later = |head: &Head| head.timestamp_ms_max > now_ms.saturating_add(CLOCK_BACK_MS);
    let end = place.topic.row(place.partition).end;
    let mut at = place.topic.row(place.partition).start;
    let mut chunk_bytes = 1;
    let mut restamped = 0_u64;
    while at < end {
        let mut step = Step::default();
        let chunk = place.chunk(at, end, chunk_bytes)?;
        let from = at;
        for (base, value) in chunk {
            let damaged = |damage| damaged(place.topic, place.partition, base, damage);
            let head = Head::parse(&value).map_err(damaged)?;
            if is_later(&head) && !step.is_large() {
                let batch = Batch::restamped(&value, now_ms).map_err(damaged)?;
                step.remove(base, stored_bytes(&value));
                step.insert(base, batch);
                restamped += 1;
            } else if restamped == 0 || step.is_large() {
                break;
            }
            at = base
                .saturating_add(head.last_delta.into())
                .saturating_add(1);
        }
        if !step.remove.is_empty() {
            place.apply(step)?;
        }
        if at == from {
            break;
        }
        chunk_bytes = CHUNK_BYTES;
    }
    if restamped > 0 {
        tracing::warn!(
            topic = %place.topic.name,
            partition = place.partition,
            batches = restamped,
            "batches are from after now: the clock has gone back, and they age from now on"
        );
    }
    Ok(())
}
