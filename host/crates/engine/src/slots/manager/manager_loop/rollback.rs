//! Going back to the plugin that ran before: the directive to all hosts, and the steps
//! of this host when it reads the directive.

use std::collections::{BTreeMap, BTreeSet};

use courtside_process::clock::now_ms;
use courtside_types::{Digest, slot_name::SlotName};
use tokio::sync::oneshot;

use super::ManagerLoop;
use crate::{
    slots::{
        manager::{
            pending_rollback::Appended,
            rollback_plan::{RollbackPlan, RollbackPlanner},
        },
        request::{RequestError, RequestResult, RollbackView},
        slot::RunningPlugin,
        view::FileState,
    },
    worker::takeover::Directive,
};

/// The code of a file that is not taken, since it was rolled back.
const ROLLED_BACK: &str = "plugin-rolled-back";

impl ManagerLoop {
    /// Plans a rollback of a slot as of now.
    pub(super) fn plan(
        &self,
        name: &SlotName,
        of: Option<Digest>,
    ) -> Result<RollbackPlan, RequestError> {
        let planner = RollbackPlanner {
            setup: &self.setup,
            slots: &self.slots,
            records: self.group.records(),
        };
        planner.plan(name, of)
    }

    /// Orders all hosts to go back. The answer comes when this host has gone back.
    pub(super) fn order_rollback(
        &mut self,
        name: &SlotName,
        of: Option<Digest>,
        answer: oneshot::Sender<RequestResult>,
    ) {
        match self.try_order_rollback(name, of) {
            Ok((directive, view, appended)) => {
                self.rollback.begin(&directive, view, appended, answer);
            }
            // The operator who asked may have gone.
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    fn try_order_rollback(
        &self,
        name: &SlotName,
        of: Option<Digest>,
    ) -> Result<(Directive, RollbackView, Appended), RequestError> {
        if self.rollback.is_some() {
            return Err(RequestError::Busy);
        }
        let plan = self.plan(name, of)?;
        if let Some(refused) = plan.refused {
            return Err(RequestError::Refused {
                code: refused.code,
                reason: refused.reason,
            });
        }
        let at = now_ms();
        let directive = Directive {
            id: self.group.directives().next_id(name, at),
            slot: name.clone(),
            bad: plan.bad,
            to: plan.to,
            at,
        };
        let appended = self.group.order(&directive)?;
        tracing::warn!(
            slot = %plan.view.slot,
            from = %plan.bad.short(),
            to = plan.to.map(|to| to.short()),
            events = plan.view.events,
            "rollback ordered",
        );
        Ok((directive, plan.view, appended))
    }

    /// Gives the workers the directives that stand, before any plugin starts, and goes
    /// back where a directive came while the host was down.
    pub(super) fn follow_at_start(&mut self, running: &mut BTreeMap<SlotName, Digest>) {
        for directive in self.standing() {
            self.group.directives_mut().give(&directive);
            if self.workers().roll_back(&directive, None).is_err() {
                return;
            }
            if self.group.directives().is_followed(&directive) {
                continue;
            }
            let is_wanted = self.group.records().runs_again(&directive);
            self.group.directives_mut().follow(&directive, is_wanted);
            let name = directive.slot;
            if !is_wanted && running.get(&name) == Some(&directive.bad) {
                match directive.to {
                    Some(to) => running.insert(name, to),
                    None => running.remove(&name),
                };
            }
        }
        self.give_confirmations();
    }

    fn standing(&self) -> Vec<Directive> {
        self.group.directives().standing().cloned().collect()
    }

    /// Follows the directives that came since the last look.
    pub(super) fn follow(&mut self) {
        if !self.group.is_caught_up() {
            return;
        }
        self.withdraw_directives();
        // A directive waits while one before it cannot be followed yet.
        let mut waiting = BTreeSet::new();
        for directive in self.standing() {
            let name = &directive.slot;
            if self.group.directives().is_followed(&directive) || waiting.contains(name) {
                continue;
            }
            if self.is_stopping() {
                return;
            }
            let outcome = self.roll_back(&directive);
            if outcome.is_err() {
                waiting.insert(name.clone());
            }
            self.rollback.end(&directive, outcome);
        }
        self.give_confirmations();
    }

    /// Forgets directives that no longer stand: the plugins that they undid may be taken
    /// again, and swaps to those are not taken back.
    pub(super) fn withdraw_directives(&mut self) {
        let withdrawn = self.group.directives().to_withdraw();
        let released = self.group.directives().to_release();
        for (slot, id) in withdrawn {
            if self.workers().withdraw(&slot, id).is_err() {
                return;
            }
            self.group.directives_mut().withdrawn(&slot, id);
        }
        for (name, digest) in released {
            self.release(&name, digest);
        }
    }

    /// Lets a plugin that was undone be taken again.
    pub(super) fn release(&mut self, name: &SlotName, digest: Digest) {
        if self.group.directives_mut().release(name, digest) {
            self.note_as_it_is(name);
            self.slots.reconsider_file(name);
        }
    }

    /// Gives the workers the confirmations that they do not have yet.
    pub(super) fn give_confirmations(&mut self) {
        for confirmation in self.group.records().confirmations().to_give() {
            if self.workers().confirm(&confirmation).is_err() {
                return;
            }
            let records = self.group.records_mut();
            records.confirmations_mut().given(&confirmation);
        }
    }

    fn roll_back(&mut self, directive: &Directive) -> Result<(), RequestError> {
        let name = &directive.slot;
        let is_wanted = self.group.records().runs_again(directive);
        let runs = self.slots.get(name).and_then(|slot| slot.running.clone());
        let is_bad = !is_wanted
            && runs
                .as_ref()
                .is_some_and(|runs| runs.active.plugin.digest() == directive.bad);
        let next = match (is_bad, directive.to) {
            (true, Some(to)) => Some(self.fetch(name, to).inspect_err(|rejection| {
                // The directive stands, so it is tried again.
                tracing::error!(slot = %self.slots.full_name(name), to = %to.short(), code = rejection.code, reason = %rejection.message, "rollback failed: the previous plugin cannot be loaded, trying again");
            })?),
            (true, None) => None,
            (false, _) => runs,
        };
        self.group.directives_mut().follow(directive, is_wanted);
        let digest = next.as_ref().map(|next| next.active.plugin.digest());
        if let Err(error) = self.note(name, digest) {
            tracing::error!(code = "plugin-store-failed", %error, "rollback cannot be noted on disk");
        }
        let active = next.as_ref().map(|next| &next.active);
        self.group.directives_mut().give(directive);
        let takeover = self.workers().roll_back(directive, active)?;
        if !is_bad {
            tracing::info!(slot = %self.slot(name).full_name(), bad = %directive.bad.short(), partitions = takeover.len(), "rollback of an earlier takeover, the slot keeps its plugin");
            return Ok(());
        }
        let slot = self.slot(name);
        slot.activated(next.map(|next| RunningPlugin { takeover, ..next }));
        tracing::warn!(
            slot = %slot.full_name(),
            from = %directive.bad.short(),
            to = directive.to.map(|to| to.short()),
            "plugin rolled back",
        );
        self.count(name, "rolled-back");
        // The slot's file may be this plugin's, or another that came just now.
        self.slots.reconsider_file(name);
        self.publish();
        Ok(())
    }

    /// Leaves a file whose plugin was undone: the plugin that runs is the one of the
    /// directive.
    pub(super) fn leave_rolled_back(&mut self, name: &SlotName, digest: Digest) {
        self.start_as_directed(name);
        let slot = self.slot(name);
        tracing::info!(
            slot = %slot.full_name(),
            digest = %digest.short(),
            code = ROLLED_BACK,
            "file not taken: its plugin was rolled back",
        );
        slot.leave_file(
            FileState::RolledBack,
            Some(digest),
            ROLLED_BACK,
            "its plugin was rolled back: `courtside plugins restore-file` replaces the file by the plugin that runs, `courtside plugins put` puts the file in force again",
        );
    }

    /// Starts the plugin of a slot's latest directive, where none runs: a host that is
    /// new in the group runs nothing yet.
    fn start_as_directed(&mut self, name: &SlotName) {
        let latest = self.group.directives().latest(name);
        let Some(to) = latest.and_then(|directive| directive.to) else {
            return;
        };
        if self.slots.get(name).is_none() || self.slots.runs(name) {
            return;
        }
        match self.fetch(name, to) {
            Ok(plugin) => {
                if let Err(error) = self.note(name, Some(to)) {
                    tracing::error!(code = "plugin-store-failed", %error, "plugin of a slot cannot be noted on disk");
                }
                self.activate(name, Some(plugin));
            }
            Err(rejection) => {
                tracing::error!(slot = %self.slots.full_name(name), to = %to.short(), code = rejection.code, reason = %rejection.message, "plugin that the slot was rolled back to cannot be loaded");
            }
        }
    }
}
