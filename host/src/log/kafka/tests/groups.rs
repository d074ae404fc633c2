//! What members do when the group changes, and when one of them is slow.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::{brokers, config, limits, prefix};
use crate::{
    log::{
        Commit, Member, Polled, RecordLog as _,
        conformance::{append, assigned, deleted, join, next, record, values},
        kafka::{Kafka, KafkaConfig},
    },
    types::{NewRecord, Offset, PartitionId, Topic, TopicPartition},
};

const HANGS_AFTER: Duration = Duration::from_secs(60);

fn open(dir: &Path, config: KafkaConfig) -> Arc<Kafka> {
    Kafka::open(dir, config, &limits()).unwrap()
}

/// Members that come and go, as of hosts with no fixed seats.
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

/// A writer was killed with a transaction open. What it wrote may yet be
/// committed, so nobody may begin before that is decided.
#[test]
fn a_restore_waits_for_what_is_open() {
    let Some(brokers) = brokers() else { return };
    let (dir, prefix) = (tempfile::tempdir().unwrap(), prefix());
    let (input, output): (Topic, Topic) =
        (format!("{prefix}in").into(), format!("{prefix}out").into());
    let group = format!("{prefix}g");
    let log = open(dir.path(), config(&brokers));
    log.ensure_topics(&[deleted(&input, 1), deleted(&output, 1)])
        .unwrap();
    append(&*log, &input, 0, &["a", "b"]);
    let mut member = join(&*log, &group, &input, 0, 1);
    assigned(&mut *member, 1);
    member.commit(&commit(&output, 0, 1, "old")).unwrap();
    drop(member);

    let mut other = config(&brokers).producer(1 << 20);
    other
        .set("transactional.id", format!("{prefix}other"))
        .set("transaction.timeout.ms", "60000")
        .set("message.timeout.ms", "10000");
    let other: BaseProducer = other.create().unwrap();
    other.init_transactions(HANGS_AFTER).unwrap();
    other.begin_transaction().unwrap();
    let topic = format!("{group}.checkpoints");
    let newer = BaseRecord::to(&topic).partition(0).key("k").payload("new");
    other.send(newer).unwrap();
    other.flush(HANGS_AFTER).unwrap();

    let mut member = join(&*log, &group, &input, 0, 1);
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        let polled = member.poll(Duration::from_millis(50), 1 << 20).unwrap();
        assert!(matches!(polled, Polled::Idle), "too early: {polled:?}");
    }
    other.commit_transaction(HANGS_AFTER).unwrap();
    assigned(&mut *member, 1);
    let checkpoints = log.checkpoints(&group).unwrap();
    let found = checkpoints.get(PartitionId(0), b"k").unwrap();
    assert_eq!(found.unwrap(), "new");
}

/// A host's partitions while another joins: those that stay are neither
/// revoked nor read again, and are committed for throughout.
#[test]
fn partitions_that_stay_go_on() {
    let Some(brokers) = brokers() else { return };
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let prefix = prefix();
    let (input, output): (Topic, Topic) =
        (format!("{prefix}in").into(), format!("{prefix}out").into());
    let group = format!("{prefix}g");
    let logs = dirs
        .each_ref()
        .map(|dir| open(dir.path(), dynamic(&brokers)));
    logs[0]
        .ensure_topics(&[deleted(&input, 4), deleted(&output, 1)])
        .unwrap();
    let mut first = join(&*logs[0], &group, &input, 0, 1);
    assigned(&mut *first, 4);
    let mut second = join(&*logs[1], &group, &input, 0, 1);

    let mut stays: BTreeSet<u32> = (0..4).collect();
    let mut moved = BTreeSet::new();
    let mut read: BTreeMap<u32, u64> = BTreeMap::new();
    let since = Instant::now();
    while moved.len() < 2 {
        assert!(since.elapsed() < HANGS_AFTER, "nothing moved");
        for partition in 0..4 {
            append(&*logs[0], &input, partition, &["x"]);
        }
        match first.poll(Duration::from_millis(10), 1 << 20).unwrap() {
            Polled::Records(fetched) => {
                for fetched in fetched {
                    let partition = fetched.partition.0;
                    for record in fetched.records {
                        let next = read.entry(partition).or_default();
                        assert_eq!(record.offset.0, *next, "partition {partition}");
                        *next += 1;
                    }
                    let next = read[&partition];
                    retry(&mut *first, &commit(&output, partition, next, "x"));
                }
            }
            Polled::Revoked(gone) => {
                stays.retain(|partition| !gone.contains(&PartitionId(*partition)));
                first.release(&gone);
            }
            Polled::Idle => {}
            polled => panic!("partitions that stay are not {polled:?}"),
        }
        if let Polled::Assigned(more) = second.poll(Duration::from_millis(10), 1 << 20).unwrap() {
            for assignment in more {
                let partition = assignment.partition.0;
                assert!(!stays.contains(&partition));
                let next = read.get(&partition).copied().unwrap_or_default();
                assert_eq!(assignment.next.0, next, "where the first one committed");
                moved.insert(partition);
            }
        }
    }
    assert_eq!(stays.len(), 2);
}

