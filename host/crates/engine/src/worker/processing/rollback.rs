//! Rollbacks: the entities that a plugin touched get their states from before
//! it back, and their events since are processed again, by whatever plugin is in
//! force now.
//!
//! The states come back in commits of bounded size, while the partition takes no
//! records. Each entity that came back is *late*: a row says how far it has come. Then
//! the partition is read again from the first event that one of them misses, up to what
//! is committed, and only late entities take their events; the committed offset stays
//! where it is all the while. After a crash at any moment, the rows say how far the
//! rollback had come.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use courtside_log::{Checkpoints, Commit, LogError};
use courtside_types::{Digest, Key, Offset, PartitionId, slot_name::SlotName};

use super::{
    Processing, Stop,
    checkpoints::CheckpointReader,
    task::{PartitionTask, Undo},
};
use crate::worker::{
    envelope::Redone as EntityRedone,
    takeover::{
        DIRECTIVES_MAX, Directive, Redone, Trial,
        history::{Kind, TakeoverRecord},
        partition::{corrupt, read_before},
        rows::{self, Before, Redo, TrialId},
    },
};

/// The code of a stop because the log lacks events that are to be processed again.
pub const OUT_OF_RANGE: &str = "rollback-out-of-range";
/// Entities that one commit brings back.
const RESTORED_MAX: usize = 256;
/// Rows read at a time; each may be as large as an entity's state.
const PAGE: usize = 32;

/// The rows and bytes that one commit may still bring back.
struct Left {
    rows: usize,
    bytes: usize,
}

/// An operator's latest confirmation of a slot's plugin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Confirmed {
    /// The time up to which swaps are confirmed, in milliseconds since 1970.
    pub until: u64,
    /// The plugin that ran in the slot.
    pub digest: Option<Digest>,
}

/// The directives of each slot.
pub(super) type Directives = HashMap<SlotName, SlotDirectives>;

#[derive(Debug, Default)]
pub(super) struct SlotDirectives {
    /// The directives that stand, by their ids.
    directives: BTreeMap<u64, Directive>,
    /// The id of the latest directive, even if it was withdrawn.
    latest: u64,
}

/// The id of a slot's latest directive, 0 if it never had one.
pub(super) fn latest(directives: &Directives, slot: &SlotName) -> u64 {
    directives.get(slot).map_or(0, |standing| standing.latest)
}

impl Processing {
    /// Takes a directive, which stands from now on, and marks the swaps that it undoes
    /// in the partitions at hand. To be called when nothing is pending.
    pub fn direct(&mut self, directive: Directive) {
        let standing = self.directives.entry(directive.slot.clone()).or_default();
        standing.latest = standing.latest.max(directive.id);
        standing.directives.insert(directive.id, directive);
        if standing.directives.len() > DIRECTIVES_MAX {
            standing.directives.pop_first();
        }
        self.follow_all_orders();
    }

    /// Withdraws a directive. Its id counts as the slot's latest, so it does not undo
    /// swaps from now on. To be called when nothing is pending.
    pub fn withdraw(&mut self, slot: &SlotName, id: u64) {
        let standing = self.directives.entry(slot.clone()).or_default();
        standing.latest = standing.latest.max(id);
        standing.directives.remove(&id);
        self.follow_all_orders();
    }

    fn follow_all_orders(&mut self) {
        let partitions: Vec<_> = self.tasks.keys().copied().collect();
        for partition in partitions {
            self.follow_orders(partition);
        }
    }

