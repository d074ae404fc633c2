//! Going back to the plugin that ran before: the order to all hosts, and what
//! this host does when it hears the order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use courtside_log::LogError;
use courtside_process::clock::now_ms;
use courtside_types::{Digest, Position, slot_name::SlotName};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::oneshot;

use super::{manager_loop::ManagerLoop, swap::SwapOutcome};
use crate::{
    slots::{
        request::{Answer, RequestError, RequestResult, RollbackView},
        slot::RunningPlugin,
        topic,
        view::FileState,
    },
    worker::{
        instances::Active,
        takeover::Directive,
        thread::{Order, Takeover},
    },
};

/// The code of a file that is not taken, since it was rolled back.
const ROLLED_BACK: &str = "plugin-rolled-back";

/// A rollback that was asked for here.
pub(super) struct PendingRollback {
    slot: SlotName,
    id: u64,
    plan: RollbackView,
    /// The outcome of appending the order's record; none once it is known.
    written: Option<BoxFuture<'static, Vec<Result<Position, LogError>>>>,
    answer: oneshot::Sender<RequestResult>,
}
impl ManagerLoop {
    /// Orders all hosts to go back. The answer comes when this host has gone back.
    pub fn order_rollback(
        &mut self,
        name: &SlotName,
        of: Option<Digest>,
        answer: oneshot::Sender<RequestResult>,
    ) {
        if let Err(error) = self.try_order_rollback(name, of) {
            // The operator who asked may have gone.
            drop(answer.send(Err(error)));
            return;
        }
        if let Some(awaited) = &mut self.awaited {
            awaited.answer = answer;
        }
    }

    fn try_order_rollback(
        &mut self,
        name: &SlotName,
        of: Option<Digest>,
    ) -> Result<(), RequestError> {
        if self.awaited.is_some() {
            return Err(RequestError::Busy);
        }
        let plan = self.plan(name, of)?;
        if let Some((code, reason)) = plan.refused {
            return Err(RequestError::Refused { code, reason });
        }
        let at = now_ms();
        let directive = Directive {
            id: self.group.known().directives().next_id(name, at),
            slot: name.clone(),
            bad: plan.bad,
            to: plan.to,
            at,
        };
        let written = self.group.tail().append(topic::directive(&directive))?;
        tracing::warn!(
            slot = %plan.view.slot,
            from = %plan.bad.short(),
            to = plan.to.map(|to| to.short()),
            events = plan.view.events,
            "rollback ordered",
        );
        let (answer, _) = oneshot::channel();
        self.awaited = Some(PendingRollback {
            slot: name.clone(),
            id: directive.id,
            plan: plan.view,
            written: Some(written),
            answer,
        });
        Ok(())
    }

    /// Gives up an order that nobody waits for any more, or that the log has not
    /// taken.
    pub fn look_after_awaited(&mut self) {
        let Some(awaited) = &mut self.awaited else {
            return;
        };
        let written = awaited.written.as_mut().and_then(FutureExt::now_or_never);
        let failed = written.and_then(|written| {
            awaited.written = None;
            written.into_iter().find_map(Result::err)
        });
        if failed.is_none() && !awaited.answer.is_closed() {
            return;
        }
        if let (Some(awaited), Some(error)) = (self.awaited.take(), failed) {
            // The operator who asked may have gone.
            drop(awaited.answer.send(Err(error.into())));
        }
    }

    /// Gives the workers the orders that stand, before any plugin starts, and goes back
    /// where an order came while the host was down.
    pub fn go_back_where_told(&mut self, digests: &mut BTreeMap<SlotName, Digest>) {
        for directive in self.directives() {
            let name = directive.slot.clone();
            if self.take_back(&directive, None).is_none() {
                return;
            }
            if self.group.known().directives().is_followed(&directive) {
                continue;
            }
            let is_done = self.runs_again(&directive);
            self.mark(&directive, is_done);
            if !is_done && digests.get(&name) == Some(&directive.bad) {
                match directive.to {
                    Some(to) => digests.insert(name, to),
                    None => digests.remove(&name),
                };
            }
        }
        self.confirm_where_told();
    }

