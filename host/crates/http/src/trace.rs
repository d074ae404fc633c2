//! The log's records of one key: its events, the outputs published for them, its
//! checkpoint, and the plugins' bytes. `courtside replay` asks for them.
//!
//! An answer reads a partition from end to end, a page at a time on a thread of
//! its own, as fast as the client takes it. The host therefore gives only a few such
//! answers at a time.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{
        HeaderValue, StatusCode, Uri,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use courtside_engine::replay::{
    entity::EntityView,
    line::Line,
    trace::{EntityHistory, Lines},
};
use courtside_log::LogError;
use courtside_types::{Digest, PartitionId};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    app::SharedApp,
    operate::blocking,
    plugins::PluginFileDoc,
    problem::{Problem, answers},
    query::{Parameters, Segment},
};

/// The most answers at a time that read the log from end to end.
pub const SCANS_MAX: usize = 2;
/// Pages read ahead of a client.
const PAGES_AHEAD: usize = 2;
/// The longest time without a byte for a client, so that a client that is gone is
/// noticed and its scan ends.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// The pipeline, the key and the partitions that a request is about.
struct EntityRequest {
    traced: Arc<EntityHistory>,
    key: String,
    partitions: Vec<PartitionId>,
    permit: OwnedSemaphorePermit,
}

fn request(
    app: &SharedApp,
    (pipeline, key): (String, String),
    parameters: &Parameters,
) -> Result<EntityRequest, Problem> {
    let traced = traced(app, &pipeline)?;
    let partitions = match parameters.partition()? {
        None => traced.partitions_of(key.as_bytes()),
        Some(partition) if partition.0 < traced.pipeline.partitions => vec![partition],
        Some(partition) => {
            let detail = format!(
                "partition: the input of {pipeline} has {} partitions, and no partition {partition}",
                traced.pipeline.partitions
            );
            return Err(Problem::field("no-such-partition", "partition", detail));
        }
    };
    let busy = || {
        let detail = "other requests are reading through the log already";
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "host-busy", detail).retry_after(1)
    };
    let permit = Arc::clone(&app.scans).try_acquire_owned();
    let permit = permit.map_err(|_| busy())?;
    // Background requests of live pages always leave one place for operators.
    if parameters.flag("background")? && app.scans.available_permits() + 1 < SCANS_MAX {
        return Err(busy());
    }
    Ok(EntityRequest {
        traced,
        key,
        partitions,
        permit,
    })
}

fn traced(app: &SharedApp, pipeline: &str) -> Result<Arc<EntityHistory>, Problem> {
    let traced = app.operator.traced(pipeline);
    traced.ok_or_else(|| Problem::no_pipeline(pipeline))
}

/// The checkpoint of a key, and what decides on its processing.
#[utoipa::path(
    get, path = "/pipelines/{pipeline}/checkpoints/{key}", tag = "operation",
    operation_id = "get_checkpoint",
    params(
        ("pipeline" = String, Path),
        ("key" = String, Path, description = "The record key"),
        ("partition" = Option<u32>, Query, description = "A partition of the input; by default the one that the partitioner gives the key"),
    ),
    responses(
        (status = 200, description = "The checkpoint, also of a key that never had an event", body = EntityView),
        answers::InvalidRequest, answers::NoSuchPipeline, answers::ScansBusy, answers::LogUnavailable,
    )
)]
pub async fn checkpoint(
    State(app): State<SharedApp>,
    Segment(place): Segment<(String, String)>,
    uri: Uri,
) -> Result<Json<EntityView>, Problem> {
    let request = request(&app, place, &Parameters::of(&uri, &["partition"])?)?;
    let view = blocking(move || {
        let EntityRequest {
            traced,
            key,
            partitions,
            permit: _permit,
        } = request;
        traced.entity(&*app.log, &key, &partitions)
    });
    Ok(Json(view.await??))
}

/// The events of a key, as the log has them.
///
/// NDJSON: a record a line, in offset order, from the oldest that the log holds
/// to the last when the request came. An answer that is cut short ends without
/// the last chunk.
#[utoipa::path(
    get, path = "/pipelines/{pipeline}/events/{key}", tag = "operation",
    operation_id = "list_events_of_key",
    params(
        ("pipeline" = String, Path),
        ("key" = String, Path, description = "The record key"),
        ("partition" = Option<u32>, Query, description = "A partition of the input; by default the one that the partitioner gives the key"),
        ("after" = Option<String>, Query, description = "PARTITION:OFFSET of the last event known", pattern = "^[0-9]{1,9}:[0-9]{1,18}$"),
        ("background" = Option<bool>, Query, description = "Answer only while no other request reads through the log"),
    ),
    responses(
        (status = 200, description = "The events", body = Line, content_type = "application/x-ndjson"),
        answers::InvalidRequest, answers::NoSuchPipeline, answers::ScansBusy, answers::LogUnavailable,
    )
)]
pub async fn events(
    State(app): State<SharedApp>,
    Segment(place): Segment<(String, String)>,
    uri: Uri,
) -> Result<Response, Problem> {
    let parameters = Parameters::of(&uri, &["partition", "after", "background"])?;
    let after = parameters.after()?;
    let request = request(&app, place, &parameters)?;
    let events = move |app: &SharedApp, of: &EntityRequest| {
        of.traced.events(&*app.log, &of.key, &of.partitions, after)
    };
    answer(app, request, events).await
}

