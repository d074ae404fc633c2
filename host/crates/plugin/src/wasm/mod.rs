//! Plugins as WebAssembly components, on wasmtime.
//!
//! [`Engine`] lives as long as the host and owns the settings, the way to the
//! compiler ([`compile`], a process of its own) and the thread that makes deadlines
//! tick. A compiled plugin is shared by all threads; an instance of it belongs to one
//! thread at a time and is a store of its own: no other instance can reach its memory,
//! and dropping it is all the cleaning up there is.
//!
//! An instance costs about 40 µs (two busy cores, release) and the memory pages it
//! touches, over the pages of the plugin's data, which all instances share until they
//! write. A call costs about 0.4 µs, and 0.15 µs more for each event and for each
//! emission, before the plugin does anything. Linux allows a process 65,530 mappings
//! by default, which is about 16,000 instances.
//!
//! Only [`contract`] knows which versions of the contract there are.

mod check;
mod compile;
mod contract;
mod deadline;
mod engine;
mod failure;
mod guest;
mod instance;
mod line;
mod plugin;
pub mod rejection;
mod settings;
mod state;
mod stop;
mod surface;
mod wasi;

#[cfg(test)]
mod tests;

pub use compile::{
    CompileLimits,
    child::{COMMAND as COMPILE_COMMAND, run as compile_process},
};
pub use engine::{Engine, EngineConfig, EngineError};
pub use surface::{Import, Surface};
