//! The thread that looks after the slots of one pipeline: it watches the
//! directory, compiles and rehearses what it finds, and tells the workers.
//!
//! It runs at low priority and does one thing after another; workers notice it
//! only when a plugin takes over. Until then the plugin that ran goes on.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use jiff::Timestamp;
use metrics::counter;
use notify::{
    EventKind, Watcher as _,
    event::{AccessKind, AccessMode},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    files::{self, Contents},
    name::SlotName,
    rehearsal::{Rehearsal, Rehearsed},
    slot::{Running, Slot, Step},
    store::{ActiveDigests, PluginStore},
    view::{SlotState, SlotView},
};
use crate::{
    log::{Checkpoints, LogError},
    pipeline::Pipeline,
    plugin::{Compiler, Plugin, Rejection},
    types::{Digest, PartitionId},
    worker::{
        instances::Active,
        thread::{Order, Orders, Takeover},
    },
};

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
}

impl Default for SlotsConfig {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_secs(1),
            settle: Duration::from_millis(200),
            rehearsal_entities_max: 10_000,
        }
    }
}

/// What a manager works with.
pub struct Setup {
    pub pipeline: Arc<Pipeline>,
    pub compiler: Arc<dyn Compiler>,
    pub checkpoints: Arc<dyn Checkpoints>,
    pub partitions: Vec<PartitionId>,
    pub workers: Vec<Orders>,
    /// The pipeline's directory of plugins.
    pub dir: PathBuf,
    pub store: PluginStore,
    pub config: SlotsConfig,
}

/// What the doors may look at while the manager works.
pub type SlotViews = Arc<Mutex<BTreeMap<SlotName, SlotView>>>;

/// Look now, rather than at the next interval.
struct Nudge;

/// A running manager.
pub struct Manager {
    views: SlotViews,
    nudges: Sender<Nudge>,
    /// Set when it is to end.
    stopping: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
    /// Watches as long as it is kept.
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
        let (nudges, inbox) = crossbeam_channel::bounded(1);
        let watcher = watch(&setup, nudges.clone());
        let now = Instant::now();
        let stopping = Arc::new(AtomicBool::new(false));
        let mut running = Looking {
            slots: BTreeMap::from([(
                SlotName::Default,
                Slot::new(&setup.pipeline.name, SlotName::Default, now),
            )]),
            setup,
            views: Arc::clone(&views),
            stopping: Arc::clone(&stopping),
        };
        running.publish();
        let thread = std::thread::Builder::new()
            .name("slots".into())
            .spawn(move || running.run(&inbox))?;
        Ok(Self {
            views,
            nudges,
            stopping,
            thread,
            _watcher: watcher,
        })
    }

    #[must_use]
    pub fn views(&self) -> SlotViews {
        Arc::clone(&self.views)
    }

    /// Tells it to end; what it is in the middle of is left as it was.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        // A full channel holds a nudge already.
        drop(self.nudges.try_send(Nudge));
    }

    /// Waits for the end of one that was told to. It may wait for a worker's
    /// answer, and gets it, or sees the worker end.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the slot manager panicked");
        }
    }
}

fn watch(setup: &Setup, nudges: Sender<Nudge>) -> Option<notify::RecommendedWatcher> {
    // It may be read-only, or there already.
    if let Err(error) = std::fs::create_dir_all(setup.dir.join(SlotName::keys_dir())) {
        tracing::debug!(dir = %setup.dir.display(), %error, "plugin directory not made");
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
                "no file events, the directory is looked at now and then",
            );
        })
        .ok()
}

/// Whether somebody only looked, as the manager itself does all the time.
const fn is_a_look(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if !matches!(access, AccessKind::Close(AccessMode::Write)))
}

struct Looking {
    setup: Setup,
    slots: BTreeMap<SlotName, Slot>,
    views: SlotViews,
    stopping: Arc<AtomicBool>,
}

