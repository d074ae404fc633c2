//! Thirty teams and the people in them. The team codes are the NBA's; the
//! names are put together by chance.

use std::sync::Arc;

use rand::{Rng, seq::index};

pub(super) const TEAMS: usize = 30;
pub(super) const PLAYERS: usize = 10;

const CODES: [&str; TEAMS] = [
    "ATL", "BKN", "BOS", "CHA", "CHI", "CLE", "DAL", "DEN", "DET", "GSW", "HOU", "IND", "LAC",
    "LAL", "MEM", "MIA", "MIL", "MIN", "NOP", "NYK", "OKC", "ORL", "PHI", "PHX", "POR", "SAC",
    "SAS", "TOR", "UTA", "WAS",
];

const FIRST_NAMES: [&str; 30] = [
    "Abel", "Amos", "Andre", "Bruno", "Caleb", "Cyrus", "Dario", "Elias", "Emil", "Felix",
    "Gideon", "Hugo", "Idris", "Ivo", "Jonas", "Kofi", "Leon", "Luca", "Marek", "Milo", "Nico",
    "Omar", "Otis", "Pavel", "Quinn", "Rafa", "Silas", "Theo", "Viktor", "Zeno",
];

const LAST_NAMES: [&str; 40] = [
    "Abara",
    "Albrecht",
    "Baptista",
    "Brandt",
    "Calloway",
    "Castellan",
    "Dahl",
    "Delacroix",
    "Eastman",
    "Ferreiro",
    "Fontaine",
    "Garrow",
    "Hale",
    "Holloway",
    "Ibarra",
    "Jansen",
    "Kessler",
    "Kowal",
    "Laurent",
    "Lindqvist",
    "Maddox",
    "Marchetti",
    "Nakata",
    "Northcott",
    "O'Dell",
    "Okonjo",
    "Pemberton",
    "Petrov",
    "Quist",
    "Ravel",
    "Rourke",
    "Sandoval",
    "Strand",
    "Tavares",
    "Thorne",
    "Ulrich",
    "Vance",
    "Whitlock",
    "Yates",
    "Zeller-Roth",
];

/// A team and its ten players, starters first.
#[derive(Clone, Debug)]
pub(super) struct Team {
    pub(super) code: &'static str,
    players: Arc<[Arc<str>]>,
}

impl Team {
    /// A player of the team, a starter more often than one from the bench.
    pub(super) fn player(&self, rng: &mut impl Rng) -> Option<Arc<str>> {
        let bench = rng.random_range(0..self.players.len().max(1));
        let place = rng.random_range(0..=bench);
        self.players.get(place).cloned()
    }
}

#[derive(Debug)]
pub(super) struct League {
    teams: Vec<Team>,
}

impl League {
    /// Draws all names, none of them twice.
    pub(super) fn new(rng: &mut impl Rng) -> Self {
        let names = index::sample(rng, FIRST_NAMES.len() * LAST_NAMES.len(), TEAMS * PLAYERS);
        let mut names = names.into_iter().filter_map(|name| {
            let first = FIRST_NAMES.get(name / LAST_NAMES.len())?;
            let last = LAST_NAMES.get(name % LAST_NAMES.len())?;
            Some(Arc::from(format!("{first} {last}")))
        });
        let teams = CODES
            .iter()
            .map(|code| Team {
                code,
                players: names.by_ref().take(PLAYERS).collect(),
            })
            .collect();
        Self { teams }
    }

    pub(super) fn team(&self, number: usize) -> Option<&Team> {
        self.teams.get(number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn every_team_has_ten_players_of_its_own() {
        let league = League::new(&mut ChaCha8Rng::seed_from_u64(7));
        let codes: BTreeSet<_> = league.teams.iter().map(|team| team.code).collect();
        assert_eq!(codes.len(), TEAMS);
        let names: BTreeSet<_> = league
            .teams
            .iter()
            .flat_map(|team| team.players.iter().cloned())
            .collect();
        assert_eq!(names.len(), TEAMS * PLAYERS);
        assert!(
            league
                .teams
                .iter()
                .all(|team| team.players.len() == PLAYERS)
        );
    }
}
