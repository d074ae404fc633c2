//! Runs entities: their events go to plugins. When a plugin fails, what was not
//! committed runs again from memory.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use courtside_log::LogError;
use courtside_plugin_host::{Failure, FailureKind};
use courtside_types::Offset;

use super::{Hurdle, Interrupted, NotOpened, Processing};
use crate::worker::{
    breaker::Step,
    entity::{ENTITY_HALTED, Pending, Produced, Verdict},
    envelope::Halt,
    instances::InstanceId,
    metrics, output,
};

/// Events a suspect processes alone, without a failure, before it may live with
/// others again.
const SUSPICION_EVENTS: u32 = 64;

/// A run that took longer than this is cut short when a caller waits for the worker.
const INTERRUPTED_TIME_MAX: Duration = Duration::from_millis(250);

impl Processing {
    /// Runs every entity to the end of its queue.
    pub(super) fn run_all(&mut self) -> Result<(), Interrupted> {
        // The loop ends: each failure makes an entity a suspect, an event a dead
        // letter, or halts an entity, and there are finitely many of each.
        let mut again = true;
        while again {
            again = false;
            let mut position = 0;
            while let Some(id) = self.dirty.get(position).copied() {
                position += 1;
                while let Some(hurdle) = self.advance(id)? {
                    // The entity's neighbours may have work to do again.
                    again = true;
                    self.overcome(id, hurdle);
                }
            }
        }
        Ok(())
    }

    /// Runs an entity to the end of its queue, or into a hurdle.
    pub(super) fn advance(&mut self, id: usize) -> Result<Option<Hurdle>, Interrupted> {
        loop {
            self.keep_within_budget()?;
            let Some(entity) = self.entities.get_mut(id) else {
                return Ok(None);
            };
            let is_next = |pending: &Pending| pending.verdict == Verdict::Process;
            if entity.queue.get(entity.done).is_some_and(is_next)
                && !entity.admits_next()
                && let Some(pending) = entity.queue.get_mut(entity.done)
            {
                pending.verdict = Verdict::Halted;
            }
            let Some(pending) = entity.queue.get(entity.done) else {
                // An entity that ran alone has its state in its mark, and no longer
                // needs the instance. Closing it leaves a worker with one such instance
                // at a time.
                if let Some(home) = entity.home
                    && self.instances.is_alone(home.instance)
                {
                    entity.home = None;
                    self.instances.close(home, id);
                }
                return Ok(None);
            };
            match &pending.verdict {
                Verdict::Duplicate => {
                    let position = entity.done;
                    entity.done += 1;
                    self.end_halt(id, position);
                }
                Verdict::Dead { .. } | Verdict::Halted => self.put_aside(id),
                Verdict::Process => {
                    if let Some(hurdle) = self.process_next(id)? {
                        return Ok(Some(hurdle));
                    }
                }
            }
        }
    }

    /// Makes a dead letter of an entity's next event.
    fn put_aside(&mut self, id: usize) {
        let Some(entity) = self.entities.get_mut(id) else {
            return;
        };
        let Some(pending) = entity.queue.get(entity.done) else {
            return;
        };
        let halted;
        let (code, reason) = match &pending.verdict {
            Verdict::Dead { code, reason } => (code, reason),
            _ => {
                halted = entity.halted.as_ref().map(halted_by).unwrap_or_default();
                (&ENTITY_HALTED, &halted)
            }
        };
        let (place, record) = output::dead_letter(
            &self.pipeline,
            self.actives.of(&entity.key),
            entity.partition,
            &pending.record,
            pending.attempt,
            code,
            reason,
        );
        self.pending_bytes += record.size();
        self.has_letters = true;
        let ended = *code != ENTITY_HALTED;
        entity.produced.push(Produced {
            source: (entity.partition, pending.record.offset),
            place,
            record,
        });
        let position = entity.done;
        if ended {
            self.end_halt(id, position);
        } else {
            entity.note_letter();
        }
        if let Some(entity) = self.entities.get_mut(id) {
            entity.done += 1;
        }
    }

    /// Has the plugin process an entity's next events, as many as fit into a call.
    fn process_next(&mut self, id: usize) -> Result<Option<Hurdle>, LogError> {
        let Some(entity) = self.entities.get(id) else {
            return Ok(None);
        };
        let is_redriven = entity
            .queue
            .get(entity.done)
            .is_some_and(|pending| pending.redriven.is_some());
        // The breaker lets a redriven event pass, because somebody wants it tried. It
        // also lets an entity pass that went well since the last commit: such an entity
        // may run again only because another one failed.
        if entity.halted.is_none()
            && !is_redriven
            && !entity.went_well
            && let Some(active) = self.actives.of(&entity.key)
            && let Some(limit) = self.breakers.refuses(&active.slot, Instant::now)
        {
            let reason = "its plugin goes over a limit at every call".to_owned();
            return Ok(Some(Hurdle::Halted(halt_for(limit.code(), reason))));
        }
        let home = match entity.home {
            Some(home) if self.instances.contains(home.instance) => home,
            _ => match self.open(id) {
                Ok(home) => home,
                Err(NotOpened::Hurdle(hurdle)) => return Ok(Some(hurdle)),
                Err(NotOpened::Log(error)) => return Err(error),
            },
        };
        Ok(self.call(id, home))
    }

