//! Conformance tests that every engine must pass: one for each requirement, written
//! against the interface.
//!
//! An engine's tests implement [`Subject`] and call the macro
//! [`conformance`](crate::conformance::conformance), which makes a `#[test]` of each case.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use bytestring::ByteString;

pub mod operator;

use courtside_types::{
    Header, NewRecord, Offset, PartitionId, Position, Record, Topic, TopicPartition,
};

use super::{
    Assignment, Bounds, COMMIT_EXTRA_BYTES, Cleanup, Commit, GroupSpec, KEY_BYTES_MAX, LogError,
    Member, Polled, RecordLog, TopicSpec, admin::Admin,
};

/// An engine under test. A record may have 1 MiB, and its queue takes 1 MiB.
pub trait Subject {
    fn log(&self) -> Arc<dyn RecordLog>;

    /// The log once more, with an operator's interface.
    fn admin(&self) -> Arc<dyn Admin>;

    /// Closes the log and opens it again with what it holds.
    fn reopen(&mut self);

    /// A topic's or group's name, made unique to the case where cases share a server.
    fn name(&self, name: &str) -> ByteString {
        name.into()
    }

    /// Drops the records of a partition before an offset, as retention does
    /// where no group keeps it back.
    fn delete_before(&self, topic: &Topic, partition: u32, offset: u64);
}

/// How long a step of a test may take. A step that takes longer hangs, and is not just
/// slow.
const HANGS_AFTER: Duration = Duration::from_secs(60);

#[cfg(test)]
macro_rules! conformance {
    ($subject:expr) => {
        $crate::conformance::conformance!($subject;
            topics_are_created_once_and_compared,
            what_does_not_exist_is_named,
            records_are_read_as_appended,
            positions_are_those_read_back,
            a_read_is_bounded_but_never_empty,
            appenders_keep_their_order,
            bounds_are_the_offsets_held,
            everything_survives_reopening,
            a_group_starts_at_the_earliest_and_reads_each_record_once,
            a_group_resumes_where_it_committed,
            groups_do_not_see_each_other,
            workers_share_the_partitions,
            a_worker_without_partitions_idles,
            polls_are_bounded_and_fair,
            a_paused_partition_brings_nothing,
            a_sought_partition_goes_on_there,
            a_commit_is_all_of_it,
            a_refused_commit_is_none_of_it,
            a_commit_keeps_the_order_of_records,
            records_of_any_time_are_taken,
            checkpoints_are_read_back,
            keys_of_the_host_stand_last,
            a_commit_may_repeat_its_offset_and_is_fenced_all_the_same,
            a_partition_of_another_cannot_be_committed,
            an_offset_out_of_range_cannot_be_committed,
            the_second_of_a_worker_fences_the_first,
            a_released_partition_brings_nothing,
            an_append_wakes_a_waiting_poll,
            appends_and_commits_tick,
            too_large_a_record_is_refused,
            a_full_queue_is_busy,
            a_group_tells_its_status,
            a_closed_log_is_unavailable,
        );
        $crate::conformance::conformance!(operator; $subject;
            topics_are_created_described_and_deleted,
            settings_are_altered_and_given_back,
            what_a_pipeline_needs_cannot_be_altered_away,
            partitions_grow_where_no_key_has_state,
            a_topic_that_is_read_is_not_deleted,
            a_topic_that_is_made_anew_has_another_id,
            a_commit_means_the_topics_of_its_ids,
            what_a_group_keeps_is_not_deleted,
            groups_are_listed_with_their_topics,
            a_group_reads_what_it_has_offsets_or_members_of,
            a_reset_moves_offsets_and_checkpoints_together,
            a_reset_of_some_partitions_leaves_the_others,
            a_reset_is_refused_while_somebody_is_there,
            a_reset_mends_a_partition_whose_offset_is_gone,
        );
    };
    (operator; $subject:expr; $($case:ident),* $(,)?) => {
        $(
            #[test]
            fn $case() {
                $crate::conformance::operator::$case(&mut $subject);
            }
        )*
    };
    ($subject:expr; $($case:ident),* $(,)?) => {
        $(
            #[test]
            fn $case() {
                $crate::conformance::$case(&mut $subject);
            }
        )*
    };
}
#[cfg(test)]
pub(crate) use conformance;

