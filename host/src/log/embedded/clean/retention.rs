//! Retention: the oldest batches go, by age and by what a partition holds.
//!
//! A batch goes whole, when its latest record is too old or when what is left
//! without it is still as much as is to be kept. It stays while a group that
//! reads the topic has not committed past it: a difference from Kafka, on
//! purpose, for here the disk's fill is watched and nobody loses events to a
//! plugin that was away.

use super::{CHUNK_BYTES, Place, Step, stored_bytes};
use crate::log::{
    LogError,
    embedded::{batch::Head, read::damaged},
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
