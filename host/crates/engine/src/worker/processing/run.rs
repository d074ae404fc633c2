//! Runs entities: their events go to plugins. When a plugin fails, what was not
//! committed runs again from memory.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use courtside_log::LogError;
use courtside_plugin_host as plugin;
use courtside_plugin_host::{
    Emission, Event, Failure, FailureKind, OpenError, Outcome, SavedState,
};
use courtside_types::Offset;

use super::{CheckpointReader, Hurdle, Interrupted, NotOpened, Processing, Stop, corrupt};
use crate::{
    pipeline::Pipeline,
    worker::{
        breaker::{self, Step},
        entity::{Committed, ENTITY_HALTED, Entity, Loaded, Mark, Pending, Produced, Verdict},
        envelope::Halt,
        instances::{Active, Home, InstanceId},
        metrics, output,
    },
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

    /// Opens an entity from its mark or its committed checkpoint.
    fn open(&mut self, id: usize) -> Result<Home, NotOpened> {
        let Some(entity) = self.entities.get_mut(id) else {
            return Err(Hurdle::Failed.into());
        };
        entity.home = None;
        let Some(active) = self.actives.of(&entity.key).cloned() else {
            return Err(Hurdle::Stopped(Stop {
                code: "plugin-missing",
                reason: "the pipeline has no plugin".into(),
                waits: true,
            })
            .into());
        };
        let saved = saved_state(&self.checkpoints, entity)?;
        if let Some(saved) = &saved {
            check_format(entity, &active, saved)?;
        }
        let alone = entity.suspicion > 0;
        let key = entity.key.clone();
        // The plugin was instantiated when it was compiled. A failure now is not the
        // entity's: the host is short of something.
        let instance = self
            .instances
            .with_room(&active, alone)
            .map_err(|failure| LogError::Unavailable {
                reason: format!("no instance of the plugin can be made: {failure}"),
            })?;
        match self.open_in(instance, &key, saved.as_ref()) {
            Ok(home) => {
                self.counts.opens += 1;
                if let Some(entity) = self.entities.get_mut(id) {
                    entity.home = Some(home);
                }
                self.instances.moved_in(home.instance, id);
                Ok(home)
            }
            Err(OpenError::Failed(failure)) if !alone => {
                self.suspect(id, &failure);
                Err(Hurdle::Failed.into())
            }
            Err(OpenError::Failed(failure)) => {
                self.note_costly(id, Step::Work, failure.kind);
                Err(Hurdle::Halted(halt_of(&failure)).into())
            }
            Err(OpenError::Refused(reason)) => {
                Err(Hurdle::Halted(halt_for("plugin-open-refused", reason)).into())
            }
        }
    }

    pub(super) fn open_in(
        &mut self,
        instance: InstanceId,
        key: &[u8],
        saved: Option<&SavedState>,
    ) -> Result<Home, OpenError> {
        let Some(held) = self.instances.get_mut(instance) else {
            return Err(OpenError::Refused(
                "the instance of the plugin no longer exists".into(),
            ));
        };
        // Keys that are not UTF-8 became dead letters before.
        let opened = held.instance.open(&String::from_utf8_lossy(key), saved);
        let alone = held.alone;
        if let Err(OpenError::Failed(failure)) = &opened {
            held.figures.failed(failure.kind);
        }
        match opened {
            Ok(entity) => Ok(Home { instance, entity }),
            Err(error) => {
                if alone || matches!(error, OpenError::Failed(_)) {
                    self.retire_and_rewind(instance);
                }
                Err(error)
            }
        }
    }

    /// One call of the plugin, with as many of an entity's next events as fit.
    fn call(&mut self, id: usize, home: Home) -> Option<Hurdle> {
        let entity = self.entities.get(id)?;
        let held = self.instances.get_mut(home.instance)?;
        let events = next_events(&self.pipeline, entity, held.alone);
        let count = events.len();
        self.counts.calls += 1;
        let started = Instant::now();
        let outcome = held.instance.process(home.entity, &events);
        held.figures.called(count, started.elapsed());
        drop(events);
        match outcome.and_then(|outcome| output::check(&self.pipeline, count, outcome)) {
            Ok(outcome) => self.call_went_well(id, home, count, outcome),
            Err(failure) => Some(self.call_failed(id, home, &failure)),
        }
    }

    /// A call failed: the entity becomes a suspect, or its event a dead letter, or the
    /// entity halts.
    fn call_failed(&mut self, id: usize, home: Home, failure: &Failure) -> Hurdle {
        let mut hurdle = Hurdle::Failed;
        let mut is_again = false;
        if let Some(held) = self.instances.get_mut(home.instance)
            && let Some(entity) = self.entities.get_mut(id)
        {
            held.figures.failed(failure.kind);
            if held.alone {
                if failure.kind.is_costly() {
                    entity.overruns += 1;
                    is_again = entity.overruns >= breaker::EVENTS_MAX;
                }
                if is_again && entity.halted.is_none() {
                    hurdle = Hurdle::Halted(halt_of(failure));
                } else if let Some(pending) = entity.queue.get_mut(entity.done) {
                    pending.verdict = Verdict::Dead {
                        code: failure.kind.code(),
                        reason: failure.message.clone(),
                    };
                }
            }
        }
        if is_again {
            self.note_costly(id, Step::Work, failure.kind);
        }
        self.suspect(id, failure);
        self.retire_and_rewind(home.instance);
        hurdle
    }

    /// Takes the outcome of a call with `count` events.
    fn call_went_well(
        &mut self,
        id: usize,
        home: Home,
        count: usize,
        outcome: Outcome,
    ) -> Option<Hurdle> {
        let entity = self.entities.get_mut(id)?;
        let held = self.instances.get_mut(home.instance)?;
        let refused = outcome.refused;
        if refused.is_some() {
            held.figures.refused();
        }
        let active = Arc::clone(&held.active);
        entity.overruns = 0;
        entity.went_well = true;
        self.breakers.went_well(&active.slot, Step::Work);
        let first = entity.done;
        self.take_emissions(id, &active, outcome.emissions);
        let entity = self.entities.get_mut(id)?;
        entity.done = first + refused.as_ref().map_or(count, |refusal| refusal.index);
        if let Some(refusal) = refused
            && let Some(pending) = entity.queue.get_mut(entity.done)
        {
            // The state is as before this event, so the plugin need not be asked again.
            pending.verdict = Verdict::Dead {
                code: "event-refused",
                reason: refusal.reason,
            };
        } else if entity.halted.is_some() {
            self.end_halt(id, first);
        }
        if self.instances.is_alone(home.instance) {
            return self.mark(id, home);
        }
        None
    }

    /// Takes what a plugin emitted for an entity's next events.
    fn take_emissions(&mut self, id: usize, active: &Active, mut emissions: Vec<Emission>) {
        let Some(entity) = self.entities.get_mut(id) else {
            return;
        };
        if !emissions.is_sorted_by_key(|emission| emission.event) {
            // Events in calls of their own would have led to the emissions in this
            // order.
            emissions.sort_by_key(|emission| emission.event);
        }
        for emission in emissions {
            let Some(pending) = entity.queue.get(entity.done + emission.event) else {
                continue;
            };
            self.shared |= emission.key.as_ref().is_some_and(|key| *key != entity.key);
            let Some((place, record)) = output::emission(
                &self.pipeline,
                active,
                entity.partition,
                &entity.key,
                &pending.record,
                pending.attempt,
                emission,
            ) else {
                continue;
            };
            self.pending_bytes += record.size();
            entity.produced.push(Produced {
                source: (entity.partition, pending.record.offset),
                place,
                record,
            });
        }
    }

    /// Notes how far an entity has come that runs alone.
    pub(super) fn mark(&mut self, id: usize, home: Home) -> Option<Hurdle> {
        let entity = self.entities.get_mut(id)?;
        let held = self.instances.get_mut(home.instance)?;
        entity.suspicion = entity.suspicion.saturating_sub(1);
        match held.instance.checkpoint(home.entity) {
            Ok(saved) => {
                self.breakers.went_well(&held.active.slot, Step::Checkpoint);
                entity.mark = Some(Mark {
                    done: entity.done,
                    produced: entity.produced.len(),
                    saved,
                    halted: entity.halted.clone(),
                });
                None
            }
            Err(failure) => {
                held.figures.failed(failure.kind);
                self.note_costly(id, Step::Checkpoint, failure.kind);
                self.retire_and_rewind(home.instance);
                Some(Hurdle::Halted(halt_of(&failure)))
            }
        }
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
    fn note_costly(&mut self, id: usize, step: Step, kind: FailureKind) {
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
    fn end_halt(&mut self, id: usize, position: usize) {
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

/// The state that an entity opens from.
fn saved_state(
    checkpoints: &CheckpointReader,
    entity: &mut Entity,
) -> Result<Option<SavedState>, NotOpened> {
    if let Some(mark) = &entity.mark {
        return Ok(mark.saved.clone());
    }
    if let Some(Loaded { saved }) = entity.loaded.take() {
        return Ok(saved);
    }
    let read = match checkpoints.read(entity.partition, &entity.key) {
        Err(LogError::Corrupt { reason }) => {
            return Err(Hurdle::Stopped(corrupt(&entity.key, &reason)).into());
        }
        read => read?,
    };
    let (bytes, saved) = read
        .map(|(bytes, envelope)| (bytes, envelope.saved))
        .unzip();
    entity.committed = Some(Committed { bytes });
    Ok(saved.flatten())
}

/// Returns a hurdle if the entity's plugin cannot read its state.
fn check_format(entity: &Entity, active: &Active, saved: &SavedState) -> Result<(), Hurdle> {
    let description = active.plugin.description();
    if description.reads.contains(&saved.format) {
        return Ok(());
    }
    let code = "plugin-cannot-read";
    let reason = format!(
        "the checkpoint of {} is in format {}, the plugin {} {} reads {}",
        String::from_utf8_lossy(&entity.key),
        saved.format,
        description.name,
        description.version,
        description.reads.join(", "),
    );
    // An entity that is halted already is no reason for the others to wait.
    Err(if entity.halted.is_some() {
        Hurdle::Halted(halt_for(code, reason))
    } else {
        Hurdle::Stopped(Stop {
            code,
            reason,
            waits: true,
        })
    })
}

/// An entity's next events, as many as one call takes.
fn next_events<'a>(pipeline: &Pipeline, entity: &'a Entity, is_alone: bool) -> Vec<Event<'a>> {
    let settings = &pipeline.settings;
    // While an entity is halted, the end of each event decides about the next.
    let count_max = if is_alone || entity.halted.is_some() {
        1
    } else {
        settings.call_events_max
    };
    let mut bytes = 0;
    entity
        .queue
        .get(entity.done..)
        .unwrap_or_default()
        .iter()
        .take(count_max)
        .take_while(|pending| {
            bytes += pending.record.size();
            pending.verdict == Verdict::Process
                && (bytes <= settings.call_bytes_max || bytes == pending.record.size())
        })
        .map(|pending| Event {
            record: &pending.record,
            seed: plugin::seed(&pipeline.input, entity.partition, pending.record.offset),
        })
        .collect()
}

fn halt_of(failure: &Failure) -> Halt {
    halt_for(failure.kind.code(), failure.message.clone())
}

fn halt_for(code: &'static str, reason: String) -> Halt {
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
