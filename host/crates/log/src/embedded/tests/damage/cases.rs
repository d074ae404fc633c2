//! Damage of known kinds, and the message for each.

use std::{
    io::{self, Write},
    sync::Arc,
};

use parking_lot::Mutex;

use super::*;

/// Damages a store by hand; the start must be refused with these words.
fn refused(moment: Moment, words: &str, damage: impl FnOnce(&Path)) {
    let dir = LIVES.copy(moment);
    damage(dir.path());
    let (outcome, reason) = start(dir.path(), moment);
    assert_eq!(outcome, Outcome::RefusedAtStart, "{words}");
    assert!(reason.contains(words), "{reason}");
}

fn zero(path: &Path, at: u64, len: usize) {
    use std::os::unix::fs::FileExt as _;
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0; len], at).unwrap();
}

fn older(dir: &Path, moment: Moment, file: &str) {
    fs::copy(LIVES.path(moment).join(file), dir.join(file)).unwrap();
}

#[test]
fn stores_that_nobody_damaged_are_whole() {
    for moment in [Moment::Late, Moment::Killed, Moment::Unanswered] {
        let dir = LIVES.copy(moment);
        assert_eq!(start(dir.path(), moment).0, Outcome::Whole);
        assert_eq!(start(dir.path(), moment).0, Outcome::Whole);
    }
}

#[test]
fn a_journal_that_ends_early_is_refused_with_what_is_missing() {
    let (_, written) = journal(&LIVES.path(Moment::Killed));
    for place in 1..8 {
        let at = written * place / 8;
        refused(Moment::Killed, "offsets", |dir| {
            zero(&journal(dir).0, at / 4096 * 4096, 4096);
        });
        refused(Moment::Killed, "acknowledged up to commit", |dir| {
            let file = fs::OpenOptions::new().write(true).open(journal(dir).0);
            file.unwrap().set_len(at).unwrap();
        });
    }
    // Only the last byte is damaged.
    refused(Moment::Killed, "offsets", |dir| {
        zero(&journal(dir).0, written - 1, 1);
    });
    refused(Moment::Killed, "offsets", |dir| {
        fs::write(journal(dir).0, "").unwrap();
    });
    refused(Moment::Killed, "has no journal", |dir| {
        fs::remove_file(journal(dir).0).unwrap();
    });
}

#[test]
fn what_is_missing_is_told_by_partition_and_in_bytes() {
    let dir = LIVES.copy(Moment::Killed);
    zero(&journal(dir.path()).0, 0, 4096);
    let reason = start(dir.path(), Moment::Killed).1;
    let (_, rest) = reason.split_once("missing ").unwrap();
    let bytes: u64 = rest.split_once(" bytes").unwrap().0.parse().unwrap();
    assert!(bytes > 10_000, "{reason}");
    for ((topic, partition), records) in &LIVES.acknowledged.records {
        let end = records.last().unwrap().0 + 1;
        let (_, offsets) = reason
            .split_once(&format!("{topic}/{partition} offsets "))
            .unwrap_or_else(|| panic!("{topic}/{partition}: {reason}"));
        let (from, to) = offsets.split_once(" to ").unwrap();
        let to = to.split([',', ';']).next().unwrap();
        assert!(from.parse::<u64>().unwrap() < end, "{reason}");
        assert_eq!(to, end.to_string(), "{reason}");
    }
}

#[test]
fn what_fjall_would_create_or_delete_is_refused() {
    refused(Moment::Killed, "db/version is missing", |dir| {
        fs::remove_file(dir.join("db/version")).unwrap();
    });
    for keyspace in 0..4 {
        refused(Moment::Killed, "current is missing", |dir| {
            fs::remove_file(dir.join(format!("db/keyspaces/{keyspace}/current"))).unwrap();
        });
        refused(Moment::Killed, "is missing", |dir| {
            fs::remove_dir_all(dir.join(format!("db/keyspaces/{keyspace}"))).unwrap();
        });
        for folder in ["tables", "blobs"] {
            let folder = format!("db/keyspaces/{keyspace}/{folder}");
            let path = LIVES.path(Moment::Killed).join(&folder);
            if fs::read_dir(path).is_ok_and(|mut files| files.next().is_some()) {
                refused(Moment::Killed, "is damaged", |dir| {
                    fs::remove_dir_all(dir.join(&folder)).unwrap();
                });
            }
        }
    }
    refused(Moment::Killed, "db is missing", |dir| {
        fs::remove_dir_all(dir.join("db")).unwrap();
    });
    refused(Moment::Killed, "does not belong to the store", |dir| {
        fs::create_dir(dir.join("db/keyspaces/9")).unwrap();
    });
}

#[test]
fn a_store_without_its_own_mark_is_refused() {
    refused(Moment::Killed, "mark is missing", |dir| {
        fs::remove_file(dir.join("mark")).unwrap();
    });
    refused(Moment::Killed, "mark is damaged", |dir| {
        fs::write(dir.join("mark"), "").unwrap();
    });
    refused(Moment::Killed, "do not belong together", |dir| {
        let other = tempfile::tempdir().unwrap();
        open(other.path()).close();
        fs::copy(other.path().join("mark"), dir.join("mark")).unwrap();
    });
    refused(Moment::Killed, "older copy", |dir| {
        older(dir, Moment::Late, "mark");
    });
    refused(Moment::Late, "older copy", |dir| {
        older(dir, Moment::Early, "mark");
    });
}

