//! The plugin engine: from a file's bytes to calls of a plugin.
//!
//! [`Plugin`] and [`Instance`] are what the worker sees; [`wasm`] is the
//! implementation. A native implementation of the two stands in the benchmark
//! (the same logic without WebAssembly) and in the worker's tests (faults on
//! demand).

pub mod wasm;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use bytestring::ByteString;
use courtside_types::{Digest, Header, Key, PartitionId, Record, Topic};
use serde::Serialize;

/// A plugin's description of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Description {
    pub name: ByteString,
    /// Semantic version of the plugin.
    pub version: ByteString,
    /// The checkpoint format it writes, `<plugin>/<number>`.
    pub writes: ByteString,
    /// The checkpoint formats it can open, its own among them.
    pub reads: Vec<ByteString>,
}

/// The state of an entity in a plugin's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedState {
    pub format: ByteString,
    pub state: Bytes,
}

/// An event as a plugin gets it.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    pub record: &'a Record,
    /// Seed for the plugin's random numbers, made by [`seed`].
    pub seed: u64,
}

/// A record that a plugin wants published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emission {
    /// Index, in the call's events, of the event that led to it. The engine
    /// has checked that there is such an event.
    pub event: usize,
    /// None is the pipeline's default output.
    pub output: Option<ByteString>,
    /// None is the entity's own key.
    pub key: Option<Key>,
    pub headers: Vec<Header>,
    /// None is a tombstone.
    pub value: Option<Bytes>,
}

/// An event that a plugin cannot process. The events before it were processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub index: usize,
    pub reason: String,
}

/// The result of processing events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub emissions: Vec<Emission>,
    pub refused: Option<Refusal>,
}

/// Limits of a plugin. An instance that hits one has a [`Failure`]; other instances
/// do not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of one instance.
    pub memory_bytes_max: usize,
    /// CPU time of one call.
    pub call_cpu_time_max: Duration,
    /// Keys, headers and values emitted by one call.
    pub emitted_bytes_max: usize,
    /// The state of one entity.
    pub checkpoint_bytes_max: usize,
    /// The plugin's file.
    pub plugin_bytes_max: usize,
}

/// How a call went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// A trap of the plugin's own making (a panic, for instance).
    Trap,
    /// The call went over [`Limits::call_cpu_time_max`].
    Deadline,
    /// A trap after being refused memory.
    Memory,
    /// The call went over [`Limits::emitted_bytes_max`].
    Emitted,
    /// The call went over [`Limits::checkpoint_bytes_max`].
    CheckpointSize,
    /// The plugin waited (slept, polled), and there is nothing to wait for.
    Waited,
    /// The plugin called `exit`.
    Exited,
    /// The result of the call breaks the contract.
    Contract,
}

impl FailureKind {
    /// All kinds, in the order of their counters.
    pub const ALL: [Self; 8] = [
        Self::Trap,
        Self::Deadline,
        Self::Memory,
        Self::Emitted,
        Self::CheckpointSize,
        Self::Waited,
        Self::Exited,
        Self::Contract,
    ];

    /// The stable code of `docs/errors.md`.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Trap => "plugin-trap",
            Self::Deadline => "plugin-deadline",
            Self::Memory => "plugin-memory",
            Self::Emitted => "plugin-emitted-too-much",
            Self::CheckpointSize => "plugin-checkpoint-too-large",
            Self::Waited => "plugin-waited",
            Self::Exited => "plugin-exited",
            Self::Contract => "plugin-broke-contract",
        }
    }

    /// Whether the failure came late, after all the time, memory or output that a call
    /// may use. Such a call costs everybody who waits for the worker.
    #[must_use]
    pub const fn is_costly(self) -> bool {
        matches!(self, Self::Deadline | Self::Memory | Self::Emitted)
    }
}

/// A call went wrong; the instance must be dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", .kind.code())]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

/// Why an entity did not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The plugin refused; its instance can still be used.
    #[error("plugin-open-refused: {0}")]
    Refused(String),
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// Why a file is not a plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Rejection {
    /// The stable code of `docs/errors.md`.
    pub code: &'static str,
    pub message: String,
}

/// An open entity of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntityId(pub u32);

/// A compiled plugin, shared by all threads.
pub trait Plugin: Send + Sync {
    fn digest(&self) -> Digest;

    fn description(&self) -> &Description;

    /// A new instance, which holds no entity yet.
    fn instantiate(&self) -> Result<Box<dyn Instance>, Failure>;

    /// The memory of all existing instances of the plugin.
    fn memory_bytes(&self) -> u64 {
        0
    }
}

/// An instantiated plugin. One thread at a time calls it; after a [`Failure`]
/// it is to be dropped (a further call fails again).
pub trait Instance: Send {
    fn open(&mut self, key: &str, saved: Option<&SavedState>) -> Result<EntityId, OpenError>;

    fn process(&mut self, entity: EntityId, events: &[Event<'_>]) -> Result<Outcome, Failure>;

    /// None says that the entity has nothing left to remember.
    fn checkpoint(&mut self, entity: EntityId) -> Result<Option<SavedState>, Failure>;

    fn close(&mut self, entity: EntityId);
}

/// The purpose of a compile. One compile at a time runs in each lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lane {
    /// A file that is new here, and may be anything.
    #[default]
    Swap,
    /// A plugin that ran before, and that events wait for.
    Restore,
}

/// One compile: its lane, and whether anybody still wants it.
#[derive(Clone, Debug, Default)]
pub struct CompileRun {
    pub lane: Lane,
    /// Set once nobody wants the compile any more.
    pub stop: Arc<AtomicBool>,
}

/// Compiles files into plugins.
pub trait Compiler: Send + Sync {
    /// Compiles a file, checks its imports and exports, and asks the plugin to describe
    /// itself. This may take minutes, so a worker's thread must not call it.
    fn compile_for(
        &self,
        bytes: &[u8],
        limits: &Limits,
        run: &CompileRun,
    ) -> Result<Arc<dyn Plugin>, Rejection>;

    /// Compiles for a caller that waits.
    fn compile(&self, bytes: &[u8], limits: &Limits) -> Result<Arc<dyn Plugin>, Rejection> {
        self.compile_for(bytes, limits, &CompileRun::default())
    }

    /// Lets a file be tried because an operator wants it, though compiling it may have
    /// gone over a limit before.
    fn forget(&self, _digest: Digest) {}
}

/// The random seed of an event, the same wherever and whenever it is processed.
#[must_use]
pub fn seed(topic: &Topic, partition: PartitionId, offset: courtside_types::Offset) -> u64 {
    let place = (u64::from(partition.0) << 40) ^ offset.0;
    xxhash_rust::xxh3::xxh3_64_with_seed(topic.as_bytes(), place)
}
