//! The host's own rows in a commit: which plugin took over where, and the states from
//! before of the entities that it touches. Rows that are no longer of use are deleted
//! with it.

use std::ops::Bound::{Excluded, Unbounded};

use courtside_log::{Checkpoints, Commit, LogError};
use courtside_types::{Digest, Key, PartitionId, slot_name::SlotName};

use super::{Processing, rollback::latest, task::PartitionTask};
use crate::worker::{
    entity::Entity,
    instances::Active,
    takeover::{
        SlotRow,
        history::TakeoverRecord,
        partition::{Cause, Takes, read_before},
        rows::{self, Before, TrialId},
    },
};

/// The host's rows that one commit looks through, plus two for each state that it
/// keeps.
const SWEPT_MAX: usize = 256;
/// Rows read at a time; each may be as large as an entity's state.
const PAGE: usize = 32;

/// The circumstances of a takeover in a partition.
struct TakeoverContext<'a> {
    partition: PartitionId,
    /// The time in milliseconds since 1970.
    now: u64,
    host: &'a str,
    /// Whether the takeover can be undone.
    is_trial: bool,
}

/// The key after which a sweep begins.
pub(super) const fn first_row() -> Key {
    Key::from_static(&rows::BEFORES)
}

impl Processing {
    /// Whether an idle worker has something to write.
    #[must_use]
    pub fn has_chores(&self, now: u64) -> bool {
        let old = now.saturating_sub(self.confirm_after_ms());
        let default = self.actives.default();
        self.confirm_again
            || self.tasks.values().any(|task| task.is_unwritten)
            || self.tasks.values().any(|task| {
                !task.stopped
                    && !task.is_held()
                    && (task.sweep.is_some() && task.redo().is_none()
                        || task.slots.is_old(old)
                        || default.is_some_and(|active| !task.has_taken_over(active)))
            })
    }

    /// Whether swaps can be taken back at all.
    fn has_trials(&self) -> bool {
        !self.pipeline.settings.confirm_after.is_zero()
    }

    fn confirm_after_ms(&self) -> u64 {
        let after = self.pipeline.settings.confirm_after;
        u64::try_from(after.as_millis()).unwrap_or(u64::MAX)
    }

    /// Puts the host's own rows into a commit.
    pub(super) fn keep_house(&mut self, commit: &mut Commit, now: u64) -> Result<(), LogError> {
        let mut takeovers = Vec::new();
        let bytes_max = self.pipeline.settings.commit_bytes_max;
        for (partition, task) in &mut self.tasks {
            if task.is_restoring() {
                let host = &self.pipeline.host;
                let checkpoints = &self.checkpoints;
                takeovers.extend(task.restore(
                    *partition,
                    checkpoints,
                    commit,
                    bytes_max,
                    now,
                    host,
                )?);
            }
        }
        self.take_over_default(&mut takeovers, now);
        let kept = self.keep_befores(commit, &mut takeovers, now)?;
        self.confirm_old(now);
        self.sweep(commit, SWEPT_MAX + 2 * kept)?;
        for (partition, task) in &mut self.tasks {
            task.move_redo();
            for (key, bytes) in task.slots.staged() {
                commit.checkpoints.push((*partition, key, Some(bytes)));
            }
        }
        if let Some(place) = &self.pipeline.plugins {
            let records = takeovers
                .iter()
                .map(|takeover| (place.clone(), takeover.record()));
            commit.records.extend(records);
        }
        Ok(())
    }

    /// Applies what [`keep_house`](Self::keep_house) put into a commit that the log
    /// took.
    pub(super) fn settle_house(&mut self) {
        let mut changed = Vec::new();
        for (partition, task) in &mut self.tasks {
            if let Some(sweep) = task.staged_sweep.take() {
                let again = sweep.is_none() && std::mem::take(&mut task.sweep_again);
                task.sweep = if again { Some(first_row()) } else { sweep };
            }
            let was_held = task.is_held();
            let was_redone = task.redo().is_some();
            let begun = task.undo.len();
            task.undo.retain(|undo| !undo.approved);
            if task.slots.settle() {
                // A sweep that is under way goes on to its end first.
                task.sweep_again |= task.sweep.is_some();
                task.sweep.get_or_insert_with(first_row);
            }
            let is_begun = task.undo.len() < begun;
            if was_held && !task.is_held() {
                task.next = task.position();
                self.moved.insert(*partition);
            }
            if is_begun || was_redone && task.redo().is_none() {
                changed.push((*partition, is_begun));
            }
        }
        for (partition, is_begun) in changed {
            if is_begun {
                // Confirmations left the trials of the slot as they were until now.
                self.confirm_again = true;
                // The entities open again from the states that they get back.
                self.forget_entities(partition);
                continue;
            }
            for (_, entity) in &mut self.entities {
                if entity.partition == partition {
                    entity.late = None;
                }
            }
        }
    }

