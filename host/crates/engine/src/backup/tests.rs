//! Backups of an embedded engine, written and read in process.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use courtside_log::{
    Commit, RecordLog as _,
    conformance::{append, assigned, deleted, join, read_all, record, values},
    embedded::{Embedded, EmbeddedConfig},
};
use courtside_types::{
    Offset, PartitionId, Record, Topic, TopicPartition, failure::ErrorCode as _,
};
use tempfile::TempDir;

use super::{
    BackupError, MANIFEST,
    frames::FrameWriter,
    manifest::{Manifest, files},
    source::Source,
    target::{Draft, copy},
    verify,
};

const GROUP: &str = "g";

fn input() -> Topic {
    "in".into()
}

struct Data {
    dir: TempDir,
    log: Arc<Embedded>,
}

impl Data {
    /// A data directory with records, an offset, a checkpoint and a plugin's copy.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Embedded::open(dir.path().join("log"), EmbeddedConfig::default()).unwrap();
        let topics = [deleted(&input(), 2), deleted(&"out".into(), 1)];
        log.ensure_topics(&topics).unwrap();
        append(&*log, &input(), 0, &["a", "b", "c"]);
        append(&*log, &input(), 1, &["d"]);
        let mut member = join(&*log, GROUP, &input(), 0, 1);
        assigned(&mut *member, 2);
        let place = TopicPartition {
            topic: "out".into(),
            partition: PartitionId(0),
        };
        member
            .commit(&Commit {
                records: vec![(place, record("k", "sum"))],
                checkpoints: vec![(PartitionId(0), "k".into(), Some("state".into()))],
                offsets: vec![(PartitionId(0), Offset(2))],
            })
            .unwrap();
        let plugins = dir.path().join("plugins/scores");
        fs::create_dir_all(&plugins).unwrap();
        fs::write(plugins.join("ab.wasm"), b"wasm").unwrap();
        fs::write(plugins.join("active.json"), b"{}").unwrap();
        fs::write(plugins.join("other"), b"of nobody").unwrap();
        Self { dir, log }
    }

    fn source(&self) -> Source {
        Source::new(self.dir.path(), self.log.backup().unwrap())
    }
}

