//! Cases about groups and their members.

use std::time::Duration;

use courtside_types::{Offset, PartitionId, Record};

use super::{HANGS_AFTER, Subject, kit::*};
use crate::Polled;

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

pub fn a_group_tells_its_status(subject: &mut impl Subject) {
    let (log, a, group) = (subject.log(), subject.name("a"), subject.name("g"));
    log.ensure_topics(&[deleted(&a, 3)]).unwrap();
    let mut members = [join(&*log, &group, &a, 0, 2), join(&*log, &group, &a, 1, 2)];
    let mut owned = shared(&mut members, 3);
    let status = log.group_status(&group, &a).unwrap();
    let mut shown: Vec<_> = status
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
    shown.sort();
    owned.sort();
    assert_eq!(shown, owned);
    assert!(status.committed.is_empty());
    drop(members);
    let status = log.group_status(&subject.name("other"), &a).unwrap();
    assert!(status.members.is_empty());
}