    /// Records the takeover of the default slot's plugin in each partition, even
    /// without events: a rollback must know of each partition which plugin ran there
    /// before.
    fn take_over_default(&mut self, takeovers: &mut Vec<TakeoverRecord>, now: u64) {
        let Some(active) = self.actives.default().cloned() else {
            return;
        };
        let directive = latest(&self.directives, &SlotName::Default);
        let is_trial = self.has_trials();
        for (partition, task) in &mut self.tasks {
            if !task.stopped && !task.is_held() && !task.has_taken_over(&active) {
                let context = TakeoverContext {
                    partition: *partition,
                    now,
                    host: &self.pipeline.host,
                    is_trial,
                };
                takeovers.extend(task.take_over(&context, &active, directive));
            }
        }
    }

    /// Keeps the states from before this commit of the entities for which it is the
    /// first under a trial. Returns the number of states kept.
    fn keep_befores(
        &mut self,
        commit: &mut Commit,
        takeovers: &mut Vec<TakeoverRecord>,
        now: u64,
    ) -> Result<usize, LogError> {
        let mut kept = 0;
        let is_trial = self.has_trials();
        for id in &self.dirty {
            let Some(entity) = self.entities.get_mut(*id) else {
                continue;
            };
            let Some(active) = self.actives.of(&entity.key) else {
                continue;
            };
            let Some(task) = self.tasks.get_mut(&entity.partition) else {
                continue;
            };
            let slot = &active.slot;
            let context = TakeoverContext {
                partition: entity.partition,
                now,
                host: &self.pipeline.host,
                is_trial,
            };
            if *slot != SlotName::Default {
                if !task.has_taken_over(active) {
                    let directive = latest(&self.directives, slot);
                    takeovers.extend(task.take_over(&context, active, directive));
                }
            } else if let Some((own, row)) = task.slots.own(&entity.key)
                && row.digest.is_some()
            {
                let directive = latest(&self.directives, &own);
                takeovers.extend(task.leave(&context, &own, directive));
            }
            if task.keep_before(&*self.checkpoints.0, commit, entity, slot)? {
                kept += 1;
            }
            task.move_late(commit, entity);
        }
        Ok(kept)
    }

    /// Looks through at most `rows_max` of the host's rows, and deletes those that are
    /// of no use. The next commit goes on with the next partition, so that each has its
    /// turn.
    fn sweep(&mut self, commit: &mut Commit, rows_max: usize) -> Result<(), LogError> {
        let mut rows_left = rows_max;
        let after = self.tasks.range((Excluded(self.swept), Unbounded));
        let upto = self.tasks.range(..=self.swept);
        let turns: Vec<_> = after.chain(upto).map(|(partition, _)| *partition).collect();
        for partition in turns {
            let Some(task) = self.tasks.get_mut(&partition) else {
                continue;
            };
            if rows_left == 0 {
                break;
            }
            if task.sweep.is_some() && task.redo().is_none() && !task.stopped && !task.is_held() {
                task.sweep(partition, &*self.checkpoints.0, commit, &mut rows_left)?;
                self.swept = partition;
            }
        }
        Ok(())
    }

    /// Ends trials that are old enough, or that were confirmed.
    fn confirm_old(&mut self, now: u64) {
        let old = now.saturating_sub(self.confirm_after_ms());
        for task in self.tasks.values_mut() {
            // A trial that is to be undone does not become too old for it.
            if task.slots.is_old(old) && !task.is_held() {
                task.slots.confirm(None, old);
            }
            if self.confirm_again {
                for (slot, confirmed) in &self.confirmed {
                    // A trial that is to be undone ends with its rollback.
                    if task.undo.iter().all(|undo| undo.slot != *slot) {
                        task.slots.confirm(Some(slot), confirmed.until);
                    }
                }
            }
        }
        self.confirm_again = false;
    }
}

impl PartitionTask {
    fn has_taken_over(&self, active: &Active) -> bool {
        let row = self.slots.get(&active.slot);
        row.is_some_and(|row| row.digest == Some(active.plugin.digest()))
    }

    /// Why another plugin than the one on record runs in a slot.
    fn cause_of(&self, slot: &SlotName) -> Cause {
        if self.swapped.contains(slot) {
            Cause::Swap
        } else {
            Cause::Move
        }
    }

