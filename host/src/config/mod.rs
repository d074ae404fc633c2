//! The configuration: from defaults, `courtside.toml`, the environment and
//! flags, in that order, each over the one before. A host checks it whole
//! before anything starts.

pub mod settings;
mod topics;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;
use courtside_engine::{
    pipeline::kept::{self, KeptTopic},
    slots::manager::SlotsConfig,
};
use courtside_http::{
    AccessConfig, HttpConfig, ingest::IngestConfig, scoreboard::ScoreboardConfig,
};
use courtside_log::{
    embedded::EmbeddedConfig,
    kafka::{Assignor, KafkaConfig},
    partitioner::{Method, Partitioner},
};
use courtside_plugin_host::{Limits, wasm::CompileLimits};
use courtside_process::logging::LoggingConfig;
use courtside_types::slot_name::SlotName;
use figment::{
    Figment,
    providers::{Env, Format as _, Serialized, Toml},
};
use serde::{Deserialize, Serialize};

/// Where a file is looked for when none is named.
pub const DEFAULT_FILE: &str = "courtside.toml";
const ENV_PREFIX: &str = "COURTSIDE_";
const ENV_SEPARATOR: &str = "__";
/// `COURTSIDE_KAFKA__PROPERTIES__SASL_PASSWORD` is `sasl.password`: names of
/// variables are without dots, and those of properties without `_`.
const ENV_PROPERTIES: &str = "kafka__properties__";
const ENV_TOP_LEVEL: [&str; 2] = ["data_dir", "plugin_dir"];

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

/// How much a plugin may use, and how many entities share an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginConfig {
    pub entities_per_instance: usize,
    pub memory_bytes_max: ByteSize,
    #[serde(with = "humantime_serde")]
    pub call_cpu_time_max: Duration,
    pub emitted_bytes_max: ByteSize,
    pub checkpoint_bytes_max: ByteSize,
    pub plugin_bytes_max: ByteSize,
    pub compile_memory_max: ByteSize,
    #[serde(with = "humantime_serde")]
    pub compile_time_max: Duration,
}

impl Default for PluginConfig {
    fn default() -> Self {
        Self {
            entities_per_instance: 1024,
            memory_bytes_max: ByteSize::mib(256),
            call_cpu_time_max: Duration::from_secs(1),
            emitted_bytes_max: ByteSize::mib(8),
            checkpoint_bytes_max: ByteSize::kib(512),
            plugin_bytes_max: ByteSize::mib(64),
            compile_memory_max: ByteSize::gib(1),
            compile_time_max: Duration::from_secs(60),
        }
    }
}

impl PluginConfig {
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            memory_bytes_max: bytes(self.memory_bytes_max),
            call_cpu_time_max: self.call_cpu_time_max,
            emitted_bytes_max: bytes(self.emitted_bytes_max),
            checkpoint_bytes_max: bytes(self.checkpoint_bytes_max),
            plugin_bytes_max: bytes(self.plugin_bytes_max),
        }
    }

    /// The limits of compiling a plugin, the same for every slot.
    #[must_use]
    pub fn compile_limits(&self) -> CompileLimits {
        CompileLimits {
            memory_bytes_max: self.compile_memory_max.as_u64(),
            cpu_time_max: self.compile_time_max,
        }
    }
}

/// Settings of [`PluginConfig`] that are different for the plugins of a pipeline, or of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginOverrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entities_per_instance: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes_max: Option<ByteSize>,
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub call_cpu_time_max: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emitted_bytes_max: Option<ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_bytes_max: Option<ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin_bytes_max: Option<ByteSize>,
}