/// As a worker does: while the group moves on, a commit may have to be tried again.
fn retry(member: &mut dyn Member, commit: &Commit) {
    let since = Instant::now();
    while let Err(error) = member.commit(commit) {
        assert_eq!(error.code(), "log-unavailable", "{error}");
        assert!(since.elapsed() < HANGS_AFTER, "{error}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A host that stood still for longer than the group waits: its partition is
/// another's, and what it still holds must not be committed.
#[test]
fn a_zombie_commits_nothing() {
    let Some(brokers) = brokers() else { return };
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let prefix = prefix();
    let (input, output): (Topic, Topic) =
        (format!("{prefix}in").into(), format!("{prefix}out").into());
    let group = format!("{prefix}g");
    let mut short = dynamic(&brokers);
    for name in ["max.poll.interval.ms", "session.timeout.ms"] {
        short.properties.insert(name.to_owned(), "3000".to_owned());
    }
    short.session_timeout = Duration::from_secs(3);
    let logs = dirs.each_ref().map(|dir| open(dir.path(), short.clone()));
    logs[0]
        .ensure_topics(&[deleted(&input, 1), deleted(&output, 1)])
        .unwrap();
    append(&*logs[0], &input, 0, &["a"]);
    let mut zombie = join(&*logs[0], &group, &input, 0, 1);
    assigned(&mut *zombie, 1);
    assert!(matches!(next(&mut *zombie), Polled::Records(_)));
    // From here on it does not poll, until the group gave its partition away.
    let mut other = join(&*logs[1], &group, &input, 0, 1);
    assert_eq!(assigned(&mut *other, 1)[0].next, Offset(0));
    // As long as its client does not know, it tries again, and so does a worker.
    let (mut is_fenced, mut is_done) = (false, false);
    let since = Instant::now();
    while !is_fenced || !is_done {
        assert!(since.elapsed() < HANGS_AFTER, "{is_fenced} {is_done}");
        if !is_fenced {
            let error = zombie.commit(&commit(&output, 0, 1, "zombie")).unwrap_err();
            assert!(
                ["log-unavailable", "fenced"].contains(&error.code()),
                "{error}"
            );
            is_fenced = error.code() == "fenced";
        }
        match other.poll(Duration::ZERO, 1 << 20).unwrap() {
            Polled::Records(_) => {
                retry(&mut *other, &commit(&output, 0, 1, "other"));
                is_done = true;
            }
            Polled::Idle => {}
            polled => panic!("not of one that polls: {polled:?}"),
        }
    }
    assert_eq!(values(&*logs[1], &output, 0, 0), ["other"]);
    assert!(matches!(next(&mut *zombie), Polled::Lost(lost) if lost == [PartitionId(0)]));
    drop(other);
    // It is a member like any other again.
    assert_eq!(assigned(&mut *zombie, 1)[0].next, Offset(1));
    retry(&mut *zombie, &commit(&output, 0, 1, "again"));
}

/// The committed offset is one that retention has dropped.
#[test]
fn an_offset_that_is_gone_stops_its_partition() {
    let Some(brokers) = brokers() else { return };
    let (dir, prefix) = (tempfile::tempdir().unwrap(), prefix());
    let (input, output): (Topic, Topic) =
        (format!("{prefix}in").into(), format!("{prefix}out").into());
    let group = format!("{prefix}g");
    let log = open(dir.path(), config(&brokers));
    log.ensure_topics(&[deleted(&input, 2), deleted(&output, 1)])
        .unwrap();
    append(&*log, &input, 0, &["a", "b", "c"]);
    append(&*log, &input, 1, &["d"]);
    let mut member = join(&*log, &group, &input, 0, 1);
    assigned(&mut *member, 2);
    member.commit(&commit(&output, 0, 1, "x")).unwrap();
    drop(member);
    super::delete_before(&brokers, &input, 0, 2);

    let mut member = join(&*log, &group, &input, 0, 1);
    let (mut others, mut stopped) = (0, None);
    while others == 0 || stopped.is_none() {
        match next(&mut *member) {
            Polled::Assigned(assigned) => {
                assert_eq!(assigned.len(), 1);
                assert_eq!(
                    assigned[0].partition,
                    PartitionId(1),
                    "the other one goes on"
                );
            }
            Polled::Records(fetched) => others += fetched.len(),
            Polled::Stopped { partition, error } => {
                assert_eq!(
                    (partition, error.code()),
                    (PartitionId(0), "offset-out-of-range")
                );
                stopped = Some(error.to_string());
            }
            polled => panic!("{polled:?}"),
        }
    }
    assert!(stopped.unwrap().contains("offset 1"));
    member.seek(PartitionId(0), Offset(2)).unwrap();
    let Polled::Records(fetched) = next(&mut *member) else {
        panic!("it does not go on");
    };
    let first: &NewRecord = &record("key", "c");
    assert_eq!(fetched[0].records[0].value, first.value);
}
