//! A reader that gets updates as they come.
//!
//! A reader costs the board nothing: it is a sequence number, and takes newer
//! updates at its own pace. The board no longer has the states superseded
//! meanwhile, so a slow reader falls behind by at most one state of each game.
//!
//! An id suffices to go on after a cut. Within one partition, sequence numbers
//! grow with offsets, and a reader gets updates in the order of sequence numbers.
//! So a reader that got an update at an offset also got every game whose latest
//! output stands before it in that partition.

use std::sync::Arc;

use courtside_log::LogError;
use courtside_types::Key;
use tokio::sync::watch;

use super::{
    board::Board,
    games::{Found, Latest, Newer, State},
    positions::Positions,
};

/// The most updates in a delivery, and the bytes after which it is full: a reader
/// that takes none of them keeps one delivery from being freed.
const COUNT_MAX: usize = 64;
const BYTES_MAX: usize = 16 * 1024;

/// An update, as a reader gets it.
#[derive(Clone, Debug)]
pub struct Update {
    pub key: Key,
    /// How far the reader is once it has this update.
    pub positions: Positions,
    pub change: Change,
}

/// The change of a game: a new output, or its deletion.
#[derive(Clone, Debug)]
pub enum Change {
    Game(Arc<Latest>),
    Deleted,
}

/// A reader of one board's updates.
#[derive(Debug)]
pub struct Subscription {
    board: Arc<Board>,
    changed: watch::Receiver<u64>,
    game: Option<Key>,
    cursor: u64,
    /// The sequence number at which the reader came. Later updates that the reader
    /// does not get count as `skipped`.
    came_at: u64,
    skipped: u64,
    /// The positions that the reader had when it came.
    resumed: Positions,
    positions: Positions,
    /// The reader gets no deletions up to this sequence number: a reader that came
    /// with nothing has no games to delete.
    deleted_after: u64,
}

impl Subscription {
    /// A reader of all games, or of one, that has read up to `last` already.
    pub(super) async fn new(board: Arc<Board>, game: Option<Key>, last: Option<Last>) -> Self {
        let (resumed, deleted_after) = match last {
            None => (Positions::default(), board.seq()),
            Some(Last::Unknown) => (Positions::default(), 0),
            Some(Last::Read(positions)) => (board.known(positions).await, 0),
        };
        Self {
            changed: board.wake(game.as_deref()),
            came_at: board.seq(),
            skipped: 0,
            board,
            game,
            cursor: 0,
            positions: resumed.clone(),
            resumed,
            deleted_after,
        }
    }

    /// Waits for updates, and returns at least one. Dropping the future loses none.
    pub async fn next(&mut self) -> Result<Vec<Update>, LogError> {
        loop {
            self.changed.borrow_and_update();
            let mut newer = self.newer();
            let wanted = newer.found.len();
            let loaded = self.board.load(newer.found, BYTES_MAX).await?;
            if let Some((last, _)) = loaded.last().filter(|_| loaded.len() < wanted) {
                newer.cursor = last.seq;
                newer.more = true;
            }
            // No await stands between here and the return of the updates, so none is lost.
            if self.game.is_none() {
                let passed = newer.cursor.saturating_sub(self.cursor.max(self.came_at));
                let told = loaded.iter().filter(|(found, _)| found.seq > self.came_at);
                self.skipped += passed.saturating_sub(told.count() as u64);
            }
            self.cursor = newer.cursor;
            let mut updates = Vec::with_capacity(loaded.len());
            for (found, latest) in loaded {
                let change = match (found.state, latest) {
                    (State::Deleted, _) => Change::Deleted,
                    (_, Some(latest)) => Change::Game(latest),
                    // The output was superseded and is gone from the log: its successor comes.
                    (_, None) => continue,
                };
                let place = found.place;
                self.positions.advance(place.partition, place.offset);
                updates.push(Update {
                    key: found.key,
                    positions: self.positions.clone(),
                    change,
                });
            }
            if !updates.is_empty() {
                return Ok(updates);
            }
            if newer.more {
                tokio::task::yield_now().await;
            } else if self.changed.changed().await.is_err() {
                return Err(LogError::Unavailable {
                    reason: "the scoreboard has stopped".to_owned(),
                });
            }
        }
    }

    /// How many states were superseded before this reader of all games got them,
    /// since the last call. It is 0 for a reader of one game, where nobody counts.
    pub fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    fn newer(&self) -> Newer {
        let wanted = |found: &Found| {
            let place = found.place;
            let known = self.resumed.cover(place.partition, place.offset);
            let gone = matches!(found.state, State::Deleted) && found.seq <= self.deleted_after;
            found.seq > self.cursor && !known && !gone
        };
        let Some(key) = &self.game else {
            return self.board.newer(self.cursor, COUNT_MAX, wanted);
        };
        let found = self.board.peek(key);
        let cursor = found.as_ref().map_or(self.cursor, |found| found.seq);
        Newer {
            found: found.into_iter().filter(wanted).collect(),
            cursor,
            more: false,
        }
    }
}

/// The claim of a returning reader: what it has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Last {
    Read(Positions),
    /// The reader has read something, but its id is invalid.
    Unknown,
}

impl Last {
    /// Reads the id that a reader came with.
    #[must_use]
    pub fn of(id: &str) -> Self {
        id.parse().map_or(Self::Unknown, Self::Read)
    }
}
