//! Copies of a directory in use, made file by file as `cp -a` makes them. The start
//! refuses a copy, or the copy has all data acknowledged before it began and is of one
//! moment.
//!
//! `COURTSIDE_TEST_SEEDS` is the number of copies. Each is made from a seed, from 0 on.

use std::sync::Arc;

use rand::seq::SliceRandom as _;

use super::*;
use crate::embedded::EmbeddedConfig;

const SEEDS: u64 = 16;

/// A host at work beside a copy.
struct Host {
    log: Arc<Embedded>,
    random: ChaCha8Rng,
}

impl Host {
    fn new(dir: &Path, seed: u64) -> Self {
        let large = EmbeddedConfig {
            queue_bytes_max: bytesize::ByteSize::mib(64),
            ..config()
        };
        let log = Embedded::open(dir, large).unwrap();
        let (input, output) = topics();
        log.ensure_topics(&[deleted(&input, PARTITIONS), compacted(&output, 1)])
            .unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        work(&log, 20, &mut random);
        write_out(&log);
        Self { log, random }
    }

    fn work(&mut self, rounds: usize) {
        work(&self.log, rounds, &mut self.random);
    }

    /// Appends without a commit: no checkpoint is touched.
    fn append(&mut self, count: usize) {
        append(&self.log, 0, count, &mut self.random);
    }

    /// Fills a journal and writes out all keyspaces, so that fjall removes the journal.
    fn change_journals(&mut self) {
        for _ in 0..4 {
            self.append(5000);
        }
        write_out(&self.log);
    }

    /// Lets the host do one more thing, which the seed chooses.
    fn step(&mut self) {
        let rounds = self.random.random_range(1..4);
        match self.random.random_range(0..8) {
            0..3 => self.work(rounds),
            3..5 => self.append(1),
            5 => {
                self.work(rounds);
                self.change_journals();
            }
            6 => write_out(&self.log),
            _ => {
                let store = self.log.shared.store().unwrap();
                let spaces = store.spaces();
                let space = spaces[self.random.random_range(0..spaces.len())];
                space.rotate_memtable_and_wait().unwrap();
            }
        }
    }

    /// Copies a directory, each folder in random order. Before an entry is copied, the
    /// host does one more thing with probability `busy`.
    fn copy(&mut self, from: &Path, to: &Path, busy: f64) {
        fs::create_dir_all(to).unwrap();
        let entries = fs::read_dir(from).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names.shuffle(&mut self.random);
        for name in names {
            if self.random.random_bool(busy) {
                self.step();
            }
            let (from, to) = (from.join(&name), to.join(&name));
            if from.is_dir() {
                self.copy(&from, &to, busy);
            } else if let Err(error) = fs::copy(&from, &to) {
                // fjall removed the file after it was listed.
                assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
            }
        }
    }
}

/// Starts on the copy, which must have all of `before`. Returns false if the start is
/// refused.
fn starts_whole(copy: &Path, before: &Contents, what: &str) -> bool {
    let opened = Embedded::open(copy, config());
    let read = opened.and_then(|log| Contents::read(&log));
    let found = match read {
        Ok(found) => found,
        Err(error) => {
            assert_eq!(error.code(), "log-corrupt", "{what}: {error}");
            return false;
        }
    };
    for (place, records) in &before.records {
        assert!(
            found.records[place].starts_with(records),
            "{what}: {place:?}"
        );
    }
    for (partition, offset) in &before.committed {
        assert!(
            found.committed[partition] >= *offset,
            "{what}: {partition:?}"
        );
    }
    // Offsets, checkpoints and outputs are of one commit.
    let outputs = &found.records[&("out", 0)];
    let outputs: Vec<&[u8]> = outputs.iter().map(|(_, value)| &**value).collect();
    for (partition, offset) in &found.committed {
        let text = offset.0.to_string();
        let checkpoint = found.checkpoints[&partition.0].as_deref();
        assert_eq!(checkpoint, Some(text.as_bytes()), "{what}: {partition:?}");
        assert!(outputs.contains(&text.as_bytes()), "{what}: {partition:?}");
    }
    true
}

#[test]
fn a_copy_of_a_directory_in_use_is_refused_or_whole() {
    let seeds = std::env::var("COURTSIDE_TEST_SEEDS");
    let seeds = seeds.map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let mut whole = 0;
    for seed in 0..seeds {
        let dir = tempfile::tempdir().unwrap();
        let (live, to) = (dir.path().join("live"), dir.path().join("copy"));
        let mut host = Host::new(&live, seed);
        let before = Contents::read(&host.log).unwrap();
        let busy = [0.03, 0.1, 0.2][host.random.random_range(0..3)];
        host.copy(&live, &to, busy);
        whole += u64::from(starts_whole(&to, &before, &format!("seed {seed}")));
        host.log.close();
    }
    println!("{whole} of {seeds} copies were whole");
    assert!(whole > 0 && whole < seeds, "{whole} of {seeds}");
}

/// The mark and the checkpoints are copied first. Before the rest is copied, commits
/// touch the checkpoints and are written out, and later commits do not touch them.
#[test]
fn a_keyspace_of_an_earlier_moment_than_the_others_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (live, to) = (dir.path().join("live"), dir.path().join("copy"));
    let mut host = Host::new(&live, 1);
    let take = |host: &mut Host, folder: &str| {
        host.copy(&live.join(folder), &to.join(folder), 0.0);
    };
    take(&mut host, "db/keyspaces/0");
    take(&mut host, "db/keyspaces/3");
    for file in ["mark", "db/version"] {
        fs::copy(live.join(file), to.join(file)).unwrap();
    }
    host.work(3);
    host.change_journals();
    host.append(1);
    take(&mut host, "db/keyspaces/1");
    take(&mut host, "db/keyspaces/2");
    let (journal, _) = journal(&live);
    assert!(journal.ends_with("1.jnl"), "{}", journal.display());
    fs::copy(journal, to.join("db/1.jnl")).unwrap();
    let error = Embedded::open(&to, config()).unwrap_err();
    assert_eq!(error.code(), "log-corrupt", "{error}");
    host.log.close();
}
