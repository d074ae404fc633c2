//! `GET /games` and `GET /games/{id}`: the latest committed outputs.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode, Uri,
        header::{
            ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
            VARY,
        },
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use courtside_types::{DIGEST_HEADER, PLUGIN_HEADER, SOURCE_HEADER};
use utoipa::ToSchema;

use super::{
    app::{Shared, SharedApp},
    gzip::{self, GZIP},
    problem::{Problem, answers},
    query::{Parameters, Segment, cursor_of},
};
use crate::{
    ingest::SCORES,
    scoreboard::{Board, Game},
};

const POSITION_HEADER: &str = "courtside-position";

/// A page of games.
#[derive(ToSchema)]
#[schema(as = Games)]
#[allow(dead_code, reason = "describes what is written without being built")]
pub struct GamesDoc {
    /// The latest committed output of each, in the order of their keys. An output
    /// that is not JSON is an object with its bytes in `hex`.
    games: Vec<serde_json::Value>,
    /// Their keys, in the same order; what is not UTF-8 in them is replaced.
    keys: Vec<String>,
    /// The `cursor` of the next page; null in the last.
    next: Option<String>,
}

/// The latest committed output of one game.
#[utoipa::path(
    get, path = "/games/{id}", tag = "games", operation_id = "get_game",
    params(
        ("id" = String, Path, description = "The game's key"),
        ("after" = Option<String>, Query, description = "PARTITION:OFFSET of an event: the host answers once it is processed", pattern = "^[0-9]{1,9}:[0-9]{1,18}$"),
        ("pipeline" = Option<String>, Query, description = "The pipeline whose output is read; by default scores, or the only pipeline"),
        ("If-None-Match" = Option<String>, Header),
    ),
    responses(
        (status = 200, description = "The output's bytes", body = serde_json::Value, headers(
            ("courtside-position" = String, description = "PARTITION:OFFSET of the output"),
            ("courtside-plugin" = String, description = "The plugin that made it"),
            ("courtside-digest" = String, description = "The digest of that plugin"),
            ("courtside-source" = String, description = "The event that led to it"),
            ("etag" = String),
        )),
        (status = 304, description = "The output has not changed"),
        (status = 404, description = "No such game, or pipeline", body = Problem, content_type = "application/problem+json"),
        answers::InvalidRequest, answers::GamesNotRead,
    )
)]
pub async fn one(
    State(app): State<SharedApp>,
    Segment(id): Segment,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(&uri, &["after", "pipeline"])?;
    let board = board(&app, &parameters)?;
    wait(&app, board, &parameters).await?;
    let game = board.game(id.as_bytes()).await?.ok_or_else(|| {
        let detail = format!("there is no game {id:?}");
        Problem::new(StatusCode::NOT_FOUND, "game-not-found", detail)
    })?;
    Ok(answer(&game, &headers))
}

fn answer(game: &Game, request: &HeaderMap) -> Response {
    let position = game.place.to_string();
    let latest = &game.latest;
    let deflated = gzip::is_accepted(request)
        .then(|| latest.deflated())
        .flatten();
    // The tag of a compressed answer is weak: its bytes differ, but mean the same.
    let weak = if deflated.is_some() { "W/" } else { "" };
    let etag = format!("{weak}\"{position}\"");
    let mut response = if is_known(request, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let content_type = if latest.is_json() {
            "application/json"
        } else {
            "application/octet-stream"
        };
        let content_type = HeaderValue::from_static(content_type);
        let content_type = [(CONTENT_TYPE, content_type)];
        match deflated {
            Some(deflated) => {
                let encoding = [(CONTENT_ENCODING, HeaderValue::from_static(GZIP))];
                let body = gzip::whole(&latest.value, deflated);
                (content_type, encoding, body).into_response()
            }
            None => (content_type, latest.value.clone()).into_response(),
        }
    };
    let headers = response.headers_mut();
    let mut put = |name: HeaderName, value: Bytes| {
        // A plugin's words that cannot be a header are left out.
        if let Ok(value) = HeaderValue::from_maybe_shared(value) {
            headers.insert(name, value);
        }
    };
    put(CACHE_CONTROL, Bytes::from_static(b"no-cache"));
    put(
        VARY,
        Bytes::from_static(ACCEPT_ENCODING.as_str().as_bytes()),
    );
    put(ETAG, etag.into());
    put(HeaderName::from_static(POSITION_HEADER), position.into());
    for (name, value) in [
        (PLUGIN_HEADER, &latest.plugin),
        (DIGEST_HEADER, &latest.digest),
        (SOURCE_HEADER, &latest.source),
    ] {
        if let Some(value) = value {
            put(HeaderName::from_static(name), value.clone());
        }
    }
    response
}

