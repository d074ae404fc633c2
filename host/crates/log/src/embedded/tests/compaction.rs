//! Compaction, through the writer and on disk.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use courtside_process::clock::now_ms;
use courtside_types::{NewRecord, Offset, PartitionId, Record, Topic};
use proptest::prelude::*;

use super::{cleaning::bounds, config, open};
use crate::{
    Commit, RecordLog,
    conformance::{append, assigned, compacted, join, read_all, record, values, wait},
    embedded::{Embedded, rows},
};

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
