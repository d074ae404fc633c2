//! The manager's loop: it looks at the directory, answers operators, and follows the
//! group.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use courtside_plugin_host::Rejection;
use courtside_types::{Digest, slot_name::SlotName};
use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::{
    Nudge, Setup, SlotViews, compile::Compiles, group::Group, rollback::PendingRollback,
    swap::SwapOutcome,
};
use crate::{
    slots::{
        files,
        library::MissingPlugin,
        request::Request,
        slot::{Slot, Step},
        store::{FailedRehearsal, StoredDecisions},
        view::SlotState,
    },
    worker::metrics,
};

/// How soon the loop looks again while an operator waits for a record of the topic.
const AWAITED_WAIT: Duration = Duration::from_millis(20);
/// How long the manager waits at most until it tries again to read the group's
/// messages. The wait bounds how late it may notice that it is to stop.
const LEARN_WAIT_MAX: Duration = Duration::from_millis(200);
/// How long a swap waits for the host to get partitions.
const PARTITIONS_WAIT: Duration = Duration::from_secs(60);

pub(super) struct ManagerLoop {
    pub setup: Setup,
    pub slots: BTreeMap<SlotName, Slot>,
    pub group: Group,
    /// The files that failed their rehearsal.
    pub unfit: BTreeMap<SlotName, FailedRehearsal>,
    /// Since when the host has had no partitions.
    pub empty_since: Option<Instant>,
    /// A rollback that was asked for and is not begun.
    pub awaited: Option<PendingRollback>,
    pub compiles: Compiles,
    pub views: SlotViews,
    pub stopping: Arc<AtomicBool>,
}

impl ManagerLoop {
    pub fn run(mut self, looks: &Receiver<Nudge>, requests: &Receiver<Request>) {
        let thread = rustix::thread::gettid();
        if let Err(error) = rustix::process::setpriority_process(Some(thread), 10) {
            tracing::debug!(%error, "priority of the slot manager's thread cannot be lowered");
        }
        self.learn(requests);
        // An operator who asks while the host starts sees the files, too.
        self.look();
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
        let compiled = self.compiles.woken();
        while !self.is_stopping() {
            self.listen();
            self.follow();
            self.look_after_awaited();
            self.look();
            self.look_at_partitions();
            self.act();
            self.speak();
            self.publish();
            self.tidy();
            let wait = if self.awaited.is_some() {
                AWAITED_WAIT
            } else if self.is_settled() {
                self.setup.config.poll_interval
            } else {
                self.setup.config.settle
            };
            crossbeam_channel::select! {
                recv(looks) -> nudge => if nudge.is_err() {
                    break;
                },
                recv(requests) -> request => match request {
                    Ok(request) => self.answer(request),
                    Err(_) => break,
                },
                // The next round of the loop takes the outcome.
                recv(compiled) -> _ => {}
                default(wait) => {}
            }
        }
        self.end_compiles();
        self.leave();
    }

