//! State that the threads and handles of the embedded engine share.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use courtside_types::usize_of;
use parking_lot::{MappedRwLockReadGuard, Mutex, RwLock, RwLockReadGuard};
use tokio::sync::watch;

use super::{
    config::EmbeddedConfig,
    groups::Groups,
    rows::ms,
    store::Store,
    topics::Topics,
    write::{
        Request,
        queue::{Queue, closed},
    },
};
use crate::LogError;

/// State that the engine's threads and handles share.
pub(super) struct EmbeddedState {
    pub path: PathBuf,
    pub config: EmbeddedConfig,
    /// `None` while the writer opens the store anew, and once the log is closed.
    pub store: RwLock<Option<Store>>,
    pub topics: RwLock<Topics>,
    pub groups: Groups,
    pub queue: Arc<Queue>,
    pub changes: watch::Sender<u64>,
    /// Held while cleaning: steps of two cleanings must not be mixed.
    pub cleaning: Mutex<()>,
    /// The error for which the log takes no writes at present.
    pub trouble: RwLock<Option<LogError>>,
    pub backing_up: Arc<AtomicBool>,
}

impl EmbeddedState {
    pub fn store(&self) -> Result<MappedRwLockReadGuard<'_, Store>, LogError> {
        RwLockReadGuard::try_map(self.store.read(), Option::as_ref).map_err(|_| {
            let trouble = self.trouble.read().clone();
            trouble.unwrap_or_else(closed)
        })
    }

    pub fn db_path(&self) -> PathBuf {
        self.path.join("db")
    }

    pub fn record_bytes_max(&self) -> usize {
        usize_of(self.config.record_bytes_max)
    }

    /// A group without members no longer reads its topic if its last commit is before
    /// this time, in milliseconds since the Unix epoch.
    pub fn groups_since(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(ms(self.config.group_retention))
    }

    pub fn set_trouble(&self, trouble: Option<LogError>) {
        *self.trouble.write() = trouble;
    }

    pub fn check_trouble(&self) -> Result<(), LogError> {
        self.trouble.read().clone().map_or(Ok(()), Err)
    }

    pub fn tick(&self) {
        self.changes
            .send_modify(|ticks| *ticks = ticks.wrapping_add(1));
    }

    /// Asks the writer, and waits for its answer.
    pub fn ask(
        &self,
        request: impl FnOnce(crossbeam_channel::Sender<Result<(), LogError>>) -> Request,
    ) -> Result<(), LogError> {
        let (reply, answer) = crossbeam_channel::bounded(1);
        self.queue.push(request(reply))?;
        answer.recv().unwrap_or_else(|_| Err(closed()))
    }
}
