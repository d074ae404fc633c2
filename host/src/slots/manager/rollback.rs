//! Going back to the plugin that ran before: the order to all hosts, and what
//! this host does when it hears the order.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{look::Looking, swap::Taken};
use crate::{
    log::LogError,
    plugin::Rejection,
    slots::{
        ask::{Answer, Answered, AskError, RollbackView},
        name::SlotName,
        slot::{Running, Slot},
        topic,
    },
    types::{Digest, Position},
    worker::{
        instances::Active,
        takeover::Directive,
        thread::{Order, Takeover},
    },
};

/// A rollback that was asked for here.
pub(super) struct Awaited {
    slot: SlotName,
    id: u64,
    plan: RollbackView,
    /// What becomes of the order's record; none once that is known.
    written: Option<BoxFuture<'static, Vec<Result<Position, LogError>>>>,
    answer: oneshot::Sender<Answered>,
}
impl Looking {
    /// Orders all hosts to go back. The answer comes when this one has.
    pub fn order_rollback(&mut self, name: &SlotName, answer: oneshot::Sender<Answered>) {
        if let Err(error) = self.try_order_rollback(name) {
            // Whoever asked may have gone.
            drop(answer.send(Err(error)));
            return;
        }
        if let Some(awaited) = &mut self.awaited {
            awaited.answer = answer;
        }
    }

