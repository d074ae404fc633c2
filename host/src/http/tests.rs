//! The doors, from outside: bad input, reads, streams, and what goes wrong.

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
mod trace;
