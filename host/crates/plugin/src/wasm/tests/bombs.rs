//! Files that are small, and would take gigabytes or minutes to compile.

use std::{sync::Arc, time::Duration};

use super::{
    super::{CompileLimits, Engine, EngineConfig},
    kit::{bomb, limits, probe_with},
};
use crate::{CompileRun, Compiler as _, Rejection, wasm::rejection};

struct TestEngine {
    engine: Arc<Engine>,
    config: EngineConfig,
    _dir: tempfile::TempDir,
}

impl TestEngine {
    fn new(memory_mib: u64, seconds: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = EngineConfig {
            cache_dir: Some(dir.path().join("compiled")),
            compile: CompileLimits {
                memory_bytes_max: memory_mib << 20,
                cpu_time_max: Duration::from_secs(seconds),
            },
        };
        Self {
            engine: Engine::new(config.clone()).unwrap(),
            config,
            _dir: dir,
        }
    }

    fn again(&mut self) {
        self.engine = Engine::new(self.config.clone()).unwrap();
    }

    fn rejection(&self, bytes: &[u8]) -> Rejection {
        let compiled = self.engine.compile(bytes, &limits());
        compiled.err().expect("it was compiled")
    }
}

#[test]
fn a_function_of_too_many_blocks_and_locals_is_not_compiled() {
    let rejection = TestEngine::new(1024, 60).rejection(&bomb(1, 20_000, 2_000));
    assert_eq!(rejection.code, rejection::TOO_COMPLEX, "{rejection}");
}

#[test]
fn a_plugin_that_takes_too_much_memory_is_tried_once() {
    let bytes = bomb(1, 4_900, 2_000);
    let mut place = TestEngine::new(64, 60);
    let first = place.rejection(&bytes);
    assert_eq!(first.code, rejection::COMPILE_LIMIT, "{first}");
    assert!(first.message.contains("plugin.compile_memory_max"));
    assert!(!first.message.contains("not tried again"), "{first}");
    place.again();
    let second = place.rejection(&bytes);
    assert_eq!(second.code, rejection::COMPILE_LIMIT);
    assert!(second.message.contains("not tried again"), "{second}");
    // An operator puts the file again.
    place.engine.forget(courtside_types::Digest::of(&bytes));
    assert_eq!(place.rejection(&bytes), first);
    // A good plugin is compiled all the same.
    assert!(place.engine.compile(&probe_with(&[]), &limits()).is_ok());
}

#[test]
fn a_plugin_that_takes_too_much_time_is_stopped() {
    let rejection = TestEngine::new(1024, 1).rejection(&bomb(200, 300, 500));
    assert_eq!(rejection.code, rejection::COMPILE_LIMIT, "{rejection}");
    assert!(
        rejection.message.contains("plugin.compile_time_max"),
        "{rejection}"
    );
}

#[test]
fn a_compile_that_nobody_wants_ends_and_is_no_strike() {
    let place = TestEngine::new(1024, 60);
    let bytes = probe_with(&[]);
    let run = CompileRun::default();
    run.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let stopped = place.engine.compile_for(&bytes, &limits(), &run);
    assert_eq!(stopped.err().unwrap().code, rejection::NOT_TRIED);
    assert!(place.engine.compile(&bytes, &limits()).is_ok());
}

#[test]
fn a_survey_needs_no_compiler() {
    let bytes = bomb(1, 20_000, 2_000);
    let surface = TestEngine::new(64, 1)
        .engine
        .survey(&bytes, &limits())
        .unwrap();
    assert_eq!(surface.exports, ["courtside:plugin/processor@0.1.0"]);
    assert!(surface.imports.iter().all(|import| import.offered));
}

#[test]
fn a_planted_file_in_the_cache_is_not_run() {
    let mut place = TestEngine::new(1024, 60);
    let bytes = probe_with(&[]);
    place.engine.compile(&bytes, &limits()).unwrap();
    let dir = place.config.cache_dir.clone().unwrap();
    let kept = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|ext| ext == "code"))
        .expect("kept code");
    let mut code = std::fs::read(&kept).unwrap();
    let middle = code.len() / 2;
    code[middle] ^= 0xff;
    std::fs::write(&kept, code).unwrap();
    place.again();
    assert!(place.engine.compile(&bytes, &limits()).is_ok());
    assert_eq!(place.engine.cache_hits(), 0, "it was compiled again");
    place.again();
    assert!(place.engine.compile(&bytes, &limits()).is_ok());
    assert_eq!(place.engine.cache_hits(), 1);
}
