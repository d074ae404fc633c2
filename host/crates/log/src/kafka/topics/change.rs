//! An operator's questions about topics, and changes to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use courtside_types::{PartitionId, Topic};
use rdkafka::{
    admin::{AlterConfig, ConfigResource, ConfigSource, NewPartitions, ResourceSpecifier},
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    LOOK, Topics,
    ensure::{check, is_passing},
};
use crate::{
    LogError,
    admin::{NewTopic, PartitionDetails, Setting, Source, TopicChange, TopicDetails, TopicListing},
    block::block_on,
    kafka::errors::{is_denial, unavailable, without},
};

/// How long the brokers may take to show settings that they accepted.
const SETTINGS_WITHIN: Duration = Duration::from_secs(5);
/// Prefix of the brokers' own topics.
const INTERNAL_PREFIX: &str = "__";

impl Topics {
    /// The names and partitions of all topics but the brokers' own.
    pub fn names(&self) -> Result<BTreeMap<Topic, u32>, LogError> {
        let metadata = self
            .client
            .fetch_metadata(None, self.config.request_timeout)
            .map_err(unavailable)?;
        let topics = metadata.topics().iter();
        let topics = topics.filter(|topic| !topic.name().starts_with(INTERNAL_PREFIX));
        Ok(topics
            .map(|topic| {
                let count = u32::try_from(topic.partitions().len()).unwrap_or(u32::MAX);
                (Topic::from(topic.name()), count)
            })
            .collect())
    }

    pub fn list(&self) -> Result<Vec<TopicListing>, LogError> {
        let metadata = self
            .client
            .fetch_metadata(None, self.config.request_timeout)
            .map_err(unavailable)?;
        let names: Vec<&str> = metadata.topics().iter().map(|topic| topic.name()).collect();
        let described = self.describe_once(&self.admin()?, &names)?;
        let mut listed: Vec<TopicListing> = metadata
            .topics()
            .iter()
            .zip(described)
            .map(|(topic, described)| {
                let replicas = topic.partitions().iter().map(|one| one.replicas().len());
                let cleanup = described.get("cleanup.policy");
                TopicListing {
                    name: topic.name().into(),
                    partitions: count(topic.partitions().len()),
                    replicas: count(replicas.min().unwrap_or_default()),
                    cleanup: cleanup
                        .and_then(|entry| entry.value.clone())
                        .unwrap_or_default(),
                    is_internal: topic.name().starts_with(INTERNAL_PREFIX),
                }
            })
            .collect();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    pub fn details(&self, name: &Topic) -> Result<TopicDetails, LogError> {
        self.must_exist(name)?;
        let metadata = self
            .client
            .fetch_metadata(Some(name), self.config.request_timeout)
            .map_err(unavailable)?;
        let found = metadata.topics().iter().find(|one| one.name() == &**name);
        let mut partitions = Vec::new();
        for one in found.map(|topic| topic.partitions()).unwrap_or_default() {
            let leader = Some(one.leader()).filter(|leader| *leader >= 0);
            partitions.push(PartitionDetails {
                partition: PartitionId(u32::try_from(one.id()).unwrap_or_default()),
                leader,
                replicas: one.replicas().to_vec(),
                in_sync: one.isr().to_vec(),
                bounds: None,
            });
        }
        partitions.sort_by_key(|one| one.partition);
        // The bounds need a leader of each partition; without one, the partitions are
        // told all the same.
        if partitions.iter().all(|one| one.leader.is_some()) {
            let bounds = self.bounds(&self.client, name)?;
            for (one, bounds) in partitions.iter_mut().zip(bounds) {
                one.bounds = Some(bounds);
            }
        }
        let described = self.describe(&self.admin()?, &[name])?;
        let settings = described.first().map(settings).unwrap_or_default();
        Ok(TopicDetails {
            name: name.clone(),
            partitions,
            settings,
        })
    }

    fn must_exist(&self, name: &Topic) -> Result<u32, LogError> {
        match self.find(name)? {
            Some(found) => Ok(found.partitions),
            None => Err(LogError::NoSuchTopic {
                topic: name.clone(),
            }),
        }
    }

    pub fn create_new(&self, new: &NewTopic) -> Result<(), LogError> {
        check(&new.name)?;
        if self.find(&new.name)?.is_some() {
            return Err(LogError::TopicExists {
                topic: new.name.clone(),
            });
        }
        let mut wanted: BTreeMap<&str, String> = BTreeMap::new();
        let mut partitions = new.partitions;
        if let Some(needs) = &new.needs {
            wanted.extend(self.settings(needs));
            partitions = partitions.or(needs.partitions);
        }
        for (name, value) in &new.settings {
            wanted.insert(name, value.clone());
        }
        if let Some(needs) = &new.needs {
            self.compare_settings(needs, |name| wanted.get(name).cloned())?;
        }
        let replicas = new.replicas.unwrap_or(self.config.replication_factor);
        let replicas = i32::try_from(replicas).unwrap_or(i32::MAX);
        let settings = wanted.iter().map(|(name, value)| (*name, &**value));
        self.create(&self.admin()?, &new.name, partitions, replicas, settings)?;
        self.await_topic(&new.name).map(drop)
    }

    /// Changes a topic. The brokers take only all settings of a topic at once, so the
    /// request repeats those that it has. A setting that somebody else changes at the same
    /// moment is lost.
    pub fn alter(&self, name: &Topic, change: &TopicChange) -> Result<(), LogError> {
        let has = self.must_exist(name)?;
        if let Some(wanted) = change.partitions
            && wanted < has
        {
            return Err(LogError::Invalid {
                what: format!("topic {name}"),
                reason: format!("it has {has} partitions, and cannot have fewer"),
            });
        }
        let admin = self.admin()?;
        if !change.set.is_empty() || !change.unset.is_empty() {
            let described = self.describe(&admin, &[name])?;
            let Some(described) = described.first() else {
                return Ok(());
            };
            let known = |name: &&String| described.get(name).is_some();
            let named = change.set.keys().chain(&change.unset);
            if let Some(unknown) = { named }.find(|name| !known(name)) {
                return Err(LogError::Invalid {
                    what: format!("topic {name}"),
                    reason: format!("{unknown} is not among Kafka's settings of a topic"),
                });
            }
            let unset: BTreeSet<&str> = change.unset.iter().map(String::as_str).collect();
            let mut wanted: BTreeMap<&str, &str> = described
                .entries
                .iter()
                .filter(|entry| entry.source == ConfigSource::DynamicTopic)
                .filter(|entry| !unset.contains(&*entry.name))
                .filter_map(|entry| Some((&*entry.name, entry.value.as_deref()?)))
                .collect();
            for (name, value) in &change.set {
                wanted.insert(name, value);
            }
            if let Some(needs) = &change.needs {
                // An unset setting becomes the brokers' default, which is not known
                // before: a host's start compares it.
                self.compare_settings(needs, |setting| {
                    let set = wanted.get(setting).map(|value| (*value).to_owned());
                    set.or_else(|| described.get(setting)?.value.clone())
                })?;
            }
            let mut altered = AlterConfig::new(ResourceSpecifier::Topic(name));
            altered
                .entries
                .extend(wanted.iter().map(|(name, value)| (*name, *value)));
            block_on(admin.alter_configs([&altered], &self.options())).map_err(unavailable)?;
            self.await_settings(name, change)?;
        }
        if let Some(wanted) = change.partitions.filter(|wanted| *wanted > has) {
            let partitions = NewPartitions::new(name, wanted as usize);
            let outcome = block_on(admin.create_partitions([&partitions], &self.options()))
                .map_err(unavailable)?;
            for outcome in outcome {
                outcome.map_err(|(_, code)| not_altered(name, code))?;
            }
            self.forget(name);
            self.until(&format!("topic {name} to have {wanted} partitions"), || {
                Ok(self.await_topic(name)?.partitions >= wanted)
            })?;
        }
        Ok(())
    }

    /// Waits until the brokers show the new settings. The client does not tell
    /// whether they took them, so a setting that does not show was refused.
    fn await_settings(&self, name: &Topic, change: &TopicChange) -> Result<(), LogError> {
        let admin = self.admin()?;
        let deadline = Instant::now() + SETTINGS_WITHIN.min(self.config.request_timeout);
        loop {
            let described = self.describe(&admin, &[name])?;
            let own = |name: &str| {
                let entry = described.first()?.get(name)?;
                (entry.source == ConfigSource::DynamicTopic).then_some(entry.value.as_deref())?
            };
            let kept = change.unset.iter().find(|name| own(name).is_some());
            let mut set = change.set.iter();
            let refused = set.find(|(name, value)| own(name) != Some(value));
            let Some(setting) = kept.or(refused.map(|(name, _)| name)) else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                return Err(LogError::Invalid {
                    what: format!("topic {name}"),
                    reason: format!(
                        "the brokers did not take {setting}: its value is out of its range, or courtside may not alter it (ACL AlterConfigs on the topic)"
                    ),
                });
            }
            thread::sleep(LOOK);
        }
    }

