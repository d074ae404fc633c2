//! Cases about commits and checkpoints.

use bytes::Bytes;
use courtside_types::{NewRecord, Offset, PartitionId, TopicPartition};

use super::{Subject, kit::*};
use crate::{Commit, KEY_BYTES_MAX, RecordLog};

pub fn a_commit_is_all_of_it(subject: &mut impl Subject) {
    let (log, a, group) = (subject.log(), subject.name("a"), subject.name("g"));
    let (out, dead) = (subject.name("out"), subject.name("g.dead-letter"));
    log.ensure_topics(&[deleted(&a, 1), compacted(&out, 2), deleted(&dead, 1)])
        .unwrap();
    append(&*log, &a, 0, &["1", "2"]);
    let mut member = join(&*log, &group, &a, 0, 1);
    assigned(&mut *member, 1);
    fetched(&mut *member, 2);
    member.commit(&Commit::default()).unwrap();
    member
        .commit(&Commit {
            records: vec![
                (place(&out, 1), record("k", "first")),
                (place(&dead, 0), record("k", "refused")),
                (place(&out, 0), record("l", "second")),
                (place(&out, 1), record("m", "third")),
            ],
            checkpoints: vec![
                (PartitionId(0), "k".into(), Some("state k".into())),
                (PartitionId(0), "l".into(), Some("state l".into())),
            ],
            offsets: vec![(PartitionId(0), Offset(2))],
        })
        .unwrap();
    for _ in 0..2 {
        let log = subject.log();
        assert_eq!(values(&*log, &out, 0, 0), ["second"]);
        assert_eq!(values(&*log, &out, 1, 0), ["first", "third"]);
        assert_eq!(values(&*log, &dead, 0, 0), ["refused"]);
        assert_eq!(committed(&*log, &group, &a), [(0, 2)]);
        let mut member = join(&*log, &group, &a, 0, 1);
        assigned(&mut *member, 1);
        let found = log
            .checkpoints(&group)
            .unwrap()
            .scan(PartitionId(0), None, 10)
            .unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(key, state)| (&key[..], &state[..]))
            .collect();
        assert_eq!(found, [(&b"k"[..], &b"state k"[..]), (b"l", b"state l")]);
        drop(member);
        drop(log);
        subject.reopen();
    }
}

pub fn a_refused_commit_is_none_of_it(subject: &mut impl Subject) {
    let (log, a, group) = (subject.log(), subject.name("a"), subject.name("g"));
    let (out, none) = (subject.name("out"), subject.name("none"));
    log.ensure_topics(&[deleted(&a, 1), compacted(&out, 1)])
        .unwrap();
    append(&*log, &a, 0, &["1"]);
    let mut member = join(&*log, &group, &a, 0, 1);
    assigned(&mut *member, 1);
    let commit = |second: TopicPartition| Commit {
        // The records have two keys, since a log that compacts may keep only one record
        // of each.
        records: vec![
            (place(&out, 0), record("k", "v")),
            (second, record("l", "w")),
        ],
        checkpoints: vec![(PartitionId(0), "k".into(), Some("state".into()))],
        offsets: vec![(PartitionId(0), Offset(1))],
    };
    let error = member.commit(&commit(place(&none, 0))).unwrap_err();
    assert_eq!(error.code(), "no-such-topic");
    let error = member.commit(&commit(place(&out, 7))).unwrap_err();
    assert_eq!(error.code(), "no-such-partition");
    assert_eq!(values(&*log, &out, 0, 0), [""; 0]);
    assert_eq!(committed(&*log, &group, &a), []);
    let checkpoints = log.checkpoints(&group).unwrap();
    assert_eq!(checkpoints.get(PartitionId(0), b"k").unwrap(), None);
    // The member can commit again after the refusals.
    member.commit(&commit(place(&out, 0))).unwrap();
    assert_eq!(values(&*log, &out, 0, 0), ["v", "w"]);
}

pub fn a_commit_keeps_the_order_of_records(subject: &mut impl Subject) {
    let (log, a, out) = (subject.log(), subject.name("a"), subject.name("out"));
    log.ensure_topics(&[deleted(&a, 1), deleted(&out, 2)])
        .unwrap();
    append(&*log, &a, 0, &["1"; 3]);
    let mut member = join(&*log, &subject.name("g"), &a, 0, 1);
    assigned(&mut *member, 1);
    // The records are large enough for many batches, and go to two partitions in turn.
    let wide = "x".repeat(300);
    for commit in 0..3_u64 {
        let records = (0..5000).map(|n| {
            let value = format!("{:05} {wide}", commit * 5000 + n);
            (place(&out, n as u32 % 2), record("k", &value))
        });
        let records = records.collect();
        let offsets = vec![(PartitionId(0), Offset(commit + 1))];
        member
            .commit(&Commit {
                records,
                offsets,
                ..Commit::default()
            })
            .unwrap();
    }
    for partition in 0..2 {
        let read = values(&*log, &out, partition, 0);
        assert_eq!(read.len(), 7500);
        assert!(read.is_sorted());
    }
}

