//! Conditions for a member to begin with a partition.

use std::time::{Duration, Instant};

use courtside_types::{NewRecord, Offset, PartitionId, Topic};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::{HANGS_AFTER, brokers, commit, config, open, prefix};
use crate::{
    Polled, RecordLog as _,
    conformance::{append, assigned, deleted, join, next, record},
    kafka::tests::delete_before,
};

/// A writer was killed with a transaction open. Its records may yet be committed, so
/// no member may begin before that is decided.
#[test]
fn a_restore_waits_for_what_is_open() {
    let Some(brokers) = brokers() else { return };
    let (dir, prefix) = (tempfile::tempdir().unwrap(), prefix());
    let (input, output): (Topic, Topic) =
        (format!("{prefix}in").into(), format!("{prefix}out").into());
    let group = format!("{prefix}g");
    let log = open(dir.path(), config(&brokers));
    log.ensure_topics(&[deleted(&input, 1), deleted(&output, 1)])
        .unwrap();
    append(&*log, &input, 0, &["a", "b"]);
    let mut member = join(&*log, &group, &input, 0, 1);
    assigned(&mut *member, 1);
    member.commit(&commit(&output, 0, 1, "old")).unwrap();
    drop(member);

    let mut other = config(&brokers).producer(1 << 20);
    other
        .set("transactional.id", format!("{prefix}other"))
        .set("transaction.timeout.ms", "60000")
        .set("message.timeout.ms", "10000");
    let other: BaseProducer = other.create().unwrap();
    other.init_transactions(HANGS_AFTER).unwrap();
    other.begin_transaction().unwrap();
    let topic = format!("{group}.checkpoints");
    let newer = BaseRecord::to(&topic).partition(0).key("k").payload("new");
    other.send(newer).unwrap();
    other.flush(HANGS_AFTER).unwrap();

    let mut member = join(&*log, &group, &input, 0, 1);
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        let polled = member.poll(Duration::from_millis(50), 1 << 20).unwrap();
        assert!(matches!(polled, Polled::Idle), "too early: {polled:?}");
    }
    other.commit_transaction(HANGS_AFTER).unwrap();
    assigned(&mut *member, 1);
    let checkpoints = log.checkpoints(&group).unwrap();
    let found = checkpoints.get(PartitionId(0), b"k").unwrap();
    assert_eq!(found.unwrap(), "new");
}

/// The committed offset is one that retention has dropped.
#[test]
fn an_offset_that_is_gone_brings_nothing_until_it_is_sought() {
    let Some(brokers) = brokers() else { return };
    let (dir, prefix) = (tempfile::tempdir().unwrap(), prefix());
    let (input, output): (Topic, Topic) =
        (format!("{prefix}in").into(), format!("{prefix}out").into());
    let group = format!("{prefix}g");
    let log = open(dir.path(), config(&brokers));
    log.ensure_topics(&[deleted(&input, 2), deleted(&output, 1)])
        .unwrap();
    append(&*log, &input, 0, &["a", "b", "c"]);
    append(&*log, &input, 1, &["d"]);
    let mut member = join(&*log, &group, &input, 0, 1);
    assigned(&mut *member, 2);
    member.commit(&commit(&output, 0, 1, "x")).unwrap();
    drop(member);
    delete_before(&brokers, &input, 0, 2);

    let mut member = join(&*log, &group, &input, 0, 1);
    let all = assigned(&mut *member, 2);
    assert_eq!(all[0].committed, Some(Offset(1)));
    assert_eq!(all[0].bounds.start, Offset(2));
    let Polled::Records(fetched) = next(&mut *member) else {
        panic!("the other one does not go on");
    };
    assert_eq!(fetched.len(), 1);
    assert_eq!(fetched[0].partition, PartitionId(1));
    member.seek(PartitionId(0), Offset(2)).unwrap();
    let Polled::Records(fetched) = next(&mut *member) else {
        panic!("it does not go on");
    };
    let first: &NewRecord = &record("key", "c");
    assert_eq!(fetched[0].records[0].value, first.value);
}
