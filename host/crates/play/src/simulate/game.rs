//! One invented game, a possession at a time.
//!
//! The odds are those of the thirty real games that come with Courtside's
//! sources: about 465 events and 100 points a team.

use std::{collections::VecDeque, mem, sync::Arc};

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use super::{Clock, Event, EventKind, league::Team};

const QUARTERS: u8 = 4;
const QUARTER_S: u16 = 12 * 60;
const OVERTIME_S: u16 = 5 * 60;

/// A game has an end: level after this many overtimes, it is decided by the
/// last shot. (The longest NBA game had six.)
const OVERTIMES_MAX: u8 = 6;

/// An invented game: an iterator of its events, made as they are asked for.
#[derive(Clone, Debug)]
pub struct Game {
    id: Arc<str>,
    rng: ChaCha8Rng,
    offense: Side,
    defense: Side,
    seq: u32,
    period: u8,
    /// Seconds left in the period.
    left: u16,
    stage: Stage,
    /// A basket that the officials look at again.
    review: Option<Event>,
    /// Events that are made and not yet asked for: those of one possession at
    /// most.
    ready: VecDeque<Event>,
}

#[derive(Clone, Debug)]
struct Side {
    team: Team,
    points: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Break,
    Playing,
    Over,
}

impl Game {
    pub(super) fn new(id: Arc<str>, away: Team, home: Team, rng: ChaCha8Rng) -> Self {
        Self {
            id,
            rng,
            offense: Side {
                team: away,
                points: 0,
            },
            defense: Side {
                team: home,
                points: 0,
            },
            seq: 0,
            period: 0,
            left: 0,
            stage: Stage::Break,
            review: None,
            ready: VecDeque::new(),
        }
    }

    /// `DATE-AWAY-HOME`.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Gives the game another id, in the events made from here on.
    #[must_use]
    pub fn with_id(self, id: impl Into<Arc<str>>) -> Self {
        Self {
            id: id.into(),
            ..self
        }
    }

    fn advance(&mut self) {
        match self.stage {
            Stage::Break => self.start_period(),
            Stage::Playing => self.possession(),
            Stage::Over => {}
        }
    }

    fn start_period(&mut self) {
        self.period += 1;
        self.left = if self.period <= QUARTERS {
            QUARTER_S
        } else {
            OVERTIME_S
        };
        self.stage = Stage::Playing;
        self.push(EventKind::PeriodStart, None, None);
        if self.rng.random() {
            self.turn_over();
        }
        // Each half and each overtime begins with somebody winning the ball.
        if self.period == 1 || self.period > QUARTERS {
            self.other(true);
        }
    }

    fn end_period(&mut self) {
        self.left = 0;
        if self.chance(25) {
            self.last_shot();
        }
        self.decide_review();
        if self.period >= QUARTERS + OVERTIMES_MAX && self.level() {
            self.score(EventKind::ThreePointer);
            self.review = None;
        }
        self.push(EventKind::PeriodEnd, None, None);
        self.stage = if self.period >= QUARTERS && !self.level() {
            Stage::Over
        } else {
            Stage::Break
        };
    }

    fn level(&self) -> bool {
        self.offense.points == self.defense.points
    }

    fn possession(&mut self) {
        let seconds = self.rng.random_range(4..=19);
        if seconds >= self.left {
            return self.end_period();
        }
        self.left -= seconds;
        self.decide_review();
        match self.rng.random_range(0..100) {
            0..13 => self.turnover(),
            13..22 => self.common_foul(),
            22..31 => self.shooting_foul(),
            _ => self.shot(),
        }
        if self.chance(6) {
            self.time_out();
        }
    }

    fn turnover(&mut self) {
        let player = self.anyone(92);
        self.push(EventKind::Turnover, Some(self.offense.team.code), player);
        self.substitutions(15);
        self.turn_over();
    }

    fn common_foul(&mut self) {
        self.foul();
        self.substitutions(35);
    }

    fn shooting_foul(&mut self) {
        self.foul();
        self.substitutions(40);
        let shooter = self.offense.team.player(&mut self.rng);
        self.free_throw(shooter.clone());
        if self.free_throw(shooter) {
            self.turn_over();
        } else {
            self.rebound();
        }
    }

    fn shot(&mut self) {
        let (kind, odds) = if self.chance(28) {
            (EventKind::ThreePointer, 36)
        } else {
            (EventKind::FieldGoal, 50)
        };
        if !self.chance(odds) {
            self.miss();
            return self.rebound();
        }
        let shooter = self.score(kind);
        if self.chance(5) {
            self.foul();
            if !self.free_throw(shooter) {
                return self.rebound();
            }
        }
        self.turn_over();
    }

