//! Cases about appends and reads.

use std::sync::Arc;

use bytes::Bytes;
use courtside_types::{Header, NewRecord, Offset, PartitionId, Position};

use super::{Subject, kit::*};
use crate::{Bounds, COMMIT_EXTRA_BYTES, Commit, LogError};

pub fn records_are_read_as_appended(subject: &mut impl Subject) {
    let (log, a) = (subject.log(), subject.name("a"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    let new = [
        record("k", "v"),
        NewRecord {
            timestamp_ms: 1,
            key: None,
            headers: vec![],
            value: None,
        },
        NewRecord {
            timestamp_ms: 1_763_600_000_123,
            key: Some(Bytes::new()),
            headers: vec![
                Header::new("name", &b"\x00\xff"[..]),
                Header {
                    name: "name".into(),
                    value: None,
                },
                Header::new("", &b""[..]),
            ],
            value: Some(Bytes::new()),
        },
        record("long", &"x".repeat(700_000)),
    ];
    let records = new
        .iter()
        .map(|record| (PartitionId(0), record.clone()))
        .collect();
    wait(log.append(&a, records).unwrap());
    let read = read_all(&*log, &a, 0, 0);
    assert_eq!(read.len(), new.len());
    for (read, new) in read.into_iter().zip(new) {
        let read = NewRecord {
            timestamp_ms: read.timestamp_ms,
            key: read.key,
            headers: read.headers,
            value: read.value,
        };
        assert_eq!(read, new);
    }
}

pub fn positions_are_those_read_back(subject: &mut impl Subject) {
    let (log, a) = (subject.log(), subject.name("a"));
    log.ensure_topics(&[deleted(&a, 3)]).unwrap();
    assert!(wait(log.append(&a, vec![]).unwrap()).is_empty());
    for round in 0..3 {
        let values = (0..100).map(|n| format!("{round}/{n}"));
        let records: Vec<_> = values
            .enumerate()
            .map(|(n, v)| (PartitionId(n as u32 % 3), record("", &v)))
            .collect();
        let positions = wait(log.append(&a, records.clone()).unwrap());
        assert_eq!(positions.len(), records.len());
        for (position, (partition, new)) in positions.into_iter().zip(records) {
            let Position {
                topic,
                partition: at,
                offset,
            } = position.unwrap();
            assert_eq!((&topic, at), (&a, partition));
            let read = log.read(&a, partition, offset, 1).unwrap();
            assert_eq!((read[0].offset, &read[0].value), (offset, &new.value));
        }
    }
}

pub fn a_read_is_bounded_but_never_empty(subject: &mut impl Subject) {
    let (log, a) = (subject.log(), subject.name("a"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    append(&*log, &a, 0, &[&*"x".repeat(500); 20]);
    append(&*log, &a, 0, &[&"y".repeat(5000), "z"]);
    let read = |from, max_bytes| {
        let records = log
            .read(&a, PartitionId(0), Offset(from), max_bytes)
            .unwrap();
        records
            .iter()
            .map(|record| record.offset.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(read(0, 0), [0]);
    assert_eq!(read(3, 1200), [3, 4], "567 bytes each");
    assert_eq!(read(18, 1200), [18, 19]);
    assert_eq!(read(20, 1), [20]);
    assert_eq!(read(15, 1 << 20), (15..22).collect::<Vec<_>>());
    assert_eq!(read(22, 1000), [0; 0]);
    assert_eq!(read(1_000_000, 1000), [0; 0]);
}

pub fn the_latest_record_of_each_key_is_read_once(subject: &mut impl Subject) {
    let (log, a) = (subject.log(), subject.name("a"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    let mut new: Vec<_> = ["a", "b", "a", "c", "b", "a"]
        .into_iter()
        .enumerate()
        .map(|(n, key)| (PartitionId(0), record(key, &n.to_string())))
        .collect();
    new[3].1.key = None;
    wait(log.append(&a, new).unwrap());
    let bounds = log.bounds(&a).unwrap()[0];
    // An answer may end before the end of the partition.
    let read_from = |from: u64, max_bytes| {
        let (mut found, mut next, mut read) = (Vec::new(), Offset(from), 0);
        while next < bounds.end {
            let latest = log
                .read_latest(&a, PartitionId(0), next, bounds, max_bytes)
                .unwrap();
            assert!(latest.next > next);
            (next, read) = (latest.next, read + latest.read);
            found.extend(latest.records.iter().map(|record| record.offset.0));
        }
        (found, next, read)
    };
    let (found, next, read) = read_from(0, 1 << 20);
    assert!(found.ends_with(&[4, 5]) && found.is_sorted(), "{found:?}");
    assert_eq!((next, read), (bounds.end, 6));
    // A read that ends early, reads in steps, and reads that go back.
    let first = log.read(&a, PartitionId(0), Offset(0), 1).unwrap();
    assert_eq!(first.len(), 1);
    assert_eq!(read_from(1, 1), (vec![1, 2, 4, 5], bounds.end, 5));
    let (found, next, read) = read_from(2, 1 << 20);
    assert!(found.ends_with(&[4, 5]) && found.is_sorted(), "{found:?}");
    assert_eq!((next, read), (bounds.end, 4));
    let none = log
        .read_latest(&a, PartitionId(0), bounds.end, bounds, 1)
        .unwrap();
    assert_eq!(
        (none.records, none.next, none.read),
        (vec![], bounds.end, 0)
    );
}

pub fn appenders_keep_their_order(subject: &mut impl Subject) {
    let (log, a) = (subject.log(), subject.name("a"));
    log.ensure_topics(&[deleted(&a, 2)]).unwrap();
    std::thread::scope(|scope| {
        for appender in 0..8_u32 {
            let (log, a) = (Arc::clone(&log), a.clone());
            scope.spawn(move || {
                for n in 0..25 {
                    // Three records in each call, so that the positions of one call
                    // must follow each other.
                    let values = [0, 1, 2].map(|part| format!("{appender}:{:03}", n * 3 + part));
                    let values = values.each_ref().map(String::as_str);
                    let offsets = append(&*log, &a, appender % 2, &values);
                    assert!(offsets.is_sorted_by(|a, b| a < b));
                }
            });
        }
    });
    for partition in 0..2 {
        let records = read_all(&*log, &a, partition, 0);
        let offsets: Vec<_> = records.iter().map(|record| record.offset.0).collect();
        assert_eq!(offsets, (0..300).collect::<Vec<_>>());
        for appender in (0..8).filter(|appender| appender % 2 == partition) {
            let mine = format!("{appender}:");
            let order: Vec<_> = records
                .iter()
                .map(value)
                .filter(|v| v.starts_with(&mine))
                .collect();
            assert_eq!(order.len(), 75);
            assert!(order.is_sorted());
        }
    }
}

pub fn bounds_are_the_offsets_held(subject: &mut impl Subject) {
    let (log, a) = (subject.log(), subject.name("a"));
    log.ensure_topics(&[deleted(&a, 2)]).unwrap();
    append(&*log, &a, 1, &["x", "y"]);
    let bounds = |end| Bounds {
        start: Offset(0),
        end: Offset(end),
    };
    assert_eq!(log.bounds(&a).unwrap(), [bounds(0), bounds(2)]);
    subject.reopen();
    assert_eq!(subject.log().bounds(&a).unwrap(), [bounds(0), bounds(2)]);
}

pub fn everything_survives_reopening(subject: &mut impl Subject) {
    let (log, a, out) = (subject.log(), subject.name("a"), subject.name("out"));
    let group = subject.name("g");
    log.ensure_topics(&[deleted(&a, 2), compacted(&out, 1)])
        .unwrap();
    append(&*log, &a, 1, &["x", "y", "z"]);
    let mut member = join(&*log, &group, &a, 0, 1);
    assigned(&mut *member, 2);
    member
        .commit(&Commit {
            records: vec![(place(&out, 0), record("k", "result"))],
            checkpoints: vec![(PartitionId(1), "k".into(), Some("state".into()))],
            offsets: vec![(PartitionId(1), Offset(2))],
        })
        .unwrap();
    drop(member);
    drop(log);
    subject.reopen();

    let log = subject.log();
    assert_eq!(log.partitions(&a), Ok(2));
    assert_eq!(values(&*log, &a, 1, 0), ["x", "y", "z"]);
    assert_eq!(append(&*log, &a, 1, &["w"]), [3]);
    assert_eq!(values(&*log, &out, 0, 0), ["result"]);
    let mut member = join(&*log, &group, &a, 0, 1);
    assert_eq!(assigned(&mut *member, 2)[1].next(), Offset(2));
    assert_eq!(fetched(&mut *member, 2)[&1], ["z", "w"]);
    let checkpoints = log.checkpoints(&group).unwrap();
    assert_eq!(
        checkpoints.get(PartitionId(1), b"k").unwrap().unwrap(),
        "state"
    );
}

pub fn appends_and_commits_tick(subject: &mut impl Subject) {
    let (log, a, group) = (subject.log(), subject.name("a"), subject.name("g"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    let mut changes = log.changes();
    let tick = |changes: &mut tokio::sync::watch::Receiver<u64>| {
        wait(changes.changed()).unwrap();
        changes.mark_unchanged();
    };
    append(&*log, &a, 0, &["x"]);
    tick(&mut changes);
    let mut member = join(&*log, &group, &a, 0, 1);
    assigned(&mut *member, 1);
    changes.mark_unchanged();
    member.commit(&offsets(&[(0, 1)])).unwrap();
    tick(&mut changes);
}

pub fn too_large_a_record_is_refused(subject: &mut impl Subject) {
    let (log, a) = (subject.log(), subject.name("a"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    let large = record("k", &"x".repeat(1 << 20));
    let records = vec![
        (PartitionId(0), record("k", "small")),
        (PartitionId(0), large.clone()),
    ];
    let error = log.append(&a, records).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), "record-too-large");
    assert_eq!(values(&*log, &a, 0, 0), [""; 0], "all or none");
    let mut member = join(&*log, &subject.name("g"), &a, 0, 1);
    assigned(&mut *member, 1);
    // A dead letter holds its event and the reason, and a commit has room for both.
    let larger = "x".repeat((1 << 20) - 512 + COMMIT_EXTRA_BYTES);
    let records = vec![(place(&a, 0), record("k", &larger))];
    member
        .commit(&Commit {
            records,
            ..offsets(&[(0, 0)])
        })
        .unwrap();
    let too_large = "x".repeat((1 << 20) + COMMIT_EXTRA_BYTES);
    let records = vec![(place(&a, 0), record("k", &too_large))];
    let error = member
        .commit(&Commit {
            records,
            ..offsets(&[(0, 0)])
        })
        .unwrap_err();
    assert_eq!(error.code(), "record-too-large");
}

pub fn a_full_queue_is_busy(subject: &mut impl Subject) {
    let (log, a) = (subject.log(), subject.name("a"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    let large = vec![(PartitionId(0), record("k", &"x".repeat(600_000)))];
    let mut taken = Vec::new();
    // For a while, the log may write as fast as this loop fills its queue.
    let busy = (0..10_000).find_map(|_| match log.append(&a, large.clone()) {
        Ok(future) => {
            taken.push(future);
            None
        }
        Err(error) => Some(error),
    });
    assert_eq!(busy, Some(LogError::Busy));
    let count = taken.len();
    for future in taken {
        wait(future)
            .into_iter()
            .for_each(|position| drop(position.unwrap()));
    }
    // The log has all records that its queue took, and the queue has room again.
    assert_eq!(append(&*log, &a, 0, &["x"]), [count as u64]);
}

pub fn a_closed_log_is_unavailable(subject: &mut impl Subject) {
    let (log, a) = (subject.log(), subject.name("a"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    let append = log
        .append(&a, vec![(PartitionId(0), record("k", "queued"))])
        .unwrap();
    log.close();
    assert!(wait(append)[0].is_ok(), "what was queued is finished");
    let code = |error: LogError| error.code();
    let again = log.append(&a, vec![(PartitionId(0), record("k", "late"))]);
    assert_eq!(again.map(|_| ()).map_err(code), Err("log-unavailable"));
    let read = log.read(&a, PartitionId(0), Offset(0), 1);
    assert_eq!(read.map_err(code), Err("log-unavailable"));
    log.close();
    subject.reopen();
    assert_eq!(values(&*subject.log(), &a, 0, 0), ["queued"]);
}
