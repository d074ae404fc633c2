//! An open stream: the reader that it follows, its place, and its updates in words.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, Uri};
use bytes::Bytes;
use metrics::{Counter, Gauge, counter, gauge};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    app::Shared,
    games::board,
    problem::Problem,
    query::Parameters,
    scoreboard::{Change, Last, Scoreboard, Subscription, Update},
};

/// Seconds until a client that found no place may come back.
const RETRY_AFTER_S: u32 = 5;

/// The reader that a request asks for. Its last id comes from the header that
/// browsers send when they come back, or from the query.
pub(super) async fn subscribe(
    app: &Shared,
    game: Option<String>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Subscription, Problem> {
    let parameters = Parameters::of(uri, &["pipeline", "last_event_id"])?;
    let board = board(app, &parameters)?;
    let header = headers.get("last-event-id").map(|id| id.to_str());
    let last = match (header, parameters.get("last_event_id")) {
        (Some(Ok("")), None) | (None, None | Some("")) => None,
        (Some(Ok(id)), _) | (None, Some(id)) => Some(Last::of(id)),
        (Some(Err(_)), _) => Some(Last::Unknown),
    };
    let game = game.map(Bytes::from);
    Ok(Scoreboard::subscribe(board, game, last).await)
}

/// An update in words: the kind of event, and its data as JSON.
pub(super) fn words(update: &Update) -> (&'static str, Bytes) {
    match &update.change {
        Change::Game(latest) => ("game", latest.json()),
        Change::Deleted => {
            let id = String::from_utf8_lossy(&update.key);
            let data = serde_json::json!({ "game_id": id });
            ("deleted", data.to_string().into())
        }
    }
}

/// One open stream: it has one of the places for streams, and
/// `courtside_subscribers` counts it.
pub(super) struct Open {
    subscribers: Gauge,
    updates: Counter,
    bytes: Counter,
    skipped: Counter,
    _place: OwnedSemaphorePermit,
}

impl Open {
    pub fn new(app: &Shared, transport: &'static str) -> Result<Self, Problem> {
        let place = Arc::clone(&app.subscribers).try_acquire_owned();
        let place = place.map_err(|_| {
            let detail =
                "as many streams are open as the host allows: come back later, or ask another host";
            let problem = Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too-many-subscribers",
                detail,
            );
            problem.retry_after(RETRY_AFTER_S)
        })?;
        let open = Self {
            subscribers: gauge!("courtside_subscribers", "transport" => transport),
            updates: counter!("courtside_stream_updates_total", "transport" => transport),
            bytes: counter!("courtside_stream_bytes_total", "transport" => transport),
            skipped: counter!("courtside_stream_skipped_total", "transport" => transport),
            _place: place,
        };
        open.subscribers.increment(1.0);
        Ok(open)
    }

    /// Counts updates that were sent to the client, and their bytes.
    pub fn sent(&self, updates: usize, bytes: usize, subscription: &mut Subscription) {
        self.updates.increment(updates as u64);
        self.bytes.increment(bytes as u64);
        self.skipped.increment(subscription.take_skipped());
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.subscribers.decrement(1.0);
    }
}
