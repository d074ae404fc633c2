//! The configuration: from defaults, `courtside.toml`, the environment and
//! flags, in that order, each over the one before. A host checks it whole
//! before anything starts.

mod check;
mod load;
mod pipeline;
mod plugin;
pub mod settings;
#[cfg(test)]
mod tests;
mod topics;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use courtside_engine::slots::manager::SlotsConfig;
pub use courtside_http::ingest::SCORES;
use courtside_http::{
    AccessConfig, HttpConfig, ingest::IngestConfig, scoreboard::ScoreboardConfig,
};
use courtside_log::{embedded::EmbeddedConfig, kafka::KafkaConfig};
use courtside_process::logging::LoggingConfig;
use courtside_types::slot_name::SlotName;
use serde::{Deserialize, Serialize};

pub use self::{
    load::DEFAULT_FILE,
    pipeline::{PipelineConfig, SlotConfig, slot_name},
    plugin::{PluginConfig, PluginOverrides},
};

/// All that can be set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub data_dir: PathBuf,
    pub plugin_dir: PathBuf,
    pub logging: LoggingConfig,
    pub http: HttpConfig,
    pub access: AccessConfig,
    pub ingest: IngestConfig,
    pub log: EmbeddedConfig,
    /// The other engine, where its brokers are named.
    pub kafka: KafkaConfig,
    pub topics: TopicsConfig,
    pub worker: WorkerConfig,
    pub plugin: PluginConfig,
    pub slots: SlotsConfig,
    pub scoreboard: ScoreboardConfig,
    /// By name. Where none is configured, `scores` is.
    pub pipelines: BTreeMap<String, PipelineConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "data".into(),
            plugin_dir: "plugins.d".into(),
            logging: LoggingConfig::default(),
            http: HttpConfig::default(),
            access: AccessConfig::default(),
            ingest: IngestConfig::default(),
            log: EmbeddedConfig::default(),
            kafka: KafkaConfig::default(),
            topics: TopicsConfig::default(),
            worker: WorkerConfig::default(),
            plugin: PluginConfig::default(),
            slots: SlotsConfig::default(),
            scoreboard: ScoreboardConfig::default(),
            pipelines: BTreeMap::new(),
        }
    }
}

/// How long old records are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicsConfig {
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// Per partition; 0 sets no bound.
    pub retention_bytes: ByteSize,
    #[serde(with = "humantime_serde")]
    pub tombstone_retention: Duration,
}

impl Default for TopicsConfig {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(7 * 24 * 3600),
            retention_bytes: ByteSize::b(0),
            tombstone_retention: Duration::from_secs(24 * 3600),
        }
    }
}

/// How workers work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// Per pipeline; 0 is one for each core.
    pub workers: u32,
    #[serde(with = "humantime_serde")]
    pub commit_interval: Duration,
    pub commit_bytes_max: ByteSize,
    pub poll_bytes_max: ByteSize,
    pub call_events_max: usize,
    pub call_bytes_max: ByteSize,
    /// Per pipeline, over all workers.
    pub entities_open_max: usize,
    #[serde(with = "humantime_serde")]
    pub entity_idle: Duration,
    #[serde(with = "humantime_serde")]
    pub drain_deadline: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            workers: 0,
            commit_interval: Duration::from_millis(100),
            commit_bytes_max: ByteSize::mib(16),
            poll_bytes_max: ByteSize::mib(1),
            call_events_max: 256,
            call_bytes_max: ByteSize::kib(256),
            entities_open_max: 100_000,
            entity_idle: Duration::from_secs(300),
            drain_deadline: Duration::from_secs(10),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("configuration file {0} does not exist")]
    NoFile(PathBuf),
    #[error("{0}")]
    Unreadable(String),
    #[error("{path}: {problem}")]
    Invalid { path: String, problem: String },
}

impl ConfigError {
    fn invalid(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            path: path.into(),
            problem: problem.into(),
        }
    }
}

impl Config {
    /// The settings of a pipeline's plugins.
    #[must_use]
    pub fn plugin_of(&self, pipeline: &str) -> PluginConfig {
        let pipeline = self.pipelines.get(pipeline);
        let own = pipeline.and_then(|pipeline| pipeline.plugin.as_ref());
        own.map_or_else(|| self.plugin.clone(), |own| own.over(&self.plugin))
    }

    /// The settings of those of a pipeline's slots that have settings of their own.
    #[must_use]
    pub fn plugins_of_slots(&self, pipeline: &str) -> BTreeMap<SlotName, PluginConfig> {
        let Some(config) = self.pipelines.get(pipeline) else {
            return BTreeMap::new();
        };
        let base = self.plugin_of(pipeline);
        let own = config.slots.iter();
        own.filter_map(|(slot, config)| Some((slot_name(slot)?, config.plugin.over(&base))))
            .collect()
    }

    /// The consumer group of a pipeline.
    #[must_use]
    pub fn group(&self, pipeline: &str) -> String {
        self.pipelines
            .get(pipeline)
            .and_then(|config| config.group.clone())
            .unwrap_or_else(|| format!("courtside-{pipeline}"))
    }
}