    /// Confirms the swaps of a slot up to `at`, also in partitions that come later. A
    /// rollback that waits goes on, unless it undoes the confirmed plugin itself.
    /// Returns the [refused](Self::refuse) partitions that may go on.
    pub fn confirm(
        &mut self,
        slot: &SlotName,
        digest: Option<Digest>,
        at: u64,
    ) -> Vec<PartitionId> {
        let confirmed = self.confirmed.entry(slot.clone()).or_default();
        if at >= confirmed.until {
            *confirmed = Confirmed { until: at, digest };
        }
        let is_later = |undo: &Undo| undo.slot != *slot || undo.at > at;
        let is_open = |undo: &Undo| is_later(undo) || digest != Some(undo.bad);
        let mut released = Vec::new();
        for (partition, task) in &mut self.tasks {
            // A swap that is no longer to be undone does not hold the partition up.
            if task.change_undo(|undo| undo.retain(is_open)) {
                self.moved.insert(*partition);
            }
            if !task.refused.is_empty() {
                task.refused.retain(is_later);
                if task.refused.is_empty() {
                    released.push(*partition);
                }
            }
        }
        self.confirm_again = true;
        released
    }

    /// Marks the trials that standing directives undo in a partition. There are several
    /// if several directives were given while no worker had the partition.
    pub(super) fn follow_orders(&mut self, partition: PartitionId) {
        self.confirm_again = true;
        let Some(task) = self.tasks.get_mut(&partition) else {
            return;
        };
        let mut wanted = Vec::new();
        for (slot, standing) in &self.directives {
            let Some(row) = task.slots.get(slot) else {
                continue;
            };
            let mut row = row.clone();
            let confirmed = self.confirmed.get(slot).copied().unwrap_or_default();
            let is_confirmed =
                |trial: &Trial| trial.at <= confirmed.until && trial.digest == confirmed.digest;
            for directive in standing.directives.values() {
                let trial = directive.undoes(&row);
                if let Some(trial) = trial.filter(|trial| !is_confirmed(trial)) {
                    let seq = trial.seq;
                    wanted.push(Undo {
                        slot: slot.clone(),
                        seq,
                        bad: directive.bad,
                        from: trial.offset,
                        at: trial.at,
                        approved: false,
                    });
                    row.trials.retain(|trial| trial.seq != seq);
                }
            }
        }
        if task.change_undo(|undo| *undo = wanted) {
            self.moved.insert(partition);
        }
    }

    /// Notes that a rollback had an entity process events again. A replay has no
    /// directives and calls this instead: it takes each event once, by the plugin that
    /// got it in the end.
    pub fn note_redone(
        &mut self,
        partition: PartitionId,
        key: &Key,
        redone: EntityRedone,
    ) -> Result<(), LogError> {
        let id = match self.index.get(&(partition, key.clone())) {
            Some(id) => Some(*id),
            None => self.load(partition, key.clone(), Instant::now())?,
        };
        // Without an entity its partition has stopped, which the stops report.
        if let Some(entity) = id.and_then(|id| self.entities.get_mut(id)) {
            entity.note_redone(redone);
        }
        Ok(())
    }

    /// Partitions in which a swap is to be undone, with the first offset to process
    /// again. The caller must learn first whether the log still has that offset. A
    /// stopped partition is not named until it goes on.
    #[must_use]
    pub fn wanted(&self) -> Vec<(PartitionId, Offset)> {
        let mut wanted = Vec::new();
        for (partition, task) in self.tasks.iter().filter(|(_, task)| !task.stopped) {
            let undo = task.undo.iter().filter(|undo| !undo.approved);
            let from = undo.map(|undo| undo.from).min();
            wanted.extend(from.map(|from| (*partition, from)));
        }
        wanted
    }

    /// Lets the next commits undo the swaps of a partition, since the log has the
    /// offset that [`wanted`](Self::wanted) names.
    pub fn approve(&mut self, partition: PartitionId) {
        if let Some(task) = self.tasks.get_mut(&partition) {
            for undo in &mut task.undo {
                undo.approved = true;
            }
        }
    }

    /// Stops a partition whose events to process again are gone from the log. No state
    /// is changed, and the partition does not go on until those swaps are confirmed.
    pub fn refuse(&mut self, partition: PartitionId, from: Offset, start: Offset) -> Stop {
        if let Some(task) = self.tasks.get_mut(&partition) {
            task.refused = std::mem::take(&mut task.undo);
            task.stopped = true;
        }
        Stop {
            code: OUT_OF_RANGE,
            reason: format!(
                "a rollback must process the events from offset {from} on again, and the log begins at offset {start}"
            ),
            waits: false,
        }
    }

