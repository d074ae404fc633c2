//! What `/metrics` says beside what the recorder counts: what is so at the
//! moment it is asked, and what comes and goes with partitions and slots.
//!
//! Nothing of it is kept between two readings, so a series is there as long as
//! what it is about, and no longer.

pub mod asked;
pub mod pipelines;
pub mod process;
mod text;

pub use text::{Exposition, Metric};
