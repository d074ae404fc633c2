//! The running host, as requests of operators reach it.

use std::sync::Arc;

use courtside_engine::{
    backup::source::Source,
    dead_letters::DeadLetters,
    replay::trace::EntityHistory,
    slots::{
        request::{RequestError, RequestKind, RequestResult},
        view::{GroupsView, PluginsView},
    },
};
use courtside_log::LogError;
use courtside_process::exposition::Exposition;
use courtside_types::{NotReady, slot_name::SlotName};
use tokio::sync::oneshot;

/// The running host, to the handlers of requests.
pub trait Operator: Send + Sync + 'static {
    /// Asks something of a slot; the answer comes when the request was done or refused.
    fn ask(
        &self,
        pipeline: &str,
        slot: SlotName,
        kind: RequestKind,
    ) -> Result<oneshot::Receiver<RequestResult>, RequestError>;

    /// The largest plugin that a slot of a pipeline takes.
    fn plugin_bytes_max(&self, pipeline: &str, slot: &SlotName) -> Option<usize>;

    fn plugins(&self) -> PluginsView;
    fn groups(&self) -> GroupsView;
    fn not_ready(&self) -> Vec<NotReady>;
    /// The host's present figures, for Prometheus.
    fn gauges(&self, out: &mut Exposition);
    /// A pipeline, for questions about its entities.
    fn traced(&self, pipeline: &str) -> Option<Arc<EntityHistory>>;
    /// A backup of the log and of the host's copies of plugins.
    fn backup(&self) -> Result<Source, LogError>;
    /// The dead letters of a pipeline; none where there is no such pipeline.
    fn letters(&self, pipeline: &str) -> Option<Arc<DeadLetters>>;
}
