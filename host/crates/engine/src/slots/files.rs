//! The plugin directory as it is now.

use std::{
    collections::{BTreeMap, btree_map},
    fs::{self, File, Metadata},
    io::{self, Read, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use courtside_plugin_host::Rejection;
use courtside_types::slot_name::SlotName;
use rustix::fs::OFlags;

/// The metadata that tells one version of a file from the next without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    size_bytes: u64,
    modified: Option<SystemTime>,
    inode: u64,
    /// The inode's change time, which changes with the permissions, too.
    changed: (i64, i64),
    is_file: bool,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            size_bytes: metadata.len(),
            modified: metadata.modified().ok(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            is_file: metadata.is_file(),
        }
    }
}

/// A name in the plugin directory that is a slot's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A file, under the name it was found by: a key can be written in several
    /// ways.
    File(Stamp, PathBuf),
    /// A name whose file cannot be looked at, like a dangling link.
    Unreadable(String),
    /// Two files are for the same key.
    Ambiguous,
}

/// The reason given where two files are for the same key.
pub const AMBIGUOUS: &str = "two files in the directory are for this key";

/// The slots of one pipeline that have an entry in the directory. A missing directory
/// has no entries.
pub fn scan(pipeline_dir: &Path) -> io::Result<BTreeMap<SlotName, Entry>> {
    let mut found = BTreeMap::new();
    if let Some(entry) = look(&pipeline_dir.join(SlotName::Default.file())) {
        found.insert(SlotName::Default, entry);
    }
    let names = match fs::read_dir(pipeline_dir.join(SlotName::keys_dir())) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for name in names {
        let name = name?;
        if let Some(slot) = name.file_name().to_str().and_then(SlotName::from_key_file)
            && let Some(entry) = look(&name.path())
        {
            match found.entry(slot) {
                btree_map::Entry::Vacant(free) => {
                    free.insert(entry);
                }
                btree_map::Entry::Occupied(mut taken) => {
                    taken.insert(Entry::Ambiguous);
                }
            }
        }
    }
    Ok(found)
}

fn look(path: &Path) -> Option<Entry> {
    match fs::metadata(path) {
        Ok(metadata) => Some(Entry::File(Stamp::of(&metadata), path.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A dangling link has a name, but its target does not exist.
            let link = fs::symlink_metadata(path).ok()?;
            link.is_symlink()
                .then(|| Entry::Unreadable("it is a link to a file that does not exist".into()))
        }
        Err(error) => Some(Entry::Unreadable(error.to_string())),
    }
}

/// Puts a file at `path` in one step, so that no reader sees a part of it.
pub fn put(path: &Path, host: &str, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir)?;
    // No plugin has this name, and no other host uses it where hosts share the
    // directory.
    let draft = dir.join(format!(".{host}.draft"));
    let written = File::create(&draft)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&draft, path))
        .and_then(|()| File::open(dir)?.sync_all());
    if written.is_err() {
        // The draft may not exist, so its removal may fail.
        drop(fs::remove_file(&draft));
    }
    written
}

/// The outcome of reading a slot's file.
pub enum FileContents {
    Bytes(Vec<u8>),
    /// The file changed while it was read: look again later.
    Unsteady,
}

/// Reads a slot's file, not more of it than `bytes_max`.
pub fn read(path: &Path, bytes_max: usize) -> Result<FileContents, Rejection> {
    let unreadable = |error: io::Error| Rejection {
        code: "plugin-file-unreadable",
        message: format!("{}: {error}", path.display()),
    };
    // To open a pipe that nobody writes to would block for ever.
    let mut file = File::options()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(unreadable)?;
    let before = file.metadata().map_err(unreadable)?;
    if !before.is_file() {
        return Err(Rejection {
            code: "plugin-not-a-file",
            message: format!("{} is not a regular file", path.display()),
        });
    }
    if before.len() > bytes_max as u64 {
        return Err(Rejection {
            code: "plugin-too-large",
            message: format!(
                "the file has {} bytes, the limit plugin_bytes_max is {bytes_max}",
                before.len()
            ),
        });
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut file)
        .take(bytes_max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    let after = file.metadata().map_err(unreadable)?;
    if Stamp::of(&before) != Stamp::of(&after) || bytes.len() as u64 != after.len() {
        return Ok(FileContents::Unsteady);
    }
    Ok(FileContents::Bytes(bytes))
}
