//! The published form of a game, field by field in this order.

use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{Game, game::Team};

/// A game as it is shown. It borrows: nothing is copied to be written.
#[derive(Clone, Copy, Debug)]
pub struct Scoreboard<'a> {
    pub game_id: &'a str,
    pub game: &'a Game,
}

impl Serialize for Scoreboard<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let game = self.game;
        let mut fields = serializer.serialize_struct("Scoreboard", 12)?;
        fields.serialize_field("game_id", self.game_id)?;
        fields.serialize_field("status", &game.status())?;
        fields.serialize_field("period", &game.period)?;
        fields.serialize_field("clock", &game.clock)?;
        fields.serialize_field("points", &ByTeam(game, |team| &team.points))?;
        fields.serialize_field("by_period", &ByTeam(game, |team| &team.by_period))?;
        fields.serialize_field("players", &ByTeam(game, |team| &team.players))?;
        fields.serialize_field("lead_changes", &game.lead.changes)?;
        fields.serialize_field("last_seq", &game.seen.last())?;
        fields.serialize_field("events", &game.events)?;
        fields.serialize_field("duplicates", &game.duplicates)?;
        fields.serialize_field("gaps", &game.seen.gaps())?;
        fields.end()
    }
}

/// `{TEAM: …}` for one thing about each team, in the order of their names.
struct ByTeam<'a, T>(&'a Game, fn(&Team) -> &T);

impl<T: Serialize> Serialize for ByTeam<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(game, of) = self;
        serializer.collect_map(game.teams.iter().map(|team| (&team.name, of(team))))
    }
}
