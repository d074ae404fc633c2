//! Replay: computes again what a plugin computed of one entity.
//!
//! A host shows what its log has of an entity ([`trace`]). A [`Recording`] holds
//! all of that, fetched from a host or read from a file ([`archive`]).
//! [`run`] puts a recording through the worker's own
//! [`Processing`](crate::worker::processing) with a log in memory, and [`compare`]
//! compares the result with the published records. [`check`] does the same with a
//! plugin that runs nowhere yet. Nothing here writes to a log, joins a group or
//! changes a slot.
//!
//! A recording lives as long as the command, in memory: the events of one
//! entity and what was published of them, up to [`RECORDING_BYTES_MAX`].

pub mod archive;
pub mod check;
pub mod compare;
pub mod entity;
pub mod line;
mod redone;
pub mod run;
#[cfg(test)]
mod tests;
pub mod timeline;
pub mod trace;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use courtside_plugin_host::{Compiler, Plugin};
use courtside_types::{Digest, Key, Offset, PartitionId, Record, failure::ErrorCode};

use self::{
    entity::{EntityPartition, PipelineView},
    line::{Line, Malformed},
    run::Case,
    timeline::{Stretch, Timeline},
};

/// Most bytes of events in a recording, and most bytes of published records.
pub const RECORDING_BYTES_MAX: usize = 1 << 30;

/// Why there is no replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The host refused, with its own code and reason.
    #[error("{code}: {reason}")]
    Refused { code: String, reason: String },
    #[error("host-unreachable: {0}")]
    Unreachable(String),
    #[error("export-invalid: {0}")]
    Export(String),
    #[error(
        "recording-too-large: the events of {key:?}, or the records published for them, are over {RECORDING_BYTES_MAX} bytes"
    )]
    TooLarge { key: String },
    #[error("entity-not-found: the log has no event of {key:?} in partition {partition}")]
    NoEvents { key: String, partition: PartitionId },
    #[error(
        "partition-ambiguous: {key:?} has events in partitions {partitions}, an entity in each: name one with --partition"
    )]
    Ambiguous { key: String, partitions: String },
    #[error(
        "plugin-unknown: neither the published records nor the records of takeovers say which plugin processed {key:?}: name one with --plugin"
    )]
    PluginUnknown { key: String },
    #[error(
        "plugin-unavailable: the plugin {digest} processed events from offset {from} on, and no copy of it is left: name another with --plugin"
    )]
    PluginUnavailable { digest: Digest, from: Offset },
    /// The file is no plugin; the code is the rejection's.
    #[error("{0}")]
    Rejected(#[from] courtside_plugin_host::Rejection),
    #[error("replay-stopped: at offset {next}: {code}: {reason}")]
    Stopped {
        next: Offset,
        code: &'static str,
        reason: String,
    },
    #[error("replay-failed: {0}")]
    Failed(String),
}

impl ErrorCode for ReplayError {
    fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            Self::Unreachable(_) => "host-unreachable",
            Self::Export(_) => "export-invalid",
            Self::TooLarge { .. } => "recording-too-large",
            Self::NoEvents { .. } => "entity-not-found",
            Self::Ambiguous { .. } => "partition-ambiguous",
            Self::PluginUnknown { .. } => "plugin-unknown",
            Self::PluginUnavailable { .. } => "plugin-unavailable",
            Self::Rejected(rejection) => rejection.code,
            Self::Stopped { .. } => "replay-stopped",
            Self::Failed(_) => "replay-failed",
        }
    }
}

impl From<Malformed> for ReplayError {
    fn from(error: Malformed) -> Self {
        Self::Export(error.to_string())
    }
}

/// All that is known of one entity: what replay needs, and an export holds.
#[derive(Clone, Debug)]
pub struct Recording {
    pub pipeline: PipelineView,
    pub key: String,
    /// Its partition: the bounds of the log, the checkpoint, the takeovers.
    pub at: EntityPartition,
    /// Events below the committed offset, in offset order.
    pub events: Vec<Line>,
    /// Records that the events led to, including dead letters, as far as the log
    /// has them.
    pub published: Vec<Line>,
    /// The plugins that processed the events, as far as copies are left.
    pub plugins: BTreeMap<Digest, Bytes>,
}

impl Recording {
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        PartitionId(self.at.partition)
    }

    /// Whether the log may have lost events that came before the first recorded
    /// one.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.at.start > 0
    }

    /// The plugins that processed the events, in order.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        Timeline::of(self)
    }

    /// Says what is missing from before the first event, if anything may be.
    #[must_use]
    pub fn reservation(&self) -> Option<String> {
        self.is_cut().then(|| {
            let before = self.published.iter().filter_map(|line| line.source);
            let before = before.filter(|source| *source < self.at.start).count();
            let known = match before {
                0 => "it is not known whether this key had any".to_owned(),
                _ => format!("{before} records published for them are left"),
            };
            format!(
                "the log no longer has the events of partition {} before offset {} ({known}). The replay begins at this offset, with a new entity: it shows what a plugin does with these events, and not whether they led to the published records",
                self.at.partition, self.at.start,
            )
        })
    }

    /// The replay with the plugins that ran.
    pub fn case(&self, compiler: &dyn Compiler) -> Result<Case, ReplayError> {
        let stretches = self.timeline().0;
        if stretches.is_empty() && !self.events.is_empty() {
            return Err(ReplayError::PluginUnknown {
                key: self.key.clone(),
            });
        }
        let mut compiled: BTreeMap<Digest, Arc<dyn Plugin>> = BTreeMap::new();
        let mut plugins = Vec::new();
        for Stretch { from, digest } in stretches {
            let plugin = match compiled.get(&digest) {
                Some(plugin) => Arc::clone(plugin),
                None => {
                    let bytes = self
                        .plugins
                        .get(&digest)
                        .ok_or(ReplayError::PluginUnavailable { digest, from })?;
                    let plugin = compiler.compile(bytes, &self.pipeline.limits.limits())?;
                    compiled.insert(digest, Arc::clone(&plugin));
                    plugin
                }
            };
            plugins.push((from, plugin));
        }
        self.with(plugins)
    }

    /// The replay with one plugin all along.
    pub fn case_with(&self, plugin: &Arc<dyn Plugin>) -> Result<Case, ReplayError> {
        self.with(vec![(Offset(0), Arc::clone(plugin))])
    }

    fn with(&self, plugins: Vec<(Offset, Arc<dyn Plugin>)>) -> Result<Case, ReplayError> {
        let events: Result<Vec<Record>, Malformed> =
            self.events.iter().map(Line::to_record).collect();
        Ok(Case {
            pipeline: Arc::new(self.pipeline.to_pipeline()?),
            partition: self.partition(),
            key: Key::copy_from_slice(self.key.as_bytes()),
            plugins,
            redone: redone::of(self),
            events: events?,
        })
    }
}
