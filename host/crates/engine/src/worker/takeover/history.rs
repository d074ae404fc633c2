//! The takeovers that workers announce in the topic `<group>.plugins`: for people, and
//! for tools that look for the plugin that ran at an offset. Workers never read the
//! topic.

use bytes::Bytes;
use courtside_types::{Digest, NewRecord, Offset, PartitionId, slot_name::SlotName};
use serde::{Deserialize, Serialize};

/// Takeovers that are kept of each slot and partition.
pub const KEPT: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Swap,
    Rollback,
    /// The partition moved to a host that still runs the plugin from before all trials:
    /// nobody swapped, and no new trial began.
    Return,
}

/// One takeover in one partition, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeoverRecord {
    pub slot: SlotName,
    pub partition: PartitionId,
    pub seq: u32,
    /// The first offset that `digest` processes, or processes again after a rollback.
    pub offset: Offset,
    /// The offset below which a rollback processes events again; none for other kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Offset>,
    /// None: the slot has no plugin of its own any more.
    pub digest: Option<Digest>,
    /// `name@version`; empty where it is not known.
    pub plugin: String,
    /// The plugin that ran before, or the one that a rollback undoes.
    pub previous: Option<Digest>,
    /// The host of the worker that took over.
    pub host: String,
    /// Milliseconds since 1970.
    pub at: u64,
    pub kind: Kind,
    pub attempt: u32,
}

impl TakeoverRecord {
    /// `takeover/<slot>/<partition>/<seq % 64>`: the latest stay when the topic
    /// is compacted.
    #[must_use]
    pub fn key(&self) -> String {
        format!(
            "takeover/{}/{}/{}",
            self.slot,
            self.partition,
            self.seq % KEPT
        )
    }

    #[must_use]
    pub fn record(&self) -> NewRecord {
        NewRecord {
            timestamp_ms: self.at,
            key: Some(self.key().into()),
            headers: Vec::new(),
            // Plain data becomes JSON without fail.
            value: Some(serde_json::to_vec(self).unwrap_or_default().into()),
        }
    }

    /// Reads what [`record`](Self::record) wrote.
    pub fn parse(value: &Bytes) -> serde_json::Result<Self> {
        serde_json::from_slice(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read_back() {
        let told = TakeoverRecord {
            slot: SlotName::of_key(b"LAL-BOS"),
            partition: PartitionId(3),
            seq: 67,
            offset: Offset(12),
            until: None,
            digest: Some(Digest::of(b"plugin")),
            plugin: "nba-scoring@1.0.0".to_owned(),
            previous: None,
            host: "a".to_owned(),
            at: 1,
            kind: Kind::Swap,
            attempt: 1,
        };
        let record = told.record();
        assert_eq!(record.key.unwrap(), "takeover/keys/LAL-BOS/3/3");
        let value = record.value.unwrap();
        assert_eq!(TakeoverRecord::parse(&value).unwrap(), told);
        let json: serde_json::Value = serde_json::from_slice(&value).unwrap();
        assert_eq!(json["slot"], "keys/LAL-BOS");
        assert_eq!(json["kind"], "swap");
        assert_eq!(json["digest"], Digest::of(b"plugin").to_string());
        assert_eq!(json["previous"], serde_json::Value::Null);
    }
}
