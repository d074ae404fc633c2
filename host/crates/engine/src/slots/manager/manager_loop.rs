//! The manager's loop: it looks at the directory, answers operators, and follows the
//! group. Its parts remember and decide; the loop asks them, and acts on files, workers
//! and the topic.

mod requests;
mod rollback;
mod swap;
#[cfg(test)]
mod tests;
mod tidy;

use std::{
    io,
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
    announcer::Announcer,
    compile_queue::CompileQueue,
    group_topic::GroupTopic,
    notes::Notes,
    outcome::SwapOutcome,
    partitions_wait::PartitionsWait,
    pending_rollback::PendingRollback,
    setup::Setup,
    slot_table::SlotTable,
    slot_views::{SlotViews, ViewWriter},
    unfit_files::UnfitFiles,
    unused_plugins::UnusedPlugins,
    workers::Workers,
};
use crate::{
    slots::{
        files,
        library::MissingPlugin,
        request::Request,
        slot::{RunningPlugin, Slot, Step},
    },
    worker::{metrics, status::PartitionState},
};

/// How soon the loop looks again while an operator waits for a record of the topic.
const ROLLBACK_WAIT: Duration = Duration::from_millis(20);
/// How long the manager waits at most until it tries again to read the group's
/// messages. The wait bounds how late it may notice that it is to stop.
const READ_WAIT_MAX: Duration = Duration::from_millis(200);

pub(super) struct ManagerLoop {
    setup: Setup,
    slots: SlotTable,
    group: GroupTopic,
    unfit: UnfitFiles,
    partitions: PartitionsWait,
    rollback: PendingRollback,
    compiles: CompileQueue,
    announcer: Announcer,
    unused: UnusedPlugins,
    views: ViewWriter,
    /// Set when the manager is to end.
    stopping: Arc<AtomicBool>,
}

impl ManagerLoop {
    /// A loop that has not begun. Its views are those of a host without plugins.
    pub fn new(setup: Setup, views: SlotViews, stopping: Arc<AtomicBool>) -> Self {
        let now = Instant::now();
        let pipeline = &setup.pipeline;
        let new = Self {
            slots: SlotTable::new(pipeline.name.clone(), now),
            group: GroupTopic::new(
                Arc::clone(&setup.log),
                setup.topic.topic.clone(),
                setup.config.confirm_after,
            ),
            unfit: UnfitFiles::default(),
            partitions: PartitionsWait::default(),
            rollback: PendingRollback::default(),
            compiles: CompileQueue::new(Arc::clone(&setup.compiler), Arc::clone(pipeline)),
            announcer: Announcer::new(pipeline.host.clone()),
            unused: UnusedPlugins::new(now),
            views: ViewWriter::new(Arc::clone(pipeline), views),
            setup,
            stopping,
        };
        new.publish();
        new
    }

