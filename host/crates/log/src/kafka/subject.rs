//! The Kafka engine as a subject of tests, on a real Apache Kafka.

#[path = "../../../../../tests/src/kafka/brokers.rs"]
pub mod cluster;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytestring::ByteString;
use courtside_types::Topic;
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use tempfile::TempDir;

pub use self::cluster::shared as brokers;
use super::{Kafka, KafkaConfig, Limits};
use crate::{
    RecordLog,
    admin::Admin,
    conformance::{Subject, wait},
};

pub fn limits() -> Limits {
    Limits {
        partitions: 8,
        record_bytes_max: 1 << 20,
        queue_bytes_max: 1 << 20,
        tombstone_retention: Duration::from_secs(3600),
    }
}

/// Static membership, because the suite drops members and has others take their
/// seats: the group would wait for a dynamic member until its session ends.
pub fn config(brokers: &str) -> KafkaConfig {
    KafkaConfig {
        brokers: brokers.to_owned(),
        static_membership: true,
        heartbeat_interval: Duration::from_millis(200),
        session_timeout: Duration::from_secs(6),
        ..KafkaConfig::default()
    }
}

/// Cases share the brokers, so each has names of its own.
pub fn prefix() -> String {
    static CASES: AtomicU32 = AtomicU32::new(0);
    let case = CASES.fetch_add(1, Ordering::Relaxed);
    format!("t{:08x}-{case}-", rand::random::<u32>())
}

/// Drops records before an offset, as retention does.
pub fn delete_before(brokers: &str, topic: &str, partition: i32, offset: i64) {
    let client = config(brokers).client();
    let admin: AdminClient<DefaultClientContext> = client.create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset))
        .unwrap();
    wait(admin.delete_records(&list, &AdminOptions::new())).unwrap();
}

pub struct KafkaSubject {
    dir: TempDir,
    brokers: String,
    prefix: String,
    log: Option<Arc<Kafka>>,
}

impl KafkaSubject {
    #[must_use]
    pub fn new(brokers: String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Kafka::open(dir.path(), config(&brokers), &limits()).unwrap();
        Self {
            dir,
            brokers,
            prefix: prefix(),
            log: Some(log),
        }
    }
}

impl Subject for KafkaSubject {
    fn log(&self) -> Arc<dyn RecordLog> {
        Arc::clone(self.log.as_ref().unwrap()) as _
    }

    fn admin(&self) -> Arc<dyn Admin> {
        Arc::clone(self.log.as_ref().unwrap()) as _
    }

    fn delete_before(&self, topic: &Topic, partition: u32, offset: u64) {
        let (partition, offset) = (i32::try_from(partition), i64::try_from(offset));
        delete_before(&self.brokers, topic, partition.unwrap(), offset.unwrap());
    }

    fn reopen(&mut self) {
        self.log.take().unwrap().close();
        let log = Kafka::open(self.dir.path(), config(&self.brokers), &limits());
        self.log = Some(log.unwrap());
    }

    fn name(&self, name: &str) -> ByteString {
        // A prefix leaves an impossible name impossible.
        format!("{}{name}", self.prefix).into()
    }
}
