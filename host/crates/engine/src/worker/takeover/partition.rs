//! A worker's knowledge of the slots of one partition: the rows that it has read, and
//! the changes that the next commit makes to them.

use courtside_log::{Checkpoints, LogError};
use courtside_types::{Digest, Key, Offset, PartitionId, slot_name::SlotName};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    SlotRow, TRIALS_MAX, Trial,
    history::{Kind, TakeoverRecord},
    rows::{self, Before, Redo, Row as _, TrialId},
};

/// Rows read at a time.
const PAGE: usize = 32;

/// A key of at least this length may have a slot that goes by the key's hash.
const KEY_BYTES_HASHED_MIN: usize = 64;

/// The slots of a partition, and its redo.
#[derive(Debug, Default)]
pub struct Slots {
    rows: FxHashMap<SlotName, SlotRow>,
    /// Rows that the next commit writes, newer than those in `rows`.
    staged: Vec<(SlotName, SlotRow)>,
    /// Whether a slot of a single key has, or had, a plugin.
    keyed: bool,
    /// When the oldest trial began, in milliseconds since 1970.
    oldest_trial: Option<u64>,
    redo: Option<Redo>,
    staged_redo: Option<Redo>,
    /// The id of the latest redo.
    redo_id: u32,
}

/// A takeover: the plugin that runs in a slot from now on.
#[derive(Clone, Debug)]
pub struct Takes {
    pub digest: Option<Digest>,
    pub plugin: String,
    /// The first offset that the plugin processes.
    pub offset: Offset,
    pub at: u64,
    /// The id of the slot's latest directive.
    pub directive: u64,
    /// Whether the takeover can be undone.
    pub is_trial: bool,
    pub cause: Cause,
}

/// Why another plugin runs in a slot of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The host that has the partition has swapped plugins.
    Swap,
    /// The partition came to a host that runs another plugin than the one before it.
    Move,
}

