//! The engine as a whole, on real directories.

mod cleaning;
mod disk;
mod kill;
mod reopening;

use std::{path::Path, sync::Arc, time::Duration};

use bytesize::ByteSize;
use tempfile::TempDir;

use super::{Embedded, EmbeddedConfig};
use crate::log::{
    RecordLog,
    conformance::{Subject, conformance},
};

/// Small limits, and cleaning only when told.
fn config() -> EmbeddedConfig {
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

fn open(dir: &Path) -> Arc<Embedded> {
    Embedded::open(dir, config()).unwrap()
}

struct Subjected {
    dir: TempDir,
    log: Arc<Embedded>,
}

impl Subjected {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        Self { dir, log }
    }
}

impl Subject for Subjected {
    fn log(&self) -> Arc<dyn RecordLog> {
        Arc::clone(&self.log) as _
    }

    fn reopen(&mut self) {
        self.log.close();
        self.log = open(self.dir.path());
    }
}

conformance!(Subjected::new());
