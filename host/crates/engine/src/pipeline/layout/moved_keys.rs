//! Keys that are new in the partitioner's map, and their events in the partitions to
//! which they went until now.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    time::{Duration, Instant},
};

use courtside_log::{LogError, RecordLog, partitioner::Method};
use courtside_types::{PartitionId, Topic};

use super::{fields::Layout, record::read_each};

/// Bytes of one read where an input is read whole.
const SCAN_BYTES: usize = 8 << 20;
/// How often such a reading logs how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// Names a new key of the map, in words, if the partition to which the key went until
/// now has events of it. The check reads such a partition up to the first such event;
/// without one, it reads the partition whole.
pub(super) fn key_in_use(
    log: &dyn RecordLog,
    from: &Layout,
    to: &Layout,
    added: &BTreeSet<&str>,
) -> Result<Option<String>, LogError> {
    if from.partitioner.fallback == Method::Random {
        // Events of a key may be in any partition already, and no entity is whole.
        return Ok(None);
    }
    let partition = |layout: &Layout, key: &str| {
        layout
            .partitioner
            .partition(key.as_bytes(), layout.partitions)
    };
    let mut moving: BTreeMap<PartitionId, BTreeSet<&[u8]>> = BTreeMap::new();
    for key in added {
        let before = partition(from, key);
        if before != partition(to, key) {
            moving.entry(before).or_default().insert(key.as_bytes());
        }
    }
    let input = Topic::from(from.input.as_str());
    for (partition, keys) in moving {
        tracing::info!(%input, %partition, keys = keys.len(), "reading the partition for events of keys that are new in the partitioner's map");
        let mut found = None;
        let mut logged = Instant::now();
        read_each(log, &input, partition, SCAN_BYTES, |record| {
            if let Some(key) = &record.key
                && keys.contains(&**key)
            {
                found = Some(key.clone());
                return Ok(ControlFlow::Break(()));
            }
            if logged.elapsed() >= PROGRESS {
                logged = Instant::now();
                tracing::info!(%input, %partition, offset = record.offset.0, "still reading the partition for events of new keys");
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if let Some(key) = found {
            let key = String::from_utf8_lossy(&key).into_owned();
            return Ok(Some(format!(
                "{key:?} is new in the partitioner's map, and has events in partition {partition} already"
            )));
        }
    }
    Ok(None)
}
