//! The inputs of a manager, and the settings of slots.

use std::{path::PathBuf, sync::Arc, time::Duration};

use courtside_log::{Checkpoints, RecordLog};
use courtside_plugin_host::Compiler;
use courtside_types::{PartitionId, TopicPartition};
use serde::{Deserialize, Serialize};

use crate::{
    pipeline::Pipeline,
    slots::library::Library,
    worker::{status::PipelineStatus, thread::Orders},
};

/// How slots are looked after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlotsConfig {
    /// How often the directory is looked at, beside the file system's own
    /// events (network mounts and ConfigMaps send none).
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
    /// How long a file must lie still before it is taken.
    #[serde(with = "humantime_serde")]
    pub settle: Duration,
    /// Entities that a plugin is rehearsed with, at most.
    pub rehearsal_entities_max: usize,
    /// How long a swap can be taken back; as long the states from before it are kept.
    #[serde(with = "humantime_serde")]
    pub confirm_after: Duration,
}

impl Default for SlotsConfig {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_secs(1),
            settle: Duration::from_millis(200),
            rehearsal_entities_max: 10_000,
            confirm_after: Duration::from_secs(60 * 60),
        }
    }
}

/// The inputs of a manager.
pub struct Setup {
    pub pipeline: Arc<Pipeline>,
    pub compiler: Arc<dyn Compiler>,
    pub log: Arc<dyn RecordLog>,
    /// The partition in which hosts tell each other of plugins.
    pub topic: TopicPartition,
    pub checkpoints: Arc<dyn Checkpoints>,
    pub partitions: Vec<PartitionId>,
    pub workers: Vec<Orders>,
    pub status: Arc<PipelineStatus>,
    /// The pipeline's directory of plugins.
    pub dir: PathBuf,
    pub library: Arc<Library>,
    pub config: SlotsConfig,
}
