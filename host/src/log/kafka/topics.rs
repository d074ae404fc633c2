//! Topics: whether they are there and as they should be, how many partitions
//! they have, and which offsets these hold.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, Offset as KafkaOffset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    config::{KafkaConfig, message_bytes_max},
    context::Plain,
    convert::number,
    errors::{is_denial, unavailable, without},
};
use crate::{
    log::{Bounds, Cleanup, LogError, TopicSpec, block::block_on},
    types::{Offset, PartitionId, Topic},
};

/// How long what is known of a topic is taken for true.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// How long the first offset of a partition is: it moves only by retention.
const STARTS_FOR: Duration = Duration::from_secs(1);
/// How long brokers may take to tell offsets before they are asked again, or
/// others in their place.
const TRY: Duration = Duration::from_secs(2);
const RETRY_WAIT: Duration = Duration::from_millis(20);
/// A topic's name is not longer.
const NAME_BYTES_MAX: usize = 249;
/// Topics of checkpoints are compacted in small steps, so that a restore reads
/// little that is superseded.
const CHECKPOINT_SEGMENT_BYTES: &str = "33554432";
const CHECKPOINT_DIRTY_RATIO: &str = "0.1";

pub(super) struct Topics {
    config: KafkaConfig,
    partitions_default: u32,
    record_bytes_max: usize,
    /// Asks as a reader of committed records.
    client: Arc<BaseConsumer<Plain>>,
    known: Mutex<HashMap<Topic, (u32, Instant)>>,
    starts: Mutex<HashMap<Topic, (Vec<Offset>, Instant)>>,
}

/// A topic as it is.
struct Found {
    partitions: u32,
    replicas: usize,
}

impl Topics {
    pub fn new(
        config: &KafkaConfig,
        partitions_default: u32,
        record_bytes_max: usize,
        client: Arc<BaseConsumer<Plain>>,
    ) -> Self {
        Self {
            config: config.clone(),
            partitions_default,
            record_bytes_max,
            client,
            known: Mutex::default(),
            starts: Mutex::default(),
        }
    }

    /// How many partitions a topic has.
    pub fn partitions(&self, topic: &Topic) -> Result<u32, LogError> {
        let known = self.known.lock().get(topic).copied();
        if let Some((count, at)) = known
            && at.elapsed() < KNOWN_FOR
        {
            return Ok(count);
        }
        match self.find(topic) {
            Ok(Some(found)) => {
                self.note(topic, found.partitions);
                Ok(found.partitions)
            }
            Ok(None) => Err(LogError::NoSuchTopic {
                topic: topic.clone(),
            }),
            // Better what was true a while ago than nothing.
            Err(error) => known.map(|(count, _)| count).ok_or(error),
        }
    }

    pub fn check(&self, topic: &Topic, partition: PartitionId) -> Result<(), LogError> {
        if partition.0 < self.partitions(topic)? {
            return Ok(());
        }
        Err(LogError::NoSuchPartition {
            topic: topic.clone(),
            partition,
        })
    }

    fn note(&self, topic: &Topic, partitions: u32) {
        let mut known = self.known.lock();
        known.insert(topic.clone(), (partitions, Instant::now()));
    }

