//! The plugin of the pipeline `scores`: the score of an NBA game, from its
//! events. One record goes out for each that comes in, duplicates too (they
//! are counted), with the game's key.
//!
//! The plugin opens `box-score/1` besides its own format and leaves the
//! rebounds out, so that a host that has run `box-score` can go back.

use courtside_plugin::{Meta, Output, Processor, Refusal};
use nba_game::{Event, Scoreboard};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Game(nba_game::Game);

/// The part of `box-score/1` that this plugin takes over.
#[derive(Deserialize)]
struct BoxScore {
    game: Game,
}

impl Processor for Game {
    const NAME: &'static str = "nba-scoring";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const READS: &'static [&'static str] = &["box-score/1"];
    type Event = Event;

    fn open(key: &str) -> Self {
        Self(nba_game::Game::new(key))
    }

    fn check(&self, event: &Event, _: &Meta) -> Result<(), Refusal> {
        Ok(self.0.check(event)?)
    }

    fn apply(&mut self, event: Event, meta: &Meta, out: &mut Output) {
        self.0.apply(event);
        out.emit(&Scoreboard {
            game_id: meta.key,
            game: &self.0,
        });
    }

    fn migrate(_key: &str, _format: &str, state: &[u8]) -> Result<Self, String> {
        let BoxScore { game } = serde_json::from_slice(state).map_err(|error| error.to_string())?;
        Ok(game)
    }
}

courtside_plugin::export!(Game);
