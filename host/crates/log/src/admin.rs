//! Operations of an operator on the log's topics, and questions about its groups.
//!
//! The engine that a command opens works beside the hosts where it can be
//! shared, and instead of a host where it cannot.

use std::collections::BTreeMap;

use courtside_types::{
    PartitionId, Topic,
    topics::{
        CHECKPOINTS_SUFFIX, DEAD_LETTER_SUFFIX, LAYOUT_SUFFIX, PLUGINS_SUFFIX, REDRIVE_SUFFIX,
    },
};

use super::{Bounds, GroupName, LogError, RecordLog, TopicSpec};

/// A topic in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicListing {
    pub name: Topic,
    pub partitions: u32,
    /// Replicas of the partition that has the fewest.
    pub replicas: u32,
    /// The value of `cleanup.policy`.
    pub cleanup: String,
    /// Whether the topic is for the engine's own use only.
    pub is_internal: bool,
}

/// All there is to know of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDetails {
    pub name: Topic,
    pub partitions: Vec<PartitionDetails>,
    /// The settings that are not Kafka's defaults, by name.
    pub settings: BTreeMap<String, Setting>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDetails {
    pub partition: PartitionId,
    /// The broker that leads it; none where it has no leader.
    pub leader: Option<i32>,
    pub replicas: Vec<i32>,
    /// The replicas that have all that is committed.
    pub in_sync: Vec<i32>,
    /// None where the partition has no leader to ask.
    pub bounds: Option<Bounds>,
}

/// The value of a topic's setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub value: String,
    pub source: Source,
}

/// The origin of a setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The topic's own setting.
    Topic,
    /// The brokers' setting for all topics.
    Brokers,
}

/// A topic to create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    pub name: Topic,
    /// None takes the log's default.
    pub partitions: Option<u32>,
    /// None takes the log's default.
    pub replicas: Option<u32>,
    pub settings: BTreeMap<String, String>,
    /// The topic as a pipeline needs it. Settings that are not given are taken from
    /// here, and settings that contradict it are refused.
    pub needs: Option<TopicSpec>,
}

/// A change to a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicChange {
    pub partitions: Option<u32>,
    pub set: BTreeMap<String, String>,
    /// Settings that go back to their defaults.
    pub unset: Vec<String>,
    /// The topic as a pipeline needs it: a change that contradicts it is refused.
    pub needs: Option<TopicSpec>,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupListing {
    pub group: GroupName,
    /// In Kafka's words: `empty`, `stable`, `preparing-rebalance`, …
    pub state: String,
    pub members: usize,
}

pub trait Admin: RecordLog {
    /// All topics, by name.
    fn topics(&self) -> Result<Vec<TopicListing>, LogError>;

    fn describe_topic(&self, topic: &Topic) -> Result<TopicDetails, LogError>;

    /// Returns when the topic can be used.
    fn create_topic(&self, new: &NewTopic) -> Result<(), LogError>;

    /// Makes either the whole change or none of it, unless the log fails in between.
    /// More partitions are refused where keys would move away from their checkpoints.
    fn alter_topic(&self, topic: &Topic, change: &TopicChange) -> Result<(), LogError>;

    /// Deletes a topic with its records and the groups' offsets in it; checkpoints
    /// stay. Refused while a group reads the topic, and while a group that keeps its
    /// state or its layout there has committed offsets.
    fn delete_topic(&self, topic: &Topic) -> Result<(), LogError>;

    /// All groups that have members or committed offsets, by name.
    fn groups(&self) -> Result<Vec<GroupListing>, LogError>;

    /// The topics that a group reads or has committed offsets of, by name.
    fn group_topics(&self, group: &str) -> Result<Vec<Topic>, LogError>;
}

/// The error for a caller who wants more partitions, where the topic must keep its
/// number.
pub(super) fn partitions_fixed(topic: &Topic, partitions: u32, group: &str) -> LogError {
    LogError::PartitionsFixed {
        topic: topic.clone(),
        partitions,
        group: group.into(),
    }
}

