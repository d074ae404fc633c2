//! Members when the group changes, and when one of them is slow.

mod assignors;
mod leaving;
mod partitions;
mod rivals;
mod staying;
mod zombies;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_types::{Offset, PartitionId, Topic, TopicPartition};
use tempfile::TempDir;

use super::{brokers, config, limits, prefix};
use crate::{
    Commit, LogError, Member, Polled, RecordLog as _,
    conformance::{append, deleted, join, record, values},
    kafka::{Kafka, KafkaConfig},
};

const HANGS_AFTER: Duration = Duration::from_secs(60);

fn open(dir: &Path, config: KafkaConfig) -> Arc<Kafka> {
    Kafka::open(dir, config, &limits()).unwrap()
}

/// Configuration of a host without fixed seats, whose members come and go.
fn dynamic(brokers: &str) -> KafkaConfig {
    KafkaConfig {
        static_membership: false,
        ..config(brokers)
    }
}

fn commit(output: &Topic, partition: u32, next: u64, value: &str) -> Commit {
    let place = TopicPartition {
        topic: output.clone(),
        partition: PartitionId(0),
    };
    Commit {
        records: vec![(place, record("k", value))],
        checkpoints: vec![(
            PartitionId(partition),
            "k".into(),
            Some(value.to_owned().into()),
        )],
        offsets: vec![(PartitionId(partition), Offset(next))],
    }
}

/// Hosts that share a group, and what became of its input.
struct Scene {
    hosts: Vec<(Arc<Kafka>, TempDir)>,
    input: Topic,
    output: Topic,
    group: String,
    partitions: u32,
    /// How many records each partition has.
    appended: BTreeMap<u32, u64>,
    /// The committed offset of each partition.
    committed: BTreeMap<u32, u64>,
}

impl Scene {
    fn new(partitions: u32, configs: &[KafkaConfig]) -> Self {
        let prefix = prefix();
        let host = |config: &KafkaConfig| {
            let dir = tempfile::tempdir().unwrap();
            (open(dir.path(), config.clone()), dir)
        };
        let scene = Self {
            hosts: configs.iter().map(host).collect(),
            input: format!("{prefix}in").into(),
            output: format!("{prefix}out").into(),
            group: format!("{prefix}g"),
            partitions,
            appended: BTreeMap::new(),
            committed: BTreeMap::new(),
        };
        let topics = [deleted(&scene.input, partitions), deleted(&scene.output, 1)];
        scene.hosts[0].0.ensure_topics(&topics).unwrap();
        scene
    }

    fn hand(&self, host: usize) -> Hand {
        Hand {
            member: join(&*self.hosts[host].0, &self.group, &self.input, 0, 1),
            held: BTreeMap::new(),
        }
    }

    /// Appends one record more to each partition.
    fn append(&mut self) {
        for partition in 0..self.partitions {
            append(&*self.hosts[0].0, &self.input, partition, &["x"]);
            *self.appended.entry(partition).or_default() += 1;
        }
    }

    fn next(&self, partition: u32) -> u64 {
        self.committed.get(&partition).copied().unwrap_or_default()
    }

    /// The commit of records that were read, with one output for each of them.
    fn commit(&self, read: &BTreeMap<u32, (u64, u64)>) -> Commit {
        let outputs = read.iter().flat_map(|(partition, (from, to))| {
            (*from..*to).map(move |offset| format!("{partition}:{offset}"))
        });
        let place = TopicPartition {
            topic: self.output.clone(),
            partition: PartitionId(0),
        };
        Commit {
            records: outputs
                .map(|output| (place.clone(), record("k", &output)))
                .collect(),
            checkpoints: read
                .iter()
                .map(|(partition, (_, to))| {
                    let at = to.to_string().into();
                    (PartitionId(*partition), "k".into(), Some(at))
                })
                .collect(),
            offsets: read
                .iter()
                .map(|(partition, (_, to))| (PartitionId(*partition), Offset(*to)))
                .collect(),
        }
    }

