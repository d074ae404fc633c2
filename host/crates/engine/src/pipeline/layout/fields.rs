//! The fields of a layout.

use std::collections::BTreeMap;

use courtside_log::partitioner::Partitioner;
use serde::{Deserialize, Serialize};

use crate::pipeline::kept::KeptTopic;

/// Where the keys of a pipeline's input are, and where its outputs go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    pub input: String,
    pub partitions: u32,
    pub partitioner: Partitioner,
    pub writes: Writes,
}

/// The topics that a pipeline writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Writes {
    pub output: KeptTopic,
    pub outputs: BTreeMap<String, KeptTopic>,
}

impl Writes {
    /// The names of the topics.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        let all = std::iter::once(&self.output).chain(self.outputs.values());
        all.map(|written| written.topic.as_str())
    }

    /// Every topic, with the name that the configuration has for the output.
    pub(super) fn named(&self) -> BTreeMap<String, &KeptTopic> {
        let outputs = self.outputs.iter();
        let outputs = outputs.map(|(name, topic)| (format!("outputs.{name}"), topic));
        outputs
            .chain([("output".to_owned(), &self.output)])
            .collect()
    }
}
