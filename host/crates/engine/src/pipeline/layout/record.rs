//! The topic of a group's layouts, which holds a record for each layout.

use std::{
    ops::ControlFlow,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use courtside_log::{LogError, RecordLog, block::block_on};
use courtside_types::{NewRecord, Offset, PartitionId, Record, Topic};
use serde::{Deserialize, Serialize};

use super::fields::Layout;

pub(super) const ONLY: PartitionId = PartitionId(0);
pub(super) const READ_BYTES: usize = 1 << 20;

/// A layout as it is recorded.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayoutRecord {
    /// The offset of the record that this one takes the place of.
    replaces: Option<u64>,
    layout: Layout,
}

/// The layout in force, and the offset it stands at.
pub(super) fn in_force(
    log: &dyn RecordLog,
    topic: &Topic,
) -> Result<Option<(Offset, Layout)>, LogError> {
    let mut found: Option<(Offset, Layout)> = None;
    read_each(log, topic, ONLY, READ_BYTES, |record| {
        let recorded: LayoutRecord = serde_json::from_slice(
            record.value.as_deref().unwrap_or_default(),
        )
        .map_err(|error| LogError::Corrupt {
            reason: format!(
                "{topic}/{ONLY}/{} is no layout, or one of a newer version: {error}",
                record.offset
            ),
        })?;
        if recorded.replaces == found.as_ref().map(|(offset, _)| offset.0) {
            found = Some((record.offset, recorded.layout));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

pub(super) fn append(
    log: &dyn RecordLog,
    topic: &Topic,
    replaces: Option<u64>,
    layout: &Layout,
) -> Result<(), LogError> {
    let recorded = LayoutRecord {
        replaces,
        layout: layout.clone(),
    };
    let value = serde_json::to_vec(&recorded).map_err(|error| LogError::Unavailable {
        reason: format!("a layout cannot be written: {error}"),
    })?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let record = NewRecord {
        timestamp_ms: since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        }),
        key: None,
        headers: Vec::new(),
        value: Some(Bytes::from(value)),
    };
    let appended = block_on(log.append(topic, vec![(ONLY, record)])?);
    appended.into_iter().try_for_each(|result| result.map(drop))
}

/// Reads the committed records of a partition, up to its end as of now, until `each`
/// breaks.
pub(super) fn read_each(
    log: &dyn RecordLog,
    topic: &Topic,
    partition: PartitionId,
    read_bytes: usize,
    mut each: impl FnMut(&Record) -> Result<ControlFlow<()>, LogError>,
) -> Result<(), LogError> {
    let bounds = log.bounds(topic)?;
    let Some(bounds) = bounds.get(partition.0 as usize) else {
        return Ok(());
    };
    let mut next = bounds.start;
    while next < bounds.end {
        let records = log.read(topic, partition, next, read_bytes)?;
        // Only the markers of transactions are left.
        let Some(last) = records.last() else { break };
        next = last.offset.next();
        for record in &records {
            if each(record)?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}
