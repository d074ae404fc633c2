//! Rollbacks: the entities that a plugin touched get their states from before
//! it back, and their events since are processed again, by whatever plugin is in
//! force now.
//!
//! The states come back in commits of bounded size, while the partition takes no
//! records. Each entity that came back is *late*: a row says how far it has come.
//! Then the partition is read again from the first event that one of them misses,
//! up to what is committed, and only late entities take their events; the
//! committed offset stays where it is all the while. A crash at any moment finds
//! in the rows how far it was.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use super::{CheckpointReader, Processing, Stop, Task, Undo};
use crate::{
    log::{Checkpoints, Commit, LogError},
    slots::name::SlotName,
    types::{Key, Offset, PartitionId},
    worker::{
        envelope::Redone as EntityRedone,
        takeover::{
            DIRECTIVES_MAX, Directive, Redone,
            history::{Kind, Told},
            partition::{corrupt, read_before},
            rows::{self, Before, Redo, TrialId},
        },
    },
};

/// The log lacks what is to be processed again.
pub const OUT_OF_RANGE: &str = "rollback-out-of-range";
/// Entities that one commit brings back.
const RESTORED_MAX: usize = 256;
/// Rows read at a time: each may be as large as a state may.
const PAGE: usize = 32;

/// What one commit may still bring back.
struct Left {
    rows: usize,
    bytes: usize,
}

/// The directives of each slot.
pub(super) type Directives = HashMap<SlotName, Standing>;

#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Those that stand, by their ids.
    directives: BTreeMap<u64, Directive>,
    /// The id of the latest, also of one that was withdrawn.
    latest: u64,
}

/// The latest of a slot.
pub(super) fn latest(directives: &Directives, slot: &SlotName) -> u64 {
    directives.get(slot).map_or(0, |standing| standing.latest)
}

impl Processing {
    /// Takes a directive: it stands from now on, and in the partitions at hand
    /// the swaps that it is about are to be taken back. To be called when
    /// nothing is pending.
    pub fn direct(&mut self, directive: Directive) {
        let standing = self.directives.entry(directive.slot.clone()).or_default();
        standing.latest = standing.latest.max(directive.id);
        standing.directives.insert(directive.id, directive);
        if standing.directives.len() > DIRECTIVES_MAX {
            standing.directives.pop_first();
        }
        self.follow_all_orders();
    }

    /// A directive stands no more; swaps from now on are later than it. To be
    /// called when nothing is pending.
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

    /// The swaps of a slot up to that time stay; so do those of partitions that
    /// come later. Says which partitions may go on that were
    /// [refused](Self::refuse).
    pub fn confirm(&mut self, slot: &SlotName, at: u64) -> Vec<PartitionId> {
        let until = self.confirmed.entry(slot.clone()).or_default();
        *until = at.max(*until);
        let is_open = |undo: &Undo| undo.slot != *slot || undo.at > at;
        let mut released = Vec::new();
        for (partition, task) in &mut self.tasks {
            // What is not to be taken back any more need not hold it up.
            if task.change_undo(|undo| undo.retain(is_open)) {
                self.moved.insert(*partition);
            }
            if !task.refused.is_empty() {
                task.refused.retain(is_open);
                if task.refused.is_empty() {
                    released.push(*partition);
                }
            }
        }
        self.confirm_again = true;
        released
    }

