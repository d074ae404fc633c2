//! Retention, through the writer and on disk.

use std::time::Duration;

use courtside_process::clock::now_ms;
use courtside_types::{NewRecord, Offset, PartitionId, Topic};

use super::{config, open};
use crate::{
    Cleanup, Commit, RecordLog, TopicSpec,
    conformance::{append, assigned, deleted, join, read_all, record, values, wait},
    embedded::{
        Embedded,
        batch::{Batch, Head},
        read::Batches,
        write::{Clean, Request},
    },
};

fn retained(name: &Topic, retention: Option<Duration>, retention_bytes: Option<u64>) -> TopicSpec {
    TopicSpec {
        cleanup: Cleanup::Delete {
            retention,
            retention_bytes,
        },
        ..deleted(name, 1)
    }
}

fn append_at(log: &dyn RecordLog, topic: &Topic, timestamp_ms: u64, value: &str) {
    let record = NewRecord {
        timestamp_ms,
        ..record("key", value)
    };
    wait(log.append(topic, vec![(PartitionId(0), record)]).unwrap());
}

pub(super) fn bounds(log: &dyn RecordLog, topic: &Topic) -> (u64, u64) {
    let bounds = log.bounds(topic).unwrap()[0];
    (bounds.start.0, bounds.end.0)
}

#[test]
fn records_older_than_the_retention_go() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let topic = "a".into();
    let hour = Duration::from_secs(3600);
    log.ensure_topics(&[retained(&topic, Some(hour), None)])
        .unwrap();
    let now = now_ms();
    append_at(&*log, &topic, now - 7_300_000, "old");
    append_at(&*log, &topic, now - 7_200_000, "old too");
    append_at(&*log, &topic, now - 1_800_000, "young");
    append_at(&*log, &topic, now - 7_200_000, "old behind a young one");
    log.clean_now().unwrap();
    assert_eq!(bounds(&*log, &topic), (2, 4));
    let left = ["young", "old behind a young one"];
    assert_eq!(values(&*log, &topic, 0, 0), left);
    log.close();
    let log = open(dir.path());
    assert_eq!(bounds(&*log, &topic), (2, 4));
    assert_eq!(values(&*log, &topic, 0, 0), left);

    // Retention may drop all records, and the offsets go on from there.
    log.ensure_topics(&[retained(&topic, Some(Duration::from_secs(60)), None)])
        .unwrap();
    log.clean_now().unwrap();
    assert_eq!(bounds(&*log, &topic), (4, 4));
    log.close();
    let log = open(dir.path());
    assert_eq!(append(&*log, &topic, 0, &["new"]), [4]);
    assert_eq!(values(&*log, &topic, 0, 0), ["new"]);
}

/// The latest times of the batches of a topic's only partition.
fn latest_times(log: &Embedded, topic: &Topic) -> Vec<u64> {
    let topic = log.shared.topics.read().get(topic).unwrap();
    let store = log.shared.store().unwrap();
    let row = topic.row(0);
    Batches::from_within(&store, (topic.id, 0), row.start, row.end)
        .map(|batch| Head::parse(&batch.unwrap().1).unwrap().timestamp_ms_max)
        .collect()
}

/// Rewrites the batches of a topic's only partition as if the host's clock had been
/// ahead.
fn append_by_a_clock_ahead(log: &Embedded, topic: &Topic, time_ms: u64) {
    let topic = log.shared.topics.read().get(topic).unwrap();
    let row = topic.row(0);
    let batches: Vec<_> = {
        let store = log.shared.store().unwrap();
        Batches::from_within(&store, (topic.id, 0), row.start, row.end)
            .map(Result::unwrap)
            .collect()
    };
    log.shared
        .ask(|reply| {
            Request::Clean(Box::new(Clean {
                topic: std::sync::Arc::clone(&topic),
                partition: 0,
                remove: batches.iter().map(|(base, _)| *base).collect(),
                removed_bytes: row.bytes,
                insert: batches
                    .iter()
                    .map(|(base, value)| (*base, Batch::restamped(value, time_ms).unwrap()))
                    .collect(),
                start: None,
                cleaned: None,
                reply,
            }))
        })
        .unwrap();
}

