//! Server-sent events. Updates that are ready at the same time go as one chunk.
//!
//! With gzip, a chunk is made of values compressed once for all readers and of
//! the few words around them, which are left as they are.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue,
        header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY},
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use utoipa::ToSchema;

use super::{
    super::{
        app::SharedApp,
        gzip::{self, GZIP, Gzip},
        problem::{Problem, answers},
        query::Segment,
        server::connection::HalfClosed,
    },
    open::{Open, subscribe, words},
};
use crate::scoreboard::{Change, Subscription, Update, deflate};

/// The beginning of a stream: a comment to read at once, and the milliseconds until a
/// client comes back after a cut.
const HELLO: &str = ": courtside\nretry: 1000\n\n";
const HEARTBEAT: &str = ":\n\n";
/// The longest silence for a client that has closed its side. If the client is gone, a
/// reset answers the first bytes sent to it, and the second write fails.
const HALF_CLOSED_HEARTBEAT: Duration = Duration::from_secs(1);
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");
/// About how many bytes of an event are not its data.
const EVENT_BYTES_ABOUT: usize = 64;

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

/// The kind of the update.
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
        ("last_event_id" = Option<String>, Query, description = "The id of the last event read, for clients that cannot send the header"),
        ("pipeline" = Option<String>, Query, description = "The pipeline whose output is read; by default scores, or the only pipeline"),
    ),
    responses(
        (status = 200, description = "The stream", body = StreamEventDoc, content_type = "text/event-stream"),
        answers::InvalidRequest, answers::StreamRefused,
    )
)]
pub async fn all(State(app): State<SharedApp>, request: Request) -> Result<Response, Problem> {
    follow(app, None, request).await
}

/// The updates of one game, as server-sent events.
///
/// A game that is not there yet is waited for.
#[utoipa::path(
    get, path = "/games/{id}/events", tag = "streams", operation_id = "stream_game_events",
    params(
        ("id" = String, Path, description = "The game's key"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event read"),
        ("last_event_id" = Option<String>, Query, description = "The id of the last event read, for clients that cannot send the header"),
        ("pipeline" = Option<String>, Query, description = "The pipeline whose output is read; by default scores, or the only pipeline"),
    ),
    responses(
        (status = 200, description = "The stream", body = StreamEventDoc, content_type = "text/event-stream"),
        answers::InvalidRequest, answers::StreamRefused,
    )
)]
pub async fn game(
    State(app): State<SharedApp>,
    Segment(id): Segment,
    request: Request,
) -> Result<Response, Problem> {
    follow(app, Some(id), request).await
}

async fn follow(
    app: SharedApp,
    game: Option<String>,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let open = Open::new(&app, "sse")?;
    let subscription = subscribe(&app, game, &parts.uri, &parts.headers).await?;
    let client = parts.extensions.remove().unwrap_or_default();
    Ok(stream(app, subscription, open, client, &parts.headers))
}

struct Reader {
    app: SharedApp,
    subscription: Subscription,
    phase: Phase,
    /// The gzip member that is being written, if the client takes gzip.
    gzip: Option<Gzip>,
    open: Open,
    client: HalfClosed,
    /// The client has been sent something since it closed its side.
    is_tried: bool,
}

#[derive(Clone, Copy)]
enum Phase {
    Begin,
    Follow,
    Over,
}

fn stream(
    app: SharedApp,
    subscription: Subscription,
    open: Open,
    client: HalfClosed,
    request: &HeaderMap,
) -> Response {
    let takes_gzip = gzip::is_accepted(request);
    // The reader is boxed, because an async closure holds its argument twice if it
    // binds it again.
    let reader = Box::new(Reader {
        app,
        subscription,
        phase: Phase::Begin,
        gzip: takes_gzip.then(Gzip::new),
        open,
        client,
        is_tried: false,
    });
    let chunks = stream::unfold(reader, async |mut reader| {
        let chunk = reader.next().await?;
        Some((Ok::<_, Infallible>(chunk), reader))
    });
    let fixed = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (VARY, HeaderValue::from(ACCEPT_ENCODING)),
        // nginx would keep events until it has enough of them.
        (UNBUFFERED, HeaderValue::from_static("no")),
    ];
    let mut response = (fixed, Body::from_stream(chunks)).into_response();
    if takes_gzip {
        let headers = response.headers_mut();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(GZIP));
    }
    response
}

