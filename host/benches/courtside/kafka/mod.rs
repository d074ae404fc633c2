//! Benchmarks on one broker of Apache Kafka, which is on the same cores.
//!
//! `tests/kafka/cluster` starts it, a new one for each benchmark.

pub mod failure;
mod limit;
pub mod restore;
pub mod stream;

use std::{path::PathBuf, process::Command, time::Duration};

use courtside_types::Topic;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};

use crate::{
    cpu,
    rig::{INPUT, OUTPUT},
};

pub const GROUP: &str = "courtside-scores";
pub const PARTITIONS: i32 = 8;
const TIMEOUT: Duration = Duration::from_secs(10);

/// One broker, for as long as this lives.
pub struct Cluster {
    pub brokers: String,
}

/// Where the broker of this process is kept.
fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("kafka-{}", std::process::id()))
}

fn script(arguments: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/kafka/cluster");
    let output = Command::new(script)
        .args(arguments)
        .env("COURTSIDE_KAFKA_DIR", dir())
        .output()
        .expect("the cluster's script");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl Cluster {
    /// Starts the broker; `None`, after a word about it, where there is no Kafka.
    pub fn up() -> Option<Self> {
        let why_not = script(&["why-not"]);
        if !why_not.is_empty() {
            println!("skipped: {why_not}");
            return None;
        }
        let brokers = script(&["up"]);
        Some(Self { brokers })
    }

    /// CPU time that the broker has had.
    pub fn cpu(&self) -> Duration {
        let pid = std::fs::read_to_string(dir().join("1/pid")).expect("the broker's pid");
        cpu::of_process(pid.trim().parse().expect("a number"))
    }

    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    /// A reader of the committed outputs.
    pub fn outputs(&self, from: Offset) -> BaseConsumer {
        let mut config = self.client();
        config
            .set("group.id", GROUP)
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "5")
            .set("isolation.level", "read_committed");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition_offset(&OUTPUT, partition, from)
                .expect("a partition");
        }
        consumer.assign(&list).expect("assigned");
        consumer
    }

    /// Waits until the group has committed everything in the input.
    pub fn drain(&self, group: &str) {
        let mut config = self.client();
        config
            .set("group.id", group)
            .set("isolation.level", "read_uncommitted");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let ends = ends(&consumer, &INPUT);
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_range(&INPUT, 0, PARTITIONS - 1);
        loop {
            let found = consumer.committed_offsets(wanted.clone(), TIMEOUT);
            let is_done = found.is_ok_and(|found| {
                found.elements().iter().zip(&ends).all(|(element, end)| {
                    let next = match element.offset() {
                        Offset::Offset(next) => next,
                        _ => 0,
                    };
                    next >= *end
                })
            });
            if is_done {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Where the partitions of a topic end, as the consumer sees it.
fn ends(consumer: &BaseConsumer, topic: &Topic) -> Vec<i64> {
    let ends = (0..PARTITIONS).map(|partition| {
        let (_, end) = consumer
            .fetch_watermarks(topic, partition, TIMEOUT)
            .expect("watermarks");
        end
    });
    ends.collect()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        script(&["down"]);
    }
}