/// Where the log does not take a record's time, the record has that time in a header.
pub fn records_of_any_time_are_taken(subject: &mut impl Subject) {
    let (log, a, together) = (subject.log(), subject.name("a"), subject.name("b"));
    log.ensure_topics(&[deleted(&a, 1), deleted(&together, 1)])
        .unwrap();
    let now = courtside_process::clock::now_ms();
    let times = [now, now + 7_200_000, now * 1000, 1, now, i64::MAX as u64];
    let at = |timestamp_ms| NewRecord {
        timestamp_ms,
        ..record("k", "x")
    };
    for time in times {
        let appended = log.append(&a, vec![(PartitionId(0), at(time))]).unwrap();
        wait(appended)[0].as_ref().unwrap();
    }
    let read = read_all(&*log, &a, 0, 0);
    assert_eq!(read.len(), times.len());
    for (time, record) in times.into_iter().zip(read) {
        let event_time = record.header(courtside_types::EVENT_TIME_HEADER);
        let event_time = event_time.map(|text| str::from_utf8(text).unwrap().parse().unwrap());
        assert_eq!(event_time.unwrap_or(record.timestamp_ms), time);
    }

    // The log takes each record of one request; those whose time the brokers refuse may
    // come later.
    let records = times.map(|time| (PartitionId(0), at(time))).into();
    let appended = wait(log.append(&together, records).unwrap());
    appended.into_iter().for_each(|one| drop(one.unwrap()));
    assert_eq!(read_all(&*log, &together, 0, 0).len(), times.len());
}

pub fn checkpoints_are_read_back(subject: &mut impl Subject) {
    let (log, a, group) = (subject.log(), subject.name("a"), subject.name("g"));
    log.ensure_topics(&[deleted(&a, 2)]).unwrap();
    let mut member = join(&*log, &group, &a, 0, 1);
    assigned(&mut *member, 2);
    let put = |partition, key: &str, state: Option<&str>| {
        let state = state.map(|state| Bytes::copy_from_slice(state.as_bytes()));
        (
            PartitionId(partition),
            Bytes::copy_from_slice(key.as_bytes()),
            state,
        )
    };
    let mut commit = |checkpoints| {
        member
            .commit(&Commit {
                checkpoints,
                ..offsets(&[(0, 0), (1, 0)])
            })
            .unwrap();
    };
    commit(vec![
        put(0, "b", Some("0b")),
        put(0, "a", Some("0a")),
        put(0, "ab", Some("")),
        put(1, "b", Some("1b")),
        put(0, "c", Some("0c")),
        put(0, "\u{10ffff}", Some("last")),
    ]);
    let checkpoints = log.checkpoints(&group).unwrap();
    let get = |partition, key: &str| {
        checkpoints
            .get(PartitionId(partition), key.as_bytes())
            .unwrap()
    };
    let scan = |partition, after: Option<&str>, count_max| {
        let after = after.map(str::as_bytes);
        let found = checkpoints
            .scan(PartitionId(partition), after, count_max)
            .unwrap();
        let keys = found
            .into_iter()
            .map(|(key, _)| String::from_utf8(key.to_vec()).unwrap());
        keys.collect::<Vec<_>>()
    };
    assert_eq!(get(0, "b").unwrap(), "0b");
    assert_eq!(get(0, "ab").unwrap(), "");
    assert_eq!(get(1, "b").unwrap(), "1b");
    assert_eq!(get(1, "a"), None);
    assert_eq!(scan(0, None, 10), ["a", "ab", "b", "c", "\u{10ffff}"]);
    assert_eq!(scan(0, None, 2), ["a", "ab"]);
    assert_eq!(scan(0, Some("ab"), 2), ["b", "c"]);
    assert_eq!(scan(0, Some("\u{10ffff}"), 2), [""; 0]);
    assert_eq!(scan(1, None, 10), ["b"]);

    commit(vec![
        put(0, "b", Some("0b2")),
        put(0, "a", None),
        put(1, "none", None),
    ]);
    assert_eq!(get(0, "b").unwrap(), "0b2");
    assert_eq!(get(0, "a"), None);
    assert_eq!(scan(0, None, 10), ["ab", "b", "c", "\u{10ffff}"]);
}

