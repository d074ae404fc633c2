//! Small files whose contents are kept up to date while the host runs: tokens, and the
//! certificate with its key.
//!
//! The host looks at files and does not watch them: a Kubernetes secret changes by
//! symlinks two directories away, and network mounts report nothing. New contents count
//! once they are the same at two looks, so the host takes neither a file half written
//! nor a new certificate whose key is still the old one. Contents that cannot be used
//! change nothing: the old ones stay in force, and the log and a gauge say so. A look
//! costs reading the files, on a thread that nobody waits for once the host stops.
//!
//! An operator who asks for a look (SIGHUP) says that the files are whole, so their
//! contents count at once.

use std::{fmt, fs::File, io::Read as _, path::PathBuf, sync::Arc, time::Duration};

use courtside_types::Digest;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// None of these files is this long.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The bytes of each file, or why there are none.
type Looked = Result<Vec<Vec<u8>>, String>;
type Read<T> = dyn Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync;

/// The value that was read from files, as of the last time that it could be used.
pub struct Reloaded<T> {
    /// Name of the value in the log and the gauge.
    what: &'static str,
    paths: Vec<PathBuf>,
    read: Box<Read<T>>,
    current: RwLock<Arc<T>>,
    seen: Mutex<Seen>,
}

/// Digests of the files' contents at earlier looks.
#[derive(Default)]
struct Seen {
    /// Contents that were last taken, or found to be of no use.
    judged: Option<Digest>,
    /// Contents at the last look.
    last: Option<Digest>,
}

impl<T> fmt::Debug for Reloaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloaded")
            .field("what", &self.what)
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// Reads the files for the first time, when they must be right.
    pub fn open(
        what: &'static str,
        paths: Vec<PathBuf>,
        read: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let looked = look(&paths);
        let judged = Some(digest(&looked));
        let current = read(&looked?)?;
        Ok(Self {
            what,
            paths,
            read: Box::new(read),
            current: RwLock::new(Arc::new(current)),
            seen: Mutex::new(Seen {
                judged,
                last: judged,
            }),
        })
    }

    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read())
    }

    /// Looks at the files until `stop`, and at once when `asked` changes.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken, mut asked: watch::Receiver<()>) {
        if self.paths.is_empty() {
            return;
        }
        self.failed(false);
        loop {
            let look = tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => Self::look,
                Ok(()) = asked.changed() => Self::look_now,
            };
            let this = Arc::clone(&self);
            let (done, looked) = oneshot::channel();
            // A mount that hangs holds up this thread alone. The runtime would wait for a
            // thread of its own when the host ends.
            let thread = std::thread::Builder::new().name("look".to_owned());
            let spawned = thread.spawn(move || {
                look(&this);
                let _ = done.send(());
            });
            let looked = async { spawned.is_ok() && looked.await.is_ok() };
            match stop.run_until_cancelled(looked).await {
                Some(true) => {}
                Some(false) => {
                    tracing::error!(what = self.what, "files cannot be checked for changes");
                }
                None => return,
            }
        }
    }

    /// Looks once; new contents count if the look before found them, too.
    pub fn look(&self) {
        let looked = look(&self.paths);
        let digest = Some(digest(&looked));
        {
            let mut seen = self.seen.lock();
            let is_settled = seen.last == digest;
            seen.last = digest;
            if seen.judged == digest || !is_settled {
                return;
            }
            seen.judged = digest;
        }
        self.take(looked);
    }

    /// Looks because an operator asked; the outcome is in the log, changed or not.
    pub fn look_now(&self) {
        let looked = look(&self.paths);
        {
            let mut seen = self.seen.lock();
            seen.last = Some(digest(&looked));
            seen.judged = seen.last;
        }
        self.take(looked);
    }

    fn take(&self, looked: Looked) {
        match looked.and_then(|files| (self.read)(&files)) {
            Ok(new) => {
                *self.current.write() = Arc::new(new);
                self.failed(false);
                tracing::info!(
                    what = self.what,
                    "files read again, their contents are in force"
                );
            }
            Err(reason) => {
                self.failed(true);
                let code = "reload-failed";
                tracing::error!(
                    code,
                    what = self.what,
                    reason,
                    "files cannot be used, their previous contents stay in force"
                );
            }
        }
    }

    fn failed(&self, failed: bool) {
        metrics::gauge!("courtside_reload_failed", "what" => self.what).set(u8::from(failed));
    }
}

fn look(paths: &[PathBuf]) -> Looked {
    let read = |path: &PathBuf| {
        let mut bytes = Vec::new();
        let file = File::open(path);
        file.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("{}: over {FILE_BYTES_MAX} bytes", path.display()));
        }
        Ok(bytes)
    };
    paths.iter().map(read).collect()
}

