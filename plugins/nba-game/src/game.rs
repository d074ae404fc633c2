//! A game's state, and what an event does to it.

use serde::{Deserialize, Serialize};

use crate::{
    Clock, Event, Kind,
    baskets::{BASKETS_MAX, Basket, Baskets, CORRECTIONS_MAX, Correction},
    lead::Lead,
    players::Players,
    saved::Saved,
    seen::Seen,
    teams,
};

/// A game needs its fourth period to end.
const PERIODS_MIN: u8 = 4;
const TEAMS: usize = 2;
/// A roster has 15 players; every scorer is in every output.
const SCORERS_MAX: usize = 64;
/// Both teams' scorers, and players whose points a correction took away.
const ROSTER_MAX: usize = 255;

/// A game. Points, periods, players, the clock and the status are the same in
/// whichever order events come; lead changes are those of the order in which
/// baskets came, each as it was corrected later.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Saved")]
pub struct Game {
    /// The teams in the order of their names.
    pub(crate) teams: Vec<Team>,
    /// Players that baskets and corrections name, of either team.
    pub(crate) roster: Vec<String>,
    pub(crate) seen: Seen,
    pub(crate) baskets: Baskets,
    pub(crate) lead: Lead,
    pub(crate) period: u8,
    pub(crate) clock: String,
    /// The highest `seq` of an event that is no correction: `period` and
    /// `clock` are those of that event.
    pub(crate) shown: u32,
    /// The highest period seen.
    pub(crate) periods: u8,
    /// The highest period whose end was seen.
    pub(crate) ended: u8,
    /// How many events came, duplicates among them.
    pub(crate) events: u64,
    pub(crate) duplicates: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Team {
    pub(crate) name: String,
    pub(crate) points: u32,
    /// Points by period, with a number for each period seen of either team.
    pub(crate) by_period: Vec<u32>,
    pub(crate) players: Players,
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
        let mut names: Vec<&str> = teams::of(game_id).into_iter().flatten().collect();
        names.sort_unstable();
        Self {
            teams: names.into_iter().map(Team::new).collect(),
            roster: Vec::new(),
            seen: Seen::default(),
            baskets: Baskets::default(),
            lead: Lead::default(),
            period: 0,
            clock: String::new(),
            shown: 0,
            periods: 0,
            ended: 0,
            events: 0,
            duplicates: 0,
        }
    }

    /// # Errors
    /// Why the event cannot be one of this game.
    pub fn check(&self, event: &Event) -> Result<(), String> {
        event.check()?;
        if self.seen.is_forgotten(event.seq) {
            return Err(format!(
                "seq {} is so far back, among so many gaps, that the game no longer knows whether it came",
                event.seq
            ));
        }
        if let Some(name) = &event.team
            && self.team(name).is_none()
            && self.teams.len() == TEAMS
        {
            let names: Vec<&str> = self.teams.iter().map(|team| team.name.as_str()).collect();
            return Err(format!(
                "team {name} does not play: the game is between {}",
                names.join(" and ")
            ));
        }
        if let Some(corrected) = event.corrects
            && !self.seen.contains(event.seq)
        {
            self.check_correction(event, corrected)?;
        }
        if self.baskets.is_corrected(event.seq) && event.corrects.is_some() {
            return Err(format!(
                "seq {} is a correction, and a correction of it came already",
                event.seq
            ));
        }
        self.check_scorer(event)
    }

    fn check_correction(&self, event: &Event, corrected: u32) -> Result<(), String> {
        if self.baskets.may_be_summed(corrected) {
            return Err(format!(
                "seq {corrected} is too far back to be corrected: the game keeps its last {BASKETS_MAX} baskets"
            ));
        }
        if let Some(first) = self.baskets.corrected_by(corrected) {
            return Err(format!(
                "seq {corrected} is itself a correction, of seq {first}: correct seq {first} again"
            ));
        }
        if self.baskets.corrections() >= CORRECTIONS_MAX {
            return Err(format!(
                "the game has {CORRECTIONS_MAX} corrections already, which is the limit"
            ));
        }
        let is_basket = self.baskets.counted(corrected).is_some();
        if event.points > 0 && event.team.is_none() && self.seen.contains(corrected) && !is_basket {
            return Err(format!(
                "points is {} and team is null, and seq {corrected} brought no points before whose team could be kept",
                event.points
            ));
        }
        Ok(())
    }

    /// Refuses a scorer over the number that a game keeps for each team.
    fn check_scorer(&self, event: &Event) -> Result<(), String> {
        let Some(player) = event.player.as_ref().filter(|_| event.points > 0) else {
            return Ok(());
        };
        let corrected = event.corrects.and_then(|seq| self.baskets.counted(seq));
        let team = match &event.team {
            Some(name) => self.team(name),
            None => corrected.map(|basket| basket.team),
        };
        let Some(team) = team.and_then(|team| self.teams.get(usize::from(team))) else {
            return Ok(());
        };
        let full = team.players.len() >= SCORERS_MAX || self.roster.len() >= ROSTER_MAX;
        if full && !team.players.contains(player) {
            return Err(format!(
                "{player} would be the {}th player of {} to score",
                SCORERS_MAX + 1,
                team.name
            ));
        }
        Ok(())
    }

