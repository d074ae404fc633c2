//! An operator's view of slots and groups: the answers of `GET /plugins` and
//! `GET /group`, and the conditions that `/readyz` is decided on.

use std::{collections::BTreeMap, time::Duration};

use bytestring::ByteString;
use courtside_plugin_host::Limits;
use courtside_types::slot_name::SlotName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{pipeline::Pipeline, worker::status::PartitionState};

/// Where a slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SlotState {
    /// No plugin runs in it. Without one in the default slot the partitions are paused; a
    /// key's events go to the default slot.
    Waiting,
    /// A plugin is being compiled; the one before it (if any) goes on.
    Loading,
    /// A plugin is opening copies of checkpoints; the one before it goes on.
    Rehearsing,
    /// The plugin runs, as it was ordered last: by its file, or by a rollback.
    Active,
    /// The last plugin offered was rejected; the one before it (if any) goes on.
    Rejected,
}

/// How the file of a slot in the plugin directory compares with the plugin that runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FileState {
    /// There is no file.
    #[default]
    None,
    /// The host has not decided on it yet.
    New,
    /// The file is the plugin that runs.
    Runs,
    /// The file was rejected, and something else runs, or nothing.
    Rejected,
    /// The file is a plugin that was rolled back, and is not taken again.
    RolledBack,
}

impl FileState {
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::New,
        Self::Runs,
        Self::Rejected,
        Self::RolledBack,
    ];

    /// The state's name in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::New => "new",
            Self::Runs => "runs",
            Self::Rejected => "rejected",
            Self::RolledBack => "rolled-back",
        }
    }
}

/// The file of a slot in this host's plugin directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileView {
    pub state: FileState,
    /// SHA-256 of the file, hexadecimal, where the host has read it.
    pub digest: Option<String>,
    /// Stable code, where it is not what runs.
    pub code: Option<String>,
    /// Why it is not what runs.
    pub reason: Option<String>,
}

/// A plugin, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PluginView {
    #[schema(value_type = String)]
    pub name: ByteString,
    #[schema(value_type = String)]
    pub version: ByteString,
    /// SHA-256 of the file, hexadecimal.
    pub digest: String,
    /// The checkpoint format it writes.
    #[schema(value_type = String)]
    pub writes: ByteString,
    /// The checkpoint formats it can open.
    #[schema(value_type = Vec<String>)]
    pub reads: Vec<ByteString>,
    pub size_bytes: u64,
}

/// One step in the life of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SlotEvent {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub state: SlotState,
    /// SHA-256 of the plugin that the event is about; none where a file was removed.
    pub digest: Option<String>,
    /// Stable code, where the plugin was rejected.
    pub code: Option<String>,
    /// Why, where the plugin was rejected.
    pub reason: Option<String>,
}

/// A host, as it says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostView {
    pub host: String,
    /// SHA-256 of the plugin that it runs in the slot.
    pub digest: Option<String>,
    pub state: SlotState,
    /// The state of the slot's file in its plugin directory.
    pub file: FileState,
    /// How many of its partitions process again what a rollback undid.
    pub redoing: u32,
    /// When it said so.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// How a plugin came to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SwapKind {
    Swap,
    /// The other plugin's work on trial is undone, and its events are processed again.
    Rollback,
    /// The partition moved to a host that still runs what ran before the swaps on trial.
    Return,
}

/// A swap, with the places where it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SwapView {
    pub kind: SwapKind,
    /// None where the slot has no plugin any more.
    pub digest: Option<String>,
    /// `name@version`.
    pub plugin: String,
    /// SHA-256 of the plugin that ran before.
    pub previous: Option<String>,
    /// How many times, with this swap, the events are processed.
    pub attempt: u32,
    /// When it happened last in any partition.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The first input offset that the plugin processes in each partition.
    pub partitions: BTreeMap<String, u64>,
}

