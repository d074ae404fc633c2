//! Retention and compaction, through the writer and on disk.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use courtside_process::clock::now_ms;
use courtside_types::{NewRecord, Offset, PartitionId, Record, Topic};
use proptest::prelude::*;

use super::{config, open};
use crate::{
    Cleanup, Commit, RecordLog, TopicSpec,
    conformance::{append, assigned, compacted, deleted, join, read_all, record, values, wait},
    embedded::{
        Embedded,
        batch::{Batch, Head},
        read::Batches,
        rows,
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

fn bounds(log: &dyn RecordLog, topic: &Topic) -> (u64, u64) {
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

/// Commits offset `next` of partition 0.
fn commit(member: &mut dyn crate::Member, next: u64) {
    let offsets = vec![(PartitionId(0), Offset(next))];
    let commit = Commit {
        offsets,
        ..Commit::default()
    };
    member.commit(&commit).unwrap();
}

#[test]
fn compaction_waits_for_the_groups_that_read_the_topic() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let topic = "a".into();
    log.ensure_topics(&[compacted(&topic, 1)]).unwrap();
    // One batch of three records, two of one record, and one of two.
    for values in [&["0", "1", "2"][..], &["3"], &["4"], &["5", "6"]] {
        append(&*log, &topic, 0, values);
    }
    let all = ["0", "1", "2", "3", "4", "5", "6"];
    let mut member = join(&*log, "g", &topic, 0, 1);
    let mut other = join(&*log, "h", &topic, 0, 1);
    assigned(&mut *member, 1);
    assigned(&mut *other, 1);
    let mut left_at = |member_at, other_at| {
        commit(&mut *member, member_at);
        commit(&mut *other, other_at);
        log.clean_now().unwrap();
        values(&*log, &topic, 0, 0)
    };
    assert_eq!(left_at(0, 7), all, "one has read nothing");
    assert_eq!(left_at(2, 7), all, "one is in the midst of the first batch");
    assert_eq!(left_at(3, 4), all[2..], "of the first batch the last stays");
    assert_eq!(left_at(6, 5), all[4..], "the slowest counts");
    assert_eq!(left_at(6, 7), all[4..], "one is in the midst of the last");
    assert_eq!(left_at(7, 7), all[6..]);
    drop((member, other));
    append(&*log, &topic, 0, &["7", "8"]);
    log.close();
    let log = open(dir.path());
    log.clean_now().unwrap();
    assert_eq!(
        values(&*log, &topic, 0, 0),
        ["6", "7", "8"],
        "both are away"
    );
    log.close();
    let mut config = config();
    config.group_retention = Duration::ZERO;
    let log = Embedded::open(dir.path(), config).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    log.clean_now().unwrap();
    assert_eq!(values(&*log, &topic, 0, 0), ["8"], "both are long gone");
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

fn tombstone(key: &str, timestamp_ms: u64) -> NewRecord {
    NewRecord {
        timestamp_ms,
        value: None,
        ..record(key, "")
    }
}

fn append_all(log: &dyn RecordLog, topic: &Topic, records: Vec<NewRecord>) {
    let records = records
        .into_iter()
        .map(|record| (PartitionId(0), record))
        .collect();
    for position in wait(log.append(topic, records).unwrap()) {
        position.unwrap();
    }
}

#[test]
fn tombstones_go_after_their_retention_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let topic = "a".into();
    log.ensure_topics(&[compacted(&topic, 1)]).unwrap();
    let now = now_ms();
    append_all(
        &*log,
        &topic,
        vec![
            record("young", "x"),
            record("old", "x"),
            record("stays", "x"),
            tombstone("young", now - 60_000),
            tombstone("old", now - 7_200_000),
            NewRecord {
                key: None,
                ..record("", "no key")
            },
        ],
    );
    log.clean_now().unwrap();
    let left: Vec<_> = read_all(&*log, &topic, 0, 0)
        .into_iter()
        .map(|record| (record.offset.0, record.value.is_some()))
        .collect();
    assert_eq!(left, [(2, true), (3, false)]);
    assert_eq!(bounds(&*log, &topic), (0, 6));
    // A group that reads into the gap at the end goes on with the next record.
    let mut member = join(&*log, "g", &topic, 0, 1);
    assigned(&mut *member, 1);
    append(&*log, &topic, 0, &["x"]);
    let mut offsets = Vec::new();
    while offsets.last() != Some(&6) {
        if let crate::Polled::Records(fetched) = member.poll(Duration::ZERO, 1).unwrap() {
            offsets.extend(fetched[0].records.iter().map(|record| record.offset.0));
        }
    }
    assert_eq!(offsets, [2, 3, 6]);
}

#[test]
fn a_cleaned_partition_is_smaller_and_merged() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let topic: Topic = "a".into();
    log.ensure_topics(&[compacted(&topic, 1)]).unwrap();
    for round in 0..200 {
        let records = (0..10).map(|key| record(&key.to_string(), &format!("{round}:{key}")));
        append_all(&*log, &topic, records.collect());
    }
    let row = || log.shared.topics.read().get(&topic).unwrap().row(0);
    let before = row();
    log.clean_now().unwrap();
    let after = row();
    assert!(
        after.bytes * 50 < before.bytes,
        "{} of {}",
        after.bytes,
        before.bytes
    );
    assert_eq!((after.cleaned, after.dirty_bytes), (2000, 0));
    let expected: Vec<_> = (0..10).map(|key| format!("199:{key}")).collect();
    assert_eq!(values(&*log, &topic, 0, 0), expected);
    let store = log.shared.store().unwrap();
    let batches = store.records.range(rows::record_key(0, 0, 0)..).count();
    assert_eq!(batches, 1, "what was left is one batch");
    drop(store);
    // Without new records, another cleaning does not touch the partition.
    log.clean_now().unwrap();
    assert_eq!(row(), after);
}

#[test]
fn keys_beyond_what_a_round_holds_take_more_rounds() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config.compaction_keys_max = 7;
    let log = Embedded::open(dir.path(), config).unwrap();
    let topic = "a".into();
    log.ensure_topics(&[compacted(&topic, 1)]).unwrap();
    for round in 0..3 {
        for key in 0..50 {
            append_all(
                &*log,
                &topic,
                vec![record(&key.to_string(), &round.to_string())],
            );
        }
    }
    log.clean_now().unwrap();
    let left = read_all(&*log, &topic, 0, 0);
    let offsets: Vec<_> = left.iter().map(|record| record.offset.0).collect();
    assert_eq!(offsets, (100..150).collect::<Vec<_>>());
}

