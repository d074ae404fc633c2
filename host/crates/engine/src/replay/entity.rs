//! An entity and its pipeline, as a host tells of them: the answer of
//! `GET /pipelines/{pipeline}/checkpoints/{key}`, and the first page of an export.

use std::{collections::BTreeMap, time::Duration};

use courtside_types::slot_name::SlotName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::line::{Malformed, Text};
use crate::{
    pipeline::{Output, Pipeline, WorkerSettings, identity::Identity},
    slots::view::{LimitsView, SwapKind},
};

/// An output topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputView {
    pub topic: String,
    pub partitions: u32,
}

impl From<&Output> for OutputView {
    fn from(output: &Output) -> Self {
        Self {
            topic: output.topic.to_string(),
            partitions: output.partitions,
        }
    }
}

impl From<&OutputView> for Output {
    fn from(view: &OutputView) -> Self {
        Self {
            topic: view.topic.as_str().into(),
            partitions: view.partitions,
        }
    }
}

/// The parts of a pipeline's configuration that decide which outputs its events lead to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PipelineView {
    pub name: String,
    pub group: String,
    pub input: String,
    /// The input's mark: headers of the host count where they name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_id: Option<String>,
    /// Partitions of the input.
    pub partitions: u32,
    pub output: OutputView,
    /// Outputs that plugins name.
    pub outputs: BTreeMap<String, OutputView>,
    pub dead_letter: String,
    pub record_bytes_max: u64,
    pub call_events_max: u64,
    pub call_bytes_max: u64,
    /// The limits of the slot that the key's events go to.
    pub limits: LimitsView,
}

impl PipelineView {
    #[must_use]
    pub fn of(pipeline: &Pipeline, slot: &SlotName) -> Self {
        let outputs = pipeline.outputs.iter();
        Self {
            name: pipeline.name.to_string(),
            group: pipeline.group.to_string(),
            input: pipeline.input.to_string(),
            input_id: pipeline
                .identity
                .input
                .as_ref()
                .map(|(_, id)| id.to_string()),
            partitions: pipeline.partitions,
            output: (&pipeline.output).into(),
            outputs: outputs
                .map(|(name, output)| (name.to_string(), output.into()))
                .collect(),
            dead_letter: pipeline.dead_letter.to_string(),
            record_bytes_max: count(pipeline.record_bytes_max),
            call_events_max: count(pipeline.settings.call_events_max),
            call_bytes_max: count(pipeline.settings.call_bytes_max),
            limits: LimitsView::of(pipeline, slot),
        }
    }

    /// The pipeline, for one entity and without a group. How often it commits, and
    /// for how long entities stay open, changes nothing of what they emit.
    pub fn to_pipeline(&self) -> Result<Pipeline, Malformed> {
        if self.partitions == 0 || self.output.partitions == 0 {
            return Err(Malformed(
                "a topic of the pipeline has no partitions".into(),
            ));
        }
        let outputs = self.outputs.iter();
        Ok(Pipeline {
            name: self.name.as_str().into(),
            group: self.group.as_str().into(),
            input: self.input.as_str().into(),
            identity: Identity {
                input: self
                    .input_id
                    .as_ref()
                    .and_then(|id| Some((self.input.as_str().into(), id.parse().ok()?))),
                checkpoints: None,
            },
            partitions: self.partitions,
            output: (&self.output).into(),
            outputs: outputs
                .map(|(name, output)| (name.as_str().into(), output.into()))
                .collect(),
            dead_letter: self.dead_letter.as_str().into(),
            // Takeovers are only replayed, so they are not written to a topic.
            plugins: None,
            host: "replay".into(),
            settings: WorkerSettings {
                workers: 1,
                commit_interval: Duration::ZERO,
                commit_bytes_max: usize::MAX,
                poll_bytes_max: usize::MAX,
                call_events_max: size(self.call_events_max).max(1),
                call_bytes_max: size(self.call_bytes_max).max(1),
                entities_per_instance: size(self.limits.entities_per_instance),
                entities_open_max: usize::MAX,
                entity_idle: Duration::MAX,
                drain_deadline: Duration::ZERO,
                confirm_after: Duration::MAX,
            },
            limits: self.limits.limits(),
            slot_limits: BTreeMap::new(),
            record_bytes_max: size(self.record_bytes_max),
        })
    }

    /// The topics of the outputs that its events lead to, without dead letters.
    pub fn output_topics(&self) -> impl Iterator<Item = &str> {
        let named = self.outputs.values().map(|output| &*output.topic);
        std::iter::once(&*self.output.topic).chain(named)
    }
}

fn count(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Why an entity takes no events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HaltView {
    pub code: String,
    pub reason: String,
}

/// A committed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointView {
    /// SHA-256 of the plugin that wrote the state.
    pub digest: String,
    /// The offset the state stands at: of the last event that went into it.
    pub offset: u64,
    /// None where the entity has no state.
    pub format: Option<String>,
    /// The state, in the plugin's own words.
    pub state: Option<Text>,
    pub halted: Option<HaltView>,
    /// All that is stored, in hexadecimal digits.
    pub stored: String,
}

/// A plugin that took over a slot in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TakeoverView {
    pub slot: String,
    /// Counts the takeovers of the slot in the partition.
    pub seq: u64,
    /// Offset of the first event that it processed.
    pub offset: u64,
    /// None: the slot has no plugin from there on.
    pub digest: Option<String>,
    pub kind: SwapKind,
    /// SHA-256 of the plugin that ran before; for a rollback, of the plugin that it undid.
    pub previous: Option<String>,
    /// For a rollback: the offset below which events were processed again.
    pub until: Option<u64>,
    /// How many times, with this takeover, the events are processed.
    pub attempt: u32,
}

/// The entity of a key in one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EntityPartition {
    pub partition: u32,
    /// The first offset that the log still holds, and the end of the partition.
    pub start: u64,
    pub end: u64,
    /// The offset of the next event to be processed; none before the first commit.
    pub committed: Option<u64>,
    /// The first dead letter that the log still holds.
    pub dead_letter_start: u64,
    /// Output topics of which retention has taken records: those kept as streams.
    pub outputs_cut: Vec<String>,
    /// Whether a worker of this host has the partition: only then it knows the
    /// checkpoint.
    pub held: bool,
    /// None where there is none, or another host has the partition.
    pub checkpoint: Option<CheckpointView>,
    /// Takeovers of the key's slot and of the default one, as far as they are recorded.
    pub takeovers: Vec<TakeoverView>,
}

/// The answer of `GET /pipelines/{pipeline}/checkpoints/{key}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EntityView {
    pub key: String,
    pub pipeline: PipelineView,
    /// The slot that the key's events go to now.
    pub slot: String,
    /// The plugin that runs there now.
    pub running: Option<String>,
    /// Those that the key's events come to: one, but where the partitioner is
    /// `random`.
    pub partitions: Vec<EntityPartition>,
}
