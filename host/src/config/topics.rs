//! Whether the pipelines of a configuration agree on their topics.
//!
//! A topic has one kind ([`Keep`]), and every pipeline that names the topic must
//! name the same kind. A topic that a group keeps for itself is nobody's output: the
//! host would read a plugin's record in it as one of its own.

use courtside_engine::{
    dead_letters::{self, notes},
    pipeline::{
        kept::{Keep, KeptTopic},
        layout,
    },
    slots,
};
use courtside_log::kafka;

use super::{Config, ConfigError, PipelineConfig};

/// One place of the configuration that names a topic.
struct Named<'a> {
    pipeline: &'a str,
    /// As the configuration names the field: `input`, `output`, `outputs.alerts`.
    field: String,
    topic: &'a KeptTopic,
}

impl Named<'_> {
    fn path(&self) -> String {
        format!("pipelines.{}.{}", self.pipeline, self.field)
    }

    fn invalid(&self, problem: String) -> ConfigError {
        ConfigError::invalid(self.path(), problem)
    }
}

/// Refuses a topic that is a stream in one place and a table in another, and one
/// that a group keeps for itself.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let named: Vec<Named<'_>> = config
        .pipelines
        .iter()
        .flat_map(|(name, pipeline)| of_pipeline(name, pipeline))
        .collect();
    for (index, one) in named.iter().enumerate() {
        check_own(config, one)?;
        let before = named.iter().take(index);
        let mut same = before.filter(|other| other.topic.topic == one.topic.topic);
        if let Some(other) = same.find(|other| other.topic.keep != one.topic.keep) {
            return Err(contradiction(one, other));
        }
    }
    Ok(())
}

fn of_pipeline<'a>(name: &'a str, pipeline: &'a PipelineConfig) -> impl Iterator<Item = Named<'a>> {
    let named = |field: String, topic| Named {
        pipeline: name,
        field,
        topic,
    };
    let outputs = pipeline.outputs.iter();
    [
        named("input".to_owned(), &pipeline.input),
        named("output".to_owned(), &pipeline.output),
    ]
    .into_iter()
    .chain(outputs.map(move |(output, topic)| named(format!("outputs.{output}"), topic)))
}

fn contradiction(one: &Named<'_>, other: &Named<'_>) -> ConfigError {
    let (table, stream) = match one.topic.keep {
        Keep::Latest => (one, other),
        Keep::All => (other, one),
    };
    one.invalid(format!(
        "topic {} is a table in {} (keep = \"latest\") and a stream in {} (keep = \"all\"), and cannot be both: \
         say {{ topic = {:?}, keep = \"all\" }} in {}, which keeps every record",
        one.topic.topic,
        table.path(),
        stream.path(),
        one.topic.topic,
        table.path(),
    ))
}

/// Dead letters are for anybody to read; the rest is the group's alone.
fn check_own(config: &Config, named: &Named<'_>) -> Result<(), ConfigError> {
    let topic = &*named.topic.topic;
    for pipeline in config.pipelines.keys() {
        let group = config.group(pipeline);
        let letters = dead_letters::topic(&group);
        let own = [
            layout::topic(&group).name,
            slots::topic::name(&group),
            notes::topic(&group),
            kafka::checkpoints_topic(&group),
        ];
        let is_letters = named.field != "input" && *letters == *topic;
        if is_letters || own.iter().any(|own| **own == *topic) {
            return Err(named.invalid(format!(
                "topic {topic} is one of those that group {group} keeps for itself: name another topic"
            )));
        }
    }
    Ok(())
}
