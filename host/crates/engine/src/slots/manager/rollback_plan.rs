//! The plan of a rollback: the plugin that it would undo, and the events that would be
//! processed again.

use std::{collections::BTreeMap, sync::Arc};

use courtside_log::{Bounds, LogError};
use courtside_process::clock::now_ms;
use courtside_types::{Digest, Offset, PartitionId, slot_name::SlotName};

use super::{setup::Setup, slot_table::SlotTable};
use crate::{
    slots::{
        group::{
            records::GroupRecords,
            swaps::{Stint, SwapHistory, TrialRule},
        },
        request::{RanView, RedoneView, RefusedView, RequestError, RollbackView, StintView},
        time::timestamp,
    },
    worker::{
        instances::Active,
        takeover::{
            SlotRow,
            rows::{self, Row as _, TrialId},
        },
    },
};

const PAGE: usize = 1024;

/// The plan of a rollback, and its plugins.
pub(super) struct RollbackPlan {
    pub view: RollbackView,
    pub bad: Digest,
    pub to: Option<Digest>,
    pub refused: Option<Refusal>,
}

/// Why a rollback cannot be done.
pub(super) struct Refusal {
    pub code: &'static str,
    pub reason: String,
}

/// The effect of a rollback in one partition.
struct PartitionRollback {
    from: Offset,
    previous: Option<Digest>,
    at_ms: u64,
    entities: Option<u64>,
    /// The ranges of offsets in which the plugin ran; it may still run in the last one.
    stints: Vec<(Offset, Option<Offset>)>,
}

type RollbacksByPartition = BTreeMap<PartitionId, PartitionRollback>;

/// The sources of a plan, as of now.
pub(super) struct RollbackPlanner<'a> {
    pub setup: &'a Setup,
    pub slots: &'a SlotTable,
    pub records: &'a GroupRecords,
}

