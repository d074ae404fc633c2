//! The plan of a rollback: the plugin that it would undo, and the events that would be
//! processed again.

use std::collections::BTreeMap;

use courtside_log::{Bounds, LogError};
use courtside_process::clock::now_ms;
use courtside_types::{Digest, Offset, PartitionId, slot_name::SlotName};

use super::manager_loop::ManagerLoop;
use crate::{
    slots::{
        group::swaps::{Stint, TrialRule},
        request::{RanView, RedoneView, RefusedView, RequestError, RollbackView, StintView},
        time::timestamp,
    },
    worker::takeover::{
        SlotRow,
        rows::{self, Row as _, TrialId},
    },
};

const PAGE: usize = 1024;

/// The effect of a rollback in one partition.
struct Undoing {
    from: Offset,
    previous: Option<Digest>,
    at_ms: u64,
    entities: Option<u64>,
    /// The ranges of offsets in which the plugin ran; it may still run in the last one.
    stints: Vec<(Offset, Option<Offset>)>,
}

/// The plan of a rollback, and its plugins.
pub(super) struct Plan {
    pub view: RollbackView,
    pub bad: Digest,
    pub to: Option<Digest>,
    pub refused: Option<(&'static str, String)>,
}

impl ManagerLoop {
    /// Plans a rollback of a slot as of now. Refused where `of` names another plugin
    /// than the one that runs.
    pub fn plan(&mut self, name: &SlotName, of: Option<Digest>) -> Result<Plan, RequestError> {
        let full_name = format!("{}/{name}", self.setup.pipeline.name);
        let Some(slot) = self.slots.get(name) else {
            return Err(RequestError::NoSuchSlot(full_name));
        };
        let nothing = |reason: &str| RequestError::Refused {
            code: "nothing-to-roll-back",
            reason: reason.to_owned(),
        };
        let Some(running) = &slot.running else {
            return Err(nothing("no plugin runs in the slot"));
        };
        let bad = running.active.plugin.digest();
        if let Some(of) = of.filter(|of| *of != bad) {
            return Err(RequestError::Refused {
                code: "another-plugin-runs",
                reason: format!("{bad} runs in the slot, not {of}"),
            });
        }
        let from = RanView {
            digest: Some(bad.to_string()),
            plugin: Some(String::from_utf8_lossy(&running.active.plugin_header).into_owned()),
        };
        let undoing = self.undoing(name, bad)?;
        // Partitions may have come to the plugin from different ones, where some saw no
        // event of one. All of them go back to the plugin that ran before in the
        // partition that swapped last.
        let Some(to) = undoing
            .values()
            .max_by_key(|undoing| undoing.at_ms)
            .map(|undoing| undoing.previous)
        else {
            return Err(nothing(
                "the plugin in the slot was confirmed, has processed nothing yet, or is the first that ran there",
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
                (*partition, undoing.view(until))
            })
            .collect();
        let (library, records) = (&self.setup.library, self.group.known());
        let refused = refusal(&undoing, &bounds, to, |digest| library.has(digest));
        let view = RollbackView {
            slot: full_name,
            done: false,
            from,
            to: RanView {
                digest: to.map(|to| to.to_string()),
                plugin: records.swaps(name).and_then(|swaps| swaps.plugin_name(to)),
            },
            until: records.trial_until(name, Some(bad)).map(timestamp),
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

    /// The partitions in which a plugin is on trial. This host's partitions are judged
    /// by their rows, the others by the group's messages.
    fn undoing(
        &self,
        name: &SlotName,
        bad: Digest,
    ) -> Result<BTreeMap<PartitionId, Undoing>, LogError> {
        let mut undoing = BTreeMap::new();
        let held = self.setup.status.all();
        let swaps = self.group.known().swaps(name);
        for partition in held.keys() {
            let row = self
                .setup
                .checkpoints
                .get(*partition, &rows::slot_key(name))?;
            let Some(row) = row.as_deref().and_then(|row| SlotRow::decode(row).ok()) else {
                continue;
            };
            let mut trials = row.trials.iter();
            let Some(trial) = trials.rfind(|trial| trial.digest == Some(bad)) else {
                continue;
            };
            let entities = self.count_before(*partition, TrialId::of(name, trial.seq))?;
            let all = swaps.map_or_else(Vec::new, |swaps| swaps.stints(*partition, bad));
            let stints: Vec<_> = all
                .into_iter()
                .filter(|stint| stint.place.seq >= trial.seq)
                .collect();
            let last = stints.last();
            let found = Undoing {
                from: trial.offset,
                // The plugin before the last stint may differ from the one before the
                // first.
                previous: last.map_or(trial.previous, |stint| stint.swap.previous),
                at_ms: trial.at,
                entities: Some(entities),
                stints: bounds_of(&stints),
            };
            undoing.insert(*partition, found);
        }
        let Some(swaps) = swaps else {
            return Ok(undoing);
        };
        let partitions = (0..self.setup.pipeline.partitions).map(PartitionId);
        for partition in partitions.filter(|id| !held.contains_key(id)) {
            let stints = swaps.stints(partition, bad);
            let stints = on_trial(&stints, self.group.known().trial_rule(name), now_ms());
            let from = stints.iter().map(|stint| stint.place.offset).min();
            if let (Some(last), Some(from)) = (stints.last(), from) {
                let found = Undoing {
                    from,
                    previous: last.swap.previous,
                    at_ms: last.place.at_ms,
                    entities: None,
                    stints: bounds_of(stints),
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
}

impl Undoing {
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
            at_ms: 0,
            entities: None,
            stints: Vec::new(),
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
        // Going back to no plugin needs no bytes.
        assert_eq!(code([0, 0], None, false), None);
        let lost = refusal(&undoing, &[], to, |_| true);
        assert_eq!(lost.map(|(code, _)| code), Some("rollback-out-of-range"));
    }
}
