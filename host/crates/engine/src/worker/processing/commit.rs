//! Makes commits of what was run, with checkpoints from the plugins.
//!
//! A commit of events that are processed again repeats the committed offset, because a
//! commit without offsets would not be fenced. So the committed offset never goes back.

use std::{collections::BTreeSet, time::Instant};

use bytes::Bytes;
use courtside_log::{Commit, LogError};
use courtside_plugin_host::SavedState;
use courtside_process::clock::now_ms;
use courtside_types::{Digest, Key, Offset, PartitionId};

use super::{CommitPlan, Interrupted, Processing};
use crate::worker::{
    breaker::Step,
    entity::{Entity, Prepared, Produced, Verdict},
    envelope::Envelope,
    instances::Actives,
    position::PositionRow,
    takeover::rows::is_reserved,
    times,
};

/// The digest in the checkpoint of an entity that no plugin ever processed.
const NO_PLUGIN: Digest = Digest([0; 32]);

impl Processing {
    /// Makes the next commit; none where nothing is pending. The stops are as
    /// [`Self::process`] returns them.
    pub fn prepare(&mut self) -> CommitPlan {
        self.prepare_all(false)
    }

    /// Makes the next commit. Where nothing is pending, it holds what an idle worker
    /// has to write.
    pub fn prepare_idle(&mut self) -> CommitPlan {
        self.prepare_all(true)
    }

    fn prepare_all(&mut self, idle: bool) -> CommitPlan {
        self.started = Instant::now();
        // A checkpoint that fails sends the entity's neighbours back to work, so this
        // repeats until all are prepared. Each round but the last makes an entity a
        // suspect or halts one, so the number of entities bounds the rounds.
        loop {
            self.run_all()?;
            if self.prepare_round()? {
                break;
            }
        }
        let stops = std::mem::take(&mut self.stops);
        if self.pending_since.is_none() && !self.is_restoring() && !idle {
            return Ok((None, stops));
        }
        let mut commit = Commit::default();
        let now_ms = now_ms();
        self.keep_house(&mut commit, now_ms)?;
        let takeovers = std::mem::take(&mut commit.records);
        let kept: BTreeSet<PartitionId> = commit
            .checkpoints
            .iter()
            .map(|(partition, ..)| *partition)
            .collect();
        let mut produced = self.commit_positions(&mut commit, &kept);
        self.commit_entities(&mut commit, &mut produced);
        self.sort(&mut produced);
        let letters = &self.pipeline.dead_letter;
        commit.records = produced
            .into_iter()
            .map(
                |Produced {
                     place, mut record, ..
                 }| {
                    if place.topic == *letters {
                        times::settle_letter(&mut record, now_ms);
                    } else {
                        times::settle_output(&mut record, now_ms);
                    }
                    (place, record)
                },
            )
            .chain(takeovers)
            .collect();
        if commit.is_empty() {
            // The sweep may have looked through rows and found none to delete, which is
            // settled here.
            self.settle_house();
            return Ok((None, stops));
        }
        Ok((Some(commit), stops))
    }

    /// Puts the position of each partition into a commit that moves it, or that has rows
    /// of it. Returns the dead letters that belong to no entity.
    fn commit_positions(
        &mut self,
        commit: &mut Commit,
        kept: &BTreeSet<PartitionId>,
    ) -> Vec<Produced> {
        let mut loose = Vec::new();
        for (partition, task) in &mut self.tasks {
            loose.append(&mut task.loose);
            // Without the partition's offset, the log would accept checkpoints from a
            // worker that no longer has the partition.
            if task.next != task.position() || kept.contains(partition) || task.is_unwritten {
                let next = task.next.max(task.committed);
                commit.offsets.push((*partition, next));
                let row = PositionRow {
                    events: task.counted + task.fresh,
                    ..PositionRow::new(&self.pipeline.identity, next)
                };
                let (key, bytes) = row.checkpoint();
                commit.checkpoints.push((*partition, key, Some(bytes)));
            }
        }
        loose
    }

    /// Puts the checkpoints of entities into a commit, and takes what they produced.
    fn commit_entities(&mut self, commit: &mut Commit, produced: &mut Vec<Produced>) {
        for id in &self.dirty {
            let Some(entity) = self.entities.get_mut(*id) else {
                continue;
            };
            produced.append(&mut entity.produced);
            let checkpoint = match std::mem::replace(&mut entity.prepared, Prepared::Nothing) {
                Prepared::Nothing => continue,
                Prepared::Store(bytes) => Some(bytes),
                Prepared::Delete => None,
            };
            commit
                .checkpoints
                .push((entity.partition, entity.key.clone(), checkpoint));
        }
    }

    /// Puts records into the order that readers rely on. Each entity's records are in
    /// order already. Where entities share a key or a topic, their records there must be
    /// in the order of the events, however those were batched. Other records are not
    /// sorted: those of one entity resemble each other, and compress better side by side.
    fn sort(&self, produced: &mut [Produced]) {
        if self.shared {
            produced.sort_by_key(|produced| produced.source);
        } else if self.has_letters {
            let letters = &self.pipeline.dead_letter;
            produced.sort_by_key(|produced| {
                let is_letter = produced.place.topic == *letters;
                is_letter.then_some(produced.source)
            });
        }
    }