    /// Plays a shot at the buzzer, after which nobody gets a rebound.
    fn last_shot(&mut self) {
        if self.chance(30) {
            self.score(EventKind::FieldGoal);
        } else {
            self.miss();
        }
    }

    fn score(&mut self, kind: EventKind) -> Option<Arc<str>> {
        let shooter = self.offense.team.player(&mut self.rng);
        self.basket(kind, shooter.clone());
        shooter
    }

    fn basket(&mut self, kind: EventKind, shooter: Option<Arc<str>>) {
        self.offense.points += u32::from(kind.points());
        self.push(kind, Some(self.offense.team.code), shooter);
        if kind != EventKind::FreeThrow && self.review.is_none() && self.chance(3) {
            self.review = self.ready.back().cloned();
        }
    }

    /// The officials decide before the next possession, or when the period ends:
    /// a three was a two, or the basket does not count.
    fn decide_review(&mut self) {
        let Some(basket) = self.review.take() else {
            return;
        };
        let kind = match basket.kind {
            EventKind::ThreePointer if self.chance(70) => EventKind::FieldGoal,
            _ => EventKind::Miss,
        };
        let less = u32::from(basket.points - kind.points());
        for side in [&mut self.offense, &mut self.defense] {
            if Some(side.team.code) == basket.team {
                side.points -= less;
            }
        }
        self.push(kind, basket.team, basket.player);
        if let Some(event) = self.ready.back_mut() {
            event.corrects = Some(basket.seq);
        }
    }

    fn free_throw(&mut self, shooter: Option<Arc<str>>) -> bool {
        let made = self.chance(76);
        if made {
            self.basket(EventKind::FreeThrow, shooter);
        } else {
            self.push(EventKind::Miss, Some(self.offense.team.code), shooter);
        }
        made
    }

    fn miss(&mut self) {
        let shooter = self.offense.team.player(&mut self.rng);
        self.push(EventKind::Miss, Some(self.offense.team.code), shooter);
    }

    fn rebound(&mut self) {
        let seconds = self.rng.random_range(0..=2);
        self.left = self.left.saturating_sub(seconds);
        if self.chance(75) {
            self.turn_over();
        }
        let player = self.anyone(90);
        self.push(EventKind::Rebound, Some(self.offense.team.code), player);
    }

    fn foul(&mut self) {
        let player = self.defense.team.player(&mut self.rng);
        self.push(EventKind::Foul, Some(self.defense.team.code), player);
    }

    fn substitutions(&mut self, percent: u32) {
        if self.chance(percent) {
            for _ in 0..self.rng.random_range(1..=3) {
                self.other(true);
            }
        }
    }

    fn time_out(&mut self) {
        self.other(false);
        self.substitutions(45);
    }

    fn other(&mut self, with_player: bool) {
        let of_offense = self.chance(50);
        let side = if of_offense {
            &self.offense
        } else {
            &self.defense
        };
        let player = if with_player {
            side.team.player(&mut self.rng)
        } else {
            None
        };
        let code = side.team.code;
        self.push(EventKind::Other, Some(code), player);
    }

    fn turn_over(&mut self) {
        mem::swap(&mut self.offense, &mut self.defense);
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// A player of the offense at these odds; otherwise None, for the team as
    /// such.
    fn anyone(&mut self, percent: u32) -> Option<Arc<str>> {
        if self.chance(percent) {
            self.offense.team.player(&mut self.rng)
        } else {
            None
        }
    }

    fn push(&mut self, kind: EventKind, team: Option<&'static str>, player: Option<Arc<str>>) {
        self.seq += 1;
        self.ready.push_back(Event {
            game_id: Arc::clone(&self.id),
            seq: self.seq,
            kind,
            team,
            player,
            points: kind.points(),
            period: self.period,
            clock: Clock(self.left),
            corrects: None,
        });
    }
}

impl Iterator for Game {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        // Every step but the last makes an event, so this looks twice at most.
        if self.ready.is_empty() {
            self.advance();
        }
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::Season;

    #[test]
    fn the_last_overtime_is_decided() {
        let mut decided_late = 0;
        for number in 0..50 {
            let mut game = Season::new(3).game(number).unwrap();
            game.period = QUARTERS + OVERTIMES_MAX - 1;
            let events: Vec<_> = game.by_ref().collect();
            assert_eq!(game.period, QUARTERS + OVERTIMES_MAX);
            assert!(!game.level());
            let last = &events[events.len() - 2];
            if last.kind == EventKind::ThreePointer && last.clock == Clock(0) {
                decided_late += 1;
            }
        }
        // Some of the fifty were level, or the rule was not tried.
        assert!(decided_late > 0);
    }
}
