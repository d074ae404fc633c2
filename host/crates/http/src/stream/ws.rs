//! Updates over a WebSocket, each a text message
//! `{"id":…,"event":…,"data":…}`.

use axum::{
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, close_code, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
};
use bytes::Bytes;
use futures_util::SinkExt;

use super::{
    super::{
        access::may_read,
        app::SharedApp,
        problem::{Problem, answers},
        query::Segment,
    },
    open::{Open, subscribe, words},
};
use crate::scoreboard::{Subscription, Update};

/// A client has nothing to say here but pings and its goodbye.
const INCOMING_BYTES_MAX: usize = 4 * 1024;

/// Bytes of messages that are sent together. At most one more message waits for the
/// client.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// The updates of all games, over a WebSocket.
#[utoipa::path(
    get, path = "/ws", tag = "streams", operation_id = "open_websocket",
    params(
        ("last_event_id" = Option<String>, Query, description = "The id of the last message read"),
        ("pipeline" = Option<String>, Query, description = "The pipeline whose output is read; by default scores, or the only pipeline"),
    ),
    responses(
        (status = 101, description = "The stream: text messages {\"id\", \"event\", \"data\"}"),
        answers::WebSocketRefused, answers::StreamRefused,
    )
)]
pub async fn ws_all(
    State(app): State<SharedApp>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    open(app, None, &uri, &headers, upgrade).await
}

/// The updates of one game, over a WebSocket.
#[utoipa::path(
    get, path = "/games/{id}/ws", tag = "streams", operation_id = "open_game_websocket",
    params(
        ("id" = String, Path, description = "The game's key"),
        ("last_event_id" = Option<String>, Query, description = "The id of the last message read"),
        ("pipeline" = Option<String>, Query, description = "The pipeline whose output is read; by default scores, or the only pipeline"),
    ),
    responses(
        (status = 101, description = "The stream: text messages {\"id\", \"event\", \"data\"}"),
        answers::WebSocketRefused, answers::StreamRefused,
    )
)]
pub async fn ws_game(
    State(app): State<SharedApp>,
    Segment(id): Segment,
    uri: Uri,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    open(app, Some(id), &uri, &headers, upgrade).await
}

async fn open(
    app: SharedApp,
    game: Option<String>,
    uri: &Uri,
    headers: &HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|rejection| {
        Problem::new(
            rejection.status(),
            "websocket-required",
            rejection.body_text(),
        )
    })?;
    if !may_read(headers, &app.config.cors_origins) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "origin-not-allowed",
            "a page of another site may not open a WebSocket here",
        ));
    }
    let open = Open::new(&app, "websocket")?;
    let subscription = subscribe(&app, game, uri, headers).await?;
    let upgrade = upgrade
        .max_message_size(INCOMING_BYTES_MAX)
        .max_frame_size(INCOMING_BYTES_MAX)
        .read_buffer_size(INCOMING_BYTES_MAX)
        .write_buffer_size(WRITE_BUFFER_BYTES);
    Ok(upgrade.on_upgrade(|socket| run(app, subscription, socket, open)))
}

async fn run(app: SharedApp, mut subscription: Subscription, mut socket: WebSocket, open: Open) {
    loop {
        let sent = tokio::select! {
            biased;
            () = app.shutdown.cancelled() => break,
            updates = subscription.next() => match updates {
                Ok(updates) => tokio::select! {
                    sent = send(&mut socket, &updates) => sent.map(|bytes| {
                        open.sent(updates.len(), bytes, &mut subscription);
                    }),
                    () = app.shutdown.cancelled() => break,
                },
                Err(error) => {
                    tracing::warn!(code = error.code(), %error, "stream of updates cut by an error");
                    break;
                }
            },
            incoming = socket.recv() => match incoming {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => Ok(()),
            },
            () = tokio::time::sleep(app.config.heartbeat) => {
                socket.send(Message::Ping(Bytes::new())).await
            }
        };
        if sent.is_err() {
            return;
        }
    }
    let goodbye = Message::Close(Some(CloseFrame {
        code: close_code::AWAY,
        reason: "come back with your last id".into(),
    }));
    // Best effort: the client may be the reason for the end.
    let _ = tokio::time::timeout(app.config.heartbeat, socket.send(goodbye)).await;
}

/// Sends updates, and returns the bytes of their messages.
async fn send(socket: &mut WebSocket, updates: &[Update]) -> Result<usize, axum::Error> {
    let mut bytes = 0;
    for update in updates {
        let (event, data) = words(update);
        let key = serde_json::Value::from(String::from_utf8_lossy(&update.key));
        // The data is JSON, so it is UTF-8.
        let data = String::from_utf8_lossy(&data);
        let text = format!(
            r#"{{"id":"{}","event":"{event}","key":{key},"data":{data}}}"#,
            update.positions
        );
        bytes += text.len();
        socket.feed(Message::text(text)).await?;
    }
    socket.flush().await?;
    Ok(bytes)
}
