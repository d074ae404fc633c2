//! The records in the log, read with the library once the host has ended.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use courtside_log::{
    RecordLog,
    embedded::{Embedded, EmbeddedConfig},
    kafka::{Kafka, KafkaConfig, Limits},
};
use courtside_types::{Offset, PartitionId, Record, Topic};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Engine, Place};

const READ_BYTES: usize = 1 << 20;

/// The log of a place where no host runs.
pub struct Topics<'a> {
    place: &'a Place,
    log: Arc<dyn RecordLog>,
    _dir: Option<TempDir>,
}

/// An event that could not be processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub key: String,
    pub code: String,
    pub reason: String,
    pub event: Value,
}

impl<'a> Topics<'a> {
    /// # Panics
    /// If a host still runs in the place, or never did.
    #[must_use]
    pub fn of(place: &'a Place) -> Self {
        match place.engine() {
            Engine::Embedded => {
                let config = EmbeddedConfig {
                    cleanup_interval: Duration::from_secs(3600),
                    ..EmbeddedConfig::default()
                };
                let dir = place.data_dir().join("log");
                Self {
                    place,
                    log: Embedded::open(dir, config).expect("a log without a host"),
                    _dir: None,
                }
            }
            Engine::Kafka => {
                let cluster = place.engine().cluster().expect("brokers");
                let config = KafkaConfig {
                    brokers: cluster.brokers().to_owned(),
                    ..KafkaConfig::default()
                };
                let limits = Limits {
                    partitions: 1,
                    record_bytes_max: READ_BYTES,
                    queue_bytes_max: READ_BYTES,
                    tombstone_retention: Duration::ZERO,
                };
                let dir = tempfile::tempdir().expect("a directory");
                Self {
                    place,
                    log: Kafka::open(dir.path(), config, &limits).expect("brokers that answer"),
                    _dir: Some(dir),
                }
            }
        }
    }

    /// Every record of a topic, partition after partition.
    #[must_use]
    pub fn records(&self, topic: &str) -> Vec<(PartitionId, Record)> {
        let topic = Topic::from(self.place.topic(topic));
        let partitions = self.log.partitions(&topic).expect("a topic");
        let mut all = Vec::new();
        for partition in (0..partitions).map(PartitionId) {
            let mut next = Offset(0);
            loop {
                let read = self.log.read(&topic, partition, next, READ_BYTES);
                let read = read.expect("a readable partition");
                let Some(last) = read.last() else { break };
                next = last.offset.next();
                all.extend(read.into_iter().map(|record| (partition, record)));
            }
        }
        all
    }

    /// The dead letters of a pipeline, in order for each key.
    #[must_use]
    pub fn dead_letters(&self, pipeline: &str) -> Vec<DeadLetter> {
        let records = self.records(&format!("courtside-{pipeline}.dead-letter"));
        let letters = records.into_iter().map(|(_, record)| DeadLetter {
            key: text(record.key.as_deref()),
            code: text(record.header("courtside-error-code").map(|code| &**code)),
            reason: text(record.header("courtside-error-reason").map(|why| &**why)),
            event: serde_json::from_slice(&record.value.unwrap_or_default())
                .expect("a dead letter has its event's bytes"),
        });
        letters.collect()
    }

    /// Checks that each record of an input led to one output or one dead letter.
    /// Among copies (a client's retries, which share an idempotency key) only
    /// the first may have led to one. Returns the number of copies.
    ///
    /// The check is for plugins that answer every event with one output.
    ///
    /// # Panics
    /// If records were lost or counted twice, with their list.
    #[must_use]
    pub fn each_counted_once(&self, pipeline: &str, input: &str, output: &str) -> usize {
        let mut led_to: BTreeMap<String, usize> = BTreeMap::new();
        let dead_letters = format!("courtside-{pipeline}.dead-letter");
        for topic in [output, &dead_letters] {
            for (_, record) in self.records(topic) {
                let source = text(record.header("courtside-source").map(|source| &**source));
                *led_to.entry(source).or_default() += 1;
            }
        }
        let (mut copies, mut wrong) = (0, Vec::new());
        let mut seen = std::collections::BTreeSet::new();
        for (partition, record) in self.records(input) {
            let place = format!("{}/{partition}/{}", self.place.topic(input), record.offset);
            let index = record.header("courtside-idempotency-index").cloned();
            let is_copy = record
                .header("courtside-idempotency-key")
                .is_some_and(|key| !seen.insert((record.key.clone(), key.clone(), index)));
            copies += usize::from(is_copy);
            let count = led_to.remove(&place).unwrap_or(0);
            if count != usize::from(!is_copy) {
                wrong.push(format!("{place} led to {count} records, copy: {is_copy}"));
            }
        }
        assert!(wrong.is_empty(), "{} of the input: {wrong:#?}", wrong.len());
        assert!(led_to.is_empty(), "sources that are no input: {led_to:#?}");
        copies
    }
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}
