//! Going back to the plugin that ran before: what it would undo, the order to
//! all hosts, and what this host does when it hears the order.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{look::Looking, swap::Taken};
use crate::{
    log::{Bounds, LogError},
    plugin::Rejection,
    slots::{
        ask::{Answer, Answered, AskError, RanView, RedoneView, RefusedView, RollbackView},
        name::SlotName,
        slot::Running,
        store::Undone,
        topic::{self, Confirmation, known::timestamp},
    },
    types::{Digest, Offset, PartitionId, Position},
    worker::{
        instances::Active,
        takeover::{
            Directive, SlotRow,
            history::Kind,
            rows::{self, Row as _, TrialId},
        },
        thread::{Order, Takeover},
    },
};

const PAGE: usize = 1024;

/// A rollback that was asked for here.
pub(super) struct Awaited {
    slot: SlotName,
    id: u64,
    plan: RollbackView,
    /// What becomes of the order's record; none once that is known.
    written: Option<BoxFuture<'static, Vec<Result<Position, LogError>>>>,
    answer: oneshot::Sender<Answered>,
}

/// What a rollback undoes in one partition.
struct Undoing {
    from: Offset,
    previous: Option<Digest>,
    at: Timestamp,
    entities: Option<u64>,
}

/// What a rollback would do, and with which plugins.
pub(super) struct Plan {
    pub view: RollbackView,
    bad: Digest,
    to: Option<Digest>,
    refused: Option<(&'static str, String)>,
}

impl Looking {
    /// What a rollback of a slot would do now.
    pub fn plan(&mut self, name: &SlotName) -> Result<Plan, AskError> {
        let full_name = format!("{}/{name}", self.setup.pipeline.name);
        let Some(slot) = self.slots.get(name) else {
            return Err(AskError::NoSuchSlot(full_name));
        };
        let nothing = |reason: &str| AskError::Refused {
            code: "nothing-to-roll-back",
            reason: reason.to_owned(),
        };
        let Some(running) = &slot.running else {
            return Err(nothing("no plugin runs in the slot"));
        };
        let bad = running.active.plugin.digest();
        let from = RanView {
            digest: Some(bad.to_string()),
            plugin: Some(String::from_utf8_lossy(&running.active.plugin_header).into_owned()),
        };
        let undoing = self.undoing(name, bad)?;
        // Partitions may have come to it from different plugins, where some saw
        // no event of one; they go back to what ran before it last.
        let Some(to) = undoing
            .values()
            .max_by_key(|undoing| undoing.at)
            .map(|undoing| undoing.previous)
        else {
            return Err(nothing(
                "what runs was confirmed, or has processed nothing yet, or nothing ran before it",
            ));
        };
        let pipeline = &self.setup.pipeline;
        let bounds = self.setup.log.bounds(&pipeline.input)?;
        let committed = self
            .setup
            .log
            .group_status(&pipeline.group, &pipeline.input)?
            .committed;
        let partitions: BTreeMap<PartitionId, RedoneView> = undoing
            .iter()
            .map(|(partition, undoing)| {
                let until = committed.get(partition).copied().unwrap_or(undoing.from);
                let redone = RedoneView {
                    from: undoing.from.0,
                    until: until.0.max(undoing.from.0),
                    events: until.0.saturating_sub(undoing.from.0),
                    entities: undoing.entities,
                };
                (*partition, redone)
            })
            .collect();
        let library = &self.setup.library;
        let refused = refusal(&undoing, &bounds, to, |digest| library.has(digest));
        let view = RollbackView {
            slot: full_name,
            done: false,
            from,
            to: RanView {
                digest: to.map(|to| to.to_string()),
                plugin: self.name_of(name, to),
            },
            until: self
                .group
                .known()
                .slot(name)
                .and_then(|of| of.trial_of(Some(bad), self.setup.config.confirm_after)),
            events: partitions.values().map(|redone| redone.events).sum(),
            entities: partitions
                .values()
                .filter_map(|redone| redone.entities)
                .sum(),
            partitions: partitions
                .into_iter()
                .map(|(partition, redone)| (partition.to_string(), redone))
                .collect(),
            refused: refused.as_ref().map(|(code, reason)| RefusedView {
                code: (*code).to_owned(),
                reason: reason.clone(),
            }),
        };
        Ok(Plan {
            view,
            bad,
            to,
            refused,
        })
    }