    /// Whether a rollback is ordered that is not on disk yet. Stopped partitions do not
    /// count: they may never go on, and no caller is to wait for them.
    #[must_use]
    pub fn is_to_begin(&self) -> bool {
        let mut going = self.tasks.values().filter(|task| !task.stopped);
        going.any(|task| !task.undo.is_empty())
    }

    /// Whether the next commit begins a rollback or brings states back.
    #[must_use]
    pub fn is_restoring(&self) -> bool {
        self.tasks.values().any(PartitionTask::is_restoring)
    }

    /// The events that each partition processes again, if any, and the offset of the
    /// next one.
    pub fn redoing(&self) -> impl Iterator<Item = (PartitionId, Redone, Offset)> + '_ {
        let going = self.tasks.iter().filter(|(_, task)| !task.stopped);
        going.filter_map(|(partition, task)| {
            let redo = task.redo()?;
            let redone = Redone {
                from: redo.from,
                until: task.committed,
            };
            (redone.from < redone.until).then_some((*partition, redone, redo.next))
        })
    }

    /// Partitions that are to be read from another offset from now on, with that
    /// offset. Those that were held go on there.
    pub fn moved(&mut self) -> Vec<(PartitionId, Offset)> {
        let mut moved = Vec::new();
        for partition in std::mem::take(&mut self.moved) {
            let task = self.tasks.get(&partition);
            // A held partition is put into `moved` again when it is released.
            if let Some(task) = task.filter(|task| !task.is_held() && !task.stopped) {
                moved.push((partition, task.next));
            }
        }
        moved
    }

    /// Whether an event below the committed offset is to be processed again.
    pub(super) fn is_late(
        &self,
        partition: PartitionId,
        key: &Key,
        offset: Offset,
    ) -> Result<bool, LogError> {
        let late = match self.index.get(&(partition, key.clone())) {
            Some(id) => self.entities.get(*id).and_then(|entity| entity.late),
            None => self.late(partition, key)?,
        };
        Ok(late.is_some_and(|late| offset >= late))
    }

    /// The offset from which a late entity processes events again; none for other
    /// entities.
    pub(super) fn late(
        &self,
        partition: PartitionId,
        key: &[u8],
    ) -> Result<Option<Offset>, LogError> {
        let Some(redo) = self.tasks.get(&partition).and_then(PartitionTask::redo) else {
            return Ok(None);
        };
        read_late(&*self.checkpoints.0, partition, redo.id, key)
    }
}

fn read_late(
    checkpoints: &dyn Checkpoints,
    partition: PartitionId,
    redo: u32,
    key: &[u8],
) -> Result<Option<Offset>, LogError> {
    let row = checkpoints.get(partition, &rows::late_key(redo, key))?;
    row.map(|row| rows::decode_offset(&row).map_err(corrupt))
        .transpose()
}

impl PartitionTask {
    /// Changes which trials are to be undone. Returns true if nothing holds the
    /// partition any more. Then it goes on after its last commit, since records read
    /// meanwhile were dropped.
    pub(super) fn change_undo(&mut self, change: impl FnOnce(&mut Vec<Undo>)) -> bool {
        let was_held = self.is_held();
        change(&mut self.undo);
        let is_released = was_held && !self.is_held();
        if is_released {
            self.next = self.position();
        }
        is_released
    }

    pub(super) fn is_restoring(&self) -> bool {
        let redo = self.redo();
        !self.stopped
            && (self.undo.iter().any(|undo| undo.approved)
                || redo.is_some_and(|redo| !redo.restoring.is_empty()))
    }

