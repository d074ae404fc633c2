//! The check of the positions that a returning reader claims.
//!
//! When a host ends, all its readers come to other hosts at once. So one look at the
//! log answers all readers that came before the look began.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    board::{Board, blocking},
    looks::Ends,
    positions::Positions,
};

impl Board {
    /// The positions of an id that this output can have. A position beyond the
    /// output's end comes from a log that is gone.
    pub(super) async fn known(self: &Arc<Self>, mut positions: Positions) -> Positions {
        let came = Instant::now();
        // This is nearly always so: a reader has read no further than the board.
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
