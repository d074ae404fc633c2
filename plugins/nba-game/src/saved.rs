//! A game as it is saved: the JSON of its first format, with the baskets beside
//! it, so that a state without baskets opens, too.
//!
//! Baskets are the larger part of a state. Each basket is saved as two numbers:
//! the difference between its `seq` and the one before, and everything else in
//! one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct};

use crate::{
    Game,
    baskets::{Basket, Baskets, Correction, Sum},
    game::Team,
    lead::Lead,
    players::Players,
    seen::Seen,
};

const POINTS: u32 = 16;
const TEAMS: u32 = 2;
const PLAYERS: u32 = 256;

#[derive(Deserialize)]
pub(crate) struct Saved {
    teams: BTreeMap<String, SavedTeam>,
    seen: Seen,
    period: u8,
    clock: String,
    periods: u8,
    ended: u8,
    lead_changes: u32,
    events: u64,
    duplicates: u64,
    /// `None` if it is the last `seq` seen.
    shown: Option<u32>,
    /// `None` in a state that is older than corrections are.
    baskets: Option<Vec<(i64, u32)>>,
    #[serde(default)]
    corrections: BTreeMap<u32, Vec<SavedCorrection>>,
    #[serde(default)]
    summed: Option<Sum>,
    /// Players of baskets that a correction took away.
    #[serde(default)]
    others: Vec<String>,
}

#[derive(Deserialize)]
struct SavedTeam {
    points: u32,
    by_period: Vec<u32>,
    players: Players,
    led_last: bool,
}

#[derive(Serialize)]
struct TeamView<'a> {
    points: u32,
    by_period: &'a [u32],
    players: &'a Players,
    led_last: bool,
}

#[derive(Serialize, Deserialize)]
struct SavedCorrection {
    seq: u32,
    team: Option<u8>,
    player: Option<String>,
    points: u8,
    period: u8,
}

impl Serialize for Game {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (baskets, others) = self.saved_baskets();
        let mut fields = serializer.serialize_struct("Game", 14)?;
        fields.serialize_field("teams", &Teams(self))?;
        fields.serialize_field("seen", &self.seen)?;
        fields.serialize_field("period", &self.period)?;
        fields.serialize_field("clock", &self.clock)?;
        fields.serialize_field("periods", &self.periods)?;
        fields.serialize_field("ended", &self.ended)?;
        fields.serialize_field("lead_changes", &self.lead.changes)?;
        fields.serialize_field("events", &self.events)?;
        fields.serialize_field("duplicates", &self.duplicates)?;
        if self.shown != self.seen.last() {
            fields.serialize_field("shown", &self.shown)?;
        }
        fields.serialize_field("baskets", &baskets)?;
        let corrections = self.saved_corrections();
        if !corrections.is_empty() {
            fields.serialize_field("corrections", &corrections)?;
        }
        if self.baskets.summed != Sum::default() {
            fields.serialize_field("summed", &self.baskets.summed)?;
        }
        if !others.is_empty() {
            fields.serialize_field("others", &others)?;
        }
        fields.end()
    }
}

struct Teams<'a>(&'a Game);

impl Serialize for Teams<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(game) = self;
        serializer.collect_map((0_u8..).zip(&game.teams).map(|(id, team)| {
            let view = TeamView {
                points: team.points,
                by_period: &team.by_period,
                players: &team.players,
                led_last: game.lead.led_last == Some(id),
            };
            (&team.name, view)
        }))
    }
}

impl Game {
    /// The baskets as numbers, and the players that no team lists any longer.
    fn saved_baskets(&self) -> (Vec<(i64, u32)>, Vec<&str>) {
        let mut names: Vec<&str> = self
            .teams
            .iter()
            .flat_map(|team| team.players.names())
            .collect();
        let listed = names.len();
        let mut before = 0;
        let mut saved = Vec::new();
        for (seq, basket) in &self.baskets.made {
            let player = self.player_name(basket.player).map(|name| {
                let at = names.iter().position(|listed| *listed == name);
                at.unwrap_or_else(|| {
                    names.push(name);
                    names.len() - 1
                })
            });
            // If there are more names than indices, the points are the team's
            // alone.
            let player = player.and_then(|player| u8::try_from(player).ok());
            let seq = i64::from(*seq);
            saved.push((seq - before, packed(basket, player)));
            before = seq;
        }
        (saved, names.split_off(listed))
    }

    fn saved_corrections(&self) -> BTreeMap<u32, Vec<SavedCorrection>> {
        let saved = |correction: &Correction| SavedCorrection {
            seq: correction.seq,
            team: correction.team,
            player: self.player_name(correction.player).map(str::to_owned),
            points: correction.points,
            period: correction.period,
        };
        let all = self.baskets.corrections.iter();
        all.map(|(seq, corrections)| (*seq, corrections.iter().map(saved).collect()))
            .collect()
    }

    fn player_name(&self, player: Option<u8>) -> Option<&str> {
        let name = self.roster.get(usize::from(player?))?;
        Some(name)
    }
}

fn packed(basket: &Basket, player: Option<u8>) -> u32 {
    let player = player.map_or(0, |player| u32::from(player) + 1);
    let period = u32::from(basket.period.saturating_sub(1));
    ((period * PLAYERS + player) * TEAMS + u32::from(basket.team)) * POINTS
        + u32::from(basket.points)
}

fn unpacked(number: u32) -> Basket {
    let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    let (rest, points) = (number / POINTS, number % POINTS);
    let (rest, team) = (rest / TEAMS, rest % TEAMS);
    let (period, player) = (rest / PLAYERS, rest % PLAYERS);
    Basket {
        team: byte(team),
        player: player.checked_sub(1).map(byte),
        points: byte(points),
        period: byte(period).saturating_add(1),
    }
}

impl From<Saved> for Game {
    fn from(saved: Saved) -> Self {
        let led_last = saved.teams.values().position(|team| team.led_last);
        let lead = Lead {
            led_last: led_last.and_then(|at| u8::try_from(at).ok()),
            changes: saved.lead_changes,
        };
        let mut roster = Vec::new();
        let mut teams = Vec::new();
        for (name, team) in saved.teams {
            roster.extend(team.players.names().map(str::to_owned));
            teams.push(Team {
                name,
                points: team.points,
                by_period: team.by_period,
                players: team.players,
            });
        }
        roster.extend(saved.others);
        let summed = match (saved.summed, &saved.baskets) {
            (Some(summed), _) => summed,
            (None, Some(_)) => Sum::default(),
            (None, None) => Sum::of(saved.seen.last(), &teams, lead),
        };
        let mut seq = 0;
        let made = saved.baskets.unwrap_or_default().into_iter();
        let made = made.map(|(more, basket)| {
            seq += more;
            (u32::try_from(seq).unwrap_or(0), unpacked(basket))
        });
        let mut game = Self {
            teams,
            roster,
            shown: saved.shown.unwrap_or_else(|| saved.seen.last()),
            seen: saved.seen,
            baskets: Baskets {
                made: made.collect(),
                corrections: BTreeMap::new(),
                summed,
            },
            lead,
            period: saved.period,
            clock: saved.clock,
            periods: saved.periods,
            ended: saved.ended,
            events: saved.events,
            duplicates: saved.duplicates,
        };
        for (seq, corrections) in saved.corrections {
            let corrections = corrections.into_iter().map(|correction| Correction {
                seq: correction.seq,
                team: correction.team,
                player: correction.player.and_then(|name| game.player(name)),
                points: correction.points,
                period: correction.period,
            });
            let corrections = corrections.collect();
            game.baskets.corrections.insert(seq, corrections);
        }
        game
    }
}