/// A record's own time does not alone decide its age.
#[test]
fn a_record_of_the_future_is_no_younger_than_its_append() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let topic: Topic = "a".into();
    let hour = Duration::from_secs(3600);
    log.ensure_topics(&[retained(&topic, Some(hour), None)])
        .unwrap();
    let before = now_ms();
    let old = before - 7_200_000;
    let times = [
        old,
        before + 7_200_000,
        before * 1000,
        u64::MAX,
        old,
        before,
    ];
    for time in times {
        append_at(&*log, &topic, time, "x");
    }
    let latest = latest_times(&log, &topic);
    assert_eq!((latest[0], latest[4], latest[5]), (old, old, before));
    for bounded in &latest[1..4] {
        assert!((before..=now_ms()).contains(bounded), "{bounded}");
    }
    // The records keep their own times.
    let read = read_all(&*log, &topic, 0, 0);
    let read: Vec<_> = read.iter().map(|record| record.timestamp_ms).collect();
    assert_eq!(read, times);
    log.clean_now().unwrap();
    assert_eq!(bounds(&*log, &topic), (1, 6));

    // Once the retention is over, they go with the others.
    log.ensure_topics(&[retained(&topic, Some(Duration::ZERO), None)])
        .unwrap();
    std::thread::sleep(Duration::from_millis(2));
    log.clean_now().unwrap();
    assert_eq!(bounds(&*log, &topic), (6, 6));
}

/// A clock that was years ahead, and was set right.
#[test]
fn batches_from_after_now_age_from_when_that_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let topic: Topic = "a".into();
    let hour = Duration::from_secs(3600);
    log.ensure_topics(&[retained(&topic, Some(hour), None)])
        .unwrap();
    for value in ["0", "1", "2"] {
        append_at(&*log, &topic, now_ms(), value);
    }
    append_by_a_clock_ahead(&log, &topic, now_ms() + 10 * 365 * 86_400_000);
    let old = now_ms() - 7_200_000;
    append_at(&*log, &topic, old, "old");
    let before = now_ms();
    log.clean_now().unwrap();
    assert_eq!(bounds(&*log, &topic), (0, 4), "they are as young as can be");
    let latest = latest_times(&log, &topic);
    assert_eq!(latest[3], old);
    for restamped in &latest[..3] {
        assert!((before..=now_ms()).contains(restamped), "{restamped}");
    }
    assert_eq!(values(&*log, &topic, 0, 0), ["0", "1", "2", "old"]);
    log.ensure_topics(&[retained(&topic, Some(Duration::ZERO), None)])
        .unwrap();
    std::thread::sleep(Duration::from_millis(2));
    log.clean_now().unwrap();
    assert_eq!(bounds(&*log, &topic), (4, 4));
}

#[test]
fn records_beyond_the_bytes_to_retain_go() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let topic: Topic = "a".into();
    log.ensure_topics(&[retained(&topic, None, Some(10_000))])
        .unwrap();
    for n in 0..1500 {
        append(&*log, &topic, 0, &[&format!("{n:0100}")]);
    }
    log.clean_now().unwrap();
    let (start, end) = bounds(&*log, &topic);
    assert_eq!(end, 1500);
    // A batch of one such record takes about 160 bytes.
    assert!((1420..1450).contains(&start), "{start}");
    let left = read_all(&*log, &topic, 0, 0);
    assert_eq!(left.first().map(|record| record.offset.0), Some(start));
    assert_eq!(left.len() as u64, end - start);
    let row = log.shared.topics.read().get(&topic).unwrap().row(0);
    assert!((10_000..10_200).contains(&row.bytes), "{}", row.bytes);
}

#[test]
fn what_a_group_has_not_committed_stays() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let topic = "a".into();
    log.ensure_topics(&[retained(&topic, Some(Duration::from_secs(1)), None)])
        .unwrap();
    for value in ["0", "1", "2", "3"] {
        append(&*log, &topic, 0, &[value]);
    }
    let mut member = join(&*log, "g", &topic, 0, 1);
    assigned(&mut *member, 1);
    log.clean_now().unwrap();
    assert_eq!(bounds(&*log, &topic), (0, 4), "it has committed nothing");
    let offsets = vec![(PartitionId(0), Offset(2))];
    member
        .commit(&Commit {
            offsets,
            ..Commit::default()
        })
        .unwrap();
    log.clean_now().unwrap();
    assert_eq!(bounds(&*log, &topic), (2, 4));
    drop(member);
    log.close();
    let log = open(dir.path());
    log.clean_now().unwrap();
    assert_eq!(
        bounds(&*log, &topic),
        (2, 4),
        "it is away, and may come back"
    );
    let mut member = join(&*log, "g", &topic, 0, 1);
    assert_eq!(assigned(&mut *member, 1)[0].next(), Offset(2));
    drop(member);
    log.close();

    let mut config = config();
    config.group_retention = Duration::ZERO;
    let log = Embedded::open(dir.path(), config).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    log.clean_now().unwrap();
    assert_eq!(bounds(&*log, &topic), (4, 4), "it is long gone");
}

#[test]
fn the_thread_cleans_on_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config.cleanup_interval = Duration::from_millis(10);
    let log = Embedded::open(dir.path(), config).unwrap();
    let topic = "a".into();
    log.ensure_topics(&[retained(&topic, Some(Duration::from_secs(1)), None)])
        .unwrap();
    append(&*log, &topic, 0, &["old"]);
    while bounds(&*log, &topic) != (1, 1) {
        std::thread::sleep(Duration::from_millis(5));
    }
}
