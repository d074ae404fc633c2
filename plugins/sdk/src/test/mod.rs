//! The test harness: a plugin's logic in a plain `cargo test`.
//!
//! A case is a key and its events. [`Harness::run`] runs it once as plainly as
//! possible, and then again and again in other batchings, with checkpoints and
//! reopening between, and beside other keys in the same instance. Emissions,
//! refusals and the final checkpoint must be the same bytes each time; the
//! first difference panics and says which batching it was.
//!
//! An instance is a thread here: a value that a plugin keeps in a thread-local
//! stays behind when a key is reopened, as it would in WebAssembly. A static
//! outlives all threads, so its leaks show from one run to the next. The harness
//! misses only a value that the first key of the process leaves in a static and
//! that nothing overwrites: it looks the same in all runs.

#![allow(
    clippy::panic,
    clippy::expect_used,
    reason = "a test harness reports by panicking"
)]

mod batching;
mod compare;

use std::marker::PhantomData;

use serde::Serialize;
use serde_json::Value;

use crate::{
    Processor,
    native::{Checkpoint, Emission, Event, Header, Refusal},
};

use batching::{Plan, Random};

/// The environment variable that repeats the random batchings of a failed run.
const SEED_VARIABLE: &str = "COURTSIDE_TEST_SEED";

/// A host takes no emission with a header of this prefix.
const HOST_HEADER_PREFIX: &str = "courtside-";

/// A case: a key, its saved checkpoint if it has one, and events to feed it.
#[derive(Clone, Debug)]
pub struct Harness<P> {
    key: String,
    saved: Option<Checkpoint>,
    events: Vec<Event>,
    next_offset: u64,
    splits: usize,
    processor: PhantomData<fn() -> P>,
}

/// The outcome of a case, which is the same in every batching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The emissions in order; `event` counts the case's events from 0.
    pub emissions: Vec<Emission>,
    /// The refusals in order; `index` counts the case's events from 0.
    pub refusals: Vec<Refusal>,
    /// The final checkpoint; `None` if there is nothing left to remember.
    pub checkpoint: Option<Checkpoint>,
    key: String,
    next_offset: u64,
}

impl<P: Processor> Harness<P> {
    /// A key never seen before.
    #[must_use]
    pub fn new(key: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            saved: None,
            events: Vec::new(),
            next_offset: 0,
            splits: 6,
            processor: PhantomData,
        }
    }

    /// A key with a checkpoint, for instance one in an older format.
    #[must_use]
    pub fn saved(
        key: impl Into<String>,
        format: impl Into<String>,
        state: impl Into<Vec<u8>>,
    ) -> Self {
        Self {
            saved: Some(Checkpoint {
                format: format.into(),
                state: state.into(),
            }),
            ..Self::new(key)
        }
    }

    /// Sets in how many random batchings the case runs, beside the plain ones.
    #[must_use]
    pub fn splits(self, splits: usize) -> Self {
        Self { splits, ..self }
    }

    /// Feeds an event: anything that serializes to JSON (`json!`, a struct).
    pub fn feed(&mut self, value: impl Serialize) -> &mut Self {
        let value = serde_json::to_vec(&value).expect("an event that serializes to JSON");
        self.feed_raw(value)
    }

    /// Feeds one event after another.
    pub fn feed_all<V: Serialize>(&mut self, values: impl IntoIterator<Item = V>) -> &mut Self {
        for value in values {
            self.feed(value);
        }
        self
    }

    /// Feeds an event as bytes.
    pub fn feed_raw(&mut self, value: impl Into<Vec<u8>>) -> &mut Self {
        self.feed_with(value, Vec::new())
    }

    /// Feeds an event with headers.
    pub fn feed_with(&mut self, value: impl Into<Vec<u8>>, headers: Vec<Header>) -> &mut Self {
        let offset = self.next_offset;
        self.feed_event(Event {
            offset,
            timestamp: 1_700_000_000_000 + offset * 1_000,
            seed: Random::new(offset).next(),
            headers,
            value: value.into(),
        })
    }

    /// Feeds an event as it is, with an offset, a timestamp and a seed of its
    /// own. Offsets must grow.
    pub fn feed_event(&mut self, event: Event) -> &mut Self {
        assert!(
            event.offset >= self.next_offset,
            "offset {} is fed after {}",
            event.offset,
            self.next_offset
        );
        // Other keys have records between: offsets have gaps.
        self.next_offset = event.offset + 3;
        self.events.push(event);
        self
    }

    /// Runs the case in every batching.
    ///
    /// # Panics
    /// If the plugin does not open the checkpoint, panics itself, lets a
    /// refusal change the state, emits a header that is the host's own, or gives
    /// other bytes in another batching.
    #[must_use = "look at what came of it"]
    #[track_caller]
    pub fn run(&self) -> Run {
        let seed = seed();
        let mut random = Random::new(seed);
        let expected = self.execute(&Plan::all_at_once(self.events.len()));
        self.check_refusals();
        expected.check_headers();
        for plan in batching::plans(self.events.len(), self.splits, &mut random) {
            let run = self.execute(&plan);
            if let Some(difference) = compare::difference(&expected, &run) {
                panic!(
                    "the same events gave other bytes in another batching\n  \
                     key: {} ({} events)\n  \
                     batching: {plan}\n  \
                     {difference}\n  \
                     to repeat: {SEED_VARIABLE}={seed}",
                    self.key,
                    self.events.len(),
                );
            }
        }
        expected
    }

    /// The error of opening the checkpoint, if it fails.
    #[must_use]
    pub fn open_error(&self) -> Option<String> {
        crate::native::Entity::<P>::open(&self.key, self.saved.as_ref()).err()
    }
}

