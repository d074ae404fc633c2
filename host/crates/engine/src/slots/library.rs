//! Plugins by digest: the host's own copies, and those that `<group>.plugins` has for
//! hosts without one. The library lives as long as the host. In memory it has the
//! offsets of the pieces of each shared plugin; it reads their bytes when asked for.

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use courtside_log::{LogError, RecordLog};
use courtside_types::{Digest, Offset, Topic};
use parking_lot::Mutex;

use super::{
    store::PluginStore,
    topic::{self, ONLY, TopicRecord},
};

/// Bytes in a piece of a plugin, at most.
const PIECE_BYTES: usize = 512 * 1024;
/// Bytes that a record has beside its piece, at most.
const BESIDE_BYTES: usize = 4 * 1024;
/// Bytes handed to the log at a time, since other writers wait in its queue, too.
const ROUND_BYTES: usize = 4 << 20;
/// How long pieces may take to show in the topic before they are written again.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Why a plugin cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MissingPlugin {
    #[error("neither this host nor the topic {0} has the plugin's bytes")]
    Nowhere(Topic),
    #[error("the plugin's bytes in the topic {0} are damaged")]
    Damaged(Topic),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// The plugins of one pipeline.
pub struct Library {
    pub store: PluginStore,
    log: Arc<dyn RecordLog>,
    topic: Topic,
    shared: Mutex<BTreeMap<Digest, Pieces>>,
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Library({:?})", self.store)
    }
}

/// The offsets of a plugin's pieces in the topic.
#[derive(Debug, Default)]
struct Pieces {
    of: u32,
    at: BTreeMap<u32, Offset>,
    /// The next piece that this host writes, and when it wrote the last one.
    offered: Option<(u32, Instant)>,
}

impl Pieces {
    fn are_all(&self) -> bool {
        self.of > 0 && u32::try_from(self.at.len()).is_ok_and(|count| count >= self.of)
    }
}

impl Library {
    #[must_use]
    pub fn new(store: PluginStore, log: Arc<dyn RecordLog>, topic: Topic) -> Self {
        Self {
            store,
            log,
            topic,
            shared: Mutex::default(),
        }
    }

    /// Takes note of a record of the topic.
    pub fn record(&self, offset: Offset, record: &TopicRecord) {
        let mut shared = self.shared.lock();
        match *record {
            TopicRecord::Piece { digest, number, of } if number < of => {
                let pieces = shared.entry(digest).or_default();
                if pieces.of != of {
                    pieces.at.clear();
                    pieces.of = of;
                }
                pieces.at.insert(number, offset);
            }
            TopicRecord::NoPiece { digest, number } => {
                if let Some(pieces) = shared.get_mut(&digest) {
                    pieces.at.remove(&number);
                    if pieces.at.is_empty() && pieces.offered.is_none() {
                        shared.remove(&digest);
                    }
                }
            }
            _ => {}
        }
    }

    /// The plugins that the topic has any pieces of.
    #[must_use]
    pub fn shared(&self) -> Vec<Digest> {
        let shared = self.shared.lock();
        let written = shared.iter().filter(|(_, pieces)| !pieces.at.is_empty());
        written.map(|(digest, _)| *digest).collect()
    }

    /// Whether a plugin's bytes can be had.
    #[must_use]
    pub fn has(&self, digest: Digest) -> bool {
        self.is_shared(digest) || self.store.load(digest).is_ok()
    }

    fn is_shared(&self, digest: Digest) -> bool {
        self.shared.lock().get(&digest).is_some_and(Pieces::are_all)
    }

