//! What is remembered of a game, and what an event does to it.

use std::{cmp::Ordering, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use crate::{Event, Kind, players::Players, seen::Seen, teams};

/// A game needs its fourth period to end.
const PERIODS_MIN: u8 = 4;
const TEAMS: usize = 2;
/// A roster has 15; every one of them is in every output.
const SCORERS_MAX: usize = 64;

/// A game. Points, periods, players, the clock and the status are the same in
/// whichever order events come; lead changes are those that were seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Game {
    pub(crate) teams: BTreeMap<String, Team>,
    pub(crate) seen: Seen,
    /// Of the event with the highest `seq`.
    pub(crate) period: u8,
    pub(crate) clock: String,
    /// The highest period seen.
    periods: u8,
    /// The highest period whose end was seen.
    ended: u8,
    pub(crate) lead_changes: u32,
    /// How many events came, duplicates among them.
    pub(crate) events: u64,
    pub(crate) duplicates: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Team {
    pub(crate) points: u32,
    /// A number for each period seen, of either team.
    pub(crate) by_period: Vec<u32>,
    pub(crate) players: Players,
    /// Whether it was the last to lead. A tie leaves that as it is.
    led_last: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No event has counted yet.
    Scheduled,
    Live,
    Final,
}

impl Game {
    /// A game of which nothing is known but its id.
    #[must_use]
    pub fn new(game_id: &str) -> Self {
        let teams = teams::of(game_id)
            .into_iter()
            .flatten()
            .map(|name| (name.to_owned(), Team::default()))
            .collect();
        Self {
            teams,
            seen: Seen::default(),
            period: 0,
            clock: String::new(),
            periods: 0,
            ended: 0,
            lead_changes: 0,
            events: 0,
            duplicates: 0,
        }
    }

    /// # Errors
    /// Why the event cannot be one of this game.
    pub fn check(&self, event: &Event) -> Result<(), String> {
        event.check()?;
        let Some(name) = &event.team else {
            return Ok(());
        };
        match self.teams.get(name) {
            None if self.teams.len() == TEAMS => {
                let names: Vec<&str> = self.teams.keys().map(String::as_str).collect();
                Err(format!(
                    "team {name} does not play: the game is between {}",
                    names.join(" and ")
                ))
            }
            Some(team) if event.points > 0 && team.players.len() == SCORERS_MAX => {
                match &event.player {
                    Some(player) if !team.players.contains(player) => Err(format!(
                        "{player} would be the {}th player of {name} to score",
                        SCORERS_MAX + 1
                    )),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Applies an event that was checked; false if it is a duplicate.
    pub fn apply(&mut self, event: Event) -> bool {
        self.events += 1;
        if !self.seen.insert(event.seq) {
            self.duplicates += 1;
            return false;
        }
        self.periods = self.periods.max(event.period);
        if event.kind == Kind::PeriodEnd {
            self.ended = self.ended.max(event.period);
        }
        if self.seen.last() == event.seq {
            self.period = event.period;
            self.clock = event.clock;
        }
        if let Some(name) = &event.team
            && !self.teams.contains_key(name)
        {
            self.teams.insert(name.clone(), Team::default());
        }
        for team in self.teams.values_mut() {
            team.by_period.resize(usize::from(self.periods), 0);
        }
        if event.points > 0
            && let Some(team) = event.team.and_then(|name| self.teams.get_mut(&name))
        {
            team.score(event.period, u32::from(event.points), event.player);
            self.follow_lead();
        }
        true
    }

    fn follow_lead(&mut self) {
        let mut teams: [Option<&mut Team>; TEAMS] = [None, None];
        for (place, team) in teams.iter_mut().zip(self.teams.values_mut()) {
            *place = Some(team);
        }
        let [Some(one), other] = teams else { return };
        let Some(other) = other else {
            one.led_last = one.points > 0;
            return;
        };
        let (leader, trailer) = match one.points.cmp(&other.points) {
            Ordering::Greater => (one, other),
            Ordering::Less => (other, one),
            Ordering::Equal => return,
        };
        leader.led_last = true;
        if std::mem::take(&mut trailer.led_last) {
            self.lead_changes += 1;
        }
    }

    #[must_use]
    pub fn status(&self) -> Status {
        // The last period's end, not any: at the end of the fourth the teams
        // may be level, and the first points of overtime end nothing.
        let over = self.ended >= PERIODS_MIN && self.ended == self.periods;
        if self.events == 0 {
            Status::Scheduled
        } else if over && !self.is_level() {
            Status::Final
        } else {
            Status::Live
        }
    }

    fn is_level(&self) -> bool {
        let mut points = self.teams.values().map(|team| team.points);
        points.next().unwrap_or(0) == points.next().unwrap_or(0)
    }
}

impl Team {
    fn score(&mut self, period: u8, points: u32, player: Option<String>) {
        self.points += points;
        let period = usize::from(period).saturating_sub(1);
        if let Some(in_period) = self.by_period.get_mut(period) {
            *in_period += points;
        }
        if let Some(player) = player {
            self.players.score(player, points);
        }
    }
}