/// An operation of the test on a compacted topic.
#[derive(Clone, Debug)]
enum Op {
    /// Keys of records with the lengths of their values; `None` is a tombstone.
    Append(Vec<(u8, Option<usize>)>),
    Clean,
    /// Flushes memory to tables and blob files, and compacts these.
    Flush,
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let value = prop_oneof![
        1 => Just(None),
        6 => (0..200_usize).prop_map(Some),
        1 => (30_000..90_000_usize).prop_map(Some),
    ];
    let records = prop::collection::vec((0..12_u8, value), 1..8);
    prop_oneof![
        12 => records.prop_map(Op::Append),
        3 => Just(Op::Clean),
        1 => Just(Op::Flush),
        1 => Just(Op::Reopen),
    ]
}

fn latest(records: &[Record]) -> BTreeMap<Bytes, Record> {
    let keyed = records
        .iter()
        .map(|record| (record.key.clone().unwrap(), record.clone()));
    keyed.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn compaction_keeps_the_latest_of_each_key(
        ops in prop::collection::vec(op(), 1..60), keys_max in 1..20_usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config();
        config.compaction_keys_max = keys_max;
        let mut log = Embedded::open(dir.path(), config.clone()).unwrap();
        let topic = "a".into();
        log.ensure_topics(&[compacted(&topic, 1)]).unwrap();
        let mut written: Vec<Record> = Vec::new();
        for op in ops.into_iter().chain([Op::Clean]) {
            match op {
                Op::Append(records) => {
                    let records = records.into_iter().map(|(key, len)| NewRecord {
                        timestamp_ms: now_ms(),
                        key: Some(Bytes::from(vec![key])),
                        headers: vec![],
                        value: len.map(|len| Bytes::from(vec![written.len() as u8 ^ key; len])),
                    });
                    let records: Vec<_> = records.collect();
                    for record in records.clone() {
                        written.push(Record {
                            offset: Offset(written.len() as u64),
                            timestamp_ms: record.timestamp_ms,
                            key: record.key,
                            headers: record.headers,
                            value: record.value,
                        });
                    }
                    append_all(&*log, &topic, records);
                }
                Op::Clean => {
                    log.clean_now().unwrap();
                    // After cleaning to the end, only each key's latest record is left.
                    let read = read_all(&*log, &topic, 0, 0);
                    let mut expected: Vec<_> = latest(&written).into_values().collect();
                    expected.sort_by_key(|record| record.offset);
                    prop_assert_eq!(&read, &expected);
                }
                Op::Flush => {
                    let store = log.shared.store().unwrap();
                    store.records.rotate_memtable_and_wait().unwrap();
                    store.records.major_compact().unwrap();
                }
                Op::Reopen => {
                    log.close();
                    log = Embedded::open(dir.path(), config.clone()).unwrap();
                }
            }
            let read = read_all(&*log, &topic, 0, 0);
            prop_assert_eq!(latest(&read), latest(&written));
            for record in &read {
                prop_assert_eq!(record, &written[record.offset.0 as usize]);
            }
            prop_assert_eq!(bounds(&*log, &topic), (0, written.len() as u64));
            let from = written.len() as u64 / 2;
            let tail: Vec<_> = read.iter().filter(|r| r.offset.0 >= from).cloned().collect();
            prop_assert_eq!(read_all(&*log, &topic, 0, from), tail);
        }
        let shared = &log.shared;
        let row = shared.topics.read().get("a").unwrap().row(0);
        let store = shared.store().unwrap();
        let stored: u64 = store.records.range(rows::record_key(0, 0, 0)..).map(|row| {
            let (key, value) = row.into_inner().unwrap();
            (key.len() + value.len()) as u64
        }).sum();
        prop_assert_eq!(row.bytes, stored);
    }
}

#[test]
fn readers_and_appends_go_on_while_cleaning() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let topic: Topic = "a".into();
    log.ensure_topics(&[compacted(&topic, 1)]).unwrap();
    let pad = "x".repeat(2000);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..60 {
                let records =
                    (0..50).map(|key| record(&key.to_string(), &format!("{round} {pad}")));
                append_all(&*log, &topic, records.collect());
            }
        });
        while !writer.is_finished() {
            log.clean_now().unwrap();
            // At every moment, a read from the start finds each key's latest.
            let end = bounds(&*log, &topic).1;
            let read = read_all(&*log, &topic, 0, 0);
            assert!(read.is_sorted_by(|a, b| a.offset < b.offset));
            let latest = latest(&read);
            assert!(latest.len() as u64 >= end.min(50));
            for (offset, record) in latest.into_values().map(|record| (record.offset.0, record)) {
                assert!(offset + 50 >= end, "{offset} of {end} is superseded");
                assert!(
                    record
                        .value
                        .unwrap()
                        .starts_with((offset / 50).to_string().as_bytes())
                );
            }
        }
    });
}
