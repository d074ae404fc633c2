//! Conversion between bytes and events or states: JSON through serde, unless a
//! type brings its own encoding.

use serde::{Serialize, de::DeserializeOwned};

use crate::Refusal;

/// The decoded value of an event. Every type that serde can deserialize decodes
/// from JSON. [`Raw`] takes the bytes as they are. A type with another encoding
/// implements this trait.
pub trait Decode: Sized {
    /// # Errors
    /// Returns what is wrong with the value, and where. The event is refused
    /// with this reason.
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

/// Decodes a second time and tracks the path, so that the reason names the
/// field. Well-formed events don't pay for that.
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

/// The memory of one key, which a checkpoint holds as bytes. Every type that
/// serde can serialize and deserialize is a state, in JSON. Any other type may
/// implement this trait with bytes of its own.
pub trait State: Sized {
    /// # Errors
    /// Returns why the state cannot be encoded. The entity then halts, so a
    /// state should always be encodable (for JSON: the keys of maps are
    /// strings).
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
