//! Cases about resets of groups.

use std::time::Instant;

use courtside_types::{Key, Offset, PartitionId, Topic};

use super::{
    HANGS_AFTER, Subject,
    kit::{append, assigned, deleted, fetched, idle, join},
    operator::{code, id, new, other_id},
};
use crate::{
    Commit, LogError, Member, RecordLog,
    admin::Admin,
    reset::{self, Also, Move, Moved, Target},
};

/// A commit with a checkpoint for each key.
pub(super) fn committed(partition: u32, next: u64, keys: &[&str]) -> Commit {
    let id = PartitionId(partition);
    let keys = keys.iter();
    Commit {
        records: Vec::new(),
        checkpoints: keys
            .map(|key| (id, (*key).to_owned().into(), Some("state".into())))
            .collect(),
        offsets: vec![(id, Offset(next))],
    }
}

/// Makes two partitions with three records each, and processes them to their ends with
/// two checkpoints each. Afterwards the group has no members.
pub(super) fn processed(log: &dyn Admin, input: &Topic, group: &str) {
    log.ensure_topics(&[deleted(input, 2)]).unwrap();
    let mut member = join(log, group, input, 0, 1);
    assigned(&mut *member, 2);
    for partition in 0..2 {
        append(log, input, partition, &["a", "b", "c"]);
    }
    fetched(&mut *member, 6);
    for partition in 0..2 {
        let mut commit = committed(partition, 3, &["k", "l"]);
        // A checkpoint of the host's own, which a reset does not count.
        let own = (
            PartitionId(partition),
            Key::from_static(b"\xfft"),
            Some("x".into()),
        );
        commit.checkpoints.push(own);
        retry(&mut *member, &commit);
    }
    drop(member);
    until_empty(log, input, group);
}

