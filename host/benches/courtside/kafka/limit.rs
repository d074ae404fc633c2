//! The limit of what is possible: rdkafka alone consumes, produces, and commits in
//! transactions, and nothing is computed.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use super::{Cluster, PARTITIONS};
use crate::rig::INPUT;

/// The default of `worker.commit_interval`.
const INTERVAL: Duration = Duration::from_millis(100);
const WAIT: Duration = Duration::from_secs(10);

/// Copies the input to a topic, with values of `value_bytes` bytes. There are as
/// many threads as a host has workers, each with half of the partitions. The time is
/// from the first poll to the last commit.
pub fn copy(cluster: &Cluster, group: &str, output: &str, value_bytes: usize) -> Duration {
    let stop = Arc::new(AtomicBool::new(false));
    let ready = Arc::new(Barrier::new(3));
    let threads: Vec<_> = (0..2)
        .map(|number| {
            let (stop, ready) = (Arc::clone(&stop), Arc::clone(&ready));
            let mut reader = cluster.client();
            reader
                .set("group.id", group)
                .set("enable.auto.commit", "false")
                .set("isolation.level", "read_committed");
            let mut writer = cluster.client();
            writer
                .set("transactional.id", format!("{group}.{number}"))
                .set("compression.type", "lz4")
                .set("linger.ms", "5")
                .set("queue.buffering.max.messages", "0");
            let output = output.to_owned();
            thread::spawn(move || {
                let reader: BaseConsumer = reader.create().expect("a consumer");
                let writer: BaseProducer = writer.create().expect("a producer");
                writer.init_transactions(WAIT).expect("transactions");
                let mut list = TopicPartitionList::new();
                for partition in (0..PARTITIONS).filter(|partition| partition % 2 == number) {
                    list.add_partition_offset(&INPUT, partition, Offset::Beginning)
                        .expect("a partition");
                }
                ready.wait();
                reader.assign(&list).expect("assigned");
                let value = vec![b'x'; value_bytes];
                while !stop.load(Ordering::Relaxed) {
                    transaction(&reader, &writer, &output, &value);
                }
            })
        })
        .collect();
    ready.wait();
    let started = Instant::now();
    cluster.drain(group);
    let took = started.elapsed();
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("a copier");
    }
    took
}

fn transaction(reader: &BaseConsumer, writer: &BaseProducer, output: &str, value: &[u8]) {
    let Some(first) = reader.poll(INTERVAL) else {
        return;
    };
    writer.begin_transaction().expect("begun");
    let began = Instant::now();
    let mut offsets = [None; PARTITIONS as usize];
    let mut message = first.expect("a record");
    loop {
        offsets[usize::try_from(message.partition()).expect("a partition")] =
            Some(message.offset() + 1);
        let record = BaseRecord::to(output)
            .partition(message.partition())
            .key(message.key().unwrap_or_default())
            .payload(value);
        writer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("room");
        if began.elapsed() >= INTERVAL {
            break;
        }
        match reader.poll(Duration::ZERO) {
            Some(next) => message = next.expect("a record"),
            None => break,
        }
    }
    let mut list = TopicPartitionList::new();
    for (partition, next) in (0..PARTITIONS).zip(offsets) {
        if let Some(next) = next {
            list.add_partition_offset(&INPUT, partition, Offset::Offset(next))
                .expect("a partition");
        }
    }
    let group = reader.group_metadata().expect("a group");
    writer
        .send_offsets_to_transaction(&list, &group, WAIT)
        .expect("offsets");
    writer.commit_transaction(WAIT).expect("committed");
}