    pub fn run(mut self, looks: &Receiver<()>, requests: &Receiver<Request>) {
        let thread = rustix::thread::gettid();
        if let Err(error) = rustix::process::setpriority_process(Some(thread), 10) {
            tracing::debug!(%error, "priority of the slot manager's thread cannot be lowered");
        }
        self.catch_up(requests);
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
            self.round();
            let wait = self.wait();
            crossbeam_channel::select! {
                recv(looks) -> look => if look.is_err() {
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
        self.compiles.end();
        self.announcer.leave(&self.group);
    }

    fn round(&mut self) {
        self.read_topic();
        self.follow();
        self.rollback.check();
        self.look();
        let has_partitions = !self.setup.status.is_empty();
        self.partitions.observe(has_partitions, Instant::now());
        self.act();
        self.announce();
        self.publish();
        self.tidy();
    }

    /// How long the loop waits until it looks again by itself.
    fn wait(&self) -> Duration {
        if self.rollback.is_some() {
            ROLLBACK_WAIT
        } else if self.is_settled() {
            self.setup.config.poll_interval
        } else {
            self.setup.config.settle
        }
    }

    /// Reads the group's messages, however long that takes. Workers must first know
    /// which swaps are to be taken back: a takeover before that is never taken back.
    fn catch_up(&mut self, requests: &Receiver<Request>) {
        loop {
            self.read_topic();
            if self.group.is_caught_up() || self.is_stopping() {
                return;
            }
            // This wait ignores nudges, since the manager looks at the directory right
            // after.
            match requests.recv_timeout(self.setup.config.settle.min(READ_WAIT_MAX)) {
                Ok(request) => self.answer(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn read_topic(&mut self) {
        self.group.read(&self.setup.library, &self.stopping);
    }

    /// Whether a swap may be rehearsed now.
    fn can_rehearse(&self, name: &SlotName) -> bool {
        self.slots.plugin_in_force(name).is_none()
            || !self.setup.status.is_empty()
            || self.partitions.is_over(Instant::now())
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn workers(&self) -> Workers<'_> {
        Workers::new(&self.setup.workers, &self.stopping)
    }

    /// Starts the plugins that ran when the host ran last, except for those undone
    /// meanwhile.
    fn restore(&mut self) {
        let store = &self.setup.library.store;
        let notes = match Notes::read(store, &self.setup.pipeline.name) {
            Ok(notes) => notes,
            Err(error) => {
                tracing::error!(code = "plugin-store-failed", %error, "notes of the last run cannot be read, so the plugins that ran before are not known");
                Notes::default()
            }
        };
        self.group.directives_mut().restore(notes.rolled_back);
        self.unfit.restore(notes.unfit);
        let mut running = notes.running;
        self.follow_at_start(&mut running);
        // As in `SlotTable::names`, the default slot comes last.
        let mut running: Vec<_> = running.into_iter().collect();
        running.sort_by_key(|(name, _)| *name == SlotName::Default);
        for (name, digest) in running {
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
                    tracing::error!(slot = %self.slots.full_name(&name), digest = %digest.short(), code = rejection.code, reason = %rejection.message, "plugin that ran before the restart cannot be loaded");
                }
            }
        }
    }

    /// A plugin by its digest, from the host's copy or the group's, for a slot.
    fn fetch(&self, name: &SlotName, digest: Digest) -> Result<RunningPlugin, Rejection> {
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
        Ok(RunningPlugin::new(name, plugin, bytes.len() as u64))
    }

    /// Looks at the plugin directory.
    fn look(&mut self) {
        let entries = match files::scan(&self.setup.dir) {
            Ok(entries) => entries,
            Err(error) => {
                // A directory that cannot be read does not mean that its files are
                // gone.
                tracing::warn!(dir = %self.setup.dir.display(), %error, "plugin directory cannot be read");
                return;
            }
        };
        self.slots.observe(&entries, Instant::now());
        for name in self.unfit.without_file(|name| self.slots.has_file(name)) {
            self.unfit.remove(&name);
            self.note_as_it_is(&name);
        }
        self.slots.forget_vacant();
    }

    fn slot(&mut self, name: &SlotName) -> &mut Slot {
        self.slots.get_or_make(name)
    }

    fn is_settled(&self) -> bool {
        let long_ago = Duration::ZERO;
        self.slots.iter().all(
            |(name, slot)| match slot.next_step(Instant::now(), long_ago) {
                Step::Wait => true,
                // The end of the compile wakes the loop.
                Step::Take(_) => self.compiles.is_waiting(name, slot.entry()),
                Step::Unreadable(_) | Step::Remove => false,
            },
        )
    }

    fn act(&mut self) {
        // A swap that begins before a directive is known would be taken for the swap
        // that the directive undoes.
        if !self.group.is_caught_up() {
            return;
        }
        self.take_compiled();
        for name in self.slots.names() {
            if self.is_stopping() {
                return;
            }
            let settle = self.setup.config.settle;
            let taken = match self.slot(&name).next_step(Instant::now(), settle) {
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
                Step::Take(_) if self.compiles.is_waiting(&name, self.slots.entry(&name)) => {
                    continue;
                }
                Step::Take(path) => self.take(&name, &path),
                Step::Remove => self.remove(&name),
            };
            self.conclude(&name, taken);
        }
    }

    /// Tells the group what this host runs, and gives it the plugins that it lacks.
    fn announce(&mut self) {
        let status = self.setup.status.all();
        let redoing = status
            .values()
            .filter(|status| status.state == PartitionState::Redoing)
            .count();
        let redoing = u32::try_from(redoing).unwrap_or(u32::MAX);
        self.announcer.announce(&self.slots, redoing, &self.group);
        if !self.group.is_caught_up() {
            return;
        }
        let now = Instant::now();
        for digest in self.slots.digests() {
            match self.setup.library.share(digest, now) {
                Ok(true) => {}
                // The rest follows at the next look.
                Ok(false) => break,
                Err(error) => {
                    tracing::debug!(digest = %digest.short(), %error, "plugin cannot be written to the group's topic yet");
                    break;
                }
            }
        }
    }

    fn reject(
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

    fn count(&self, name: &SlotName, result: &'static str) {
        metrics::swaps(&self.setup.pipeline.name, &name.to_string(), result, 1);
    }

    fn publish(&self) {
        self.views.publish(&self.slots, self.group.records());
    }

    /// Notes which plugins are to run from now on, and the decisions about files.
    fn note(&self, name: &SlotName, digest: Option<Digest>) -> io::Result<()> {
        let mut running = self.slots.running();
        match digest {
            Some(digest) => running.insert(name.clone(), digest),
            None => running.remove(name),
        };
        let rolled_back = self.group.directives().to_note();
        let notes = Notes {
            running,
            rolled_back: rolled_back
                .map(|(name, rolled_back)| (name.clone(), rolled_back.clone()))
                .collect(),
            unfit: self.unfit.to_note().clone(),
        };
        notes.write(&self.setup.library.store, &self.setup.pipeline.name)
    }

    /// Writes the notes that outlive the host, where the plugin of a slot stays.
    fn note_as_it_is(&self, name: &SlotName) {
        if let Err(error) = self.note(name, self.slots.digest(name)) {
            tracing::error!(slot = %self.slots.full_name(name), code = "plugin-store-failed", %error, "decision about a slot's file cannot be noted on disk");
        }
    }
}