impl Reader {
    /// The next chunk; `None` ends the stream, and the client comes back.
    async fn next(&mut self) -> Option<Bytes> {
        let app = &self.app;
        let mut chunk = Chunk::new(self.gzip.as_mut());
        let mut told = 0;
        let silence_max = match app.config.heartbeat {
            heartbeat if self.client.is_so() => heartbeat.min(HALF_CLOSED_HEARTBEAT),
            heartbeat => heartbeat,
        };
        match self.phase {
            Phase::Begin => {
                self.phase = Phase::Follow;
                chunk.text(HELLO);
                return Some(chunk.end());
            }
            Phase::Follow => {}
            Phase::Over => return None,
        }
        tokio::select! {
            biased;
            () = app.shutdown.cancelled() => {
                self.phase = Phase::Over;
                return chunk.last();
            }
            updates = self.subscription.next() => match updates {
                Ok(updates) => {
                    told = updates.len();
                    updates.iter().for_each(|update| chunk.event(update));
                }
                Err(error) => {
                    tracing::warn!(code = error.code(), %error, "stream of updates cut by an error");
                    return None;
                }
            },
            () = self.client.becomes_so(), if !self.is_tried => {
                self.is_tried = true;
                chunk.text(HEARTBEAT);
            }
            () = tokio::time::sleep(silence_max) => chunk.text(HEARTBEAT),
        }
        let chunk = chunk.end();
        self.open.sent(told, chunk.len(), &mut self.subscription);
        Some(chunk)
    }
}

/// One chunk, while the reader puts it together.
struct Chunk<'a> {
    out: Vec<u8>,
    /// Text that comes next and is not compressed.
    text: Vec<u8>,
    gzip: Option<&'a mut Gzip>,
}

impl<'a> Chunk<'a> {
    const fn new(gzip: Option<&'a mut Gzip>) -> Self {
        Self {
            out: Vec::new(),
            text: Vec::new(),
            gzip,
        }
    }

    fn text(&mut self, text: &str) {
        self.text.extend_from_slice(text.as_bytes());
    }

    fn event(&mut self, update: &Update) {
        let (event, data) = words(update);
        self.text
            .reserve(data.len().saturating_add(EVENT_BYTES_ABOUT));
        self.text(&format!("event: {event}\nid: {}\ndata: ", update.positions));
        // Either line break would end the field; in JSON both are whitespace.
        let mut lines = data.split(|byte| matches!(byte, b'\n' | b'\r'));
        let first = lines.next().unwrap_or_default();
        match &update.change {
            Change::Game(latest) if first.len() == latest.value.len() => {
                self.value(first, || latest.deflated().cloned());
            }
            Change::Game(_) | Change::Deleted => {
                let mut value = first.to_vec();
                for line in lines {
                    value.extend_from_slice(b"\ndata: ");
                    value.extend_from_slice(line);
                }
                self.value(&value, || deflate(&value));
            }
        }
        self.text("\n\n");
    }

    fn value(&mut self, value: &[u8], deflated: impl FnOnce() -> Option<Bytes>) {
        if let Some(gzip) = &mut self.gzip
            && let Some(deflated) = deflated()
        {
            gzip.store(&mut self.out, &self.text);
            self.text.clear();
            gzip.add(&mut self.out, value, &deflated);
        } else {
            self.text.extend_from_slice(value);
        }
    }

    fn end(mut self) -> Bytes {
        match self.gzip {
            Some(gzip) => {
                gzip.store(&mut self.out, &self.text);
                self.out.into()
            }
            None => self.text.into(),
        }
    }

    /// The end of a compressed stream; `None` if the stream is plain.
    fn last(mut self) -> Option<Bytes> {
        self.gzip?.end(&mut self.out);
        Some(self.out.into())
    }
}
