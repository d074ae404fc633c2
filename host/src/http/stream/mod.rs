//! Streams of updates: server-sent events, and the same over a WebSocket.
//!
//! A stream is a cursor into the scoreboard, pulled as fast as its client
//! reads; it ends when the host stops, and the client comes back with its last
//! id.

mod sse;
mod ws;

use axum::http::{HeaderMap, Uri};
use bytes::Bytes;

pub use self::{
    sse::{__path_all, __path_game, all, game},
    ws::{__path_ws_all, __path_ws_game, ws_all, ws_game},
};
use super::{Shared, games::board, problem::Problem, query::Parameters};
use crate::scoreboard::{Change, Last, Scoreboard, Subscription, Update};

/// The reader that a request asks for. Where it has read to comes from the
/// header that browsers send when they come back, or from the query.
async fn subscribe(
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
fn words(update: &Update) -> (&'static str, Bytes) {
    match &update.change {
        Change::Game(latest) => ("game", latest.json()),
        Change::Deleted => {
            let id = String::from_utf8_lossy(&update.key);
            let data = serde_json::json!({ "game_id": id });
            ("deleted", data.to_string().into())
        }
    }
}

/// One open stream, as `courtside_subscribers` counts them.
struct Open(&'static str);

impl Open {
    fn new(transport: &'static str) -> Self {
        metrics::gauge!("courtside_subscribers", "transport" => transport).increment(1.0);
        Self(transport)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::gauge!("courtside_subscribers", "transport" => self.0).decrement(1.0);
    }
}
