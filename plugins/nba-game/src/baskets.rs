//! The baskets of a game in the order in which they came, and what corrections
//! made of them.
//!
//! A correction may come before the basket that it corrects, and a basket may
//! have several: they apply in the order of their own numbers. So the points are
//! the same in whichever order events come. The last 512 baskets can be
//! corrected; the points of older ones are kept as a sum.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{game::Team, lead::Lead};

/// Twice the baskets of the longest NBA game, some 4 KB of state.
pub(crate) const BASKETS_MAX: usize = 512;
/// More than a game of many reviews has.
pub(crate) const CORRECTIONS_MAX: usize = 256;

/// Points that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Basket {
    /// The team's index among the game's teams.
    pub(crate) team: u8,
    /// The player's index in the game's roster.
    pub(crate) player: Option<u8>,
    pub(crate) points: u8,
    pub(crate) period: u8,
}

/// New points for an event that came before, or is still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Correction {
    /// The correction's own sequence number.
    pub(crate) seq: u32,
    /// The corrected team; `None` keeps the team of the event.
    pub(crate) team: Option<u8>,
    /// The corrected player; `None` keeps the player of the event.
    pub(crate) player: Option<u8>,
    pub(crate) points: u8,
    /// The period of the basket if the event itself brought no points.
    pub(crate) period: u8,
}

impl Correction {
    /// The basket as it should have been; none while its team is not known.
    fn corrected(&self, basket: Option<Basket>) -> Option<Basket> {
        let team = self.team.or(basket.map(|basket| basket.team))?;
        let same_team = basket.filter(|basket| basket.team == team);
        Some(Basket {
            team,
            player: self.player.or(same_team.and_then(|basket| basket.player)),
            points: self.points,
            period: basket.map_or(self.period, |basket| basket.period),
        })
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Baskets {
    /// The baskets with the sequence numbers of their events. An event without
    /// points has a place here once a correction gives it some.
    pub(crate) made: Vec<(u32, Basket)>,
    /// Corrections by the number of the corrected event, in the order of their
    /// own numbers.
    pub(crate) corrections: BTreeMap<u32, Vec<Correction>>,
    pub(crate) summed: Sum,
}

/// The baskets that are no longer kept one by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sum {
    /// The highest sequence number among them.
    last: u32,
    points: [u32; 2],
    lead: Lead,
}

impl Sum {
    /// The sum of a game whose baskets are not known one by one.
    pub(crate) fn of(last: u32, teams: &[Team], lead: Lead) -> Self {
        let points = |team: usize| teams.get(team).map_or(0, |team| team.points);
        Self {
            last,
            points: [points(0), points(1)],
            lead,
        }
    }

    fn add(&mut self, basket: Basket) {
        if let Some(points) = self.points.get_mut(usize::from(basket.team)) {
            *points += u32::from(basket.points);
        }
        self.lead.follow(self.points);
    }
}

impl Baskets {
    /// The basket of an event with all its corrections.
    pub(crate) fn counted(&self, seq: u32) -> Option<Basket> {
        let mut made = self.made.iter().rev();
        let made = made.find(|(made, _)| *made == seq);
        self.with_corrections(seq, made.map(|(_, basket)| *basket))
    }

    fn with_corrections(&self, seq: u32, basket: Option<Basket>) -> Option<Basket> {
        let corrections = self.corrections.get(&seq).into_iter().flatten();
        corrections.fold(basket, |basket, correction| correction.corrected(basket))
    }

    /// Adds the basket of an event that no correction has come for.
    pub(crate) fn add(&mut self, seq: u32, basket: Basket) {
        self.make_room();
        self.made.push((seq, basket));
    }

    /// Adds the basket of an event whose corrections came before it.
    pub(crate) fn add_corrected(&mut self, seq: u32, basket: Basket) {
        match self.made.iter_mut().find(|(made, _)| *made == seq) {
            Some((_, made)) => *made = basket,
            None => self.add(seq, basket),
        }
    }

    /// Adds a correction. One that gives points to an event without a basket puts
    /// it before the baskets with higher numbers.
    pub(crate) fn correct(&mut self, seq: u32, correction: Correction) {
        let corrections = self.corrections.entry(seq).or_default();
        let at = corrections.partition_point(|other| other.seq < correction.seq);
        corrections.insert(at, correction);
        let is_made = self.made.iter().any(|(made, _)| *made == seq);
        if !is_made && let Some(basket) = self.with_corrections(seq, None) {
            self.make_room();
            let next = self.made.iter().position(|(made, _)| *made > seq);
            let none = Basket {
                player: None,
                points: 0,
                ..basket
            };
            self.made
                .insert(next.unwrap_or(self.made.len()), (seq, none));
        }
    }

    /// Keeps the oldest basket as a sum where there is no room for one more.
    fn make_room(&mut self) {
        if self.made.len() < BASKETS_MAX {
            return;
        }
        // A place that waits for its event stays: the event would count once more.
        let kept = self.made.iter().position(|(_, basket)| basket.points > 0);
        let (seq, basket) = self.made.remove(kept.unwrap_or(0));
        if let Some(basket) = self.with_corrections(seq, Some(basket)) {
            self.summed.add(basket);
        }
        self.corrections.remove(&seq);
        self.summed.last = self.summed.last.max(seq);
    }

    /// The lead after all baskets, had each been right from the start.
    pub(crate) fn lead(&self) -> Lead {
        let mut sum = self.summed;
        for (seq, basket) in &self.made {
            if let Some(basket) = self.with_corrections(*seq, Some(*basket)) {
                sum.add(basket);
            }
        }
        sum.lead
    }

    pub(crate) fn is_corrected(&self, seq: u32) -> bool {
        self.corrections.contains_key(&seq)
    }

    /// The event that a correction with this number corrects.
    pub(crate) fn corrected_by(&self, seq: u32) -> Option<u32> {
        let by = |corrections: &[Correction]| corrections.iter().any(|other| other.seq == seq);
        let mut all = self.corrections.iter();
        all.find_map(|(of, corrections)| by(corrections).then_some(*of))
    }

    pub(crate) fn corrections(&self) -> usize {
        self.corrections.values().map(Vec::len).sum()
    }

    /// Swaps the two teams in all baskets and corrections.
    pub(crate) fn swap_teams(&mut self) {
        for (_, basket) in &mut self.made {
            basket.team = 1 - basket.team.min(1);
        }
        for correction in self.corrections.values_mut().flatten() {
            correction.team = correction.team.map(|team| 1 - team.min(1));
        }
        self.summed.points.reverse();
        self.summed.lead.swap_teams();
    }

    /// Whether the basket of an event may be among those kept as a sum.
    pub(crate) fn may_be_summed(&self, seq: u32) -> bool {
        seq <= self.summed.last && self.counted(seq).is_none()
    }
}
