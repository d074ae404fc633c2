//! A [`Processor`] as the contract's exports. The host calls one instance from
//! one thread at a time and never from within a call, so a `RefCell` holds.

use std::{cell::RefCell, marker::PhantomData};

use crate::{
    Processor,
    contract::exports::courtside::plugin::processor::{
        Checkpoint, Description, Entity, Event, Guest, GuestEntity, Outcome,
    },
    native,
};

#[derive(Debug)]
pub struct Exported<P>(PhantomData<P>);

#[derive(Debug)]
pub struct Cell<P>(RefCell<native::Entity<P>>);

impl<P: Processor> Guest for Exported<P> {
    type Entity = Cell<P>;

    fn describe() -> Description {
        native::describe::<P>()
    }
}

impl<P: Processor> GuestEntity for Cell<P> {
    fn open(key: String, saved: Option<Checkpoint>) -> Result<Entity, String> {
        let entity = native::Entity::<P>::open(&key, saved.as_ref())?;
        Ok(Entity::new(Self(RefCell::new(entity))))
    }

    fn process(&self, events: Vec<Event>) -> Outcome {
        self.0.borrow_mut().process(events)
    }

    fn checkpoint(&self) -> Option<Checkpoint> {
        self.0.borrow().checkpoint()
    }
}
