//! The parts of a backup of the record log, for engines that can make one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::LogError;

/// Takes a row: the number of its keyspace, its key and its value.
pub type TakeRow<'a> = dyn FnMut(u8, &[u8], &[u8]) -> Result<(), LogError> + 'a;

/// The rows of one moment of a log. An engine gives them to one reader at a time.
pub trait BackupRows: Send {
    /// Hands out the next page of rows; false once all rows were handed out. The rows
    /// are those of the moment of the first call.
    fn next(&mut self, take: &mut TakeRow<'_>) -> Result<bool, LogError>;
}

/// The contents of a backup's log, as its manifest has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogContents {
    pub rows: u64,
    pub topics: BTreeMap<String, TopicContents>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicContents {
    /// The partitions, in the order of their numbers.
    pub partitions: Vec<PartitionContents>,
    /// The next offset to process by group and partition.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub committed: BTreeMap<String, BTreeMap<u32, u64>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionContents {
    pub start: u64,
    /// The offset of the next record.
    pub end: u64,
}
