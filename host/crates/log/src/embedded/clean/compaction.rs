//! Compaction: the latest record of each key stays.
//!
//! Compaction works like Kafka's cleaner. A round maps the keys of the part that is new
//! since the last one ("dirty") to their latest offsets, as many keys as fit. It then goes
//! through the partition from its start to the end of the map, and drops each record
//! for whose key the map has a later offset. The other records keep their offsets, and
//! the partition keeps its end. Batches that shrank are merged with their neighbours.
//!
//! A tombstone is dropped when its timestamp is older than the retention. By then the
//! round that mapped it, this one or an earlier one, has dropped all records that the
//! tombstone deletes. Records without a key are dropped too, since no later record
//! could supersede them.
//!
//! A round ends where the slowest group that reads the topic has committed, as in
//! retention. So a group of this host gets every record of a table, however often its
//! key was written meanwhile.

use courtside_process::clock::now_ms;
use courtside_types::Record;
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_128;

use super::step::{CHUNK_BYTES, PartitionCleaner, Step, stored_bytes};
use crate::{
    LogError,
    embedded::{
        batch::{Batch, Builder, Head},
        config::EmbeddedConfig,
        read::damaged,
        rows::PartitionRow,
    },
};

/// A batch with at least this many bytes of records is left as it is while all its
/// records stay.
const MERGE_BELOW_BYTES: u32 = 64 << 10;

/// Keys are told apart by 128 bits of hash. A collision among a billion keys is less
/// likely than a disk that returns wrong data.
type Latest = FxHashMap<u128, u64>;

/// Drops superseded records, and tombstones older than `tombstones_before_ms`.
pub(super) fn apply(
    cleaner: &PartitionCleaner<'_>,
    tombstones_before_ms: u64,
    now_ms: u64,
) -> Result<(), LogError> {
    loop {
        let row = cleaner.topic.row(cleaner.partition);
        let end = row.end.min(cleaner.read_up_to(now_ms));
        if !is_worth_it(&cleaner.shared.config, row, end) {
            return Ok(());
        }
        let round = map(cleaner, end)?;
        if round.end == row.cleaned {
            // The groups have committed only a part of the next batch.
            return Ok(());
        }
        rewrite(cleaner, &round, tombstones_before_ms)?;
    }
}

/// Whether enough bytes are new before `end`. The row has only the number of all new
/// bytes, so those before `end` are estimated by their share of the new offsets. The
/// estimate is exact if no group is behind.
#[allow(clippy::cast_precision_loss)]
fn is_worth_it(config: &EmbeddedConfig, row: PartitionRow, end: u64) -> bool {
    if end <= row.cleaned {
        return false;
    }
    let part = (end - row.cleaned) as f64 / (row.end - row.cleaned) as f64;
    let dirty_bytes = row.dirty_bytes as f64 * part;
    let ratio = dirty_bytes / row.bytes.max(1) as f64;
    dirty_bytes >= config.compaction_dirty_bytes_min.as_u64() as f64
        && ratio >= config.compaction_dirty_ratio_min
}

struct Round {
    latest: Latest,
    /// The offset at which the map ends.
    end: u64,
    /// Stored bytes of the mapped batches.
    bytes: u64,
}

fn parse(
    cleaner: &PartitionCleaner<'_>,
    base: u64,
    value: fjall::UserValue,
) -> Result<Batch, LogError> {
    Batch::parse(base, value)
        .map_err(|damage| damaged(cleaner.topic, cleaner.partition, base, damage))
}

fn records(
    cleaner: &PartitionCleaner<'_>,
    base: u64,
    batch: Batch,
) -> Result<Vec<Record>, LogError> {
    batch
        .records()
        .collect::<Result<_, _>>()
        .map_err(|damage| damaged(cleaner.topic, cleaner.partition, base, damage))
}

