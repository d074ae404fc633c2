//! Whether a store holds what its mark says, decided before it is opened.
//!
//! Nothing here writes to the store. The [files] must be there; the [tables],
//! read in a directory of their own, say up to which commit each keyspace is
//! written out; the [journals](journal) must go on from there, commit by commit,
//! to the [mark](super::mark). Damage behind the mark is the end of a write that
//! was not acknowledged, and may be cut off.
//!
//! A store that ends before its mark stays as it is. No switch accepts the loss: the
//! log would give out offsets a second time, and readers would skip the new records.
//!
//! The check compares manifests with their checksums, which fjall does not do. It
//! compares only the newest 256 MiB of tables and blobs, so that a start stays short.
//! The version of fjall is pinned, because the check knows its format.

mod files;
mod journal;
mod refusal;
pub(super) mod tables;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{File, OpenOptions},
    io,
    path::PathBuf,
};

use self::{
    files::LOCK,
    journal::{Commit, Journal, Step},
    refusal::Refusal,
    tables::Flushed,
};
use super::{
    database::{META, SPACES},
    mark::{Mark, PartitionKey},
    paths::Paths,
};
use crate::{LogError, backup::TakeRow, embedded::config::EmbeddedConfig};

/// Partitions that a refusal names; the others are counted.
const PLACES_MAX: usize = 20;

/// The contents of a store that may be opened.
#[derive(Debug)]
pub(super) struct Checked {
    pub store: u64,
    /// The number of the last commit of each keyspace.
    pub last: [u64; SPACES],
    pub bytes: u64,
    cut: Option<Cut>,
    lock: PathBuf,
}

/// The end of a journal, with a write that was not acknowledged.
#[derive(Debug)]
struct Cut {
    journal: PathBuf,
    at: u64,
    bytes: u64,
}

/// Checks a store against its mark.
pub(super) fn check(
    paths: &Paths,
    mark: &Mark,
    config: &EmbeddedConfig,
) -> Result<Checked, LogError> {
    look(paths, mark, config).map_err(|refusal| refusal.log_error(paths, config))
}

/// Reads a store that was closed with all its rows in tables and blobs, to the last
/// row and without writing to it.
pub(super) fn verify(
    paths: &Paths,
    mark: &Mark,
    config: &EmbeddedConfig,
    take: &mut TakeRow<'_>,
) -> Result<(), LogError> {
    let refused = |refusal: Refusal| refusal.log_error(paths, config);
    let db = paths.db();
    let found = files::look(&db).map_err(refused)?;
    let aside = tempfile::tempdir().map_err(|error| LogError::Unavailable {
        reason: format!("no directory for links to the tables: {error}"),
    })?;
    let opened = tables::Opened::links(&db, &found, aside.path(), config).map_err(refused)?;
    let mut progress = Progress::new(mark.store, opened.flushed().map_err(refused)?);
    let written_out = progress.last;
    let damage = read_journals(&found.journals, &mut progress).map_err(refused)?;
    let judged = progress.judge(mark, damage.as_ref());
    judged.map_err(|reason| LogError::Corrupt { reason })?;
    if damage.is_some() || written_out != progress.last || progress.last != mark.last {
        return Err(LogError::Corrupt {
            reason: format!("{} was not closed", db.display()),
        });
    }
    opened.read_rows(take)
}

fn look(paths: &Paths, mark: &Mark, config: &EmbeddedConfig) -> Result<Checked, Refusal> {
    let db = paths.db();
    let found = files::look(&db)?;
    let flushed = tables::read(&db, &found, &paths.aside(), config)?;
    let mut progress = Progress::new(mark.store, flushed);
    let damage = read_journals(&found.journals, &mut progress)?;
    if let Err(reason) = progress.judge(mark, damage.as_ref()) {
        return Err(Refusal::Damage(reason));
    }
    Ok(Checked {
        store: mark.store,
        last: progress.last,
        bytes: progress.bytes,
        cut: damage.map(|damage| Cut {
            journal: damage.journal,
            at: damage.at,
            bytes: damage.bytes,
        }),
        lock: db.join(LOCK),
    })
}

/// The place where a journal can no longer be read.
#[derive(Debug)]
struct Damage {
    journal: PathBuf,
    at: u64,
    /// Bytes that were written from this place on.
    bytes: u64,
    /// The damage may be the end of the last write, since no whole batch follows.
    is_end: bool,
    /// The reason why a batch that is whole does not follow from those before it.
    gap: Option<String>,
}

