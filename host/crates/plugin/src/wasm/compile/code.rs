//! The only place where bytes become code that the host calls, so its callers check
//! the bytes that they hand over.
#![allow(unsafe_code)]

use wasmtime::{Engine, component::Component};

/// Makes a component of compiled code. The code is this program's own work: it came
/// through a socket from a compile process of the same program, with its digest, or
/// out of the cache with an authentication code that only this host can make.
pub fn component(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `Engine::precompile_component` made the bytes, as the callers have
    // checked (`process` compares the digest, `cache` the authentication code).
    // wasmtime itself refuses bytes of another version or other settings.
    unsafe { Component::deserialize(engine, code) }
}