    /// Applies an event that was checked; false if it is a duplicate.
    pub fn apply(&mut self, event: Event) -> bool {
        self.events += 1;
        if !self.seen.insert(event.seq) {
            self.duplicates += 1;
            return false;
        }
        match event.corrects {
            Some(corrected) => self.correct(corrected, &event),
            None => self.play(event),
        }
        true
    }

    fn play(&mut self, event: Event) {
        if event.kind == Kind::PeriodEnd {
            self.ended = self.ended.max(event.period);
        }
        self.see_period(event.period);
        let team = event.team.as_deref().map(|name| self.team_or_new(name));
        let seq = event.seq;
        if let Some(team) = team
            && (event.points > 0 || self.baskets.is_corrected(seq))
        {
            // An event without points leaves no player, in whichever order it and
            // its correction come.
            let player = event.player.filter(|_| event.points > 0);
            let basket = Basket {
                team,
                player: player.and_then(|player| self.player(player)),
                points: event.points,
                period: event.period,
            };
            if self.baskets.is_corrected(seq) {
                self.recount(seq, |baskets| baskets.add_corrected(seq, basket));
            } else {
                self.baskets.add(seq, basket);
                self.credit(basket);
                self.follow_lead();
            }
        }
        if seq > self.shown {
            self.shown = seq;
            self.period = event.period;
            self.clock = match Clock::read(&event.clock) {
                Some(clock) => clock.to_string(),
                None => event.clock,
            };
        }
    }

    fn correct(&mut self, corrected: u32, event: &Event) {
        let correction = Correction {
            seq: event.seq,
            team: event.team.as_deref().map(|name| self.team_or_new(name)),
            player: event
                .player
                .as_ref()
                .and_then(|player| self.player(player.clone())),
            points: event.points,
            period: event.period,
        };
        self.recount(corrected, |baskets| baskets.correct(corrected, correction));
    }

    /// Changes the basket of an event and counts the event anew. The change may
    /// move the lead at any time since that event.
    fn recount(&mut self, seq: u32, change: impl FnOnce(&mut Baskets)) {
        if let Some(before) = self.baskets.counted(seq) {
            self.uncredit(before);
        }
        change(&mut self.baskets);
        if let Some(now) = self.baskets.counted(seq) {
            self.see_period(now.period);
            self.credit(now);
        }
        self.lead = self.baskets.lead();
    }

    fn follow_lead(&mut self) {
        let mut points = self.teams.iter().map(|team| team.points);
        let points = [points.next().unwrap_or(0), points.next().unwrap_or(0)];
        self.lead.follow(points);
    }

    fn credit(&mut self, basket: Basket) {
        let Some(team) = self.teams.get_mut(usize::from(basket.team)) else {
            return;
        };
        let points = u32::from(basket.points);
        team.points += points;
        if let Some(in_period) = team.in_period(basket.period) {
            *in_period += points;
        }
        if points > 0
            && let Some(player) = basket
                .player
                .and_then(|id| self.roster.get(usize::from(id)))
        {
            team.players.add(player, points);
        }
    }

    fn uncredit(&mut self, basket: Basket) {
        let Some(team) = self.teams.get_mut(usize::from(basket.team)) else {
            return;
        };
        let points = u32::from(basket.points);
        team.points = team.points.saturating_sub(points);
        if let Some(in_period) = team.in_period(basket.period) {
            *in_period = in_period.saturating_sub(points);
        }
        if let Some(player) = basket
            .player
            .and_then(|id| self.roster.get(usize::from(id)))
        {
            team.players.take(player, points);
        }
    }

    fn see_period(&mut self, period: u8) {
        self.periods = self.periods.max(period);
        for team in &mut self.teams {
            team.by_period.resize(usize::from(self.periods), 0);
        }
    }

    fn team(&self, name: &str) -> Option<u8> {
        let at = self.teams.iter().position(|team| team.name == name);
        at.and_then(|at| u8::try_from(at).ok())
    }

    fn team_or_new(&mut self, name: &str) -> u8 {
        if let Some(team) = self.team(name) {
            return team;
        }
        let mut team = Team::new(name);
        team.by_period.resize(usize::from(self.periods), 0);
        let at = self.teams.partition_point(|other| other.name < team.name);
        if at < self.teams.len() {
            self.baskets.swap_teams();
            self.lead.swap_teams();
        }
        self.teams.insert(at, team);
        u8::try_from(at).unwrap_or(u8::MAX)
    }

    /// A player's index in the roster; none where the roster is full, and then
    /// the points are the team's alone.
    pub(crate) fn player(&mut self, name: String) -> Option<u8> {
        let at = self.roster.iter().position(|player| *player == name);
        let at = at.unwrap_or_else(|| {
            if self.roster.len() < ROSTER_MAX {
                self.roster.push(name);
                self.roster.len() - 1
            } else {
                ROSTER_MAX
            }
        });
        u8::try_from(at)
            .ok()
            .filter(|at| usize::from(*at) < ROSTER_MAX)
    }

    #[must_use]
    pub fn status(&self) -> Status {
        // Only the end of the last period ends a game: at the end of the fourth
        // the teams may be level, and the first points of overtime end nothing.
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
        let mut points = self.teams.iter().map(|team| team.points);
        points.next().unwrap_or(0) == points.next().unwrap_or(0)
    }
}

impl Team {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            points: 0,
            by_period: Vec::new(),
            players: Players::default(),
        }
    }

    fn in_period(&mut self, period: u8) -> Option<&mut u32> {
        self.by_period
            .get_mut(usize::from(period).saturating_sub(1))
    }
}
