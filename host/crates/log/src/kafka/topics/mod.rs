//! Topics: how many partitions they have, and which offsets these hold; [ensure]
//! creates those that pipelines need, [change] does what an operator wants.

mod change;
mod ensure;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use courtside_types::{Offset, PartitionId, Topic};
use parking_lot::Mutex;
use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    config::KafkaConfig,
    context::PlainContext,
    convert::number,
    errors::{unavailable, without},
};
use crate::{Bounds, LogError, name::check_name};

/// How long a known topic is believed to be there although the brokers deny it.
const BELIEVED_FOR: Duration = Duration::from_secs(30);
/// How long the known number of a topic's partitions is taken for true.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// How long a partition's known first offset is taken for true: only retention moves it.
const STARTS_FOR: Duration = Duration::from_secs(1);
/// How long brokers may take to tell offsets before they are asked again, or
/// others in their place.
const TRY: Duration = Duration::from_secs(2);
/// Pause before brokers that do not know yet are asked again.
const LOOK: Duration = Duration::from_millis(20);

pub(super) struct Topics {
    config: KafkaConfig,
    partitions_default: u32,
    record_bytes_max: usize,
    /// Asks as a reader of committed records.
    client: Arc<BaseConsumer<PlainContext>>,
    known: Mutex<HashMap<Topic, (u32, Instant)>>,
    starts: Mutex<HashMap<Topic, (Vec<Offset>, Instant)>>,
}

/// A topic as the brokers have it.
struct Found {
    partitions: u32,
    replicas: usize,
}

impl Topics {
    pub fn new(
        config: &KafkaConfig,
        partitions_default: u32,
        record_bytes_max: usize,
        client: Arc<BaseConsumer<PlainContext>>,
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
        // A commit must not wait long for a number that it knows.
        let timeout = self.config.request_timeout;
        let timeout = known.map_or(timeout, |_| timeout.min(TRY));
        match self.find_within(topic, timeout) {
            Ok(Some(found)) => {
                self.note(topic, found.partitions);
                Ok(found.partitions)
            }
            // A broker that just started may not have heard of the topic yet.
            Ok(None) => known
                .filter(|(_, at)| at.elapsed() < BELIEVED_FOR)
                .map(|(count, _)| count)
                .ok_or_else(|| LogError::NoSuchTopic {
                    topic: topic.clone(),
                }),
            // An old number of partitions is better than none.
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
        self.find_within(topic, self.config.request_timeout)
    }

    fn find_within(&self, topic: &Topic, timeout: Duration) -> Result<Option<Found>, LogError> {
        if check_name(topic).is_err() {
            return Ok(None);
        }
        let metadata = self
            .client
            .fetch_metadata(Some(topic), timeout)
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
            // The topic is there, and has no leaders yet.
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

    /// The offsets that each partition holds. Each broker is asked once for the starts
    /// and once for the ends.
    pub fn bounds(
        &self,
        client: &BaseConsumer<PlainContext>,
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

    /// The first offset of a partition, now or a moment ago.
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

    /// The first offsets of these partitions, now.
    pub fn starts_now(
        &self,
        topic: &Topic,
        partitions: &[PartitionId],
    ) -> Result<Vec<Offset>, LogError> {
        self.offsets(&self.client, topic, partitions, KafkaOffset::Beginning)
    }

    /// The ends of these partitions, as `client` sees them.
    pub fn ends(
        &self,
        client: &BaseConsumer<PlainContext>,
        topic: &Topic,
        partitions: &[PartitionId],
    ) -> Result<Vec<Offset>, LogError> {
        self.offsets(client, topic, partitions, KafkaOffset::End)
    }

    /// The end of this partition for readers of committed records.
    pub fn end(&self, topic: &Topic, partition: PartitionId) -> Result<Offset, LogError> {
        let ends = self.ends(&self.client, topic, &[partition])?;
        Ok(ends.first().copied().unwrap_or_default())
    }

    fn offsets(
        &self,
        client: &BaseConsumer<PlainContext>,
        topic: &Topic,
        partitions: &[PartitionId],
        which: KafkaOffset,
    ) -> Result<Vec<Offset>, LogError> {
        let deadline = Instant::now() + self.config.request_timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.try_offsets(client, topic, partitions, which, left.min(TRY)) {
                // The leader moved, or the topic is new to this broker. For minutes
                // the client believes that there is no leader, or that a dead one
                // leads, so the metadata is fetched anew.
                Err(error @ LogError::Unavailable { .. }) => {
                    if let Err(error) = client.fetch_metadata(Some(topic), left.min(TRY)) {
                        tracing::debug!(%topic, %error, "leaders of a topic's partitions are not known");
                    }
                    if Instant::now() >= deadline {
                        return Err(error);
                    }
                    thread::sleep(LOOK);
                }
                outcome => return outcome,
            }
        }
    }

    fn try_offsets(
        &self,
        client: &BaseConsumer<PlainContext>,
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
}