impl Slots {
    /// Reads the stored slots and redo of a partition.
    pub fn read(checkpoints: &dyn Checkpoints, partition: PartitionId) -> Result<Self, LogError> {
        let mut slots = Self::default();
        if let Some(bytes) = checkpoints.get(partition, &rows::REDO_KEY)? {
            let redo = Redo::decode(&bytes).map_err(corrupt)?;
            slots.redo_id = redo.id;
            slots.redo = (!redo.ended).then_some(redo);
        }
        let mut after = Key::from_static(&rows::SLOTS);
        'pages: loop {
            let page = checkpoints.scan(partition, Some(&after), PAGE)?;
            let Some((last, _)) = page.last() else {
                break;
            };
            after = last.clone();
            for (key, bytes) in page {
                let Some(slot) = rows::slot_of(&key) else {
                    break 'pages;
                };
                let row = SlotRow::decode(&bytes).map_err(corrupt)?;
                slots.rows.insert(slot, row);
            }
        }
        slots.look();
        Ok(slots)
    }

    /// The row of a slot, as the next commit leaves it.
    #[must_use]
    pub fn get(&self, slot: &SlotName) -> Option<&SlotRow> {
        let staged = self.staged.iter().find(|(of, _)| of == slot);
        staged.map_or_else(|| self.rows.get(slot), |(_, row)| Some(row))
    }

    fn stage(&mut self, slot: &SlotName, row: SlotRow) {
        match self.staged.iter_mut().find(|(of, _)| of == slot) {
            Some((_, staged)) => *staged = row,
            None => self.staged.push((slot.clone(), row)),
        }
    }

    /// The slot of its own that a key has, or had, in this partition.
    #[must_use]
    pub fn own(&self, key: &Key) -> Option<(SlotName, &SlotRow)> {
        if !self.keyed {
            return None;
        }
        let slot = if key.len() < KEY_BYTES_HASHED_MIN {
            SlotName::Key(key.clone())
        } else {
            SlotName::of_key(key)
        };
        let row = self.get(&slot)?;
        Some((slot, row))
    }

    /// Stages another plugin for a slot.
    ///
    /// The default slot's first plugin is not on trial, because there is no state from
    /// before. A key's first plugin is, because the default slot's plugin may have had
    /// the key. A plugin that is on trial already goes on with its trial, however it
    /// comes back.
    pub fn take_over(&mut self, slot: &SlotName, takes: Takes) -> Kind {
        let old = self.get(slot);
        let seq = old.map_or(0, |old| old.seq).saturating_add(1);
        let is_return = takes.cause == Cause::Move
            && old.is_some_and(|old| old.is_before_all_trials(takes.digest));
        let mut trials = old.map_or_else(Vec::new, |old| old.trials.clone());
        let again = trials.iter_mut().find(|trial| trial.digest == takes.digest);
        let mut kind = Kind::Swap;
        if !takes.is_trial {
            trials.clear();
        } else if let Some(trial) = again {
            trial.at = takes.at;
            trial.directive = takes.directive;
        } else if is_return {
            kind = Kind::Return;
        } else if takes.digest.is_some() && (old.is_some() || *slot != SlotName::Default) {
            trials.push(Trial {
                seq,
                digest: takes.digest,
                offset: takes.offset,
                previous: old.and_then(|old| old.digest),
                previous_plugin: old.map_or_else(String::new, |old| old.plugin.clone()),
                at: takes.at,
                directive: takes.directive,
            });
            confirm_more_than(&mut trials, TRIALS_MAX);
        }
        let row = SlotRow {
            digest: takes.digest,
            plugin: takes.plugin,
            seq,
            offset: takes.offset,
            at: takes.at,
            attempt: old.map_or(1, |old| old.attempt),
            trials,
        };
        self.stage(slot, row);
        kind
    }

    /// Undoes a trial of a slot, and returns it. Another plugin than the trial's may
    /// run now.
    pub fn take_back(
        &mut self,
        slot: &SlotName,
        seq: u32,
        committed: Offset,
        at: u64,
    ) -> Option<Trial> {
        let mut row = self.get(slot)?.clone();
        let index = row.trials.iter().position(|trial| trial.seq == seq)?;
        let trial = row.trials.remove(index);
        if row.digest == trial.digest {
            row.digest = trial.previous;
            row.plugin.clone_from(&trial.previous_plugin);
        }
        follow_without(&mut row.trials, &trial);
        row.seq = row.seq.saturating_add(1);
        row.offset = trial.offset;
        row.at = at;
        // An entity may have been another slot's before, so the new attempt is higher
        // than every other in the partition.
        let staged = self.staged.iter().map(|(_, row)| row.attempt);
        let attempts = self.rows.values().map(|row| row.attempt).chain(staged);
        let latest = attempts.chain(self.redo().map(|redo| redo.attempt)).max();
        row.attempt = latest.unwrap_or(row.attempt).saturating_add(1);
        let mut redo = self.redo().cloned().unwrap_or_else(|| Redo {
            id: self.redo_id.saturating_add(1),
            from: trial.offset,
            next: committed,
            attempt: 0,
            restoring: Vec::new(),
            ended: false,
        });
        redo.from = redo.from.min(trial.offset);
        redo.attempt = redo.attempt.max(row.attempt);
        redo.restoring.push(TrialId::of(slot, trial.seq));
        self.staged_redo = Some(redo);
        self.stage(slot, row);
        Some(trial)
    }

    /// Lowers the offset below which a trial processed no event, if an entity that is
    /// processed again takes events from further back.
    pub fn lower_trial(&mut self, slot: &SlotName, seq: u32, position: Offset) {
        let Some(row) = self.get(slot) else {
            return;
        };
        let is_later = |trial: &Trial| trial.seq == seq && position < trial.offset;
        if let Some(index) = row.trials.iter().position(is_later) {
            let mut row = row.clone();
            if let Some(trial) = row.trials.get_mut(index) {
                trial.offset = position;
            }
            self.stage(slot, row);
        }
    }

    /// Whether the oldest trial began by `until`, so that it may be over.
    #[must_use]
    pub fn is_old(&self, until: u64) -> bool {
        self.oldest_trial.is_some_and(|oldest| oldest <= until)
    }

    /// Ends the trials of a slot, or of all slots, that began by `until`.
    pub fn confirm(&mut self, of: Option<&SlotName>, until: u64) {
        let names: Vec<SlotName> = match of {
            Some(slot) => vec![slot.clone()],
            None => {
                let staged = self.staged.iter().map(|(slot, _)| slot);
                self.rows.keys().chain(staged).cloned().collect()
            }
        };
        for slot in names {
            let Some(row) = self.get(&slot) else {
                continue;
            };
            if row.trials.iter().any(|trial| trial.at <= until) {
                let mut row = row.clone();
                row.trials.retain(|trial| trial.at > until);
                self.stage(&slot, row);
            }
        }
    }

    /// The redo, as the next commit leaves it.
    #[must_use]
    pub fn redo(&self) -> Option<&Redo> {
        self.staged_redo.as_ref().or(self.redo.as_ref())
    }

    pub fn stage_redo(&mut self, redo: Redo) {
        self.staged_redo = Some(redo);
    }

    /// The redo as it is on disk.
    #[must_use]
    pub const fn committed_redo(&self) -> Option<&Redo> {
        self.redo.as_ref()
    }

    /// The trials, as committed and as staged, whose states from before may be of use.
    #[must_use]
    pub fn in_use(&self) -> FxHashSet<TrialId> {
        let staged = self.staged.iter().map(|(slot, row)| (slot, row));
        let rows = self.rows.iter().chain(staged);
        rows.filter(|(_, row)| !row.trials.is_empty())
            .flat_map(|(slot, row)| {
                let slot = rows::slot_hash(slot);
                row.trials.iter().map(move |trial| TrialId {
                    slot,
                    seq: trial.seq,
                })
            })
            .collect()
    }

    /// The trials, other than one, under which a key may have been processed.
    pub fn other_trials(&self, than: TrialId, key: &Key) -> Vec<TrialId> {
        let own = self.own(key).map(|(slot, row)| (slot, row.clone()));
        let default = self.get(&SlotName::Default).cloned();
        let default = default.map(|row| (SlotName::Default, row));
        let mut trials = Vec::new();
        for (slot, row) in own.into_iter().chain(default) {
            let of_slot = row.trials.iter().map(|trial| TrialId::of(&slot, trial.seq));
            trials.extend(of_slot.filter(|id| *id != than));
        }
        trials
    }

    /// The rows that the next commit writes.
    pub fn staged(&self) -> Vec<(Key, bytes::Bytes)> {
        let slots = self.staged.iter();
        let mut written: Vec<_> = slots
            .map(|(slot, row)| (rows::slot_key(slot), row.encode()))
            .collect();
        if let Some(redo) = &self.staged_redo {
            written.push((Key::from_static(&rows::REDO_KEY), redo.encode()));
        }
        written
    }

    /// Applies what was staged, since it is committed. Returns whether rows of trials
    /// or of late entities became useless.
    pub fn settle(&mut self) -> bool {
        if self.staged.is_empty() && self.staged_redo.is_none() {
            return false;
        }
        let mut is_dirty = false;
        for (slot, row) in std::mem::take(&mut self.staged) {
            let old = self.rows.get(&slot);
            is_dirty |= old.is_some_and(|old| {
                let mut trials = old.trials.iter();
                trials.any(|trial| row.trials.iter().all(|kept| kept.seq != trial.seq))
            });
            self.rows.insert(slot, row);
        }
        if let Some(redo) = self.staged_redo.take() {
            is_dirty |= redo.ended;
            self.redo_id = redo.id;
            self.redo = (!redo.ended).then_some(redo);
        }
        self.look();
        is_dirty
    }

    /// Drops what was staged, since its commit was given up.
    pub fn abort(&mut self) {
        self.staged.clear();
        self.staged_redo = None;
    }

    fn look(&mut self) {
        self.keyed = self.rows.keys().any(|slot| *slot != SlotName::Default);
        let trials = self.rows.values().flat_map(|row| &row.trials);
        self.oldest_trial = trials.map(|trial| trial.at).min();
    }

    /// The announcement of a slot's latest takeover.
    #[must_use]
    pub fn takeover_record(
        &self,
        slot: &SlotName,
        kind: Kind,
        partition: PartitionId,
        host: &str,
        committed: Offset,
    ) -> Option<TakeoverRecord> {
        let row = self.get(slot)?;
        let before = self.rows.get(slot);
        Some(TakeoverRecord {
            slot: slot.clone(),
            partition,
            seq: row.seq,
            offset: row.offset,
            until: (kind == Kind::Rollback).then_some(committed),
            digest: row.digest,
            plugin: row.plugin.clone(),
            previous: before.and_then(|before| before.digest),
            host: host.to_owned(),
            at: row.at,
            kind,
            attempt: row.attempt,
        })
    }
}

