//! The testkit of the end-to-end suite: real hosts, real players, real files.
//!
//! A [`Place`] is a data and a plugin directory; a [`Host`] is the binary at
//! work in one, until it is stopped, killed or dropped. Every wait looks again
//! and again, is bounded, and fails with what it saw last; nothing asserts how
//! long something took. Ports and directories are each test's own, so that
//! tests run side by side.
//!
//! The suite needs what `make test` builds before it: the binary `courtside`
//! of the same profile (or `$COURTSIDE_BIN`), and the plugins' release wasm.

pub mod built;
pub mod disk;
pub mod engine;
pub mod games;
pub mod host;
pub mod kafka;
pub mod place;
pub mod play;
pub mod processes;
pub mod proxy;
pub mod readers;
pub mod suite;
pub mod topics;
pub mod wait;
pub mod wasm;

pub use engine::Engine;
pub use host::{Answer, Host};
pub use kafka::Cluster;
pub use place::Place;
pub use wait::{until, until_within};