    /// Where a plugin's swap is on trial: by the rows of the partitions that are
    /// here, and by what the group was told of the others.
    fn undoing(
        &self,
        name: &SlotName,
        bad: Digest,
    ) -> Result<BTreeMap<PartitionId, Undoing>, LogError> {
        let mut undoing = BTreeMap::new();
        let held = self.setup.status.all();
        for partition in held.keys() {
            let row = self
                .setup
                .checkpoints
                .get(*partition, &rows::slot_key(name))?;
            let Some(row) = row.as_deref().and_then(|row| SlotRow::decode(row).ok()) else {
                continue;
            };
            let Some(trial) = row.trials.last().filter(|trial| trial.digest == Some(bad)) else {
                continue;
            };
            let entities = self.count_before(*partition, TrialId::of(name, trial.seq))?;
            let found = Undoing {
                from: trial.offset,
                previous: trial.previous,
                at: timestamp(trial.at),
                entities: Some(entities),
            };
            undoing.insert(*partition, found);
        }
        let Some(of) = self.group.known().slot(name) else {
            return Ok(undoing);
        };
        let now = Timestamp::now();
        for (partition, latest, _) in of.latest() {
            if held.contains_key(&partition) || latest.digest != Some(bad) {
                continue;
            }
            let swap = of.swaps.iter().rev().find(|swap| {
                swap.kind == Kind::Swap
                    && swap.digest == Some(bad)
                    && swap.places.contains_key(&partition)
            });
            let until = swap.and_then(|swap| {
                swap.trial_until(of.confirmed.as_ref(), self.setup.config.confirm_after)
            });
            if let Some(swap) = swap
                && let Some(place) = swap.places.get(&partition)
                && until.is_some_and(|until| until > now)
            {
                let found = Undoing {
                    from: place.offset,
                    previous: swap.previous,
                    at: place.at,
                    entities: None,
                };
                undoing.insert(partition, found);
            }
        }
        Ok(undoing)
    }

    fn count_before(&self, partition: PartitionId, trial: TrialId) -> Result<u64, LogError> {
        let prefix = rows::before_key(trial, b"");
        let mut after = prefix.clone();
        let mut count = 0;
        loop {
            let page = self.setup.checkpoints.scan(partition, Some(&after), PAGE)?;
            let own = page
                .iter()
                .take_while(|(key, _)| key.starts_with(&prefix))
                .count();
            count += own as u64;
            match page.last() {
                Some((last, _)) if own == page.len() => after = last.clone(),
                _ => return Ok(count),
            }
        }
    }

    /// `name@version` of a plugin that ran in a slot.
    fn name_of(&self, name: &SlotName, digest: Option<Digest>) -> Option<String> {
        let of = self.group.known().slot(name)?;
        let swap = of.swaps.iter().rev().find(|swap| swap.digest == digest)?;
        Some(swap.plugin.to_string()).filter(|plugin| !plugin.is_empty())
    }

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
        let undone = Undone {
            directive: directive.id,
            digest: Some(directive.bad),
        };
        self.undone.insert(directive.slot.clone(), undone);
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
                undone.digest.is_some() && of.is_none_or(|of| of.directive.is_none())
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in withdrawn {
            self.forgive(&name);
        }
        self.confirm_where_told();
    }

    /// The plugin that was undone may be taken again.
    pub fn forgive(&mut self, name: &SlotName) {
        if let Some(undone) = self.undone.get_mut(name) {
            undone.digest = None;
            let digest = self.slot(name).digest();
            if let Err(error) = self.note(name, digest) {
                tracing::error!(code = "plugin-store-failed", %error, "it is not noted that a plugin may come back");
            }
            self.slot(name).look_again();
        }
    }