    /// The orders that stand, in each slot the oldest first.
    fn directives(&self) -> Vec<Directive> {
        let directives = self.group.known().directives();
        directives.standing().cloned().collect()
    }

    /// Whether the group has already followed a directive, and runs the undone plugin
    /// again.
    fn runs_again(&self, directive: &Directive) -> bool {
        self.group.known().runs_again(directive)
    }

    /// Notes that a directive was followed, and that the plugin it undoes is not taken
    /// from the directory. A plugin that is wanted again may still be taken.
    fn mark(&mut self, directive: &Directive, is_wanted: bool) {
        let directives = self.group.known_mut().directives_mut();
        directives.follow(directive, is_wanted);
    }

    /// Follows the orders that came since the last look.
    pub fn follow(&mut self) {
        if !self.group.is_known() {
            return;
        }
        self.withdraw_where_told();
        // An order waits while one before it cannot be followed yet.
        let mut waiting = BTreeSet::new();
        for directive in self.directives() {
            let name = &directive.slot;
            let is_followed = self.group.known().directives().is_followed(&directive);
            if is_followed || waiting.contains(name) {
                continue;
            }
            if self.is_stopping() {
                return;
            }
            let outcome = self.roll_back(&directive);
            if outcome.is_err() {
                waiting.insert(name.clone());
            }
            self.tell_awaited(&directive, outcome);
        }
        self.confirm_where_told();
    }

    /// Forgets orders that no longer stand: the plugins that they undid may be taken
    /// again, and swaps to those are not taken back.
    pub fn withdraw_where_told(&mut self) {
        let directives = self.group.known().directives();
        let withdrawn = directives.to_withdraw();
        let wanted = directives.to_release();
        for (slot, id) in withdrawn {
            for worker in &self.setup.workers {
                let told = self.tell(worker, |done| Order::Withdraw {
                    slot: slot.clone(),
                    id,
                    done,
                });
                if told.is_none() {
                    return;
                }
            }
            let directives = self.group.known_mut().directives_mut();
            directives.withdrawn(&slot, id);
        }
        for (name, digest) in wanted {
            self.forgive(&name, digest);
        }
    }

    /// Whether a plugin was undone, so that it is not taken from the directory.
    pub fn is_undone(&self, name: &SlotName, digest: Digest) -> bool {
        let directives = self.group.known().directives();
        directives.is_rolled_back(name, digest)
    }

    /// Lets a plugin that was undone be taken again.
    pub fn forgive(&mut self, name: &SlotName, digest: Digest) {
        let directives = self.group.known_mut().directives_mut();
        if !directives.release(name, digest) {
            return;
        }
        self.note_as_it_is(name);
        self.look_again_at(name);
    }

    /// Judges the slot's file anew. A missing file means no more than it did.
    fn look_again_at(&mut self, name: &SlotName) {
        if let Some(slot) = self.slots.get_mut(name).filter(|slot| slot.has_file()) {
            slot.look_again();
        }
    }

