//! Tests of HTTP from outside: bad input, reads, streams, and failures.

mod access;
mod backup;
mod bad_input;
mod compressed;
mod connections;
mod host;
mod plugins;
mod reads;
mod slow;
mod streams;
mod tls;
pub(crate) mod trace;
