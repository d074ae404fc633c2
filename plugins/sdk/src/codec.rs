//! From bytes to events and states, and back. JSON through serde unless a type
//! says otherwise.

use serde::{Serialize, de::DeserializeOwned};

use crate::Refusal;

/// An event's value, decoded. Every type that serde can deserialize decodes
/// from JSON; [`Raw`] takes the bytes as they are; another encoding is a type
/// with this trait.
pub trait Decode: Sized {
    /// # Errors
    /// What is wrong with the value, and where: the event is refused for it.
    fn decode(value: Vec<u8>) -> Result<Self, Refusal>;
}

/// The bytes as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw(pub Vec<u8>);

impl Decode for Raw {
    fn decode(value: Vec<u8>) -> Result<Self, Refusal> {
        Ok(Self(value))
    }
}

impl<T: DeserializeOwned> Decode for T {
    fn decode(value: Vec<u8>) -> Result<Self, Refusal> {
        serde_json::from_slice(&value).map_err(|error| explain::<T>(&value, &error))
    }
}

/// Decodes a second time, keeping track of the path, so that the reason names
/// the field: events in order don't pay for that.
#[cold]
fn explain<T: DeserializeOwned>(value: &[u8], error: &serde_json::Error) -> Refusal {
    let mut json = serde_json::Deserializer::from_slice(value);
    match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Err(traced) if traced.path().iter().next().is_some() => {
            Refusal::new(format!("malformed event: {traced}"))
        }
        _ => Refusal::new(format!("malformed event: {error}")),
    }
}

/// What is remembered of a key, as the bytes of a checkpoint. Every type that
/// serde can serialize and deserialize is a state, in JSON; a type that it
/// cannot may implement this trait with bytes of its own.
pub trait State: Sized {
    /// # Errors
    /// Why there are no such bytes. The entity halts for it, so a state had
    /// better be one that can always be written (for JSON: maps have strings
    /// for keys).
    fn encode(&self) -> Result<Vec<u8>, String>;

    /// # Errors
    /// Why the bytes are not a state.
    fn decode(state: &[u8]) -> Result<Self, String>;
}

impl<T: Serialize + DeserializeOwned> State for T {
    fn encode(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec(self).map_err(|error| error.to_string())
    }

    fn decode(state: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(state).map_err(|error| error.to_string())
    }
}
