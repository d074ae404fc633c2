//! `nba-scoring` without WebAssembly, behind the interface that the workers
//! see: the difference is the cost of the sandbox.

use std::sync::Arc;

use courtside_plugin::native;
use courtside_plugin_host::{
    CompileRun, Compiler, Description, Emission, EntityId, Event, Failure, Instance, Limits,
    OpenError, Outcome, Plugin, Refusal, Rejection, SavedState,
};
use courtside_types::{Digest, Header};
use nba_scoring::Game;
use slab::Slab;

/// Takes any file for `nba-scoring`.
pub struct NativeCompiler;

impl Compiler for NativeCompiler {
    fn compile_for(
        &self,
        bytes: &[u8],
        _: &Limits,
        _: &CompileRun,
    ) -> Result<Arc<dyn Plugin>, Rejection> {
        let described = native::describe::<Game>();
        Ok(Arc::new(Native {
            digest: Digest::of(bytes),
            description: Description {
                name: described.name.into(),
                version: described.version.into(),
                writes: described.writes.into(),
                reads: described.reads.into_iter().map(Into::into).collect(),
            },
        }))
    }
}

struct Native {
    digest: Digest,
    description: Description,
}

impl Plugin for Native {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn instantiate(&self) -> Result<Box<dyn Instance>, Failure> {
        Ok(Box::new(Entities(Slab::new())))
    }
}

struct Entities(Slab<native::Entity<Game>>);

impl Entities {
    fn get(&mut self, id: EntityId) -> &mut native::Entity<Game> {
        self.0
            .get_mut(id.0 as usize)
            .expect("workers use what they opened")
    }
}

impl Instance for Entities {
    fn open(&mut self, key: &str, saved: Option<&SavedState>) -> Result<EntityId, OpenError> {
        let saved = saved.map(|saved| native::Checkpoint {
            format: saved.format.to_string(),
            state: saved.state.to_vec(),
        });
        let entity = native::Entity::open(key, saved.as_ref()).map_err(OpenError::Refused)?;
        Ok(EntityId(self.0.insert(entity) as u32))
    }

    fn process(&mut self, id: EntityId, events: &[Event<'_>]) -> Result<Outcome, Failure> {
        let events = events
            .iter()
            .map(|event| native::Event {
                offset: event.record.offset.0,
                timestamp: event.record.timestamp_ms,
                seed: event.seed,
                headers: event
                    .record
                    .headers
                    .iter()
                    .map(|header| native::Header {
                        name: header.name.to_string(),
                        value: header.value.as_ref().map(|value| value.to_vec()),
                    })
                    .collect(),
                value: event.record.value.as_deref().unwrap_or_default().to_vec(),
            })
            .collect();
        let outcome = self.get(id).process(events);
        Ok(Outcome {
            emissions: outcome.emissions.into_iter().map(emission).collect(),
            refused: outcome.refused.map(|refusal| Refusal {
                index: refusal.index as usize,
                reason: refusal.reason,
            }),
        })
    }

    fn checkpoint(&mut self, id: EntityId) -> Result<Option<SavedState>, Failure> {
        Ok(self.get(id).checkpoint().map(|checkpoint| SavedState {
            format: checkpoint.format.into(),
            state: checkpoint.state.into(),
        }))
    }

    fn close(&mut self, id: EntityId) {
        self.0.try_remove(id.0 as usize);
    }
}

fn emission(emission: native::Emission) -> Emission {
    Emission {
        event: emission.event as usize,
        output: emission.output.map(Into::into),
        key: emission.key.map(Into::into),
        headers: emission
            .headers
            .into_iter()
            .map(|header| Header {
                name: header.name.into(),
                value: header.value.map(Into::into),
            })
            .collect(),
        value: emission.value.map(Into::into),
    }
}
