//! A backup at the command: written beside its name, synced, and renamed.
//!
//! Until then the files are in `NAME.partial`, where the log has another name than in
//! a data directory, so nobody takes them for a backup. The next command removes the
//! files that a killed command left there.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Read, Write as _},
    path::{Component, Path, PathBuf},
    time::SystemTime,
};

use courtside_log::{LogError, backup::LogContents, embedded::LogCopy};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use super::{
    BackupError, LOCK, LOG, MANIFEST, PLUGINS,
    frames::{Frame, FrameReader},
    manifest::{Manifest, entry, files},
};

/// The name of the log while it is written.
const UNFINISHED: &str = "unfinished";
/// The entries that a directory may have while it is written.
const OWN: [&str; 5] = [UNFINISHED, LOG, PLUGINS, MANIFEST, LOCK];

/// A backup that is being written. Dropping it removes it.
#[derive(Debug)]
pub struct Draft {
    dir: PathBuf,
    partial: PathBuf,
    /// `None` once the backup has its name.
    lock: Option<File>,
}

impl Draft {
    /// Begins a backup in a directory that does not exist yet.
    pub fn new(dir: &Path) -> Result<Self, BackupError> {
        let name = dir
            .file_name()
            .ok_or_else(|| BackupError::Exists(dir.to_owned()))?;
        if dir.symlink_metadata().is_ok() {
            return Err(BackupError::Exists(dir.to_owned()));
        }
        let mut partial = name.to_owned();
        partial.push(".partial");
        let partial = dir.with_file_name(partial);
        let lock = lock(&partial)?;
        // A drop from here on removes the files that were begun.
        let this = Self {
            dir: dir.to_owned(),
            partial,
            lock: Some(lock),
        };
        this.remove_all(&[LOCK])
            .map_err(BackupError::unwritable(&this.partial))?;
        Ok(this)
    }

    /// Writes the frames that come, and gives the backup its name when all of it is
    /// on disk.
    pub fn fill(mut self, reader: impl Read) -> Result<Manifest, BackupError> {
        let contents = self.copy(reader)?;
        let unfinished = self.partial.join(UNFINISHED);
        fs::rename(&unfinished, self.partial.join(LOG))
            .map_err(BackupError::unwritable(&unfinished))?;
        let mut entries = BTreeMap::new();
        for (name, path) in files(&self.partial)? {
            let entry = entry(&path).map_err(BackupError::unwritable(&path))?;
            entries.insert(name, entry);
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_millis();
        let mut manifest = Manifest::new(entries, contents, u64::try_from(now).unwrap_or(u64::MAX));
        self.publish(&mut manifest)
            .map_err(|source| match source.kind() {
                io::ErrorKind::AlreadyExists => BackupError::Exists(self.dir.clone()),
                _ => BackupError::unwritable(&self.dir)(source),
            })?;
        Ok(manifest)
    }

    fn copy(&self, reader: impl Read) -> Result<LogContents, BackupError> {
        let failed = |error| match error {
            // The log's message is about a host, which keeps some room free.
            LogError::Full { .. } => {
                BackupError::unwritable(&self.partial)(io::ErrorKind::StorageFull.into())
            }
            error => BackupError::Log(error),
        };
        let mut log = LogCopy::create(&self.partial.join(UNFINISHED)).map_err(failed)?;
        let mut frames = FrameReader::new(reader);
        while let Some(frame) = frames.next_frame()? {
            match frame {
                Frame::Row { space, key, value } => {
                    log.insert(space, &key, &value).map_err(failed)?;
                }
                Frame::File { path, bytes } => self.plugin(&path, &bytes)?,
            }
        }
        log.finish().map_err(failed)
    }

    /// Writes a file of the plugins' copies. The host names the file, and must not
    /// name any other.
    fn plugin(&self, name: &str, bytes: &[u8]) -> Result<(), BackupError> {
        let parts: Vec<_> = Path::new(name).components().collect();
        let is_plain = |part: &Component<'_>| matches!(part, Component::Normal(_));
        let is_plugin = parts.len() == 3
            && parts.iter().all(is_plain)
            && parts.first() == Some(&Component::Normal(PLUGINS.as_ref()));
        if !is_plugin {
            return Err(BackupError::CutShort(format!(
                "the host sent a file with the unexpected name {name:?}"
            )));
        }
        let path = self.partial.join(name);
        let write = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            File::create_new(&path)?.write_all(bytes)
        };
        write().map_err(BackupError::unwritable(&path))
    }

