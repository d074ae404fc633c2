//! Stores that were damaged while no host ran. All acknowledged data is there, or the
//! start (or the first read) fails with `log-corrupt` and leaves the files as they are.

mod cases;
mod chance;
mod copies;
mod journals;

use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::LazyLock,
};

use bytes::Bytes;
use courtside_types::{NewRecord, Offset, PartitionId, Topic, TopicPartition};
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use super::{config, open};
use crate::{
    Commit, LogError, RecordLog as _,
    conformance::{self, assigned, compacted, deleted, join, wait},
    embedded::Embedded,
};

const PARTITIONS: u32 = 3;
const GROUP: &str = "g";

fn topics() -> (Topic, Topic) {
    ("in".into(), "out".into())
}

/// All data of a store that the tests compare.
#[derive(Clone, Debug, Default, PartialEq)]
struct Contents {
    records: BTreeMap<(&'static str, u32), Vec<(u64, Bytes)>>,
    committed: BTreeMap<PartitionId, Offset>,
    checkpoints: BTreeMap<u32, Option<Bytes>>,
}

impl Contents {
    fn read(log: &Embedded) -> Result<Self, LogError> {
        let (input, output) = topics();
        let mut contents = Self::default();
        for (name, topic) in [("in", &input), ("out", &output)] {
            for (partition, bounds) in (0..).zip(log.bounds(topic)?) {
                let mut records = Vec::new();
                let mut at = bounds.start;
                while at < bounds.end {
                    let read = log.read(topic, PartitionId(partition), at, 1 << 20)?;
                    let Some(last) = read.last() else { break };
                    at = Offset(last.offset.0 + 1);
                    let read = read.into_iter();
                    records.extend(
                        read.map(|record| (record.offset.0, record.value.unwrap_or_default())),
                    );
                }
                contents.records.insert((name, partition), records);
            }
        }
        contents.committed = log.group_status(GROUP, &input)?.committed;
        let checkpoints = log.checkpoints(GROUP)?;
        for partition in 0..PARTITIONS {
            let value = checkpoints.get(PartitionId(partition), b"k")?;
            contents.checkpoints.insert(partition, value);
        }
        Ok(contents)
    }
}

/// A store at several moments of its life.
struct Lives {
    dir: TempDir,
    /// The data acknowledged when the host was killed the last time.
    acknowledged: Contents,
    /// The data acknowledged at the clean stop before.
    late: Contents,
    /// The acknowledged data, and the one write that was never answered.
    unanswered: Contents,
    /// The place in the last journal where the unanswered write begins.
    unanswered_at: u64,
}

/// A moment of a store's life, which is a directory of a [`Lives`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// After a clean stop, long ago.
    Early,
    /// After a clean stop, not so long ago.
    Late,
    /// Killed, with everything answered.
    Killed,
    /// Killed between a sync and the mark.
    Unanswered,
}

static LIVES: LazyLock<Lives> = LazyLock::new(Lives::new);

impl Lives {
    fn path(&self, moment: Moment) -> PathBuf {
        self.dir.path().join(format!("{moment:?}"))
    }

    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("live");
        let at = |moment: Moment| dir.path().join(format!("{moment:?}"));
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let log = open(&live);
        let (input, output) = topics();
        log.ensure_topics(&[deleted(&input, PARTITIONS), compacted(&output, 1)])
            .unwrap();
        work(&log, 30, &mut random);
        log.close();
        // Opening the store again releases the room allocated in advance.
        open(&live).close();
        copy(&live, &at(Moment::Early));

        let log = open(&live);
        work(&log, 30, &mut random);
        write_out(&log);
        work(&log, 10, &mut random);
        write_out(&log);
        let late = Contents::read(&log).unwrap();
        log.close();
        copy(&live, &at(Moment::Late));

        let log = open(&live);
        work(&log, 40, &mut random);
        write_out(&log);
        work(&log, 40, &mut random);
        let acknowledged = Contents::read(&log).unwrap();
        copy(&live, &at(Moment::Killed));
        let unanswered_at = journal(&live).1;
        // Some 40 pages, in one write.
        append(&log, 0, 40, &mut random);
        let unanswered = Contents::read(&log).unwrap();
        copy(&live, &at(Moment::Unanswered));
        fs::copy(
            at(Moment::Killed).join("mark"),
            at(Moment::Unanswered).join("mark"),
        )
        .unwrap();
        log.close();
        fs::remove_dir_all(live).unwrap();
        Self {
            dir,
            acknowledged,
            late,
            unanswered,
            unanswered_at,
        }
    }

    /// A copy of a moment, to be damaged.
    fn copy(&self, moment: Moment) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        copy(&self.path(moment), dir.path());
        dir
    }
}

/// Appends records of 4 KiB that do not compress, in one write.
fn append(log: &Embedded, partition: u32, count: usize, random: &mut ChaCha8Rng) {
    let (input, _) = topics();
    let records = (0..count).map(|_| {
        let mut value = vec![
            0;
            if count > 1 {
                4096
            } else {
                random.random_range(1..4000)
            }
        ];
        random.fill_bytes(&mut value);
        let record = NewRecord {
            key: Some(Bytes::from_static(b"k")),
            value: Some(value.into()),
            ..conformance::record("k", "")
        };
        (PartitionId(partition), record)
    });
    for appended in wait(log.append(&input, records.collect()).unwrap()) {
        appended.unwrap();
    }
}

