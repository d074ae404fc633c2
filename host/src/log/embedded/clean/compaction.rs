//! Compaction: of each key, the latest record stays.
//!
//! As Kafka's cleaner does it. A round maps the keys of the part that is new
//! since the last one ("dirty") to their latest offsets, as many keys as fit,
//! and then goes through the partition from its start to where the map ends,
//! dropping records that the map knows a later one of. Offsets stay, the end
//! stays; batches that shrank are merged with their neighbours. A tombstone
//! goes when its timestamp is older than the retention: by then the round that
//! mapped it, this one or an earlier, has dropped all that it deletes. Records
//! without a key go too, for nothing could ever supersede them.
//!
//! A round ends where the slowest group that reads the topic has committed, as
//! retention does: so a group of this host gets every record of a table, however
//! often its key was written meanwhile.

use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_128;

use super::{CHUNK_BYTES, Place, Step, stored_bytes};
use crate::{
    log::{
        LogError,
        embedded::{
            EmbeddedConfig,
            batch::{Batch, Builder, Head},
            now_ms,
            read::damaged,
            rows::PartitionRow,
        },
    },
    types::Record,
};

/// A batch with more bytes of records than this is left as it is while all of
/// them stay.
const MERGE_BELOW_BYTES: u32 = 64 << 10;

/// Keys are told apart by 128 bits of hash: two that collide among a billion
/// are less likely than a disk that lies.
type Latest = FxHashMap<u128, u64>;

/// Drops what is superseded, and tombstones older than `tombstones_before_ms`.
pub(super) fn apply(
    place: &Place<'_>,
    tombstones_before_ms: u64,
    now_ms: u64,
) -> Result<(), LogError> {
    loop {
        let row = place.topic.row(place.partition);
        let end = row.end.min(place.read_up_to(now_ms));
        if !is_worth_it(&place.shared.config, row, end) {
            return Ok(());
        }
        let round = map(place, end)?;
        if round.end == row.cleaned {
            // The next batch is read in part only.
            return Ok(());
        }
        rewrite(place, &round, tombstones_before_ms)?;
    }
}

/// Whether enough is new before `end`. How many bytes these are, the row does
/// not say; they are taken for the same part of the new bytes as their offsets
/// are of the new offsets, which is exact where no group is behind.
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
    /// Where the map ends.
    end: u64,
    /// Stored bytes of what was mapped.
    bytes: u64,
}

fn parse(place: &Place<'_>, base: u64, value: fjall::UserValue) -> Result<Batch, LogError> {
    Batch::parse(base, value).map_err(|damage| damaged(place.topic, place.partition, base, damage))
}

fn records(place: &Place<'_>, base: u64, batch: Batch) -> Result<Vec<Record>, LogError> {
    batch
        .records()
        .collect::<Result<_, _>>()
        .map_err(|damage| damaged(place.topic, place.partition, base, damage))
}

/// Maps the dirty part before `end`, or as much of it as has not too many keys.
fn map(place: &Place<'_>, end: u64) -> Result<Round, LogError> {
    let row = place.topic.row(place.partition);
    let keys_max = place.shared.config.compaction_keys_max;
    let mut round = Round {
        latest: Latest::default(),
        end: row.cleaned,
        bytes: 0,
    };
    while round.end < end {
        let chunk = place.chunk(round.end, end, CHUNK_BYTES)?;
        if chunk.is_empty() {
            // Nothing is left of what was there.
            round.end = end;
        }
        for (base, value) in chunk {
            let bytes = stored_bytes(&value);
            let batch = parse(place, base, value)?;
            let next = base
                .saturating_add(batch.head.last_delta.into())
                .saturating_add(1);
            // A batch goes whole or not at all, and only between batches is it
            // asked how many keys there are, so that a round always gets on.
            if next > end || round.latest.len() >= keys_max {
                return Ok(round);
            }
            for record in records(place, base, batch)? {
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

fn rewrite(place: &Place<'_>, round: &Round, tombstones_before_ms: u64) -> Result<(), LogError> {
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
    let mut at = place.topic.row(place.partition).start;
    let mut merge = Merge::default();
    while at < round.end {
        let chunk = place.chunk(at, round.end, CHUNK_BYTES)?;
        if chunk.is_empty() {
            break;
        }
        for (base, value) in chunk {
            let bytes = stored_bytes(&value);
            let batch = parse(place, base, value)?;
            let head = batch.head;
            at = base
                .saturating_add(head.last_delta.into())
                .saturating_add(1);
            let mut kept = records(place, base, batch)?;
            kept.retain(|record| stays(&head, record));
            let whole = kept.len() == head.count as usize;
            if whole && head.raw_len >= MERGE_BELOW_BYTES {
                merge.close();
            } else {
                merge.take(base, bytes, whole, &kept);
            }
            if merge.step.is_large() {
                merge.close();
                place.apply(std::mem::take(&mut merge.step))?;
            }
        }
    }
    merge.close();
    merge.step.cleaned = Some((round.end, round.bytes));
    place.apply(merge.step)
}

/// Merges what stays of neighbouring batches.
#[derive(Default)]
struct Merge {
    step: Step,
    open: Option<(u64, Builder)>,
    /// The batches that went into `open` and none before it: first offset,
    /// stored bytes, and whether all of it stayed.
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
            // It would be replaced by itself.
            self.sources.clear();
            self.open = None;
        } else {
            self.emit();
        }
    }
}
