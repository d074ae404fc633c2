//! The calls of a plugin: an entity is opened, processes events, and marks how far it has
//! come.

use std::{sync::Arc, time::Instant};

use courtside_log::LogError;
use courtside_plugin_host as plugin;
use courtside_plugin_host::{Emission, Event, Failure, OpenError, Outcome, SavedState};

use super::{
    Hurdle, NotOpened, Processing, Stop,
    checkpoints::CheckpointReader,
    run::{halt_for, halt_of},
};
use crate::{
    pipeline::Pipeline,
    worker::{
        breaker::{self, Step},
        entity::{Committed, Entity, Loaded, Mark, Produced, Verdict},
        instances::{Active, Home, InstanceId},
        output,
    },
};

impl Processing {
    /// Opens an entity from its mark or its committed checkpoint.
    pub(super) fn open(&mut self, id: usize) -> Result<Home, NotOpened> {
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
            held.gauges.failed(failure.kind);
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
    pub(super) fn call(&mut self, id: usize, home: Home) -> Option<Hurdle> {
        let entity = self.entities.get(id)?;
        let held = self.instances.get_mut(home.instance)?;
        let events = next_events(&self.pipeline, entity, held.alone);
        let count = events.len();
        self.counts.calls += 1;
        let started = Instant::now();
        let outcome = held.instance.process(home.entity, &events);
        held.gauges.called(count, started.elapsed());
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
            held.gauges.failed(failure.kind);
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
            held.gauges.refused();
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
                held.gauges.failed(failure.kind);
                self.note_costly(id, Step::Checkpoint, failure.kind);
                self.retire_and_rewind(home.instance);
                Some(Hurdle::Halted(halt_of(&failure)))
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
    let read = checkpoints.read(entity.partition, &entity.key)?;
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
