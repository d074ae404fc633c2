//! Compiled code on disk, so that a host's start, and a rollback, do not compile.
//!
//! The host runs the code that it reads here, so a file counts only with an
//! authentication code under a key of this host's own. A plugin is compiled again if
//! its file is damaged, comes from elsewhere or was put there by somebody else. The key
//! is a file beside the code, which its owner alone can read. Files are bounded in
//! number and bytes; the cache removes those that were used longest ago.
//!
//! The cache is our own. Wasmtime's trusts every file in its folder, and compiles a
//! missing one in the process that asks. The price is `Component::deserialize`, which
//! is unsafe ([`code`](super::code)).

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use courtside_types::Digest;
use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};

const EXTENSION: &str = "code";
const KEY_FILE: &str = "key";
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 32;
/// The limit of all compiled code in the directory, in bytes.
const BYTES_MAX: u64 = 1 << 30;
const FILES_MAX: usize = 128;

pub struct CodeCache {
    dir: PathBuf,
    key: hmac::Key,
}

impl std::fmt::Debug for CodeCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CodeCache({})", self.dir.display())
    }
}

impl CodeCache {
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)?;
        let key = own_key(&dir.join(KEY_FILE), &dir)?;
        Ok(Self {
            dir,
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
        })
    }

    /// The code of a plugin, if the cache has it and it is unchanged.
    pub fn load(&self, digest: Digest) -> Option<Vec<u8>> {
        let path = self.path(digest);
        let mut file = File::open(&path).ok()?;
        let mut bytes = Vec::new();
        (&mut file).take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let (tag, code) = bytes.split_at_checked(TAG_BYTES)?;
        if hmac::verify(&self.key, &self.signed(digest, code), tag).is_err() {
            tracing::warn!(
                code = "plugin-cache-unusable",
                path = %path.display(),
                "cached code is not what this host wrote, compiling the plugin again",
            );
            return None;
        }
        // The file was used now. If the time cannot be set, the file only goes sooner.
        let _ = file.set_modified(SystemTime::now());
        bytes.drain(..TAG_BYTES);
        Some(bytes)
    }

    /// Keeps the code of a plugin.
    pub fn keep(&self, digest: Digest, code: &[u8]) -> io::Result<()> {
        let tag = hmac::sign(&self.key, &self.signed(digest, code));
        let mut draft = tempfile::NamedTempFile::new_in(&self.dir)?;
        draft.write_all(tag.as_ref())?;
        draft.write_all(code)?;
        draft.persist(self.path(digest)).map_err(io::Error::from)?;
        self.make_room()
    }

    /// The text that is authenticated: the host's version, the plugin, and the digest of
    /// its code.
    fn signed(&self, digest: Digest, code: &[u8]) -> Vec<u8> {
        let of_code = Digest::of(code);
        format!("{} {digest} {of_code}", env!("CARGO_PKG_VERSION")).into_bytes()
    }

    fn make_room(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ext| ext == EXTENSION)
                && let Ok(metadata) = fs::metadata(&path)
            {
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                files.push((used, metadata.len(), path));
            }
        }
        files.sort_by_key(|file| std::cmp::Reverse(file.0));
        let mut bytes = 0_u64;
        for (number, (_, length, path)) in files.iter().enumerate() {
            bytes = bytes.saturating_add(*length);
            // The newest file stays in any case.
            if number > 0 && (number >= FILES_MAX || bytes > BYTES_MAX) {
                remove(path)?;
            }
        }
        Ok(())
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.to_string()).with_extension(EXTENSION)
    }
}

/// The key, if it is there and nobody else can have it or put it there.
fn read_key(path: &Path) -> Option<[u8; KEY_BYTES]> {
    let mut file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let is_own = metadata.uid() == rustix::process::geteuid().as_raw()
        && metadata.mode() & 0o077 == 0
        && metadata.len() == KEY_BYTES as u64;
    let mut key = [0; KEY_BYTES];
    file.read_exact(&mut key).ok()?;
    is_own.then_some(key)
}

