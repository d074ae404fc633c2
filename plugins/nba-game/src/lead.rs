//! The team that leads, and how often the lead changed.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// The course of the lead up to some event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lead {
    /// The team that was the last to lead. A tie leaves it as it is.
    pub(crate) led_last: Option<u8>,
    pub(crate) changes: u32,
}

impl Lead {
    /// Swaps the two teams.
    pub(crate) fn swap_teams(&mut self) {
        self.led_last = self.led_last.map(|led| 1 - led.min(1));
    }

    /// Follows a change of the points, which stand in the order of the teams.
    pub(crate) fn follow(&mut self, [first, second]: [u32; 2]) {
        let leader = match first.cmp(&second) {
            Ordering::Greater => 0,
            Ordering::Less => 1,
            Ordering::Equal => return,
        };
        if self.led_last.is_some_and(|led| led != leader) {
            self.changes += 1;
        }
        self.led_last = Some(leader);
    }
}