#[test]
fn an_older_copy_of_the_database_beside_the_mark_is_refused() {
    refused(Moment::Killed, "end too early", |dir| {
        fs::remove_dir_all(dir.join("db")).unwrap();
        let other = LIVES.copy(Moment::Late);
        fs::rename(other.path().join("db"), dir.join("db")).unwrap();
    });
    // With its own mark, the older database is a restored backup, and is whole.
    let dir = LIVES.copy(Moment::Late);
    assert_eq!(start(dir.path(), Moment::Late).0, Outcome::Whole);
}

#[test]
fn what_was_never_answered_is_cut_off() {
    let from = LIVES.unanswered_at;
    let (_, to) = journal(&LIVES.path(Moment::Unanswered));
    let pages: Vec<u64> = (from.div_ceil(4096)..to / 4096).collect();
    assert!(pages.len() > 30, "{from} to {to}");
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for round in 0..25 {
        let dir = LIVES.copy(Moment::Unanswered);
        let path = journal(dir.path()).0;
        for _ in 0..=round % 3 {
            let page = pages[random.random_range(0..pages.len())];
            zero(&path, page * 4096, 4096);
        }
        assert_eq!(start(dir.path(), Moment::Unanswered).0, Outcome::Cut);
        assert_eq!(fs::metadata(&path).unwrap().len(), from);
        assert_eq!(start(dir.path(), Moment::Unanswered).0, Outcome::Cut);
    }
    // The journal is cut short instead, as by a file system without room.
    for at in [from + 1, from + 13, (from + to) / 2, to - 1] {
        let dir = LIVES.copy(Moment::Unanswered);
        let file = fs::OpenOptions::new()
            .write(true)
            .open(journal(dir.path()).0);
        file.unwrap().set_len(at).unwrap();
        assert_eq!(start(dir.path(), Moment::Unanswered).0, Outcome::Cut);
    }
}

#[test]
fn a_cut_is_told_in_one_line_with_its_bytes() {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let dir = LIVES.copy(Moment::Unanswered);
    let (path, to) = journal(dir.path());
    zero(&path, to - 4, 4);
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let outcome =
        tracing::subscriber::with_default(subscriber, || start(dir.path(), Moment::Unanswered).0);
    assert_eq!(outcome, Outcome::Cut);
    let log = String::from_utf8(lines.0.lock().clone()).unwrap();
    let cuts: Vec<_> = log
        .lines()
        .filter(|line| line.contains("cut off"))
        .collect();
    assert_eq!(cuts.len(), 1, "{log}");
    let bytes = to - 4 - LIVES.unanswered_at;
    // The checksum before the trailer may end with zeros itself.
    let is_named = (bytes - 8..=bytes).any(|bytes| cuts[0].contains(&format!("bytes={bytes}")));
    assert!(is_named, "{cuts:?}");
}

/// Damage that a whole write follows cannot be the end of the last write.
#[test]
fn damage_before_a_whole_write_is_no_torn_end() {
    let (_, written) = journal(&LIVES.path(Moment::Killed));
    let dir = LIVES.copy(Moment::Killed);
    // A power cut loses the marks of the last two commits.
    let log = open(dir.path());
    let mark = fs::read(dir.path().join("mark")).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(2);
    append(&log, 0, 1, &mut random);
    let before = bytes(dir.path());
    append(&log, 0, 1, &mut random);
    let after = tempfile::tempdir().unwrap();
    copy(dir.path(), after.path());
    log.close();
    assert!(before != bytes(after.path()));
    fs::write(after.path().join("mark"), mark).unwrap();
    zero(&journal(after.path()).0, written + 20, 8);
    let error = Embedded::open(after.path(), config()).unwrap_err();
    assert_eq!(error.code(), "log-corrupt", "{error}");
}

/// The start compares all checksums of a small store, so the test damages the tables
/// after the start.
#[test]
fn damage_to_tables_is_refused_by_the_first_read() {
    let mut refused = 0;
    for seed in 0..30 {
        let dir = LIVES.copy(Moment::Late);
        let log = open(dir.path());
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for file in files(dir.path()) {
            let is_table = file.iter().any(|part| part == "tables" || part == "blobs");
            let path = dir.path().join(&file);
            let len = fs::metadata(&path).unwrap().len();
            if is_table && len > 0 {
                let page = random.random_range(0..len.div_ceil(4096)) * 4096;
                let bytes = usize::try_from((len - page).min(4096)).unwrap();
                zero(&path, page, bytes);
            }
        }
        match Contents::read(&log) {
            Ok(contents) => assert!(contents == LIVES.late, "silent, seed {seed}"),
            Err(error) => {
                assert_eq!(error.code(), "log-corrupt", "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "{refused}");
}
