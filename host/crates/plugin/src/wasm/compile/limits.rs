//! The limits of compiling a plugin, those of the configuration and the fixed ones.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The stack of the compiler's passes.
pub const STACK_BYTES: usize = 8 * 1024 * 1024;
/// The most code of one plugin, which the host itself holds. An interpreter for
/// JavaScript has 37 MB of code.
pub const CODE_BYTES_MAX: u64 = 256 << 20;

/// The limits of compiling one plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Memory of the process, beyond the memory that it has before it begins.
    pub memory_bytes_max: u64,
    /// CPU time of the process. By the clock a compile may take ten times as long, since
    /// it has the lowest priority.
    pub cpu_time_max: Duration,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 1 << 30,
            cpu_time_max: Duration::from_secs(60),
        }
    }
}

/// A limit that a plugin went over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Over {
    Memory,
    Time,
    Stack,
    Code,
}
