//! Does on demand what no plugin should do. It is for the host's tests alone.
//!
//! Left alone, the plugin counts the events of each key, and emits
//! `{"key":KEY,"events":N}` for each. An event's field `do` asks for something
//! else ([`Deed`]). A key that begins with one of these words asks for something
//! else whenever the key is opened, processed or checkpointed:
//!
//! | key begins with | what happens |
//! | --- | --- |
//! | `trap-open`, `loop-open`, `fail-open` | `open` traps, never returns, says no |
//! | `trap-reopen`, `fail-reopen` | likewise, but only where there is a checkpoint |
//! | `trap-checkpoint` | `checkpoint` traps |
//! | `refuse` | every event is refused |
//!
//! The features `trap-at-start` and `loop-at-start` make `describe` trap or loop.
//!
//! The plugin is written against the bare contract, because the SDK would not let
//! it do such things.

#![allow(
    clippy::panic,
    clippy::exit,
    reason = "this is what it is for: see the module's doc"
)]

mod deed;

use std::cell::RefCell;

use courtside_plugin::contract::exports::courtside::plugin::processor::{
    Checkpoint, Description, Entity, Event, Guest, GuestEntity, Outcome,
};
use serde::{Deserialize, Serialize};

use deed::Call;
pub use deed::Deed;

const FORMAT: &str = "misbehaving/1";

#[derive(Debug)]
pub struct Misbehaving;

/// The state of a key.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    events: u64,
    /// Set by [`Deed::TrapInCheckpoint`].
    trap_in_checkpoint: bool,
    /// Grown by [`Deed::Grow`].
    ballast: String,
}

#[derive(Debug)]
pub struct Key {
    key: String,
    kept: RefCell<Kept>,
}

impl Guest for Misbehaving {
    type Entity = Key;

    fn describe() -> Description {
        if cfg!(feature = "trap-at-start") {
            panic!("trapped at start, as built");
        }
        if cfg!(feature = "loop-at-start") {
            deed::spin();
        }
        Description {
            name: "misbehaving".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            writes: FORMAT.to_owned(),
            reads: vec![FORMAT.to_owned()],
        }
    }
}

impl GuestEntity for Key {
    fn open(key: String, saved: Option<Checkpoint>) -> Result<Entity, String> {
        let is = |word: &str| key.starts_with(word);
        if is("trap-open") || is("trap-reopen") && saved.is_some() {
            panic!("trapped in open, as the key says");
        }
        if is("loop-open") {
            deed::spin();
        }
        if is("fail-open") || is("fail-reopen") && saved.is_some() {
            return Err("not opened, as the key says".to_owned());
        }
        let kept = match saved {
            None => Kept::default(),
            Some(Checkpoint { format, state }) if format == FORMAT => {
                serde_json::from_slice(&state).map_err(|error| error.to_string())?
            }
            Some(Checkpoint { format, .. }) => return Err(format!("does not read {format}")),
        };
        Ok(Entity::new(Self {
            key,
            kept: RefCell::new(kept),
        }))
    }

    fn process(&self, events: Vec<Event>) -> Outcome {
        let mut call = Call::new(&self.key, self.kept.borrow_mut(), events.len());
        for (index, event) in (0..).zip(&events) {
            let deed = Deed::of(&event.value);
            let refused = self.key.starts_with("refuse") || matches!(deed, Deed::Refuse);
            if refused {
                return call.refuse(index);
            }
            call.perform(index, deed);
        }
        call.end()
    }

    fn checkpoint(&self) -> Option<Checkpoint> {
        let kept = self.kept.borrow();
        if kept.trap_in_checkpoint || self.key.starts_with("trap-checkpoint") {
            panic!("trapped in checkpoint, as asked");
        }
        let state = serde_json::to_vec(&*kept).ok()?;
        Some(Checkpoint {
            format: FORMAT.to_owned(),
            state,
        })
    }
}

#[cfg(target_family = "wasm")]
courtside_plugin::contract::export!(Misbehaving with_types_in courtside_plugin::contract);