/// Whether the client already has the body with this tag (`If-None-Match`).
pub(super) fn is_known(request: &HeaderMap, etag: &str) -> bool {
    let strong = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    let etag = strong(etag);
    request
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || strong(tag.trim()) == etag)
}

/// The latest committed outputs of all games, in pages.
#[utoipa::path(
    get, path = "/games", tag = "games", operation_id = "list_games",
    params(
        ("limit" = Option<u32>, Query, description = "Games in a page, from 1 to 1000; by default 100", minimum = 1, maximum = 1000),
        ("cursor" = Option<String>, Query, description = "The field next of the page before", pattern = "^([0-9a-f]{2})*$"),
        ("after" = Option<String>, Query, description = "PARTITION:OFFSET of an event: the host answers once it is processed", pattern = "^[0-9]{1,9}:[0-9]{1,18}$"),
        ("pipeline" = Option<String>, Query, description = "The pipeline whose output is read; by default scores, or the only pipeline"),
    ),
    responses(
        (status = 200, description = "A page", body = GamesDoc),
        answers::InvalidRequest, answers::NoSuchPipeline, answers::GamesNotRead,
    )
)]
pub async fn all(State(app): State<SharedApp>, uri: Uri) -> Result<Response, Problem> {
    let parameters = Parameters::of(&uri, &["limit", "cursor", "after", "pipeline"])?;
    let limit = parameters.limit()?;
    let cursor = parameters.cursor()?;
    let board = board(&app, &parameters)?;
    wait(&app, board, &parameters).await?;
    let page = board.page(cursor.as_deref(), limit).await?;

    let values: usize = page.games.iter().map(|game| game.latest.value.len()).sum();
    let mut body = Vec::with_capacity(values.saturating_add(page.games.len()).saturating_add(64));
    body.extend_from_slice(b"{\"games\":[");
    for (index, game) in page.games.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&game.latest.json());
    }
    body.extend_from_slice(b"],\"keys\":[");
    for (index, game) in page.games.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        let key = serde_json::Value::from(String::from_utf8_lossy(&game.key));
        body.extend_from_slice(key.to_string().as_bytes());
    }
    let next = page.next.as_ref().map(cursor_of);
    let next = next.map_or_else(|| "null".to_owned(), |next| format!("\"{next}\""));
    body.extend_from_slice(b"],\"next\":");
    body.extend_from_slice(next.as_bytes());
    body.push(b'}');
    let json = HeaderValue::from_static("application/json");
    let no_cache = HeaderValue::from_static("no-cache");
    Ok(([(CONTENT_TYPE, json), (CACHE_CONTROL, no_cache)], body).into_response())
}

/// The board that a request is about.
pub(super) fn board<'a>(
    app: &'a Shared,
    parameters: &Parameters,
) -> Result<&'a Arc<Board>, Problem> {
    let scoreboard = &app.scoreboard;
    let (board, name) = match parameters.get("pipeline") {
        Some(name) => (scoreboard.board(name), name),
        None => {
            let board = scoreboard.board(SCORES);
            (board.or_else(|| scoreboard.only_board()), SCORES)
        }
    };
    board.ok_or_else(|| Problem::no_pipeline(name))
}

async fn wait(app: &Shared, board: &Arc<Board>, parameters: &Parameters) -> Result<(), Problem> {
    if let Some((partition, offset)) = parameters.after()? {
        let timeout = app.config.read_after_timeout;
        board.wait_for(partition, offset, timeout).await?;
    }
    Ok(())
}
