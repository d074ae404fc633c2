//! Putting the plugin of a file in force: it is compiled, rehearsed, kept, and put in
//! force in every worker.

use std::{path::Path, sync::Arc, time::Instant};

use courtside_log::LogError;
use courtside_plugin_host::{CompileRun, Lane, Plugin, Rejection};
use courtside_process::clock::now_ms;
use courtside_types::{Digest, slot_name::SlotName};
use jiff::Timestamp;

use super::ManagerLoop;
use crate::{
    slots::{
        files::{self, FileContents},
        manager::{
            compile_queue::{Compile, PluginFile},
            outcome::SwapOutcome,
        },
        rehearsal::{Passed, Rehearsal, RehearsalOutcome},
        request::{RequestError, RequestResult},
        slot::RunningPlugin,
        store::FailedRehearsal,
        view::{FileState, SlotState},
    },
    worker::metrics,
};

impl ManagerLoop {
    /// Reads a slot's file and swaps to it.
    pub(super) fn take(&mut self, name: &SlotName, path: &Path) -> SwapOutcome {
        let bytes_max = self.setup.pipeline.limits_of(name).plugin_bytes_max;
        let bytes = match files::read(path, bytes_max) {
            Ok(FileContents::Bytes(bytes)) => bytes,
            Ok(FileContents::Unsteady) => {
                self.slot(name).file_changed(Instant::now());
                return SwapOutcome::Later(RequestError::Refused {
                    code: "plugin-file-unsteady",
                    reason: "the file changed while the host read it".to_owned(),
                });
            }
            Err(rejection) => return self.reject(name, None, rejection),
        };
        let digest = Digest::of(&bytes);
        if let Some(outcome) = self.decision_from_before(name, digest) {
            return outcome;
        }
        self.enter_loading(name, digest);
        let compile = self.compiles.compile(&PluginFile {
            slot: name,
            path,
            entry: self.slots.entry(name),
            digest,
            bytes: &bytes,
        });
        let plugin = match compile {
            Compile::Done(plugin) => plugin,
            Compile::Rejected(rejection) => return self.reject(name, Some(digest), rejection),
            Compile::UnderWay => return SwapOutcome::Compiling,
        };
        let passed = match self.rehearse_file(name, digest, &plugin) {
            Ok(passed) => passed,
            Err(outcome) => return outcome,
        };
        // A plugin other than those undone was taken, so they may come back.
        self.group.directives_mut().release_all(name);
        self.unfit.remove(name);
        let kept = self.setup.library.store.keep(digest, &bytes);
        if let Err(error) = kept.and_then(|()| self.note(name, Some(digest))) {
            let rejection = Rejection {
                code: "plugin-store-failed",
                message: error.to_string(),
            };
            return self.reject(name, Some(digest), rejection);
        }
        let taken = self.swap_to(name, RunningPlugin::new(name, plugin, bytes.len() as u64));
        // A host without partitions may see no checkpoints that name plugins, so it
        // keeps all copies.
        if let (SwapOutcome::Runs, Some(named)) = (&taken, passed.named)
            && !self.setup.status.is_empty()
        {
            self.keep_copies(named);
        }
        taken
    }

    /// The outcome where a decision about the plugin of a slot's file stands.
    fn decision_from_before(&mut self, name: &SlotName, digest: Digest) -> Option<SwapOutcome> {
        if self.slots.digest(name) == Some(digest) {
            let slot = self.slot(name);
            if slot.confirm_file() {
                tracing::info!(slot = %slot.full_name(), digest = %digest.short(), "the slot's file is again the plugin that runs");
            }
            return Some(SwapOutcome::Runs);
        }
        if self.group.directives().is_rolled_back(name, digest) {
            self.leave_rolled_back(name, digest);
            return Some(SwapOutcome::Left);
        }
        // Where no plugin runs that could go on instead, the file is tried again: a reset
        // may have deleted the states.
        self.slots.plugin_in_force(name)?;
        let failure = self.unfit.failure(name, digest)?.clone();
        self.leave_unfit(name, &failure);
        Some(SwapOutcome::Left)
    }

    /// Leaves a file that failed its rehearsal before. Where no directive came since, the
    /// slot goes back to the state that the failure left.
    fn leave_unfit(&mut self, name: &SlotName, failure: &FailedRehearsal) {
        let is_latest = self.group.directives().followed(name) <= failure.directive;
        let (digest, code) = (failure.digest, &failure.code);
        let slot = self.slot(name);
        tracing::info!(slot = %slot.full_name(), digest = %digest.short(), code, "file stays rejected: its plugin failed the rehearsal before");
        if is_latest && slot.state() != SlotState::Rejected {
            slot.reject(Some(digest), code, &failure.reason);
        } else {
            slot.leave_file(FileState::Rejected, Some(digest), code, &failure.reason);
        }
    }