impl PluginOverrides {
    fn over(&self, base: &PluginConfig) -> PluginConfig {
        let Self {
            entities_per_instance,
            memory_bytes_max,
            call_cpu_time_max,
            emitted_bytes_max,
            checkpoint_bytes_max,
            plugin_bytes_max,
        } = self;
        PluginConfig {
            entities_per_instance: entities_per_instance.unwrap_or(base.entities_per_instance),
            memory_bytes_max: memory_bytes_max.unwrap_or(base.memory_bytes_max),
            call_cpu_time_max: call_cpu_time_max.unwrap_or(base.call_cpu_time_max),
            emitted_bytes_max: emitted_bytes_max.unwrap_or(base.emitted_bytes_max),
            checkpoint_bytes_max: checkpoint_bytes_max.unwrap_or(base.checkpoint_bytes_max),
            plugin_bytes_max: plugin_bytes_max.unwrap_or(base.plugin_bytes_max),
            compile_memory_max: base.compile_memory_max,
            compile_time_max: base.compile_time_max,
        }
    }
}

/// One slot of a pipeline, where something is other for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlotConfig {
    /// How much its plugin may use; the rest is the pipeline's.
    pub plugin: PluginOverrides,
}

/// One pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineConfig {
    /// The topic it reads: a stream, unless it says `keep = "latest"`.
    #[serde(deserialize_with = "kept::input")]
    pub input: KeptTopic,
    /// The topic it writes: a table, unless it says `keep = "all"`.
    #[serde(deserialize_with = "kept::output")]
    pub output: KeptTopic,
    /// Further topics it writes, by the names that its plugins use.
    #[serde(
        default,
        deserialize_with = "kept::outputs",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub outputs: BTreeMap<String, KeptTopic>,
    /// JSON pointer to the key in an event posted to `/events/{pipeline}`.
    pub key: String,
    /// The consumer group; by default `courtside-<pipeline>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Partitions of its topics, when they are created; by default
    /// `log.partitions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,
    /// How the keys of its input find their partitions.
    #[serde(default)]
    pub partitioner: Partitioner,
    /// How much its plugins may use; the rest is `[plugin]`'s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<PluginOverrides>,
    /// By the name of the slot: `default`, `keys/<key>`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<String, SlotConfig>,
}

pub use courtside_http::ingest::SCORES;

impl PipelineConfig {
    /// The pipeline of a host whose configuration names none.
    #[must_use]
    pub fn scores() -> Self {
        Self {
            input: KeptTopic::stream("NBA-Games"),
            output: KeptTopic::table("NBA-Scores"),
            outputs: BTreeMap::new(),
            key: "/game_id".into(),
            group: None,
            partitions: None,
            partitioner: Partitioner::default(),
            plugin: None,
            slots: BTreeMap::new(),
        }
    }

    /// The topics that it writes.
    pub fn written(&self) -> impl Iterator<Item = &KeptTopic> {
        std::iter::once(&self.output).chain(self.outputs.values())
    }

