//! The routes of the host, each with its handler and the scope that it needs, and the
//! layers around them.

use std::sync::Arc;

use axum::{
    Router,
    http::{Method, StatusCode, Uri},
    middleware::from_fn,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    access::{self, Access, Scope, guarded},
    app::{App, Shared, SharedApp},
    backup, dead_letters, games,
    gzip::Constant,
    observe, operate, plugins, post,
    problem::Problem,
    site, stream, trace,
};

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

/// The OpenAPI description of all routes, for a host with these access rules.
#[must_use]
pub fn openapi(access: &Access) -> utoipa::openapi::OpenApi {
    routes(access).1
}

/// All routes, with the layers around them.
pub fn router(app: App, shutdown: CancellationToken) -> Router {
    let (routes, openapi) = routes(&app.access);
    let cors = access::cors(&app.config.cors_origins);
    let subscribers = app.config.subscribers();
    let shared = Arc::new(Shared {
        app,
        subscribers: Arc::new(Semaphore::new(subscribers)),
        shutdown,
        openapi: Constant::new(openapi.to_json().unwrap_or_default().into()),
        scans: Arc::new(Semaphore::new(trace::SCANS_MAX)),
    });
    let routes = routes
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    // CORS goes around the check of tokens: browsers send none with a preflight.
    let routes = match cors {
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    // This check comes before CORS and access, which both read the host's name.
    let routes = routes.layer(from_fn(access::authority::check));
    routes.layer(from_fn(observe::observe)).with_state(shared)
}

fn routes(access: &Access) -> (Router<SharedApp>, utoipa::openapi::OpenApi) {
    // Only large answers that are no streams are compressed: an event should not pay
    // for one more layer on its way.
    let large = OpenApiRouter::new()
        .routes(routes!(games::all))
        .routes(routes!(dead_letters::list))
        .routes(routes!(operate::plugins))
        .routes(routes!(operate::group))
        .routes(routes!(operate::metrics))
        .routes(routes!(trace::checkpoint));
    let read = OpenApiRouter::new()
        .routes(routes!(games::one))
        .routes(routes!(stream::all))
        .routes(routes!(stream::game))
        .routes(routes!(stream::ws_all))
        .routes(routes!(stream::ws_game))
        .routes(routes!(dead_letters::one))
        .routes(routes!(dead_letters::progress))
        .routes(routes!(trace::events))
        .routes(routes!(trace::outputs))
        .routes(routes!(trace::plugin));
    let write = OpenApiRouter::new()
        .routes(routes!(post::score))
        .routes(routes!(post::events));
    let operate = OpenApiRouter::new()
        .routes(routes!(backup::get))
        .routes(routes!(dead_letters::redrive))
        .routes(routes!(plugins::put))
        .routes(routes!(plugins::put_key, plugins::delete_key))
        .routes(routes!(plugins::rollback))
        .routes(routes!(plugins::rollback_key))
        .routes(routes!(plugins::confirm))
        .routes(routes!(plugins::confirm_key))
        .routes(routes!(plugins::restore_file))
        .routes(routes!(plugins::restore_key_file));
    // A prober, a browser and a client need these routes before they have a token.
    let open = OpenApiRouter::new()
        .routes(routes!(operate::openapi))
        .merge(site::router().into())
        .routes(routes!(operate::healthz))
        .routes(routes!(operate::readyz));
    let (routes, mut openapi) = OpenApiRouter::with_openapi(Api::openapi())
        .merge(guarded(access, Scope::Write, write))
        .merge(guarded(access, Scope::Read, read))
        .merge(guarded(access, Scope::Read, large).layer(CompressionLayer::new()))
        .merge(guarded(access, Scope::Operate, operate))
        .merge(open)
        .split_for_parts();
    access::describe_scheme(access, &mut openapi);
    (routes, openapi)
}

async fn not_found(uri: Uri) -> Problem {
    let detail = format!("there is nothing at {:?}", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "not-found", detail)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    let detail = format!(
        "{method} is not allowed at {:?}, see the header Allow",
        uri.path()
    );
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}
