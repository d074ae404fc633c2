//! The scoreboard: the latest committed output of every game, for readers.
//!
//! One thread follows the compacted output topic of each pipeline and keeps
//! the latest record of each key in an index. The index drops values beyond
//! [`ScoreboardConfig::memory_bytes_max`], the longest untouched first, and a
//! request for one reads it back from the log. So any host serves all games,
//! whichever partitions its workers have. The scoreboard lives as long as the
//! host, starts empty, and holds nothing that the log does not have.

mod board;
mod config;
mod deflate;
mod follow;
mod games;
mod looks;
mod positions;
mod resume;
mod subscribe;
#[cfg(test)]
mod tests;
mod wait;

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::Instant,
};

use bytestring::ByteString;
use courtside_log::RecordLog;
use courtside_process::shutdown::{self, End};
use courtside_types::{Key, NotReady};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use self::follow::Follower;
pub use self::{
    board::{Board, BoardError, BoardSpec, Game, Page},
    config::ScoreboardConfig,
    deflate::deflate,
    games::{Latest, Place},
    positions::{InvalidPositions, Positions, parse_position},
    subscribe::{Change, Last, Subscription, Update},
};

/// The outputs of all pipelines. Dropping it stops its thread.
#[derive(Debug)]
pub struct Scoreboard {
    boards: BTreeMap<ByteString, Arc<Board>>,
    stop: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Scoreboard {
    /// Starts to follow the outputs. Their topics should exist; the scoreboard
    /// asks for a missing one again and again.
    pub fn start(
        log: Arc<dyn RecordLog>,
        config: ScoreboardConfig,
        specs: Vec<BoardSpec>,
    ) -> io::Result<Arc<Self>> {
        let count = specs.len();
        let board = |spec: BoardSpec| Arc::new(Board::new(spec, Arc::clone(&log), &config, count));
        let boards: Vec<_> = specs.into_iter().map(board).collect();
        let stop = CancellationToken::new();
        let follower = Follower {
            log: Arc::clone(&log),
            boards: boards.clone(),
            config,
            stop: stop.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let thread = Builder::new()
            .name("scoreboard".to_owned())
            .spawn(move || runtime.block_on(follower.run()))?;
        Ok(Arc::new(Self {
            boards: boards
                .into_iter()
                .map(|board| (board.spec().pipeline.clone(), board))
                .collect(),
            stop,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// The output of a pipeline.
    #[must_use]
    pub fn board(&self, pipeline: &str) -> Option<&Arc<Board>> {
        self.boards.get(pipeline)
    }

    /// The output of the pipeline, if there is but one.
    #[must_use]
    pub fn only_board(&self) -> Option<&Arc<Board>> {
        let mut boards = self.boards.values();
        boards.next().filter(|_| boards.next().is_none())
    }

    /// A reader of all games of a pipeline, or of one.
    pub async fn subscribe(
        board: &Arc<Board>,
        game: Option<Key>,
        last: Option<Last>,
    ) -> Subscription {
        Subscription::new(Arc::clone(board), game, last).await
    }

    /// Why the scoreboard cannot be relied on, if so.
    #[must_use]
    pub fn not_ready(&self) -> Vec<NotReady> {
        let stopped = self
            .thread
            .lock()
            .as_ref()
            .is_none_or(JoinHandle::is_finished);
        let stopped = stopped.then(|| NotReady {
            code: "scoreboard-stopped".to_owned(),
            reason: "the scoreboard no longer follows the outputs".to_owned(),
        });
        let boards = self.boards.values().filter_map(|board| board.not_ready());
        stopped.into_iter().chain(boards).collect()
    }

    /// Stops following; readers can still get the games that were read.
    pub fn stop(&self) {
        self.stop.cancel();
        let thread = self.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the scoreboard's thread had panicked");
        }
    }

    /// Stops following, and waits for that until `by` at the latest: a read that
    /// is under way ends only when the log answers.
    #[must_use]
    pub fn end(&self, by: Instant) -> End {
        self.stop.cancel();
        let thread = self.thread.lock().take();
        thread.map_or(End::Clean, |thread| {
            shutdown::end_of("scoreboard", thread, by)
        })
    }
}

impl Drop for Scoreboard {
    fn drop(&mut self) {
        self.stop();
    }
}
