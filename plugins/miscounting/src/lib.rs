//! `nba-scoring` with a mistake: a three-pointer counts two points. The plugin
//! reads and writes the format of `nba-scoring`, so it passes every rehearsal,
//! and only a rollback helps against it.

use courtside_plugin::{Meta, Output, Processor, Refusal};
use nba_game::{Event, Kind, Scoreboard};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Game(nba_game::Game);

impl Processor for Game {
    const NAME: &'static str = "nba-scoring";
    const VERSION: &'static str = "0.1.1";
    type Event = Event;

    fn open(key: &str) -> Self {
        Self(nba_game::Game::new(key))
    }

    fn check(&self, event: &Event, _: &Meta) -> Result<(), Refusal> {
        Ok(self.0.check(event)?)
    }

    fn apply(&mut self, mut event: Event, meta: &Meta, out: &mut Output) {
        if event.kind == Kind::ThreePointer {
            event.points = 2;
        }
        self.0.apply(event);
        out.emit(&Scoreboard {
            game_id: meta.key,
            game: &self.0,
        });
    }
}

courtside_plugin::export!(Game);