/// The published outputs of a key's events, and its dead letters.
///
/// NDJSON: a record a line, partition after partition. Output topics are
/// compacted, so records that a later one of their key superseded may be gone.
#[utoipa::path(
    get, path = "/pipelines/{pipeline}/outputs/{key}", tag = "operation",
    operation_id = "list_outputs_of_key",
    params(
        ("pipeline" = String, Path),
        ("key" = String, Path, description = "The record key of the events"),
        ("partition" = Option<u32>, Query, description = "A partition of the input; by default the one that the partitioner gives the key"),
    ),
    responses(
        (status = 200, description = "The records", body = Line, content_type = "application/x-ndjson"),
        answers::InvalidRequest, answers::NoSuchPipeline, answers::ScansBusy, answers::LogUnavailable,
    )
)]
pub async fn outputs(
    State(app): State<SharedApp>,
    Segment(place): Segment<(String, String)>,
    uri: Uri,
) -> Result<Response, Problem> {
    let request = request(&app, place, &Parameters::of(&uri, &["partition"])?)?;
    let outputs =
        |app: &SharedApp, of: &EntityRequest| of.traced.outputs(&*app.log, &of.key, &of.partitions);
    answer(app, request, outputs).await
}

/// A plugin's file, by its digest.
#[utoipa::path(
    get, path = "/pipelines/{pipeline}/plugins/{file}", tag = "operation",
    operation_id = "get_plugin",
    params(
        ("pipeline" = String, Path),
        ("file" = String, Path, description = "The SHA-256 of its bytes, hexadecimal, and .wasm"),
    ),
    responses(
        (status = 200, description = "The bytes", body = PluginFileDoc, content_type = "application/wasm"),
        (status = 404, description = "No such pipeline, or no copy of the plugin is left", body = Problem, content_type = "application/problem+json"),
        answers::InvalidRequest,
    )
)]
pub async fn plugin(
    State(app): State<SharedApp>,
    Segment((pipeline, file)): Segment<(String, String)>,
) -> Result<Response, Problem> {
    let traced = traced(&app, &pipeline)?;
    let digest = file
        .strip_suffix(".wasm")
        .and_then(|digest| digest.parse::<Digest>().ok());
    let bytes = match digest {
        None => None,
        Some(digest) => blocking(move || traced.plugin(digest)).await?,
    };
    let bytes = bytes.ok_or_else(|| {
        let detail = format!("this host has no copy of {file:?}");
        Problem::new(StatusCode::NOT_FOUND, "plugin-not-found", detail)
    })?;
    let wasm = HeaderValue::from_static("application/wasm");
    let forever = HeaderValue::from_static("max-age=31536000, immutable");
    Ok(([(CONTENT_TYPE, wasm), (CACHE_CONTROL, forever)], bytes).into_response())
}

/// Sends lines as they are read. An error at the start is answered as a problem; a
/// later one cuts the answer short.
async fn answer(
    app: SharedApp,
    request: EntityRequest,
    open: impl FnOnce(&SharedApp, &EntityRequest) -> Result<Lines, LogError> + Send + 'static,
) -> Result<Response, Problem> {
    let (opened, app, request) = blocking(move || {
        let opened = open(&app, &request);
        (opened, app, request)
    })
    .await?;
    let mut lines = opened?;
    let (sender, pages) = mpsc::channel(PAGES_AHEAD);
    tokio::task::spawn_blocking(move || {
        let _held = request.permit;
        send_pages(|| lines.next(&*app.log), &sender);
    });
    let body = stream::unfold(pages, async |mut pages| {
        let page = pages.recv().await?;
        Some((page, pages))
    });
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    let no_cache = HeaderValue::from_static("no-cache");
    Ok((
        [(CONTENT_TYPE, ndjson), (CACHE_CONTROL, no_cache)],
        Body::from_stream(body),
    )
        .into_response())
}

/// Sends pages until the last one, an error, or the end of the client.
fn send_pages(
    mut next: impl FnMut() -> Result<Option<String>, LogError>,
    sender: &mpsc::Sender<io::Result<Bytes>>,
) {
    let mut sent = Instant::now();
    loop {
        let page = match next() {
            Ok(None) => return,
            // A client that is gone shows only by a page that cannot be sent.
            Ok(Some(page)) if page.is_empty() && sent.elapsed() >= ALIVE_EVERY => {
                Ok(Bytes::from_static(b"\n"))
            }
            Ok(Some(page)) => Ok(Bytes::from(page)),
            Err(error) => {
                tracing::warn!(code = error.code(), %error, "answer with records cut short by an error");
                Err(io::Error::other(error.to_string()))
            }
        };
        let is_end = page.is_err();
        let is_empty = page.as_ref().is_ok_and(Bytes::is_empty);
        if sender.is_closed() || !is_empty && sender.blocking_send(page).is_err() || is_end {
            return;
        }
        if !is_empty {
            sent = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_without_lines_ends_when_its_client_is_gone() {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        let (mut client, mut read) = (Some(pages), 0);
        let next = || {
            read += 1;
            if read == 3 {
                client.take();
            }
            Ok((read < 1_000).then(String::new))
        };
        send_pages(next, &sender);
        assert_eq!(read, 3);
    }
}