impl Looking {
    fn run(mut self, inbox: &Receiver<Nudge>) {
        let thread = rustix::thread::gettid();
        if let Err(error) = rustix::process::setpriority_process(Some(thread), 10) {
            tracing::debug!(%error, "the slot manager keeps its priority");
        }
        self.restore();
        self.look();
        if self.slot(&SlotName::Default).is_vacant() {
            tracing::warn!(
                pipeline = %self.setup.pipeline.name,
                code = "plugin-missing",
                file = %self.setup.dir.join(SlotName::Default.file()).display(),
                "the pipeline waits for its plugin",
            );
        }
        while !self.is_stopping() {
            self.look();
            self.act();
            self.publish();
            let wait = if self.is_settled() {
                self.setup.config.poll_interval
            } else {
                self.setup.config.settle
            };
            if let Err(RecvTimeoutError::Disconnected) = inbox.recv_timeout(wait) {
                break;
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Starts with what ran when the host ran last.
    fn restore(&mut self) {
        let noted = match self.setup.store.noted() {
            Ok(noted) => noted,
            Err(error) => {
                tracing::error!(code = "plugin-store-failed", %error, "what ran before is not known");
                return;
            }
        };
        let prefix = format!("{}/", self.setup.pipeline.name);
        let mut slots: Vec<(SlotName, Digest)> = noted
            .into_iter()
            .filter_map(|(full_name, digest)| {
                let name = SlotName::parse(full_name.strip_prefix(&prefix)?)?;
                Some((name, digest))
            })
            .collect();
        // Nothing runs before the default plugin does; so those of single keys
        // come first, or their events would go to the wrong one.
        slots.sort_by_key(|(name, _)| *name == SlotName::Default);
        for (name, digest) in slots {
            if self.is_stopping() {
                return;
            }
            let restored = self
                .setup
                .store
                .load(digest)
                .map_err(|error| Rejection {
                    code: "plugin-store-failed",
                    message: error.to_string(),
                })
                .and_then(|bytes| Ok((self.compile(&name, &bytes)?, bytes.len())));
            match restored {
                Ok((plugin, size)) => {
                    self.slot(&name);
                    self.activate(&name, Some((plugin, size as u64)));
                }
                Err(rejection) => {
                    tracing::error!(slot = %name, code = rejection.code, reason = %rejection.message, "the plugin that ran before cannot go on");
                }
            }
        }
    }

    fn look(&mut self) {
        let now = Instant::now();
        let found = match files::scan(&self.setup.dir) {
            Ok(found) => found,
            Err(error) => {
                // What cannot be seen is not gone.
                tracing::warn!(dir = %self.setup.dir.display(), %error, "plugin directory unreadable");
                return;
            }
        };
        for name in found.keys() {
            self.slot(name);
        }
        for (name, slot) in &mut self.slots {
            slot.see(found.get(name).cloned(), now);
        }
        self.slots
            .retain(|name, slot| *name == SlotName::Default || !slot.is_vacant());
    }

    fn slot(&mut self, name: &SlotName) -> &mut Slot {
        self.slots
            .entry(name.clone())
            .or_insert_with(|| Slot::new(&self.setup.pipeline.name, name.clone(), Instant::now()))
    }

    fn is_settled(&self) -> bool {
        let long_ago = Duration::ZERO;
        self.slots
            .values()
            .all(|slot| slot.next_step(Instant::now(), long_ago) == Step::Wait)
    }

    fn act(&mut self) {
        let mut names: Vec<_> = self.slots.keys().cloned().collect();
        if self.slot(&SlotName::Default).running.is_none() {
            // As in `restore`: the default slot, which is first, comes last.
            names.reverse();
        }
        for name in names {
            if self.is_stopping() {
                return;
            }
            let settle = self.setup.config.settle;
            let step = self.slot(&name).next_step(Instant::now(), settle);
            let done = match step {
                Step::Wait => continue,
                Step::Unreadable(why) => {
                    self.reject(
                        &name,
                        None,
                        &Rejection {
                            code: "plugin-file-unreadable",
                            message: why,
                        },
                    );
                    true
                }
                Step::Take(path) => self.take(&name, &path),
                Step::Remove => self.remove(&name),
            };
            if done {
                self.slot(&name).handled();
            }
            self.publish();
        }
    }

    /// Reads a slot's file and swaps to it. False: to be tried again.
    fn take(&mut self, name: &SlotName, path: &Path) -> bool {
        let bytes_max = self.setup.pipeline.limits_of(name).plugin_bytes_max;
        let bytes = match files::read(path, bytes_max) {
            Ok(Contents::Bytes(bytes)) => bytes,
            Ok(Contents::Unsteady) => {
                self.slot(name).unsteady(Instant::now());
                return false;
            }
            Err(rejection) => {
                self.reject(name, None, &rejection);
                return true;
            }
        };
        let digest = Digest::of(&bytes);
        if self.slot(name).digest() == Some(digest) {
            if self.slot(name).confirm() {
                tracing::info!(slot = %self.slot(name).full_name(), digest = %digest.short(), "the file is again what runs");
            }
            return true;
        }
        self.enter(name, SlotState::Loading, digest);
        let plugin = match self.compile(name, &bytes) {
            Ok(plugin) => plugin,
            Err(rejection) => {
                self.reject(name, Some(digest), &rejection);
                return true;
            }
        };
        self.enter(name, SlotState::Rehearsing, digest);
        match self.rehearse(name, &plugin) {
            Ok(Rehearsed::Passed(entities)) => {
                tracing::info!(slot = %self.slot(name).full_name(), digest = %digest.short(), entities, "rehearsal passed");
            }
            Ok(Rehearsed::Rejected(rejection)) => {
                self.reject(name, Some(digest), &rejection);
                return true;
            }
            Err(error) => {
                tracing::warn!(code = error.code(), %error, "rehearsal interrupted, to be tried again");
                return false;
            }
        }
        if let Err(error) = self
            .setup
            .store
            .keep(digest, &bytes)
            .and_then(|()| self.note(name, Some(digest)))
        {
            self.reject(
                name,
                Some(digest),
                &Rejection {
                    code: "plugin-store-failed",
                    message: error.to_string(),
                },
            );
            return true;
        }
        self.activate(name, Some((plugin, bytes.len() as u64)))
    }

    /// Swaps to no plugin: a key's events go to the default slot again, where
    /// its plugin can take them over.
    fn remove(&mut self, name: &SlotName) -> bool {
        if *name != SlotName::Default
            && let Some(default) = self
                .slot(&SlotName::Default)
                .running
                .as_ref()
                .map(|running| Arc::clone(&running.plugin))
        {
            match self.rehearse(name, &default) {
                Ok(Rehearsed::Passed(_)) => {}
                Ok(Rehearsed::Rejected(rejection)) => {
                    self.reject(name, None, &rejection);
                    return true;
                }
                Err(error) => {
                    tracing::warn!(code = error.code(), %error, "rehearsal interrupted, to be tried again");
                    return false;
                }
            }
        }
        if let Err(error) = self.note(name, None) {
            tracing::error!(code = "plugin-store-failed", %error, "a removal is not noted");
        }
        self.activate(name, None)
    }

    fn compile(&self, name: &SlotName, bytes: &[u8]) -> Result<Arc<dyn Plugin>, Rejection> {
        let limits = self.setup.pipeline.limits_of(name);
        self.setup.compiler.compile(bytes, limits)
    }

    fn rehearse(
        &self,
        name: &SlotName,
        candidate: &Arc<dyn Plugin>,
    ) -> Result<Rehearsed, LogError> {
        let running = |name: &SlotName| {
            self.slots
                .get(name)
                .and_then(|slot| slot.running.as_ref())
                .map(|running| &running.plugin)
        };
        let others: Vec<SlotName> = self
            .slots
            .iter()
            .filter(|(name, slot)| **name != SlotName::Default && slot.running.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        Rehearsal {
            candidate,
            current: running(name).or_else(|| running(&SlotName::Default)),
            slot: name,
            others: &others,
            checkpoints: &*self.setup.checkpoints,
            partitions: &self.setup.partitions,
            entities_per_instance: self.setup.pipeline.entities_per_instance(name),
            entities_max: self.setup.config.rehearsal_entities_max,
            stopping: &self.stopping,
        }
        .run()
    }

    /// Notes which plugins are to run from now on.
    fn note(&self, name: &SlotName, digest: Option<Digest>) -> std::io::Result<()> {
        let mut active: ActiveDigests = self
            .slots
            .values()
            .filter_map(|slot| Some((slot.full_name(), slot.digest()?)))
            .collect();
        let full_name = format!("{}/{name}", self.setup.pipeline.name);
        match digest {
            Some(digest) => active.insert(full_name, digest),
            None => active.remove(&full_name),
        };
        self.setup.store.note(&active)
    }

    /// Puts a plugin in force in every worker. False: the host is stopping.
    fn activate(&mut self, name: &SlotName, plugin: Option<(Arc<dyn Plugin>, u64)>) -> bool {
        let started = Instant::now();
        let active = plugin
            .as_ref()
            .map(|(plugin, _)| Active::new(name.clone(), Arc::clone(plugin)));
        let mut takeover = Takeover::new();
        for worker in &self.setup.workers {
            match self.tell(worker, name, active.as_ref()) {
                Some(offsets) => takeover.extend(offsets),
                None => return false,
            }
        }
        let slot = self.slot(name);
        slot.activated(plugin.map(|(plugin, size_bytes)| Running {
            plugin,
            size_bytes,
            since: Timestamp::now(),
            takeover,
        }));
        tracing::info!(
            slot = %slot.full_name(),
            digest = slot.digest().map(|digest| digest.short()),
            took_ms = started.elapsed().as_millis(),
            "plugin swapped",
        );
        self.count(name, "activated");
        if *name == SlotName::Default {
            self.slots.values_mut().for_each(Slot::reconsider_removal);
        }
        self.publish();
        true
    }

    fn enter(&mut self, name: &SlotName, state: SlotState, digest: Digest) {
        self.slot(name).enter(state, Some(digest));
        self.publish();
    }

    fn reject(&mut self, name: &SlotName, digest: Option<Digest>, rejection: &Rejection) {
        let slot = self.slot(name);
        slot.reject(digest, rejection);
        tracing::error!(
            slot = %slot.full_name(),
            digest = digest.map(|digest| digest.short()),
            code = rejection.code,
            reason = %rejection.message,
            "plugin rejected, what ran goes on",
        );
        self.count(name, "rejected");
    }

    fn count(&self, name: &SlotName, result: &'static str) {
        counter!(
            "courtside_swaps_total",
            "pipeline" => self.setup.pipeline.name.to_string(),
            "slot" => name.to_string(),
            "result" => result,
        )
        .increment(1);
    }

    fn publish(&mut self) {
        *self.views.lock() = self
            .slots
            .iter()
            .map(|(name, slot)| (name.clone(), slot.view()))
            .collect();
    }

    /// Orders a worker to swap, and waits until it has. None: the worker has
    /// ended, or the host is stopping.
    fn tell(
        &self,
        worker: &Orders,
        slot: &SlotName,
        active: Option<&Arc<Active>>,
    ) -> Option<Takeover> {
        loop {
            let (done, answer) = crossbeam_channel::bounded(1);
            let told = worker.give(Order::Activate {
                slot: slot.clone(),
                active: active.cloned(),
                done,
            });
            if !told {
                return None;
            }
            // A worker that cannot commit drops the order unanswered, and may
            // go on so until it is told to stop, which waits for this thread.
            match answer.recv() {
                Ok(takeover) => return Some(takeover),
                Err(_) if self.is_stopping() => return None,
                Err(_) => {}
            }
        }
    }
}