    /// Marks what standing directives undo in a partition: several trials, where
    /// somebody gave several directives while nobody had it.
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
            for directive in standing.directives.values() {
                let trial = directive.undoes(&row);
                if let Some(trial) = trial.filter(|trial| trial.at > confirmed) {
                    let seq = trial.seq;
                    wanted.push(Undo {
                        slot: slot.clone(),
                        seq,
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

    /// Notes that a rollback had an entity process events again, where no directive does:
    /// a replay takes them once, by the plugin that got them in the end.
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
        // Where there is none its partition has stopped, which is said.
        if let Some(entity) = id.and_then(|id| self.entities.get_mut(id)) {
            entity.note_redone(redone);
        }
        Ok(())
    }

    /// Partitions where a swap is to be taken back, once it is known that the
    /// log still has what is to be processed again, and from where on that is. One
    /// that is stopped has it before it when it goes on.
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

    /// The log has what [`wanted`](Self::wanted) names; the next commits take
    /// the swaps of that partition back.
    pub fn approve(&mut self, partition: PartitionId) {
        if let Some(task) = self.tasks.get_mut(&partition) {
            for undo in &mut task.undo {
                undo.approved = true;
            }
        }
    }

    /// It has not: nothing is touched, and the partition does not go on until
    /// those swaps are confirmed.
    pub fn refuse(&mut self, partition: PartitionId, from: Offset, start: Offset) -> Stop {
        if let Some(task) = self.tasks.get_mut(&partition) {
            task.refused = std::mem::take(&mut task.undo);
            task.stopped = true;
        }
        Stop {
            code: OUT_OF_RANGE,
            reason: format!(
                "events from offset {from} on are to be processed again, and the log begins at {start}"
            ),
            waits: false,
        }
    }

    /// Whether rollbacks are ordered of which nothing is on disk yet. Nobody is to
    /// wait for partitions that are stopped: they may be for ever.
    #[must_use]
    pub fn is_to_begin(&self) -> bool {
        let mut going = self.tasks.values().filter(|task| !task.stopped);
        going.any(|task| !task.undo.is_empty())
    }

    /// Whether the next commit brings something back.
    #[must_use]
    pub fn is_restoring(&self) -> bool {
        self.tasks.values().any(Task::is_restoring)
    }

    /// What is processed again in each partition, where anything is, and how far
    /// that has come.
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

    /// Partitions that are to be read from elsewhere from now on, and taken up
    /// again where they were held.
    pub fn moved(&mut self) -> Vec<(PartitionId, Offset)> {
        let mut moved = Vec::new();
        for partition in std::mem::take(&mut self.moved) {
            let task = self.tasks.get(&partition);
            // One that is held is here again when it is let go.
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

    /// Where an entity stands that is behind.
    pub(super) fn late(
        &self,
        partition: PartitionId,
        key: &[u8],
    ) -> Result<Option<Offset>, LogError> {
        let Some(redo) = self.tasks.get(&partition).and_then(Task::redo) else {
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

impl Task {
    /// Changes what is to be taken back. True says that this was all that held
    /// it: it goes on where it stands, since what was read meanwhile was dropped.
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

    /// Puts into a commit what begins rollbacks, or brings the next entities
    /// back.
    pub(super) fn restore(
        &mut self,
        partition: PartitionId,
        checkpoints: &CheckpointReader,
        commit: &mut Commit,
        bytes_max: usize,
        now: u64,
        host: &str,
    ) -> Result<Vec<Told>, LogError> {
        let mut told = Vec::new();
        for undo in self.undo.iter().filter(|undo| undo.approved) {
            let slot = &undo.slot;
            if let Some(undone) = self.slots.take_back(slot, undo.seq, self.committed, now) {
                let kind = Kind::Rollback;
                let of = self.slots.told(slot, kind, partition, host, self.committed);
                told.extend(of.map(|told| Told {
                    previous: undone.digest,
                    ..told
                }));
            }
        }
        if !told.is_empty() {
            // That it is so is on disk before anything is brought back.
            return Ok(told);
        }
        let Some(mut redo) = self.slots.redo().cloned() else {
            return Ok(told);
        };
        let mut left = Left {
            rows: RESTORED_MAX,
            bytes: bytes_max,
        };
        // One trial a commit: what the next one finds of an entity that both
        // touched is on disk by then.
        if let Some(trial) = redo.restoring.first().copied()
            && self.restore_trial(partition, checkpoints, commit, &mut redo, trial, &mut left)?
        {
            redo.restoring.remove(0);
        }
        redo.ended = redo.restoring.is_empty() && redo.next >= self.committed;
        self.slots.stage_redo(redo);
        Ok(told)
    }

    /// Brings back what one trial touched; false where there is more.
    fn restore_trial(
        &self,
        partition: PartitionId,
        checkpoints: &CheckpointReader,
        commit: &mut Commit,
        redo: &mut Redo,
        trial: TrialId,
        left: &mut Left,
    ) -> Result<bool, LogError> {
        // No entity's key is empty, so all are after this one.
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
        // It is further back already: another trial had it before this one.
        let late = read_late(&*checkpoints.0, partition, redo.id, entity)?;
        if late.is_some_and(|late| late < position) {
            return Ok(());
        }
        // States from before other trials that had it since are made of what is undone.
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