    /// Asserts that every record led to one output, in the order of its partition.
    fn judge(&self) {
        let mut outputs: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for value in values(&*self.hosts[0].0, &self.output, 0, 0) {
            let (partition, offset) = value.split_once(':').unwrap();
            let of = outputs.entry(partition.parse().unwrap()).or_default();
            of.push(offset.parse().unwrap());
        }
        let expected: BTreeMap<u32, Vec<u64>> = self
            .appended
            .iter()
            .map(|(partition, count)| (*partition, (0..*count).collect()))
            .collect();
        assert_eq!(outputs, expected);
    }

    /// Has all hands work until `is_so` holds.
    fn until(&mut self, hands: &mut [&mut Hand], is_so: impl Fn(&Self, &[&mut Hand]) -> bool) {
        let since = Instant::now();
        while !is_so(self, hands) {
            assert!(
                since.elapsed() < HANGS_AFTER,
                "{:?}, committed {:?} of {:?}",
                hands.iter().map(|hand| &hand.held).collect::<Vec<_>>(),
                self.committed,
                self.appended,
            );
            for hand in &mut *hands {
                hand.step(self);
            }
        }
    }

    /// Has all hands work until every record is committed.
    fn finish(&mut self, hands: &mut [&mut Hand]) {
        self.append();
        self.until(hands, |scene, _| scene.committed == scene.appended);
        self.judge();
    }
}

/// A worker as far as its group sees it: it reads, commits what it read, and
/// lets go when it is asked to.
struct Hand {
    member: Box<dyn Member>,
    /// The partitions it has, and the next record it expects of each.
    held: BTreeMap<u32, u64>,
}

impl Hand {
    fn poll(&mut self) -> Polled {
        self.member
            .poll(Duration::from_millis(10), 1 << 20)
            .unwrap()
    }

    fn step(&mut self, scene: &mut Scene) {
        match self.poll() {
            Polled::Assigned(more) => self.take(scene, &more),
            Polled::Records(fetched) => {
                let read = self.read(&fetched);
                self.commit(scene, &read);
            }
            Polled::Revoked(gone) => self.release(&gone),
            Polled::Lost(gone) => self.forget(&gone),
            Polled::Idle => {}
            polled @ Polled::Stopped { .. } => panic!("{polled:?}"),
        }
    }

    fn take(&mut self, scene: &Scene, more: &[crate::Assignment]) {
        for one in more {
            let (partition, next) = (one.partition.0, one.next().0);
            assert_eq!(next, scene.next(partition), "where the last one committed");
            self.held.insert(partition, next);
        }
    }

    /// The range of offsets read in each partition, without a gap or a repeat.
    fn read(&mut self, fetched: &[crate::Fetched]) -> BTreeMap<u32, (u64, u64)> {
        let mut read = BTreeMap::new();
        for fetched in fetched {
            let partition = fetched.partition.0;
            let next = self.held.get_mut(&partition).unwrap();
            let from = *next;
            for record in &fetched.records {
                assert_eq!(record.offset.0, *next, "partition {partition}");
                *next += 1;
            }
            read.insert(partition, (from, *next));
        }
        read
    }

    /// Commits as a worker does: while the group moves on, a commit may have to be
    /// tried again, and records of a fenced one are lost.
    fn commit(&mut self, scene: &mut Scene, read: &BTreeMap<u32, (u64, u64)>) {
        let commit = scene.commit(read);
        match retry(&mut *self.member, &commit) {
            Ok(()) => {
                let committed = read.iter().map(|(partition, (_, to))| (*partition, *to));
                scene.committed.extend(committed);
            }
            Err(error) => assert_eq!(error.code(), "fenced", "{error}"),
        }
    }

    fn release(&mut self, gone: &[PartitionId]) {
        self.member.release(gone);
        self.forget(gone);
    }

    fn forget(&mut self, gone: &[PartitionId]) {
        self.held
            .retain(|partition, _| !gone.contains(&PartitionId(*partition)));
    }
}

/// Repeats a commit until it is done, or fenced.
fn retry(member: &mut dyn Member, commit: &Commit) -> Result<(), LogError> {
    let since = Instant::now();
    loop {
        match member.commit(commit) {
            Err(error) if error.code() == "log-unavailable" => {
                assert!(since.elapsed() < HANGS_AFTER, "{error}");
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}
