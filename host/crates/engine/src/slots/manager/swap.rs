//! Putting the plugin of a file in force: it is compiled, rehearsed, kept, and put in
//! force in every worker.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_log::LogError;
use courtside_plugin_host::{CompileRun, Lane, Plugin, Rejection};
use courtside_process::clock::now_ms;
use courtside_types::{Digest, slot_name::SlotName};
use crossbeam_channel::Sender;
use jiff::Timestamp;

use super::manager_loop::ManagerLoop;
use crate::{
    slots::{
        files::{self, FileContents},
        rehearsal::{Rehearsal, RehearsalOutcome},
        request::RequestError,
        slot::{RunningPlugin, Slot},
        store::StoredDecisions,
        view::SlotState,
    },
    worker::{
        instances::Active,
        metrics,
        thread::{Order, Orders, Takeover},
    },
};

/// How soon an order that was not carried out is given again.
const TELL_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// A plugin, and the size of its file.
pub(super) type CompiledPlugin = (Arc<dyn Plugin>, u64);

/// The outcome of taking a file.
pub(super) enum SwapOutcome {
    /// The file's plugin runs; after a removal, the plugin that runs without the file.
    Runs,
    /// The file was rejected, and the plugin that ran goes on.
    Rejected(Rejection),
    /// The file is being compiled, or waits for that.
    Compiling,
    /// The file stays where it is by a decision from before; the plugin that runs goes
    /// on.
    Left,
    /// The file is to be tried again, for this reason.
    Later(RequestError),
}

impl ManagerLoop {
    /// Reads a slot's file and swaps to it.
    pub fn take(&mut self, name: &SlotName, path: &Path) -> SwapOutcome {
        let bytes_max = self.setup.pipeline.limits_of(name).plugin_bytes_max;
        let bytes = match files::read(path, bytes_max) {
            Ok(FileContents::Bytes(bytes)) => bytes,
            Ok(FileContents::Unsteady) => {
                self.slot(name).unsteady(Instant::now());
                return SwapOutcome::Later(RequestError::Refused {
                    code: "plugin-file-unsteady",
                    reason: "the file changed while the host read it".to_owned(),
                });
            }
            Err(rejection) => return self.reject(name, None, rejection),
        };
        let digest = Digest::of(&bytes);
        if self.slot(name).digest() == Some(digest) {
            if self.slot(name).confirm() {
                tracing::info!(slot = %self.slot(name).full_name(), digest = %digest.short(), "the slot's file is again the plugin that runs");
            }
            return SwapOutcome::Runs;
        }
        if self.group.known().directives().is_rolled_back(name, digest) {
            return self.leave_undone(name, digest);
        }
        if self.is_unfit(name, digest) {
            return self.leave_unfit(name, digest);
        }
        self.enter_loading(name, digest);
        let plugin = match self.compiled(name, path, digest, &bytes) {
            Some(Ok(plugin)) => plugin,
            Some(Err(rejection)) => return self.reject(name, Some(digest), rejection),
            None => return SwapOutcome::Compiling,
        };
        self.enter(name, SlotState::Rehearsing, digest);
        let started = Instant::now();
        let rehearsed = self.rehearse(name, &plugin);
        metrics::swap_took(&self.setup.pipeline.name, "rehearse", started.elapsed());
        let passed = match rehearsed {
            Ok(RehearsalOutcome::Passed(passed)) => passed,
            Ok(RehearsalOutcome::Rejected(rejection)) => {
                self.note_unfit(name, digest, &rejection);
                return self.reject(name, Some(digest), rejection);
            }
            Err(error) => {
                tracing::warn!(slot = %self.slot(name).full_name(), digest = %digest.short(), code = error.code(), %error, "rehearsal of the default plugin interrupted, to be tried again");
                return SwapOutcome::Later(error.into());
            }
        };
        tracing::info!(slot = %self.slot(name).full_name(), digest = %digest.short(), entities = passed.entities, of = passed.of, "rehearsal passed");
        // A plugin other than those undone was taken, so they may come back.
        self.group.known_mut().directives_mut().release_all(name);
        self.unfit.remove(name);
        let kept = self.setup.library.store.keep(digest, &bytes);
        if let Err(error) = kept.and_then(|()| self.note(name, Some(digest))) {
            let rejection = Rejection {
                code: "plugin-store-failed",
                message: error.to_string(),
            };
            return self.reject(name, Some(digest), rejection);
        }
        let taken = self.swap_to(name, (plugin, bytes.len() as u64));
        // A host without partitions may see no checkpoints that name plugins, so it
        // keeps all copies.
        if let (SwapOutcome::Runs, Some(named)) = (&taken, passed.named)
            && !self.setup.status.is_empty()
        {
            self.keep_copies(named);
        }
        taken
    }

    /// Puts the plugin of a slot's file in force. The plugin is on trial, unless it is
    /// the first that the default slot runs.
    fn swap_to(&mut self, name: &SlotName, plugin: CompiledPlugin) -> SwapOutcome {
        let is_trial = !self.setup.config.confirm_after.is_zero()
            && (*name != SlotName::Default || self.slot(name).running.is_some());
        let began_ms = now_ms();
        let taken = self.activate(name, Some(plugin));
        if matches!(taken, SwapOutcome::Runs) {
            let slot = self.slot(name);
            slot.file_runs();
            if is_trial {
                slot.begin_trial(began_ms);
            }
            self.publish();
        }
        taken
    }

