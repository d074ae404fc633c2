//! The settings of wasmtime, which a host and its compile processes must share.

use wasmtime::{Config, OptLevel};

/// The stack of plugin code, on the stack of the thread that calls it.
const PLUGIN_STACK_BYTES: usize = 512 * 1024;
/// The address space of one linear memory: all of what 32 bits can address, so
/// that neither bounds need checking nor memory moving. It costs page tables
/// only where it is used; 47 bits of address space hold about 32,000 of them.
const MEMORY_RESERVATION_BYTES: u64 = 4 << 30;

pub fn settings() -> Config {
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        // Every NaN has the same bits, on every machine.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        // Calls are synchronous; each takes 0.5 µs less without this support.
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(PLUGIN_STACK_BYTES)
        .memory_reservation(MEMORY_RESERVATION_BYTES)
        .memory_may_move(false)
        // Instances share the pages of the plugin's data until they write.
        .memory_init_cow(true);
    config
}
