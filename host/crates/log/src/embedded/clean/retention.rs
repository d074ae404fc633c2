//! Retention: the oldest batches are dropped, by age and by the bytes of a partition.
//!
//! A batch is dropped whole, when its latest record is too old or when the partition
//! holds `retention_bytes` even without it. The latest time of a batch is no later than
//! its append. If the clock has gone back since the append, retention gives a batch from
//! the future the current time, and the batch ages from there.
//!
//! A batch stays while a group that reads the topic has not committed past it. Kafka
//! would drop it. The embedded engine differs on purpose: it watches the free room of
//! the disk, and a plugin that was away loses no events.

use super::step::{CHUNK_BYTES, PartitionCleaner, Step, stored_bytes};
use crate::{
    LogError,
    embedded::{
        batch::{Batch, Head},
        read::damaged,
    },
};

pub(super) fn apply(
    cleaner: &PartitionCleaner<'_>,
    retention_ms: Option<u64>,
    retention_bytes: Option<u64>,
    now_ms: u64,
) -> Result<(), LogError> {
    if retention_ms.is_none() && retention_bytes.is_none() {
        return Ok(());
    }
    let read = cleaner.read_up_to(now_ms);
    if retention_ms.is_some() {
        restamp(cleaner, now_ms)?;
    }
    let expired = |head: &Head| {
        retention_ms.is_some_and(|ms| head.timestamp_ms_max.saturating_add(ms) < now_ms)
    };
    // Usually no batch is to be dropped, and the first batch alone shows that.
    let mut chunk_bytes = 1;
    loop {
        let row = cleaner.topic.row(cleaner.partition);
        let mut left_bytes = row.bytes;
        let mut step = Step::default();
        for (base, value) in cleaner.chunk(row.start, row.end, chunk_bytes)? {
            let head = Head::parse(&value)
                .map_err(|damage| damaged(cleaner.topic, cleaner.partition, base, damage))?;
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
        cleaner.apply(step)?;
        chunk_bytes = CHUNK_BYTES;
    }
}

/// How far the clock may go back before batches count as batches from the future.
const CLOCK_BACK_MS: u64 = 60_000;

/// Gives batches from the future the current time if the first batch is one, since it
/// would keep all the others. Usually it is not, and no other batch is read.
fn restamp(cleaner: &PartitionCleaner<'_>, now_ms: u64) -> Result<(), LogError> {
    let is_later = |head: &Head| head.timestamp_ms_max > now_ms.saturating_add(CLOCK_BACK_MS);
    let end = cleaner.topic.row(cleaner.partition).end;
    let mut at = cleaner.topic.row(cleaner.partition).start;
    let mut chunk_bytes = 1;
    let mut restamped = 0_u64;
    while at < end {
        let mut step = Step::default();
        let chunk = cleaner.chunk(at, end, chunk_bytes)?;
        let from = at;
        for (base, value) in chunk {
            let damaged = |damage| damaged(cleaner.topic, cleaner.partition, base, damage);
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
            cleaner.apply(step)?;
        }
        if at == from {
            break;
        }
        chunk_bytes = CHUNK_BYTES;
    }
    if restamped > 0 {
        tracing::warn!(
            topic = %cleaner.topic.name,
            partition = cleaner.partition,
            batches = restamped,
            "batches have times in the future: the clock was set back, and their retention counts from now"
        );
    }
    Ok(())
}