pub fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(future)
}

pub fn deleted(name: &Topic, partitions: u32) -> TopicSpec {
    TopicSpec {
        name: name.clone(),
        partitions: Some(partitions),
        cleanup: Cleanup::Delete {
            retention: None,
            retention_bytes: None,
        },
    }
}

pub fn compacted(name: &Topic, partitions: u32) -> TopicSpec {
    TopicSpec {
        name: name.clone(),
        partitions: Some(partitions),
        cleanup: Cleanup::Compact {
            tombstone_retention: Duration::from_secs(3600),
        },
    }
}

pub fn record(key: &str, value: &str) -> NewRecord {
    NewRecord {
        timestamp_ms: 1_700_000_000_000,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        headers: vec![],
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    }
}

/// Appends values to one partition, waits, and returns their offsets.
pub fn append(log: &dyn RecordLog, topic: &Topic, partition: u32, values: &[&str]) -> Vec<u64> {
    let records = values
        .iter()
        .map(|value| (PartitionId(partition), record("key", value)));
    let positions = wait(log.append(topic, records.collect()).unwrap());
    positions
        .into_iter()
        .map(|position| position.unwrap().offset.0)
        .collect()
}

/// All values of a partition from an offset on.
pub fn values(log: &dyn RecordLog, topic: &Topic, partition: u32, from: u64) -> Vec<String> {
    read_all(log, topic, partition, from)
        .iter()
        .map(value)
        .collect()
}

pub fn read_all(log: &dyn RecordLog, topic: &Topic, partition: u32, from: u64) -> Vec<Record> {
    settle(log, topic);
    let mut records: Vec<Record> = Vec::new();
    loop {
        let next = records.last().map_or(from, |record| record.offset.0 + 1);
        let more = log
            .read(topic, PartitionId(partition), Offset(next), 1000)
            .unwrap();
        if more.is_empty() {
            return records;
        }
        records.extend(more);
    }
}

