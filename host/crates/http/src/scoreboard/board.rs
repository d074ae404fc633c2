//! One pipeline's output, as its readers see it.
//!
//! The follower writes under a lock held for a few hundred records at a time;
//! readers hold it to look up, never to wait or to read the log.

use std::{
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytestring::ByteString;
use courtside_log::{Bounds, GroupName, LogError, RecordLog};
use courtside_types::{Key, NotReady, Offset, PartitionId, Record, Topic, usize_of};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxBuildHasher;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    config::ScoreboardConfig,
    games::{Found, Games, Latest, MadeBy, Newer, Place, State},
    looks::{Committed, Ends},
    positions::Positions,
};

/// One pipeline, as the scoreboard needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoardSpec {
    pub pipeline: ByteString,
    pub group: GroupName,
    pub input: Topic,
    /// The default output: a compacted topic, keyed by game.
    pub output: Topic,
}

/// A game that is not deleted.
#[derive(Clone, Debug)]
pub struct Game {
    pub key: Key,
    pub place: Place,
    pub latest: Arc<Latest>,
}

/// Games in key order.
#[derive(Clone, Debug)]
pub struct Page {
    pub games: Vec<Game>,
    /// The key to go on after, if there are more.
    pub next: Option<Key>,
}

/// Why the scoreboard has no answer.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    #[error(transparent)]
    Log(#[from] LogError),
    /// The host has just started and would answer with outdated outputs.
    #[error("the scoreboard has not yet read the outputs that were there when the host started")]
    CatchingUp,
    #[error("the input of the pipeline has {partitions} partitions, counted from 0")]
    NoSuchPartition { partitions: u32 },
    /// The group did not get past the offset, or the scoreboard did not get to
    /// the outputs, in time.
    #[error(
        "the group did not process {partition}:{offset} in time, or its output did not arrive in time"
    )]
    NotYet {
        partition: PartitionId,
        offset: Offset,
    },
}

impl BoardError {
    /// The stable code of `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Log(error) => error.code(),
            Self::CatchingUp => "scoreboard-catching-up",
            Self::NoSuchPartition { .. } => "no-such-partition",
            Self::NotYet { .. } => "read-after-timeout",
        }
    }
}

/// Channels on which readers of single games wait, by the hash of the key. An
/// update so wakes few readers of other games.
const WAKES: usize = 256;

/// Records applied under one hold of the lock.
const APPLY_COUNT_MAX: usize = 256;

/// Index entries looked at under one hold of the lock.
const SCAN_COUNT_MAX: usize = 4_096;

/// Bytes of outputs after which a page is full; its last output may go over them.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long a read waits for the successor of a record that was compacted away.
const SUPERSEDED_TIMEOUT: Duration = Duration::from_secs(5);

/// One pipeline's output, as its readers see it.
pub struct Board {
    pub(super) spec: BoardSpec,
    pub(super) log: Arc<dyn RecordLog>,
    state: RwLock<Inner>,
    /// The sequence number of the last update, after each batch.
    pub(super) changed: watch::Sender<u64>,
    wakes: Vec<watch::Sender<u64>>,
    /// The last look at the group's offsets, which serves all readers that wait.
    pub(super) committed: tokio::sync::Mutex<Option<Committed>>,
    pub(super) ends: tokio::sync::Mutex<Option<Ends>>,
    caught_up: AtomicBool,
    fault: Mutex<Option<NotReady>>,
}

struct Inner {
    games: Games,
    /// The next offset to read, by partition.
    next: Vec<Offset>,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl Board {
    pub(super) fn new(
        spec: BoardSpec,
        log: Arc<dyn RecordLog>,
        config: &ScoreboardConfig,
        boards: usize,
    ) -> Self {
        let held_bytes_max = usize_of(config.memory_bytes_max)
            .checked_div(boards)
            .unwrap_or(0);
        Self {
            spec,
            log,
            state: RwLock::new(Inner {
                games: Games::new(held_bytes_max, config.deleted_max),
                next: Vec::new(),
            }),
            changed: watch::channel(0).0,
            wakes: (0..WAKES).map(|_| watch::channel(0).0).collect(),
            committed: tokio::sync::Mutex::new(None),
            ends: tokio::sync::Mutex::new(None),
            caught_up: AtomicBool::new(false),
            fault: Mutex::new(None),
        }
    }

    #[must_use]
    pub fn spec(&self) -> &BoardSpec {
        &self.spec
    }

    /// How many games there are, and how many bytes of outputs are held.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let state = self.state.read();
        (state.games.len(), state.games.held_bytes())
    }

