//! HTTP: the doors of a host.
//!
//! [`serve`] lives as long as the host. Handlers are thin: events go to
//! [`ingest`](crate::ingest), reads to the [`scoreboard`](crate::scoreboard),
//! questions of operators to the [`Operator`]. Whatever goes wrong is answered
//! with a [`problem`] that has a stable code.

mod body;
mod config;
mod connection;
mod games;
mod gzip;
mod letters;
mod local;
mod observe;
mod operate;
mod plugins;
mod post;
mod problem;
mod query;
mod server;
mod site;
mod stream;
#[cfg(test)]
mod tests;
mod trace;

use std::{ops::Deref, sync::Arc};

use axum::{
    Router,
    http::{Method, StatusCode, Uri},
    middleware::from_fn,
};
use bytes::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::problem::Problem;
pub use self::{
    config::HttpConfig,
    observe::{describe, prometheus},
    server::{BindError, bind, serve},
};
use crate::{ingest::Ingest, log::RecordLog, scoreboard::Scoreboard, slots::view::Operator};

/// What the doors open to.
#[derive(Clone)]
pub struct App {
    pub log: Arc<dyn RecordLog>,
    pub ingest: Arc<Ingest>,
    pub scoreboard: Arc<Scoreboard>,
    pub operator: Arc<dyn Operator>,
    pub metrics: PrometheusHandle,
    pub config: HttpConfig,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// What handlers share.
#[derive(Debug)]
struct Shared {
    app: App,
    shutdown: CancellationToken,
    openapi: Bytes,
    /// Places for streams.
    subscribers: Arc<Semaphore>,
    /// Answers that read the log through.
    scans: Arc<Semaphore>,
}

type SharedApp = Arc<Shared>;

impl Deref for Shared {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Courtside",
        description = "A stream processor for Kafka whose logic is WebAssembly plugins",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "events", description = "Events in"),
        (name = "games", description = "The latest committed outputs"),
        (name = "streams", description = "Updates as they are committed"),
        (name = "operation", description = "Plugins, groups, probes, figures"),
    )
)]
struct Api;

/// The description of all routes.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().1
}

/// All routes, with what each request gets around them.
pub fn router(app: App, shutdown: CancellationToken) -> Router {
    let (routes, openapi) = routes();
    let subscribers = app.config.subscribers();
    let shared = Arc::new(Shared {
        app,
        subscribers: Arc::new(Semaphore::new(subscribers)),
        shutdown,
        openapi: openapi.to_json().unwrap_or_default().into(),
        scans: Arc::new(Semaphore::new(trace::SCANS_MAX)),
    });
    routes
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn(observe::observe))
        .with_state(shared)
}

fn routes() -> (Router<SharedApp>, utoipa::openapi::OpenApi) {
    // Compressed are answers that are large and not streams; a layer more is
    // nothing that the way of an event should pay for.
    let large = OpenApiRouter::new()
        .routes(routes!(games::all))
        .routes(routes!(letters::list))
        .routes(routes!(operate::plugins))
        .routes(routes!(operate::group))
        .routes(routes!(operate::metrics))
        .routes(routes!(operate::openapi))
        .routes(routes!(trace::checkpoint))
        .merge(site::router().into())
        .layer(CompressionLayer::new());
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(post::score))
        .routes(routes!(post::events))
        .routes(routes!(games::one))
        .routes(routes!(stream::all))
        .routes(routes!(stream::game))
        .routes(routes!(stream::ws_all))
        .routes(routes!(stream::ws_game))
        .routes(routes!(letters::one))
        .routes(routes!(letters::redrive, letters::progress))
        .routes(routes!(plugins::put))
        .routes(routes!(plugins::put_key, plugins::delete_key))
        .routes(routes!(plugins::rollback))
        .routes(routes!(plugins::rollback_key))
        .routes(routes!(plugins::confirm))
        .routes(routes!(plugins::confirm_key))
        .routes(routes!(operate::healthz))
        .routes(routes!(operate::readyz))
        .routes(routes!(trace::events))
        .routes(routes!(trace::outputs))
        .routes(routes!(trace::plugin))
        .merge(large)
        .split_for_parts()
}

async fn not_found(uri: Uri) -> Problem {
    let detail = format!("there is nothing at {:?}", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    let detail = format!("{method} is not for {:?}, see Allow", uri.path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}