impl Run {
    /// The emitted values, parsed.
    ///
    /// # Panics
    /// If one is a tombstone or not JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Vec<Value> {
        self.emissions.iter().map(parse).collect()
    }

    /// The last emitted value, parsed.
    ///
    /// # Panics
    /// If there is none, or it is a tombstone or not JSON.
    #[must_use]
    #[track_caller]
    pub fn last(&self) -> Value {
        parse(self.emissions.last().expect("an emission"))
    }

    /// Why the event of that index was refused, if it was.
    #[must_use]
    pub fn refused(&self, index: u32) -> Option<&str> {
        self.refusals
            .iter()
            .find(|refusal| refusal.index == index)
            .map(|refusal| refusal.reason.as_str())
    }

    #[track_caller]
    fn check_headers(&self) {
        for emission in &self.emissions {
            for Header { name, .. } in &emission.headers {
                assert!(
                    !name.to_ascii_lowercase().starts_with(HOST_HEADER_PREFIX),
                    "event {} emits the header {name:?}, and names that begin with {HOST_HEADER_PREFIX} are the host's own",
                    emission.event
                );
            }
        }
    }

    /// A case that goes on from here, in this plugin or in another that is to
    /// take its place.
    #[must_use]
    pub fn reopen<P: Processor>(&self) -> Harness<P> {
        Harness {
            saved: self.checkpoint.clone(),
            next_offset: self.next_offset,
            ..Harness::new(self.key.clone())
        }
    }
}

#[track_caller]
fn parse(emission: &Emission) -> Value {
    let value = emission.value.as_deref().expect("a value, not a tombstone");
    serde_json::from_slice(value).unwrap_or_else(|error| {
        panic!(
            "an emission is not JSON: {error}: {}",
            String::from_utf8_lossy(value)
        )
    })
}

/// Another seed each time, unless one is given: over many runs, many batchings
/// are tried.
fn seed() -> u64 {
    match std::env::var(SEED_VARIABLE) {
        Ok(seed) => seed
            .parse()
            .unwrap_or_else(|_| panic!("{SEED_VARIABLE} is not a number: {seed}")),
        Err(_) => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| Random::new(since.as_nanos() as u64).next()),
    }
}
