//! A backup of the host's log, sent to the client that writes it.
//!
//! A thread of its own reads, at the lowest priority and with a rest after each
//! page that is as long as the reading was, so the host's other work keeps at least
//! half of the disk. Few pages wait for a client. The host cuts off a client that takes
//! none for a while, because compaction keeps all records that a running backup needs.

use std::{
    io,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::State,
    http::{
        HeaderValue,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use courtside_engine::backup::source::Source;
use futures_util::stream;
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{
    app::SharedApp,
    operate::blocking,
    problem::{Problem, answers},
};

/// Pages read ahead of a client.
const PAGES_AHEAD: usize = 2;
/// How long a client may take no page.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest rest after a page.
const REST_MAX: Duration = Duration::from_millis(200);
const LOWEST_PRIORITY: i32 = 19;

/// Frames of `courtside backup`.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct BackupDoc(#[expect(dead_code, reason = "it describes the answer")] Vec<u8>);

/// A consistent copy of the host's log and of its copies of plugins.
///
/// `courtside backup` asks for it and writes it. The format is the commands' own,
/// and ends with a frame that says whether all of it came.
#[utoipa::path(
    get, path = "/backup", tag = "operation", operation_id = "get_backup",
    responses(
        (status = 200, description = "The backup, as it is read", body = BackupDoc, content_type = "application/octet-stream"),
        (status = 409, description = "The record log is Kafka's", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Another backup is running", body = Problem, content_type = "application/problem+json"),
        answers::LogUnavailable,
    )
)]
pub async fn get(State(app): State<SharedApp>) -> Result<Response, Problem> {
    let operator = std::sync::Arc::clone(&app.operator);
    let source = blocking(move || operator.backup()).await??;
    let (sender, pages) = mpsc::channel::<io::Result<Bytes>>(PAGES_AHEAD);
    let sending = Sending {
        source,
        sender,
        runtime: Handle::current(),
        shutdown: app.shutdown.clone(),
    };
    std::thread::Builder::new()
        .name("backup".to_owned())
        .spawn(move || sending.run())
        .map_err(|error| Problem::internal(format!("the backup's thread cannot start: {error}")))?;
    let body = stream::unfold(pages, async |mut pages| {
        let page = pages.recv().await?;
        Some((page, pages))
    });
    let frames = HeaderValue::from_static("application/octet-stream");
    let no_store = HeaderValue::from_static("no-store");
    Ok((
        [(CONTENT_TYPE, frames), (CACHE_CONTROL, no_store)],
        Body::from_stream(body),
    )
        .into_response())
}

struct Sending {
    source: Source,
    sender: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
    shutdown: CancellationToken,
}

impl Sending {
    fn run(mut self) {
        // If the kernel refuses the priority, the rests are enough.
        let _ = rustix::process::setpriority_process(None, LOWEST_PRIORITY);
        tracing::info!("backup begins");
        let (mut pages, mut bytes) = (0_u64, 0_u64);
        loop {
            if self.shutdown.is_cancelled() {
                self.source.fail("stopping", "the host was told to stop");
            }
            let started = Instant::now();
            let Some(page) = self.source.next_page() else {
                tracing::info!(pages, bytes, "backup complete");
                return;
            };
            let took = started.elapsed();
            if page.is_empty() {
                continue;
            }
            pages += 1;
            bytes += page.len() as u64;
            let sent = self.sender.send_timeout(Ok(Bytes::from(page)), PATIENCE);
            if self.runtime.block_on(sent).is_err() {
                tracing::warn!(
                    pages,
                    bytes,
                    "backup ended early: its client is gone or takes no data"
                );
                return;
            }
            std::thread::sleep(took.min(REST_MAX));
        }
    }
}