    /// Swaps to no plugin: a key's events go to the default slot again, if the default
    /// plugin can take them over.
    pub fn remove(&mut self, name: &SlotName) -> SwapOutcome {
        if *name != SlotName::Default
            && let Some(default) = self
                .slot(&SlotName::Default)
                .running
                .as_ref()
                .map(|running| Arc::clone(&running.active.plugin))
        {
            match self.rehearse(name, &default) {
                Ok(RehearsalOutcome::Passed(_)) => {}
                Ok(RehearsalOutcome::Rejected(rejection)) => {
                    return self.reject(name, None, rejection);
                }
                Err(error) => {
                    tracing::warn!(code = error.code(), %error, "rehearsal of the default plugin interrupted, to be tried again");
                    return SwapOutcome::Later(error.into());
                }
            }
        }
        if let Err(error) = self.note(name, None) {
            tracing::error!(code = "plugin-store-failed", %error, "removal of a slot's plugin cannot be noted on disk");
        }
        self.activate(name, None)
    }

    /// Compiles a plugin that ran before, most likely by a look into the cache. In its
    /// own lane, the compile waits for no file that is new here.
    pub fn compile_again(
        &self,
        name: &SlotName,
        bytes: &[u8],
    ) -> Result<Arc<dyn Plugin>, Rejection> {
        let limits = self.setup.pipeline.limits_of(name);
        let run = CompileRun {
            lane: Lane::Restore,
            stop: Arc::clone(&self.stopping),
        };
        let started = Instant::now();
        let compiled = self.setup.compiler.compile_for(bytes, limits, &run);
        metrics::swap_took(&self.setup.pipeline.name, "compile", started.elapsed());
        compiled
    }

    fn rehearse(
        &self,
        name: &SlotName,
        candidate: &Arc<dyn Plugin>,
    ) -> Result<RehearsalOutcome, LogError> {
        let running = |name: &SlotName| {
            self.slots
                .get(name)
                .and_then(|slot| slot.running.as_ref())
                .map(|running| &running.active.plugin)
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

    /// Notes which plugins are to run from now on, and what is undone.
    pub fn note(&self, name: &SlotName, digest: Option<Digest>) -> std::io::Result<()> {
        let full_name = |name: &SlotName| format!("{}/{name}", self.setup.pipeline.name);
        let mut noted = StoredDecisions {
            slots: self
                .slots
                .values()
                .filter_map(|slot| Some((slot.full_name(), slot.digest()?)))
                .collect(),
            undone: self
                .group
                .known()
                .directives()
                .to_note()
                .map(|(name, rolled_back)| (full_name(name), rolled_back.clone()))
                .collect(),
            unfit: self
                .unfit
                .iter()
                .map(|(name, unfit)| (full_name(name), unfit.clone()))
                .collect(),
        };
        match digest {
            Some(digest) => noted.slots.insert(full_name(name), digest),
            None => noted.slots.remove(&full_name(name)),
        };
        self.setup.library.store.note(&noted)
    }

    /// Keeps only the copies of plugins that run, that checkpoints name, or that a
    /// rollback would need.
    pub fn keep_copies(&self, mut named: BTreeSet<Digest>) {
        named.extend(self.slots.values().filter_map(Slot::digest));
        named.extend(self.group.on_trial());
        if let Err(error) = self.setup.library.store.retain(&named) {
            tracing::warn!(pipeline = %self.setup.pipeline.name, %error, "old copies of plugins cannot be removed");
        }
    }

    /// Puts a plugin in force in every worker.
    pub fn activate(&mut self, name: &SlotName, plugin: Option<CompiledPlugin>) -> SwapOutcome {
        let started = Instant::now();
        let active = plugin.map(|(plugin, size)| (Active::new(name.clone(), plugin), size));
        let mut takeover = Takeover::new();
        for worker in &self.setup.workers {
            let told = self.tell(worker, |done| Order::Activate {
                slot: name.clone(),
                active: active.as_ref().map(|(active, _)| Arc::clone(active)),
                done,
            });
            match told {
                Some(offsets) => takeover.extend(offsets),
                None => return SwapOutcome::Later(RequestError::Stopping),
            }
        }
        let slot = self.slot(name);
        slot.activated(active.map(|(active, size_bytes)| RunningPlugin {
            active,
            size_bytes,
            since: Timestamp::now(),
            takeover,
        }));
        tracing::info!(
            slot = %slot.full_name(),
            digest = slot.digest().map(|digest| digest.short()),
            took_ms = started.elapsed().as_secs_f64() * 1000.0,
            "plugin swapped",
        );
        metrics::swap_took(&self.setup.pipeline.name, "activate", started.elapsed());
        self.count(name, "activated");
        if *name == SlotName::Default {
            self.slots.values_mut().for_each(Slot::reconsider_removal);
        }
        self.publish();
        SwapOutcome::Runs
    }

    /// Gives a worker an order, and waits until it is carried out. None: the
    /// worker has ended, or the host is stopping.
    pub fn tell<T>(&self, worker: &Orders, order: impl Fn(Sender<T>) -> Order) -> Option<T> {
        loop {
            let (done, answer) = crossbeam_channel::bounded(1);
            if !worker.give(order(done)) {
                return None;
            }
            // A worker that cannot commit drops the order unanswered, and may do so
            // until it is told to stop. A host that stops waits for this thread first,
            // so the thread must not wait on.
            match answer.recv() {
                Ok(done) => return Some(done),
                Err(_) if self.is_stopping() => return None,
                Err(_) => std::thread::sleep(TELL_AGAIN_AFTER),
            }
        }
    }
}
