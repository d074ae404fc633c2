//! Whether a reader that comes back can be believed.
//!
//! When a host ends, all its readers come to others at once, so what the log is
//! asked for one of them is the answer to all who came before it was asked.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    board::{Board, blocking},
    positions::Positions,
};
use crate::log::Bounds;

/// Where the output ended, and when that was asked. `None`: nobody could say.
pub(super) struct Ends {
    asked: Instant,
    bounds: Option<Vec<Bounds>>,
}

impl Board {
    /// The positions of an id that can be of this output: those beyond its end
    /// are of a log that is no more.
    pub(super) async fn known(self: &Arc<Self>, mut positions: Positions) -> Positions {
        let came = Instant::now();
        // Nearly always: who reads is behind what is read for it.
        if self.has_positions(&positions) {
            return positions;
        }
        let mut ends = self.ends.lock().await;
        let bounds = match ends.take().filter(|ends| ends.asked >= came) {
            Some(known) => known,
            None => {
                let asked = Instant::now();
                let board = Arc::clone(self);
                let bounds = blocking(move || board.log.bounds(&board.spec.output)).await;
                Ends {
                    asked,
                    bounds: bounds.ok(),
                }
            }
        };
        if let Some(bounds) = &ends.insert(bounds).bounds {
            positions.retain(|partition, offset| {
                usize::try_from(partition.0)
                    .ok()
                    .and_then(|partition| bounds.get(partition))
                    .is_some_and(|bounds| offset < bounds.end)
            });
        }
        positions
    }
}
