//! Finding a store, or creating it.
//!
//! A database is created in `db.new`, closed, and renamed once the mark is in place.
//! So a process that is killed leaves either a whole store or `db.new`, which holds
//! nothing that was acknowledged. The next start creates `db.new` anew, and never
//! removes anything else.

use std::{
    fs::{self, File},
    io,
};

use fjall::PersistMode;
use rand::Rng as _;

use super::{
    check::tables::remove,
    commit::{COMMIT_KEY, Changes},
    database::{self, SPACES},
    errors::write_error,
    mark::{self, Mark, MarkFile},
    paths::Paths,
};
use crate::{
    LogError,
    embedded::{config::EmbeddedConfig, rows},
};

/// The commit with which a store is created.
const FIRST: u64 = 1;

/// Finds the store of a directory, or creates it, and returns its mark.
pub(super) fn find(paths: &Paths, config: &EmbeddedConfig) -> Result<Mark, LogError> {
    let (db, path) = (paths.db(), paths.mark());
    let failed = |error: io::Error| write_error(&db, config, &error.into());
    let corrupt = |reason: String| Err(LogError::Corrupt { reason });
    let has_db = db.try_exists().map_err(failed)?;
    if !path.try_exists().map_err(failed)? {
        if has_db {
            return corrupt(format!(
                "{} is missing, so it is not known whether {} is whole",
                path.display(),
                db.display(),
            ));
        }
        return create(paths, config).map_err(|error| write_error(&db, config, &error));
    }
    let Some(mark) = mark::read(&path).map_err(failed)? else {
        return corrupt(format!("{} is damaged", path.display()));
    };
    if has_db {
        return Ok(mark);
    }
    // The process that created the store was killed before it renamed the database.
    if mark.number() == FIRST && paths.creating().try_exists().map_err(failed)? {
        return create(paths, config).map_err(|error| write_error(&db, config, &error));
    }
    corrupt(format!(
        "{} is missing: {} says that it holds {} commits",
        db.display(),
        path.display(),
        mark.number(),
    ))
}

fn create(paths: &Paths, config: &EmbeddedConfig) -> Result<Mark, fjall::Error> {
    let new = paths.creating();
    remove(&new)?;
    let mut mark = Mark {
        store: rand::rng().random(),
        ..Mark::default()
    };
    let db = database::builder(&new, config).open()?;
    let spaces = database::keyspaces(&db)?;
    let changes = Changes {
        touched: [true; SPACES],
        ..Changes::default()
    };
    let commit = mark.next_rows(&changes, db.seqno(), 0);
    let mut batch = db.batch().durability(Some(PersistMode::SyncAll));
    for (space, row) in spaces.iter().zip(commit.iter().flatten()) {
        batch.insert(space, COMMIT_KEY, row.to_bytes());
    }
    let [_, meta, _] = &spaces;
    batch.insert(meta, rows::FORMAT_KEY, rows::FORMAT);
    batch.commit()?;
    drop((spaces, db));
    mark.advance(&commit, changes);
    MarkFile::open(&paths.creating_mark(), &mark)?;
    fs::rename(paths.creating_mark(), paths.mark())?;
    let dir = File::open(&paths.dir)?;
    dir.sync_all()?;
    fs::rename(&new, paths.db())?;
    dir.sync_all()?;
    Ok(mark)
}