    /// A plugin's bytes: the host's copy, or else that of the topic.
    pub fn load(&self, digest: Digest) -> Result<Vec<u8>, MissingPlugin> {
        match self.store.load(digest) {
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%digest, %error, "copy of a plugin cannot be read, trying the group's topic");
            }
        }
        let pieces: Vec<Offset> = match self.shared.lock().get(&digest) {
            Some(pieces) if pieces.are_all() => pieces.at.values().copied().collect(),
            _ => return Err(MissingPlugin::Nowhere(self.topic.clone())),
        };
        let mut bytes = Vec::new();
        for offset in pieces {
            let read = self.log.read(&self.topic, ONLY, offset, 1)?;
            let piece = read.first().filter(|record| record.offset == offset);
            match piece.and_then(|record| record.value.as_deref()) {
                Some(piece) => bytes.extend_from_slice(piece),
                None => return Err(MissingPlugin::Damaged(self.topic.clone())),
            }
        }
        if Digest::of(&bytes) != digest {
            return Err(MissingPlugin::Damaged(self.topic.clone()));
        }
        Ok(bytes)
    }

    /// Writes the pieces of a plugin that the topic does not have whole, at most
    /// `ROUND_BYTES` and a piece at a time. True says that there is no more to do for
    /// now.
    pub fn share(&self, digest: Digest, now: Instant) -> Result<bool, LogError> {
        let first = {
            let mut shared = self.shared.lock();
            let pieces = shared.entry(digest).or_default();
            match pieces.offered {
                _ if pieces.are_all() => {
                    pieces.offered = None;
                    return Ok(true);
                }
                Some((next, at)) if next >= pieces.of => {
                    if now.saturating_duration_since(at) < AGAIN_AFTER {
                        return Ok(true);
                    }
                    0
                }
                Some((next, _)) => next,
                None => 0,
            }
        };
        // A host without a copy has the plugin from the topic, or will have it.
        let Ok(bytes) = self.store.load(digest) else {
            return Ok(true);
        };
        let bytes = Bytes::from(bytes);
        let size = self.log.record_bytes_max().saturating_sub(BESIDE_BYTES);
        let size = size.clamp(1024, PIECE_BYTES);
        let of = u32::try_from(bytes.len().div_ceil(size)).unwrap_or(u32::MAX);
        let mut round_bytes = 0;
        let mut next = first;
        while next < of && round_bytes < ROUND_BYTES {
            let start = next as usize * size;
            let piece = bytes.slice(start..(start + size).min(bytes.len()));
            round_bytes += piece.len();
            let record = topic::piece(digest, next, of, piece);
            drop(self.log.append(&self.topic, vec![(ONLY, record)])?);
            next += 1;
            let mut shared = self.shared.lock();
            let pieces = shared.entry(digest).or_default();
            if pieces.of != of {
                pieces.at.clear();
                pieces.of = of;
            }
            pieces.offered = Some((next, now));
        }
        Ok(next >= of)
    }

    /// Takes a plugin out of the topic.
    pub fn unshare(&self, digest: Digest) -> Result<(), LogError> {
        let numbers: Vec<u32> = match self.shared.lock().get_mut(&digest) {
            None => return Ok(()),
            Some(pieces) => {
                pieces.offered = None;
                pieces.at.keys().copied().collect()
            }
        };
        let records = numbers
            .into_iter()
            .map(|number| (ONLY, topic::no_piece(digest, number)));
        drop(self.log.append(&self.topic, records.collect())?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use courtside_log::{
        conformance::compacted,
        embedded::{Embedded, EmbeddedConfig},
    };
    use tempfile::TempDir;

    use super::*;
    use crate::slots::topic::tail::Tail;

    struct Place {
        dir: TempDir,
        log: Arc<Embedded>,
        topic: Topic,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let log = Embedded::open(dir.path().join("log"), EmbeddedConfig::default()).unwrap();
            let topic = topic::name("g");
            log.ensure_topics(&[compacted(&topic, 1)]).unwrap();
            Self { dir, log, topic }
        }

        fn library(&self, host: &str) -> Library {
            let store = PluginStore::open(self.dir.path().join(host)).unwrap();
            let log: Arc<dyn RecordLog> = Arc::<Embedded>::clone(&self.log);
            Library::new(store, log, self.topic.clone())
        }

        /// Reads the topic for a library until `is` holds.
        fn read_until(&self, library: &Library, is: impl Fn(&Library) -> bool) {
            let log: Arc<dyn RecordLog> = Arc::<Embedded>::clone(&self.log);
            let mut tail = Tail::new(log, self.topic.clone());
            for _ in 0..1000 {
                tail.read(|| false, |offset, record| library.record(offset, &record))
                    .unwrap();
                if is(library) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("never as it should be: {:?}", library.shared.lock());
        }
    }

    fn plugin(bytes: usize) -> (Digest, Vec<u8>) {
        let bytes: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
        (Digest::of(&bytes), bytes)
    }

    #[test]
    fn a_host_without_a_copy_has_it_from_the_topic() {
        let place = Place::new();
        let (digest, bytes) = plugin(5 << 20);
        let one = place.library("one");
        one.store.keep(digest, &bytes).unwrap();
        let now = Instant::now();
        assert!(!one.share(digest, now).unwrap(), "a round is bounded");
        assert!(one.share(digest, now).unwrap());
        let other = place.library("other");
        assert!(matches!(other.load(digest), Err(MissingPlugin::Nowhere(_))));
        assert!(!other.has(digest));
        place.read_until(&other, |other| other.has(digest));
        assert_eq!(other.load(digest).unwrap(), bytes);
        // Pieces that the topic has are not written again.
        let end = place.log.bounds(&place.topic).unwrap()[0].end;
        place.read_until(&one, |one| one.is_shared(digest));
        assert!(one.share(digest, now + AGAIN_AFTER).unwrap());
        assert_eq!(place.log.bounds(&place.topic).unwrap()[0].end, end);
    }

    #[test]
    fn pieces_that_do_not_come_are_written_again() {
        let place = Place::new();
        let (digest, bytes) = plugin(1000);
        let one = place.library("one");
        one.store.keep(digest, &bytes).unwrap();
        let now = Instant::now();
        let end = || place.log.written(&place.topic).unwrap()[0].end;
        assert!(one.share(digest, now).unwrap());
        place.read_until(&place.library("other"), |other| other.has(digest));
        assert_eq!(end(), Offset(1));
        assert!(one.share(digest, now).unwrap());
        assert!(one.share(digest, now + AGAIN_AFTER).unwrap());
        place.read_until(&one, |one| one.is_shared(digest));
        for _ in 0..1000 {
            if end() == Offset(2) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("written up to {}", end());
    }

    #[test]
    fn what_nobody_needs_goes() {
        let place = Place::new();
        let (digest, bytes) = plugin(1000);
        let one = place.library("one");
        one.store.keep(digest, &bytes).unwrap();
        one.share(digest, Instant::now()).unwrap();
        place.read_until(&one, |one| one.is_shared(digest));
        one.unshare(digest).unwrap();
        place.read_until(&one, |one| one.shared().is_empty());
        let other = place.library("other");
        place.read_until(&other, |_| true);
        assert!(!other.has(digest));
    }
}