fn read_journals(journals: &[PathBuf], progress: &mut Progress) -> Result<Option<Damage>, Refusal> {
    for path in journals {
        let failed = |error: io::Error| Refusal::io(path, error);
        let mut journal = Journal::open(path).map_err(failed)?;
        let gap = loop {
            let at = journal.position();
            match journal.next().map_err(failed)? {
                Step::End => break None,
                Step::Damage => break Some((at, None)),
                Step::Commit(commit) => {
                    if let Err(gap) = progress.take(*commit) {
                        break Some((at, Some(gap)));
                    }
                }
            }
        };
        let Some((at, gap)) = gap else { continue };
        let bytes = journal.written_bytes().map_err(failed)?;
        let is_last = journals.last() == Some(path);
        let follows = if is_last && gap.is_none() {
            let behind = journal.has_batch_behind(progress.store);
            behind.map_err(failed)?
        } else {
            None
        };
        return Ok(Some(Damage {
            journal: path.clone(),
            at,
            bytes,
            is_end: follows == Some(false),
            gap,
        }));
    }
    Ok(None)
}

/// The state of a store by its tables and the part of its journals that was read.
#[derive(Debug)]
struct Progress {
    store: u64,
    /// The last commit in the tables of each keyspace.
    flushed: [u64; SPACES],
    last: [u64; SPACES],
    /// The last commit in the journals, and its sequence number.
    journal: Option<(u64, u64)>,
    bytes: u64,
    /// The synced mark had at least this number when the last commit was written.
    marked: u64,
    /// The newest commit, and the last commit of each keyspace by that commit's row.
    newest: (u64, [u64; SPACES]),
    /// A row in the tables is of another store.
    is_foreign: bool,
    ends: BTreeMap<PartitionKey, u64>,
    topics: BTreeMap<u32, String>,
}

impl Progress {
    fn new(store: u64, flushed: Flushed) -> Self {
        let rows = flushed.rows.iter().flatten();
        let newest = rows.clone().max_by_key(|row| row.number);
        let last = flushed.rows.map(|row| row.map_or(0, |row| row.number));
        Self {
            store,
            flushed: last,
            last,
            journal: None,
            bytes: newest.map_or(0, |row| row.bytes),
            marked: newest.map_or(0, |row| row.marked),
            newest: newest.map_or_else(Default::default, |row| (row.number, row.last)),
            is_foreign: rows.clone().any(|row| row.store != store),
            ends: flushed.ends,
            topics: flushed.topics,
        }
    }

    fn number(&self) -> u64 {
        self.last.iter().copied().max().unwrap_or_default()
    }

    /// Moves on to a commit of a journal. Fails with the reason if the commit does not
    /// follow.
    fn take(&mut self, commit: Commit) -> Result<(), String> {
        let Some(meta) = commit.rows.get(META).copied().flatten() else {
            return Err("a commit without a number".to_owned());
        };
        if meta.store != self.store {
            return Err("a commit of another store".to_owned());
        }
        if let Some((number, seqno)) = self.journal {
            if meta.number != number + 1 {
                return Err(format!("commit {} follows commit {number}", meta.number));
            }
            if commit.seqno <= seqno {
                return Err(format!("commit {} is out of sequence", meta.number));
            }
        }
        for ((row, last), flushed) in commit.rows.iter().zip(&mut self.last).zip(self.flushed) {
            let Some(row) = row.filter(|row| row.number > flushed) else {
                continue;
            };
            if row.previous != *last {
                return Err(format!(
                    "commit {} follows commit {}, and the tables end with commit {last}",
                    row.number, row.previous,
                ));
            }
            *last = row.number;
        }
        self.journal = Some((meta.number, commit.seqno));
        if meta.number > self.newest.0 {
            self.newest = (meta.number, meta.last);
        }
        if self
            .flushed
            .get(META)
            .is_some_and(|flushed| meta.number > *flushed)
        {
            self.bytes = meta.bytes;
            self.marked = meta.marked;
            for (place, end) in commit.ends {
                match end {
                    Some(end) => self.ends.insert(place, end),
                    None => self.ends.remove(&place),
                };
            }
        }
        self.topics.extend(commit.topics);
        Ok(())
    }

