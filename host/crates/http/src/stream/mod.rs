//! Streams of updates: server-sent events, and the same over a WebSocket.
//!
//! A stream is a cursor into the scoreboard, pulled as fast as its client
//! reads; it ends when the host stops, and the client comes back with its last
//! id.
//!
//! A reader's memory does not depend on how slow it is. The host puts together at most
//! 16 KiB and one output for a reader, and takes nothing more until they are sent. The
//! kernel gets no more than 64 KiB beyond the bytes that are under way
//! ([`server`](super::server)).

mod open;
mod sse;
mod ws;

pub use self::{
    sse::{__path_all, __path_game, all, game},
    ws::{__path_ws_all, __path_ws_game, ws_all, ws_game},
};
