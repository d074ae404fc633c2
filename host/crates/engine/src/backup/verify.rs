//! Checks that a backup is as it was written, to its last block. The check changes
//! nothing, so the backup may stand on a disk that cannot be written.

use std::{io, path::Path};

use courtside_log::embedded;

use super::{
    BackupError, LOG,
    manifest::{Manifest, entry, files},
};

/// Compares a backup with its manifest, then reads its log whole.
pub fn verify(dir: &Path) -> Result<Manifest, BackupError> {
    let manifest = Manifest::read(dir)?;
    let found = files(dir)?;
    let changed = |name: &str, what| BackupError::Changed {
        path: dir.join(name),
        what,
    };
    for name in manifest.files.keys() {
        if !found.contains_key(name) {
            return Err(changed(name, "is missing"));
        }
    }
    for (name, path) in &found {
        let Some(known) = manifest.files.get(name) else {
            return Err(changed(name, "does not belong to the backup"));
        };
        let found = entry(path).map_err(|error: io::Error| BackupError::Unreadable {
            path: path.clone(),
            source: error,
        })?;
        if found != *known {
            return Err(changed(name, "has changed since the backup was written"));
        }
    }
    let contents = embedded::verify(&dir.join(LOG))?;
    if contents != manifest.log {
        let reason = "the offsets of its log differ from those in its manifest";
        return Err(BackupError::invalid(dir, reason));
    }
    Ok(manifest)
}
