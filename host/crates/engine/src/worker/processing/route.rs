//! Routes polled records: each goes to its entity, with a verdict.

use std::time::Instant;

use bytes::Bytes;
use courtside_log::LogError;
use courtside_plugin_host::SavedState;
use courtside_types::{
    ENTITY_KEY_BYTES_MAX, Key, PartitionId, Record,
    headers::{
        IDEMPOTENCY_HEADER as IDEMPOTENCY_KEY, IDEMPOTENCY_INDEX_HEADER as IDEMPOTENCY_INDEX,
    },
};

use super::{Processing, Stop, checkpoints::NotRead};
use crate::worker::{
    entity::{Committed, Entity, Loaded, Pending, Prepared, Produced, Verdict},
    envelope::{Halt, Recent, Redone},
    output,
    redriven::redriven,
};

/// The entity's part of a checkpoint.
#[derive(Default)]
struct Read {
    committed: Option<Bytes>,
    recent: Recent,
    halted: Option<Halt>,
    redone: Vec<Redone>,
    saved: Option<SavedState>,
}

impl Processing {
    pub(super) fn route(
        &mut self,
        partition: PartitionId,
        record: Record,
        now: Instant,
    ) -> Result<(), LogError> {
        let Some(task) = self.tasks.get_mut(&partition) else {
            return Ok(());
        };
        if task.stopped || task.is_held() || record.offset < task.next {
            return Ok(());
        }
        task.next = record.offset.next();
        task.taken += 1;
        self.pending_since.get_or_insert(now);
        let again = task.redo().filter(|_| record.offset < task.committed);
        let attempt = again.map_or(1, |redo| redo.attempt);
        if attempt == 1 {
            task.fresh += 1;
        }
        let key = usable_key(&record).cloned();
        if attempt > 1 && !self.is_redone(partition, &record, key.as_ref().ok())? {
            return Ok(());
        }
        self.pending_bytes += record.size();
        let key = match key {
            Ok(key) => key,
            Err(why) => {
                self.make_dead_letter(partition, &record, attempt, why);
                return Ok(());
            }
        };
        let id = match self.index.get(&(partition, key.clone())) {
            Some(id) => *id,
            None => match self.load(partition, key, now)? {
                Some(id) => id,
                // The partition stopped: the record will be read again.
                None => return Ok(()),
            },
        };
        self.enqueue(id, record, attempt, now);
        Ok(())
    }

    /// Whether an event that was processed before is processed again, because its entity
    /// is late. Otherwise it does not count as taken.
    fn is_redone(
        &mut self,
        partition: PartitionId,
        record: &Record,
        key: Option<&Key>,
    ) -> Result<bool, LogError> {
        let is_late = match key {
            Some(key) => self.is_late(partition, key, record.offset)?,
            None => false,
        };
        if !is_late && let Some(task) = self.tasks.get_mut(&partition) {
            task.taken -= 1;
        }
        Ok(is_late)
    }

    /// Makes a dead letter of a record that can have no entity.
    fn make_dead_letter(
        &mut self,
        partition: PartitionId,
        record: &Record,
        attempt: u32,
        (code, reason): (&'static str, &'static str),
    ) {
        let (place, letter) = output::dead_letter(
            &self.pipeline,
            None,
            partition,
            record,
            attempt,
            code,
            reason,
        );
        self.has_letters = true;
        if let Some(task) = self.tasks.get_mut(&partition) {
            task.loose.push(Produced {
                source: (partition, record.offset),
                place,
                record: letter,
            });
        }
    }

