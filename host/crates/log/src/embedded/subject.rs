//! The embedded engine as a subject of tests.

use std::{path::Path, sync::Arc, time::Duration};

use bytesize::ByteSize;
use courtside_types::Topic;
use tempfile::TempDir;

use super::{Embedded, EmbeddedConfig, rows::PartitionRow};
use crate::{RecordLog, admin::Admin, conformance::Subject};

/// Small limits, and cleaning only by `clean_now`.
pub fn config() -> EmbeddedConfig {
    EmbeddedConfig {
        queue_bytes_max: ByteSize::mib(1),
        cache_bytes: ByteSize::mib(4),
        disk_free_min: ByteSize::b(0),
        cleanup_interval: Duration::from_secs(3600),
        compaction_dirty_bytes_min: ByteSize::b(0),
        compaction_dirty_ratio_min: 0.0,
        ..EmbeddedConfig::default()
    }
}

pub fn open(dir: &Path) -> Arc<Embedded> {
    Embedded::open(dir, config()).unwrap()
}

pub struct EmbeddedSubject {
    dir: TempDir,
    log: Arc<Embedded>,
}

impl Default for EmbeddedSubject {
    fn default() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        Self { dir, log }
    }
}

impl Subject for EmbeddedSubject {
    fn log(&self) -> Arc<dyn RecordLog> {
        Arc::clone(&self.log) as _
    }

    fn admin(&self) -> Arc<dyn Admin> {
        Arc::clone(&self.log) as _
    }

    fn delete_before(&self, topic: &Topic, partition: u32, offset: u64) {
        let topic = self.log.shared.topics.read().get(topic).unwrap();
        let row = PartitionRow {
            start: offset,
            ..topic.row(partition)
        };
        topic.set_row(partition, row);
    }

    fn reopen(&mut self) {
        self.log.close();
        self.log = open(self.dir.path());
    }
}