pub(super) fn retry(member: &mut dyn Member, commit: &Commit) {
    let since = Instant::now();
    while let Err(error) = member.commit(commit) {
        assert!(error.may_pass(), "{error}");
        assert!(since.elapsed() < HANGS_AFTER, "{error}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Waits until the group has no members: a dropped member may stay until its session
/// ends.
pub(super) fn until_empty(log: &dyn Admin, input: &Topic, group: &str) {
    let since = Instant::now();
    while !log.group_status(group, input).unwrap().members.is_empty() {
        assert!(since.elapsed() < HANGS_AFTER, "the group has members");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

pub(super) fn checkpoints(log: &dyn RecordLog, group: &str, partition: u32) -> usize {
    let checkpoints = log.checkpoints(group).unwrap();
    let found = checkpoints.scan(PartitionId(partition), None, 100);
    found.unwrap().len()
}

/// Makes the planned moves, and writes nothing else with them.
fn apply(
    log: &dyn RecordLog,
    input: &Topic,
    group: &str,
    plan: &[Move],
) -> Result<Vec<Moved>, LogError> {
    let spec = reset::member(group, input, Vec::new());
    reset::apply(log, spec, plan, |_| Also::default())
}

pub fn a_reset_moves_offsets_and_checkpoints_together(subject: &mut impl Subject) {
    let (log, a, group) = (subject.admin(), subject.name("a"), subject.name("g"));
    processed(&*log, &a, &group);
    let plan = reset::plan(&*log, &group, &a, &[], Target::Earliest).unwrap();
    let moved = apply(&*log, &a, &group, &plan).unwrap();
    let counts: Vec<_> = moved
        .iter()
        .map(|one| {
            (
                one.at.partition.0,
                one.at.from,
                one.at.to.0,
                one.checkpoints,
            )
        })
        .collect();
    assert_eq!(
        counts,
        [(0, Some(Offset(3)), 0, 2), (1, Some(Offset(3)), 0, 2)]
    );
    drop(log);
    subject.reopen();
    let log = subject.admin();
    until_empty(&*log, &a, &group);
    let mut member = join(&*log, &group, &a, 0, 1);
    let all = assigned(&mut *member, 2);
    assert!(all.iter().all(|one| one.next() == Offset(0)), "{all:?}");
    for partition in 0..2 {
        assert_eq!(checkpoints(&*log, &group, partition), 0);
    }
    assert_eq!(fetched(&mut *member, 6)[&1], ["a", "b", "c"]);
}

pub fn a_reset_of_some_partitions_leaves_the_others(subject: &mut impl Subject) {
    let (log, a, group) = (subject.admin(), subject.name("a"), subject.name("g"));
    processed(&*log, &a, &group);
    let one = [PartitionId(1)];
    let to =
        |target, partitions: &[PartitionId]| reset::plan(&*log, &group, &a, partitions, target);
    assert_eq!(code(to(Target::At(Offset(4)), &one)), "offset-out-of-range");
    let none = [PartitionId(2)];
    assert_eq!(code(to(Target::Latest, &none)), "no-such-partition");
    let plan = to(Target::At(Offset(1)), &one).unwrap();
    apply(&*log, &a, &group, &plan).unwrap();
    until_empty(&*log, &a, &group);
    let mut member = join(&*log, &group, &a, 0, 1);
    let all = assigned(&mut *member, 2);
    let nexts: Vec<_> = all.iter().map(|one| one.next().0).collect();
    assert_eq!(nexts, [3, 1]);
    assert_eq!(checkpoints(&*log, &group, 0), 3);
    assert_eq!(checkpoints(&*log, &group, 1), 0);
    drop(member);
    until_empty(&*log, &a, &group);
    let plan = to(Target::Latest, &[]).unwrap();
    assert!(plan.iter().all(|one| one.to == Offset(3)), "{plan:?}");
}

pub fn a_reset_is_refused_while_somebody_is_there(subject: &mut impl Subject) {
    let (log, a, group) = (subject.admin(), subject.name("a"), subject.name("g"));
    processed(&*log, &a, &group);
    let plan = reset::plan(&*log, &group, &a, &[], Target::Earliest).unwrap();
    let mut member = join(&*log, &group, &a, 0, 1);
    assigned(&mut *member, 2);
    let refused = reset::plan(&*log, &group, &a, &[], Target::Earliest);
    assert_eq!(code(refused), "group-not-empty");
    // The member joined after the plan was made.
    let refused = apply(&*log, &a, &group, &plan);
    assert_eq!(code(refused), "group-not-empty");
    // The member did not notice the refused reset.
    append(&*log, &a, 0, &["d"]);
    assert_eq!(fetched(&mut *member, 1)[&0], ["d"]);
    retry(&mut *member, &committed(0, 4, &["k"]));
    let status = log.group_status(&group, &a).unwrap();
    assert_eq!(status.committed[&PartitionId(0)], Offset(4));
    assert_eq!(checkpoints(&*log, &group, 1), 3);
}

/// The committed offset is no longer in the log, and only a reset gets the partition
/// going.
/// The plan is of the topic before, whose offsets mean nothing in the new one.
pub fn a_reset_planned_for_the_topic_before_moves_nothing(subject: &mut impl Subject) {
    let (log, a, group) = (subject.admin(), subject.name("a"), subject.name("g"));
    processed(&*log, &a, &group);
    let before = id(&*log, &a);
    let topics = vec![(a.clone(), before.unwrap())];
    let plan = reset::plan(&*log, &group, &a, &[], Target::Latest).unwrap();
    log.delete_topic(&a).unwrap();
    assert_eq!(other_id(&*log, &a, before), None);
    log.create_topic(&new(&a, 2)).unwrap();
    other_id(&*log, &a, None);
    let spec = reset::member(&group, &a, topics);
    let refused = reset::apply(&*log, spec, &plan, |_| Also::default());
    assert_eq!(code(refused), "topic-recreated");
    for partition in 0..2 {
        assert_eq!(checkpoints(&*log, &group, partition), 3);
    }
}

pub fn a_reset_mends_a_partition_whose_offset_is_gone(subject: &mut impl Subject) {
    let (log, a, group) = (subject.admin(), subject.name("a"), subject.name("g"));
    processed(&*log, &a, &group);
    append(&*log, &a, 0, &["d", "e"]);
    subject.delete_before(&a, 0, 4);
    let since = Instant::now();
    while log.bounds(&a).unwrap()[0].start < Offset(4) {
        assert!(since.elapsed() < HANGS_AFTER, "nothing was dropped");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let mut member = join(&*log, &group, &a, 0, 1);
    let all = assigned(&mut *member, 2);
    assert_eq!(all[0].committed, Some(Offset(3)));
    assert_eq!(all[0].bounds.start, Offset(4));
    // The partition brings no records until the member seeks another offset, and the
    // other partition goes on.
    append(&*log, &a, 1, &["f"]);
    assert_eq!(fetched(&mut *member, 1)[&1], ["f"]);
    idle(&mut *member);
    drop(member);
    until_empty(&*log, &a, &group);
    let gone = [PartitionId(0)];
    let plan = reset::plan(&*log, &group, &a, &gone, Target::Earliest).unwrap();
    apply(&*log, &a, &group, &plan).unwrap();
    until_empty(&*log, &a, &group);
    let mut member = join(&*log, &group, &a, 0, 1);
    let all = assigned(&mut *member, 2);
    assert_eq!(all[0].next(), Offset(4));
    // Nobody has committed the other partition's event.
    let events = fetched(&mut *member, 2);
    assert_eq!(events[&0], ["e"]);
    assert_eq!(events[&1], ["f"]);
}
