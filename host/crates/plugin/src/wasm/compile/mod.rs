//! Compiles a file's bytes to machine code in a process of its own.
//!
//! No bound on the compiler's memory or time can be set from within, so a child
//! process compiles ([`child`]): the operating system bounds it, the parent
//! ([`process`]) ends it, and the serving process has no compiler at all. One child
//! runs at a time, and beside it one that a rollback or the host's start waits for.
//! The host keeps code on disk under a key of its own ([`cache`]), and a note of each
//! file that went over a bound ([`strikes`]); [`code`] makes code callable.
//!
//! Every part that compiles goes this way: slots, `plugin check`, `replay`, benchmarks
//! and tests. The host takes code only from the child, with the code's digest, or from
//! the cache, with an authentication code.

mod cache;
pub mod child;
mod code;
mod limits;
mod process;
mod protocol;
mod strikes;

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use courtside_types::Digest;
use parking_lot::{Mutex, MutexGuard};
use wasmtime::component::Component;

pub use self::limits::CompileLimits;
use self::{
    cache::CodeCache,
    process::{CompileError, Job, TICK, is_set, stopped},
    protocol::{Answer, Task},
    strikes::Strikes,
};
use super::{
    rejection::{self, rejection},
    surface::Surface,
};
use crate::{CompileRun, Lane, Rejection};

/// Compiles by child processes.
#[derive(Debug)]
pub struct Compile {
    limits: CompileLimits,
    cache: Option<CodeCache>,
    strikes: Strikes,
    swaps: Mutex<()>,
    restores: Mutex<()>,
    cache_hits: AtomicUsize,
}

impl Compile {
    /// Keeps code and strikes in a directory, if there is one.
    pub fn new(cache_dir: Option<PathBuf>, limits: CompileLimits) -> std::io::Result<Self> {
        Ok(Self {
            limits,
            cache: cache_dir.clone().map(CodeCache::open).transpose()?,
            strikes: Strikes::new(cache_dir),
            swaps: Mutex::new(()),
            restores: Mutex::new(()),
            cache_hits: AtomicUsize::new(0),
        })
    }

    /// How often code was found in the cache.
    pub fn cache_hits(&self) -> usize {
        self.cache_hits.load(Ordering::Relaxed)
    }

    /// Lets a file that went over a limit be tried again.
    pub fn forget(&self, digest: Digest) {
        self.strikes.forget(digest);
    }

    /// A component's exports and imports.
    pub fn survey(&self, bytes: &[u8]) -> Result<Surface, Rejection> {
        let run = CompileRun::default();
        match self.ask(Digest::of(bytes), Task::Survey, bytes, &run)? {
            Answer::Surface(surface) => Ok(surface),
            _ => Err(rejection(
                rejection::NOT_COMPILED,
                "the compiler gave an answer to another question",
            )),
        }
    }

    /// A component whose code is ready to run.
    pub fn component(
        &self,
        engine: &wasmtime::Engine,
        digest: Digest,
        bytes: &[u8],
        run: &CompileRun,
    ) -> Result<Component, Rejection> {
        if let Some(known) = self.known(engine, digest) {
            return known;
        }
        let _turn = self.turn(run)?;
        // The compile that had the turn before may have been of the same file.
        if let Some(known) = self.known(engine, digest) {
            return known;
        }
        let Answer::Code(compiled) = self.ask(digest, Task::Compile, bytes, run)? else {
            return Err(rejection(
                rejection::NOT_COMPILED,
                "the compiler gave no code",
            ));
        };
        let component = code::component(engine, &compiled)
            .map_err(|error| rejection(rejection::NOT_COMPILED, format!("{error:#}")))?;
        if let Some(cache) = &self.cache
            && let Err(error) = cache.keep(digest, &compiled)
        {
            tracing::warn!(code = "plugin-cache-unusable", %error, "compiled code cannot be cached, so the next start compiles the plugin again");
        }
        Ok(component)
    }

    /// An earlier outcome of compiling the same file.
    fn known(
        &self,
        engine: &wasmtime::Engine,
        digest: Digest,
    ) -> Option<Result<Component, Rejection>> {
        let kept = self.kept(engine, digest).map(Ok);
        kept.or_else(|| self.strikes.find(digest, &self.limits).map(Err))
    }

    fn kept(&self, engine: &wasmtime::Engine, digest: Digest) -> Option<Component> {
        let kept = self.cache.as_ref()?.load(digest)?;
        // Another version of the host may have written it.
        let component = code::component(engine, &kept)
            .inspect_err(|error| {
                tracing::debug!(digest = digest.short(), error = %format_args!("{error:#}"), "cached code cannot be used, compiling the plugin again");
            })
            .ok()?;
        self.cache_hits.fetch_add(1, Ordering::Relaxed);
        Some(component)
    }

    fn ask(
        &self,
        digest: Digest,
        task: Task,
        bytes: &[u8],
        run: &CompileRun,
    ) -> Result<Answer, Rejection> {
        let job = Job {
            task,
            bytes,
            limits: self.limits,
            stop: &run.stop,
        };
        match job.run() {
            Ok(Answer::Rejected { code, message }) => {
                Err(rejection(rejection::known(&code), message))
            }
            Ok(answer) => Ok(answer),
            Err(CompileError::Over(over)) => Err(self.strikes.add(digest, over, &self.limits)),
            Err(CompileError::Other(rejection)) => Err(rejection),
        }
    }

    /// Waits until no other compile of its lane runs.
    fn turn(&self, run: &CompileRun) -> Result<MutexGuard<'_, ()>, Rejection> {
        let lane = match run.lane {
            Lane::Swap => &self.swaps,
            Lane::Restore => &self.restores,
        };
        loop {
            if let Some(turn) = lane.try_lock_for(TICK) {
                return Ok(turn);
            }
            if is_set(&run.stop) {
                return Err(stopped());
            }
        }
    }
}
