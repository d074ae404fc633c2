//! The engine: the way from a file's bytes to a compiled plugin.

use std::{path::PathBuf, sync::Arc, thread};

use courtside_types::{Digest, failure::ErrorCode};
use wasmtime::component::{Component, InstancePre, Linker};

use super::{
    check::{check_bytes, check_description},
    compile::{Compile, CompileLimits},
    contract::Prepared,
    deadline::Ticker,
    guest::{Blueprint, Guest},
    plugin::WasmPlugin,
    rejection::{self, rejection},
    settings::settings,
    state::State,
    surface::Surface,
    wasi::{self, PluginLog},
};
use crate::{CompileRun, Compiler, Limits, Plugin, Rejection};

/// The stack of the thread on which a plugin starts for the first time.
const COMPILE_STACK_BYTES: usize = 8 * 1024 * 1024;

/// The configuration of an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineConfig {
    /// Directory of compiled plugins between runs; without one, each run compiles
    /// again. A user who can read its key and write to it can run code in the host.
    pub cache_dir: Option<PathBuf>,
    /// The limits of compiling a plugin.
    pub compile: CompileLimits,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the cache of compiled plugins at {path} cannot be used: {reason}")]
    Cache { path: String, reason: String },
    #[error("the plugin engine does not start: {reason}")]
    Start { reason: String },
}

impl ErrorCode for EngineError {
    fn code(&self) -> &str {
        match self {
            Self::Cache { .. } => "plugin-cache-unusable",
            Self::Start { .. } => "plugin-engine-failed",
        }
    }
}

impl EngineError {
    fn start(error: impl std::fmt::Display) -> Self {
        Self::Start {
            reason: format!("{error:#}"),
        }
    }
}

/// Compiles plugins.
pub struct Engine {
    engine: wasmtime::Engine,
    linker: Linker<State>,
    ticker: Arc<Ticker>,
    compile: Compile,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    pub fn new(config: EngineConfig) -> Result<Arc<Self>, EngineError> {
        let path = config.cache_dir.clone();
        let compile =
            Compile::new(config.cache_dir, config.compile).map_err(|error| EngineError::Cache {
                path: path.unwrap_or_default().display().to_string(),
                reason: error.to_string(),
            })?;
        let mut settings = settings();
        // A process of its own compiles, so this one has no compiler.
        settings.enable_compiler(false);
        let engine = wasmtime::Engine::new(&settings).map_err(EngineError::start)?;
        let mut linker = Linker::new(&engine);
        wasi::link::link(&mut linker).map_err(EngineError::start)?;
        let ticker = Ticker::start(engine.clone()).map_err(EngineError::start)?;
        Ok(Arc::new(Self {
            engine,
            linker,
            ticker: Arc::new(ticker),
            compile,
        }))
    }

    /// How often compiled code was found in the cache.
    pub(super) fn cache_hits(&self) -> usize {
        self.compile.cache_hits()
    }

    fn compile_here(
        &self,
        bytes: &[u8],
        limits: &Limits,
        run: &CompileRun,
    ) -> Result<WasmPlugin, Rejection> {
        let digest = Digest::of(bytes);
        let component = self.compile.component(&self.engine, digest, bytes, run)?;
        let blueprint = Blueprint {
            engine: self.engine.clone(),
            prepared: Prepared::new(&component, self.link(&component)?)?,
            limits: limits.clone(),
            log: Arc::new(PluginLog::new(&digest)),
            ticker: Arc::clone(&self.ticker),
            memory_bytes: Arc::default(),
        };
        let description = Guest::start(&blueprint)
            .map_err(|failure| rejection(rejection::START_FAILED, failure.to_string()))?
            .describe()
            .map_err(|failure| rejection(rejection::DESCRIBE_FAILED, failure.to_string()))?;
        check_description(&description)?;
        blueprint.log.name_is(description.name.clone());
        tracing::debug!(
            digest = digest.short(),
            plugin = &*description.name,
            cache_hits = self.cache_hits(),
            "plugin compiled"
        );
        Ok(WasmPlugin {
            digest,
            description,
            blueprint,
        })
    }

    /// The exports and imports of a component, whether or not it is a plugin.
    pub fn survey(&self, bytes: &[u8], limits: &Limits) -> Result<Surface, Rejection> {
        check_bytes(bytes, limits.plugin_bytes_max)?;
        self.compile.survey(bytes)
    }

    fn link(&self, component: &Component) -> Result<InstancePre<State>, Rejection> {
        self.linker.instantiate_pre(component).map_err(|error| {
            rejection(
                rejection::IMPORT_UNKNOWN,
                format!("it imports what this host does not offer: {error:#}"),
            )
        })
    }
}

impl Compiler for Engine {
    /// Compiles on a thread of its own at the lowest priority, and waits for
    /// it: priority once given away cannot be taken back, so the caller's stays.
    fn compile_for(
        &self,
        bytes: &[u8],
        limits: &Limits,
        run: &CompileRun,
    ) -> Result<Arc<dyn Plugin>, Rejection> {
        check_bytes(bytes, limits.plugin_bytes_max)?;
        let plugin = on_compiling_thread(|| self.compile_here(bytes, limits, run))?;
        Ok(Arc::new(plugin))
    }

    fn forget(&self, digest: Digest) {
        self.compile.forget(digest);
    }
}

fn on_compiling_thread<T: Send>(
    compile: impl FnOnce() -> Result<T, Rejection> + Send,
) -> Result<T, Rejection> {
    let span = tracing::Span::current();
    thread::scope(|scope| {
        thread::Builder::new()
            .name("plugin-compile".into())
            .stack_size(COMPILE_STACK_BYTES)
            .spawn_scoped(scope, || {
                lower_priority();
                span.in_scope(compile)
            })
            .map_err(|error| {
                rejection(
                    rejection::NOT_TRIED,
                    format!("the thread that compiles it cannot start: {error}"),
                )
            })?
            .join()
            .unwrap_or_else(|_panic| {
                Err(rejection(rejection::NOT_COMPILED, "the compiler panicked"))
            })
    })
}

/// Linux has a priority for each thread; elsewhere it would be the process's.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        tracing::debug!(%error, "priority of the compiler cannot be lowered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_serving_process_cannot_compile() {
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let component = wat::parse_str("(component)").unwrap();
        assert!(Component::new(&engine.engine, &component).is_err());
        assert!(engine.engine.precompile_component(&component).is_err());
    }
}