    /// Halts the entity or stops its partition, as a hurdle demands.
    pub(super) fn overcome(&mut self, id: usize, hurdle: Hurdle) {
        match hurdle {
            Hurdle::Failed => {}
            Hurdle::Halted(halt) => self.halt(id, halt),
            Hurdle::Stopped(stop) => {
                if let Some(partition) = self.entities.get(id).map(|entity| entity.partition) {
                    self.stop(partition, stop);
                }
            }
        }
    }

    /// Tells the breakers of an entity that is halted, if its plugin's failure was
    /// costly to others.
    pub(super) fn note_costly(&mut self, id: usize, step: Step, kind: FailureKind) {
        let Some(entity) = self.entities.get(id) else {
            return;
        };
        if kind.is_costly()
            && let Some(active) = self.actives.of(&entity.key)
            && self.breakers.halted(
                &active.slot,
                step,
                kind,
                (entity.partition, entity.key.clone()),
                Instant::now(),
            )
        {
            tracing::error!(
                pipeline = %self.pipeline.name,
                slot = %active.slot,
                digest = %active.plugin.digest().short(),
                code = kind.code(),
                "plugin goes over a limit at every call, and is no longer called",
            );
        }
    }

    pub(super) fn suspect(&mut self, id: usize, failure: &Failure) {
        self.counts.failures += 1;
        if let Some(entity) = self.entities.get_mut(id) {
            entity.suspicion = SUSPICION_EVENTS;
            tracing::warn!(
                pipeline = %self.pipeline.name,
                partition = entity.partition.0,
                key = %String::from_utf8_lossy(&entity.key),
                code = failure.kind.code(),
                error = %failure.message,
                "plugin failed",
            );
        }
    }

    /// Halts an entity: its events are dead letters from here on, until they are
    /// redriven. Its work before stays, up to its mark or last commit.
    pub(super) fn halt(&mut self, id: usize, mut halt: Halt) {
        let Some(entity) = self.entities.get_mut(id) else {
            return;
        };
        tracing::error!(
            pipeline = %self.pipeline.name,
            partition = entity.partition.0,
            key = %String::from_utf8_lossy(&entity.key),
            code = %halt.code,
            reason = %halt.reason,
            "entity halted",
        );
        metrics::halted(&self.pipeline.name, &halt.code);
        let home = entity.home;
        self.pending_bytes = self.pending_bytes.saturating_sub(entity.rewind());
        // The first event left is the one that the entity could not take. The verdicts
        // of those after it are decided when their turn comes.
        let mut rest = entity.queue.iter_mut().skip(entity.done);
        if let Some(first) = rest.find(|pending| pending.verdict == Verdict::Process) {
            halt.newest = first.origin();
            first.verdict = Verdict::Dead {
                code: ENTITY_HALTED,
                reason: halted_by(&halt),
            };
        }
        if let Some(before) = &entity.halted {
            halt.newest = halt.newest.max(before.newest);
        }
        match &mut entity.mark {
            Some(mark) => mark.halted = Some(halt.clone()),
            None => entity.halted_before = Some(halt.clone()),
        }
        entity.halted = Some(halt);
        entity.touched = true;
        entity.suspicion = 0;
        if let Some(home) = home {
            self.instances.close(home, id);
        }
    }

    /// Ends an entity's halt if the event at `position` was the last that the halt kept
    /// back.
    pub(super) fn end_halt(&mut self, id: usize, position: usize) {
        if let Some(entity) = self.entities.get_mut(id)
            && entity.ends_halt(position)
        {
            tracing::info!(
                pipeline = %self.pipeline.name,
                partition = entity.partition.0,
                key = %String::from_utf8_lossy(&entity.key),
                "entity no longer halted",
            );
            metrics::halt_ended(&self.pipeline.name);
        }
    }

    pub(super) fn keep_within_budget(&self) -> Result<(), Interrupted> {
        let Some(budget) = &self.budget else {
            return Ok(());
        };
        let took = self.started.elapsed();
        if took > INTERRUPTED_TIME_MAX && budget.interrupt.load(Ordering::Relaxed) {
            return Err(Interrupted::Hurried);
        }
        if self.pending_bytes > budget.bytes_max {
            return Err(Interrupted::TooMuch);
        }
        if took > budget.time_max {
            return Err(Interrupted::TooLong);
        }
        Ok(())
    }

    /// Drops an instance, and sends all entities in it back to their marks or the last
    /// commit.
    pub(super) fn retire_and_rewind(&mut self, instance: InstanceId) {
        for resident in self.instances.retire(instance) {
            if let Some(entity) = self.entities.get_mut(resident) {
                self.pending_bytes = self.pending_bytes.saturating_sub(entity.rewind());
            }
        }
    }
}

pub(super) fn halt_of(failure: &Failure) -> Halt {
    halt_for(failure.kind.code(), failure.message.clone())
}

pub(super) fn halt_for(code: &'static str, reason: String) -> Halt {
    Halt {
        code: code.into(),
        reason,
        newest: Offset::default(),
        is_blocked: true,
    }
}

fn halted_by(halt: &Halt) -> String {
    format!("halted by {}: {}", halt.code, halt.reason)
}
