//! The copies the host keeps of plugins, by digest, and the note of which runs
//! where. With them a host starts again with the plugins that ran, whatever
//! became of the plugin directory meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use courtside_types::Digest;
use serde::{Deserialize, Serialize};

use crate::worker::takeover::DIRECTIVES_MAX;

/// The file with the host's notes, in the directory of copies.
pub const ACTIVE_FILE: &str = "active.json";
const EXTENSION: &str = "wasm";
/// Plugins of a slot that are remembered as undone.
const UNDONE_MAX: usize = DIRECTIVES_MAX;

/// Whether a file of this name is a plugin's copy.
#[must_use]
pub fn is_copy(name: &str) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|ext| ext == EXTENSION)
}

/// The host's notes for its next start, by the full names of slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredDecisions {
    /// The plugin that runs in each slot.
    pub slots: BTreeMap<String, Digest>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub undone: BTreeMap<String, RolledBack>,
    /// The file of a slot that failed its rehearsal.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unfit: BTreeMap<String, FailedRehearsal>,
}

/// A plugin that failed its rehearsal. Whether a plugin passes depends on the states of
/// the moment, so the verdict holds until another file is offered. A rollback or a
/// restart must not put a plugin in force that nobody wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRehearsal {
    pub digest: Digest,
    /// The stable code of `docs/errors.md`.
    pub code: String,
    pub reason: String,
    /// The latest directive of the slot that the host had followed by then.
    pub directive: u64,
}

/// The effect of rollbacks on the plugin directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// The latest directive that was followed.
    pub directive: u64,
    /// The plugins that are not taken from the directory again, with the one undone
    /// last at the end; empty once another plugin was taken.
    pub digests: Vec<Digest>,
}

impl RolledBack {
    pub fn insert(&mut self, digest: Digest) {
        self.remove(digest);
        if self.digests.len() >= UNDONE_MAX {
            self.digests.remove(0);
        }
        self.digests.push(digest);
    }

    pub fn remove(&mut self, digest: Digest) {
        self.digests.retain(|undone| *undone != digest);
    }

    #[must_use]
    pub fn has(&self, digest: Digest) -> bool {
        self.digests.contains(&digest)
    }
}

/// A directory of copies. One host process owns it.
#[derive(Debug)]
pub struct PluginStore {
    dir: PathBuf,
}

impl PluginStore {
    pub fn open(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    /// Keeps a plugin's bytes.
    pub fn keep(&self, digest: Digest, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(digest);
        if self.load(digest).is_ok() {
            return Ok(());
        }
        replace(&path, bytes)
    }

    /// The bytes kept under a digest, if they are still what they were.
    pub fn load(&self, digest: Digest) -> io::Result<Vec<u8>> {
        let bytes = fs::read(self.path(digest))?;
        if Digest::of(&bytes) != digest {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the copy does not have the digest that its name says",
            ));
        }
        Ok(bytes)
    }

    /// The notes that were written last.
    pub fn read_decisions(&self) -> io::Result<StoredDecisions> {
        match fs::read(self.dir.join(ACTIVE_FILE)) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(StoredDecisions::default()),
            Err(error) => Err(error),
        }
    }

    pub fn write_decisions(&self, noted: &StoredDecisions) -> io::Result<()> {
        replace(
            &self.dir.join(ACTIVE_FILE),
            &serde_json::to_vec_pretty(noted)?,
        )
    }

    /// How many copies there are.
    pub fn count(&self) -> io::Result<usize> {
        let mut count = 0;
        for entry in fs::read_dir(&self.dir)? {
            count += usize::from(
                entry?
                    .path()
                    .extension()
                    .is_some_and(|ext| ext == EXTENSION),
            );
        }
        Ok(count)
    }

    /// Removes the copies of all plugins but the wanted ones.
    pub fn retain(&self, wanted: &BTreeSet<Digest>) -> io::Result<()> {
        let kept: BTreeSet<PathBuf> = wanted.iter().map(|digest| self.path(*digest)).collect();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ext| ext == EXTENSION) && !kept.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.to_string()).with_extension(EXTENSION)
    }
}

/// Writes a file so that after a crash it is there whole, or as it was.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("tmp");
    let mut file = File::create(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_runs_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = PluginStore::open(dir.path().join("plugins")).unwrap();
        assert_eq!(store.read_decisions().unwrap(), StoredDecisions::default());
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        store.keep(one, b"one").unwrap();
        store.keep(two, b"two").unwrap();
        let noted = StoredDecisions {
            slots: BTreeMap::from([("scores/default".to_owned(), two)]),
            undone: BTreeMap::from([(
                "scores/default".to_owned(),
                RolledBack {
                    directive: 7,
                    digests: vec![one, two],
                },
            )]),
            unfit: BTreeMap::from([(
                "scores/default".to_owned(),
                FailedRehearsal {
                    digest: one,
                    code: "plugin-cannot-read".to_owned(),
                    reason: "it reads something else".to_owned(),
                    directive: 3,
                },
            )]),
        };
        store.write_decisions(&noted).unwrap();
        store.retain(&BTreeSet::from([two])).unwrap();
        let store = PluginStore::open(dir.path().join("plugins")).unwrap();
        assert_eq!(store.read_decisions().unwrap(), noted);
        assert_eq!(store.load(two).unwrap(), b"two");
        assert!(store.load(one).is_err());
    }

    #[test]
    fn a_note_without_rollbacks_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = PluginStore::open(dir.path()).unwrap();
        let digest = Digest::of(b"one");
        let text = format!(r#"{{"slots":{{"scores/default":"{digest}"}}}}"#);
        fs::write(dir.path().join(ACTIVE_FILE), text).unwrap();
        let noted = store.read_decisions().unwrap();
        assert_eq!(noted.slots.get("scores/default"), Some(&digest));
        assert!(noted.undone.is_empty() && noted.unfit.is_empty());
    }

    #[test]
    fn of_plugins_that_were_undone_the_last_are_remembered() {
        let digest = |number: usize| Digest::of(number.to_string().as_bytes());
        let mut undone = RolledBack::default();
        (0..=UNDONE_MAX).for_each(|number| undone.insert(digest(number)));
        undone.insert(digest(1));
        assert_eq!(undone.digests.len(), UNDONE_MAX);
        assert!(!undone.has(digest(0)));
        assert!(undone.has(digest(1)) && undone.has(digest(UNDONE_MAX)));
    }

    #[test]
    fn a_damaged_copy_is_no_copy() {
        let dir = tempfile::tempdir().unwrap();
        let store = PluginStore::open(dir.path()).unwrap();
        let digest = Digest::of(b"one");
        store.keep(digest, b"one").unwrap();
        fs::write(store.path(digest), b"other").unwrap();
        assert!(store.load(digest).is_err());
    }
}