/// No entity's key begins with 0xFF: such keys are the host's own, and longer.
pub fn keys_of_the_host_stand_last(subject: &mut impl Subject) {
    let (log, a, group) = (subject.log(), subject.name("a"), subject.name("g"));
    log.ensure_topics(&[deleted(&a, 2)]).unwrap();
    let mut member = join(&*log, &group, &a, 0, 1);
    assigned(&mut *member, 2);
    let longest = [&b"\xffb"[..], &[b'k'; KEY_BYTES_MAX - 2]].concat();
    let keys: [&[u8]; 4] = ["\u{10ffff}".as_bytes(), b"\xff", &longest, b"\xfft"];
    let checkpoints = keys.iter().rev().map(|key| {
        (
            PartitionId(0),
            Bytes::copy_from_slice(key),
            Some("x".into()),
        )
    });
    let commit = Commit {
        checkpoints: checkpoints.collect(),
        ..offsets(&[(0, 0), (1, 0)])
    };
    member.commit(&commit).unwrap();
    let check = |log: &dyn RecordLog| {
        let checkpoints = log.checkpoints(&group).unwrap();
        let scan = |after| {
            let found = checkpoints.scan(PartitionId(0), after, 10).unwrap();
            found.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(scan(None), keys);
        assert_eq!(scan(Some(b"\xff")), keys[2..]);
        for key in keys {
            let found = checkpoints.get(PartitionId(0), key).unwrap();
            assert_eq!(found.as_deref(), Some(&b"x"[..]));
        }
        // A key that is too long for a row is not there.
        let none = checkpoints.get(PartitionId(0), &[b'k'; KEY_BYTES_MAX + 1]);
        assert_eq!(none.unwrap(), None);
    };
    check(&*log);
    drop(member);
    drop(log);
    subject.reopen();
    let log = subject.log();
    let mut member = join(&*log, &group, &a, 0, 1);
    assigned(&mut *member, 2);
    check(&*log);
}

/// A worker that processes events again reads below the committed offset, and commits
/// checkpoints with that same offset.
pub fn a_commit_may_repeat_its_offset_and_is_fenced_all_the_same(subject: &mut impl Subject) {
    let (log, a, group) = (subject.log(), subject.name("a"), subject.name("g"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    append(&*log, &a, 0, &["a", "b", "c"]);
    let mut first = join(&*log, &group, &a, 0, 1);
    assigned(&mut *first, 1);
    fetched(&mut *first, 3);
    first.commit(&offsets(&[(0, 3)])).unwrap();
    first.seek(PartitionId(0), Offset(1)).unwrap();
    let step = |value: &str| Commit {
        checkpoints: vec![(PartitionId(0), "k".into(), Some(value.to_owned().into()))],
        ..offsets(&[(0, 3)])
    };
    for value in ["1", "2"] {
        first.commit(&step(value)).unwrap();
    }
    assert_eq!(fetched(&mut *first, 2)[&0], ["b", "c"]);
    first.commit(&step("3")).unwrap();
    assert_eq!(committed(&*log, &group, &a), [(0, 3)]);
    let mut second = join(&*log, &group, &a, 0, 1);
    assert_eq!(assigned(&mut *second, 1)[0].next(), Offset(3));
    let refused = first.commit(&step("of a zombie")).unwrap_err();
    assert_eq!(refused.code(), "fenced");
    let checkpoints = log.checkpoints(&group).unwrap();
    assert_eq!(checkpoints.get(PartitionId(0), b"k").unwrap().unwrap(), "3");
    drop(first);
    // The next member can read the partition again from before as well.
    second.seek(PartitionId(0), Offset(0)).unwrap();
    assert_eq!(fetched(&mut *second, 3)[&0], ["a", "b", "c"]);
    second.commit(&step("4")).unwrap();
}

pub fn a_partition_of_another_cannot_be_committed(subject: &mut impl Subject) {
    let (log, a, group) = (subject.log(), subject.name("a"), subject.name("g"));
    log.ensure_topics(&[deleted(&a, 2)]).unwrap();
    let mut members = [join(&*log, &group, &a, 0, 2), join(&*log, &group, &a, 1, 2)];
    let owned: Vec<u32> = shared(&mut members, 2).concat();
    let error = members[0].commit(&offsets(&[(owned[1], 0)])).unwrap_err();
    assert_eq!(error.code(), "fenced");
    let error = members[0]
        .commit(&Commit {
            checkpoints: vec![(PartitionId(owned[1]), "k".into(), None)],
            ..Commit::default()
        })
        .unwrap_err();
    assert_eq!(error.code(), "fenced");
    members[0].commit(&offsets(&[(owned[0], 0)])).unwrap();
    assert_eq!(committed(&*log, &group, &a), [(owned[0], 0)]);
}

pub fn an_offset_out_of_range_cannot_be_committed(subject: &mut impl Subject) {
    let (log, a, group) = (subject.log(), subject.name("a"), subject.name("g"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    append(&*log, &a, 0, &["a"]);
    let mut member = join(&*log, &group, &a, 0, 1);
    assigned(&mut *member, 1);
    let error = member.commit(&offsets(&[(0, 2)])).unwrap_err();
    assert_eq!(error.code(), "offset-out-of-range");
    assert_eq!(committed(&*log, &group, &a), []);
    member.commit(&offsets(&[(0, 1)])).unwrap();
}
