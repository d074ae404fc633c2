//! A reader that is told of updates.
//!
//! It costs the board nothing: it is a sequence number, and takes at its own
//! pace what is newer. States superseded while it was slow are not there any
//! more, so it can fall behind by no more than one state of each game.
//!
//! Why an id suffices to go on after a cut: of one partition, sequence numbers
//! grow with offsets, and updates are delivered in the order of sequence
//! numbers. So when an update at an offset was delivered, every game whose
//! latest output stands before it in that partition was delivered too.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    board::Board,
    games::{Found, Latest, Newer, State},
    positions::Positions,
};
use crate::{log::LogError, types::Key};

/// Updates delivered at a time, and how large they are before there are enough:
/// a reader that takes none of them keeps so many from being freed.
const COUNT_MAX: usize = 64;
const BYTES_MAX: usize = 16 * 1024;

/// An update, as a reader is told of it.
#[derive(Clone, Debug)]
pub struct Update {
    pub key: Key,
    /// How far the reader is, once it has this.
    pub positions: Positions,
    pub change: Change,
}

/// What happened to a game.
#[derive(Clone, Debug)]
pub enum Change {
    Game(Arc<Latest>),
    Deleted,
}

/// See the module.
#[derive(Debug)]
pub struct Subscription {
    board: Arc<Board>,
    changed: watch::Receiver<u64>,
    game: Option<Key>,
    cursor: u64,
    /// From when on what it is not told of is skipped, and how much was.
    came_at: u64,
    skipped: u64,
    /// What the reader had when it came.
    resumed: Positions,
    positions: Positions,
    /// A reader that came with nothing need not be told of what was deleted
    /// before it came.
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

    /// Waits for updates; there is at least one. Dropping the future loses none.
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
            // From here on nothing waits: what was taken is delivered.
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
                    // Superseded, and gone from the log: its successor comes.
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

    /// States that were superseded before this reader of all games was told of
    /// them, since it was asked last. Of a reader of one game it is not known.
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

/// What a reader that comes again says it has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Last {
    Read(Positions),
    /// It has something, and nobody knows what.
    Unknown,
}

impl Last {
    /// Reads the id that a reader came with.
    #[must_use]
    pub fn of(id: &str) -> Self {
        id.parse().map_or(Self::Unknown, Self::Read)
    }
}
