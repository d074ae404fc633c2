//! The players who have scored, and how much.
//!
//! The players are half of each published record, and only one event in four
//! changes them: so their JSON is kept until someone scores. The JSON takes as
//! much memory again as the points, and saves an eighth of the cost of an event
//! in WebAssembly and a quarter of the cost of a checkpoint.

use std::{cell::OnceCell, collections::BTreeMap};

use serde::{Deserialize, Serialize, Serializer, ser::Error};
use serde_json::value::{RawValue, to_raw_value};

/// Points by player, in the order of their names.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "BTreeMap<String, u32>")]
pub(crate) struct Players {
    points: BTreeMap<String, u32>,
    /// `points` as JSON, if it was serialized since its last change.
    json: OnceCell<Box<RawValue>>,
}

impl Players {
    pub(crate) fn len(&self) -> usize {
        self.points.len()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.points.keys().map(String::as_str)
    }

    pub(crate) fn contains(&self, player: &str) -> bool {
        self.points.contains_key(player)
    }

    pub(crate) fn add(&mut self, player: &str, points: u32) {
        match self.points.get_mut(player) {
            Some(scored) => *scored += points,
            None => {
                self.points.insert(player.to_owned(), points);
            }
        }
        self.json.take();
    }

    /// A player without points is no longer listed.
    pub(crate) fn take(&mut self, player: &str, points: u32) {
        if let Some(scored) = self.points.get_mut(player) {
            *scored = scored.saturating_sub(points);
            if *scored == 0 {
                self.points.remove(player);
            }
            self.json.take();
        }
    }
}

impl From<BTreeMap<String, u32>> for Players {
    fn from(points: BTreeMap<String, u32>) -> Self {
        Self {
            points,
            json: OnceCell::new(),
        }
    }
}

impl Serialize for Players {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json = match self.json.get() {
            Some(json) => json,
            None => {
                let json = to_raw_value(&self.points).map_err(S::Error::custom)?;
                self.json.get_or_init(|| json)
            }
        };
        json.serialize(serializer)
    }
}