    fn find(&self, topic: &Topic) -> Result<Option<Found>, LogError> {
        if check_name(topic).is_err() {
            return Ok(None);
        }
        let metadata = self
            .client
            .fetch_metadata(Some(topic), self.config.request_timeout)
            .map_err(|error| without(|| format!("Describe on topic {topic}"), error))?;
        let Some(found) = metadata
            .topics()
            .iter()
            .find(|found| found.name() == &**topic)
        else {
            return Ok(None);
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Ok(None);
            }
            // It is there, and has no leaders yet.
            Some(RDKafkaErrorCode::LeaderNotAvailable) => {}
            Some(error) => {
                let needs = || format!("Describe on topic {topic}");
                return Err(without(needs, KafkaError::MetadataFetch(error)));
            }
        }
        let partitions = found.partitions();
        if partitions.is_empty() {
            return Ok(None);
        }
        let replicas = partitions
            .iter()
            .map(|partition| partition.replicas().len());
        Ok(Some(Found {
            partitions: u32::try_from(partitions.len()).unwrap_or(u32::MAX),
            replicas: replicas.min().unwrap_or_default(),
        }))
    }

    /// The offsets that each partition holds, in one question to each broker
    /// and for each end.
    pub fn bounds(
        &self,
        client: &BaseConsumer<Plain>,
        topic: &Topic,
    ) -> Result<Vec<Bounds>, LogError> {
        let all: Vec<_> = (0..self.partitions(topic)?).map(PartitionId).collect();
        let ends = self.ends(client, topic, &all)?;
        let starts = self.starts(topic, &all)?;
        let bounds = starts.into_iter().zip(ends).map(|(start, end)| Bounds {
            start,
            end: end.max(start),
        });
        Ok(bounds.collect())
    }

    /// Where a partition begins, or began a moment ago.
    pub fn start(&self, topic: &Topic, partition: PartitionId) -> Result<Offset, LogError> {
        let all: Vec<_> = (0..self.partitions(topic)?).map(PartitionId).collect();
        let starts = self.starts(topic, &all)?;
        Ok(starts
            .get(partition.0 as usize)
            .copied()
            .unwrap_or_default())
    }

    fn starts(&self, topic: &Topic, all: &[PartitionId]) -> Result<Vec<Offset>, LogError> {
        if let Some((starts, at)) = self.starts.lock().get(topic)
            && at.elapsed() < STARTS_FOR
            && starts.len() == all.len()
        {
            return Ok(starts.clone());
        }
        let starts = self.offsets(&self.client, topic, all, KafkaOffset::Beginning)?;
        let mut known = self.starts.lock();
        known.insert(topic.clone(), (starts.clone(), Instant::now()));
        Ok(starts)
    }

    /// Where these partitions begin, now.
    pub fn starts_now(
        &self,
        topic: &Topic,
        partitions: &[PartitionId],
    ) -> Result<Vec<Offset>, LogError> {
        self.offsets(&self.client, topic, partitions, KafkaOffset::Beginning)
    }

    /// Where these partitions end, as `client` sees it.
    pub fn ends(
        &self,
        client: &BaseConsumer<Plain>,
        topic: &Topic,
        partitions: &[PartitionId],
    ) -> Result<Vec<Offset>, LogError> {
        self.offsets(client, topic, partitions, KafkaOffset::End)
    }

    /// Where this partition ends for readers of committed records.
    pub fn end(&self, topic: &Topic, partition: PartitionId) -> Result<Offset, LogError> {
        let ends = self.ends(&self.client, topic, &[partition])?;
        Ok(ends.first().copied().unwrap_or_default())
    }

    fn offsets(
        &self,
        client: &BaseConsumer<Plain>,
        topic: &Topic,
        partitions: &[PartitionId],
        which: KafkaOffset,
    ) -> Result<Vec<Offset>, LogError> {
        let deadline = Instant::now() + self.config.request_timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.try_offsets(client, topic, partitions, which, left.min(TRY)) {
                // The leader moved, or the topic is new to this broker. What the
                // client believes of leaders it believes for minutes: that there
                // is none, or one that is dead.
                Err(error @ LogError::Unavailable { .. }) => {
                    if let Err(error) = client.fetch_metadata(Some(topic), left.min(TRY)) {
                        tracing::debug!(%topic, %error, "leaders are not known");
                    }
                    if Instant::now() >= deadline {
                        return Err(error);
                    }
                    thread::sleep(RETRY_WAIT);
                }
                outcome => return outcome,
            }
        }
    }

    fn try_offsets(
        &self,
        client: &BaseConsumer<Plain>,
        topic: &Topic,
        partitions: &[PartitionId],
        which: KafkaOffset,
        timeout: Duration,
    ) -> Result<Vec<Offset>, LogError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition_offset(topic, number(*partition), which)
                .map_err(unavailable)?;
        }
        let found = client
            .offsets_for_times(list, timeout)
            .map_err(unavailable)?;
        let mut by_number = BTreeMap::new();
        for element in found.elements_for_topic(topic) {
            element.error().map_err(unavailable)?;
            if let KafkaOffset::Offset(offset) = element.offset() {
                by_number.insert(
                    element.partition(),
                    u64::try_from(offset).unwrap_or_default(),
                );
            }
        }
        let offset = |partition: &PartitionId| {
            let found = by_number.get(&number(*partition)).copied();
            found.map(Offset).ok_or_else(|| LogError::Unavailable {
                reason: format!("the brokers did not tell the offsets of {topic}/{partition}"),
            })
        };
        partitions.iter().map(offset).collect()
    }

    /// Creates the topics that are missing; all or none, where something
    /// cannot be.
    pub fn ensure(&self, specs: &[TopicSpec]) -> Result<(), LogError> {
        let mut missing = Vec::new();
        let mut there = Vec::new();
        for spec in specs {
            check_name(&spec.name).map_err(|reason| LogError::Invalid {
                what: format!("topic {:?}", &*spec.name),
                reason: reason.to_owned(),
            })?;
            match self.find(&spec.name)? {
                None => missing.push(spec),
                Some(found) => {
                    self.compare(spec, &found)?;
                    there.push(spec);
                }
            }
        }
        let admin = self.admin()?;
        self.compare_configs(&admin, &there)?;
        self.create(&admin, &missing)
    }

    fn admin(&self) -> Result<AdminClient<Plain>, LogError> {
        let config: ClientConfig = self.config.client();
        config
            .create_with_context(Plain { reach: None })
            .map_err(unavailable)
    }

    fn compare(&self, spec: &TopicSpec, found: &Found) -> Result<(), LogError> {
        if let Some(wanted) = spec.partitions
            && wanted != found.partitions
        {
            return mismatch(spec, "partitions", found.partitions, wanted);
        }
        let wanted = self.config.replication_factor as usize;
        if wanted > 0 && wanted != found.replicas {
            return mismatch(spec, "replicas", found.replicas, wanted);
        }
        Ok(())
    }

    /// Retention is the operator's: a difference there is told, not refused.
    fn compare_configs(
        &self,
        admin: &AdminClient<Plain>,
        specs: &[&TopicSpec],
    ) -> Result<(), LogError> {
        if specs.is_empty() {
            return Ok(());
        }
        let resources: Vec<_> = specs
            .iter()
            .map(|spec| ResourceSpecifier::Topic(&spec.name))
            .collect();
        let described =
            block_on(admin.describe_configs(&resources, &self.options())).map_err(unavailable)?;
        for (spec, described) in specs.iter().zip(described) {
            let needs = || format!("DescribeConfigs on topic {}", spec.name);
            let described =
                described.map_err(|error| without(needs, KafkaError::AdminOp(error)))?;
            let actual = |name: &str| {
                let entry = described.get(name);
                entry
                    .and_then(|entry| entry.value.clone())
                    .unwrap_or_default()
            };
            for (name, wanted) in self.configs(spec) {
                let actual = actual(name);
                if actual == wanted {
                    continue;
                }
                match name {
                    "cleanup.policy" => return mismatch(spec, "cleanup policy", actual, wanted),
                    "min.insync.replicas" => return mismatch(spec, name, actual, wanted),
                    _ => tracing::info!(
                        topic = %spec.name,
                        setting = name,
                        actual,
                        wanted,
                        "a topic is set otherwise than courtside would, and stays so"
                    ),
                }
            }
        }
        Ok(())
    }

    fn create(&self, admin: &AdminClient<Plain>, specs: &[&TopicSpec]) -> Result<(), LogError> {
        if specs.is_empty() {
            return Ok(());
        }
        let replicas = match i32::try_from(self.config.replication_factor) {
            Ok(count) if count > 0 => count,
            _ => -1,
        };
        let configs: Vec<_> = specs.iter().map(|spec| self.configs(spec)).collect();
        let topics: Vec<_> = specs
            .iter()
            .zip(&configs)
            .map(|(spec, configs)| {
                let count = spec.partitions.unwrap_or(self.partitions_default);
                let count = i32::try_from(count).unwrap_or(i32::MAX);
                let topic = NewTopic::new(&spec.name, count, TopicReplication::Fixed(replicas));
                configs
                    .iter()
                    .fold(topic, |topic, (name, value)| topic.set(name, value))
            })
            .collect();
        let created =
            block_on(admin.create_topics(&topics, &self.options())).map_err(unavailable)?;
        for created in created {
            match created {
                // Another host was faster.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, error)) if is_denial(&KafkaError::AdminOp(error)) => {
                    let needs = || format!("Create on topic {topic}, or somebody to create it");
                    return Err(without(needs, KafkaError::AdminOp(error)));
                }
                Err((topic, error)) => {
                    return Err(LogError::Invalid {
                        what: format!("topic {topic:?}"),
                        reason: error.to_string(),
                    });
                }
            }
        }
        specs.iter().try_for_each(|spec| self.await_topic(spec))
    }

    /// Waits until the brokers know of it and its partitions have leaders.
    fn await_topic(&self, spec: &TopicSpec) -> Result<(), LogError> {
        let deadline = Instant::now() + self.config.request_timeout;
        loop {
            if let Some(found) = self.find(&spec.name)? {
                self.compare(spec, &found)?;
                let all: Vec<_> = (0..found.partitions).map(PartitionId).collect();
                if self
                    .try_offsets(&self.client, &spec.name, &all, KafkaOffset::End, TRY)
                    .is_ok()
                {
                    self.note(&spec.name, found.partitions);
                    return Ok(());
                }
            }
            if Instant::now() >= deadline {
                return Err(LogError::Unavailable {
                    reason: format!("topic {} was created and has no leaders yet", spec.name),
                });
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new()
            .request_timeout(Some(self.config.request_timeout))
            .operation_timeout(Some(self.config.request_timeout))
    }

    /// What is set of a topic that is created.
    fn configs(&self, spec: &TopicSpec) -> Vec<(&'static str, String)> {
        let mut configs = vec![(
            "max.message.bytes",
            message_bytes_max(self.record_bytes_max).to_string(),
        )];
        let ms = |time: Duration| time.as_millis().min(i64::MAX as u128).to_string();
        match &spec.cleanup {
            Cleanup::Compact {
                tombstone_retention,
            } => {
                configs.push(("cleanup.policy", "compact".to_owned()));
                configs.push(("delete.retention.ms", ms(*tombstone_retention)));
                if spec.name.ends_with(super::CHECKPOINTS_SUFFIX) {
                    configs.push(("segment.bytes", CHECKPOINT_SEGMENT_BYTES.to_owned()));
                    configs.push((
                        "min.cleanable.dirty.ratio",
                        CHECKPOINT_DIRTY_RATIO.to_owned(),
                    ));
                }
            }
            Cleanup::Delete {
                retention,
                retention_bytes,
            } => {
                let unbounded = || "-1".to_owned();
                configs.push(("cleanup.policy", "delete".to_owned()));
                configs.push(("retention.ms", retention.map_or_else(unbounded, ms)));
                configs.push((
                    "retention.bytes",
                    retention_bytes.map_or_else(unbounded, |bytes| bytes.to_string()),
                ));
            }
        }
        if self.config.min_insync_replicas > 0 {
            configs.push((
                "min.insync.replicas",
                self.config.min_insync_replicas.to_string(),
            ));
        }
        configs
    }
}

fn mismatch(
    spec: &TopicSpec,
    what: &'static str,
    actual: impl ToString,
    wanted: impl ToString,
) -> Result<(), LogError> {
    Err(LogError::Mismatch {
        topic: spec.name.clone(),
        what,
        actual: actual.to_string(),
        wanted: wanted.to_string(),
    })
}

pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() {
        Err("the name is empty")
    } else if name.len() > NAME_BYTES_MAX {
        Err("the name is longer than 249 bytes")
    } else if name == "." || name == ".." {
        Err("the name is . or ..")
    } else if !name.bytes().all(legal) {
        Err("the name has characters other than letters, digits, . _ and -")
    } else {
        Ok(())
    }
}
