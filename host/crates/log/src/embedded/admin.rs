//! An operator's changes of this directory's topics, and questions about its groups.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use courtside_types::{Offset, PartitionId, Topic, TopicId};

use super::{
    Embedded, catalog, clean,
    groups::GroupKey,
    rows::{CleanupRow, TopicRow, ms},
    write::{Change, ChangeTopic, Request},
};
use crate::{
    Bounds, LogError, TopicSpec,
    admin::{
        Admin, GroupListing, NewTopic, PartitionDetails, Setting, Source, TopicChange,
        TopicDetails, TopicListing, kept, kept_for, partitions_fixed,
    },
};

const CLEANUP: &str = "cleanup.policy";
const RETENTION_MS: &str = "retention.ms";
const RETENTION_BYTES: &str = "retention.bytes";
const TOMBSTONES_MS: &str = "delete.retention.ms";
/// The retention of a topic that has no setting for it, as in Kafka.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
const TOMBSTONE_RETENTION: Duration = Duration::from_secs(24 * 3600);

impl Admin for Embedded {
    fn topics(&self) -> Result<Vec<TopicListing>, LogError> {
        drop(self.shared.store()?);
        let topics = self.shared.topics.read();
        let listed = topics.iter().map(|topic| TopicListing {
            name: topic.name.clone(),
            partitions: topic.count(),
            replicas: 1,
            cleanup: topic.cleanup.read().policy().to_owned(),
            is_internal: false,
        });
        Ok(listed.collect())
    }

    fn describe_topic(&self, topic: &Topic) -> Result<TopicDetails, LogError> {
        drop(self.shared.store()?);
        let topic = self.shared.topics.read().get(topic)?;
        let partitions = (0_u32..)
            .zip(topic.rows())
            .map(|(partition, row)| PartitionDetails {
                partition: PartitionId(partition),
                leader: None,
                replicas: Vec::new(),
                in_sync: Vec::new(),
                bounds: Some(Bounds {
                    start: Offset(row.start),
                    end: Offset(row.end),
                }),
            });
        let source = Source::Topic;
        let settings = settings(&topic.cleanup.read())
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Setting { value, source }));
        Ok(TopicDetails {
            name: topic.name.clone(),
            partitions: partitions.collect(),
            settings: settings.collect(),
        })
    }

    fn create_topic(&self, new: &NewTopic) -> Result<(), LogError> {
        if new.replicas.is_some_and(|count| count != 1) {
            return Err(invalid(
                &new.name,
                "the embedded log keeps each record once: leave out the replication factor",
            ));
        }
        let needs = new.needs.as_ref();
        let partitions = new
            .partitions
            .or_else(|| needs.and_then(|needs| needs.partitions));
        let partitions = catalog::new_partitions(&self.shared, &new.name, partitions)?;
        let base = needs.map(|needs| CleanupRow::from(&needs.cleanup));
        let mut values = base.as_ref().map(settings).unwrap_or_default();
        let cleanup = cleanup(&new.name, &mut values, &new.settings, &[])?;
        let row = TopicRow {
            id: 0,
            uid: TopicId::NONE,
            partitions,
            cleanup,
            altered: !new.settings.is_empty(),
        };
        check(&new.name, needs, &row)?;
        self.change(
            &new.name,
            Change::Create {
                partitions,
                cleanup: row.cleanup,
                altered: row.altered,
            },
        )
    }

    fn alter_topic(&self, name: &Topic, change: &TopicChange) -> Result<(), LogError> {
        let topic = self.shared.topics.read().get(name)?;
        let mut row = topic.topic_row();
        if let Some(wanted) = change.partitions {
            if wanted < row.partitions {
                let reason = format!(
                    "it has {} partitions, and cannot have fewer",
                    row.partitions
                );
                return Err(invalid(name, &reason));
            }
            let reads = |(group, _): &(GroupKey, usize)| group.topic == topic.id;
            if wanted > row.partitions
                && let Some((group, _)) = self.shared.groups.all().iter().find(|group| reads(group))
            {
                return Err(partitions_fixed(name, row.partitions, &group.group));
            }
            row.partitions = catalog::new_partitions(&self.shared, name, Some(wanted))?;
        }
        if !change.set.is_empty() || !change.unset.is_empty() {
            let mut values = settings(&row.cleanup);
            row.cleanup = cleanup(name, &mut values, &change.set, &change.unset)?;
            // A topic without settings of its own follows the configuration again.
            row.altered = !change.set.is_empty();
            check(name, change.needs.as_ref(), &row)?;
        }
        self.change(
            name,
            Change::Alter {
                partitions: row.partitions,
                cleanup: row.cleanup,
                altered: row.altered,
            },
        )
    }

    fn delete_topic(&self, name: &Topic) -> Result<(), LogError> {
        let topic = self.shared.topics.read().get(name)?;
        let groups = self.shared.groups.all();
        let member = groups
            .iter()
            .find(|(group, members)| group.topic == topic.id && *members > 0);
        if let Some((group, _)) = member {
            return Err(LogError::TopicInUse {
                topic: name.clone(),
                group: group.group.clone(),
            });
        }
        if let Some((owner, what)) = kept_for(name) {
            let mut groups = groups.iter().filter(|(group, _)| &*group.group == owner);
            if groups.any(|(group, _)| !self.shared.groups.all_committed(group).is_empty()) {
                return Err(kept(name, owner, what));
            }
        }
        let _cleaning = self.shared.cleaning.lock();
        clean::empty(&self.shared, &topic)?;
        self.change(name, Change::Delete)
    }

    fn groups(&self) -> Result<Vec<GroupListing>, LogError> {
        drop(self.shared.store()?);
        let mut members: BTreeMap<_, usize> = BTreeMap::new();
        for (group, count) in self.shared.groups.all() {
            *members.entry(group.group).or_default() += count;
        }
        let listed = members.into_iter().map(|(group, members)| GroupListing {
            group,
            state: if members > 0 { "stable" } else { "empty" }.to_owned(),
            members,
        });
        Ok(listed.collect())
    }

    fn group_topics(&self, group: &str) -> Result<Vec<Topic>, LogError> {
        drop(self.shared.store()?);
        let groups = self.shared.groups.all();
        let of_group = groups.iter().filter(|(key, _)| &*key.group == group);
        let read: BTreeSet<u32> = of_group.map(|(key, _)| key.topic).collect();
        if read.is_empty() {
            return Err(LogError::NoSuchGroup {
                group: group.into(),
            });
        }
        let topics = self.shared.topics.read();
        let named = topics.iter().filter(|topic| read.contains(&topic.id));
        Ok(named.map(|topic| topic.name.clone()).collect())
    }
}

