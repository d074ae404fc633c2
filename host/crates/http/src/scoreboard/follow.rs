//! The thread that reads the outputs.
//!
//! One thread serves all pipelines. It reads each partition up to the end that it saw
//! before it began to read, then waits until the log reports more. An error concerns
//! one pipeline, and the thread tries that one again after a second.

use std::{sync::Arc, time::Duration};

use courtside_log::{LogError, RecordLog};
use courtside_types::{NotReady, Offset, PartitionId, usize_of};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{board::Board, config::ScoreboardConfig};

const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Follower {
    pub log: Arc<dyn RecordLog>,
    pub boards: Vec<Arc<Board>>,
    pub config: ScoreboardConfig,
    pub stop: CancellationToken,
}

impl Follower {
    /// Follows the outputs until `stop` is cancelled.
    pub async fn run(self) {
        self.boards
            .iter()
            .for_each(|board| board.count_read_backs(0));
        let mut changes = self.log.changes();
        let mut firsts: Vec<_> = self.boards.iter().map(|_| First::default()).collect();
        loop {
            let started = Instant::now();
            changes.mark_unchanged();
            let mut pass = Pass::default();
            for (board, first) in self.boards.iter().zip(&mut firsts) {
                if self.stop.is_cancelled() {
                    return;
                }
                self.step(board, first, &mut pass);
            }
            let wait = async {
                if pass.failed {
                    sleep(RETRY_AFTER).await;
                } else if !pass.more {
                    next_change(&mut changes, self.config.interval_max).await;
                }
                // Under load, the next pass takes all records that come meanwhile together.
                sleep_until(started + self.config.interval_min).await;
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = wait => {}
            }
        }
    }

    fn step(&self, board: &Board, first: &mut First, pass: &mut Pass) {
        match self.read(board, first) {
            Ok(more) => {
                pass.more |= more;
                board.set_fault(None);
            }
            Err(error) => {
                pass.failed = true;
                let reason = format!("pipeline {}: {error}", board.spec.pipeline);
                warn!(pipeline = %board.spec.pipeline, code = error.code(), %error, "scoreboard cannot read the output topic");
                board.set_fault(Some(NotReady {
                    code: error.code().to_owned(),
                    reason,
                }));
            }
        }
    }

    /// Reads some of each partition; returns whether there is more.
    fn read(&self, board: &Board, first: &mut First) -> Result<bool, LogError> {
        let topic = &board.spec.output;
        let bounds = self.log.bounds(topic)?;
        let nexts = board.next(bounds.len());
        let ends = first
            .ends
            .get_or_insert_with(|| bounds.iter().map(|bounds| bounds.end).collect());
        let mut more = false;
        let mut caught_up = true;
        for (partition, (bounds, next)) in bounds.iter().zip(nexts).enumerate() {
            let mut read = next;
            if bounds.end < next {
                return Err(LogError::Corrupt {
                    reason: format!(
                        "topic {topic} partition {partition} ends at {}, and was read to {next}",
                        bounds.end
                    ),
                });
            }
            if bounds.end > next {
                let id = PartitionId(u32::try_from(partition).unwrap_or(u32::MAX));
                let max_bytes = usize_of(self.config.read_bytes_max);
                let latest = self.log.read_latest(topic, id, next, *bounds, max_bytes)?;
                read = latest.next;
                board.apply(partition, &latest.records, read);
                count(board, latest.read);
                more |= read < bounds.end;
            }
            caught_up &= ends.get(partition).is_none_or(|end| read >= *end);
        }
        if caught_up && !board.is_caught_up() {
            board.set_caught_up();
        }
        let (games, held_bytes) = board.size();
        gauge("courtside_scoreboard_games", board, games);
        gauge("courtside_scoreboard_held_bytes", board, held_bytes);
        Ok(more)
    }
}

/// Where the outputs ended when the host started.
#[derive(Default)]
struct First {
    ends: Option<Vec<Offset>>,
}

/// The result of one pass over all boards.
#[derive(Default)]
struct Pass {
    more: bool,
    failed: bool,
}

async fn next_change(changes: &mut watch::Receiver<u64>, interval_max: Duration) {
    tokio::select! {
        changed = changes.changed() => if changed.is_err() {
            // The log no longer reports changes; the sleep keeps this from spinning.
            sleep(interval_max).await;
        },
        () = sleep(interval_max) => {}
    }
}

fn count(board: &Board, records: usize) {
    metrics::counter!(
        "courtside_scoreboard_records_total",
        "pipeline" => board.spec.pipeline.to_string()
    )
    .increment(u64::try_from(records).unwrap_or(u64::MAX));
}

fn gauge(name: &'static str, board: &Board, value: usize) {
    let value = u32::try_from(value).map_or(f64::from(u32::MAX), f64::from);
    metrics::gauge!(name, "pipeline" => board.spec.pipeline.to_string()).set(value);
}