/// Waits until readers see all that was written.
fn settle(log: &dyn RecordLog, topic: &Topic) {
    let written = log.written(topic).unwrap();
    let since = Instant::now();
    loop {
        let seen = log.bounds(topic).unwrap();
        let is_seen = |(seen, written): (&Bounds, &Bounds)| seen.end >= written.end;
        if seen.iter().zip(&written).all(is_seen) {
            return;
        }
        assert!(
            since.elapsed() < HANGS_AFTER,
            "what was written does not show"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn value(record: &Record) -> String {
    String::from_utf8(record.value.clone().unwrap_or_default().to_vec()).unwrap()
}

pub fn join(
    log: &dyn RecordLog,
    group: &str,
    input: &Topic,
    worker: u32,
    workers: u32,
) -> Box<dyn Member> {
    log.join(GroupSpec {
        group: group.into(),
        input: input.clone(),
        worker,
        workers,
        topics: Vec::new(),
        visits: false,
    })
    .unwrap()
}

/// Polls until something comes.
pub fn next(member: &mut dyn Member) -> Polled {
    let since = Instant::now();
    while since.elapsed() < HANGS_AFTER {
        match member.poll(Duration::from_millis(100), 1 << 20).unwrap() {
            Polled::Idle => {}
            polled => return polled,
        }
    }
    panic!("nothing came");
}

/// Polls until `count` partitions are assigned.
pub fn assigned(member: &mut dyn Member, count: usize) -> Vec<Assignment> {
    let mut assigned: Vec<Assignment> = Vec::new();
    while assigned.len() < count {
        match next(member) {
            Polled::Assigned(more) => assigned.extend(more),
            Polled::Revoked(gone) => {
                member.release(&gone);
                assigned.retain(|assignment| !gone.contains(&assignment.partition));
            }
            polled => panic!("not an assignment: {polled:?}"),
        }
    }
    assigned.sort_by_key(|assignment| assignment.partition);
    assigned
}

/// Polls all members in turn until they share the partitions evenly, and returns the
/// partitions of each.
fn shared(members: &mut [Box<dyn Member>], partitions: usize) -> Vec<Vec<u32>> {
    let mut owned = vec![Vec::new(); members.len()];
    let since = Instant::now();
    loop {
        for (member, owned) in members.iter_mut().zip(&mut owned) {
            match member.poll(Duration::from_millis(10), 1 << 20).unwrap() {
                Polled::Idle => {}
                Polled::Assigned(more) => owned.extend(more.iter().map(|one| one.partition.0)),
                Polled::Revoked(gone) => {
                    member.release(&gone);
                    owned.retain(|partition| !gone.contains(&PartitionId(*partition)));
                }
                polled => panic!("not an assignment: {polled:?}"),
            }
            owned.sort_unstable();
        }
        let counts = owned.iter().map(Vec::len);
        let least = partitions / members.len();
        if counts.clone().sum::<usize>() == partitions && counts.clone().all(|count| count >= least)
        {
            return owned;
        }
        assert!(since.elapsed() < HANGS_AFTER, "not shared: {owned:?}");
    }
}

/// Polls until `count` records came, and returns their values by partition.
fn fetched(member: &mut dyn Member, count: usize) -> BTreeMap<u32, Vec<String>> {
    let mut values: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    while values.values().map(Vec::len).sum::<usize>() < count {
        match next(member) {
            Polled::Records(fetched) => {
                for fetched in fetched {
                    let new = fetched.records.iter().map(value);
                    values.entry(fetched.partition.0).or_default().extend(new);
                }
            }
            polled => panic!("no records: {polled:?}"),
        }
    }
    values
}

/// Polls once for 20 ms, in which nothing must come.
fn idle(member: &mut dyn Member) {
    let polled = member.poll(Duration::from_millis(20), 1 << 20).unwrap();
    assert!(matches!(polled, Polled::Idle), "{polled:?}");
}

fn offsets(offsets: &[(u32, u64)]) -> Commit {
    let offsets = offsets
        .iter()
        .map(|(partition, next)| (PartitionId(*partition), Offset(*next)));
    Commit {
        offsets: offsets.collect(),
        ..Commit::default()
    }
}

fn place(topic: &Topic, partition: u32) -> TopicPartition {
    TopicPartition {
        topic: topic.clone(),
        partition: PartitionId(partition),
    }
}

fn committed(log: &dyn RecordLog, group: &str, input: &Topic) -> Vec<(u32, u64)> {
    let status = log.group_status(group, input).unwrap();
    status
        .committed
        .into_iter()
        .map(|(partition, next)| (partition.0, next.0))
        .collect()
}

pub fn topics_are_created_once_and_compared(subject: &mut impl Subject) {
    let (log, a, b) = (subject.log(), subject.name("a"), subject.name("b"));
    log.ensure_topics(&[deleted(&a, 3), compacted(&b, 1)])
        .unwrap();
    let any = TopicSpec {
        partitions: None,
        ..deleted(&a, 1)
    };
    log.ensure_topics(&[any, compacted(&b, 1)]).unwrap();
    assert_eq!(log.partitions(&a), Ok(3));
    assert_eq!(log.partitions(&b), Ok(1));

    let c = subject.name("c");
    let error = log
        .ensure_topics(&[deleted(&c, 1), deleted(&a, 4)])
        .unwrap_err();
    assert_eq!(error.code(), "topic-mismatch");
    assert_eq!(
        log.partitions(&c).unwrap_err().code(),
        "no-such-topic",
        "all or none"
    );
    let error = log.ensure_topics(&[compacted(&a, 3)]).unwrap_err();
    assert_eq!(error.code(), "topic-mismatch");

    let mut changed = deleted(&a, 3);
    changed.cleanup = Cleanup::Delete {
        retention: Some(Duration::from_secs(60)),
        retention_bytes: Some(1 << 30),
    };
    log.ensure_topics(&[changed]).unwrap();
    for name in ["", "..", "a b", "é"] {
        let error = log.ensure_topics(&[deleted(&name.into(), 1)]).unwrap_err();
        assert_eq!(error.code(), "log-invalid", "{name:?}");
    }
}

pub fn what_does_not_exist_is_named(subject: &mut impl Subject) {
    let (log, a, b) = (subject.log(), subject.name("a"), subject.name("b"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    let code = |error: LogError| error.code();
    let read = |topic, partition| log.read(topic, PartitionId(partition), Offset(0), 1);
    assert_eq!(read(&b, 0).map_err(code), Err("no-such-topic"));
    assert_eq!(read(&a, 1).map_err(code), Err("no-such-partition"));
    let append = |topic, partition| {
        let records = vec![
            (PartitionId(0), record("", "")),
            (PartitionId(partition), record("", "")),
        ];
        log.append(topic, records).map(|_| ()).map_err(code)
    };
    assert_eq!(append(&b, 0), Err("no-such-topic"));
    assert_eq!(append(&a, 1), Err("no-such-partition"));
    assert_eq!(log.bounds(&a).unwrap(), [Bounds::default()], "all or none");
    assert_eq!(log.bounds(&b).map_err(code), Err("no-such-topic"));
    assert_eq!(log.partitions(&b).map_err(code), Err("no-such-topic"));
    let spec = GroupSpec {
        group: subject.name("g"),
        input: b,
        worker: 0,
        workers: 1,
        topics: Vec::new(),
        visits: false,
    };
    assert_eq!(
        log.join(spec).map(|_| ()).map_err(code),
        Err("no-such-topic")
    );
}

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

pub fn a_group_starts_at_the_earliest_and_reads_each_record_once(subject: &mut impl Subject) {
    let (log, a) = (subject.log(), subject.name("a"));
    log.ensure_topics(&[deleted(&a, 2)]).unwrap();
    append(&*log, &a, 0, &["a", "b"]);
    let mut member = join(&*log, &subject.name("g"), &a, 0, 1);
    let next = assigned(&mut *member, 2)
        .iter()
        .map(|a| (a.partition.0, a.next().0))
        .collect::<Vec<_>>();
    assert_eq!(next, [(0, 0), (1, 0)]);
    assert_eq!(fetched(&mut *member, 2)[&0], ["a", "b"]);
    idle(&mut *member);
    append(&*log, &a, 1, &["c"]);
    append(&*log, &a, 0, &["d"]);
    let both = fetched(&mut *member, 2);
    assert_eq!(
        (&both[&0], &both[&1]),
        (&vec!["d".to_owned()], &vec!["c".to_owned()])
    );
    idle(&mut *member);
}

pub fn a_group_resumes_where_it_committed(subject: &mut impl Subject) {
    let (log, a, group) = (subject.log(), subject.name("a"), subject.name("g"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    append(&*log, &a, 0, &["a", "b", "c"]);
    let mut member = join(&*log, &group, &a, 0, 1);
    assigned(&mut *member, 1);
    fetched(&mut *member, 3);
    member.commit(&offsets(&[(0, 1)])).unwrap();
    member.commit(&offsets(&[(0, 2)])).unwrap();
    drop(member);
    let mut member = join(&*log, &group, &a, 0, 1);
    assert_eq!(assigned(&mut *member, 1)[0].next(), Offset(2));
    assert_eq!(fetched(&mut *member, 1)[&0], ["c"]);
    // No commit covers the record yet, so it comes again.
    drop(member);
    let mut member = join(&*log, &group, &a, 0, 1);
    assigned(&mut *member, 1);
    assert_eq!(fetched(&mut *member, 1)[&0], ["c"]);
}

pub fn groups_do_not_see_each_other(subject: &mut impl Subject) {
    let (log, a) = (subject.log(), subject.name("a"));
    let (one, two) = (subject.name("g"), subject.name("g2"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    append(&*log, &a, 0, &["a", "b"]);
    let mut first = join(&*log, &one, &a, 0, 1);
    let mut second = join(&*log, &two, &a, 0, 1);
    assigned(&mut *first, 1);
    assigned(&mut *second, 1);
    fetched(&mut *first, 2);
    let mut commit = offsets(&[(0, 2)]);
    commit
        .checkpoints
        .push((PartitionId(0), "k".into(), Some("one".into())));
    first.commit(&commit).unwrap();
    assert_eq!(fetched(&mut *second, 2)[&0], ["a", "b"]);
    assert_eq!(committed(&*log, &one, &a), [(0, 2)]);
    assert_eq!(committed(&*log, &two, &a), []);
    let checkpoints = log.checkpoints(&two).unwrap();
    assert_eq!(checkpoints.get(PartitionId(0), b"k").unwrap(), None);
}

pub fn workers_share_the_partitions(subject: &mut impl Subject) {
    let (log, a, group) = (subject.log(), subject.name("a"), subject.name("g"));
    log.ensure_topics(&[deleted(&a, 4)]).unwrap();
    let mut members = [join(&*log, &group, &a, 0, 2), join(&*log, &group, &a, 1, 2)];
    let owned = shared(&mut members, 4);
    let mut all = owned.concat();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3]);
    for partition in 0..4 {
        append(&*log, &a, partition, &["x"]);
    }
    for (member, owned) in members.iter_mut().zip(owned) {
        let read: Vec<_> = fetched(&mut **member, 2).into_keys().collect();
        assert_eq!(read, owned);
    }
}

pub fn a_worker_without_partitions_idles(subject: &mut impl Subject) {
    let (log, a, group) = (subject.log(), subject.name("a"), subject.name("g"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    let mut first = join(&*log, &group, &a, 0, 2);
    assigned(&mut *first, 1);
    let mut second = join(&*log, &group, &a, 1, 2);
    append(&*log, &a, 0, &["x"]);
    idle(&mut *second);
    fetched(&mut *first, 1);
    first.commit(&offsets(&[(0, 1)])).unwrap();
}

pub fn polls_are_bounded_and_fair(subject: &mut impl Subject) {
    let (log, a) = (subject.log(), subject.name("a"));
    log.ensure_topics(&[deleted(&a, 2)]).unwrap();
    for partition in 0..2 {
        append(&*log, &a, partition, &[&*"x".repeat(900); 50]);
    }
    let mut member = join(&*log, &subject.name("g"), &a, 0, 1);
    assigned(&mut *member, 2);
    let mut counts = [0_usize; 2];
    // The partitions must take turns once both have brought records: before, one may
    // arrive after the other.
    let mut begun: Option<[usize; 2]> = None;
    let mut ahead = 0;
    while counts != [50, 50] {
        let Polled::Records(fetched) = member.poll(HANGS_AFTER, 10_000).unwrap() else {
            panic!("no records");
        };
        let bytes: usize = fetched
            .iter()
            .flat_map(|f| &f.records)
            .map(Record::size)
            .sum();
        assert!(
            bytes < 11_000,
            "{bytes}: about what was asked, by a record more"
        );
        for fetched in fetched {
            counts[fetched.partition.0 as usize] += fetched.records.len();
        }
        match begun {
            None if counts.iter().all(|count| *count > 0) => begun = Some(counts),
            None => {}
            Some(before) if !counts.contains(&50) => {
                let since = [counts[0] - before[0], counts[1] - before[1]];
                ahead = ahead.max(since[0].abs_diff(since[1]));
            }
            Some(_) => {}
        }
    }
    assert!(ahead < 30, "one partition was {ahead} records ahead");
}

pub fn a_paused_partition_brings_nothing(subject: &mut impl Subject) {
    let (log, a) = (subject.log(), subject.name("a"));
    log.ensure_topics(&[deleted(&a, 2)]).unwrap();
    let mut member = join(&*log, &subject.name("g"), &a, 0, 1);
    assigned(&mut *member, 2);
    member.pause(&[PartitionId(0)]);
    append(&*log, &a, 0, &["paused"]);
    append(&*log, &a, 1, &["goes on"]);
    assert_eq!(fetched(&mut *member, 1)[&1], ["goes on"]);
    idle(&mut *member);
    // The member may still commit for a paused partition.
    member.commit(&offsets(&[(0, 0), (1, 1)])).unwrap();
    member.resume(&[PartitionId(0)]);
    assert_eq!(fetched(&mut *member, 1)[&0], ["paused"]);
}

pub fn a_sought_partition_goes_on_there(subject: &mut impl Subject) {
    let (log, a) = (subject.log(), subject.name("a"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    append(&*log, &a, 0, &["a", "b", "c", "d"]);
    let mut member = join(&*log, &subject.name("g"), &a, 0, 1);
    assigned(&mut *member, 1);
    fetched(&mut *member, 4);
    member.seek(PartitionId(0), Offset(1)).unwrap();
    assert_eq!(fetched(&mut *member, 3)[&0], ["b", "c", "d"]);
    // The poll leaves a batch half read, and the next seek comes in the midst of it.
    member.seek(PartitionId(0), Offset(0)).unwrap();
    assert!(matches!(
        member.poll(HANGS_AFTER, 1).unwrap(),
        Polled::Records(_)
    ));
    member.seek(PartitionId(0), Offset(3)).unwrap();
    assert_eq!(fetched(&mut *member, 1)[&0], ["d"]);
    member.seek(PartitionId(0), Offset(4)).unwrap();
    idle(&mut *member);
}

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
        let told = record.header(courtside_types::EVENT_TIME_HEADER);
        let told = told.map(|text| str::from_utf8(text).unwrap().parse().unwrap());
        assert_eq!(told.unwrap_or(record.timestamp_ms), time);
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

pub fn the_second_of_a_worker_fences_the_first(subject: &mut impl Subject) {
    let (log, a, group) = (subject.log(), subject.name("a"), subject.name("g"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    append(&*log, &a, 0, &["a", "b"]);
    let mut first = join(&*log, &group, &a, 0, 1);
    assigned(&mut *first, 1);
    first.commit(&offsets(&[(0, 1)])).unwrap();
    let mut second = join(&*log, &group, &a, 0, 1);
    assert_eq!(assigned(&mut *second, 1)[0].next(), Offset(1));
    assert_eq!(
        first.commit(&offsets(&[(0, 2)])).unwrap_err().code(),
        "fenced"
    );
    assert_eq!(committed(&*log, &group, &a), [(0, 1)]);
    assert!(matches!(next(&mut *first), Polled::Lost(lost) if lost == [PartitionId(0)]));
    drop(first);
    assert_eq!(fetched(&mut *second, 1)[&0], ["b"]);
    second.commit(&offsets(&[(0, 2)])).unwrap();
}

pub fn a_released_partition_brings_nothing(subject: &mut impl Subject) {
    let (log, a) = (subject.log(), subject.name("a"));
    log.ensure_topics(&[deleted(&a, 2)]).unwrap();
    let mut member = join(&*log, &subject.name("g"), &a, 0, 1);
    assigned(&mut *member, 2);
    member.release(&[PartitionId(0)]);
    append(&*log, &a, 0, &["gone"]);
    append(&*log, &a, 1, &["here"]);
    assert_eq!(
        fetched(&mut *member, 1).into_keys().collect::<Vec<_>>(),
        [1]
    );
    idle(&mut *member);
    assert_eq!(
        member.commit(&offsets(&[(0, 1)])).unwrap_err().code(),
        "fenced"
    );
}

pub fn an_append_wakes_a_waiting_poll(subject: &mut impl Subject) {
    let (log, a, group) = (subject.log(), subject.name("a"), subject.name("g"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    let mut member = join(&*log, &group, &a, 0, 1);
    assigned(&mut *member, 1);
    let (waits, waiting) = std::sync::mpsc::channel();
    let poller = std::thread::spawn(move || {
        waits.send(()).unwrap();
        // Unless the append wakes it, the poll comes back with nothing.
        member.poll(HANGS_AFTER, 1 << 20).unwrap()
    });
    waiting.recv().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    append(&*log, &a, 0, &["x"]);
    assert!(matches!(poller.join().unwrap(), Polled::Records(_)));
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

pub fn a_group_tells_its_status(subject: &mut impl Subject) {
    let (log, a, group) = (subject.log(), subject.name("a"), subject.name("g"));
    log.ensure_topics(&[deleted(&a, 3)]).unwrap();
    let mut members = [join(&*log, &group, &a, 0, 2), join(&*log, &group, &a, 1, 2)];
    let mut owned = shared(&mut members, 3);
    let status = log.group_status(&group, &a).unwrap();
    let mut told: Vec<_> = status
        .members
        .iter()
        .map(|member| {
            member
                .partitions
                .iter()
                .map(|one| one.0)
                .collect::<Vec<_>>()
        })
        .collect();
    told.sort();
    owned.sort();
    assert_eq!(told, owned);
    assert!(status.committed.is_empty());
    drop(members);
    let status = log.group_status(&subject.name("other"), &a).unwrap();
    assert!(status.members.is_empty());
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
