//! Reading one's own write: a reader waits until the group has processed an event
//! and the board has the outputs of it.
//!
//! However many readers wait, the board asks for the group's offsets once for each
//! change.

use std::{sync::Arc, time::Duration};

use courtside_log::{Bounds, LogError};
use courtside_types::{Offset, PartitionId};
use tokio::time::{Instant, timeout_at};

use super::{
    board::{Board, BoardError, blocking},
    looks::Committed,
};

/// How long a group's offsets count as new while the log reports no change.
const COMMITTED_AGE_MAX: Duration = Duration::from_millis(50);

impl Board {
    /// Waits until the group has committed past an offset of the input, and
    /// the board has the outputs that the group had written by then.
    pub async fn wait_for(
        self: &Arc<Self>,
        partition: PartitionId,
        offset: Offset,
        timeout: Duration,
    ) -> Result<(), BoardError> {
        let late = |_| BoardError::NotYet { partition, offset };
        let deadline = Instant::now() + timeout;
        let board = Arc::clone(self);
        let partitions = blocking(move || board.log.partitions(&board.spec.input)).await?;
        if partition.0 >= partitions {
            return Err(BoardError::NoSuchPartition { partitions });
        }
        timeout_at(deadline, self.wait_for_commit(partition, offset))
            .await
            .map_err(late)??;
        let board = Arc::clone(self);
        let ends = blocking(move || board.log.written(&board.spec.output)).await?;
        timeout_at(deadline, self.wait_for_outputs(&ends))
            .await
            .map_err(late)
    }

    async fn wait_for_commit(
        self: &Arc<Self>,
        partition: PartitionId,
        offset: Offset,
    ) -> Result<(), LogError> {
        let mut changes = self.log.changes();
        loop {
            let tick = *changes.borrow_and_update();
            if self.committed(tick, partition).await? > Some(offset) {
                return Ok(());
            }
            // Commits of other hosts may come without a tick, so this looks again.
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    tokio::time::sleep(COMMITTED_AGE_MAX).await;
                },
                () = tokio::time::sleep(COMMITTED_AGE_MAX) => {}
            }
        }
    }

    /// The group's committed offset, as of the tick at least.
    async fn committed(
        self: &Arc<Self>,
        tick: u64,
        partition: PartitionId,
    ) -> Result<Option<Offset>, LogError> {
        let mut last = self.committed.lock().await;
        let is_new = |last: &&Committed| last.tick == tick && last.at.elapsed() < COMMITTED_AGE_MAX;
        if let Some(last) = last.as_ref().filter(is_new) {
            return Ok(last.offsets.get(&partition).copied());
        }
        let at = Instant::now();
        let board = Arc::clone(self);
        let status =
            blocking(move || board.log.group_status(&board.spec.group, &board.spec.input)).await?;
        let committed = status.committed.get(&partition).copied();
        *last = Some(Committed {
            tick,
            at,
            offsets: status.committed,
        });
        Ok(committed)
    }

    async fn wait_for_outputs(&self, ends: &[Bounds]) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if self.has_read(ends) {
                return;
            }
            // The sender is this board's, so it is still there.
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}