/// Confirms the trials that have not run for the longest, until `count_max` are left.
fn confirm_more_than(trials: &mut Vec<Trial>, count_max: usize) {
    while trials.len() > count_max {
        let ages = trials
            .iter()
            .enumerate()
            .map(|(index, trial)| (trial.at, index));
        let Some((_, oldest)) = ages.min() else {
            break;
        };
        trials.remove(oldest);
    }
}

/// Makes the other trials as if the undone one had never been: the plugin after it now
/// follows the one before it. If both are the same plugin, nothing changed, and that
/// trial ends.
fn follow_without(trials: &mut Vec<Trial>, undone: &Trial) {
    let after = trials
        .iter_mut()
        .filter(|trial| trial.previous == undone.digest);
    for trial in after {
        trial.previous = undone.previous;
        trial.previous_plugin.clone_from(&undone.previous_plugin);
    }
    trials.retain(|trial| trial.previous != trial.digest);
}

/// Reads an entity's state from before a trial.
pub fn read_before(
    checkpoints: &dyn Checkpoints,
    partition: PartitionId,
    trial: TrialId,
    key: &[u8],
) -> Result<Option<Before>, LogError> {
    let bytes = checkpoints.get(partition, &rows::before_key(trial, key))?;
    bytes
        .map(|bytes| Before::decode(&bytes).map_err(corrupt))
        .transpose()
}

#[allow(clippy::needless_pass_by_value)]
pub fn corrupt(error: rows::NotARow) -> LogError {
    LogError::Corrupt {
        reason: error.to_string(),
    }
}
