//! `wasi:clocks` and `wasi:random`: clocks that stand still, chance that never
//! changes.
//!
//! It is 1970-01-01T00:00:00Z, and no time has passed. Every draw gives the
//! same number: with a sequence, however well seeded, the draws of one entity would
//! depend on how often its neighbours drew before it.

use wasmtime::component::Resource;
use wasmtime_wasi::p2::{
    DynPollable,
    bindings::{
        clocks::{
            monotonic_clock,
            wall_clock::{self, Datetime},
        },
        random::{insecure, insecure_seed, random},
    },
};

use super::{Wasi, io};

/// The result of every draw of a number: the first 64 bits of the golden ratio's
/// fraction. Draws of bytes give its bytes, the lowest first, over and over.
const NUMBER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Draws of more bytes than this fail.
const DRAW_BYTES_MAX: u64 = 1024 * 1024;

impl wall_clock::Host for Wasi {
    fn now(&mut self) -> wasmtime::Result<Datetime> {
        Ok(Datetime {
            seconds: 0,
            nanoseconds: 0,
        })
    }

    fn resolution(&mut self) -> wasmtime::Result<Datetime> {
        Ok(Datetime {
            seconds: 1,
            nanoseconds: 0,
        })
    }
}

impl monotonic_clock::Host for Wasi {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(0)
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1_000_000_000)
    }

    fn subscribe_instant(&mut self, _when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        Ok(io::pollable())
    }

    fn subscribe_duration(&mut self, _when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        Ok(io::pollable())
    }
}

fn draw(len: u64) -> wasmtime::Result<Vec<u8>> {
    if len > DRAW_BYTES_MAX {
        wasmtime::bail!("it asked for {len} random bytes at once, the limit is {DRAW_BYTES_MAX}");
    }
    let len = usize::try_from(len)?;
    Ok(NUMBER.to_le_bytes().into_iter().cycle().take(len).collect())
}

impl random::Host for Wasi {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        draw(len)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(NUMBER)
    }
}

impl insecure::Host for Wasi {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        draw(len)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        Ok(NUMBER)
    }
}

impl insecure_seed::Host for Wasi {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((NUMBER, !NUMBER))
    }
}