    /// Reads the group's messages, however long that takes. Workers must first know
    /// which swaps are to be taken back: a takeover before that is never taken back.
    fn learn(&mut self, requests: &Receiver<Request>) {
        loop {
            self.listen();
            if self.group.is_known() || self.is_stopping() {
                return;
            }
            // This wait ignores nudges, since the manager looks at the directory right
            // after.
            match requests.recv_timeout(self.setup.config.settle.min(LEARN_WAIT_MAX)) {
                Ok(request) => self.answer(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Whether a swap may be rehearsed now. On a log whose checkpoints come with its
    /// partitions, a rehearsal without partitions proves nothing. A host that gets no
    /// partitions is a spare one, and waits for them at most `PARTITIONS_WAIT`.
    pub fn can_rehearse(&self, name: &SlotName) -> bool {
        let runs = |name: &SlotName| {
            let slot = self.slots.get(name);
            slot.is_some_and(|slot| slot.running.is_some())
        };
        if !runs(name) && !runs(&SlotName::Default) {
            return true;
        }
        let is_spare = |since: Instant| since.elapsed() >= PARTITIONS_WAIT;
        !self.setup.status.is_empty() || self.empty_since.is_some_and(is_spare)
    }

    fn look_at_partitions(&mut self) {
        if self.setup.status.is_empty() {
            self.empty_since.get_or_insert_with(Instant::now);
        } else {
            self.empty_since = None;
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Starts the plugins that ran when the host ran last, except for those undone
    /// meanwhile.
    fn restore(&mut self) {
        let noted = match self.setup.library.store.noted() {
            Ok(noted) => noted,
            Err(error) => {
                tracing::error!(code = "plugin-store-failed", %error, "notes of the last run cannot be read, so the plugins that ran before are not known");
                StoredDecisions::default()
            }
        };
        let prefix = format!("{}/", self.setup.pipeline.name);
        let name = |full_name: &str| SlotName::parse(full_name.strip_prefix(&prefix)?);
        let rolled_back = noted
            .undone
            .iter()
            .filter_map(|(full_name, undone)| Some((name(full_name)?, undone.clone())))
            .collect();
        self.group.known_mut().directives_mut().restore(rolled_back);
        self.unfit = noted
            .unfit
            .iter()
            .filter_map(|(full_name, unfit)| Some((name(full_name)?, unfit.clone())))
            .collect();
        let mut digests: BTreeMap<SlotName, Digest> = noted
            .slots
            .iter()
            .filter_map(|(full_name, digest)| Some((name(full_name)?, *digest)))
            .collect();
        self.go_back_where_told(&mut digests);
        // No event is processed before the default plugin runs. So the plugins of
        // single keys start first: otherwise their events would go to the default
        // plugin.
        let mut slots: Vec<_> = digests.into_iter().collect();
        slots.sort_by_key(|(name, _)| *name == SlotName::Default);
        for (name, digest) in slots {
            if self.is_stopping() {
                return;
            }
            match self.fetch(&name, digest) {
                Ok(plugin) => {
                    self.slot(&name);
                    self.activate(&name, Some(plugin));
                }
                Err(_) if self.is_stopping() => return,
                Err(rejection) => {
                    tracing::error!(slot = %format!("{prefix}{name}"), digest = %digest.short(), code = rejection.code, reason = %rejection.message, "plugin that ran before the restart cannot be loaded");
                }
            }
        }
    }

    /// A plugin by its digest, from the host's copy or the group's, for a slot.
    pub fn fetch(
        &self,
        name: &SlotName,
        digest: Digest,
    ) -> Result<super::swap::CompiledPlugin, Rejection> {
        let library = &self.setup.library;
        let bytes = library.load(digest).map_err(|missing| Rejection {
            code: match &missing {
                MissingPlugin::Nowhere(_) | MissingPlugin::Damaged(_) => "plugin-not-kept",
                MissingPlugin::Log(error) => error.code(),
            },
            message: missing.to_string(),
        })?;
        if let Err(error) = library.store.keep(digest, &bytes) {
            tracing::warn!(code = "plugin-store-failed", %error, "copy of a plugin cannot be written");
        }
        let plugin = self.compile_again(name, &bytes)?;
        Ok((plugin, bytes.len() as u64))
    }

    pub fn look(&mut self) {
        let now = Instant::now();
        let found = match files::scan(&self.setup.dir) {
            Ok(found) => found,
            Err(error) => {
                // A directory that cannot be read does not mean that its files are
                // gone.
                tracing::warn!(dir = %self.setup.dir.display(), %error, "plugin directory cannot be read");
                return;
            }
        };
        for name in found.keys() {
            self.slot(name);
        }
        for (name, slot) in &mut self.slots {
            slot.see(found.get(name).cloned(), now);
        }
        self.forget_unfit_files();
        self.slots
            .retain(|name, slot| *name == SlotName::Default || !slot.is_vacant());
    }

    pub fn slot(&mut self, name: &SlotName) -> &mut Slot {
        self.slots.entry(name.clone()).or_insert_with(|| {
            let pipeline = &self.setup.pipeline.name;
            metrics::slot_is_there(pipeline, &name.to_string());
            Slot::new(pipeline, name.clone(), Instant::now())
        })
    }

    fn is_settled(&self) -> bool {
        let long_ago = Duration::ZERO;
        self.slots.iter().all(
            |(name, slot)| match slot.next_step(Instant::now(), long_ago) {
                Step::Wait => true,
                // The end of the compile wakes the loop.
                Step::Take(_) => self.compiles.is_waiting(name, slot.seen()),
                Step::Unreadable(_) | Step::Remove => false,
            },
        )
    }

    fn act(&mut self) {
        // A swap that begins before a directive is known would be taken for the swap
        // that the directive undoes.
        if !self.group.is_known() {
            return;
        }
        self.go_on_compiled();
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
            let taken = match step {
                Step::Wait => continue,
                Step::Unreadable(why) => {
                    let rejection = Rejection {
                        code: "plugin-file-unreadable",
                        message: why,
                    };
                    self.reject(&name, None, rejection)
                }
                // The loop looks at the slot again soon.
                Step::Take(_) | Step::Remove if !self.can_rehearse(&name) => continue,
                Step::Take(_) if self.is_waiting(&name) => continue,
                Step::Take(path) => self.take(&name, &path),
                Step::Remove => self.remove(&name),
            };
            self.conclude(&name, taken);
        }
    }

    /// Whether a slot's file waits for a compile.
    fn is_waiting(&self, name: &SlotName) -> bool {
        let seen = self.slots.get(name).and_then(Slot::seen);
        self.compiles.is_waiting(name, seen)
    }

    /// Notes that a file is being compiled, or is about to be.
    pub fn enter_loading(&mut self, name: &SlotName, digest: Digest) {
        if !self.slot(name).is_loading(digest) {
            self.enter(name, SlotState::Loading, digest);
        }
    }

    pub fn enter(&mut self, name: &SlotName, state: SlotState, digest: Digest) {
        self.slot(name).enter(state, Some(digest));
        self.publish();
    }

    pub fn reject(
        &mut self,
        name: &SlotName,
        digest: Option<Digest>,
        rejection: Rejection,
    ) -> SwapOutcome {
        let slot = self.slot(name);
        slot.reject(digest, rejection.code, &rejection.message);
        tracing::error!(
            slot = %slot.full_name(),
            digest = digest.map(|digest| digest.short()),
            code = rejection.code,
            reason = %rejection.message,
            "plugin rejected, the slot keeps its previous plugin",
        );
        self.count(name, "rejected");
        SwapOutcome::Rejected(rejection)
    }

    pub fn count(&self, name: &SlotName, result: &'static str) {
        metrics::swaps(&self.setup.pipeline.name, &name.to_string(), result, 1);
    }

    pub fn publish(&mut self) {
        let views = self
            .slots
            .iter()
            .map(|(name, slot)| (name.clone(), self.group.view(name, slot)))
            .collect();
        *self.views.lock() = views;
    }
}
