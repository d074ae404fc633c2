//! Server-sent events. Several updates that are there at once go as one chunk.

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::State,
    http::{
        HeaderMap, HeaderValue, Uri,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use utoipa::ToSchema;

use super::{
    super::{SharedApp, problem::Problem, query::Segment},
    Open, subscribe, words,
};
use crate::scoreboard::{Subscription, Update};

/// What a stream begins with: something to read at once, and how soon to come
/// back after a cut.
const HELLO: &str = ": courtside\nretry: 1000\n\n";
const HEARTBEAT: &str = ":\n\n";

/// One event of a stream.
#[derive(ToSchema)]
#[schema(as = StreamEvent)]
#[allow(dead_code, reason = "describes what is written without being built")]
pub struct StreamEventDoc {
    event: StreamEventKind,
    /// How far the reader is: PARTITION:OFFSET,… of the outputs.
    id: String,
    /// JSON: the output as committed, or `{"game_id"}` of a game that is deleted.
    data: String,
}

/// What has happened.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "describes what is written without being built")]
pub enum StreamEventKind {
    Game,
    Deleted,
}

/// The updates of all games, as server-sent events.
///
/// First the latest state of each game (after `Last-Event-ID`, of those that
/// changed since), then each change. `event: game` has the output as committed,
/// `event: deleted` has `{"game_id"}`. A slow reader skips superseded states.
#[utoipa::path(
    get, path = "/events", tag = "streams", operation_id = "stream_events",
    params(
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event read"),
        ("last_event_id" = Option<String>, Query, description = "The same, for who cannot send the header"),
        ("pipeline" = Option<String>, Query, description = "Which pipeline's output; scores unless there is but another"),
    ),
    responses(
        (status = 200, description = "The stream", body = StreamEventDoc, content_type = "text/event-stream"),
        (status = 400, description = "Bad input", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such pipeline", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn all(
    State(app): State<SharedApp>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let subscription = subscribe(&app, None, &uri, &headers).await?;
    Ok(stream(app, subscription))
}

/// The updates of one game, as server-sent events.
///
/// A game that is not there yet is waited for.
#[utoipa::path(
    get, path = "/games/{id}/events", tag = "streams", operation_id = "stream_game_events",
    params(
        ("id" = String, Path, description = "The game's key"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event read"),
        ("last_event_id" = Option<String>, Query, description = "The same, for who cannot send the header"),
        ("pipeline" = Option<String>, Query, description = "Which pipeline's output; scores unless there is but another"),
    ),
    responses(
        (status = 200, description = "The stream", body = StreamEventDoc, content_type = "text/event-stream"),
        (status = 400, description = "Bad input", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such pipeline", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn game(
    State(app): State<SharedApp>,
    Segment(id): Segment,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let subscription = subscribe(&app, Some(id), &uri, &headers).await?;
    Ok(stream(app, subscription))
}

struct Reader {
    app: SharedApp,
    subscription: Subscription,
    greeted: bool,
    _open: Open,
}

fn stream(app: SharedApp, subscription: Subscription) -> Response {
    let reader = Reader {
        app,
        subscription,
        greeted: false,
        _open: Open::new("sse"),
    };
    let chunks = stream::unfold(reader, async |mut reader| {
        let chunk = reader.next().await?;
        Some((Ok::<_, Infallible>(chunk), reader))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, Body::from_stream(chunks)).into_response()
}

impl Reader {
    /// The next chunk; `None` ends the stream, and the client comes back.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.greeted {
            self.greeted = true;
            return Some(Bytes::from_static(HELLO.as_bytes()));
        }
        tokio::select! {
            biased;
            () = self.app.shutdown.cancelled() => None,
            updates = self.subscription.next() => match updates {
                Ok(updates) => Some(encode(&updates)),
                Err(error) => {
                    tracing::warn!(code = error.code(), %error, "a stream of events was cut");
                    None
                }
            },
            () = tokio::time::sleep(self.app.config.heartbeat) => {
                Some(Bytes::from_static(HEARTBEAT.as_bytes()))
            }
        }
    }
}

fn encode(updates: &[Update]) -> Bytes {
    let mut chunk = Vec::with_capacity(updates.len().saturating_mul(512));
    for update in updates {
        let (event, data) = words(update);
        chunk.extend_from_slice(b"event: ");
        chunk.extend_from_slice(event.as_bytes());
        chunk.extend_from_slice(format!("\nid: {}", update.positions).as_bytes());
        // Either line break would end the field; in JSON both are whitespace.
        for line in data.split(|byte| matches!(byte, b'\n' | b'\r')) {
            chunk.extend_from_slice(b"\ndata: ");
            chunk.extend_from_slice(line);
        }
        chunk.extend_from_slice(b"\n\n");
    }
    chunk.into()
}