fn backed_up() -> (Data, TempDir, Manifest) {
    let data = Data::new();
    let to = tempfile::tempdir().unwrap();
    let draft = Draft::new(&to.path().join("backup")).unwrap();
    let manifest = copy(draft, data.source()).unwrap();
    (data, to, manifest)
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn read(log: &Embedded, partition: u32) -> Vec<Record> {
    read_all(log, &input(), partition, 0)
}

#[test]
fn a_backup_has_all_that_was_there_and_another_log_starts_on_it() {
    let (data, to, manifest) = backed_up();
    let dir = to.path().join("backup");
    assert_eq!(names(to.path()), ["backup"]);
    assert_eq!(names(&dir), ["backup.json", "log", "plugins"]);
    assert_eq!(
        names(&dir.join("plugins/scores")),
        ["ab.wasm", "active.json"]
    );
    let topic = &manifest.log.topics["in"];
    let ends: Vec<_> = topic.partitions.iter().map(|row| row.end).collect();
    assert_eq!(ends, [3, 1]);
    assert_eq!(topic.committed[GROUP], BTreeMap::from([(0, 2)]));
    assert_eq!(verify(&dir).unwrap(), manifest);
    // A verification changes nothing.
    assert_eq!(verify(&dir).unwrap(), manifest);

    append(&*data.log, &input(), 0, &["later"]);
    let log = Embedded::open(dir.join("log"), EmbeddedConfig::default()).unwrap();
    assert_eq!(values(&*log, &input(), 0, 0), ["a", "b", "c"]);
    assert_eq!(read(&log, 1), read(&data.log, 1));
    let status = log.group_status(GROUP, &input()).unwrap();
    assert_eq!(status.committed[&PartitionId(0)], Offset(2));
    let checkpoints = log.checkpoints(GROUP).unwrap();
    let state = checkpoints.get(PartitionId(0), b"k").unwrap();
    assert_eq!(state.as_deref(), Some(&b"state"[..]));
    assert_eq!(
        log.topic_ids(&[input()]).unwrap(),
        data.log.topic_ids(&[input()]).unwrap()
    );
    append(&*log, &input(), 0, &["goes on"]);
}

#[test]
fn one_changed_byte_of_any_file_shows_and_so_does_a_file_more_or_less() {
    let (_data, to, _) = backed_up();
    let dir = to.path().join("backup");
    let mut all: Vec<_> = files(&dir).unwrap().into_values().collect();
    all.push(dir.join(MANIFEST));
    assert!(all.len() > 8, "{all:?}");
    for path in all {
        let whole = fs::read(&path).unwrap();
        for at in [0, whole.len() / 2, whole.len().saturating_sub(1)] {
            let mut changed = whole.clone();
            let Some(byte) = changed.get_mut(at) else {
                continue;
            };
            *byte ^= 1;
            fs::write(&path, changed).unwrap();
            let error = verify(&dir).unwrap_err();
            let code = error.code();
            assert!(
                ["backup-changed", "backup-invalid"].contains(&code),
                "{}: {error}",
                path.display()
            );
        }
        fs::remove_file(&path).unwrap();
        assert!(verify(&dir).is_err(), "{} is gone", path.display());
        fs::write(&path, whole).unwrap();
    }
    verify(&dir).unwrap();
    fs::write(dir.join("log/more"), b"").unwrap();
    assert_eq!(verify(&dir).unwrap_err().code(), "backup-changed");
}

/// A manifest that somebody made to fit does not hide what the log lacks.
#[test]
fn a_manifest_that_fits_damaged_tables_does_not_hide_them() {
    let (_data, to, manifest) = backed_up();
    let dir = to.path().join("backup");
    let found = files(&dir).unwrap();
    let of_records = |path: &str| path.contains("keyspaces/1/tables/");
    let table = found.keys().find(|path| of_records(path)).unwrap().clone();
    let path = dir.join(&table);
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut entries = manifest.files;
    entries.insert(table, super::manifest::entry(&path).unwrap());
    let mut fitting = Manifest::new(entries, manifest.log, manifest.created_ms);
    fs::write(dir.join(MANIFEST), fitting.seal().unwrap()).unwrap();
    assert_eq!(verify(&dir).unwrap_err().code(), "log-corrupt");
}

#[test]
fn a_backup_beside_a_writer_is_of_one_moment() {
    let data = Data::new();
    let to = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let topic = input();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Each record of partition 1 follows one of partition 0.
            while !stop.load(Ordering::Relaxed) {
                append(&*data.log, &topic, 0, &["x"]);
                append(&*data.log, &topic, 1, &["x"]);
            }
        });
        for number in 0..4 {
            let dir = to.path().join(number.to_string());
            let before = data.log.bounds(&topic).unwrap();
            let manifest = copy(Draft::new(&dir).unwrap(), data.source()).unwrap();
            let after = data.log.bounds(&topic).unwrap();
            assert_eq!(verify(&dir).unwrap(), manifest);
            let ends = &manifest.log.topics["in"].partitions;
            for ((end, before), after) in ends.iter().zip(&before).zip(&after) {
                assert!((before.end.0..=after.end.0).contains(&end.end));
            }
            let ahead = ends[0].end - ends[1].end;
            assert!(ahead == 2 || ahead == 3, "{ends:?}");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn one_backup_runs_at_a_time() {
    let data = Data::new();
    let first = data.log.backup().unwrap();
    let error = data.log.backup().map(drop).unwrap_err();
    assert_eq!(error.code(), "backup-running");
    drop(first);
    data.log.backup().map(drop).unwrap();
}

#[test]
fn what_is_not_whole_leaves_nothing_behind() {
    let to = tempfile::tempdir().unwrap();
    let dir = to.path().join("backup");
    let code = |outcome: Result<Manifest, BackupError>| outcome.unwrap_err().code().to_owned();
    let mut sent = FrameWriter::default();
    sent.file("plugins/scores/active.json", b"{}");
    sent.row(1, b"v", b"1");
    let half = sent.take_page();
    let with = |more: &dyn Fn(&mut FrameWriter)| {
        let mut sent = FrameWriter::default();
        more(&mut sent);
        sent.take_page()
    };
    let cases = [
        ("backup-cut-short", half),
        ("backup-cut-short", b"nothing".to_vec()),
        (
            "log-corrupt",
            with(&|sent| sent.failure("log-corrupt", "a table")),
        ),
        ("backup-cut-short", with(&|sent| sent.file("../evil", b""))),
        (
            "backup-cut-short",
            with(&|sent| sent.file("/plugins/scores/evil", b"")),
        ),
        (
            "backup-cut-short",
            with(&|sent| sent.file("plugins/../evil", b"")),
        ),
        ("log-corrupt", with(&|sent| sent.row(9, b"k", b""))),
        ("log-corrupt", with(&|sent| sent.row(1, &[0], b""))),
        ("log-unavailable", with(&|sent| sent.row(1, b"v", b"7"))),
    ];
    for (expected, bytes) in cases {
        let draft = Draft::new(&dir).unwrap();
        assert_eq!(code(draft.fill(io::Cursor::new(bytes))), expected);
        assert_eq!(names(to.path()), [""; 0]);
    }
}

#[test]
fn a_directory_that_is_there_is_never_written_to() {
    let (data, to, _) = backed_up();
    let dir = to.path().join("backup");
    assert_eq!(Draft::new(&dir).unwrap_err().code(), "backup-exists");
    let other = to.path().join("other");
    let draft = Draft::new(&other).unwrap();
    assert_eq!(Draft::new(&other).unwrap_err().code(), "backup-running");
    // A directory that comes meanwhile stays as it is.
    fs::create_dir(&other).unwrap();
    let error = copy(draft, data.source()).unwrap_err();
    assert_eq!(error.code(), "backup-exists", "{error}");
    assert_eq!(names(&other), [""; 0]);
    assert_eq!(names(to.path()), ["backup", "other"]);
}

#[test]
fn a_directory_that_no_command_left_is_not_removed() {
    let data = Data::new();
    let to = tempfile::tempdir().unwrap();
    let finished = to.path().join("backup.partial");
    let manifest = copy(Draft::new(&finished).unwrap(), data.source()).unwrap();
    let error = Draft::new(&to.path().join("backup")).unwrap_err();
    assert_eq!(error.code(), "backup-exists", "{error}");
    assert_eq!(verify(&finished).unwrap(), manifest);
    // Files of others, also beside a lock.
    let others = to.path().join("other.partial");
    fs::create_dir(&others).unwrap();
    for name in ["lock", "letter.txt"] {
        fs::write(others.join(name), "dear").unwrap();
    }
    let error = Draft::new(&to.path().join("other")).unwrap_err();
    assert_eq!(error.code(), "backup-exists", "{error}");
    assert_eq!(names(&others), ["letter.txt", "lock"]);
}

#[test]
fn what_a_killed_command_left_is_removed_by_the_next_and_is_no_data_directory() {
    let data = Data::new();
    let to = tempfile::tempdir().unwrap();
    let dir = to.path().join("backup");
    let partial = to.path().join("backup.partial");
    fs::create_dir_all(partial.join("unfinished/db")).unwrap();
    fs::create_dir_all(partial.join("plugins/scores")).unwrap();
    // Nobody holds the lock of a command that was killed.
    fs::write(partial.join("lock"), "").unwrap();
    let manifest = copy(Draft::new(&dir).unwrap(), data.source()).unwrap();
    assert_eq!(verify(&dir).unwrap(), manifest);
    assert_eq!(names(to.path()), ["backup"]);
}