/// Appends, and commits an output, a checkpoint and an offset for each.
fn work(log: &Embedded, rounds: usize, random: &mut ChaCha8Rng) {
    let (input, output) = topics();
    let mut member = join(log, GROUP, &input, 0, 1);
    let places = assigned(&mut *member, PARTITIONS as usize);
    let mut next: BTreeMap<u32, u64> = places
        .iter()
        .map(|place| (place.partition.0, place.next().0))
        .collect();
    for _ in 0..rounds {
        let partition = random.random_range(0..PARTITIONS);
        append(log, partition, 1, random);
        let offset = next.get_mut(&partition).unwrap();
        *offset += 1;
        let value = offset.to_string();
        let place = TopicPartition {
            topic: output.clone(),
            partition: PartitionId(0),
        };
        let key = format!("{partition}-{value}");
        let record = conformance::record(&key, &value);
        member
            .commit(&Commit {
                records: vec![(place, record)],
                checkpoints: vec![(PartitionId(partition), "k".into(), Some(value.into()))],
                offsets: vec![(PartitionId(partition), Offset(*offset))],
            })
            .unwrap();
    }
}

/// Moves all rows from memory into tables.
fn write_out(log: &Embedded) {
    let store = log.shared.store().unwrap();
    for keyspace in [&store.records, &store.meta, &store.checkpoints] {
        keyspace.rotate_memtable_and_wait().unwrap();
    }
}

/// The last journal, and how much of it is written.
fn journal(dir: &Path) -> (PathBuf, u64) {
    let journals = files(dir)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    let path = dir.join(journals.max().unwrap());
    let written = written(&fs::read(&path).unwrap()) as u64;
    (path, written)
}

/// The length of a file without the zeros at its end.
fn written(bytes: &[u8]) -> usize {
    let zeros = [0; 4096];
    let page = bytes
        .chunks(zeros.len())
        .rposition(|page| *page != zeros[..page.len()]);
    let to = page.map_or(0, |page| ((page + 1) * zeros.len()).min(bytes.len()));
    let last = bytes[..to].iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| last + 1)
}

/// The files of a store, without the lock, which is empty.
fn files(dir: &Path) -> Vec<PathBuf> {
    fn walk(root: &Path, dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, dir, &mut found);
    found.retain(|path| path != Path::new("lock"));
    found.sort();
    found
}

/// Copies a directory. Room that was allocated in advance stays a hole.
fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let bytes = fs::read(from.join(&file)).unwrap();
        let to = to.join(&file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(&to, &bytes[..written(&bytes)]).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&to).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
    }
    // Empty folders are part of a store.
    for folder in ["tables", "blobs"] {
        for keyspace in 0..4 {
            let keyspace = Path::new("db/keyspaces").join(keyspace.to_string());
            if from.join(&keyspace).join(folder).is_dir() {
                fs::create_dir_all(to.join(&keyspace).join(folder)).unwrap();
            }
        }
    }
}

/// All files of a store, byte for byte.
fn bytes(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |path: PathBuf| {
        let bytes = fs::read(dir.join(&path)).unwrap();
        (path, bytes)
    };
    files(dir).into_iter().map(read).collect()
}

/// The outcome of a start on a damaged store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    RefusedAtStart,
    RefusedAtRead,
    /// The acknowledged data is there, and the unanswered write if there was one.
    Whole,
    /// The acknowledged data is there, and the unanswered write was cut off.
    Cut,
}

/// Starts a host on a damaged store. A refusal must leave all files as they are, and
/// the next start must refuse as well. A start must bring all acknowledged data.
fn start(dir: &Path, moment: Moment) -> (Outcome, String) {
    let before = bytes(dir);
    let log = match Embedded::open(dir, config()) {
        Ok(log) => log,
        Err(error) => {
            assert_eq!(error.code(), "log-corrupt", "{error}");
            assert!(before == bytes(dir), "files were changed: {error}");
            let again = Embedded::open(dir, config()).unwrap_err();
            assert_eq!(again.to_string(), error.to_string());
            return (Outcome::RefusedAtStart, error.to_string());
        }
    };
    let contents = Contents::read(&log);
    log.close();
    match contents {
        Ok(contents) if moment == Moment::Unanswered => {
            let is_whole = contents == LIVES.unanswered;
            assert!(is_whole || contents == LIVES.acknowledged, "silent");
            let outcome = if is_whole {
                Outcome::Whole
            } else {
                Outcome::Cut
            };
            (outcome, String::new())
        }
        Ok(contents) => {
            let expected = match moment {
                Moment::Late => &LIVES.late,
                _ => &LIVES.acknowledged,
            };
            assert!(contents == *expected, "silent");
            (Outcome::Whole, String::new())
        }
        Err(error) => {
            assert_eq!(error.code(), "log-corrupt", "{error}");
            (Outcome::RefusedAtRead, error.to_string())
        }
    }
}

/// Calls [`start`]. A failure names the seed.
fn start_seeded(dir: &Path, moment: Moment, what: &str) -> (Outcome, String) {
    let started = catch_unwind(AssertUnwindSafe(|| start(dir, moment)));
    started.unwrap_or_else(|_| panic!("{what}: see above"))
}
