//! State of a store beside the plugin: its limits, and the world the plugin
//! sees. One constructor makes it, in the same state for every instance.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use wasmtime::ResourceLimiter;

use super::{
    deadline::Budget,
    wasi::{PluginLog, Wasi},
};
use crate::Limits;

/// Bounds on the parts of a component. A component written in Rust has about ten
/// core instances, one memory and a table of some hundred elements; one that
/// carries an interpreter has a few times as many.
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
    pub fn new(limits: &Limits, log: Arc<PluginLog>, memory_bytes: Arc<AtomicU64>) -> Self {
        Self {
            budget: Budget::new(limits.call_cpu_time_max),
            memory: Memory::new(limits.memory_bytes_max, memory_bytes),
            wasi: Wasi::new(log),
        }
    }

    /// Resets the limits and the console when a call begins.
    pub fn begin_call(&mut self) {
        self.budget.arm();
        self.memory.denied = None;
        self.wasi.console.begin_call();
    }
}

/// The memory of one instance: all its linear memories together.
#[derive(Debug)]
pub struct Memory {
    bytes_max: usize,
    bytes: usize,
    /// Bytes that are being added now, taken back if the host has no memory for them.
    bytes_growing: usize,
    table_elements: usize,
    /// The last refusal since the call began.
    denied: Option<Denied>,
    /// Bytes that all instances of the plugin have.
    of_all: Arc<AtomicU64>,
}

/// A refusal of memory, and the limit that refused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    Bytes {
        has: usize,
        asked: usize,
        max: usize,
    },
    /// The plugin itself declared a lower maximum.
    OwnMaximum {
        asked: usize,
        max: usize,
    },
    TableElements {
        asked: usize,
        max: usize,
    },
    /// The request is within all limits, but the host has no memory left.
    Host {
        asked: usize,
    },
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes { has, asked, max } => write!(
                f,
                "it has {has} bytes of memory and was refused {asked} more, the limit memory_bytes_max is {max}"
            ),
            Self::OwnMaximum { asked, max } => write!(
                f,
                "it was refused to grow to {asked}, its own declared maximum is {max}"
            ),
            Self::TableElements { asked, max } => write!(
                f,
                "it was refused tables of {asked} elements in all, the limit is {max}"
            ),
            Self::Host { asked } => {
                write!(f, "the host had no {asked} bytes of memory left for it")
            }
        }
    }
}

impl Memory {
    const fn new(bytes_max: usize, of_all: Arc<AtomicU64>) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            bytes_growing: 0,
            table_elements: 0,
            denied: None,
            of_all,
        }
    }

    /// The memory that was refused last, since the call began.
    pub const fn denied(&self) -> Option<Denied> {
        self.denied
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.of_all.fetch_sub(self.bytes as u64, Ordering::Relaxed);
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
        self.denied = match maximum {
            Some(max) if desired > max => Some(Denied::OwnMaximum {
                asked: desired,
                max,
            }),
            _ if bytes > self.bytes_max => Some(Denied::Bytes {
                has: self.bytes,
                asked: growing,
                max: self.bytes_max,
            }),
            _ => {
                self.bytes = bytes;
                self.bytes_growing = growing;
                self.of_all.fetch_add(growing as u64, Ordering::Relaxed);
                return Ok(true);
            }
        };
        Ok(false)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        let asked = std::mem::take(&mut self.bytes_growing);
        self.bytes = self.bytes.saturating_sub(asked);
        self.of_all.fetch_sub(asked as u64, Ordering::Relaxed);
        self.denied = Some(Denied::Host { asked });
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
        self.denied = match maximum {
            Some(max) if desired > max => Some(Denied::OwnMaximum {
                asked: desired,
                max,
            }),
            _ if elements > TABLE_ELEMENTS_MAX => Some(Denied::TableElements {
                asked: elements,
                max: TABLE_ELEMENTS_MAX,
            }),
            _ => {
                self.table_elements = elements;
                return Ok(true);
            }
        };
        Ok(false)
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
        let mut memory = Memory::new(100, Arc::default());
        assert!(memory.memory_growing(0, 60, None).unwrap());
        assert!(memory.memory_growing(0, 30, None).unwrap());
        assert_eq!(memory.denied(), None);
        assert!(!memory.memory_growing(60, 80, None).unwrap());
        assert!(memory.denied().is_some());
        assert!(memory.memory_growing(60, 70, None).unwrap());
    }

    #[test]
    fn memory_the_host_did_not_have_is_not_charged() {
        let mut memory = Memory::new(100, Arc::default());
        assert!(memory.memory_growing(0, 60, None).unwrap());
        assert!(memory.memory_growing(60, 100, None).unwrap());
        memory
            .memory_grow_failed(wasmtime::format_err!("no room"))
            .unwrap();
        assert!(memory.denied().is_some());
        assert!(memory.memory_growing(60, 100, None).unwrap());
    }

    #[test]
    fn what_all_instances_have_is_what_those_have_that_are_there() {
        let of_all = Arc::<AtomicU64>::default();
        let bytes = || of_all.load(Ordering::Relaxed);
        let [mut one, mut other] = [(); 2].map(|()| Memory::new(100, Arc::clone(&of_all)));
        assert!(one.memory_growing(0, 60, None).unwrap());
        assert!(other.memory_growing(0, 40, None).unwrap());
        assert!(!other.memory_growing(40, 200, None).unwrap());
        assert_eq!(bytes(), 100);
        assert!(one.memory_growing(60, 80, None).unwrap());
        one.memory_grow_failed(wasmtime::format_err!("no room"))
            .unwrap();
        assert_eq!(bytes(), 100);
        drop(one);
        assert_eq!(bytes(), 40);
    }
}