    /// Rehearses the plugin of a slot's file. The error is the outcome of a rehearsal
    /// that did not pass.
    fn rehearse_file(
        &mut self,
        name: &SlotName,
        digest: Digest,
        plugin: &Arc<dyn Plugin>,
    ) -> Result<Passed, SwapOutcome> {
        self.enter(name, SlotState::Rehearsing, digest);
        let started = Instant::now();
        let rehearsed = self.rehearse(name, plugin);
        metrics::swap_took(&self.setup.pipeline.name, "rehearse", started.elapsed());
        match rehearsed {
            Ok(RehearsalOutcome::Passed(passed)) => {
                tracing::info!(slot = %self.slots.full_name(name), digest = %digest.short(), entities = passed.entities, of = passed.of, "rehearsal passed");
                Ok(passed)
            }
            Ok(RehearsalOutcome::Rejected(rejection)) => {
                let failure = FailedRehearsal {
                    digest,
                    code: rejection.code.to_owned(),
                    reason: rejection.message.clone(),
                    directive: self.group.directives().followed(name),
                };
                self.unfit.insert(name, failure);
                self.note_as_it_is(name);
                Err(self.reject(name, Some(digest), rejection))
            }
            Err(error) => {
                tracing::warn!(slot = %self.slots.full_name(name), digest = %digest.short(), code = error.code(), %error, "rehearsal of the default plugin interrupted, to be tried again");
                Err(SwapOutcome::Later(error.into()))
            }
        }
    }

    /// Puts the plugin of a slot's file in force. The plugin is on trial, unless it is
    /// the first that the default slot runs.
    fn swap_to(&mut self, name: &SlotName, plugin: RunningPlugin) -> SwapOutcome {
        let is_trial = !self.setup.config.confirm_after.is_zero()
            && (*name != SlotName::Default || self.slots.runs(name));
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
    pub(super) fn remove(&mut self, name: &SlotName) -> SwapOutcome {
        if *name != SlotName::Default
            && let Some(default) = self.slots.plugin(&SlotName::Default)
        {
            match self.rehearse(name, default) {
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

    /// Goes on with the file that has been compiled, and with those that operators
    /// put meanwhile.
    pub(super) fn take_compiled(&mut self) {
        self.compiles
            .end_without_file(|name| self.slots.has_file(name));
        while let Some((name, path)) = self.compiles.next() {
            if self.is_stopping() || !self.can_rehearse(&name) {
                return;
            }
            let taken = self.take(&name, &path);
            self.conclude(&name, taken);
        }
    }

    /// Answers the operator who put a slot's file, unless the file is still being
    /// compiled.
    pub(super) fn conclude(&mut self, name: &SlotName, taken: SwapOutcome) {
        if matches!(taken, SwapOutcome::Compiling) {
            self.publish();
            return;
        }
        // A compile whose file is no longer the slot's is of no use.
        self.compiles.end_of(name);
        let result = self.result(name, taken);
        self.compiles.answer(name, result);
    }

    /// The answer to an operator whose file was taken.
    pub(super) fn result(&mut self, name: &SlotName, taken: SwapOutcome) -> RequestResult {
        if !matches!(taken, SwapOutcome::Later(_) | SwapOutcome::Compiling) {
            self.slot(name).mark_handled();
        }
        self.publish();
        match taken {
            SwapOutcome::Runs | SwapOutcome::Left | SwapOutcome::Compiling => self.view(name),
            SwapOutcome::Rejected(rejection) => Err(rejection.into()),
            SwapOutcome::Later(why) => Err(why),
        }
    }

    /// Compiles a plugin that ran before, most likely by a look into the cache. In its
    /// own lane, the compile waits for no file that is new here.
    pub(super) fn compile_again(
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
        Rehearsal {
            candidate,
            current: self.slots.plugin_in_force(name),
            slot: name,
            others: &self.slots.key_slots(),
            checkpoints: &*self.setup.checkpoints,
            partitions: &self.setup.partitions,
            entities_per_instance: self.setup.pipeline.entities_per_instance(name),
            entities_max: self.setup.config.rehearsal_entities_max,
            stopping: &self.stopping,
        }
        .run()
    }

    /// Notes that a file is being compiled, or is about to be.
    fn enter_loading(&mut self, name: &SlotName, digest: Digest) {
        if !self.slot(name).is_loading(digest) {
            self.enter(name, SlotState::Loading, digest);
        }
    }

    fn enter(&mut self, name: &SlotName, state: SlotState, digest: Digest) {
        self.slot(name).enter(state, Some(digest));
        self.publish();
    }

    /// Puts a plugin (or none) in force in every worker.
    pub(super) fn activate(
        &mut self,
        name: &SlotName,
        plugin: Option<RunningPlugin>,
    ) -> SwapOutcome {
        let started = Instant::now();
        let active = plugin.as_ref().map(|plugin| &plugin.active);
        let takeover = match self.workers().activate(name, active) {
            Ok(takeover) => takeover,
            Err(stopped) => return SwapOutcome::Later(stopped.into()),
        };
        let slot = self.slot(name);
        slot.activated(plugin.map(|plugin| RunningPlugin {
            since: Timestamp::now(),
            takeover,
            ..plugin
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
            self.slots.reconsider_removals();
        }
        self.publish();
        SwapOutcome::Runs
    }
}