    /// Applies a commit of [`Self::prepare`] that the log took.
    pub fn settle(&mut self, commit: &Commit) {
        for (partition, next) in &commit.offsets {
            if let Some(task) = self.tasks.get_mut(partition) {
                task.committed = *next;
                let taken = std::mem::take(&mut task.taken);
                task.events += taken;
                self.counts.events += taken;
                task.counted += std::mem::take(&mut task.fresh);
                task.is_unwritten = false;
            }
        }
        self.settle_house();
        for (place, _) in &commit.records {
            if self.pipeline.plugins.as_ref() == Some(place) {
                continue;
            }
            if place.topic == self.pipeline.dead_letter {
                self.counts.dead_letters += 1;
            } else {
                self.counts.emissions += 1;
            }
        }
        let gone: BTreeSet<(PartitionId, &Key)> = commit
            .checkpoints
            .iter()
            .filter(|(_, key, bytes)| bytes.is_none() && !is_reserved(key))
            .map(|(partition, key, _)| (*partition, key))
            .collect();
        for id in std::mem::take(&mut self.dirty) {
            let Some(entity) = self.entities.get_mut(id) else {
                continue;
            };
            self.counts.duplicates += entity
                .queue
                .iter()
                .filter(|pending| pending.verdict == Verdict::Duplicate)
                .count() as u64;
            entity.settle();
            if gone.contains(&(entity.partition, &entity.key)) {
                self.forget(id);
            }
        }
        self.pending_bytes = 0;
        self.pending_since = None;
        self.shared = false;
        self.has_letters = false;
        self.close_idle(Instant::now());
    }

    /// Asks the plugin for the checkpoints that the next commit needs. Returns false
    /// when one failed, and entities have work to do again.
    pub(super) fn prepare_round(&mut self) -> Result<bool, Interrupted> {
        for position in 0..self.dirty.len() {
            self.keep_within_budget()?;
            let Some(id) = self.dirty.get(position).copied() else {
                break;
            };
            if !self.prepare_entity(id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn prepare_entity(&mut self, id: usize) -> Result<bool, LogError> {
        let Some(entity) = self.entities.get(id) else {
            return Ok(true);
        };
        if entity.prepared != Prepared::Nothing {
            return Ok(true);
        }
        let Some(offset) = entity.last_offset() else {
            return Ok(true);
        };
        // A halted entity's state has changed where it took redriven events.
        let is_open = entity.halted.is_none() || entity.mark.is_some() || entity.home.is_some();
        if is_open && entity.processed() {
            Ok(self.prepare_state(id, offset))
        } else {
            if entity.touched {
                self.prepare_notes(id, offset)?;
            }
            Ok(true)
        }
    }

    /// Prepares the checkpoint of an entity whose state may have changed. Returns false
    /// when the plugin fails at it.
    fn prepare_state(&mut self, id: usize, offset: Offset) -> bool {
        let Some(entity) = self.entities.get_mut(id) else {
            return true;
        };
        let saved = match (&entity.mark, entity.home) {
            // An entity that runs alone has its state in its mark.
            (Some(mark), _) => mark.saved.clone(),
            (None, Some(home)) => {
                let Some(held) = self.instances.get_mut(home.instance) else {
                    return true;
                };
                match held.instance.checkpoint(home.entity) {
                    Ok(saved) => {
                        self.breakers.went_well(&held.active.slot, Step::Checkpoint);
                        saved
                    }
                    Err(failure) => {
                        held.gauges.failed(failure.kind);
                        self.suspect(id, &failure);
                        self.retire_and_rewind(home.instance);
                        return false;
                    }
                }
            }
            (None, None) => return true,
        };
        let is_nothing_kept =
            entity.recent.is_empty() && entity.halted.is_none() && entity.redone.is_empty();
        entity.prepared = if saved.is_none() && is_nothing_kept {
            Prepared::Delete
        } else {
            let bytes = envelope(entity, digest_of(&self.actives, entity), offset, saved);
            self.pending_bytes += bytes.len();
            Prepared::Store(bytes)
        };
        true
    }

    /// Prepares the checkpoint of an entity whose state stays as it was, though what the
    /// host keeps beside it has changed.
    fn prepare_notes(&mut self, id: usize, offset: Offset) -> Result<(), LogError> {
        let Some(entity) = self.entities.get_mut(id) else {
            return Ok(());
        };
        // A halted entity may have come as far as its mark; without a processed event
        // the mark says nothing of the state.
        let mark = entity.mark.as_ref().filter(|_| entity.processed());
        let (digest, saved) = match mark {
            Some(mark) => (digest_of(&self.actives, entity), mark.saved.clone()),
            None => self
                .checkpoints
                .envelope(entity.partition, &entity.key)?
                .map_or((NO_PLUGIN, None), |envelope| {
                    (envelope.digest, envelope.saved)
                }),
        };
        entity.prepared = Prepared::Store(envelope(entity, digest, offset, saved));
        Ok(())
    }
}

/// The digest of the plugin that processes an entity.
fn digest_of(actives: &Actives, entity: &Entity) -> Digest {
    let active = actives.of(&entity.key);
    active.map_or(NO_PLUGIN, |active| active.plugin.digest())
}

/// An entity's checkpoint as it is stored.
fn envelope(entity: &Entity, digest: Digest, offset: Offset, saved: Option<SavedState>) -> Bytes {
    let envelope = Envelope {
        digest,
        offset,
        recent: entity.recent.clone(),
        halted: entity.halted.clone(),
        redone: entity.redone.clone(),
        saved,
    };
    envelope.encode()
}
