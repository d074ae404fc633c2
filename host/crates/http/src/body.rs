//! Reading the body of a request: whole or not at all, bounded in size, in
//! time, and together with all others in memory.

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header::CONTENT_LENGTH},
};
use bytes::{Bytes, BytesMut};
use courtside_types::usize_of;
use futures_util::StreamExt;

use super::{app::Shared, problem::Problem};
use crate::ingest::Reservation;

/// Reads the body of a request with events; its bytes count as long as the
/// reservation lives.
pub async fn read_events(
    app: &Shared,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Bytes, Reservation), Problem> {
    let limit = usize_of(app.ingest.config().body_bytes_max);
    read(app, headers, body, limit).await
}

/// Reads the body of any request, with a limit that the caller sets.
pub async fn read(
    app: &Shared,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<(Bytes, Reservation), Problem> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    let timeout = app.config.body_timeout;
    tokio::time::timeout(timeout, collect(app, body, announced, limit))
        .await
        .unwrap_or_else(|_| {
            Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "body-timeout",
                format!("the body did not arrive within {timeout:?}"),
            ))
        })
}

async fn collect(
    app: &Shared,
    body: Body,
    announced: Option<usize>,
    limit: usize,
) -> Result<(Bytes, Reservation), Problem> {
    let mut held = Reservation::default();
    let mut chunks = body.into_data_stream();
    let mut first = Bytes::new();
    // Nearly every body comes in one chunk, and is not copied then.
    while first.is_empty() {
        match chunks.next().await {
            Some(chunk) => first = chunk.map_err(cut)?,
            None => return Ok((first, held)),
        }
    }
    take(app, &mut held, 0, first.len(), limit)?;
    let mut rest = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(cut)?;
        let read = first.len().saturating_add(rest.len());
        take(app, &mut held, read, chunk.len(), limit)?;
        if rest.is_empty() && !first.is_empty() {
            // The buffer follows `Content-Length` only up to four times the bytes that
            // have come, so a header alone reserves no memory.
            let believed = announced.unwrap_or(0).min(read.saturating_mul(4));
            rest.reserve(believed.max(read.saturating_add(chunk.len())));
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&chunk);
    }
    let whole = if rest.is_empty() {
        first
    } else {
        rest.freeze()
    };
    Ok((whole, held))
}

fn take(
    app: &Shared,
    held: &mut Reservation,
    read: usize,
    more: usize,
    limit: usize,
) -> Result<(), Problem> {
    if read.saturating_add(more) > limit {
        return Err(too_large(limit));
    }
    app.ingest.reserve(held, more).map_err(Problem::from)
}

fn too_large(limit: usize) -> Problem {
    let detail = format!("a body may have at most {limit} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
}

fn cut(error: axum::Error) -> Problem {
    let detail = format!("the body did not arrive whole: {error}");
    Problem::new(StatusCode::BAD_REQUEST, "body-incomplete", detail)
}
