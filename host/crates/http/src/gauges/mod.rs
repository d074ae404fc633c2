//! The figures of `/metrics` that the recorder does not count: states at the moment
//! of the request, and series that come and go with partitions and slots.
//!
//! Nothing is kept between two requests, so a series is there as long as its subject,
//! and no longer.

pub mod log_gauges;
pub mod pipelines;
