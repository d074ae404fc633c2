//! One event of a game as it comes, and the checks that need no game.

use serde::Deserialize;

/// An event of a game. Fields that are not listed here are ignored. `game_id`
/// is one of them, for the record key says which game it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Fields")]
pub struct Event {
    /// The event's sequence number, which counts from 1 within a game.
    pub seq: u32,
    pub kind: Kind,
    pub team: Option<String>,
    pub player: Option<String>,
    /// The points that the event states, which its type does not determine.
    pub points: u8,
    pub period: u8,
    /// Time left in the period.
    pub clock: String,
    /// The `seq` of the event whose points (and team and player, where they are
    /// named) this one puts right. A correction changes nothing else.
    pub corrects: Option<u32>,
}

/// An event's fields as they come.
#[derive(Deserialize)]
struct Fields {
    seq: u32,
    #[serde(rename = "type")]
    kind: Kind,
    team: Option<String>,
    player: Option<String>,
    points: Option<u8>,
    period: u8,
    clock: String,
    corrects: Option<u32>,
}

impl TryFrom<Fields> for Event {
    type Error = &'static str;

    /// A correction without points would take a basket back that nobody meant.
    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        if fields.corrects.is_some() && fields.points.is_none() {
            return Err("points is missing: a correction says the new points, also 0");
        }
        Ok(Self {
            seq: fields.seq,
            kind: fields.kind,
            team: fields.team,
            player: fields.player,
            points: fields.points.unwrap_or(0),
            period: fields.period,
            clock: fields.clock,
            corrects: fields.corrects,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
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

/// More than one event of any league's game brings.
const POINTS_MAX: u8 = 10;
/// The longest NBA game had 10 periods. Each is a number in every output.
const PERIOD_MAX: u8 = 64;
const TEAM_BYTES_MAX: usize = 32;
const PLAYER_BYTES_MAX: usize = 128;
const CLOCK_BYTES_MAX: usize = 16;

impl Event {
    /// # Errors
    /// Returns what is wrong with the event in any game.
    pub fn check(&self) -> Result<(), String> {
        if self.seq == 0 {
            return Err("seq is 0; it counts from 1".to_owned());
        }
        if !(1..=PERIOD_MAX).contains(&self.period) {
            return Err(format!(
                "period is {}, not one of 1 to {PERIOD_MAX}",
                self.period
            ));
        }
        if self.points > POINTS_MAX {
            return Err(format!(
                "points is {}, more than the {POINTS_MAX} that one event can bring",
                self.points
            ));
        }
        if let Some(corrected) = self.corrects
            && !(1..self.seq).contains(&corrected)
        {
            return Err(format!(
                "corrects is {corrected}; a correction names an earlier event, and its own seq is {}",
                self.seq
            ));
        }
        if self.points > 0 && self.team.is_none() && self.corrects.is_none() {
            return Err(format!("points is {} and team is null", self.points));
        }
        check_name("team", self.team.as_deref(), TEAM_BYTES_MAX)?;
        check_name("player", self.player.as_deref(), PLAYER_BYTES_MAX)?;
        if self.clock.len() > CLOCK_BYTES_MAX {
            return Err(too_long("clock", &self.clock, CLOCK_BYTES_MAX));
        }
        Ok(())
    }
}

fn check_name(field: &str, name: Option<&str>, bytes_max: usize) -> Result<(), String> {
    match name {
        Some("") => Err(format!("{field} is empty; nobody is null")),
        Some(name) if name.len() > bytes_max => Err(too_long(field, name, bytes_max)),
        _ => Ok(()),
    }
}

fn too_long(field: &str, text: &str, bytes_max: usize) -> String {
    format!(
        "{field} is {} bytes long, over the limit of {bytes_max}",
        text.len()
    )
}