    fn publish(&mut self, manifest: &mut Manifest) -> io::Result<()> {
        let text = manifest.seal()?;
        File::create_new(self.partial.join(MANIFEST))?.write_all(&text)?;
        sync(&self.partial)?;
        // The lock moves with the directory, so that no command takes it for a leftover.
        rename(&self.partial, &self.dir)?;
        self.lock = None;
        fs::remove_file(self.dir.join(LOCK))?;
        File::open(&self.dir)?.sync_all()?;
        let parent = self.dir.parent();
        let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }

    fn remove_all(&self, kept: &[&str]) -> io::Result<()> {
        for name in OWN.iter().filter(|name| !kept.contains(name)) {
            let path = self.partial.join(name);
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.lock.is_none() {
            return;
        }
        let removed = self.remove_all(&[]);
        if let Err(error) = removed.and_then(|()| fs::remove_dir(&self.partial)) {
            let path = self.partial.display();
            tracing::error!(%path, %error, "an unfinished backup cannot be removed");
        }
    }
}

/// Whether a directory is a killed command's. Only such a directory has the command's
/// lock, and nothing that another program put there.
fn is_leftover(partial: &Path) -> io::Result<bool> {
    if !partial.symlink_metadata()?.is_dir() {
        return Ok(false);
    }
    for entry in fs::read_dir(partial)? {
        let name = entry?.file_name();
        if !OWN.iter().any(|own| name == **own) {
            return Ok(false);
        }
    }
    let lock = partial.join(LOCK).symlink_metadata();
    Ok(lock.is_ok_and(|lock| lock.is_file()))
}

/// Makes the directory, and locks it for this process.
fn lock(partial: &Path) -> Result<File, BackupError> {
    let unwritable = |error| BackupError::unwritable(partial)(error);
    match fs::create_dir(partial) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !is_leftover(partial).map_err(unwritable)? {
                return Err(BackupError::Exists(partial.to_owned()));
            }
        }
        Err(error) => return Err(unwritable(error)),
    }
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(partial.join(LOCK))
        .map_err(unwritable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(BackupError::Running(partial.to_owned())),
        Err(TryLockError::Error(error)) => Err(BackupError::unwritable(partial)(error)),
    }
}

/// Syncs all files and directories below a directory, and itself.
fn sync(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sync(&path)?;
        } else {
            File::open(&path)?.sync_all()?;
        }
    }
    File::open(dir)?.sync_all()
}

/// Renames a directory, never over another.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system cannot refuse by itself, so this looks before it renames.
        Err(Errno::INVAL | Errno::NOSYS) => {
            if to.symlink_metadata().is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        outcome => outcome.map_err(io::Error::from),
    }
}

/// Backs up a directory that no host has open, from the pages a host would send.
pub fn copy(draft: Draft, mut source: super::source::Source) -> Result<Manifest, BackupError> {
    draft.fill(Pages {
        next: move || Ok(source.next_page()),
        page: io::Cursor::default(),
    })
}

/// Pages, read as one run of bytes.
pub struct Pages<F> {
    pub next: F,
    pub page: io::Cursor<Vec<u8>>,
}

impl<F> std::fmt::Debug for Pages<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pages")
    }
}

impl<F: FnMut() -> io::Result<Option<Vec<u8>>>> Read for Pages<F> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.page.read(into)?;
            if read > 0 || into.is_empty() {
                return Ok(read);
            }
            match (self.next)()? {
                Some(page) => self.page = io::Cursor::new(page),
                None => return Ok(0),
            }
        }
    }
}
