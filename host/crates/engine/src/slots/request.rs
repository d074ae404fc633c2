//! Requests of an operator to a slot, and their answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use courtside_log::LogError;
use courtside_plugin_host::Rejection;
use courtside_types::{Digest, slot_name::SlotName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::view::SlotView;

/// The action that an operator requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Put these bytes into the plugin directory, and swap to them.
    Put(Bytes),
    /// Remove the file, and swap to the plugin that runs without it.
    Remove,
    /// Say what a rollback would do; a digest must be that of the plugin that runs.
    Plan(Option<Digest>),
    RollBack(Option<Digest>),
    /// Let the plugin that runs stay.
    Confirm,
    /// Make the slot's file the plugin that runs.
    RestoreFile,
}

/// A request on its way to the slots' manager.
#[derive(Debug)]
pub struct Request {
    pub slot: SlotName,
    pub kind: RequestKind,
    /// An operator who no longer waits has closed this channel.
    pub answer: oneshot::Sender<RequestResult>,
}

/// The outcome of a request.
pub type RequestResult = Result<Answer, RequestError>;

/// The answer to a request that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Slot(Box<SlotView>),
    Rollback(Box<RollbackView>),
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("there is no pipeline {0:?}")]
    NoSuchPipeline(String),
    #[error("there is no slot {0}")]
    NoSuchSlot(String),
    /// The plugin was rejected, and the plugin that ran goes on.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The request cannot be done in the present state.
    #[error("{reason}")]
    Refused { code: &'static str, reason: String },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("too many requests wait for the slots of this pipeline, or a rollback is under way")]
    Busy,
    #[error("the host stops")]
    Stopping,
}

impl RequestError {
    /// The stable code of `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoSuchPipeline(_) => "pipeline-not-found",
            Self::NoSuchSlot(_) => "slot-not-found",
            Self::Rejected(rejection) => rejection.code,
            Self::Refused { code, .. } => code,
            Self::Log(error) => error.code(),
            Self::Busy => "slots-busy",
            Self::Stopping => "stopping",
        }
    }
}

/// A plugin, as far as the group's records tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RanView {
    pub digest: Option<String>,
    /// `name@version`, where it is known.
    pub plugin: Option<String>,
}

/// The effect of a rollback, done or planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RollbackView {
    pub slot: String,
    /// Whether it was done; else this is what it would do.
    pub done: bool,
    /// The plugin that is undone.
    pub from: RanView,
    /// The plugin that runs again.
    pub to: RanView,
    /// Until when it can be done.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// By partition.
    pub partitions: BTreeMap<String, RedoneView>,
    /// Events of those partitions in that range; those of other slots among them
    /// are skipped.
    pub events: u64,
    /// Entities that go back to their state from before, in the partitions that
    /// this host has.
    pub entities: u64,
    /// Why it cannot be done, with its code, if so.
    pub refused: Option<RefusedView>,
}

/// The events that are processed again in a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RedoneView {
    /// The first offset that the plugin processed, of all its stints.
    pub from: u64,
    /// The committed offset: everything goes on as ever after it.
    pub until: u64,
    pub events: u64,
    /// Entities that go back; not known of partitions that another host has.
    pub entities: Option<u64>,
    /// Where the plugin ran, each from its first offset to the offset at which another
    /// took over, or to what is committed. Several, where the partition moved between
    /// hosts that ran different plugins.
    pub stints: Vec<StintView>,
}

/// A stretch of a partition that a plugin processed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StintView {
    pub from: u64,
    pub until: u64,
}

/// Why something cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusedView {
    /// Stable code.
    pub code: String,
    pub reason: String,
}
