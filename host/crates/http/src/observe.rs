//! The layer around every request: it counts the request, answers a panic with a
//! problem, and keeps browsers from guessing the type of the answer.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderValue, Method, header::X_CONTENT_TYPE_OPTIONS},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

use super::{access::Who, problem::Problem};

const DURATION: &str = "courtside_http_request_duration_seconds";

/// Bounds of the buckets, from half a millisecond to ten seconds.
const DURATION_BUCKETS_S: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// A recorder with the buckets that the figures of this module want; install
/// it before the host starts.
pub fn prometheus() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(DURATION.to_owned()), &DURATION_BUCKETS_S)
}

/// Describes the figures of HTTP, ingest and the scoreboard.
pub fn describe() {
    describe_counter!("courtside_http_requests_total", "Requests answered.");
    describe_histogram!(DURATION, Unit::Seconds, "Time to the head of the answer.");
    describe_gauge!("courtside_http_connections", "Open connections.");
    describe_counter!(
        "courtside_access_refused_total",
        "Requests that were denied access, by code."
    );
    describe_counter!(
        "courtside_tls_handshakes_failed_total",
        "TLS handshakes that failed."
    );
    describe_gauge!(
        "courtside_reload_failed",
        "1 while tokens or a certificate have changed and cannot be used."
    );
    describe_counter!("courtside_ingest_events_total", "Events the log has taken.");
    describe_counter!(
        "courtside_ingest_refused_total",
        "Requests with events that were not taken, by code."
    );
    describe_gauge!("courtside_subscribers", "Open streams of updates.");
    describe_counter!(
        "courtside_stream_updates_total",
        "Updates sent to readers of streams."
    );
    describe_counter!(
        "courtside_stream_bytes_total",
        Unit::Bytes,
        "Bytes of streams, compressed ones as they went out."
    );
    describe_counter!(
        "courtside_stream_skipped_total",
        "States that were superseded before they were sent to a slow reader."
    );
    describe_gauge!("courtside_scoreboard_games", "Games with an output.");
    describe_gauge!(
        "courtside_scoreboard_held_bytes",
        Unit::Bytes,
        "Outputs held in memory."
    );
    describe_counter!(
        "courtside_scoreboard_records_total",
        "Output records followed."
    );
    describe_counter!(
        "courtside_scoreboard_read_backs_total",
        "Outputs read from the log, because memory no longer held them."
    );
}

/// A layer around all routes that counts requests and answers panics.
pub async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = method(request.method());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    // Handlers share nothing that a panic leaves half done: locks are
    // parking_lot's, held over no code that can panic midway.
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|panic| {
        tracing::error!(route, panic = message(&*panic), "a request panicked");
        Problem::internal("the request could not be answered").into_response()
    });
    response
        .headers_mut()
        .insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let took = started.elapsed();
    if let Some(who) = response.extensions().get::<Who>() {
        let status = response.status().as_u16();
        tracing::debug!(token = %who, method, route, status, ?took, "request answered");
    }
    record(method, route, &response, took);
    response
}

fn record(method: &'static str, route: String, response: &Response, took: Duration) {
    let status = response.status().as_str().to_owned();
    metrics::counter!(
        "courtside_http_requests_total",
        "method" => method, "route" => route.clone(), "status" => status
    )
    .increment(1);
    metrics::histogram!(DURATION, "method" => method, "route" => route).record(took.as_secs_f64());
}

/// The method as a label, which has few values.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
