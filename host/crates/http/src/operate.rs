//! Questions of operators and their machines: slots, groups, probes, figures.

use std::collections::BTreeSet;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use courtside_engine::slots::view::{GroupsView, PluginsView};
use courtside_log::Health;
use courtside_process::{
    exposition::{Exposition, Metric},
    logging, usage,
};
use courtside_types::NotReady;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    app::{Shared, SharedApp},
    problem::Problem,
};

static READY: Metric = Metric::gauge(
    "courtside_ready",
    "1 where the host is ready, as /readyz says, 0 where it is not.",
);
static NOT_READY: Metric = Metric::gauge(
    "courtside_not_ready",
    "1 for each reason why the host is not ready, by its code.",
);

/// Whether a host is ready.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    ready: bool,
    /// Why not.
    reasons: Vec<NotReady>,
}

/// Slots, the plugins in them, and their swaps.
#[utoipa::path(get, path = "/plugins", tag = "operation",
    responses((status = 200, body = PluginsView)))]
pub async fn plugins(State(app): State<SharedApp>) -> Result<Json<PluginsView>, Problem> {
    blocking(move || app.operator.plugins()).await.map(Json)
}

/// The groups: members, partitions, lag.
#[utoipa::path(get, path = "/group", tag = "operation",
    responses((status = 200, body = GroupsView)))]
pub async fn group(State(app): State<SharedApp>) -> Result<Json<GroupsView>, Problem> {
    blocking(move || app.operator.groups()).await.map(Json)
}

/// The process lives.
#[utoipa::path(get, path = "/healthz", tag = "operation",
    responses((status = 200, description = "The process runs", body = String)))]
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// The host takes events, processes them and answers reads.
#[utoipa::path(get, path = "/readyz", tag = "operation", responses(
    (status = 200, description = "The host is ready", body = Readiness),
    (status = 503, description = "The host is not ready; the reasons say why", body = Readiness),
))]
pub async fn readyz(State(app): State<SharedApp>) -> Result<Response, Problem> {
    let reasons = blocking(move || not_ready(&app)).await?;
    let ready = reasons.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Ok((status, Json(Readiness { ready, reasons })).into_response())
}

/// Why the host is not ready.
fn not_ready(app: &Shared) -> Vec<NotReady> {
    let mut reasons = app.operator.not_ready();
    if let Health::ReadOnly { code, reason } = app.log.health() {
        reasons.push(NotReady {
            code: code.to_owned(),
            reason,
        });
    }
    reasons.extend(app.scoreboard.not_ready());
    if app.shutdown.is_cancelled() {
        reasons.push(NotReady {
            code: "stopping".to_owned(),
            reason: "the host is stopping".to_owned(),
        });
    }
    reasons
}

/// Figures for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "operation",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub async fn metrics(State(app): State<SharedApp>) -> Result<Response, Problem> {
    let text = blocking(move || {
        let mut out = Exposition::default();
        usage::collect(&mut out);
        logging::collect(&mut out);
        app.operator.gauges(&mut out);
        let reasons = not_ready(&app);
        out.flag(&READY, &[], reasons.is_empty());
        let codes: BTreeSet<_> = reasons.into_iter().map(|reason| reason.code).collect();
        for code in codes {
            out.flag(&NOT_READY, &[("code", &code)], true);
        }
        app.metrics.render() + &out.text()
    })
    .await?;
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4");
    Ok(([(CONTENT_TYPE, content_type)], text).into_response())
}

/// The description of all this.
#[utoipa::path(get, path = "/openapi.json", tag = "operation",
    responses((status = 200, body = serde_json::Value)))]
pub async fn openapi(State(app): State<SharedApp>, headers: HeaderMap) -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, json)], app.openapi.answer(&headers)).into_response()
}

/// Runs a call on a blocking thread, because it may wait for a log that is far away.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(call).await.map_err(|error| {
        Problem::internal(format!("the request could not be carried out: {error}"))
    })
}
