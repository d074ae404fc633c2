//! An instance of a plugin, as the worker sees it: it numbers entities, and checks
//! results for rules that the contract's types cannot say.

use bytes::Bytes;
use bytestring::ByteString;
use wasmtime::component::ResourceAny;

use super::{contract::OpenAnswer, failure::Call, guest::Guest, line::one_line};
use crate::{
    Emission, EntityId, Event, Failure, FailureKind, Instance, OpenError, Outcome, SavedState,
};

/// Bytes of a plugin's reason for refusing: it becomes a record header.
const REASON_BYTES_MAX: usize = 1_024;

pub struct WasmInstance {
    guest: Guest,
    /// The format every checkpoint must have.
    writes: ByteString,
    /// The open entities, by [`EntityId`]; numbers of closed ones are used
    /// again.
    entities: Vec<Option<ResourceAny>>,
    vacant: Vec<u32>,
}

impl WasmInstance {
    pub const fn new(guest: Guest, writes: ByteString) -> Self {
        Self {
            guest,
            writes,
            entities: Vec::new(),
            vacant: Vec::new(),
        }
    }

    fn insert(&mut self, entity: ResourceAny) -> EntityId {
        let vacant = self.vacant.pop();
        if let Some(number) = vacant
            && let Some(place) = self.entities.get_mut(number as usize)
        {
            *place = Some(entity);
            return EntityId(number);
        }
        // A store holds fewer than 100,000 handles.
        let number = u32::try_from(self.entities.len()).unwrap_or(u32::MAX);
        self.entities.push(Some(entity));
        EntityId(number)
    }

    fn entity(&mut self, call: Call, id: EntityId) -> Result<ResourceAny, Failure> {
        let entity = self.entities.get(id.0 as usize).copied().flatten();
        entity.ok_or_else(|| {
            let what = format!("entity {} is not open", id.0);
            self.guest.end(call, FailureKind::Contract, what)
        })
    }
}

impl Instance for WasmInstance {
    fn open(&mut self, key: &str, saved: Option<&SavedState>) -> Result<EntityId, OpenError> {
        match self.guest.open(key, saved)? {
            OpenAnswer::Entity(entity) => Ok(self.insert(entity)),
            OpenAnswer::Refusal(reason) => {
                Err(OpenError::Refused(one_line(&reason, REASON_BYTES_MAX)))
            }
        }
    }

    fn process(&mut self, id: EntityId, events: &[Event<'_>]) -> Result<Outcome, Failure> {
        let entity = self.entity(Call::Process, id)?;
        let mut outcome = self.guest.process(entity, events)?;
        let emitted_bytes_max = self.guest.limits().emitted_bytes_max;
        if let Err((kind, what)) = check_outcome(&outcome, events.len(), emitted_bytes_max) {
            return Err(self.guest.end(Call::Process, kind, what));
        }
        if let Some(refusal) = &mut outcome.refused {
            refusal.reason = one_line(&refusal.reason, REASON_BYTES_MAX);
        }
        Ok(outcome)
    }

    fn checkpoint(&mut self, id: EntityId) -> Result<Option<SavedState>, Failure> {
        let entity = self.entity(Call::Checkpoint, id)?;
        let saved = self.guest.checkpoint(entity)?;
        let bytes_max = self.guest.limits().checkpoint_bytes_max;
        let Some(saved) = saved else {
            return Ok(None);
        };
        if saved.format != self.writes {
            let what = format!(
                "the format is {:?}, it described itself as writing {}",
                one_line(&saved.format, 80),
                self.writes
            );
            return Err(self
                .guest
                .end(Call::Checkpoint, FailureKind::Contract, what));
        }
        if saved.state.len() > bytes_max {
            let what = format!(
                "the state has {} bytes, the limit checkpoint_bytes_max is {bytes_max}",
                saved.state.len()
            );
            let kind = FailureKind::CheckpointSize;
            return Err(self.guest.end(Call::Checkpoint, kind, what));
        }
        Ok(Some(SavedState {
            // All checkpoints share one text of the format.
            format: self.writes.clone(),
            state: saved.state,
        }))
    }

    fn close(&mut self, id: EntityId) {
        let entity = self.entities.get_mut(id.0 as usize).and_then(Option::take);
        if let Some(entity) = entity {
            self.vacant.push(id.0);
            // A destructor that fails ends the instance; the next call returns the
            // failure.
            if let Err(failure) = self.guest.close(entity) {
                tracing::warn!(%failure, "plugin failed to close an entity");
            }
        }
    }
}

fn check_outcome(
    outcome: &Outcome,
    events: usize,
    emitted_bytes_max: usize,
) -> Result<(), (FailureKind, String)> {
    let processed = match &outcome.refused {
        Some(refusal) if refusal.index >= events => {
            let index = refusal.index;
            let what = format!("it refused event {index} of {events}");
            return Err((FailureKind::Contract, what));
        }
        Some(refusal) => refusal.index,
        None => events,
    };
    let mut bytes = 0;
    for emission in &outcome.emissions {
        if emission.event >= processed {
            let what = format!(
                "an emission belongs to event {}, {processed} were processed",
                emission.event
            );
            return Err((FailureKind::Contract, what));
        }
        bytes += emitted_bytes(emission);
    }
    if bytes > emitted_bytes_max {
        let what =
            format!("it emitted {bytes} bytes, the limit emitted_bytes_max is {emitted_bytes_max}");
        return Err((FailureKind::Emitted, what));
    }
    Ok(())
}

fn emitted_bytes(emission: &Emission) -> usize {
    let headers: usize = emission
        .headers
        .iter()
        .map(|header| header.name.len() + header.value.as_ref().map_or(0, Bytes::len))
        .sum();
    headers
        + emission.key.as_ref().map_or(0, Bytes::len)
        + emission.value.as_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Refusal;

    fn outcome(emissions: &[usize], refused: Option<usize>) -> Outcome {
        Outcome {
            emissions: emissions
                .iter()
                .map(|&event| Emission {
                    event,
                    output: None,
                    key: None,
                    headers: Vec::new(),
                    value: Some(Bytes::from_static(b"12345")),
                })
                .collect(),
            refused: refused.map(|index| Refusal {
                index,
                reason: String::new(),
            }),
        }
    }

    fn kind(outcome: &Outcome) -> Option<FailureKind> {
        check_outcome(outcome, 3, 20).err().map(|(kind, _)| kind)
    }

    #[test]
    fn emissions_belong_to_events_that_were_processed() {
        assert_eq!(kind(&outcome(&[0, 2, 1], None)), None);
        assert_eq!(kind(&outcome(&[3], None)), Some(FailureKind::Contract));
        assert_eq!(kind(&outcome(&[0, 1], Some(2))), None);
        assert_eq!(kind(&outcome(&[2], Some(2))), Some(FailureKind::Contract));
        assert_eq!(kind(&outcome(&[], Some(0))), None);
        assert_eq!(kind(&outcome(&[], Some(3))), Some(FailureKind::Contract));
    }

    #[test]
    fn what_is_emitted_counts_together() {
        assert_eq!(kind(&outcome(&[0; 4], None)), None);
        assert_eq!(kind(&outcome(&[0; 5], None)), Some(FailureKind::Emitted));
    }
}
