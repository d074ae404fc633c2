//! Disks that are full or cannot be written. The tests mount small file systems, for
//! which they need root.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bytes::Bytes;
use bytesize::ByteSize;
use courtside_types::{NewRecord, Offset, PartitionId, Record, Topic, TopicPartition};
use rand::SeedableRng as _;
use tempfile::TempDir;

use super::config;
use crate::{
    Commit, Health, LogError, RecordLog,
    conformance::{append, assigned, deleted, join, read_all, record, values, wait},
    embedded::{Embedded, EmbeddedConfig},
};

/// A file system in memory, mounted until dropped.
struct Mounted(TempDir);

impl Mounted {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = rustix::process::geteuid().is_root()
            && Command::new("mount")
                .args([
                    "-t",
                    "tmpfs",
                    "-o",
                    &format!("size={size}"),
                    "courtside-test",
                ])
                .arg(dir.path())
                .status()
                .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: needs root, to mount a small file system");
        }
        mounted.then_some(Self(dir))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn fill(&self, bytes: usize) -> PathBuf {
        let file = self.0.path().join("ballast");
        std::fs::write(&file, vec![1; bytes]).unwrap();
        file
    }

    fn remount(&self, mode: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{mode}")])
            .arg(self.0.path())
            .status()
            .unwrap();
        assert!(status.success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn open(path: &Path, free_min: ByteSize) -> std::sync::Arc<Embedded> {
    let config = EmbeddedConfig {
        disk_free_min: free_min,
        ..config()
    };
    Embedded::open(path, config).unwrap()
}

fn try_append(log: &dyn RecordLog, topic: &Topic, new: &NewRecord) -> Result<u64, LogError> {
    let future = log.append(topic, vec![(PartitionId(0), new.clone())])?;
    let position = wait(future).pop().unwrap()?;
    Ok(position.offset.0)
}

/// Fails while the writer opens the store anew, which may happen several times.
fn try_read_all(log: &dyn RecordLog, topic: &Topic) -> Result<Vec<Record>, LogError> {
    let mut records: Vec<Record> = Vec::new();
    loop {
        let more = log.read(topic, PartitionId(0), Offset(records.len() as u64), 1 << 20)?;
        if more.is_empty() {
            return Ok(records);
        }
        records.extend(more);
    }
}

fn until<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    for _ in 0..6000 {
        if let Some(done) = attempt() {
            return done;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it does not come back");
}

#[test]
fn a_disk_with_too_little_room_is_read_only_until_there_is_room() {
    let Some(disk) = Mounted::new("64m") else {
        return;
    };
    let log = open(&disk.path(), ByteSize::mib(32));
    let (topic, out): (Topic, Topic) = ("a".into(), "out".into());
    log.ensure_topics(&[deleted(&topic, 1), deleted(&out, 1)])
        .unwrap();
    append(&*log, &topic, 0, &["before"]);
    let mut member = join(&*log, "g", &topic, 0, 1);
    assigned(&mut *member, 1);
    let ballast = disk.fill(40 << 20);
    let error = until(|| try_append(&*log, &topic, &record("k", "x")).err());
    assert_eq!(error.code(), "disk-full");
    assert!(matches!(
        log.health(),
        Health::ReadOnly {
            code: "disk-full",
            ..
        }
    ));
    let commit = Commit {
        records: vec![(
            TopicPartition {
                topic: out.clone(),
                partition: PartitionId(0),
            },
            record("k", "once"),
        )],
        offsets: vec![(PartitionId(0), Offset(1))],
        ..Commit::default()
    };
    assert_eq!(member.commit(&commit).unwrap_err().code(), "disk-full");
    let error = log.ensure_topics(&[deleted(&"b".into(), 1)]).unwrap_err();
    assert_eq!(error.code(), "disk-full");
    assert_eq!(values(&*log, &topic, 0, 0)[0], "before", "reads go on");
    let read = values(&*log, &topic, 0, 0).len();

    std::fs::remove_file(ballast).unwrap();
    until(|| (log.health() == Health::Ready).then_some(()));
    assert_eq!(
        try_append(&*log, &topic, &record("k", "after")),
        Ok(read as u64)
    );
    member.commit(&commit).unwrap();
    assert_eq!(values(&*log, &out, 0, 0), ["once"]);
}

fn noise(rng: &mut impl rand::RngCore, len: usize) -> NewRecord {
    let mut value = vec![0; len];
    rng.fill_bytes(&mut value);
    NewRecord {
        value: Some(Bytes::from(value)),
        ..record("k", "")
    }
}

#[test]
fn a_write_that_fails_is_whole_or_not_there_and_all_goes_on() {
    // The journal takes all the room there is.
    write_until_full("48m", 16 << 20, &["disk-full"]);
}

#[test]
fn a_failure_in_the_background_is_told_and_all_goes_on() {
    // The disk has room for the journal, and not for the tables that its rows go to.
    // The next write learns that the database takes no further writes.
    write_until_full("90m", 34 << 20, &["log-unavailable", "disk-full"]);
}

/// Nothing is kept free here, so that writes do fail.
fn write_until_full(size: &str, ballast_bytes: usize, codes: &[&str]) {
    let Some(disk) = Mounted::new(size) else {
        return;
    };
    let ballast = disk.fill(ballast_bytes);
    let log = open(&disk.path(), ByteSize::b(0));
    let (topic, out): (Topic, Topic) = ("a".into(), "out".into());
    log.ensure_topics(&[deleted(&topic, 1), deleted(&out, 1)])
        .unwrap();
    let mut member = join(&*log, "g", &topic, 0, 1);
    assigned(&mut *member, 1);
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let place = TopicPartition {
        topic: out.clone(),
        partition: PartitionId(0),
    };

    // Each append is followed by its commit, until one of them fails.
    let mut known = Vec::new();
    let mut done = 0_u64;
    let error = loop {
        let new = noise(&mut rng, 300_000);
        match try_append(&*log, &topic, &new) {
            Ok(offset) => known.push((offset, new.value)),
            Err(error) => break error,
        }
        let commit = Commit {
            records: vec![(place.clone(), noise(&mut rng, 100_000))],
            checkpoints: vec![(
                PartitionId(0),
                "k".into(),
                Some((done + 1).to_string().into()),
            )],
            offsets: vec![(PartitionId(0), Offset(done + 1))],
        };
        match member.commit(&commit) {
            Ok(()) => done += 1,
            Err(error) => break error,
        }
        assert!(known.len() < 1000, "the disk is never full");
    };
    assert!(codes.contains(&error.code()), "{error}");
    let check = |log: &dyn RecordLog| {
        let records = until(|| try_read_all(log, &topic).ok());
        for (offset, value) in &known {
            assert_eq!(&records[*offset as usize].value, value);
        }
    };
    check(&*log);

    std::fs::remove_file(ballast).unwrap();
    for value in ["after", "and on"] {
        until(|| try_append(&*log, &topic, &record("k", value)).ok());
    }
    check(&*log);
    until(|| (log.health() == Health::Ready).then_some(()));
    // The member repeats the commit with more in it, like a worker that went on.
    let next = done + 2;
    let commit = Commit {
        records: vec![
            (place.clone(), record("k", "one")),
            (place, record("k", "two")),
        ],
        checkpoints: vec![(PartitionId(0), "k".into(), Some(next.to_string().into()))],
        offsets: vec![(PartitionId(0), Offset(next))],
    };
    let records = |log: &dyn RecordLog| read_all(log, &out, 0, 0).len() as u64;
    let happened = records(&*log);
    match member.commit(&commit) {
        Ok(()) => assert_eq!((happened, records(&*log)), (done, next)),
        Err(error) => {
            assert_eq!(error.code(), "fenced");
            assert_eq!((happened, records(&*log)), (done + 1, done + 1));
        }
    }
    let committed = records(&*log);
    log.close();
    let log = open(&disk.path(), ByteSize::b(0));
    check(&*log);
    assert_eq!(records(&*log), committed);
    let status = log.group_status("g", &topic).unwrap();
    assert_eq!(status.committed.values().next(), Some(&Offset(committed)));
    let checkpoint = log
        .checkpoints("g")
        .unwrap()
        .get(PartitionId(0), b"k")
        .unwrap();
    assert_eq!(checkpoint.unwrap(), committed.to_string());
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let Some(disk) = Mounted::new("16m") else {
        return;
    };
    for create in [false, true] {
        if create {
            open(&disk.path(), ByteSize::b(0)).close();
        }
        disk.remount("ro");
        let error = Embedded::open(disk.path(), config()).unwrap_err();
        assert_eq!(error.code(), "log-unavailable");
        let path = disk.path();
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        disk.remount("rw");
    }
}
