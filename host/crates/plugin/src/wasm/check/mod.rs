//! Checks of a plugin's bytes, without running them, and of its description of
//! itself. All are pure functions.
//!
//! The bytes are read with wasmparser, which wasmtime has already. The metadata of
//! wit-component decodes interfaces, and not function bodies.

mod bytes;
mod complexity;
mod description;

pub(super) use bytes::check_bytes;
pub(super) use complexity::check_complexity;
pub(super) use description::check_description;