    fn roll_back(&mut self, directive: &Directive) -> Result<(), RequestError> {
        let name = &directive.slot;
        let is_wanted = self.runs_again(directive);
        let runs = self.slots.get(name).and_then(|slot| slot.running.clone());
        let is_bad = !is_wanted
            && runs
                .as_ref()
                .is_some_and(|runs| runs.active.plugin.digest() == directive.bad);
        let next = match (is_bad, directive.to) {
            (true, Some(to)) => match self.fetch(name, to) {
                Ok((plugin, size_bytes)) => Some(RunningPlugin::new(name, plugin, size_bytes)),
                Err(rejection) => {
                    // The order stands, so it is tried again.
                    tracing::error!(slot = %self.slot(name).full_name(), to = %to.short(), code = rejection.code, reason = %rejection.message, "rollback failed: the previous plugin cannot be loaded, trying again");
                    return Err(rejection.into());
                }
            },
            (true, None) => None,
            (false, _) => runs,
        };
        self.mark(directive, is_wanted);
        let digest = next.as_ref().map(|next| next.active.plugin.digest());
        if let Err(error) = self.note(name, digest) {
            tracing::error!(code = "plugin-store-failed", %error, "rollback cannot be noted on disk");
        }
        let active = next.as_ref().map(|next| &next.active);
        let Some(redone) = self.take_back(directive, active) else {
            return Err(RequestError::Stopping);
        };
        if !is_bad {
            tracing::info!(slot = %self.slot(name).full_name(), bad = %directive.bad.short(), partitions = redone.len(), "rollback of an earlier takeover, the slot keeps its plugin");
            return Ok(());
        }
        let slot = self.slot(name);
        slot.activated(next.map(|next| RunningPlugin {
            takeover: redone,
            ..next
        }));
        tracing::warn!(
            slot = %slot.full_name(),
            from = %directive.bad.short(),
            to = directive.to.map(|to| to.short()),
            "plugin rolled back",
        );
        self.count(name, "rolled-back");
        // The slot's file may be this plugin's, or another that came just now.
        self.look_again_at(name);
        self.publish();
        Ok(())
    }

    /// Gives all workers a directive, and returns where each partition begins again.
    fn take_back(
        &mut self,
        directive: &Directive,
        active: Option<&Arc<Active>>,
    ) -> Option<Takeover> {
        self.group.known_mut().directives_mut().give(directive);
        let mut redone = Takeover::new();
        for worker in &self.setup.workers {
            let taken_back = self.tell(worker, |done| Order::Rollback {
                slot: directive.slot.clone(),
                directive: directive.clone(),
                active: active.cloned(),
                done,
            })?;
            let begins = taken_back
                .into_iter()
                .map(|(partition, redone)| (partition, redone.from));
            redone.extend(begins);
        }
        Some(redone)
    }

    fn tell_awaited(&mut self, directive: &Directive, outcome: Result<(), RequestError>) {
        let is_awaited = |awaited: &mut PendingRollback| {
            awaited.slot == directive.slot && awaited.id <= directive.id
        };
        let Some(awaited) = self.awaited.take_if(is_awaited) else {
            return;
        };
        let answer = outcome.map(|()| {
            Answer::Rollback(Box::new(RollbackView {
                done: true,
                ..awaited.plan
            }))
        });
        // The operator who asked may have gone.
        drop(awaited.answer.send(answer));
    }

    /// Leaves a file whose plugin was undone: the plugin that runs is the one that was
    /// ordered.
    pub fn leave_undone(&mut self, name: &SlotName, digest: Digest) -> SwapOutcome {
        // A host that is new in the group runs nothing yet, so it takes the plugin of
        // the order.
        let directive = self.group.known().directives().latest(name);
        if let Some(to) = directive.and_then(|directive| directive.to)
            && self
                .slots
                .get(name)
                .is_some_and(|slot| slot.running.is_none())
        {
            match self.fetch(name, to) {
                Ok(plugin) => {
                    if let Err(error) = self.note(name, Some(to)) {
                        tracing::error!(code = "plugin-store-failed", %error, "plugin of a slot cannot be noted on disk");
                    }
                    self.activate(name, Some(plugin));
                }
                Err(rejection) => {
                    tracing::error!(slot = %self.slot(name).full_name(), to = %to.short(), code = rejection.code, reason = %rejection.message, "plugin that the slot was rolled back to cannot be loaded");
                }
            }
        }
        let slot = self.slot(name);
        tracing::info!(
            slot = %slot.full_name(),
            digest = %digest.short(),
            code = ROLLED_BACK,
            "file not taken: its plugin was rolled back",
        );
        slot.leave(
            FileState::RolledBack,
            Some(digest),
            ROLLED_BACK,
            "its plugin was rolled back: `courtside plugins restore-file` replaces the file by the plugin that runs, `courtside plugins put` puts the file in force again",
        );
        SwapOutcome::Left
    }
}