/// Maps the dirty part before `end`, or less of it once the map has
/// `compaction_keys_max` keys.
fn map(cleaner: &PartitionCleaner<'_>, end: u64) -> Result<Round, LogError> {
    let row = cleaner.topic.row(cleaner.partition);
    let keys_max = cleaner.shared.config.compaction_keys_max;
    let mut round = Round {
        latest: Latest::default(),
        end: row.cleaned,
        bytes: 0,
    };
    while round.end < end {
        let chunk = cleaner.chunk(round.end, end, CHUNK_BYTES)?;
        if chunk.is_empty() {
            // No batch is left before `end`.
            round.end = end;
        }
        for (base, value) in chunk {
            let bytes = stored_bytes(&value);
            let batch = parse(cleaner, base, value)?;
            let next = base
                .saturating_add(batch.head.last_delta.into())
                .saturating_add(1);
            // A batch is mapped whole or not at all. The number of keys is checked only
            // between batches, so that every round makes progress.
            if next > end || round.latest.len() >= keys_max {
                return Ok(round);
            }
            for record in records(cleaner, base, batch)? {
                if let Some(key) = &record.key {
                    round.latest.insert(xxh3_128(key), record.offset.0);
                }
            }
            round.bytes += bytes;
            round.end = next;
        }
    }
    Ok(round)
}

fn rewrite(
    cleaner: &PartitionCleaner<'_>,
    round: &Round,
    tombstones_before_ms: u64,
) -> Result<(), LogError> {
    let stays = |head: &Head, record: &Record| {
        let Some(key) = &record.key else {
            return false;
        };
        let latest = round.latest.get(&xxh3_128(key));
        let superseded = latest.is_some_and(|latest| *latest > record.offset.0);
        let time_ms = record.timestamp_ms.min(head.timestamp_ms_max);
        let expired = record.value.is_none() && time_ms < tombstones_before_ms;
        !superseded && !expired
    };
    let mut at = cleaner.topic.row(cleaner.partition).start;
    let mut merge = Merge::default();
    while at < round.end {
        let chunk = cleaner.chunk(at, round.end, CHUNK_BYTES)?;
        if chunk.is_empty() {
            break;
        }
        for (base, value) in chunk {
            let bytes = stored_bytes(&value);
            let batch = parse(cleaner, base, value)?;
            let head = batch.head;
            at = base
                .saturating_add(head.last_delta.into())
                .saturating_add(1);
            let mut kept = records(cleaner, base, batch)?;
            kept.retain(|record| stays(&head, record));
            let whole = kept.len() == head.count as usize;
            if whole && head.raw_len >= MERGE_BELOW_BYTES {
                merge.close();
            } else {
                merge.take(base, bytes, whole, &kept);
            }
            if merge.step.is_large() {
                merge.close();
                cleaner.apply(std::mem::take(&mut merge.step))?;
            }
        }
    }
    merge.close();
    merge.step.cleaned = Some((round.end, round.bytes));
    cleaner.apply(merge.step)
}

/// Merges the remaining records of neighbouring batches.
#[derive(Default)]
struct Merge {
    step: Step,
    open: Option<(u64, Builder)>,
    /// The batches that went into `open`, and into no merged batch before it: first
    /// offset, stored bytes, and whether all records stayed.
    sources: Vec<(u64, u64, bool)>,
}

impl Merge {
    fn take(&mut self, base: u64, bytes: u64, whole: bool, kept: &[Record]) {
        self.sources.push((base, bytes, whole));
        for record in kept {
            if let Some((_, open)) = &mut self.open
                && !open.is_full_for(record.size())
                && open.push_at(record)
            {
                continue;
            }
            if self.open.is_some() {
                self.emit();
            }
            let mut open = Builder::sparse(record.offset.0).appended_at(now_ms());
            open.push_at(record);
            self.open = Some((record.offset.0, open));
        }
    }

    /// Puts the open batch into the step.
    fn emit(&mut self) {
        for (base, bytes, _) in self.sources.drain(..) {
            self.step.remove(base, bytes);
        }
        if let Some((base, open)) = self.open.take() {
            self.step.insert(base, open.seal());
        }
    }

    fn close(&mut self) {
        if let [(base, _, true)] = *self.sources.as_slice()
            && self
                .open
                .as_ref()
                .is_some_and(|(open_base, _)| *open_base == base)
        {
            // The merged batch has the same records as its only source.
            self.sources.clear();
            self.open = None;
        } else {
            self.emit();
        }
    }
}