    /// Whether it writes a topic of that name.
    #[must_use]
    pub fn writes(&self, topic: &str) -> bool {
        self.written().any(|written| written.topic == topic)
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

impl Config {
    /// Reads the configuration from all its sources. `overrides` are pairs of a
    /// dotted path and a value in TOML (a bare word is a string).
    pub fn load(file: Option<&Path>, overrides: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = file {
            if !file.is_file() {
                return Err(ConfigError::NoFile(file.into()));
            }
            figment = figment.merge(Toml::file_exact(file));
        } else if Path::new(DEFAULT_FILE).is_file() {
            figment = figment.merge(Toml::file_exact(DEFAULT_FILE));
        }
        // Only a name that can be a setting's counts: others have the prefix as well
        // (COURTSIDE_URL, and those that Kubernetes adds for a service of our name).
        figment = figment.merge(
            Env::prefixed(ENV_PREFIX)
                .filter(|name| {
                    let name = name.as_str().to_ascii_lowercase();
                    name.contains(ENV_SEPARATOR) && !name.starts_with(ENV_PROPERTIES)
                        || ENV_TOP_LEVEL.contains(&name.as_str())
                })
                .split(ENV_SEPARATOR),
        );
        for (name, value) in Env::prefixed(ENV_PREFIX).iter() {
            let name = name.as_str().to_ascii_lowercase();
            if let Some(property) = name.strip_prefix(ENV_PROPERTIES) {
                let property = BTreeMap::from([(property.replace('_', "."), value)]);
                figment = figment.merge(Serialized::default("kafka.properties", property));
            }
        }
        for (path, value) in overrides {
            // The name of one of Kafka's properties has dots in it.
            if let Some(name) = path.strip_prefix("kafka.properties.") {
                let property = BTreeMap::from([(name, value)]);
                figment = figment.merge(Serialized::default("kafka.properties", property));
                continue;
            }
            let value: figment::value::Value = value
                .parse()
                .unwrap_or_else(|_| figment::value::Value::from(value.as_str()));
            figment = figment.merge(Serialized::global(path, value));
        }
        let mut config: Self = figment.extract().map_err(|error| unreadable(&error))?;
        if config.pipelines.is_empty() {
            config
                .pipelines
                .insert(SCORES.into(), PipelineConfig::scores());
        }
        config
            .kafka
            .read_file()
            .map_err(|problem| ConfigError::Invalid {
                path: "kafka".into(),
                problem,
            })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let journal = if self.kafka.is_set() {
            Ok(())
        } else {
            self.log.check_journal()
        };
        journal.map_err(|problem| ConfigError::Invalid {
            path: "log".into(),
            problem,
        })?;
        settings::check(self)?;
        // Each part checks its upper bounds, and rules between two settings.
        let parts = [
            ("http", self.http.check()),
            ("access", self.access.check()),
            ("ingest", self.ingest.check()),
            ("log", self.log.check()),
            ("kafka", self.kafka.check()),
            ("scoreboard", self.scoreboard.check()),
        ];
        for (part, checked) in parts {
            checked.map_err(|problem| ConfigError::Invalid {
                path: part.into(),
                problem,
            })?;
        }
        self.check_plugin("plugin", &self.plugin)?;
        self.check_deadlines()?;
        for (name, pipeline) in &self.pipelines {
            self.check_pipeline(name, pipeline)?;
            if let Some(plugin) = &pipeline.plugin {
                let path = format!("pipelines.{name}.plugin");
                settings::check_under(&path, "plugin", plugin)?;
                self.check_plugin(&path, &self.plugin_of(name))?;
            }
            self.check_slots(name, pipeline)?;
        }
        topics::check(self)
    }

    /// On Kafka a worker that must release partitions first ends the call at hand
    /// and commits. Both must be done before the group takes the worker for dead.
    fn check_deadlines(&self) -> Result<(), ConfigError> {
        if !self.kafka.is_set() {
            return Ok(());
        }
        let drain = self.worker.drain_deadline;
        let invalid = |problem: String| {
            Err(ConfigError::Invalid {
                path: "worker.drain_deadline".into(),
                problem,
            })
        };
        let of_slots = self.pipelines.iter().flat_map(|(name, pipeline)| {
            let own = pipeline.slots.values();
            let own = own.map(|slot| slot.plugin.over(&self.plugin_of(name)));
            own.chain([self.plugin_of(name)])
        });
        for plugin in of_slots.chain([self.plugin.clone()]) {
            if plugin.call_cpu_time_max >= drain {
                return invalid(format!(
                    "{} is not over a plugin's call_cpu_time_max ({})",
                    humantime_serde::re::humantime::format_duration(drain),
                    humantime_serde::re::humantime::format_duration(plugin.call_cpu_time_max),
                ));
            }
        }
        // Under the consumer protocol the brokers decide on the session timeout.
        if self.kafka.assignor != Assignor::Consumer && drain >= self.kafka.session_timeout {
            return invalid(format!(
                "{} is not under kafka.session_timeout ({})",
                humantime_serde::re::humantime::format_duration(drain),
                humantime_serde::re::humantime::format_duration(self.kafka.session_timeout),
            ));
        }
        Ok(())
    }

    /// A checkpoint is a record, and the host's own part of it must fit, too.
    fn check_plugin(&self, path: &str, plugin: &PluginConfig) -> Result<(), ConfigError> {
        const ENVELOPE_BYTES: u64 = 16 << 10;
        let most = self
            .log
            .record_bytes_max
            .as_u64()
            .saturating_sub(ENVELOPE_BYTES);
        if plugin.checkpoint_bytes_max.as_u64() > most {
            return Err(ConfigError::Invalid {
                path: format!("{path}.checkpoint_bytes_max"),
                problem: format!(
                    "{} is over log.record_bytes_max ({}) less 16 KiB",
                    plugin.checkpoint_bytes_max, self.log.record_bytes_max
                ),
            });
        }
        Ok(())
    }

    /// Each entry names a slot, once, and keeps to the rules for all plugins.
    fn check_slots(&self, name: &str, pipeline: &PipelineConfig) -> Result<(), ConfigError> {
        let mut seen = std::collections::BTreeSet::new();
        for (slot, config) in &pipeline.slots {
            let path = format!("pipelines.{name}.slots.{slot:?}");
            let invalid = |problem: &str| {
                Err(ConfigError::Invalid {
                    path: path.clone(),
                    problem: problem.to_owned(),
                })
            };
            let Some(parsed) = slot_name(slot) else {
                return invalid("a slot is default, or keys/ and the name of its file");
            };
            if !seen.insert(parsed) {
                return invalid("the slot is there twice");
            }
            let path = format!("{path}.plugin");
            settings::check_under(&path, "plugin", &config.plugin)?;
            self.check_plugin(&path, &config.plugin.over(&self.plugin_of(name)))?;
        }
        Ok(())
    }

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

    fn check_pipeline(&self, name: &str, pipeline: &PipelineConfig) -> Result<(), ConfigError> {
        let invalid = |field: &str, problem: String| {
            Err(ConfigError::Invalid {
                path: format!("pipelines.{name}{field}"),
                problem,
            })
        };
        let is_name = |name: &str| {
            !name.is_empty()
                && name.len() <= 100
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        if !is_name(name) {
            return invalid(
                "",
                "a pipeline's name is 1 to 100 letters, digits, _ or -".into(),
            );
        }
        for output in pipeline.outputs.keys() {
            if !is_name(output) {
                return invalid(
                    ".outputs",
                    format!("{output:?} is not 1 to 100 letters, digits, _ or -"),
                );
            }
        }
        if !pipeline.key.starts_with('/') {
            return invalid(".key", format!("{:?} is no JSON pointer", pipeline.key));
        }
        if pipeline.partitions == Some(0) {
            return invalid(".partitions", "0 is under the minimum of 1".into());
        }
        let group = self.group(name);
        for (other, _) in self.pipelines.iter().filter(|(other, _)| *other != name) {
            if self.group(other) == group {
                return invalid(
                    ".group",
                    format!("pipeline {other} also has the group {group}"),
                );
            }
        }
        if let Some(problem) = self.contradicts(name, pipeline) {
            return invalid(".partitioner", problem);
        }
        if pipeline.writes(&pipeline.input.topic) {
            return invalid(
                ".output",
                "a pipeline cannot write the topic it reads".into(),
            );
        }
        Ok(())
    }

    /// How another pipeline contradicts this one's partitioner, in words. All pipelines
    /// that name a topic must agree, because one partitioner places the topic's keys.
    fn contradicts(&self, name: &str, pipeline: &PipelineConfig) -> Option<String> {
        let others = self.pipelines.iter().filter(|(other, _)| *other != name);
        for (other, config) in others {
            let input = &pipeline.input.topic;
            if config.input.topic == *input && config.partitioner != pipeline.partitioner {
                return Some(format!(
                    "pipeline {other} has another partitioner and the same input, {input}"
                ));
            }
            if config.writes(input) && pipeline.partitioner != Partitioner::default() {
                return Some(format!(
                    "pipeline {other} writes the input, {input}, and outputs are partitioned by {}",
                    Method::default()
                ));
            }
        }
        None
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

/// The slot of a name; a key is in the slot that its file would have.
#[must_use]
pub fn slot_name(name: &str) -> Option<SlotName> {
    match SlotName::parse(name)? {
        SlotName::Key(key) => Some(SlotName::of_key(&key)),
        slot => Some(slot),
    }
}

/// The faults and where they are. The text is made here, because figment's own also
/// names its types.
fn unreadable(error: &figment::Error) -> ConfigError {
    let texts = error.clone().into_iter().map(|error| {
        let path = error.path.join(".");
        let source = error
            .metadata
            .as_ref()
            .map(|metadata| match &metadata.source {
                Some(figment::Source::File(file)) => format!(" (in {})", file.display()),
                _ if metadata.name.contains("environment") => " (in the environment)".to_owned(),
                Some(figment::Source::Code(_)) => " (in a flag)".to_owned(),
                _ => String::new(),
            })
            .unwrap_or_default();
        let colon = if path.is_empty() { "" } else { ": " };
        format!("{path}{colon}{}{source}", error.kind)
    });
    ConfigError::Unreadable(texts.collect::<Vec<_>>().join("; "))
}

/// A size as a `usize`; a larger size becomes the largest `usize`.
#[must_use]
pub fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(toml: &str, overrides: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("courtside.toml");
        std::fs::write(&file, toml).unwrap();
        let overrides: Vec<_> = overrides
            .iter()
            .map(|(path, value)| ((*path).to_owned(), (*value).to_owned()))
            .collect();
        Config::load(Some(&file), &overrides)
    }

    #[test]
    fn without_anything_there_is_the_pipeline_of_scores() {
        let config = load("", &[]).unwrap();
        assert_eq!(
            config.pipelines.get(SCORES),
            Some(&PipelineConfig::scores())
        );
        assert_eq!(config.group(SCORES), "courtside-scores");
    }

    #[test]
    fn flags_go_over_the_file() {
        let config = load(
            "[worker]\ncommit_interval = \"50ms\"\nworkers = 3",
            &[("worker.commit_interval", "20ms"), ("log.partitions", "4")],
        )
        .unwrap();
        assert_eq!(config.worker.commit_interval, Duration::from_millis(20));
        assert_eq!(config.worker.workers, 3);
        assert_eq!(config.log.partitions, 4);
    }

    #[test]
    fn wrong_values_are_named() {
        for (toml, name) in [
            ("[worker]\ncommit_intervall = \"1s\"", "commit_intervall"),
            (
                "[worker]\ncommit_interval = \"0s\"",
                "worker.commit_interval",
            ),
            (
                "[plugin]\nmemory_bytes_max = \"1KiB\"",
                "plugin.memory_bytes_max",
            ),
            ("[log]\npartitions = 0", "log.partitions"),
            ("[http]\nlisten = \"nowhere\"", "listen"),
            (
                "[pipelines.a]\ninput = \"x\"\noutput = \"x\"\nkey = \"/id\"",
                "pipelines.a.output",
            ),
            (
                "[pipelines.a]\ninput = \"x\"\noutput = \"y\"\nkey = \"id\"",
                "pipelines.a.key",
            ),
            (
                "[pipelines.a]\ninput = \"x\"\noutput = \"y\"\nkey = \"/id\"\n[pipelines.a.plugin]\nmemory_bytes_max = \"1KiB\"",
                "pipelines.a.plugin.memory_bytes_max",
            ),
            (
                "[pipelines.a]\ninput = \"x\"\noutput = \"y\"\nkey = \"/id\"\npartitioner = \"md5\"",
                "pipelines.a.partitioner: unknown variant: found `md5`",
            ),
            (
                "[pipelines.a]\ninput = \"x\"\noutput = \"y\"\nkey = \"/id\"\npartitioner = \"fnv1a\"\n[pipelines.b]\ninput = \"x\"\noutput = \"z\"\nkey = \"/id\"",
                "pipelines.a.partitioner: pipeline b has another",
            ),
            (
                "[pipelines.a]\ninput = \"x\"\noutput = \"y\"\nkey = \"/id\"\n[pipelines.b]\ninput = \"y\"\noutput = \"z\"\nkey = \"/id\"\npartitioner = \"fnv1a\"",
                "pipelines.b.partitioner: pipeline a writes the input",
            ),
            (
                "[pipelines.a]\ninput = \"x\"\noutput = { topic = \"y\", keep = \"some\" }\nkey = \"/id\"",
                "pipelines.a.output.keep: unknown variant: found `some`",
            ),
            (
                "[pipelines.a]\ninput = { topic = \"x\", kept = \"all\" }\noutput = \"y\"\nkey = \"/id\"",
                "pipelines.a.input.kept: unknown field",
            ),
            (
                "[pipelines.a]\ninput = \"x\"\noutput = 3\nkey = \"/id\"",
                "expected the name of a topic, or a table with topic and keep",
            ),
            (
                "[pipelines.a]\ninput = \"x\"\noutput = \"y\"\nkey = \"/id\"\n[pipelines.a.slots.LAL-BOS.plugin]\nmemory_bytes_max = \"1GiB\"",
                "pipelines.a.slots.\"LAL-BOS\": a slot is default, or keys/",
            ),
            (
                "[pipelines.a]\ninput = \"x\"\noutput = \"y\"\nkey = \"/id\"\n[pipelines.a.slots.default.plugin]\nmemory_bytes_max = \"1KiB\"",
                "pipelines.a.slots.\"default\".plugin.memory_bytes_max",
            ),
            (
                "[pipelines.a]\ninput = \"x\"\noutput = \"y\"\nkey = \"/id\"\n[pipelines.a.slots.\"keys/a-b\"]\n[pipelines.a.slots.\"keys/a%2Db\"]",
                "the slot is there twice",
            ),
            (
                "[pipelines.a]\ninput = \"x\"\noutput = \"y\"\nkey = \"/id\"\n[pipelines.a.slots.default.plugin]\ncheckpoint_bytes_max = \"2MiB\"",
                "pipelines.a.slots.\"default\".plugin.checkpoint_bytes_max",
            ),
            (
                "[log]\nrecord_bytes_max = \"100KiB\"",
                "plugin.checkpoint_bytes_max",
            ),
        ] {
            let error = load(toml, &[]).unwrap_err().to_string();
            assert!(error.contains(name), "{toml}: {error}");
        }
    }

    /// A configuration of two pipelines, some of whose topics are as given.
    fn pair(a_input: &str, a_output: &str, b_input: &str, b_outputs: &str) -> String {
        format!(
            "[pipelines.a]\ninput = {a_input}\noutput = {a_output}\nkey = \"/id\"
             [pipelines.b]\ninput = {b_input}\noutput = \"z\"\noutputs = {b_outputs}\nkey = \"/id\""
        )
    }

    #[test]
    fn an_input_is_a_stream_and_an_output_a_table_unless_they_say_otherwise() {
        let config = load(
            &pair(
                "\"x\"",
                "{ topic = \"y\", keep = \"all\" }",
                "\"y\"",
                "{ more = \"m\", log = { topic = \"l\", keep = \"all\" }, plain = { topic = \"p\" } }",
            ),
            &[],
        )
        .unwrap();
        let [a, b] = ["a", "b"].map(|name| config.pipelines.get(name).unwrap());
        assert_eq!(a.input, KeptTopic::stream("x"));
        assert_eq!(a.output, KeptTopic::stream("y"));
        assert_eq!(b.input, KeptTopic::stream("y"));
        assert_eq!(b.output, KeptTopic::table("z"));
        let outputs = [
            ("more", KeptTopic::table("m")),
            ("log", KeptTopic::stream("l")),
            ("plain", KeptTopic::table("p")),
        ];
        let outputs = outputs.map(|(name, topic)| (name.to_owned(), topic));
        assert_eq!(b.outputs, BTreeMap::from(outputs));
        let dump = settings::dump(&config);
        assert_eq!(load(&dump, &[]).unwrap(), config, "{dump}");
    }

    #[test]
    fn a_topic_is_of_one_kind_wherever_it_is_named() {
        let (x, none) = ("\"x\"", "{}");
        let (table, stream) = (
            "{ topic = \"y\", keep = \"latest\" }",
            "{ topic = \"y\", keep = \"all\" }",
        );
        for (toml, place) in [
            (pair(x, "\"y\"", "\"y\"", none), "pipelines.a.output"),
            (pair(x, stream, table, none), "pipelines.b.input"),
            (pair("\"y\"", "\"o\"", table, none), "pipelines.b.input"),
            (
                pair(x, stream, x, "{ more = \"y\" }"),
                "pipelines.b.outputs.more",
            ),
            (
                pair(
                    x,
                    "\"o\"",
                    x,
                    "{ more = { topic = \"z\", keep = \"all\" } }",
                ),
                "pipelines.b.output",
            ),
        ] {
            let error = load(&toml, &[]).unwrap_err().to_string();
            // The remedy is to make the table a stream, because that loses nothing.
            let step = format!("keep = \"all\" }} in {place}, which keeps every record");
            assert!(error.contains(&step), "{step} in {error}");
        }
        for toml in [
            pair(x, "\"y\"", table, none),
            pair(x, stream, "\"y\"", none),
            pair(x, "\"y\"", x, "{ more = \"y\" }"),
        ] {
            load(&toml, &[]).unwrap();
        }
    }

    #[test]
    fn what_a_group_keeps_for_itself_is_no_output() {
        let (x, o, none) = ("\"x\"", "\"o\"", "{}");
        for suffix in [
            "pipeline",
            "plugins",
            "redrive",
            "checkpoints",
            "dead-letter",
        ] {
            let own = format!("\"courtside-b.{suffix}\"");
            let error = load(&pair(x, &own, x, none), &[]).unwrap_err().to_string();
            let said = "pipelines.a.output: topic courtside-b.";
            assert!(error.contains(said), "{error}");
        }
        let error = load(&pair("\"courtside-b.plugins\"", o, x, none), &[]).unwrap_err();
        assert!(error.to_string().contains("pipelines.a.input"), "{error}");
        // Dead letters may be read.
        load(&pair("\"courtside-b.dead-letter\"", o, x, none), &[]).unwrap();
    }

    #[test]
    fn a_slot_goes_over_its_pipeline_and_that_over_all() {
        let config = load(
            "[plugin]\nmemory_bytes_max = \"64MiB\"\nemitted_bytes_max = \"1MiB\"\ncall_cpu_time_max = \"300ms\"
             [pipelines.a]\ninput = \"x\"\noutput = \"y\"\nkey = \"/id\"
             [pipelines.a.plugin]\nmemory_bytes_max = \"128MiB\"\ncall_cpu_time_max = \"2s\"
             [pipelines.a.slots.\"keys/LAL-BOS\".plugin]\nmemory_bytes_max = \"512MiB\"
             [pipelines.b]\ninput = \"x\"\noutput = \"z\"\nkey = \"/id\"",
            &[],
        )
        .unwrap();
        let a = config.plugin_of("a");
        assert_eq!(a.memory_bytes_max, ByteSize::mib(128));
        assert_eq!(a.emitted_bytes_max, ByteSize::mib(1));
        let slots = config.plugins_of_slots("a");
        let slot = slots.get(&SlotName::of_key(b"LAL-BOS")).unwrap();
        assert_eq!(slot.memory_bytes_max, ByteSize::mib(512));
        assert_eq!(slot.emitted_bytes_max, ByteSize::mib(1));
        assert_eq!(slot.call_cpu_time_max, Duration::from_secs(2));
        assert_eq!(config.plugin_of("b"), config.plugin);
        assert!(config.plugins_of_slots("b").is_empty());
        let dump = settings::dump(&config);
        assert_eq!(load(&dump, &[]).unwrap(), config, "{dump}");
    }

    #[test]
    fn deadlines_fit_into_each_other_where_a_group_waits() {
        let kafka = "[kafka]\nbrokers = \"a:9092\"\n";
        let late = "session_timeout = \"5s\"\n[worker]\ndrain_deadline = \"5s\"";
        let error = load(&format!("{kafka}{late}"), &[]).unwrap_err();
        assert!(error.to_string().contains("session_timeout"), "{error}");
        load(&format!("{kafka}assignor = \"consumer\"\n{late}"), &[]).unwrap();
        let slow = "[plugin]\ncall_cpu_time_max = \"10s\"";
        let error = load(&format!("{kafka}{slow}"), &[]).unwrap_err();
        assert!(error.to_string().contains("call_cpu_time_max"), "{error}");
        load(slow, &[]).unwrap();
        let slow = "[pipelines.a]\ninput = \"x\"\noutput = \"y\"\nkey = \"/id\"\n[pipelines.a.slots.default.plugin]\ncall_cpu_time_max = \"10s\"";
        let error = load(&format!("{kafka}{slow}"), &[]).unwrap_err();
        assert!(error.to_string().contains("call_cpu_time_max"), "{error}");
    }

    #[test]
    fn a_dump_reads_back_as_what_it_dumped() {
        let config = load(
            "[log]\npartitions = 3\n[topics]\nretention_bytes = \"5GiB\"\n[pipelines.a]\ninput = \"x\"\noutput = \"y\"\nkey = \"/id\"\npartitioner = { manual = { \"LAL-BOS\" = 2 }, fallback = \"crc32\" }",
            &[],
        )
        .unwrap();
        let dump = settings::dump(&config);
        assert_eq!(load(&dump, &[]).unwrap(), config, "{dump}");
    }

    #[test]
    fn properties_of_kafka_are_set_and_their_secrets_not_shown() {
        let config = load(
            "[kafka]\nbrokers = \"a:9092,b:9092\"\n[kafka.properties]\n\"sasl.password\" = \"hush\"\n\"client.rack\" = \"one\"",
            &[("kafka.properties.client.rack", "two"), ("kafka.properties.socket.timeout.ms", "5000")],
        )
        .unwrap();
        let property = |name: &str| config.kafka.properties.get(name).map(String::as_str);
        assert_eq!(property("sasl.password"), Some("hush"));
        assert_eq!(property("client.rack"), Some("two"));
        assert_eq!(property("socket.timeout.ms"), Some("5000"));
        let dump = settings::dump(&config);
        assert!(!dump.contains("hush"), "{dump}");
        let mut again = load(&dump, &[]).unwrap();
        let password = again
            .kafka
            .properties
            .insert("sasl.password".into(), "hush".into());
        assert_eq!(password.as_deref(), Some("<redacted>"));
        assert_eq!(again, config);
        let error = load("[kafka.properties]\n\"no.such\" = \"1\"", &[]).unwrap_err();
        assert!(error.to_string().contains("no.such"), "{error}");
    }

    #[test]
    fn the_settings_table_is_complete() {
        assert_eq!(settings::missing(), Vec::<String>::new());
    }
}
