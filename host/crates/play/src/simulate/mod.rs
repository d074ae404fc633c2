//! Invented games, for users without files, and for benchmarks and tests.
//!
//! A [`Season`] is an endless list of games drawn from one seed. Game `n`
//! depends on the seed and `n` alone, so games may be made in any order and
//! on any thread. A [`Game`] makes its events as they are asked for: a few
//! kilobytes, however many games a season has played.

mod game;
mod league;

use std::{fmt, sync::Arc};

use jiff::{ToSpan as _, civil::Date};
use rand::{Rng as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use serde::{Serialize, Serializer};

pub use game::Game;
use league::League;

use super::pace::{GameTime, Line};

/// Type of an event, in the words of the scoring plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    FieldGoal,
    ThreePointer,
    FreeThrow,
    Miss,
    Rebound,
    Foul,
    Turnover,
    PeriodStart,
    PeriodEnd,
    Other,
}

impl EventKind {
    /// Points that the event gives on the scoreboard.
    #[must_use]
    pub const fn points(self) -> u8 {
        match self {
            Self::FieldGoal => 2,
            Self::ThreePointer => 3,
            Self::FreeThrow => 1,
            Self::Miss
            | Self::Rebound
            | Self::Foul
            | Self::Turnover
            | Self::PeriodStart
            | Self::PeriodEnd
            | Self::Other => 0,
        }
    }
}

/// The time left in a period, in seconds; written `9:42`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Clock(pub u16);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl Serialize for Clock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A score event. Its JSON is what `POST /score` takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    pub game_id: Arc<str>,
    /// Counts from 1 within the game.
    pub seq: u32,
    #[serde(rename = "type")]
    pub kind: EventKind,
    pub team: Option<&'static str>,
    pub player: Option<Arc<str>>,
    pub points: u8,
    pub period: u8,
    pub clock: Clock,
    /// The `seq` of the event that a review changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrects: Option<u32>,
}

impl Event {
    pub(super) fn line(&self) -> Result<Line, serde_json::Error> {
        Ok(Line {
            bytes: serde_json::to_vec(self)?.into(),
            at: GameTime::at(u32::from(self.period), &self.clock.to_string()),
        })
    }
}

/// All games that one seed invents. As an iterator, a season gives its games
/// from the first on.
#[derive(Clone, Debug)]
pub struct Season {
    seed: u64,
    league: Arc<League>,
    opening_night: Date,
    next: u64,
}

/// Games on one evening: every team plays once.
const GAMES_PER_DATE: u64 = league::TEAMS as u64 / 2;

/// A season begins on a day of its own, so that the games of two seeds have
/// different ids. Otherwise a host that has both would take two games for one.
const FIRST_OPENING_NIGHT: Date = jiff::civil::date(1950, 1, 1);
const OPENING_NIGHTS: i32 = 150 * 365;

/// Purpose of a stream of random numbers. Each purpose has numbers of its own,
/// so that a game does not depend on which others were made.
enum Stream {
    League,
    OpeningNight,
    Date(u64),
    Game(u64),
}

fn rng(seed: u64, stream: Stream) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(match stream {
        Stream::League => u64::MAX,
        Stream::OpeningNight => u64::MAX - 1,
        Stream::Date(number) => number.wrapping_mul(2),
        Stream::Game(number) => number.wrapping_mul(2).wrapping_add(1),
    });
    rng
}

impl Season {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            league: Arc::new(League::new(&mut rng(seed, Stream::League))),
            opening_night: FIRST_OPENING_NIGHT.saturating_add(
                rng(seed, Stream::OpeningNight)
                    .random_range(0..OPENING_NIGHTS)
                    .days(),
            ),
            next: 0,
        }
    }

    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The game of that number, from 0. None where the calendar has ended,
    /// some forty million games on.
    #[must_use]
    pub fn game(&self, number: u64) -> Option<Game> {
        let evening = number / GAMES_PER_DATE;
        let days = i32::try_from(evening).ok()?.days();
        let date = self.opening_night.checked_add(days).ok()?;

        let mut order: [usize; league::TEAMS] = std::array::from_fn(|team| team);
        order.shuffle(&mut rng(self.seed, Stream::Date(evening)));
        let first = usize::try_from(number % GAMES_PER_DATE).ok()? * 2;
        let away = self.league.team(*order.get(first)?)?;
        let home = self.league.team(*order.get(first + 1)?)?;

        let id = format!("{date}-{}-{}", away.code, home.code);
        let rng = rng(self.seed, Stream::Game(number));
        Some(Game::new(id.into(), away.clone(), home.clone(), rng))
    }
}

impl Iterator for Season {
    type Item = Game;

    fn next(&mut self) -> Option<Game> {
        let game = self.game(self.next)?;
        self.next += 1;
        Some(game)
    }
}

#[cfg(test)]
mod tests;
