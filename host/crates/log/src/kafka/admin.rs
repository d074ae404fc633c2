//! An operator's changes to the brokers' topics, and questions about their groups.

use std::collections::BTreeSet;

use courtside_types::{PartitionId, Topic, topics::CHECKPOINTS_SUFFIX};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList, consumer::Consumer as _};

use super::{Kafka, convert::number, errors::unavailable, native::DescribedGroup};
use crate::{
    GroupName, LogError, RecordLog as _,
    admin::{
        Admin, GroupListing, NewTopic, TopicChange, TopicDetails, TopicListing, kept, kept_for,
        partitions_fixed,
    },
};

impl Admin for Kafka {
    fn topics(&self) -> Result<Vec<TopicListing>, LogError> {
        self.shared.check_open()?;
        self.shared.topics.list()
    }

    fn describe_topic(&self, topic: &Topic) -> Result<TopicDetails, LogError> {
        self.shared.check_open()?;
        self.shared.topics.details(topic)
    }

    fn create_topic(&self, new: &NewTopic) -> Result<(), LogError> {
        self.shared.check_open()?;
        self.shared.topics.create_new(new)
    }

    fn alter_topic(&self, topic: &Topic, change: &TopicChange) -> Result<(), LogError> {
        self.shared.check_open()?;
        let has = self.partitions(topic)?;
        if change.partitions.is_some_and(|wanted| wanted > has)
            && let Some(group) = self.stateful_group(topic)?
        {
            return Err(partitions_fixed(topic, has, &group));
        }
        self.shared.topics.alter(topic, change)
    }

    fn delete_topic(&self, topic: &Topic) -> Result<(), LogError> {
        self.shared.check_open()?;
        let checkpoints_of = topic.strip_suffix(CHECKPOINTS_SUFFIX);
        let keeps = checkpoints_of
            .map(|group| (group, "state"))
            .or(kept_for(topic));
        let owner = keeps.map(|(group, _)| group);
        for group in self.consumer_groups()? {
            let found = self.groups.describe(&group)?;
            let keeps = owner == Some(&*group) && !found.members.is_empty();
            if keeps || topics_of(&found).contains(topic) {
                return Err(LogError::TopicInUse {
                    topic: topic.clone(),
                    group,
                });
            }
        }
        if let Some((group, what)) = keeps {
            let topics = self.shared.topics.names()?;
            if !self.committed_topics(group, topics.into_iter())?.is_empty() {
                return Err(kept(topic, group, what));
            }
        }
        self.shared.topics.delete(topic)
    }

    fn groups(&self) -> Result<Vec<GroupListing>, LogError> {
        self.shared.check_open()?;
        let listing = |group: GroupName| {
            let found = self.groups.describe(&group)?;
            Ok(GroupListing {
                group,
                state: words(&found.state),
                members: found.members.len(),
            })
        };
        self.consumer_groups()?.into_iter().map(listing).collect()
    }

    fn group_topics(&self, group: &str) -> Result<Vec<Topic>, LogError> {
        self.shared.check_open()?;
        if !self.consumer_groups()?.contains(&GroupName::from(group)) {
            return Err(LogError::NoSuchGroup {
                group: group.into(),
            });
        }
        let mut read = topics_of(&self.groups.describe(group)?);
        let topics = self.shared.topics.names()?;
        read.extend(self.committed_topics(group, topics.into_iter())?);
        Ok(read.into_iter().collect())
    }
}

impl Kafka {
    /// The consumer groups there are, of either protocol.
    pub(super) fn consumer_groups(&self) -> Result<BTreeSet<GroupName>, LogError> {
        let timeout = self.shared.config.request_timeout;
        let list = self
            .shared
            .committed
            .fetch_group_list(None, timeout)
            .map_err(unavailable)?;
        let groups = list.groups().iter();
        let consumers = groups.filter(|group| matches!(group.protocol_type(), "consumer" | ""));
        Ok(consumers.map(|group| group.name().into()).collect())
    }

    /// The topics among these that a group has committed offsets of.
    fn committed_topics(
        &self,
        group: &str,
        topics: impl Iterator<Item = (Topic, u32)>,
    ) -> Result<BTreeSet<Topic>, LogError> {
        let mut list = TopicPartitionList::new();
        for (topic, partitions) in topics {
            for partition in 0..partitions {
                list.add_partition(&topic, number(PartitionId(partition)));
            }
        }
        let found = self.groups.committed(group, list)?;
        let elements = found.elements();
        let committed = elements
            .iter()
            .filter(|element| matches!(element.offset(), KafkaOffset::Offset(_)));
        Ok(committed.map(|element| element.topic().into()).collect())
    }

    /// A group whose checkpoints are those of the topic's keys. A topic of checkpoints
    /// names its group; for another one, the group has a topic of checkpoints and has
    /// committed offsets of this topic.
    fn stateful_group(&self, topic: &Topic) -> Result<Option<GroupName>, LogError> {
        if let Some(group) = topic.strip_suffix(CHECKPOINTS_SUFFIX) {
            return Ok(Some(group.into()));
        }
        let topics = self.shared.topics.names()?;
        let Some(count) = topics.get(topic) else {
            return Ok(None);
        };
        for name in topics.keys() {
            let Some(group) = name.strip_suffix(CHECKPOINTS_SUFFIX) else {
                continue;
            };
            let only = std::iter::once((topic.clone(), *count));
            if !self.committed_topics(group, only)?.is_empty() {
                return Ok(Some(group.into()));
            }
        }
        Ok(None)
    }
}

/// The topics that a group's members have partitions of.
fn topics_of(group: &DescribedGroup) -> BTreeSet<Topic> {
    let members = group.members.iter();
    let partitions = members.flat_map(|member| &member.partitions);
    partitions.map(|(topic, _)| topic.as_str().into()).collect()
}

/// `PreparingRebalance` as `preparing-rebalance`.
fn words(state: &str) -> String {
    let mut words = String::with_capacity(state.len() + 2);
    for letter in state.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push('-');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_words() {
        assert_eq!(words("PreparingRebalance"), "preparing-rebalance");
        assert_eq!(words("Empty"), "empty");
        assert_eq!(words(""), "");
    }
}