    /// Another plugin than the one on record runs in a slot.
    fn take_over(
        &mut self,
        context: &TakeoverContext<'_>,
        active: &Active,
        directive: u64,
    ) -> Option<TakeoverRecord> {
        let plugin = String::from_utf8_lossy(&active.plugin_header).into_owned();
        let digest = Some(active.plugin.digest());
        self.change(context, &active.slot, (digest, plugin), directive)
    }

    /// A key's slot no longer has a plugin of its own.
    fn leave(
        &mut self,
        context: &TakeoverContext<'_>,
        own: &SlotName,
        directive: u64,
    ) -> Option<TakeoverRecord> {
        self.change(context, own, (None, String::new()), directive)
    }

    fn change(
        &mut self,
        context: &TakeoverContext<'_>,
        slot: &SlotName,
        (digest, plugin): (Option<Digest>, String),
        directive: u64,
    ) -> Option<TakeoverRecord> {
        let takes = Takes {
            digest,
            plugin,
            offset: self.position(),
            at: context.now,
            directive,
            is_trial: context.is_trial,
            cause: self.cause_of(slot),
        };
        let kind = self.slots.take_over(slot, takes);
        self.slots
            .takeover_record(slot, kind, context.partition, context.host, self.committed)
    }

    /// Keeps an entity's state from before the commit, if the commit is the first of the
    /// entity under the trial that runs in its slot.
    fn keep_before(
        &mut self,
        checkpoints: &dyn Checkpoints,
        commit: &mut Commit,
        entity: &mut Entity,
        slot: &SlotName,
    ) -> Result<bool, LogError> {
        let trial = self.slots.get(slot).and_then(SlotRow::current_trial);
        let Some(seq) = trial.map(|trial| trial.seq) else {
            return Ok(false);
        };
        if entity.kept == seq {
            return Ok(false);
        }
        let id = TrialId::of(slot, seq);
        entity.kept = seq;
        let (partition, key) = (entity.partition, &entity.key);
        if read_before(checkpoints, partition, id, key)?.is_some() {
            return Ok(false);
        }
        let envelope = match entity.committed.take() {
            Some(committed) => committed.bytes,
            None => checkpoints.get(partition, key)?,
        };
        let before = Before {
            position: entity.late.unwrap_or(self.committed),
            envelope,
        };
        let row = rows::before_key(id, key);
        commit
            .checkpoints
            .push((partition, row, Some(before.encode())));
        self.slots.lower_trial(slot, seq, before.position);
        Ok(true)
    }

    /// Notes how far a late entity has come.
    fn move_late(&self, commit: &mut Commit, entity: &mut Entity) {
        if entity.late.is_some()
            && let Some(redo) = self.redo()
        {
            entity.late = Some(self.next);
            // Once the partition has caught up, no entity is late.
            if self.next < self.committed {
                let row = rows::late_key(redo.id, &entity.key);
                let value = rows::encode_offset(self.next);
                commit
                    .checkpoints
                    .push((entity.partition, row, Some(value)));
            }
        }
    }

    /// Stages how far the redo has come: as far as the records taken.
    fn move_redo(&mut self) {
        if self.is_held() || self.next == self.position() {
            return;
        }
        if let Some(redo) = self.redo() {
            let mut redo = redo.clone();
            redo.next = self.next;
            redo.ended = self.next >= self.committed;
            self.slots.stage_redo(redo);
        }
    }

    /// Goes through at most `rows_left` of the host's rows, and deletes those that are
    /// of no use.
    fn sweep(
        &mut self,
        partition: PartitionId,
        checkpoints: &dyn Checkpoints,
        commit: &mut Commit,
        rows_left: &mut usize,
    ) -> Result<(), LogError> {
        let Some(mut after) = self.sweep.clone() else {
            return Ok(());
        };
        let in_use = self.slots.in_use();
        'pages: while *rows_left > 0 {
            let page = checkpoints.scan(partition, Some(&after), PAGE)?;
            let is_last = page.len() < PAGE;
            for (key, _) in page {
                *rows_left = rows_left.saturating_sub(1);
                match rows::before_of(&key) {
                    Some((trial, _)) if in_use.contains(&trial) => {
                        // The rows of one trial are together and are all of use, so
                        // they are skipped.
                        after = rows::after_trial(trial);
                        continue 'pages;
                    }
                    Some(_) => {}
                    None if rows::late_of(&key).is_some() => {}
                    None => {
                        self.staged_sweep = Some(None);
                        return Ok(());
                    }
                }
                after = Key::copy_from_slice(&key);
                commit.checkpoints.push((partition, key, None));
            }
            if is_last {
                self.staged_sweep = Some(None);
                return Ok(());
            }
        }
        self.staged_sweep = Some(Some(after));
        Ok(())
    }
}
