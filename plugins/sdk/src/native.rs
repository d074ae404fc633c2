//! A plugin's logic as plain Rust, on the types of the contract. The
//! WebAssembly export, the test harness and code that runs a plugin natively
//! all turn events into outcomes here.

use crate::{Decode, Meta, Output, Processor};

pub use crate::contract::courtside::plugin::types::{
    Checkpoint, Description, Emission, Event, Header, Outcome, Refusal,
};

/// A plugin's description of itself.
#[must_use]
pub fn describe<P: Processor>() -> Description {
    let writes = format_of::<P>();
    let mut reads = vec![writes.clone()];
    reads.extend(P::READS.iter().map(ToString::to_string));
    Description {
        name: P::NAME.to_owned(),
        version: P::VERSION.to_owned(),
        writes,
        reads,
    }
}

fn format_of<P: Processor>() -> String {
    format!("{}/{}", P::NAME, P::FORMAT)
}

/// One open key. It owns its state and nothing outside of it.
#[derive(Debug)]
pub struct Entity<P> {
    key: String,
    state: P,
    /// Whether the state is as [`Processor::open`] makes it, with nothing to
    /// save.
    blank: bool,
    /// How long the last emission was: a guess at the next one's length.
    value_bytes: usize,
}

impl<P: Processor> Entity<P> {
    /// Opens a key never seen before, or one with a checkpoint.
    ///
    /// # Errors
    /// Why the checkpoint cannot be opened.
    pub fn open(key: &str, saved: Option<&Checkpoint>) -> Result<Self, String> {
        let state = match saved {
            None => P::open(key),
            Some(saved) => Self::restore(key, saved)?,
        };
        Ok(Self {
            key: key.to_owned(),
            state,
            blank: saved.is_none(),
            value_bytes: 0,
        })
    }

    fn restore(key: &str, Checkpoint { format, state }: &Checkpoint) -> Result<P, String> {
        if *format == format_of::<P>() {
            P::decode(state)
        } else if P::READS.contains(&format.as_str()) {
            P::migrate(key, format, state)
        } else {
            Err(format!(
                "{} {} does not read the format {format}",
                P::NAME,
                P::VERSION
            ))
        }
    }

    /// Processes events in order, up to the first that is refused; the caller
    /// goes on with those after it.
    pub fn process(&mut self, events: Vec<Event>) -> Outcome {
        let mut out = Output::new(self.value_bytes, events.len());
        let mut refused = None;
        for (index, event) in (0..).zip(events) {
            out.begin(index);
            if let Err(refusal) = self.step(event, &mut out) {
                refused = Some(Refusal {
                    index,
                    reason: refusal.into_reason(),
                });
                break;
            }
        }
        self.value_bytes = out.value_bytes();
        Outcome {
            emissions: out.into_emissions(),
            refused,
        }
    }

    fn step(&mut self, event: Event, out: &mut Output) -> Result<(), crate::Refusal> {
        let meta = Meta {
            key: &self.key,
            offset: event.offset,
            timestamp_ms: event.timestamp,
            seed: event.seed,
            headers: &event.headers,
        };
        let event = P::Event::decode(event.value)?;
        self.state.check(&event, &meta)?;
        self.state.apply(event, &meta, out);
        // The state is dropped at once, not at the checkpoint: the time of a
        // checkpoint depends on the batching, and later outcomes must not.
        self.blank = self.state.is_done();
        if self.blank {
            self.state = P::open(&self.key);
        }
        Ok(())
    }

    /// The state as bytes; `None` if there is nothing to remember.
    ///
    /// # Panics
    /// If the state cannot be encoded: the host halts that entity alone.
    #[must_use]
    #[allow(
        clippy::panic,
        reason = "the contract's checkpoint has no error: a trap halts the entity, where \
                  a wrong checkpoint would lose it"
    )]
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        if self.blank {
            return None;
        }
        match self.state.encode() {
            Ok(state) => Some(Checkpoint {
                format: format_of::<P>(),
                state,
            }),
            Err(error) => panic!("the state of {} cannot be encoded: {error}", P::NAME),
        }
    }
}
