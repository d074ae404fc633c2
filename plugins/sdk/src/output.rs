//! The records that an event leads to.

use serde::Serialize;

use crate::contract::courtside::plugin::types::{Emission, Header};

/// Takes the records that an event leads to. They are published if and only if
/// the event is committed.
#[derive(Debug)]
pub struct Output {
    emissions: Vec<Emission>,
    /// Index, in the batch, of the event that is being processed.
    event: u32,
    /// How long the last value was: a guess at the next one.
    value_bytes: usize,
}

impl Output {
    pub(crate) fn new(value_bytes: usize, events: usize) -> Self {
        Self {
            emissions: Vec::with_capacity(events),
            event: 0,
            value_bytes,
        }
    }

    pub(crate) fn begin(&mut self, event: u32) {
        self.event = event;
    }

    pub(crate) fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    pub(crate) fn into_emissions(self) -> Vec<Emission> {
        self.emissions
    }

    /// Emits a value as JSON, with the entity's key, to the pipeline's default
    /// output. The returned handle can change both, and add headers.
    ///
    /// # Panics
    /// If the value cannot be serialized (a map whose keys are not strings, or a
    /// `Serialize` that fails). By then the event has changed the state, so it
    /// can neither be refused nor go on without its output. The trap makes the
    /// host restore the state and put the event with the dead letters.
    #[track_caller]
    #[allow(
        clippy::panic,
        reason = "a trap is the contract's word for it: see above"
    )]
    pub fn emit(&mut self, value: &(impl Serialize + ?Sized)) -> Emitted<'_> {
        // The buffer has room for a little more than the last value, so that a
        // value that grows by a digit needs no second allocation.
        let mut bytes = Vec::with_capacity(self.value_bytes + self.value_bytes / 8 + 64);
        if let Err(error) = serde_json::to_writer(&mut bytes, value) {
            panic!("an emission cannot be serialized: {error}");
        }
        self.value_bytes = bytes.len();
        self.push(Some(bytes))
    }

    /// Emits bytes as they are.
    pub fn emit_raw(&mut self, value: impl Into<Vec<u8>>) -> Emitted<'_> {
        self.push(Some(value.into()))
    }

    /// Emits a tombstone: the output no longer has that key.
    pub fn tombstone(&mut self) -> Emitted<'_> {
        self.push(None)
    }

    fn push(&mut self, value: Option<Vec<u8>>) -> Emitted<'_> {
        let emission = self.emissions.push_mut(Emission {
            event: self.event,
            output: None,
            key: None,
            headers: Vec::new(),
            value,
        });
        Emitted { emission }
    }
}

/// A record just emitted, to change its output or key or to add headers.
#[derive(Debug)]
pub struct Emitted<'a> {
    emission: &'a mut Emission,
}

impl Emitted<'_> {
    /// Sends the record to another of the pipeline's outputs.
    pub fn to(self, output: impl Into<String>) -> Self {
        self.emission.output = Some(output.into());
        self
    }

    /// Gives the record a key other than the entity's.
    pub fn key(self, key: impl Into<Vec<u8>>) -> Self {
        self.emission.key = Some(key.into());
        self
    }

    /// Adds a header. Names that begin with `courtside-` are the host's own: an
    /// emission with one makes its event a dead letter (`plugin-broke-contract`), so a
    /// plugin that passes on an event's headers leaves those out.
    pub fn header(self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.emission.headers.push(Header {
            name: name.into(),
            value: Some(value.into()),
        });
        self
    }
}
