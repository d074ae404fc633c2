//! The rules of a configuration beside the bounds of single settings.

use std::collections::BTreeSet;

use courtside_log::{
    kafka::Assignor,
    partitioner::{Method, Partitioner},
};

use super::{Config, ConfigError, PipelineConfig, PluginConfig, settings, slot_name, topics};

impl Config {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let invalid = |part: &str| {
            let part = part.to_owned();
            move |problem: String| ConfigError::invalid(part, problem)
        };
        if !self.kafka.is_set() {
            self.log.check_journal().map_err(invalid("log"))?;
        }
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
            checked.map_err(invalid(part))?;
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
        let invalid = |problem: String| Err(ConfigError::invalid("worker.drain_deadline", problem));
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
            return Err(ConfigError::invalid(
                format!("{path}.checkpoint_bytes_max"),
                format!(
                    "{} is over log.record_bytes_max ({}) less 16 KiB",
                    plugin.checkpoint_bytes_max, self.log.record_bytes_max
                ),
            ));
        }
        Ok(())
    }

    /// Each entry names a slot, once, and keeps to the rules for all plugins.
    fn check_slots(&self, name: &str, pipeline: &PipelineConfig) -> Result<(), ConfigError> {
        let mut seen = BTreeSet::new();
        for (slot, config) in &pipeline.slots {
            let path = format!("pipelines.{name}.slots.{slot:?}");
            let invalid = |problem: &str| Err(ConfigError::invalid(&*path, problem));
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

    fn check_pipeline(&self, name: &str, pipeline: &PipelineConfig) -> Result<(), ConfigError> {
        let invalid = |field: &str, problem: String| {
            let path = format!("pipelines.{name}{field}");
            Err(ConfigError::invalid(path, problem))
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
        if let Some(output) = pipeline.outputs.keys().find(|name| !is_name(name)) {
            let problem = format!("{output:?} is not 1 to 100 letters, digits, _ or -");
            return invalid(".outputs", problem);
        }
        if !pipeline.key.starts_with('/') {
            return invalid(".key", format!("{:?} is no JSON pointer", pipeline.key));
        }
        if pipeline.partitions == Some(0) {
            return invalid(".partitions", "0 is under the minimum of 1".into());
        }
        let group = self.group(name);
        let mut others = self.pipelines.keys().filter(|other| *other != name);
        if let Some(other) = others.find(|other| self.group(other) == group) {
            let problem = format!("pipeline {other} also has the group {group}");
            return invalid(".group", problem);
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
}
