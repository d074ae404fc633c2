//! The scores that `nba-scoring` publishes, and each team's rebounds besides.
//! The plugin takes over games of `nba-scoring`, and counts rebounds from
//! there.

use std::collections::BTreeMap;

use courtside_plugin::{Meta, Output, Processor, Refusal, State};
use nba_game::{Event, Game, Kind, Scoreboard};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BoxScore {
    game: Game,
    /// Rebounds by team; a team appears with its first.
    rebounds: BTreeMap<String, u32>,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    scoreboard: Scoreboard<'a>,
    rebounds: &'a BTreeMap<String, u32>,
}

impl Processor for BoxScore {
    const NAME: &'static str = "box-score";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const READS: &'static [&'static str] = &["nba-scoring/1"];
    type Event = Event;

    fn open(key: &str) -> Self {
        Self {
            game: Game::new(key),
            rebounds: BTreeMap::new(),
        }
    }

    fn check(&self, event: &Event, _: &Meta) -> Result<(), Refusal> {
        Ok(self.game.check(event)?)
    }

    fn apply(&mut self, event: Event, meta: &Meta, out: &mut Output) {
        let rebound = match (event.kind, event.corrects) {
            (Kind::Rebound, None) => event.team.clone(),
            _ => None,
        };
        let counts = self.game.apply(event);
        if let Some(team) = rebound.filter(|_| counts) {
            *self.rebounds.entry(team).or_default() += 1;
        }
        out.emit(&Shown {
            scoreboard: Scoreboard {
                game_id: meta.key,
                game: &self.game,
            },
            rebounds: &self.rebounds,
        });
    }

    fn migrate(_key: &str, _format: &str, state: &[u8]) -> Result<Self, String> {
        Ok(Self {
            game: Game::decode(state)?,
            rebounds: BTreeMap::new(),
        })
    }
}

courtside_plugin::export!(BoxScore);