    /// Why this board cannot be relied on, if so.
    #[must_use]
    pub fn not_ready(&self) -> Option<NotReady> {
        let fault = self.fault.lock().clone();
        fault.or_else(|| {
            let catching_up = BoardError::CatchingUp;
            (!self.is_caught_up()).then(|| NotReady {
                code: catching_up.code().to_owned(),
                reason: format!("pipeline {}: {catching_up}", self.spec.pipeline),
            })
        })
    }

    /// The latest output of one game.
    pub async fn game(self: &Arc<Self>, key: &[u8]) -> Result<Option<Game>, BoardError> {
        self.check_caught_up()?;
        self.find(key).await
    }

    /// The latest output of games, in key order after a key.
    pub async fn page(
        self: &Arc<Self>,
        after: Option<&[u8]>,
        count_max: usize,
    ) -> Result<Page, BoardError> {
        self.check_caught_up()?;
        let mut found = self
            .state
            .read()
            .games
            .page(after, count_max.saturating_add(1));
        let wanted = found.len();
        found.truncate(count_max);
        let loaded = self.load(found, PAGE_BYTES_MAX).await?;
        let more = loaded.len() < wanted;
        let next = loaded.last().filter(|_| more);
        let next = next.map(|(last, _)| last.key.clone());
        let mut games = Vec::with_capacity(loaded.len());
        for (found, latest) in loaded {
            let game = match latest {
                Some(latest) => Some(Game {
                    key: found.key,
                    place: found.place,
                    latest,
                }),
                // The output was superseded between the look and the read.
                None => self.find(&found.key).await?,
            };
            games.extend(game);
        }
        Ok(Page { games, next })
    }

    /// Whether everything before these offsets was read, by partition.
    pub(super) fn has_read(&self, ends: &[Bounds]) -> bool {
        let state = self.state.read();
        ends.iter().enumerate().all(|(partition, bounds)| {
            let next = state.next.get(partition).copied().unwrap_or_default();
            next >= bounds.end
        })
    }

    fn check_caught_up(&self) -> Result<(), BoardError> {
        if self.is_caught_up() {
            Ok(())
        } else {
            Err(BoardError::CatchingUp)
        }
    }

