//! What a store holds beside the plugin: its limits, and the world the plugin
//! sees. Made by one constructor, in one state, for every instance alike.

use std::sync::Arc;

use wasmtime::ResourceLimiter;

use super::{
    deadline::Budget,
    wasi::{PluginLog, Wasi},
};
use crate::plugin::Limits;

/// Bounds on what a component is made of. One written in Rust has about ten
/// core instances, one memory and a table of some hundred elements; one that
/// carries an interpreter a few times as much.
const INSTANCES_MAX: usize = 256;
const MEMORIES_MAX: usize = 32;
const TABLES_MAX: usize = 64;
const TABLE_ELEMENTS_MAX: usize = 200_000;

#[derive(Debug)]
pub struct State {
    pub budget: Budget,
    pub memory: Memory,
    pub wasi: Wasi,
}

impl State {
    pub fn new(limits: &Limits, log: Arc<PluginLog>) -> Self {
        Self {
            budget: Budget::new(limits.call_cpu_time_max),
            memory: Memory::new(limits.memory_bytes_max),
            wasi: Wasi::new(log),
        }
    }

    /// A call begins.
    pub fn begin_call(&mut self) {
        self.budget.arm();
        self.memory.denied = false;
        self.wasi.console.begin_call();
    }
}

/// The memory of one instance: all its linear memories together.
#[derive(Debug)]
pub struct Memory {
    bytes_max: usize,
    bytes: usize,
    /// What is being added now, to be taken back if the host cannot.
    bytes_growing: usize,
    table_elements: usize,
    denied: bool,
}

impl Memory {
    const fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            bytes_growing: 0,
            table_elements: 0,
            denied: false,
        }
    }

    pub const fn max(&self) -> usize {
        self.bytes_max
    }

    /// Whether memory was refused since the call began.
    pub const fn was_denied(&self) -> bool {
        self.denied
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let growing = desired.saturating_sub(current);
        let bytes = self.bytes.saturating_add(growing);
        if bytes > self.bytes_max || maximum.is_some_and(|maximum| desired > maximum) {
            self.denied = true;
            return Ok(false);
        }
        self.bytes = bytes;
        self.bytes_growing = growing;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.bytes = self
            .bytes
            .saturating_sub(std::mem::take(&mut self.bytes_growing));
        self.denied = true;
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = self
            .table_elements
            .saturating_add(desired.saturating_sub(current));
        if elements > TABLE_ELEMENTS_MAX || maximum.is_some_and(|maximum| desired > maximum) {
            self.denied = true;
            return Ok(false);
        }
        self.table_elements = elements;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_of_an_instance_share_one_limit() {
        let mut memory = Memory::new(100);
        assert!(memory.memory_growing(0, 60, None).unwrap());
        assert!(memory.memory_growing(0, 30, None).unwrap());
        assert!(!memory.was_denied());
        assert!(!memory.memory_growing(60, 80, None).unwrap());
        assert!(memory.was_denied());
        assert!(memory.memory_growing(60, 70, None).unwrap());
    }

    #[test]
    fn memory_the_host_did_not_have_is_not_charged() {
        let mut memory = Memory::new(100);
        assert!(memory.memory_growing(0, 60, None).unwrap());
        assert!(memory.memory_growing(60, 100, None).unwrap());
        memory
            .memory_grow_failed(wasmtime::format_err!("no room"))
            .unwrap();
        assert!(memory.was_denied());
        assert!(memory.memory_growing(60, 100, None).unwrap());
    }
}