impl Embedded {
    fn change(&self, topic: &Topic, change: Change) -> Result<(), LogError> {
        let topic = topic.clone();
        self.shared.ask(|reply| {
            Request::Change(ChangeTopic {
                topic,
                change,
                reply,
            })
        })
    }
}

fn invalid(topic: &Topic, reason: &str) -> LogError {
    LogError::Invalid {
        what: format!("topic {topic}"),
        reason: reason.to_owned(),
    }
}

/// Refuses a row that a pipeline would refuse. The number of partitions is checked
/// elsewhere.
fn check(name: &Topic, needs: Option<&TopicSpec>, row: &TopicRow) -> Result<(), LogError> {
    let Some(needs) = needs else { return Ok(()) };
    let needs = TopicSpec {
        name: name.clone(),
        partitions: None,
        cleanup: needs.cleanup.clone(),
    };
    catalog::compare(&needs, row)
}

/// How a topic is cleaned, in Kafka's words.
fn settings(row: &CleanupRow) -> BTreeMap<&'static str, String> {
    let or_unbounded =
        |value: Option<u64>| value.map_or("-1".to_owned(), |value| value.to_string());
    let mut values = BTreeMap::from([(CLEANUP, row.policy().to_owned())]);
    match row {
        CleanupRow::Compact {
            tombstone_retention_ms,
        } => {
            values.insert(TOMBSTONES_MS, tombstone_retention_ms.to_string());
        }
        CleanupRow::Delete {
            retention_ms,
            retention_bytes,
        } => {
            values.insert(RETENTION_MS, or_unbounded(*retention_ms));
            values.insert(RETENTION_BYTES, or_unbounded(*retention_bytes));
        }
    }
    values
}

/// How a topic is to be cleaned once some settings are set and others removed.
fn cleanup(
    name: &Topic,
    values: &mut BTreeMap<&'static str, String>,
    set: &BTreeMap<String, String>,
    unset: &[String],
) -> Result<CleanupRow, LogError> {
    let known = |setting: &str| {
        [CLEANUP, RETENTION_MS, RETENTION_BYTES, TOMBSTONES_MS]
            .into_iter()
            .find(|known| *known == setting)
            .ok_or_else(|| {
                let reason = format!(
                    "{setting} is not among what the embedded log knows: {CLEANUP}, {RETENTION_MS}, {RETENTION_BYTES}, {TOMBSTONES_MS}"
                );
                invalid(name, &reason)
            })
    };
    for setting in unset {
        values.remove(known(setting)?);
    }
    for (setting, value) in set {
        values.insert(known(setting)?, value.clone());
    }
    let number = |setting: &'static str, default: Option<u64>| match values.get(setting) {
        None => Ok(default),
        Some(value) if value == "-1" => Ok(None),
        Some(value) => value
            .parse()
            .map(Some)
            .map_err(|_| invalid(name, &format!("{setting} is a number, not {value:?}"))),
    };
    match values.get(CLEANUP).map_or("delete", |policy| policy) {
        "compact" => Ok(CleanupRow::Compact {
            tombstone_retention_ms: number(TOMBSTONES_MS, Some(ms(TOMBSTONE_RETENTION)))?
                .unwrap_or(u64::MAX),
        }),
        "delete" => Ok(CleanupRow::Delete {
            retention_ms: number(RETENTION_MS, Some(ms(RETENTION)))?,
            retention_bytes: number(RETENTION_BYTES, None)?,
        }),
        other => Err(invalid(
            name,
            &format!("{CLEANUP} is compact or delete, not {other:?}"),
        )),
    }
}