    /// Says why the store must not be opened.
    fn judge(&self, mark: &Mark, damage: Option<&Damage>) -> Result<(), String> {
        if self.is_foreign {
            return Err("the mark and the store do not belong together".to_owned());
        }
        if mark.number() < self.marked {
            return Err(format!(
                "the mark is an older copy: it ends with commit {}, and commit {} was marked before",
                mark.number(),
                self.marked,
            ));
        }
        let mut spaces = self.last.iter().zip(mark.last);
        let is_short = spaces.any(|(last, marked)| *last < marked);
        let is_behind_tables = self.journal.is_some_and(|(number, _)| {
            let flushed = self.flushed.iter().max();
            flushed.is_some_and(|flushed| *flushed > number)
        });
        let mut spaces = self.last.iter().zip(self.newest.1);
        let is_mixed = spaces.any(|(last, newest)| *last < newest);
        let is_cut_only = damage.is_none_or(|damage| damage.is_end);
        if !is_short && !is_behind_tables && !is_mixed && is_cut_only {
            return Ok(());
        }
        let mut reason = match damage {
            Some(damage) => {
                let at = format!("{} at byte {}", damage.journal.display(), damage.at);
                match &damage.gap {
                    Some(gap) => format!("{at} does not follow the commits before it: {gap}"),
                    None => format!("{at} is damaged, of {} bytes from there", damage.bytes),
                }
            }
            None if is_behind_tables => {
                "the tables are ahead of the journals: a journal is missing or older".to_owned()
            }
            None if is_mixed && !is_short => {
                "the keyspaces are of different moments: the directory was copied while a host used it"
                    .to_owned()
            }
            None => "the journals end too early: one is missing, cut or older".to_owned(),
        };
        self.tell_missing(mark, &mut reason);
        Err(reason)
    }

    /// Adds to the reason what the mark has and the store lacks.
    fn tell_missing(&self, mark: &Mark, reason: &mut String) {
        let _ = write!(
            reason,
            "; acknowledged up to commit {}, readable up to commit {}, missing {} bytes",
            mark.number(),
            self.number().min(mark.number()),
            mark.bytes.saturating_sub(self.bytes),
        );
        let missing: Vec<_> = mark
            .ends
            .iter()
            .map(|(place, end)| {
                let readable = self.ends.get(place).copied().unwrap_or_default();
                (place, readable, *end)
            })
            .filter(|(_, readable, end)| readable < end)
            .collect();
        for ((topic, partition), readable, end) in missing.iter().take(PLACES_MAX) {
            let name = self.topics.get(topic);
            let name = name.map_or_else(|| format!("topic number {topic}"), Clone::clone);
            let _ = write!(reason, ", {name}/{partition} offsets {readable} to {end}");
        }
        if let Some(more) = missing.len().checked_sub(PLACES_MAX)
            && more > 0
        {
            let _ = write!(reason, " and {more} more partitions");
        }
        reason.push_str("; no file was changed");
    }
}

impl Checked {
    /// Makes the store ready to be opened: only now is anything written.
    pub fn prepare(&self) -> io::Result<()> {
        // The lock is empty, so a missing one is no damage. fjall does not create it.
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.lock)?;
        let Some(cut) = &self.cut else {
            return Ok(());
        };
        let file = OpenOptions::new().write(true).open(&cut.journal)?;
        file.set_len(cut.at)?;
        file.sync_all()?;
        tracing::warn!(
            journal = %cut.journal.display(),
            bytes = cut.bytes,
            "the end of an unacknowledged write was cut off the record log's journal"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::store::commit::CommitRow;

    /// Tables of a store. Commit 12 names `checkpoints` as that keyspace's last commit.
    fn tables(checkpoints: u64) -> Progress {
        let row = |number, last| CommitRow {
            store: 1,
            number,
            previous: 0,
            seqno_min: 0,
            marked: 7,
            bytes: 0,
            last,
        };
        let flushed = Flushed {
            rows: [
                Some(row(10, [10, 10, checkpoints])),
                Some(row(12, [10, 12, checkpoints])),
                Some(row(5, [3, 5, 5])),
            ],
            ..Flushed::default()
        };
        Progress::new(1, flushed)
    }

    /// The mark was copied before the missing commits were written, and synced only after
    /// them. So no commit shows that the mark is an older copy.
    #[test]
    fn a_keyspace_that_lacks_commits_which_another_knows_of_is_refused() {
        let mark = Mark {
            store: 1,
            last: [7, 7, 5],
            ..Mark::default()
        };
        assert_eq!(tables(5).judge(&mark, None), Ok(()));
        let reason = tables(9).judge(&mark, None).unwrap_err();
        assert!(reason.contains("different moments"), "{reason}");
    }
}
