//! Stores with several journals, and with journals that begin later than the
//! tables: it takes more than 64 MB for a journal to be closed.

use bytesize::ByteSize;

use super::*;
use crate::embedded::EmbeddedConfig;

/// Opens a damaged store. The start must refuse it, and leave it as it is.
fn refused(whole: &Path, words: &str, damage: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    copy(whole, dir.path());
    damage(dir.path());
    let before = bytes(dir.path());
    let error = Embedded::open(dir.path(), config()).unwrap_err();
    assert_eq!(error.code(), "log-corrupt", "{error}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(before == bytes(dir.path()), "files were changed: {error}");
}

fn journals(dir: &Path) -> Vec<PathBuf> {
    let mut journals = files(dir);
    journals.retain(|path| path.extension().is_some_and(|name| name == "jnl"));
    journals.iter().map(|path| dir.join(path)).collect()
}

#[test]
fn journals_and_tables_that_do_not_join_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |moment: &str| dir.path().join(moment);
    let live = at("live");
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let large = EmbeddedConfig {
        record_bytes_max: ByteSize::mib(8),
        queue_bytes_max: ByteSize::mib(64),
        ..config()
    };
    let log = Embedded::open(&live, large.clone()).unwrap();
    let (input, output) = topics();
    log.ensure_topics(&[deleted(&input, PARTITIONS), compacted(&output, 1)])
        .unwrap();
    work(&log, 10, &mut random);
    write_out(&log);
    log.close();
    copy(&live, &at("old"));

    let log = Embedded::open(&live, large).unwrap();
    work(&log, 3, &mut random);
    for _ in 0..17 {
        append(&log, 0, 1000, &mut random);
    }
    // The journal is full, and stays until all keyspaces are written out.
    let store = log.shared.store().unwrap();
    store.records.rotate_memtable_and_wait().unwrap();
    drop(store);
    work(&log, 10, &mut random);
    let two = Contents::read(&log).unwrap();
    copy(&live, &at("two"));
    write_out(&log);
    work(&log, 10, &mut random);
    let later = Contents::read(&log).unwrap();
    copy(&live, &at("later"));
    log.close();

    assert_eq!(journals(&at("two")).len(), 2);
    for number in 0..2 {
        refused(&at("two"), "", |dir| {
            fs::remove_file(&journals(dir)[number]).unwrap();
        });
        refused(&at("two"), "", |dir| {
            fs::write(&journals(dir)[number], "").unwrap();
        });
    }
    refused(&at("two"), "is missing", |dir| {
        let journals = journals(dir);
        fs::rename(&journals[1], journals[1].with_file_name("7.jnl")).unwrap();
    });
    // The tables are from an earlier moment, and the journals begin too late for them.
    assert_eq!(journals(&at("later")).len(), 1);
    for keyspace in 1..4 {
        refused(&at("later"), "the tables end with commit", |dir| {
            let folder = format!("db/keyspaces/{keyspace}");
            fs::remove_dir_all(dir.join(&folder)).unwrap();
            copy(&at("old").join(&folder), &dir.join(&folder));
        });
    }
    for (moment, contents) in [("two", two), ("later", later)] {
        let log = open(&at(moment));
        assert!(Contents::read(&log).unwrap() == contents, "{moment}");
    }
}
