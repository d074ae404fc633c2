//! The thread that looks after the slots of one pipeline: it watches the
//! directory, compiles and rehearses what it finds, and tells the workers; it
//! follows what other hosts and operators say in `<group>.plugins`.
//!
//! The thread runs at low priority and does one thing after another. Only compiling,
//! which may take minutes, goes on beside it. Workers notice the thread only when a
//! plugin takes over. Until then the plugin that ran goes on.

mod compile;
mod confirm;
mod group;
mod manager_loop;
mod plan;
mod requests;
mod rollback;
mod swap;
mod unfit;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use courtside_log::{Checkpoints, RecordLog};
use courtside_plugin_host::Compiler;
use courtside_process::shutdown::{self, End};
use courtside_types::{PartitionId, TopicPartition, slot_name::SlotName};
use crossbeam_channel::{Sender, TrySendError};
use notify::{
    EventKind, Watcher as _,
    event::{AccessKind, AccessMode},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use self::{compile::Compiles, group::Group, manager_loop::ManagerLoop};
use super::{
    library::Library,
    request::{Request, RequestError, RequestKind, RequestResult},
    slot::Slot,
    view::SlotView,
};
use crate::{
    pipeline::Pipeline,
    worker::{status::PipelineStatus, thread::Orders},
};

/// Requests that wait, at most.
const REQUESTS_MAX: usize = 8;

/// How slots are looked after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlotsConfig {
    /// How often the directory is looked at, beside the file system's own
    /// events (network mounts and ConfigMaps send none).
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
    /// How long a file must lie still before it is taken.
    #[serde(with = "humantime_serde")]
    pub settle: Duration,
    /// Entities that a plugin is rehearsed with, at most.
    pub rehearsal_entities_max: usize,
    /// How long a swap can be taken back; as long the states from before it are kept.
    #[serde(with = "humantime_serde")]
    pub confirm_after: Duration,
}

impl Default for SlotsConfig {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_secs(1),
            settle: Duration::from_millis(200),
            rehearsal_entities_max: 10_000,
            confirm_after: Duration::from_secs(60 * 60),
        }
    }
}

/// The inputs of a manager.
pub struct Setup {
    pub pipeline: Arc<Pipeline>,
    pub compiler: Arc<dyn Compiler>,
    pub log: Arc<dyn RecordLog>,
    /// The partition in which hosts tell each other of plugins.
    pub topic: TopicPartition,
    pub checkpoints: Arc<dyn Checkpoints>,
    pub partitions: Vec<PartitionId>,
    pub workers: Vec<Orders>,
    pub status: Arc<PipelineStatus>,
    /// The pipeline's directory of plugins.
    pub dir: PathBuf,
    pub library: Arc<Library>,
    pub config: SlotsConfig,
}

/// The views of slots that HTTP handlers read while the manager works.
pub type SlotViews = Arc<Mutex<BTreeMap<SlotName, SlotView>>>;

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

/// Look now, rather than at the next interval.
struct Nudge;

/// A running manager.
pub struct Manager {
    name: String,
    views: SlotViews,
    nudges: Sender<Nudge>,
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
        let now = Instant::now();
        let stopping = Arc::new(AtomicBool::new(false));
        let mut running = ManagerLoop {
            slots: BTreeMap::from([(
                SlotName::Default,
                Slot::new(&setup.pipeline.name, SlotName::Default, now),
            )]),
            group: Group::new(&setup, now),
            unfit: BTreeMap::new(),
            empty_since: None,
            awaited: None,
            compiles: Compiles::new(),
            setup,
            views: Arc::clone(&views),
            stopping: Arc::clone(&stopping),
        };
        running.publish();
        let name = format!("slots of {}", running.setup.pipeline.name);
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
        drop(self.nudges.try_send(Nudge));
    }

    /// Waits for the end of a manager that was told to stop, at most until `by`. The
    /// manager may still wait for a worker's answer, and gets it, or sees the worker
    /// end.
    #[must_use]
    pub fn end(self, by: Instant) -> End {
        shutdown::end_of(&self.name, self.thread, by)
    }
}

fn watch(setup: &Setup, nudges: Sender<Nudge>) -> Option<notify::RecommendedWatcher> {
    // The directory may be read-only, or exist already.
    if let Err(error) = std::fs::create_dir_all(setup.dir.join(SlotName::keys_dir())) {
        tracing::debug!(dir = %setup.dir.display(), %error, "plugin directory cannot be created");
    }
    let watched = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| is_a_look(&event.kind)) {
            return;
        }
        // A full channel holds a nudge already.
        drop(nudges.try_send(Nudge));
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
