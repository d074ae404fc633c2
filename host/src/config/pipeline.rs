//! A pipeline, and the slots of it that have settings of their own.

use std::collections::BTreeMap;

use courtside_engine::pipeline::kept::{self, KeptTopic};
use courtside_log::partitioner::Partitioner;
use courtside_types::slot_name::SlotName;
use serde::{Deserialize, Serialize};

use super::plugin::PluginOverrides;

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

/// The slot of a name; a key is in the slot that its file would have.
#[must_use]
pub fn slot_name(name: &str) -> Option<SlotName> {
    match SlotName::parse(name)? {
        SlotName::Key(key) => Some(SlotName::of_key(&key)),
        slot => Some(slot),
    }
}
