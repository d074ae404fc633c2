//! Offers any file as a plugin. The file is compiled or rejected with a code,
//! and never brings the host down.

#![no_main]

use std::{sync::Arc, sync::LazyLock, time::Duration};

use courtside_plugin_host::{
    Compiler as _, Limits,
    wasm::{COMPILE_COMMAND, Engine, EngineConfig, compile_process},
};
use libfuzzer_sys::fuzz_target;

static ENGINE: LazyLock<Arc<Engine>> =
    LazyLock::new(|| Engine::new(EngineConfig::default()).expect("an engine"));

const LIMITS: Limits = Limits {
    memory_bytes_max: 16 << 20,
    call_cpu_time_max: Duration::from_millis(100),
    emitted_bytes_max: 1 << 20,
    checkpoint_bytes_max: 1 << 20,
    plugin_bytes_max: 4 << 20,
};

// An engine starts its own program to compile a plugin.
fuzz_target!(init: {
    if std::env::args().nth(1).as_deref() == Some(COMPILE_COMMAND) {
        let ended = compile_process();
        std::process::exit(i32::from(ended != std::process::ExitCode::SUCCESS));
    }
}, |bytes: &[u8]| {
    match ENGINE.compile(bytes, &LIMITS) {
        Ok(plugin) => {
            let description = plugin.description();
            assert!(description.reads.contains(&description.writes));
            // A plugin that compiles opens an entity, takes its checkpoint, and
            // closes it.
            if let Ok(mut instance) = plugin.instantiate()
                && let Ok(entity) = instance.open("key", None)
            {
                let _ = instance.checkpoint(entity);
                instance.close(entity);
            }
        }
        Err(rejection) => assert!(rejection.code.starts_with("plugin-")),
    }
});