    /// Puts into a commit the rows that begin rollbacks, or that bring the next
    /// entities back.
    pub(super) fn restore(
        &mut self,
        partition: PartitionId,
        checkpoints: &CheckpointReader,
        commit: &mut Commit,
        bytes_max: usize,
        now: u64,
        host: &str,
    ) -> Result<Vec<TakeoverRecord>, LogError> {
        let mut takeovers = Vec::new();
        for undo in self.undo.iter().filter(|undo| undo.approved) {
            let slot = &undo.slot;
            if let Some(undone) = self.slots.take_back(slot, undo.seq, self.committed, now) {
                let kind = Kind::Rollback;
                let of = self
                    .slots
                    .takeover_record(slot, kind, partition, host, self.committed);
                takeovers.extend(of.map(|takeover| TakeoverRecord {
                    previous: undone.digest,
                    ..takeover
                }));
            }
        }
        if !takeovers.is_empty() {
            // The rollback must be on disk before the first entity is brought back.
            return Ok(takeovers);
        }
        let Some(mut redo) = self.slots.redo().cloned() else {
            return Ok(takeovers);
        };
        let mut left = Left {
            rows: RESTORED_MAX,
            bytes: bytes_max,
        };
        // Each commit restores one trial only. The next trial may have touched the same
        // entities, and must find on disk what this one brought back.
        if let Some(trial) = redo.restoring.first().copied()
            && self.restore_trial(partition, checkpoints, commit, &mut redo, trial, &mut left)?
        {
            redo.restoring.remove(0);
        }
        redo.ended = redo.restoring.is_empty() && redo.next >= self.committed;
        self.slots.stage_redo(redo);
        Ok(takeovers)
    }

    /// Brings back the entities that one trial touched. Returns false if some are left.
    fn restore_trial(
        &self,
        partition: PartitionId,
        checkpoints: &CheckpointReader,
        commit: &mut Commit,
        redo: &mut Redo,
        trial: TrialId,
        left: &mut Left,
    ) -> Result<bool, LogError> {
        // No entity's key is empty, so all rows of the trial are after this key.
        let mut after = rows::before_key(trial, b"");
        loop {
            let page = checkpoints.0.scan(partition, Some(&after), PAGE)?;
            let is_last = page.len() < PAGE;
            for (key, value) in page {
                let of = rows::before_of(&key);
                let Some((_, entity)) = of.filter(|(of, _)| *of == trial) else {
                    return Ok(true);
                };
                if left.rows == 0 || left.bytes == 0 {
                    return Ok(false);
                }
                left.rows -= 1;
                left.bytes = left.bytes.saturating_sub(value.len());
                let before = Before::decode(&value).map_err(corrupt)?;
                self.bring_back(
                    partition,
                    checkpoints,
                    commit,
                    redo,
                    (trial, &entity, before),
                )?;
                commit.checkpoints.push((partition, key.clone(), None));
                after = key;
            }
            if is_last {
                return Ok(true);
            }
        }
    }

    fn bring_back(
        &self,
        partition: PartitionId,
        checkpoints: &CheckpointReader,
        commit: &mut Commit,
        redo: &mut Redo,
        (trial, entity, before): (TrialId, &Key, Before),
    ) -> Result<(), LogError> {
        let position = before.position;
        // Another trial had the entity before this one, and has brought it further back
        // already.
        let late = read_late(&*checkpoints.0, partition, redo.id, entity)?;
        if late.is_some_and(|late| late < position) {
            return Ok(());
        }
        // Other trials that had the entity later kept states that are made of what is
        // undone, so those states go.
        for other in self.slots.other_trials(trial, entity) {
            let kept = read_before(&*checkpoints.0, partition, other, entity)?;
            if kept.is_some_and(|kept| kept.position > position) {
                let key = rows::before_key(other, entity);
                commit.checkpoints.push((partition, key, None));
            }
        }
        let mut put = |key, value| commit.checkpoints.push((partition, key, value));
        put(entity.clone(), before.envelope);
        put(
            rows::late_key(redo.id, entity),
            Some(rows::encode_offset(position)),
        );
        redo.next = redo.next.min(position);
        redo.from = redo.from.min(position);
        Ok(())
    }
}