    fn roll_back(&mut self, directive: &Directive) -> Result<(), AskError> {
        let name = &directive.slot;
        let runs = self.slots.get(name).and_then(|slot| slot.running.clone());
        let is_bad = runs
            .as_ref()
            .is_some_and(|runs| runs.active.plugin.digest() == directive.bad);
        let next = match (is_bad, directive.to) {
            (true, Some(to)) => match self.fetch(to) {
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
            Answer::Rollback(RollbackView {
                done: true,
                ..awaited.plan
            })
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
            match self.fetch(to) {
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

    /// Lets what runs in a slot stay.
    pub fn confirm(&mut self, name: &SlotName) -> Answered {
        let Some(slot) = self.slots.get(name) else {
            return Err(AskError::NoSuchSlot(format!(
                "{}/{name}",
                self.setup.pipeline.name
            )));
        };
        let confirmation = Confirmation {
            slot: name.clone(),
            digest: slot.digest(),
            at: Timestamp::now(),
        };
        self.group.tail().say(confirmation.record())?;
        tracing::info!(slot = %slot.full_name(), digest = slot.digest().map(|digest| digest.short()), "the plugin stays");
        self.group
            .known_mut()
            .hear(topic::Said::Confirmation(confirmation));
        self.confirm_where_told();
        self.publish();
        self.shown(name)
    }

    fn confirm_where_told(&mut self) {
        let told: Vec<Confirmation> = self
            .group
            .known()
            .slots()
            .filter_map(|(_, of)| of.confirmed.clone())
            .collect();
        for confirmation in told {
            let name = &confirmation.slot;
            let given = self.confirmed.get(name);
            if given.is_some_and(|given| *given >= confirmation.at) {
                continue;
            }
            let at = u64::try_from(confirmation.at.as_millisecond()).unwrap_or_default();
            for worker in &self.setup.workers {
                let told = self.tell(worker, |done| Order::Confirm {
                    slot: name.clone(),
                    at,
                    done,
                });
                if told.is_none() {
                    return;
                }
            }
            self.confirmed.insert(name.clone(), confirmation.at);
        }
    }

    /// A slot as it is shown.
    pub fn shown(&self, name: &SlotName) -> Answered {
        match self.slots.get(name) {
            Some(slot) => Ok(Answer::Slot(Box::new(self.group.view(name, slot)))),
            None => Err(AskError::NoSuchSlot(format!(
                "{}/{name}",
                self.setup.pipeline.name
            ))),
        }
    }
}

/// Why it cannot be done, if so.
fn refusal(
    undoing: &BTreeMap<PartitionId, Undoing>,
    bounds: &[Bounds],
    to: Option<Digest>,
    is_kept: impl Fn(Digest) -> bool,
) -> Option<(&'static str, String)> {
    for (partition, undoing) in undoing {
        let start = bounds.get(partition.0 as usize).map(|bounds| bounds.start);
        if start.is_none_or(|start| start > undoing.from) {
            return Some((
                "rollback-out-of-range",
                format!(
                    "the log no longer has the events of partition {partition} from offset {} on: it begins at {}",
                    undoing.from,
                    start.unwrap_or_default(),
                ),
            ));
        }
    }
    let to = to.filter(|to| !is_kept(*to))?;
    Some((
        "plugin-not-kept",
        format!("neither this host nor the group has the bytes of the plugin {to}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_undone_is_refused() {
        let undoing = |from| Undoing {
            from: Offset(from),
            previous: None,
            at: Timestamp::UNIX_EPOCH,
            entities: None,
        };
        let undoing = BTreeMap::from([(PartitionId(0), undoing(5)), (PartitionId(1), undoing(9))]);
        let bounds = |starts: [u64; 2]| {
            starts.map(|start| Bounds {
                start: Offset(start),
                end: Offset(100),
            })
        };
        let to = Some(Digest::of(b"before"));
        let code = |starts, to, is_kept| {
            let refused = refusal(&undoing, &bounds(starts), to, |_| is_kept);
            refused.map(|(code, _)| code)
        };
        assert_eq!(code([5, 9], to, true), None);
        assert_eq!(code([5, 10], to, true), Some("rollback-out-of-range"));
        assert_eq!(code([0, 0], to, false), Some("plugin-not-kept"));
        // No plugin is always there.
        assert_eq!(code([0, 0], None, false), None);
        let lost = refusal(&undoing, &[], to, |_| true);
        assert_eq!(lost.map(|(code, _)| code), Some("rollback-out-of-range"));
    }
}