    /// Puts a record into its entity's queue, with a verdict.
    fn enqueue(&mut self, id: usize, record: Record, attempt: u32, now: Instant) {
        let Some(entity) = self.entities.get_mut(id) else {
            return;
        };
        if entity.queue.is_empty() {
            self.dirty.push(id);
            self.order.remove(&entity.used);
            self.clock += 1;
            entity.used = self.clock;
            entity.used_at = now;
            self.order.insert(entity.used, id);
        }
        let redriven = redriven(&self.pipeline.identity, &record);
        if attempt > 1
            && let (Some(from), Some(task)) = (entity.late, self.tasks.get(&entity.partition))
        {
            entity.note_redone(Redone {
                from,
                until: task.committed,
                attempt,
            });
        }
        let verdict = if record.value.is_none() {
            Verdict::Dead {
                code: "event-without-value",
                reason: "the record has no value".into(),
            }
        } else if let Some(key) = record.header(IDEMPOTENCY_KEY)
            && self.pipeline.identity.wrote(&record)
            && !entity.remember(key, record.header(IDEMPOTENCY_INDEX))
        {
            Verdict::Duplicate
        } else if redriven
            .as_ref()
            .is_some_and(|redriven| entity.was_redone(redriven))
        {
            Verdict::Duplicate
        } else {
            // Whether a halted entity takes the event is known when its turn comes: a
            // redriven event before it may end the halt.
            Verdict::Process
        };
        entity.queue.push(Pending {
            record,
            verdict,
            redriven,
            attempt,
        });
    }

    /// Brings an entity into memory with what its checkpoint says of it; the plugin
    /// opens it later. Returns none if its partition has to stop.
    pub(super) fn load(
        &mut self,
        partition: PartitionId,
        key: Key,
        now: Instant,
    ) -> Result<Option<usize>, LogError> {
        let read = match self.read(partition, &key) {
            Ok(read) => read,
            Err(NotRead::Unusable(stop)) => {
                self.stop(partition, stop);
                return Ok(None);
            }
            Err(NotRead::Log(error)) => return Err(error),
        };
        let late = self.late(partition, &key)?;
        // The key is copied, because a slice would keep the whole batch in memory that
        // it came in.
        let key = Key::copy_from_slice(&key);
        self.clock += 1;
        let id = self.entities.insert(Entity {
            partition,
            key: key.clone(),
            home: None,
            loaded: Some(Loaded { saved: read.saved }),
            committed: Some(Committed {
                bytes: read.committed,
            }),
            suspicion: 0,
            overruns: 0,
            went_well: false,
            recent: read.recent,
            halted_before: read.halted.clone(),
            redone: read.redone,
            halted: read.halted,
            queue: Vec::new(),
            done: 0,
            produced: Vec::new(),
            mark: None,
            touched: false,
            prepared: Prepared::Nothing,
            late,
            kept: 0,
            used: self.clock,
            used_at: now,
        });
        self.order.insert(self.clock, id);
        self.index.insert((partition, key), id);
        Ok(Some(id))
    }

    /// Reads an entity's checkpoint. A checkpoint that cannot be used stops the
    /// partition.
    fn read(&self, partition: PartitionId, key: &Key) -> Result<Read, NotRead> {
        let Some((bytes, envelope)) = self.checkpoints.read(partition, key)? else {
            return Ok(Read::default());
        };
        let position = self.tasks.get(&partition).map(|task| task.committed);
        if let Some(position) = position
            && envelope.offset >= position
        {
            return Err(NotRead::Unusable(Stop {
                code: "checkpoint-ahead",
                reason: format!(
                    "the checkpoint of {} stands at offset {}, and the partition's committed offset is {position}",
                    String::from_utf8_lossy(key),
                    envelope.offset,
                ),
                waits: false,
            }));
        }
        Ok(Read {
            committed: Some(bytes),
            recent: envelope.recent,
            halted: envelope.halted,
            redone: envelope.redone,
            saved: envelope.saved,
        })
    }
}

/// The key of a record, or why it can have no entity.
pub fn usable_key(record: &Record) -> Result<&Key, (&'static str, &'static str)> {
    match &record.key {
        None => Err(("event-without-key", "the record has no key")),
        // No request could name an empty key, and no address would show it.
        Some(key) if key.is_empty() => Err(("event-without-key", "the record's key is empty")),
        Some(key) if key.len() > ENTITY_KEY_BYTES_MAX => Err((
            "event-key-too-long",
            "the record's key is longer than 4096 bytes",
        )),
        Some(key) if std::str::from_utf8(key).is_err() => {
            Err(("event-key-not-utf8", "the record's key is not UTF-8"))
        }
        Some(key) => Ok(key),
    }
}