/// The group that a topic keeps something for, by the topic's name, and what it keeps.
/// No engine writes these topics; the code above the log does.
pub(super) fn kept_for(topic: &Topic) -> Option<(&str, &'static str)> {
    let layout = topic.strip_suffix(LAYOUT_SUFFIX);
    let plugins = topic.strip_suffix(PLUGINS_SUFFIX);
    let redrive = topic.strip_suffix(REDRIVE_SUFFIX);
    layout
        .map(|group| (group, "layout"))
        .or(plugins.map(|group| (group, "plugins")))
        .or(redrive.map(|group| (group, "redriven letters")))
}

/// The error for a caller who wants to delete a topic that a group needs.
pub(super) fn kept(topic: &Topic, group: &str, what: &'static str) -> LogError {
    LogError::TopicKept {
        topic: topic.clone(),
        group: group.into(),
        what,
    }
}

/// Advice on a difference between a topic and the configuration.
pub(super) fn remedy(topic: &Topic, what: &str, wanted: &str) -> String {
    match what {
        "partitions" => "set `partitions` of the pipeline to what the topic has, or name another topic; keys would move if it got more".to_owned(),
        "replicas" => "set kafka.replication_factor to what the topic has (0 takes any), or give it more by Kafka's kafka-reassign-partitions".to_owned(),
        "cleanup.policy" => policy_remedy(topic, wanted),
        setting => {
            let other = match setting {
                "min.insync.replicas" => "set kafka.min_insync_replicas to what the topic has (0 takes any)",
                "max.message.bytes" => "lower log.record_bytes_max",
                _ => "name another topic in the configuration",
            };
            format!("`courtside topics alter {topic} -c {setting}={wanted}`, or {other}")
        }
    }
}

/// Advice on a topic that is a stream and should be a table, or the other way round.
/// The change must not lose any record, so a stream is never compacted, and a table
/// that becomes a stream gets no retention.
fn policy_remedy(topic: &Topic, wanted: &str) -> String {
    let as_configured = |keep| {
        format!(
            "say {{ topic = \"{topic}\", keep = \"{keep}\" }} wherever the configuration names it"
        )
    };
    let to_stream = format!(
        "`courtside topics alter {topic} -c cleanup.policy=delete -c retention.ms=-1 -c retention.bytes=-1` keeps all records that are still there and all that come"
    );
    // Dead letters and layouts are streams, so compaction would lose some.
    let tables = [PLUGINS_SUFFIX, REDRIVE_SUFFIX, CHECKPOINTS_SUFFIX];
    let is_hosts_table = tables.iter().any(|suffix| topic.ends_with(suffix));
    let is_hosts_own =
        is_hosts_table || kept_for(topic).is_some() || topic.ends_with(DEAD_LETTER_SUFFIX);
    let is_known = match wanted {
        "compact" => is_hosts_table,
        _ => is_hosts_own,
    };
    match (wanted, is_known) {
        // Hosts read the latest record of each key there, and no other.
        ("compact", true) => {
            format!("`courtside topics alter {topic} -c cleanup.policy=compact`")
        }
        ("compact", false) => format!(
            "{}, which leaves it the stream that it is, or name another topic",
            as_configured("all")
        ),
        (_, true) => to_stream,
        (_, false) => format!(
            "{to_stream}; or, where the latest record of each key is enough, {}; or name another topic",
            as_configured("latest")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only topics of which hosts read the latest record alone may be compacted.
    #[test]
    fn no_remedy_compacts_a_stream() {
        for (topic, compacts) in [
            ("g.checkpoints", true),
            ("g.plugins", true),
            ("g.redrive", true),
            ("g.dead-letter", false),
            ("g.pipeline", false),
            ("orders", false),
        ] {
            let advice = policy_remedy(&topic.into(), "compact");
            assert_eq!(
                advice.contains("cleanup.policy=compact"),
                compacts,
                "{advice}"
            );
            let advice = policy_remedy(&topic.into(), "delete");
            assert!(advice.contains("retention.ms=-1"), "{advice}");
        }
    }
}
