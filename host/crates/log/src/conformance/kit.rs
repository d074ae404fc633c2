//! Records, commits and waits of the cases.

use std::{
    collections::BTreeMap,
    future::Future,
    time::{Duration, Instant},
};

use bytes::Bytes;
use courtside_types::{NewRecord, Offset, PartitionId, Record, Topic, TopicPartition};

use super::HANGS_AFTER;
use crate::{Assignment, Bounds, Cleanup, Commit, GroupSpec, Member, Polled, RecordLog, TopicSpec};

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
pub(super) fn settle(log: &dyn RecordLog, topic: &Topic) {
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
pub(super) fn shared(members: &mut [Box<dyn Member>], partitions: usize) -> Vec<Vec<u32>> {
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
pub(super) fn fetched(member: &mut dyn Member, count: usize) -> BTreeMap<u32, Vec<String>> {
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
pub(super) fn idle(member: &mut dyn Member) {
    let polled = member.poll(Duration::from_millis(20), 1 << 20).unwrap();
    assert!(matches!(polled, Polled::Idle), "{polled:?}");
}

pub(super) fn offsets(offsets: &[(u32, u64)]) -> Commit {
    let offsets = offsets
        .iter()
        .map(|(partition, next)| (PartitionId(*partition), Offset(*next)));
    Commit {
        offsets: offsets.collect(),
        ..Commit::default()
    }
}

pub(super) fn place(topic: &Topic, partition: u32) -> TopicPartition {
    TopicPartition {
        topic: topic.clone(),
        partition: PartitionId(partition),
    }
}

pub(super) fn committed(log: &dyn RecordLog, group: &str, input: &Topic) -> Vec<(u32, u64)> {
    let status = log.group_status(group, input).unwrap();
    status
        .committed
        .into_iter()
        .map(|(partition, next)| (partition.0, next.0))
        .collect()
}
