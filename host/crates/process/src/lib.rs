//! The process itself: its clocks and waits, its log lines, its end, and what it uses.
//!
//! Nothing here knows of records, plugins or requests.

pub mod backoff;
pub mod clock;
pub mod exposition;
pub mod logging;
pub mod shutdown;
pub mod usage;
