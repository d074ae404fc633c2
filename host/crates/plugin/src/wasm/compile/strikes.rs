//! Strikes against files that went over a limit when they were compiled. One time is
//! enough: such a file lies in the plugin directory at the next start as well.
//!
//! A strike is a small file beside the compiled code, named by the plugin's digest.
//! It holds until the limit is raised, the host has another version, or an operator
//! puts the file again. Strikes are bounded in number.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use courtside_types::Digest;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::limits::{CODE_BYTES_MAX, CompileLimits, Over, STACK_BYTES};
use crate::{
    Rejection,
    wasm::rejection::{self, rejection},
};

const EXTENSION: &str = "strike";
const STRIKES_MAX: usize = 256;

/// The strike against a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Strike {
    over: Over,
    at: Timestamp,
    version: String,
    memory_bytes_max: u64,
    cpu_time_max_ms: u64,
}

impl Strike {
    /// Whether the file would go over these limits, too.
    fn holds(&self, limits: &CompileLimits) -> bool {
        self.version == env!("CARGO_PKG_VERSION")
            && match self.over {
                Over::Memory => limits.memory_bytes_max <= self.memory_bytes_max,
                Over::Time => millis(limits.cpu_time_max) <= self.cpu_time_max_ms,
                Over::Stack | Over::Code => true,
            }
    }

    fn words(&self) -> String {
        let Self {
            memory_bytes_max,
            cpu_time_max_ms,
            ..
        } = self;
        match self.over {
            Over::Memory => format!(
                "compiling it takes more memory than plugin.compile_memory_max, {memory_bytes_max} bytes"
            ),
            Over::Time => format!(
                "compiling it takes more CPU time than plugin.compile_time_max, {cpu_time_max_ms} ms"
            ),
            Over::Stack => format!(
                "compiling it takes more stack than the compiler has, {} bytes",
                STACK_BYTES
            ),
            Over::Code => format!("its compiled code has more than {CODE_BYTES_MAX} bytes"),
        }
    }
}

/// All strikes. Without a directory they last as long as this value.
#[derive(Debug)]
pub struct Strikes {
    dir: Option<PathBuf>,
    unwritten: Mutex<BTreeMap<Digest, Strike>>,
}

impl Strikes {
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self {
            dir,
            unwritten: Mutex::default(),
        }
    }

    /// Notes that a file went over a limit, and returns the rejection.
    pub fn add(&self, digest: Digest, over: Over, limits: &CompileLimits) -> Rejection {
        let strike = Strike {
            over,
            at: Timestamp::now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            memory_bytes_max: limits.memory_bytes_max,
            cpu_time_max_ms: millis(limits.cpu_time_max),
        };
        let rejection = rejection(rejection::COMPILE_LIMIT, strike.words());
        let written = match &self.dir {
            Some(dir) => write(dir, digest, &strike),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        if let Err(error) = written {
            if self.dir.is_some() {
                tracing::warn!(code = "plugin-cache-unusable", %error, "note that a plugin went over a limit of compiling cannot be written");
            }
            let mut unwritten = self.unwritten.lock();
            if unwritten.len() < STRIKES_MAX {
                unwritten.insert(digest, strike);
            }
        }
        rejection
    }

    /// Why a file is not compiled, if it went over a limit before.
    pub fn find(&self, digest: Digest, limits: &CompileLimits) -> Option<Rejection> {
        let strike = match self.unwritten.lock().get(&digest) {
            Some(strike) => strike.clone(),
            None => {
                let text = fs::read(path(self.dir.as_deref()?, digest)).ok()?;
                serde_json::from_slice(&text).ok()?
            }
        };
        strike.holds(limits).then(|| {
            let message = format!(
                "{}: that was at {}, and it is not tried again until the file or the limit changes, or `courtside plugins put` puts it again",
                strike.words(),
                strike.at
            );
            rejection(rejection::COMPILE_LIMIT, message)
        })
    }

    /// Lets a file be tried again.
    pub fn forget(&self, digest: Digest) {
        self.unwritten.lock().remove(&digest);
        if let Some(dir) = &self.dir {
            match fs::remove_file(path(dir, digest)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(code = "plugin-cache-unusable", %error, "note that a plugin went over a limit of compiling cannot be removed, so the plugin is not compiled again");
                }
                _ => {}
            }
        }
    }
}

fn write(dir: &Path, digest: Digest, strike: &Strike) -> io::Result<()> {
    let draft = tempfile::NamedTempFile::new_in(dir)?;
    serde_json::to_writer(draft.as_file(), strike)?;
    draft.as_file().sync_all()?;
    draft.persist(path(dir, digest)).map_err(io::Error::from)?;
    make_room(dir)
}

fn make_room(dir: &Path) -> io::Result<()> {
    let mut strikes = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ext| ext == EXTENSION) {
            let noted = fs::metadata(&path).and_then(|metadata| metadata.modified());
            strikes.push((noted.unwrap_or(SystemTime::UNIX_EPOCH), path));
        }
    }
    strikes.sort();
    let over = strikes.len().saturating_sub(STRIKES_MAX);
    strikes
        .iter()
        .take(over)
        .try_for_each(|(_, path)| fs::remove_file(path))
}

fn path(dir: &Path, digest: Digest) -> PathBuf {
    dir.join(digest.to_string()).with_extension(EXTENSION)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(memory_bytes_max: u64, seconds: u64) -> CompileLimits {
        CompileLimits {
            memory_bytes_max,
            cpu_time_max: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn a_strike_outlives_the_host_and_not_a_higher_limit() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Strikes::new(Some(dir.path().to_owned()));
        let (large, slow) = (Digest::of(b"large"), Digest::of(b"slow"));
        open().add(large, Over::Memory, &limits(1000, 10));
        open().add(slow, Over::Time, &limits(1000, 10));
        let found = |digest, limits| open().find(digest, &limits).is_some();
        for (digest, same, higher) in [
            (large, limits(1000, 99), limits(1001, 10)),
            (slow, limits(9999, 10), limits(1000, 11)),
        ] {
            assert!(found(digest, same));
            assert!(!found(digest, higher));
        }
        assert!(!found(Digest::of(b"changed"), limits(1000, 10)));
        open().forget(large);
        assert!(!found(large, limits(1000, 10)));
        assert!(found(slow, limits(1000, 10)));
    }

    #[test]
    fn without_a_directory_a_strike_lasts_as_long_as_the_command() {
        let strikes = Strikes::new(None);
        let digest = Digest::of(b"large");
        let limits = limits(1000, 10);
        let code = strikes.add(digest, Over::Stack, &limits).code;
        assert_eq!(code, rejection::COMPILE_LIMIT);
        assert!(strikes.find(digest, &limits).is_some());
    }

    #[test]
    fn strikes_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let strikes = Strikes::new(Some(dir.path().to_owned()));
        for number in 0..STRIKES_MAX + 10 {
            let digest = Digest::of(number.to_string().as_bytes());
            strikes.add(digest, Over::Memory, &limits(1, 1));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), STRIKES_MAX);
    }
}