fn digest(looked: &Looked) -> Digest {
    let digests: Vec<u8> = match looked {
        Ok(files) => files.iter().flat_map(|file| Digest::of(file).0).collect(),
        Err(reason) => reason.clone().into_bytes(),
    };
    Digest::of(&digests)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::symlink,
        path::Path,
        process::Command,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    fn number(path: &Path) -> Result<Reloaded<u32>, String> {
        Reloaded::open("number", vec![path.into()], |files| {
            let text = String::from_utf8_lossy(&files[0]).into_owned();
            text.trim()
                .parse()
                .map_err(|_| format!("no number: {text}"))
        })
    }

    #[test]
    fn what_changes_counts_once_it_lies_still() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        fs::write(&path, "1").unwrap();
        let number = number(&path).unwrap();
        assert_eq!(*number.current(), 1);
        fs::write(&path, "2").unwrap();
        number.look();
        assert_eq!(*number.current(), 1, "it may be half of 23");
        fs::write(&path, "23").unwrap();
        number.look();
        number.look();
        assert_eq!(*number.current(), 23);
    }

    #[test]
    fn what_cannot_be_used_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        fs::write(&path, "1").unwrap();
        let number = number(&path).unwrap();
        let looks = |text: Option<&str>| {
            match text {
                Some(text) => fs::write(&path, text).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            (0..3).for_each(|_| number.look());
            *number.current()
        };
        assert_eq!(looks(Some("one")), 1);
        assert_eq!(looks(None), 1);
        assert_eq!(looks(Some("4")), 4);
        assert_eq!(looks(Some("four")), 4);
        // The file goes back to the contents that are in force.
        assert_eq!(looks(Some("4")), 4);
        let long = "4".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1);
        assert_eq!(looks(Some(&long)), 4);
        assert_eq!(looks(Some("5")), 5);
    }

    #[test]
    fn what_is_asked_for_counts_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        fs::write(&path, "1").unwrap();
        let number = number(&path).unwrap();
        fs::write(&path, "2").unwrap();
        number.look_now();
        assert_eq!(*number.current(), 2);
        fs::write(&path, "two").unwrap();
        number.look_now();
        assert_eq!(*number.current(), 2, "it cannot be used");
        fs::write(&path, "3").unwrap();
        number.look();
        assert_eq!(*number.current(), 2, "nobody says that it is whole");
        number.look();
        assert_eq!(*number.current(), 3);
    }

    #[tokio::test]
    async fn a_request_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        fs::write(&path, "1").unwrap();
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reads);
        let number = Reloaded::open("number", vec![path], move |_| {
            Ok(counted.fetch_add(1, Ordering::SeqCst))
        });
        let number = Arc::new(number.unwrap());
        let (ask, asked) = watch::channel(());
        let stop = CancellationToken::new();
        let following = tokio::spawn(Arc::clone(&number).follow(stop.clone(), asked));
        // The regular looks find nothing new, and read nothing.
        ask.send(()).unwrap();
        for _ in 0..6_000 {
            if reads.load(Ordering::SeqCst) == 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(reads.load(Ordering::SeqCst), 2);
        stop.cancel();
        following.await.unwrap();
    }

    #[test]
    fn a_swapped_symlink_is_a_change() {
        // Kubernetes does it this way: the file is a link into `..data`, itself a link.
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (version, text) in [("v1", "1"), ("v2", "2")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("number"), text).unwrap();
        }
        symlink("v1", at("..data")).unwrap();
        symlink("..data/number", at("number")).unwrap();
        let number = number(&at("number")).unwrap();
        assert_eq!(*number.current(), 1);
        symlink("v2", at("..new")).unwrap();
        fs::rename(at("..new"), at("..data")).unwrap();
        number.look();
        number.look();
        assert_eq!(*number.current(), 2);
    }

    #[test]
    fn a_file_that_hangs_does_not_hold_up_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        fs::write(&path, "1").unwrap();
        let number = Arc::new(number(&path).unwrap());
        // A thread that opens a pipe to read it waits for somebody to write.
        let pipe = dir.path().join("pipe");
        assert!(
            Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        fs::rename(&pipe, &path).unwrap();

        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let following = Arc::clone(&number).follow(stop.clone(), watch::channel(()).1);
            let following = tokio::spawn(following);
            // The test, the task that follows and the thread that looks have one each.
            for _ in 0..6_000 {
                if Arc::strong_count(&number) == 3 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(Arc::strong_count(&number), 3, "nobody looks");
            stop.cancel();
            let ended = tokio::time::timeout(Duration::from_secs(60), following);
            ended.await.unwrap().unwrap();
        });
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            drop(runtime);
            done.send(()).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(Arc::strong_count(&number), 2, "it still hangs");
        // The write lets the thread end before its directory is removed.
        fs::write(&path, "2").unwrap();
    }

    #[test]
    fn at_the_start_it_must_be_right() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        assert!(number(&path).unwrap_err().contains("number: "));
        fs::write(&path, "one").unwrap();
        assert_eq!(number(&path).unwrap_err(), "no number: one");
    }
}