impl RollbackPlanner<'_> {
    /// Plans a rollback of a slot. Refused where `of` names another plugin than the one
    /// that runs.
    pub fn plan(&self, name: &SlotName, of: Option<Digest>) -> Result<RollbackPlan, RequestError> {
        let active = self.bad_plugin(name, of)?;
        let bad = active.plugin.digest();
        let rollbacks = self.by_partition(name, bad)?;
        // Partitions may have come to the plugin from different ones, where some saw no
        // event of one. All of them go back to the plugin that ran before in the
        // partition that swapped last.
        let Some(latest) = rollbacks.values().max_by_key(|rollback| rollback.at_ms) else {
            return Err(nothing_to_roll_back(
                "the plugin in the slot was confirmed, has processed nothing yet, or is the first that ran there",
            ));
        };
        let to = latest.previous;
        let bounds = self.setup.log.bounds(&self.setup.pipeline.input)?;
        let partitions = self.redone(&rollbacks)?;
        let library = &self.setup.library;
        let refused = refusal(&rollbacks, &bounds, to, |digest| library.has(digest));
        let swaps = self.records.swaps(name);
        let until = self.records.trial_until(name, Some(bad));
        let view = RollbackView {
            slot: self.slots.full_name(name),
            done: false,
            from: RanView {
                digest: Some(bad.to_string()),
                plugin: Some(String::from_utf8_lossy(&active.plugin_header).into_owned()),
            },
            to: RanView {
                digest: to.map(|to| to.to_string()),
                plugin: swaps.and_then(|swaps| swaps.plugin_name(to)),
            },
            until: until.map(timestamp),
            events: partitions.values().map(|redone| redone.events).sum(),
            entities: partitions
                .values()
                .filter_map(|redone| redone.entities)
                .sum(),
            partitions,
            refused: refused.as_ref().map(Refusal::view),
        };
        Ok(RollbackPlan {
            view,
            bad,
            to,
            refused,
        })
    }

    /// The plugin that a rollback would undo.
    fn bad_plugin(
        &self,
        name: &SlotName,
        of: Option<Digest>,
    ) -> Result<&Arc<Active>, RequestError> {
        let Some(slot) = self.slots.get(name) else {
            return Err(RequestError::NoSuchSlot(self.slots.full_name(name)));
        };
        let Some(running) = &slot.running else {
            return Err(nothing_to_roll_back("no plugin runs in the slot"));
        };
        let bad = running.active.plugin.digest();
        if let Some(of) = of.filter(|of| *of != bad) {
            return Err(RequestError::Refused {
                code: "another-plugin-runs",
                reason: format!("{bad} runs in the slot, not {of}"),
            });
        }
        Ok(&running.active)
    }

    /// The events that are processed again, by partition.
    fn redone(
        &self,
        rollbacks: &RollbacksByPartition,
    ) -> Result<BTreeMap<String, RedoneView>, LogError> {
        let pipeline = &self.setup.pipeline;
        let status = self
            .setup
            .log
            .group_status(&pipeline.group, &pipeline.input)?;
        let redone = rollbacks.iter().map(|(partition, rollback)| {
            let committed = status.committed.get(partition).copied();
            let redone = rollback.view(committed.unwrap_or(rollback.from));
            (partition.to_string(), redone)
        });
        Ok(redone.collect())
    }

    /// The partitions in which a plugin is on trial. This host's partitions are judged
    /// by their rows, the others by the group's messages.
    fn by_partition(&self, name: &SlotName, bad: Digest) -> Result<RollbacksByPartition, LogError> {
        let mut rollbacks = BTreeMap::new();
        let held = self.setup.status.all();
        for partition in held.keys() {
            if let Some(found) = self.rollback_here(name, bad, *partition)? {
                rollbacks.insert(*partition, found);
            }
        }
        let Some(swaps) = self.records.swaps(name) else {
            return Ok(rollbacks);
        };
        let rule = self.records.trial_rule(name);
        let partitions = (0..self.setup.pipeline.partitions).map(PartitionId);
        for partition in partitions.filter(|id| !held.contains_key(id)) {
            let stints = swaps.stints(partition, bad);
            if let Some(found) = rollback_elsewhere(&stints, rule, now_ms()) {
                rollbacks.insert(partition, found);
            }
        }
        Ok(rollbacks)
    }

    /// The effect in a partition that this host has; none if the plugin is not on trial
    /// there.
    fn rollback_here(
        &self,
        name: &SlotName,
        bad: Digest,
        partition: PartitionId,
    ) -> Result<Option<PartitionRollback>, LogError> {
        let checkpoints = &self.setup.checkpoints;
        let row = checkpoints.get(partition, &rows::slot_key(name))?;
        let Some(row) = row.as_deref().and_then(|row| SlotRow::decode(row).ok()) else {
            return Ok(None);
        };
        let mut trials = row.trials.iter();
        let Some(trial) = trials.rfind(|trial| trial.digest == Some(bad)) else {
            return Ok(None);
        };
        let entities = self.count_before(partition, TrialId::of(name, trial.seq))?;
        let swaps = self.records.swaps(name);
        let stints = swaps.map(|swaps: &SwapHistory| swaps.stints(partition, bad));
        let mut stints = stints.unwrap_or_default();
        stints.retain(|stint| stint.place.seq >= trial.seq);
        let last = stints.last();
        Ok(Some(PartitionRollback {
            from: trial.offset,
            // The plugin before the last stint may differ from the one before the
            // first.
            previous: last.map_or(trial.previous, |stint| stint.swap.previous),
            at_ms: trial.at,
            entities: Some(entities),
            stints: bounds_of(&stints),
        }))
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
}

impl PartitionRollback {
    /// The range of offsets that is processed again; it ends at the committed offset.
    fn view(&self, committed: Offset) -> RedoneView {
        let stints = self.stints.iter().map(|(from, until)| StintView {
            from: from.0,
            until: until.unwrap_or(committed).0.max(from.0),
        });
        RedoneView {
            from: self.from.0,
            until: committed.0.max(self.from.0),
            events: committed.0.saturating_sub(self.from.0),
            entities: self.entities,
            stints: stints.collect(),
        }
    }
}

impl Refusal {
    fn view(&self) -> RefusedView {
        RefusedView {
            code: self.code.to_owned(),
            reason: self.reason.clone(),
        }
    }
}

fn nothing_to_roll_back(reason: &str) -> RequestError {
    RequestError::Refused {
        code: "nothing-to-roll-back",
        reason: reason.to_owned(),
    }
}

/// The effect in a partition that another host has, by the plugin's stints there; none
/// if the plugin is not on trial.
fn rollback_elsewhere(
    stints: &[Stint<'_>],
    rule: TrialRule,
    now_ms: u64,
) -> Option<PartitionRollback> {
    let stints = on_trial(stints, rule, now_ms);
    let last = stints.last()?;
    Some(PartitionRollback {
        from: stints.iter().map(|stint| stint.place.offset).min()?,
        previous: last.swap.previous,
        at_ms: last.place.at_ms,
        entities: None,
        stints: bounds_of(stints),
    })
}

fn bounds_of(stints: &[Stint<'_>]) -> Vec<(Offset, Option<Offset>)> {
    let bounds = stints.iter().map(|stint| (stint.place.offset, stint.until));
    bounds.collect()
}

/// The latest stints of a plugin that are on trial. A stint before the last counts only
/// if its trial still ran when the next one began.
fn on_trial<'a, 'b>(stints: &'a [Stint<'b>], rule: TrialRule, now_ms: u64) -> &'a [Stint<'b>] {
    let mut next_ms = now_ms;
    let ended = stints.iter().rposition(|stint| {
        let until = stint.swap.trial_until(stint.place.at_ms, rule);
        let is_over = until.is_none_or(|until| until <= next_ms);
        next_ms = stint.place.at_ms;
        is_over
    });
    stints
        .get(ended.map_or(0, |ended| ended + 1)..)
        .unwrap_or_default()
}

