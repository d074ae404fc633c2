//! Topics that are not as a pipeline needs them, each difference on real brokers.

use std::{sync::Barrier, thread, time::Duration};

use courtside_types::Topic;

use super::{brokers, config, limits, prefix};
use crate::{
    LogError, RecordLog as _, TopicSpec,
    admin::{Admin as _, NewTopic, TopicChange},
    conformance::{append, compacted, deleted},
    kafka::{Kafka, KafkaConfig, times::Bounds},
    reset::{self, Target},
};

fn settings(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn beside(config: KafkaConfig) -> std::sync::Arc<Kafka> {
    Kafka::beside(config, &limits()).unwrap()
}

/// Creates a topic with settings, and returns the error of a host that needs it otherwise.
fn refused(
    config: KafkaConfig,
    pairs: &[(&str, &str)],
    needs: impl Fn(&Topic) -> TopicSpec,
) -> LogError {
    let log = beside(config);
    let topic = Topic::from(format!("{}a", prefix()));
    let new = NewTopic {
        name: topic.clone(),
        partitions: Some(2),
        replicas: Some(1),
        settings: settings(pairs),
        ..NewTopic::default()
    };
    log.create_topic(&new).unwrap();
    log.ensure_topics(&[needs(&topic)]).unwrap_err()
}

#[test]
fn each_difference_is_refused_and_says_what_to_do() {
    let Some(brokers) = brokers() else { return };
    let larger = "2000000";
    let refusals = [
        (
            "partitions",
            refused(config(&brokers), &[("max.message.bytes", larger)], |a| {
                deleted(a, 3)
            }),
            ["2", "3", "`partitions`"],
        ),
        (
            "replicas",
            refused(
                KafkaConfig {
                    replication_factor: 2,
                    ..config(&brokers)
                },
                &[("max.message.bytes", larger)],
                |a| deleted(a, 2),
            ),
            ["1", "2", "kafka.replication_factor"],
        ),
        (
            "cleanup.policy",
            refused(config(&brokers), &[("max.message.bytes", larger)], |a| {
                compacted(a, 2)
            }),
            ["delete", "compact", "keep = \"all\""],
        ),
        (
            "cleanup.policy",
            refused(
                config(&brokers),
                &[
                    ("max.message.bytes", larger),
                    ("cleanup.policy", "compact,delete"),
                ],
                |a| deleted(a, 2),
            ),
            [
                "compact,delete",
                "-c cleanup.policy=delete -c retention.ms=-1 -c retention.bytes=-1",
                "keep = \"latest\"",
            ],
        ),
        (
            "min.insync.replicas",
            refused(
                KafkaConfig {
                    min_insync_replicas: 1,
                    ..config(&brokers)
                },
                &[("max.message.bytes", larger), ("min.insync.replicas", "2")],
                |a| deleted(a, 2),
            ),
            ["2", "1", "-c min.insync.replicas=1"],
        ),
        (
            "max.message.bytes",
            refused(config(&brokers), &[("max.message.bytes", "1000000")], |a| {
                deleted(a, 2)
            }),
            ["1000000", "1130496", "-c max.message.bytes=1130496"],
        ),
    ];
    for (what, error, words) in refusals {
        assert_eq!(error.code(), "topic-mismatch", "{what}: {error}");
        for word in words.into_iter().chain([what]) {
            assert!(error.to_string().contains(word), "{what}: {error}");
        }
    }
}

#[test]
fn what_is_larger_than_needed_is_taken() {
    let Some(brokers) = brokers() else { return };
    let log = beside(config(&brokers));
    let topic = Topic::from(format!("{}a", prefix()));
    let new = NewTopic {
        name: topic.clone(),
        partitions: Some(1),
        settings: settings(&[
            ("max.message.bytes", "2000000"),
            ("retention.ms", "1000000"),
        ]),
        ..NewTopic::default()
    };
    log.create_topic(&new).unwrap();
    log.ensure_topics(&[deleted(&topic, 1)]).unwrap();
    let change = TopicChange {
        set: settings(&[("max.message.bytes", "1000000")]),
        needs: Some(deleted(&topic, 1)),
        ..TopicChange::default()
    };
    let error = log.alter_topic(&topic, &change).unwrap_err();
    assert_eq!(error.code(), "topic-mismatch");
}

/// The brokers' own bound ahead stays for a stream, whose retention counts from records'
/// times.
#[test]
fn topics_that_a_host_creates_take_records_of_any_age() {
    let Some(brokers) = brokers() else { return };
    let log = beside(config(&brokers));
    let [stream, table] = ["a", "b"].map(|name| Topic::from(format!("{}{name}", prefix())));
    log.ensure_topics(&[deleted(&stream, 1), compacted(&table, 1)])
        .unwrap();
    let bounds = |topic| log.shared.topics.time_bounds(topic).unwrap();
    let any = i64::MAX as u64;
    let (stream, table) = (bounds(&stream), bounds(&table));
    assert_eq!((table.before_ms, table.after_ms), (any, any));
    assert_eq!(stream.before_ms, any);
    assert!(stream.after_ms < any);
}

/// By this host's clock the times are within the topic's bounds, by the brokers' they
/// are not.
#[test]
fn a_record_gets_no_time_where_the_clocks_differ() {
    use courtside_types::{NewRecord, Offset, PartitionId, TopicPartition};

    use crate::{
        Commit,
        conformance::{assigned, join, read_all, record},
    };
    let Some(brokers) = brokers() else { return };
    let log = beside(config(&brokers));
    let prefix = prefix();
    let [input, output] = ["in", "out"].map(|name| Topic::from(format!("{prefix}{name}")));
    log.ensure_topics(&[deleted(&input, 1), deleted(&output, 1)])
        .unwrap();
    append(&*log, &input, 0, &["a"; 2]);
    let wide = Bounds {
        before_ms: i64::MAX as u64,
        after_ms: i64::MAX as u64,
    };
    let times = &log.shared.times;
    assert!(times.refused(&times.rules(), &output, || Some(wide)));
    let mut member = join(&*log, &format!("{prefix}g"), &input, 0, 1);
    assigned(&mut *member, 1);
    let ahead = courtside_process::clock::now_ms() + 7_200_000;
    for next in [1, 2] {
        let place = TopicPartition {
            topic: output.clone(),
            partition: PartitionId(0),
        };
        let new = NewRecord {
            timestamp_ms: ahead,
            ..record("k", "x")
        };
        let commit = Commit {
            records: vec![(place, new)],
            checkpoints: vec![(PartitionId(0), "k".into(), Some("state".into()))],
            offsets: vec![(PartitionId(0), Offset(next))],
        };
        member.commit(&commit).unwrap();
    }
    let read = read_all(&*log, &output, 0, 0);
    assert_eq!(read.len(), 2);
    for record in read {
        assert_eq!(record.timestamp_ms, 0);
        let own = record.header(courtside_types::EVENT_TIME_HEADER).unwrap();
        assert_eq!(own.as_ref(), ahead.to_string().as_bytes());
    }
}

#[test]
fn more_replicas_than_brokers_are_named() {
    let Some(brokers) = brokers() else { return };
    let log = beside(KafkaConfig {
        replication_factor: 99,
        ..config(&brokers)
    });
    let topic = Topic::from(format!("{}a", prefix()));
    let error = log.ensure_topics(&[deleted(&topic, 1)]).unwrap_err();
    assert_eq!(error.code(), "log-invalid");
    for word in [
        &*topic,
        "99 replicas",
        "kafka.replication_factor",
        "brokers",
    ] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

/// Hosts that start at once find each other's topics, or make them.
#[test]
fn hosts_that_start_at_once_agree() {
    const HOSTS: usize = 4;
    let Some(brokers) = brokers() else { return };
    let prefix = prefix();
    let names: Vec<Topic> = (0..4).map(|one| format!("{prefix}{one}").into()).collect();
    let specs: Vec<_> = names
        .iter()
        .zip([deleted, compacted, deleted, compacted])
        .map(|(name, spec)| spec(name, 3))
        .collect();
    let barrier = Barrier::new(HOSTS);
    thread::scope(|scope| {
        let hosts: Vec<_> = (0..HOSTS)
            .map(|_| {
                scope.spawn(|| {
                    let log = beside(config(&brokers));
                    barrier.wait();
                    log.ensure_topics(&specs)?;
                    let counts: Vec<_> = names.iter().map(|name| log.partitions(name)).collect();
                    counts.into_iter().collect::<Result<Vec<_>, _>>()
                })
            })
            .collect();
        for host in hosts {
            assert_eq!(host.join().unwrap(), Ok(vec![3; 4]));
        }
    });
}

/// A host starts while a reset of many checkpoints holds the group: either the host
/// waits, or it finds the group as it was or as it should be.
#[test]
fn a_reset_and_a_host_that_starts_do_not_mix() {
    use courtside_types::{Offset, PartitionId};

    use crate::{
        Commit,
        conformance::{assigned, join},
    };
    const KEYS: usize = 20_000;
    let Some(brokers) = brokers() else { return };
    let prefix = prefix();
    let input = Topic::from(format!("{prefix}in"));
    let group = format!("{prefix}g");
    let dynamic = KafkaConfig {
        static_membership: false,
        ..config(&brokers)
    };
    let log = beside(dynamic.clone());
    log.ensure_topics(&[deleted(&input, 1)]).unwrap();
    append(&*log, &input, 0, &["a"]);
    let mut member = join(&*log, &group, &input, 0, 1);
    assigned(&mut *member, 1);
    let keys = (0..KEYS).map(|key| format!("key-{key}"));
    let state = |key: String| (PartitionId(0), key.into(), Some("state".into()));
    let commit = Commit {
        records: Vec::new(),
        checkpoints: keys.map(state).collect(),
        offsets: vec![(PartitionId(0), Offset(1))],
    };
    member.commit(&commit).unwrap();
    drop(member);
    let plan = reset::plan(&*log, &group, &input, &[], Target::Earliest).unwrap();
    let host = beside(dynamic);
    let (reset, next, left) = thread::scope(|scope| {
        let reset = scope.spawn(|| {
            reset::apply(
                &*log,
                reset::member(&group, &input, Vec::new()),
                &plan,
                |_| reset::Also::default(),
            )
        });
        thread::sleep(Duration::from_millis(50));
        let mut member = join(&*host, &group, &input, 0, 1);
        // A reset that has the partition gives it up or ends.
        let all = assigned(&mut *member, 1);
        let reset = reset.join().unwrap();
        let checkpoints = host.checkpoints(&group).unwrap();
        let left = checkpoints.scan(PartitionId(0), None, KEYS + 1).unwrap();
        (reset, all[0].next(), left.len())
    });
    match reset {
        Ok(moved) => {
            assert_eq!(moved[0].checkpoints, KEYS);
            assert_eq!((next, left), (Offset(0), 0));
        }
        Err(error) => {
            assert!(
                ["group-not-empty", "fenced"].contains(&error.code()),
                "{error}"
            );
            assert_eq!((next, left), (Offset(1), KEYS));
        }
    }
}