    fn try_order_rollback(&mut self, name: &SlotName) -> Result<(), AskError> {
        if self.awaited.is_some() {
            return Err(AskError::Busy);
        }
        let plan = self.plan(name)?;
        if let Some((code, reason)) = plan.refused {
            return Err(AskError::Refused { code, reason });
        }
        let now = Timestamp::now();
        let at = u64::try_from(now.as_millisecond()).unwrap_or_default();
        let latest = self.latest_directive(name);
        let directive = Directive {
            id: at.max(latest.saturating_add(1)),
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
            "a rollback is ordered",
        );
        let (answer, _) = oneshot::channel();
        self.awaited = Some(Awaited {
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
            // Whoever asked may have gone.
            drop(awaited.answer.send(Err(error.into())));
        }
    }

    fn latest_directive(&self, name: &SlotName) -> u64 {
        let of = self.group.known().slot(name);
        let heard = of.and_then(|of| of.directive.as_ref());
        let followed = self.undone.get(name).map_or(0, |undone| undone.directive);
        heard.map_or(0, |directive| directive.id).max(followed)
    }

    /// At the start: gives the workers what stands, before any plugin, and goes
    /// back where an order came while the host was down.
    pub fn go_back_where_told(&mut self, digests: &mut BTreeMap<SlotName, Digest>) {
        for directive in self.directives() {
            let name = directive.slot.clone();
            if self.take_back(&directive, None).is_none() {
                return;
            }
            let followed = self.undone.get(&name).map_or(0, |undone| undone.directive);
            if directive.id <= followed {
                continue;
            }
            self.mark(&directive);
            if digests.get(&name) == Some(&directive.bad) {
                match directive.to {
                    Some(to) => digests.insert(name, to),
                    None => digests.remove(&name),
                };
            }
        }
        self.confirm_where_told();
    }

    fn directives(&self) -> Vec<Directive> {
        let slots = self.group.known().slots();
        slots.filter_map(|(_, of)| of.directive.clone()).collect()
    }

    fn mark(&mut self, directive: &Directive) {
        let undone = self.undone.entry(directive.slot.clone()).or_default();
        undone.directive = directive.id;
        undone.insert(directive.bad);
    }

    /// Does what hosts were ordered since it was looked last.
    pub fn follow(&mut self) {
        if !self.group.is_known() {
            return;
        }
        for directive in self.directives() {
            let followed = self.undone.get(&directive.slot);
            if followed.is_none_or(|followed| followed.directive < directive.id)
                && !self.is_stopping()
            {
                let outcome = self.roll_back(&directive);
                self.tell_awaited(&directive, outcome);
            }
        }
        let withdrawn: Vec<SlotName> = self
            .undone
            .iter()
            .filter(|(name, undone)| {
                let of = self.group.known().slot(name);
                !undone.digests.is_empty() && of.is_none_or(|of| of.directive.is_none())
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in withdrawn {
            self.forgive(&name, |_| true);
        }
        self.confirm_where_told();
    }

    /// Whether a plugin is not to be taken from the directory.
    pub fn is_undone(&self, name: &SlotName, digest: Digest) -> bool {
        self.undone
            .get(name)
            .is_some_and(|undone| undone.has(digest))
    }

    /// Plugins that were undone may be taken again.
    pub fn forgive(&mut self, name: &SlotName, which: impl Fn(Digest) -> bool) {
        let Some(undone) = self.undone.get_mut(name) else {
            return;
        };
        undone.digests.retain(|digest| !which(*digest));
        let digest = self.slots.get(name).and_then(Slot::digest);
        if let Err(error) = self.note(name, digest) {
            tracing::error!(code = "plugin-store-failed", %error, "it is not noted that a plugin may come back");
        }
        self.look_again_at(name);
    }

    /// What the directory has is judged anew. Where it has nothing, that says no
    /// more than it did.
    fn look_again_at(&mut self, name: &SlotName) {
        if let Some(slot) = self.slots.get_mut(name).filter(|slot| slot.has_file()) {
            slot.look_again();
        }
    }

    fn roll_back(&mut self, directive: &Directive) -> Result<(), AskError> {
        let name = &directive.slot;
        let runs = self.slots.get(name).and_then(|slot| slot.running.clone());
        let is_bad = runs
            .as_ref()
            .is_some_and(|runs| runs.active.plugin.digest() == directive.bad);
        let next = match (is_bad, directive.to) {
            (true, Some(to)) => match self.fetch(name, to) {
                Ok((plugin, size_bytes)) => Some(Running::new(name, plugin, size_bytes)),
                Err(rejection) => {
                    // To be tried again: the order stands.
                    tracing::error!(slot = %name, to = %to.short(), code = rejection.code, reason = %rejection.message, "the plugin to go back to cannot run");
                    return Err(rejection.into());
                }
            },
            (true, None) => None,
            (false, _) => runs,
        };
        self.mark(directive);
        let digest = next.as_ref().map(|next| next.active.plugin.digest());
        if let Err(error) = self.note(name, digest) {
            tracing::error!(code = "plugin-store-failed", %error, "a rollback is not noted");
        }
        let active = next.as_ref().map(|next| &next.active);
        let Some(redone) = self.take_back(directive, active) else {
            return Err(AskError::Stopping);
        };
        if !is_bad {
            tracing::info!(slot = %name, bad = %directive.bad.short(), partitions = redone.len(), "a rollback of another plugin than the one that runs");
            return Ok(());
        }
        let slot = self.slot(name);
        slot.activated(next.map(|next| Running {
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
        if self.slot(name).has_file() {
            self.reject_undone(name, directive.bad);
        }
        self.publish();
        Ok(())
    }

    /// Gives all workers a directive; where each partition begins again.
    fn take_back(&self, directive: &Directive, active: Option<&Arc<Active>>) -> Option<Takeover> {
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

    fn tell_awaited(&mut self, directive: &Directive, outcome: Result<(), AskError>) {
        let is_awaited =
            |awaited: &mut Awaited| awaited.slot == directive.slot && awaited.id <= directive.id;
        let Some(awaited) = self.awaited.take_if(is_awaited) else {
            return;
        };
        let answer = outcome.map(|()| {
            Answer::Rollback(Box::new(RollbackView {
                done: true,
                ..awaited.plan
            }))
        });
        // Whoever asked may have gone.
        drop(awaited.answer.send(answer));
    }

    /// A file that has a plugin that was undone.
    pub fn reject_undone(&mut self, name: &SlotName, digest: Digest) -> Taken {
        // A host that is new here has nothing else to run.
        let of = self.group.known().slot(name);
        let directive = of.and_then(|of| of.directive.as_ref());
        if let Some(to) = directive.and_then(|directive| directive.to)
            && self
                .slots
                .get(name)
                .is_some_and(|slot| slot.running.is_none())
        {
            match self.fetch(name, to) {
                Ok(plugin) => {
                    if let Err(error) = self.note(name, Some(to)) {
                        tracing::error!(code = "plugin-store-failed", %error, "a plugin is not noted");
                    }
                    self.activate(name, Some(plugin));
                }
                Err(rejection) => {
                    tracing::error!(slot = %name, to = %to.short(), code = rejection.code, reason = %rejection.message, "the plugin that it was rolled back to cannot run");
                }
            }
        }
        let rejection = Rejection {
            code: "plugin-rolled-back",
            message:
                "it was rolled back; put another file there, or this one by `courtside plugins put`"
                    .to_owned(),
        };
        let rejected = self.reject(name, Some(digest), rejection);
        self.slot(name).handled();
        rejected
    }
}