/// Why a rollback cannot be done, if so.
fn refusal(
    rollbacks: &RollbacksByPartition,
    bounds: &[Bounds],
    to: Option<Digest>,
    is_kept: impl Fn(Digest) -> bool,
) -> Option<Refusal> {
    for (partition, rollback) in rollbacks {
        let start = bounds.get(partition.0 as usize).map(|bounds| bounds.start);
        if start.is_none_or(|start| start > rollback.from) {
            return Some(Refusal {
                code: "rollback-out-of-range",
                reason: format!(
                    "the log no longer has the events of partition {partition} from offset {} on: it begins at {}",
                    rollback.from,
                    start.unwrap_or_default(),
                ),
            });
        }
    }
    let to = to.filter(|to| !is_kept(*to))?;
    Some(Refusal {
        code: "plugin-not-kept",
        reason: format!("neither this host nor the group has the bytes of the plugin {to}"),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::worker::takeover::history::{Kind, TakeoverRecord};

    #[test]
    fn what_cannot_be_undone_is_refused() {
        let rollback = |from| PartitionRollback {
            from: Offset(from),
            previous: None,
            at_ms: 0,
            entities: None,
            stints: Vec::new(),
        };
        let rollbacks =
            BTreeMap::from([(PartitionId(0), rollback(5)), (PartitionId(1), rollback(9))]);
        let bounds = |starts: [u64; 2]| {
            starts.map(|start| Bounds {
                start: Offset(start),
                end: Offset(100),
            })
        };
        let to = Some(Digest::of(b"before"));
        let code = |starts, to, is_kept| {
            let refused = refusal(&rollbacks, &bounds(starts), to, |_| is_kept);
            refused.map(|refused| refused.code)
        };
        assert_eq!(code([5, 9], to, true), None);
        assert_eq!(code([5, 10], to, true), Some("rollback-out-of-range"));
        assert_eq!(code([0, 0], to, false), Some("plugin-not-kept"));
        // Going back to no plugin needs no bytes.
        assert_eq!(code([0, 0], None, false), None);
        let lost = refusal(&rollbacks, &[], to, |_| true);
        let lost = lost.map(|refused| refused.code);
        assert_eq!(lost, Some("rollback-out-of-range"));
    }

    #[test]
    fn stints_are_undone_as_far_back_as_their_trials_overlap() {
        let [before, bad] = [b"before", b"bad..."].map(|name| Digest::of(name));
        let mut swaps = SwapHistory::default();
        let mut swap = |seq: u32, at: u64, previous, digest, kind| {
            swaps.record(TakeoverRecord {
                slot: SlotName::Default,
                partition: PartitionId(0),
                seq,
                offset: Offset(u64::from(seq) * 10),
                until: None,
                digest: Some(digest),
                plugin: String::new(),
                previous: Some(previous),
                host: "other".to_owned(),
                at,
                kind,
                attempt: 1,
            });
        };
        // The bad plugin ran at 100, from 200 to 250, and runs since 290.
        for (seq, at) in [(1, 100), (3, 200), (5, 290)] {
            swap(seq, at, before, bad, Kind::Swap);
            swap(seq + 1, at + 50, bad, before, Kind::Return);
        }
        let stints = swaps.stints(PartitionId(0), bad);
        let rule = |trial_ms| TrialRule::new(None, Duration::from_millis(trial_ms));
        let from = |trial_ms, now_ms| {
            let rollback = rollback_elsewhere(&stints, rule(trial_ms), now_ms);
            rollback.map(|rollback| (rollback.from.0, rollback.stints.len()))
        };
        assert_eq!(from(101, 300), Some((10, 3)));
        assert_eq!(from(100, 300), Some((30, 2)), "the first trial was over");
        assert_eq!(from(50, 300), Some((50, 1)));
        assert_eq!(from(50, 340), None);
    }
}
