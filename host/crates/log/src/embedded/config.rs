//! Settings of the embedded engine: unit, default and minimum of each. The minimums
//! follow from the fixed sizes of the engine.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// A topic has no more partitions than this.
pub(super) const PARTITIONS_MAX: u32 = 4096;

/// A file of the journal has this size from its beginning.
pub(super) const JOURNAL_FILE_BYTES: u64 = 64 << 20;

/// The journal needs room for a write of this size and for two files: fjall writes to
/// one file, and writes out the commits of the other meanwhile.
const JOURNAL_WRITE_BYTES: u64 = 64 << 20;
pub(super) const JOURNAL_BYTES_LEAST: u64 = 2 * JOURNAL_FILE_BYTES + JOURNAL_WRITE_BYTES;

/// Room for the rows of commits, and for the commits without changes by which the store
/// learns the length of its journal.
pub(super) const SLACK_BYTES: u64 = 1 << 20;

/// About how many bytes of requests one write takes. This bounds how long the first
/// request of a write waits for the last, and is well under the size of a memtable.
pub(super) const WRITE_BYTES_MAX: usize = 8 << 20;

/// Configuration of the embedded engine.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// Partitions of a topic that is created without saying how many. At least 1.
    pub partitions: u32,
    /// The largest record: key, headers, value and 64 bytes. At least 1 KiB.
    pub record_bytes_max: ByteSize,
    /// Appended records that are not durable yet; beyond it, appends are
    /// refused with `log-busy`. At least 64 KiB.
    pub queue_bytes_max: ByteSize,
    /// Room that is kept free on the disk: with less, appends and commits are
    /// refused with `disk-full`.
    pub disk_free_min: ByteSize,
    /// Memory for blocks read from disk.
    pub cache_bytes: ByteSize,
    /// The most disk that the journal takes: writes wait until memory is written
    /// out rather than pass it. At least 192 MiB, and 137 MiB more than two of the
    /// largest records.
    pub journal_bytes_max: ByteSize,
    /// How often old and superseded records are looked for. At least 10 ms.
    #[serde(with = "humantime_serde")]
    pub cleanup_interval: Duration,
    /// A partition of a compacted topic is cleaned when this part of its bytes
    /// came since the last time. Between 0 and 1.
    pub compaction_dirty_ratio_min: f64,
    /// And not for fewer bytes than these.
    pub compaction_dirty_bytes_min: ByteSize,
    /// Distinct keys in one round of compaction, about 40 bytes of memory
    /// each. At least 1.
    pub compaction_keys_max: usize,
    /// How long a group without members keeps back the retention of what it
    /// has not read, counted from its last commit.
    #[serde(with = "humantime_serde")]
    pub group_retention: Duration,
}

impl Default for EmbeddedConfig {
    fn default() -> Self {
        Self {
            partitions: 8,
            record_bytes_max: ByteSize::mib(1),
            queue_bytes_max: ByteSize::mib(64),
            disk_free_min: ByteSize::mib(64),
            cache_bytes: ByteSize::mib(64),
            journal_bytes_max: ByteSize::mib(256),
            cleanup_interval: Duration::from_secs(30),
            compaction_dirty_ratio_min: 0.5,
            compaction_dirty_bytes_min: ByteSize::mib(1),
            compaction_keys_max: 500_000,
            group_retention: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}

impl EmbeddedConfig {
    /// Says which value is out of its range.
    pub fn check(&self) -> Result<(), String> {
        let least = |name: &str, value: u64, least: u64| {
            if value < least {
                Err(format!("{name} is {value}, it must be at least {least}"))
            } else {
                Ok(())
            }
        };
        least("partitions", self.partitions.into(), 1)?;
        least("record_bytes_max", self.record_bytes_max.as_u64(), 1024)?;
        least("queue_bytes_max", self.queue_bytes_max.as_u64(), 64 << 10)?;
        least("compaction_keys_max", self.compaction_keys_max as u64, 1)?;
        if self.record_bytes_max > ByteSize::gib(1) {
            return Err("record_bytes_max is over 1 GiB".to_owned());
        }
        if self.partitions > PARTITIONS_MAX {
            return Err(format!("partitions is over {PARTITIONS_MAX}"));
        }
        if self.cleanup_interval < Duration::from_millis(10) {
            return Err("cleanup_interval is under 10 ms".to_owned());
        }
        if !(0.0..=1.0).contains(&self.compaction_dirty_ratio_min) {
            return Err("compaction_dirty_ratio_min is not between 0 and 1".to_owned());
        }
        Ok(())
    }

    /// Says whether the journal can keep its bound. A host on Kafka has no journal.
    pub fn check_journal(&self) -> Result<(), String> {
        let bytes = self.journal_bytes_max;
        if bytes.as_u64() < JOURNAL_BYTES_LEAST {
            return Err(format!(
                "journal_bytes_max is {bytes}, it must be at least 192 MiB: a file of 64 MiB that is written to, another while it is written out, and 64 MiB for a write"
            ));
        }
        let records = self.record_bytes_max.as_u64().saturating_mul(2);
        let most = self.request_bytes_max();
        if most < records {
            let (most, records) = (ByteSize::b(most), ByteSize::b(records));
            return Err(format!(
                "journal_bytes_max is {bytes}, which leaves {most} for a write, and two records of record_bytes_max are {records}"
            ));
        }
        Ok(())
    }

    /// The most that one append or commit may have the store write: the journal
    /// has room for it beside the requests that are written with it.
    pub(super) fn request_bytes_max(&self) -> u64 {
        let others = 2 * JOURNAL_FILE_BYTES + WRITE_BYTES_MAX as u64 + SLACK_BYTES;
        self.journal_bytes_max.as_u64().saturating_sub(others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_survive_toml() {
        let config = EmbeddedConfig::default();
        assert_eq!(config.check(), Ok(()));
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<EmbeddedConfig>(&text).unwrap(), config);
    }

    #[test]
    fn values_out_of_range_are_named() {
        let config: EmbeddedConfig =
            toml::from_str("queue_bytes_max = \"1KiB\"\ncleanup_interval = \"1s\"").unwrap();
        assert!(config.check().unwrap_err().contains("queue_bytes_max"));
        assert!(toml::from_str::<EmbeddedConfig>("partition = 3").is_err());
    }

    #[test]
    fn the_journal_has_room_for_the_largest_records() {
        let config = |journal, record| EmbeddedConfig {
            journal_bytes_max: journal,
            record_bytes_max: ByteSize::mib(record),
            ..EmbeddedConfig::default()
        };
        let least = ByteSize::mib(192);
        assert_eq!(config(least, 27).check_journal(), Ok(()));
        let error = config(ByteSize::b(least.as_u64() - 1), 1).check_journal();
        assert!(error.unwrap_err().contains("at least 192 MiB"));
        let error = config(least, 28).check_journal();
        assert!(error.unwrap_err().contains("record_bytes_max"));
        assert_eq!(config(ByteSize::mib(200), 28).check_journal(), Ok(()));
    }
}