    pub fn delete(&self, name: &Topic) -> Result<(), LogError> {
        self.must_exist(name)?;
        let deleted =
            block_on(self.admin()?.delete_topics(&[name], &self.options())).map_err(unavailable)?;
        for deleted in deleted {
            match deleted {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((_, code)) => {
                    let needs = || format!("Delete on topic {name}");
                    return Err(without(needs, KafkaError::AdminOp(code)));
                }
            }
        }
        self.forget(name);
        self.until(&format!("topic {name} to be gone"), || {
            Ok(self.find(name)?.is_none())
        })
    }

    /// Forgets a topic's partitions and offsets, which have changed.
    fn forget(&self, name: &Topic) {
        self.known.lock().remove(name);
        self.starts.lock().remove(name);
    }

    fn until(
        &self,
        what: &str,
        is_so: impl Fn() -> Result<bool, LogError>,
    ) -> Result<(), LogError> {
        let deadline = Instant::now() + self.config.request_timeout;
        while !is_so()? {
            if Instant::now() >= deadline {
                return Err(LogError::Unavailable {
                    reason: format!(
                        "the brokers were told, and it takes longer than expected for {what}"
                    ),
                });
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn settings(described: &ConfigResource) -> BTreeMap<String, Setting> {
    let mut settings = BTreeMap::new();
    for entry in &described.entries {
        let source = match entry.source {
            ConfigSource::DynamicTopic => Source::Topic,
            ConfigSource::DynamicBroker
            | ConfigSource::DynamicDefaultBroker
            | ConfigSource::StaticBroker => Source::Brokers,
            ConfigSource::Default | ConfigSource::Unknown => continue,
        };
        if let Some(value) = entry.value.clone() {
            settings.insert(entry.name.clone(), Setting { value, source });
        }
    }
    settings
}

fn not_altered(name: &Topic, code: RDKafkaErrorCode) -> LogError {
    let reason = match code {
        RDKafkaErrorCode::InvalidPartitions => {
            "the brokers do not take so many partitions".to_owned()
        }
        code if is_denial(&KafkaError::AdminOp(code)) => {
            return without(
                || format!("Alter on topic {name}"),
                KafkaError::AdminOp(code),
            );
        }
        code if is_passing(code) => return unavailable(KafkaError::AdminOp(code)),
        code => code.to_string(),
    };
    LogError::Invalid {
        what: format!("topic {name}"),
        reason,
    }
}
