//! Opening the directory: again at once, while another host has it open, and with
//! single rows damaged.

use std::time::Duration;

use courtside_types::{Offset, PartitionId};

use super::{config, open};
use crate::{
    Commit, LogError, Polled, RecordLog,
    conformance::{append, assigned, compacted, deleted, join, next, values},
    embedded::{Embedded, rows},
};

#[test]
fn a_directory_is_opened_again_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let topic = "a".into();
    for round in 0..10 {
        let log = open(dir.path());
        log.ensure_topics(&[deleted(&topic, 1)]).unwrap();
        assert_eq!(append(&*log, &topic, 0, &["x"]), [round]);
        // Members and readers that are still there don't keep the log open.
        let member = join(&*log, "g", &topic, 0, 1);
        let checkpoints = log.checkpoints("g").unwrap();
        log.close();
        let again = open(dir.path());
        assert_eq!(values(&*again, &topic, 0, 0).len() as u64, round + 1);
        let code = |error: LogError| error.code();
        assert_eq!(
            checkpoints.get(PartitionId(0), b"k").map_err(code),
            Err("log-unavailable")
        );
        drop(member);
    }
}

#[test]
fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let error = Embedded::open(dir.path(), config()).unwrap_err();
    assert_eq!(error.code(), "data-dir-in-use");
    assert!(
        error.to_string().contains(dir.path().to_str().unwrap()),
        "{error}"
    );
    drop(log);
    open(dir.path());
}

#[test]
fn a_file_in_the_place_of_the_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Embedded::open(&file, config()).unwrap_err();
    assert_eq!(error.code(), "log-unavailable");
    assert!(
        error.to_string().contains(file.to_str().unwrap()),
        "{error}"
    );
}

#[test]
fn a_database_half_created_is_created_anew() {
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("db.new");
    std::fs::create_dir_all(new.join("keyspaces")).unwrap();
    std::fs::write(new.join("0.jnl"), "").unwrap();
    std::fs::write(dir.path().join("mark.new"), "").unwrap();
    let log = open(dir.path());
    log.ensure_topics(&[deleted(&"a".into(), 1)]).unwrap();
    log.close();
    assert!(!new.exists());

    // The process was killed after it wrote the mark, and before it renamed the database.
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close();
    std::fs::rename(dir.path().join("db"), dir.path().join("db.new")).unwrap();
    let log = open(dir.path());
    log.ensure_topics(&[deleted(&"a".into(), 1)]).unwrap();
}

#[test]
fn another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let store = log.shared.store().unwrap();
    let mut batch = store.batch();
    batch.insert(&store.meta, rows::FORMAT_KEY, "2");
    batch.commit().unwrap();
    drop(store);
    log.close();
    let error = Embedded::open(dir.path(), config()).unwrap_err();
    assert_eq!(error.code(), "log-unavailable");
    assert!(error.to_string().contains("format 2"), "{error}");
}

#[test]
fn a_configuration_out_of_range_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config.partitions = 0;
    let error = Embedded::open(dir.path(), config).unwrap_err();
    assert_eq!(error.code(), "log-invalid");
}

#[test]
fn a_damaged_batch_stops_its_partition_alone() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let topic = "a".into();
    log.ensure_topics(&[deleted(&topic, 2)]).unwrap();
    append(&*log, &topic, 0, &["before"]);
    append(&*log, &topic, 0, &["damaged"]);
    append(&*log, &topic, 0, &["after"]);
    append(&*log, &topic, 1, &["other"]);
    let store = log.shared.store().unwrap();
    let id = log.shared.topics.read().get("a").unwrap().id;
    let mut batch = store.batch();
    batch.insert(&store.records, rows::record_key(id, 0, 1), "not a batch");
    batch.commit().unwrap();
    drop(store);

    let read = |from| log.read(&topic, PartitionId(0), Offset(from), 1000);
    assert_eq!(read(0).unwrap().len(), 1, "what is before it comes first");
    let error = read(1).unwrap_err();
    assert_eq!(error.code(), "log-corrupt");
    assert!(error.to_string().contains("a/0/1"), "{error}");

    let mut member = join(&*log, "g", &topic, 0, 1);
    assigned(&mut *member, 2);
    let (mut records, mut stopped) = (0, 0);
    while records < 2 || stopped < 1 {
        match next(&mut *member) {
            Polled::Records(fetched) => {
                records += fetched
                    .iter()
                    .map(|fetched| fetched.records.len())
                    .sum::<usize>();
            }
            Polled::Stopped { partition, error } => {
                assert_eq!((partition, error.code()), (PartitionId(0), "log-corrupt"));
                stopped += 1;
            }
            polled => panic!("{polled:?}"),
        }
    }
    assert!(
        matches!(member.poll(Duration::ZERO, 1000).unwrap(), Polled::Idle),
        "told once"
    );
    append(&*log, &topic, 1, &["goes on"]);
    assert!(matches!(next(&mut *member), Polled::Records(_)));
    // A seek may skip the damaged batch.
    member.seek(PartitionId(0), Offset(2)).unwrap();
    assert!(matches!(next(&mut *member), Polled::Records(_)));
}

#[test]
fn a_committed_offset_out_of_range_brings_nothing_of_its_partition_alone() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let topic = "a".into();
    log.ensure_topics(&[deleted(&topic, 2)]).unwrap();
    append(&*log, &topic, 0, &["x"]);
    append(&*log, &topic, 1, &["y"]);
    let mut member = join(&*log, "g", &topic, 0, 1);
    assigned(&mut *member, 2);
    let offsets = vec![(PartitionId(0), Offset(1)), (PartitionId(1), Offset(1))];
    member
        .commit(&Commit {
            offsets,
            ..Commit::default()
        })
        .unwrap();
    drop(member);
    // Someone restored an older partition beside newer offsets.
    let store = log.shared.store().unwrap();
    let id = log.shared.topics.read().get("a").unwrap().id;
    let mut batch = store.batch();
    let row = rows::PartitionRow::default().to_bytes();
    batch.insert(&store.meta, rows::partition_key(id, 0), row);
    batch.commit().unwrap();
    drop(store);
    log.close();

    let log = open(dir.path());
    let mut member = join(&*log, "g", &topic, 0, 1);
    let all = assigned(&mut *member, 2);
    assert_eq!(all[0].committed, Some(Offset(1)));
    assert!(!all[0].bounds.hold(Offset(1)), "{all:?}");
    append(&*log, &topic, 0, &["z"]);
    append(&*log, &topic, 1, &["z"]);
    let Polled::Records(fetched) = next(&mut *member) else {
        panic!("the other does not go on");
    };
    assert_eq!(fetched[0].partition, PartitionId(1));
    assert_eq!(fetched.len(), 1);
}

#[test]
fn topics_keep_their_ids() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let log = open(dir.path());
        let names = ["a", "b", "c"].map(Into::into);
        log.ensure_topics(&[deleted(&names[0], 1), compacted(&names[1], 1)])
            .unwrap();
        if round > 0 {
            log.ensure_topics(&[deleted(&names[2], 1)]).unwrap();
            append(&*log, &names[2], 0, &["c"]);
        }
        append(&*log, &names[0], 0, &["a"]);
        append(&*log, &names[1], 0, &["b"]);
        for (topic, value) in [(&names[0], "a"), (&names[1], "b")] {
            assert_eq!(values(&*log, topic, 0, 0), vec![value; round + 1]);
        }
    }
}
