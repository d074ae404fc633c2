//! The thread that looks after the slots of one pipeline: it watches the
//! directory, compiles and rehearses the files that it finds, and gives orders to the
//! workers; it follows the records of other hosts and operators in `<group>.plugins`.
//!
//! The thread runs at low priority and does one thing after another. Only compiling,
//! which may take minutes, goes on beside it. Workers notice the thread only when a
//! plugin takes over. Until then the plugin that ran goes on.

mod announcer;
mod compile_queue;
mod group_topic;
mod manager_loop;
mod notes;
mod outcome;
mod partitions_wait;
mod pending_rollback;
mod rollback_plan;
mod setup;
mod slot_table;
mod slot_views;
mod unfit_files;
mod unused_plugins;
mod workers;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use courtside_process::shutdown::{self, End};
use courtside_types::slot_name::SlotName;
use crossbeam_channel::{Sender, TrySendError};
use notify::{
    EventKind, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::sync::oneshot;

use self::manager_loop::ManagerLoop;
pub use self::{
    setup::{Setup, SlotsConfig},
    slot_views::SlotViews,
};
use super::request::{Request, RequestError, RequestKind, RequestResult};

/// Requests that wait, at most.
const REQUESTS_MAX: usize = 8;

/// A handle for sending requests to a manager, which may outlive the manager.
#[derive(Clone, Debug)]
pub struct RequestSender(Sender<Request>);

impl RequestSender {
    pub fn send(
        &self,
        slot: SlotName,
        kind: RequestKind,
    ) -> Result<oneshot::Receiver<RequestResult>, RequestError> {
        let (answer, result) = oneshot::channel();
        match self.0.try_send(Request { slot, kind, answer }) {
            Ok(()) => Ok(result),
            Err(TrySendError::Full(_)) => Err(RequestError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(RequestError::Stopping),
        }
    }
}

/// A running manager.
pub struct Manager {
    name: String,
    views: SlotViews,
    /// Lets the manager look now, rather than at the next interval.
    nudges: Sender<()>,
    requests: Sender<Request>,
    /// Set when the manager is to end.
    stopping: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
    /// Watches the directory as long as it is kept.
    _watcher: Option<notify::RecommendedWatcher>,
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Manager")
    }
}

impl Manager {
    pub fn start(setup: Setup) -> std::io::Result<Self> {
        let views = SlotViews::default();
        let (nudges, looks) = crossbeam_channel::bounded(1);
        let (requests, inbox) = crossbeam_channel::bounded(REQUESTS_MAX);
        let watcher = watch(&setup, nudges.clone());
        let stopping = Arc::new(AtomicBool::new(false));
        let name = format!("slots of {}", setup.pipeline.name);
        let running = ManagerLoop::new(setup, Arc::clone(&views), Arc::clone(&stopping));
        let thread = std::thread::Builder::new()
            .name("slots".into())
            .spawn(move || running.run(&looks, &inbox))?;
        Ok(Self {
            name,
            views,
            nudges,
            requests,
            stopping,
            thread,
            _watcher: watcher,
        })
    }

    /// A handle for sending requests to the manager.
    #[must_use]
    pub fn requests(&self) -> RequestSender {
        RequestSender(self.requests.clone())
    }

    #[must_use]
    pub fn views(&self) -> SlotViews {
        Arc::clone(&self.views)
    }

    /// Tells the manager to end. The manager leaves unfinished work as it was.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        // A full channel holds a nudge already.
        let _ = self.nudges.try_send(());
    }

    /// Waits for the end of a manager that was told to stop, at most until `by`. The
    /// manager may still wait for a worker's answer, and gets it, or sees the worker
    /// end.
    #[must_use]
    pub fn end(self, by: Instant) -> End {
        shutdown::end_of(&self.name, self.thread, by)
    }
}

fn watch(setup: &Setup, nudges: Sender<()>) -> Option<notify::RecommendedWatcher> {
    // The directory may be read-only, or exist already.
    if let Err(error) = std::fs::create_dir_all(setup.dir.join(SlotName::keys_dir())) {
        tracing::debug!(dir = %setup.dir.display(), %error, "plugin directory cannot be created");
    }
    let watched = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| is_a_look(&event.kind)) {
            return;
        }
        // A full channel holds a nudge already.
        let _ = nudges.try_send(());
    })
    .and_then(|mut watcher| {
        watcher.watch(&setup.dir, notify::RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    watched
        .inspect_err(|error| {
            tracing::warn!(
                dir = %setup.dir.display(),
                %error,
                poll_interval = ?setup.config.poll_interval,
                "no file events, so the plugin directory is read once per poll_interval",
            );
        })
        .ok()
}

/// Whether an event only reports a read; the manager itself reads all the time.
const fn is_a_look(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if !matches!(access, AccessKind::Close(AccessMode::Write)))
}
