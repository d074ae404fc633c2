//! The reasons for which the host stops a call.

use std::time::Duration;

/// Why the host stopped a call.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Stop {
    #[error("it used {used:?} of cpu time, the limit call_cpu_time_max is {max:?}")]
    Deadline { used: Duration, max: Duration },
    #[error("it waited, and there is nothing to wait for")]
    Waited,
    #[error("it called exit with status {status}")]
    Exited { status: u8 },
}