/// The key that is there, or a new one, with which code kept before no longer counts.
/// Hosts that share the directory and start together end up with the same key.
fn own_key(path: &Path, dir: &Path) -> io::Result<[u8; KEY_BYTES]> {
    if let Some(key) = read_key(path) {
        return Ok(key);
    }
    let mut key = [0; KEY_BYTES];
    SystemRandom::new()
        .fill(&mut key)
        .map_err(|_| io::Error::other("the system has no randomness for a key"))?;
    // The owner alone can read the draft, and the key is there whole or not at all.
    let mut draft = tempfile::NamedTempFile::new_in(dir)?;
    draft.write_all(&key)?;
    draft.as_file().sync_all()?;
    let Err(taken) = draft.persist_noclobber(path) else {
        return Ok(key);
    };
    if taken.error.kind() != io::ErrorKind::AlreadyExists {
        return Err(taken.error);
    }
    // Another host was quicker, or the file that is there is of no use.
    if let Some(key) = read_key(path) {
        return Ok(key);
    }
    taken.file.persist(path).map_err(io::Error::from)?;
    Ok(key)
}

/// Removes a file, which may be gone already.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn code_is_found_again_with_the_same_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"plugin");
        let open = || CodeCache::open(dir.path().to_owned()).unwrap();
        open().keep(digest, b"code").unwrap();
        assert_eq!(open().load(digest).as_deref(), Some(&b"code"[..]));
        assert_eq!(open().load(Digest::of(b"another")), None);
        fs::remove_file(dir.path().join(KEY_FILE)).unwrap();
        assert_eq!(open().load(digest), None);
    }

    #[test]
    fn a_file_that_this_host_did_not_write_for_this_plugin_is_not_used() {
        let [dir, elsewhere] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let (digest, other) = (Digest::of(b"plugin"), Digest::of(b"other"));
        let cache = CodeCache::open(dir.path().to_owned()).unwrap();
        cache.keep(digest, b"code").unwrap();
        cache.keep(other, b"code of another").unwrap();
        let whole = fs::read(cache.path(digest)).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(cache.path(digest), damaged).unwrap();
            assert_eq!(cache.load(digest), None, "byte {at}");
            fs::write(cache.path(digest), &whole[..at]).unwrap();
            assert_eq!(cache.load(digest), None, "cut at {at}");
        }
        fs::copy(cache.path(other), cache.path(digest)).unwrap();
        assert_eq!(cache.load(digest), None, "another plugin's");
        let foreign = CodeCache::open(elsewhere.path().to_owned()).unwrap();
        foreign.keep(digest, b"planted").unwrap();
        fs::copy(foreign.path(digest), cache.path(digest)).unwrap();
        assert_eq!(cache.load(digest), None, "another host's");
        fs::write(cache.path(digest), whole).unwrap();
        assert!(cache.load(digest).is_some());
    }

    #[test]
    fn a_key_that_others_could_have_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"plugin");
        let open = || CodeCache::open(dir.path().to_owned()).unwrap();
        open().keep(digest, b"code").unwrap();
        let path = dir.path().join(KEY_FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(open().load(digest), None);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn hosts_that_start_together_have_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"plugin");
        let open = || CodeCache::open(dir.path().to_owned()).unwrap();
        let caches: Vec<CodeCache> = std::thread::scope(|scope| {
            let opening: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            opening.into_iter().map(|one| one.join().unwrap()).collect()
        });
        caches[0].keep(digest, b"code").unwrap();
        for cache in caches {
            assert_eq!(cache.load(digest).as_deref(), Some(&b"code"[..]));
        }
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(dir.path().to_owned()).unwrap();
        let digest = |number: usize| Digest::of(number.to_string().as_bytes());
        let day = std::time::Duration::from_secs(24 * 3600);
        for number in 0..FILES_MAX {
            cache.keep(digest(number), b"code").unwrap();
            let ago = u32::try_from(FILES_MAX - number).unwrap();
            let file = File::options()
                .write(true)
                .open(cache.path(digest(number)))
                .unwrap();
            file.set_modified(SystemTime::now() - day * ago).unwrap();
        }
        assert!(cache.load(digest(0)).is_some(), "it is used now");
        cache.keep(digest(FILES_MAX), b"code").unwrap();
        assert!(cache.load(digest(0)).is_some());
        assert!(cache.load(digest(1)).is_none());
        assert!(cache.load(digest(FILES_MAX)).is_some());
    }
}