    pub(super) fn is_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Acquire)
    }

    async fn find(self: &Arc<Self>, key: &[u8]) -> Result<Option<Game>, BoardError> {
        let deadline = Instant::now() + SUPERSEDED_TIMEOUT;
        let mut changed = self.wake(Some(key));
        loop {
            changed.borrow_and_update();
            let Some(found) = self.peek(key) else {
                return Ok(None);
            };
            if matches!(found.state, State::Deleted) {
                return Ok(None);
            }
            let loaded = self.load(vec![found.clone()], usize::MAX).await?;
            if let Some((found, Some(latest))) = loaded.into_iter().next() {
                return Ok(Some(Game {
                    key: found.key,
                    place: found.place,
                    latest,
                }));
            }
            if self.is_past_retention(found.place).await? {
                return Ok(None);
            }
            timeout_at(deadline, changed.changed())
                .await
                .map_err(|_| LogError::Unavailable {
                    reason: "an output that was compacted away has no successor yet".to_owned(),
                })?
                .ok();
        }
    }

    /// Whether retention has deleted a missing record, and no later record of its key
    /// is on its way. That happens where an output is kept as a stream.
    async fn is_past_retention(self: &Arc<Self>, place: Place) -> Result<bool, LogError> {
        let board = Arc::clone(self);
        let bounds = blocking(move || board.log.bounds(&board.spec.output)).await?;
        let held = bounds.get(place.partition.0 as usize);
        let is_before = held.is_some_and(|held| place.offset < held.start);
        Ok(is_before && self.has_read(&bounds))
    }

    /// The values of these games, in their order. The list ends once it has
    /// `bytes_max` bytes, so it has the first value in any case. Dropped values
    /// are read back from the log. `None` stands for a deleted game, and for an
    /// output that was superseded and is gone from the log: its successor is on
    /// its way.
    pub(super) async fn load(
        self: &Arc<Self>,
        found: Vec<Found>,
        bytes_max: usize,
    ) -> Result<Vec<Loaded>, LogError> {
        let is_dropped = |found: &Found| matches!(found.state, State::Dropped);
        if !found.iter().any(is_dropped) {
            let held = |found: Found| {
                let latest = held(&found);
                Ok((found, latest))
            };
            return up_to(bytes_max, found, held);
        }
        let board = Arc::clone(self);
        blocking(move || {
            up_to(bytes_max, found, |found| {
                let latest = match found.state {
                    State::Dropped => board.read_back(found.place)?,
                    _ => held(&found),
                };
                Ok((found, latest))
            })
        })
        .await
    }

    pub(super) fn count_read_backs(&self, count: u64) {
        metrics::counter!(
            "courtside_scoreboard_read_backs_total",
            "pipeline" => self.spec.pipeline.to_string()
        )
        .increment(count);
    }

    fn read_back(&self, place: Place) -> Result<Option<Arc<Latest>>, LogError> {
        self.count_read_backs(1);
        let Place { partition, offset } = place;
        let records = self.log.read(&self.spec.output, partition, offset, 1)?;
        Ok(records
            .first()
            .filter(|record| record.offset == offset)
            .and_then(|record| Some((record, record.value.as_ref()?)))
            .map(|(record, value)| Arc::new(Latest::copy(record, value, &MadeBy::default()))))
    }

    pub(super) fn peek(&self, key: &[u8]) -> Option<Found> {
        self.state.read().games.get(key).cloned()
    }

    pub(super) fn seq(&self) -> u64 {
        self.state.read().games.seq()
    }

    pub(super) fn newer(
        &self,
        cursor: u64,
        count_max: usize,
        wanted: impl FnMut(&Found) -> bool,
    ) -> Newer {
        let state = self.state.read();
        state.games.newer(cursor, count_max, SCAN_COUNT_MAX, wanted)
    }

    /// A channel that ticks when a game (or any game) was updated.
    pub(super) fn wake(&self, key: Option<&[u8]>) -> watch::Receiver<u64> {
        let one = key.and_then(|key| self.wakes.get(wake_of(key)));
        one.unwrap_or(&self.changed).subscribe()
    }

    /// Whether the board has read all of these positions.
    pub(super) fn has_positions(&self, positions: &Positions) -> bool {
        let state = self.state.read();
        positions.iter().all(|(partition, offset)| {
            let partition = usize::try_from(partition.0).ok();
            let next = partition.and_then(|partition| state.next.get(partition));
            next.is_some_and(|next| offset < *next)
        })
    }

    // The methods below are for the follower.

    /// The next offset to read in each of `partitions` partitions.
    pub(super) fn next(&self, partitions: usize) -> Vec<Offset> {
        let mut state = self.state.write();
        if state.next.len() < partitions {
            state.next.resize(partitions, Offset(0));
        }
        state.next.clone()
    }

    /// Takes the latest records of a stretch of one partition, which is now read up to
    /// `next`.
    pub(super) fn apply(&self, partition: usize, records: &[Record], next: Offset) {
        let Ok(id) = u32::try_from(partition) else {
            return;
        };
        let mut touched = [false; WAKES];
        for records in records.chunks(APPLY_COUNT_MAX) {
            let mut state = self.state.write();
            for record in records {
                state.games.apply(PartitionId(id), record);
                let wake = record.key.as_ref().map(|key| wake_of(key));
                if let Some(touched) = wake.and_then(|wake| touched.get_mut(wake)) {
                    *touched = true;
                }
            }
        }
        let mut state = self.state.write();
        if let Some(read) = state.next.get_mut(partition) {
            *read = next;
        }
        let seq = state.games.seq();
        drop(state);
        for (wake, _) in self
            .wakes
            .iter()
            .zip(touched)
            .filter(|(_, touched)| *touched)
        {
            wake.send_replace(seq);
        }
        self.changed.send_replace(seq);
    }

    pub(super) fn set_caught_up(&self) {
        self.caught_up.store(true, Ordering::Release);
    }

    pub(super) fn set_fault(&self, fault: Option<NotReady>) {
        *self.fault.lock() = fault;
    }
}

fn wake_of(key: &[u8]) -> usize {
    let hash = FxBuildHasher.hash_one(key);
    usize::try_from(hash).unwrap_or(0) % WAKES
}

/// A game, and its value where it has one.
pub(super) type Loaded = (Found, Option<Arc<Latest>>);

/// Loads one game after the other until there are enough bytes.
fn up_to(
    bytes_max: usize,
    found: Vec<Found>,
    mut load: impl FnMut(Found) -> Result<Loaded, LogError>,
) -> Result<Vec<Loaded>, LogError> {
    let mut loaded = Vec::with_capacity(found.len());
    let mut bytes = 0_usize;
    for found in found {
        if bytes >= bytes_max {
            break;
        }
        let (found, latest) = load(found)?;
        bytes = bytes.saturating_add(latest.as_ref().map_or(0, |latest| latest.value.len()));
        loaded.push((found, latest));
    }
    Ok(loaded)
}

fn held(found: &Found) -> Option<Arc<Latest>> {
    match &found.state {
        State::Held(latest) => Some(Arc::clone(latest)),
        State::Dropped | State::Deleted => None,
    }
}

/// Calls the log on a thread whose calls may block.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    tokio::task::spawn_blocking(call)
        .await
        .unwrap_or_else(|error| {
            Err(LogError::Unavailable {
                reason: format!("reading the log failed: {error}"),
            })
        })
}
