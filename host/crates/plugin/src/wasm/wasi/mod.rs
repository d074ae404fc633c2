//! The world a plugin sees: WASI 0.2 as a room without windows.
//!
//! Plugins built for `wasm32-wasip2` import WASI whether they use it or not,
//! so it is linked, but nothing in it differs between two instances, two hosts
//! or two runs: no arguments, environment or input; clocks stand still, random
//! is constant; no directory, and sockets refuse. A plugin's output goes to
//! the log. Waiting and `exit` end the call.
//!
//! Streams and pollables need no table: there is one input, there are two
//! outputs, and one pollable, which never becomes ready. This module therefore
//! needs no tokio runtime, which wasmtime-wasi would start for itself.

mod cli;
mod console;
mod io;
pub mod link;
mod net;
mod still;

use std::sync::Arc;

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{filesystem::WasiFilesystemCtx, sockets::WasiSocketsCtx};

pub use self::console::{Console, PluginLog};

/// A plugin's view of WASI.
pub struct Wasi {
    pub console: Console,
    /// Table for the parts taken from wasmtime-wasi, which work on files and sockets
    /// that a plugin cannot have. It stays empty, and the two contexts never change.
    table: ResourceTable,
    filesystem: WasiFilesystemCtx,
    sockets: WasiSocketsCtx,
}

impl Wasi {
    pub fn new(log: Arc<PluginLog>) -> Self {
        Self {
            console: Console::new(log),
            table: ResourceTable::new(),
            filesystem: WasiFilesystemCtx::default(),
            sockets: WasiSocketsCtx::default(),
        }
    }
}

impl std::fmt::Debug for Wasi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wasi")
            .field("console", &self.console)
            .finish_non_exhaustive()
    }
}
