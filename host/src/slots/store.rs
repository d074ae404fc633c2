//! The copies the host keeps of the plugins in force, by digest, and the note
//! of which runs where. With them a host starts again with the plugins that
//! ran, whatever became of the plugin directory meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::types::Digest;

const ACTIVE_FILE: &str = "active.json";
const EXTENSION: &str = "wasm";

/// Which plugin runs in each slot, by the slot's full name.
pub type ActiveDigests = BTreeMap<String, Digest>;

#[derive(Serialize, Deserialize)]
struct Noted {
    slots: BTreeMap<String, String>,
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
                "the copy does not have the digest it is kept under",
            ));
        }
        Ok(bytes)
    }

    /// What ran when it was noted last.
    pub fn noted(&self) -> io::Result<ActiveDigests> {
        let text = match fs::read(self.dir.join(ACTIVE_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        let noted: Noted = serde_json::from_slice(&text)?;
        noted
            .slots
            .into_iter()
            .map(|(slot, digest)| {
                let digest = digest
                    .parse()
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                Ok((slot, digest))
            })
            .collect()
    }

    /// Notes what runs; copies of what does not run are removed.
    pub fn note(&self, active: &ActiveDigests) -> io::Result<()> {
        let noted = Noted {
            slots: active
                .iter()
                .map(|(slot, digest)| (slot.clone(), digest.to_string()))
                .collect(),
        };
        replace(
            &self.dir.join(ACTIVE_FILE),
            &serde_json::to_vec_pretty(&noted)?,
        )?;
        // It is noted, whatever becomes of the rest.
        if let Err(error) = self.remove_others(active) {
            tracing::warn!(dir = %self.dir.display(), %error, "old copies of plugins stay");
        }
        Ok(())
    }

    fn remove_others(&self, active: &ActiveDigests) -> io::Result<()> {
        let kept: BTreeSet<PathBuf> = active.values().map(|digest| self.path(*digest)).collect();
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
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
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
        assert!(store.noted().unwrap().is_empty());
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        store.keep(one, b"one").unwrap();
        store.keep(two, b"two").unwrap();
        let active = BTreeMap::from([("scores/default".to_owned(), two)]);
        store.note(&active).unwrap();
        let store = PluginStore::open(dir.path().join("plugins")).unwrap();
        assert_eq!(store.noted().unwrap(), active);
        assert_eq!(store.load(two).unwrap(), b"two");
        assert!(store.load(one).is_err());
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
