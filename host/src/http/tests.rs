//! The doors, from outside: bad input, reads, streams, and what goes wrong.

mod access;
mod bad_input;
mod connections;
mod host;
mod plugins;
mod reads;
mod streams;
mod tls;
mod trace;
