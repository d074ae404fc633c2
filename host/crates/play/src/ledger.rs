//! Keeps what has become of each game of a round.
//!
//! One ledger serves one round. It is written at each acknowledgement and read
//! by the progress bar and the report; an entry is about a hundred bytes, and
//! stays until the round is over.

use std::sync::Arc;

use courtside_types::{Offset, PartitionId, Position};
use parking_lot::Mutex;
use tokio::time::Instant;

/// A game's place in the ledger, in the order in which games began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GameNumber(pub(super) usize);

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) id: Arc<str>,
    pub(super) acknowledged: u64,
    /// Position in the log of the game's last acknowledged event.
    pub(super) last: Option<(PartitionId, Offset)>,
    /// Whether every event of the game was acknowledged.
    pub(super) complete: bool,
    /// Whether the host has said that it processed these events.
    pub(super) processed: bool,
    /// Why the game was given up, or why its score could not be fetched.
    pub(super) failure: Option<String>,
}

/// Sums over all games, for the progress display.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) acknowledged: u64,
    pub(super) games: u64,
    pub(super) games_complete: u64,
    pub(super) games_processed: u64,
    /// Why the host is being waited for, if it is.
    pub(super) away: Option<String>,
}

#[derive(Debug)]
pub(super) struct Ledger {
    books: Mutex<Books>,
}

#[derive(Debug)]
struct Books {
    entries: Vec<Entry>,
    sums: Sums,
    /// When the host last did something it was asked for.
    progress: Instant,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            books: Mutex::new(Books {
                entries: Vec::new(),
                sums: Sums::default(),
                progress: Instant::now(),
            }),
        }
    }

    pub(super) fn begin(&self, id: Arc<str>) -> GameNumber {
        let mut books = self.books.lock();
        books.sums.games += 1;
        books.entries.push(Entry {
            id,
            acknowledged: 0,
            last: None,
            complete: false,
            processed: false,
            failure: None,
        });
        GameNumber(books.entries.len() - 1)
    }

    /// Notes positions that the host acknowledged, `fresh` of which are new.
    pub(super) fn acknowledge<'a>(
        &self,
        game: GameNumber,
        positions: impl Iterator<Item = &'a Position>,
        fresh: u64,
    ) {
        let mut books = self.books.lock();
        let books = &mut *books;
        let Some(entry) = books.entries.get_mut(game.0) else {
            return;
        };
        entry.acknowledged += fresh;
        books.sums.acknowledged += fresh;
        for position in positions {
            // Keep the furthest position of a partition, because an event that
            // was sent again may be acknowledged after later ones. (A game has
            // one partition, unless the topic grew while it was played.)
            let here = (position.partition, position.offset);
            entry.last = Some(match entry.last {
                Some(last) if last.0 == here.0 => last.max(here),
                _ => here,
            });
        }
        books.moved();
    }

    pub(super) fn complete(&self, game: GameNumber) {
        let mut books = self.books.lock();
        books.sums.games_complete += 1;
        if let Some(entry) = books.entries.get_mut(game.0) {
            entry.complete = true;
        }
    }

    pub(super) fn fail(&self, game: GameNumber, failure: String) {
        let mut books = self.books.lock();
        books.moved();
        if let Some(entry) = books.entries.get_mut(game.0) {
            entry.failure = Some(failure);
        }
    }

    /// Notes that the host has processed a game.
    pub(super) fn processed(&self, game: GameNumber) {
        let mut books = self.books.lock();
        books.moved();
        books.sums.games_processed += 1;
        if let Some(entry) = books.entries.get_mut(game.0) {
            entry.processed = true;
        }
    }

    pub(super) fn away(&self, reason: &str) {
        self.books.lock().sums.away = Some(reason.to_owned());
    }

    pub(super) fn progress(&self) -> Instant {
        self.books.lock().progress
    }

    pub(super) fn sums(&self) -> Sums {
        self.books.lock().sums.clone()
    }

    pub(super) fn len(&self) -> usize {
        self.books.lock().entries.len()
    }

    pub(super) fn entry(&self, number: usize) -> Option<Entry> {
        self.books.lock().entries.get(number).cloned()
    }

    pub(super) fn id_width(&self) -> usize {
        let books = self.books.lock();
        let widths = books.entries.iter().map(|entry| entry.id.chars().count());
        widths.max().unwrap_or_default()
    }
}

impl Books {
    /// Notes a sign that the host is there.
    fn moved(&mut self) {
        self.progress = Instant::now();
        self.sums.away = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(partition: u32, offset: u64) -> Position {
        Position {
            topic: "t".into(),
            partition: PartitionId(partition),
            offset: Offset(offset),
        }
    }

    #[test]
    fn the_last_position_is_the_furthest() {
        let ledger = Ledger::new();
        let game = ledger.begin("a".into());
        ledger.acknowledge(game, [position(1, 5), position(1, 9)].iter(), 2);
        ledger.acknowledge(game, [position(1, 7), position(1, 8)].iter(), 1);
        let entry = ledger.entry(0).unwrap();
        assert_eq!(entry.acknowledged, 3);
        assert_eq!(entry.last, Some((PartitionId(1), Offset(9))));

        ledger.acknowledge(game, [position(0, 2)].iter(), 1);
        let entry = ledger.entry(0).unwrap();
        assert_eq!(entry.last, Some((PartitionId(0), Offset(2))));
        assert_eq!(ledger.sums().acknowledged, 4);
    }

    #[test]
    fn a_host_that_answers_is_not_away() {
        let ledger = Ledger::new();
        let game = ledger.begin("a".into());
        ledger.away("refused");
        assert_eq!(ledger.sums().away.as_deref(), Some("refused"));
        ledger.acknowledge(game, [position(1, 5)].iter(), 1);
        assert_eq!(ledger.sums().away, None);
    }
}