/// A slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SlotView {
    /// `<pipeline>/default` or `<pipeline>/keys/<key>`.
    pub slot: String,
    pub pipeline: String,
    /// The key whose slot it is; none for the default slot.
    pub key: Option<String>,
    pub state: SlotState,
    /// How much its plugin may use.
    pub limits: LimitsView,
    /// The plugin that runs now.
    pub plugin: Option<PluginView>,
    /// Since when it runs.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// The input offset in each partition at which it took over.
    pub takeover: BTreeMap<String, u64>,
    /// The slot's file in this host's plugin directory, which need not be what runs.
    pub file: FileView,
    /// How many swaps this slot has seen since the host started.
    pub swaps: u64,
    /// Until when the swap to what runs can be taken back; none where it cannot,
    /// or was confirmed.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub trial_until: Option<Timestamp>,
    /// Whether all hosts of the group run the same plugin.
    pub agreed: bool,
    pub hosts: Vec<HostView>,
    /// The latest events on this host, the newest last.
    pub history: Vec<SlotEvent>,
    /// The latest swaps of the group, the newest last.
    pub swaps_of_group: Vec<SwapView>,
}

/// How much a plugin may use in a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitsView {
    pub memory_bytes_max: u64,
    pub call_cpu_time_max_ms: u64,
    pub emitted_bytes_max: u64,
    pub checkpoint_bytes_max: u64,
    pub plugin_bytes_max: u64,
    pub entities_per_instance: u64,
}

impl LimitsView {
    #[must_use]
    pub fn of(pipeline: &Pipeline, slot: &SlotName) -> Self {
        Self::new(
            pipeline.limits_of(slot),
            pipeline.entities_per_instance(slot),
        )
    }

    #[must_use]
    pub fn new(limits: &Limits, entities_per_instance: usize) -> Self {
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let cpu_time_ms = limits.call_cpu_time_max.as_millis();
        Self {
            memory_bytes_max: count(limits.memory_bytes_max),
            call_cpu_time_max_ms: u64::try_from(cpu_time_ms).unwrap_or(u64::MAX),
            emitted_bytes_max: count(limits.emitted_bytes_max),
            checkpoint_bytes_max: count(limits.checkpoint_bytes_max),
            plugin_bytes_max: count(limits.plugin_bytes_max),
            entities_per_instance: count(entities_per_instance),
        }
    }

    #[must_use]
    pub fn limits(&self) -> Limits {
        let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        Limits {
            memory_bytes_max: size(self.memory_bytes_max),
            call_cpu_time_max: Duration::from_millis(self.call_cpu_time_max_ms),
            emitted_bytes_max: size(self.emitted_bytes_max),
            checkpoint_bytes_max: size(self.checkpoint_bytes_max),
            plugin_bytes_max: size(self.plugin_bytes_max),
        }
    }
}

/// The answer of `GET /plugins`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PluginsView {
    pub slots: Vec<SlotView>,
}

/// One partition of a pipeline's input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartitionView {
    pub partition: u32,
    pub state: PartitionState,
    /// Stable code and reason, where it does not run.
    pub code: Option<String>,
    pub reason: Option<String>,
    /// The offset of the next record to process; none before the first commit.
    pub committed: Option<u64>,
    /// The offset of the next record to be appended.
    pub end: u64,
    /// Records appended and not processed.
    pub lag: u64,
    /// The member that has it.
    pub member: Option<String>,
}

/// One member of a pipeline's group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberView {
    pub member: String,
    pub host: String,
    pub partitions: Vec<u32>,
}

/// One pipeline's group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupView {
    pub pipeline: String,
    pub group: String,
    pub input: String,
    pub members: Vec<MemberView>,
    pub partitions: Vec<PartitionView>,
    /// Records appended and not processed, in all partitions.
    pub lag: u64,
}

/// The answer of `GET /group`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupsView {
    pub groups: Vec<GroupView>,
}
