//! Ingest: from the body of a request to records in the log.
//!
//! [`Ingest`] lives as long as the host and is shared by all requests. A
//! request costs its body once (records are slices of it), held until the log
//! has said what became of each event; [`IngestConfig::in_flight_bytes_max`]
//! bounds all of them together. Ingest knows nothing of workers: an acknowledged
//! event is in the log, and no more is promised.

mod body;
mod clock;
mod config;
mod error;
mod json;
mod key;
mod media;
mod score;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use bytestring::ByteString;
use courtside_log::{LogError, RecordLog, partitioner::Partitioner};
use courtside_types::{Header, Position, Topic, usize_of};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::body::{Events, Limits, Stamp};
pub use self::{
    config::IngestConfig,
    error::{IngestError, Place, Reason, Refused},
    key::{InvalidPointer, KeyRule},
    media::{Format, UnsupportedMediaType},
};

/// The pipeline whose endpoint is `POST /score`.
pub const SCORES: &str = "scores";

/// Where a score event has its key.
pub const GAME_ID_POINTER: &str = "/game_id";

/// Bodies beyond this are read on a thread for work that blocks: at some
/// 300 ns an event, a large one would hold up every other request.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// The form that a pipeline's events must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// The score event, as the scoring plugin reads it.
    Score,
}

/// A pipeline's way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub pipeline: ByteString,
    pub topic: Topic,
    pub partitions: u32,
    pub partitioner: Arc<Partitioner>,
    pub key: KeyRule,
    pub schema: Option<Schema>,
    /// The header that says that this endpoint wrote a record. Records with other
    /// headers of the host have it.
    pub mark: Header,
}

/// A client's name for a request, by which a retry is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Reads a key, which has 1 to 128 visible ASCII characters.
    #[must_use]
    pub fn new(text: &[u8]) -> Option<Self> {
        let is_well = (1..=128).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
        let text = std::str::from_utf8(text).ok().filter(|_| is_well)?;
        Some(Self(text.to_owned()))
    }
}

/// The results of a request's events, in their order.
#[derive(Debug)]
pub struct Receipt {
    /// Whether the events came as an array or NDJSON.
    pub many: bool,
    pub results: Vec<Result<Position, LogError>>,
}

/// Bytes of a request, counted against what may be in flight.
#[derive(Debug, Default)]
pub struct Reservation(Option<OwnedSemaphorePermit>);

/// The ways in, of all pipelines.
pub struct Ingest {
    log: Arc<dyn RecordLog>,
    config: IngestConfig,
    endpoints: BTreeMap<ByteString, Endpoint>,
    in_flight: Arc<Semaphore>,
    /// Bounds the large bodies that are read at a time: their records take more
    /// memory than the bodies do, until the log's own bound counts the records.
    large: Semaphore,
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest")
            .field("config", &self.config)
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

impl Ingest {
    pub fn new(
        log: Arc<dyn RecordLog>,
        config: IngestConfig,
        endpoints: impl IntoIterator<Item = Endpoint>,
    ) -> Self {
        let in_flight = usize_of(config.in_flight_bytes_max).min(Semaphore::MAX_PERMITS);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            log,
            config,
            endpoints: endpoints
                .into_iter()
                .map(|endpoint| (endpoint.pipeline.clone(), endpoint))
                .collect(),
            in_flight: Arc::new(Semaphore::new(in_flight)),
            large: Semaphore::new(threads),
        }
    }

    #[must_use]
    pub fn config(&self) -> &IngestConfig {
        &self.config
    }

    #[must_use]
    pub fn endpoint(&self, pipeline: &str) -> Option<&Endpoint> {
        self.endpoints.get(pipeline)
    }

    /// Counts bytes that a request is about to hold.
    pub fn reserve(&self, held: &mut Reservation, bytes: usize) -> Result<(), IngestError> {
        let bytes = u32::try_from(bytes).map_err(|_| IngestError::Busy)?;
        let permit = Arc::clone(&self.in_flight)
            .try_acquire_many_owned(bytes)
            .map_err(|_| IngestError::Busy)?;
        match &mut held.0 {
            Some(held) => held.merge(permit),
            empty => *empty = Some(permit),
        }
        Ok(())
    }

    /// Checks a whole body, appends its events and waits until the log has
    /// said what became of each. After an error, none was appended (but see
    /// [`IngestError::Timeout`]).
    pub async fn append_events(
        self: &Arc<Self>,
        pipeline: &Endpoint,
        format: Format,
        key: Option<IdempotencyKey>,
        body: Bytes,
    ) -> Result<Receipt, IngestError> {
        let (many, appended) = if body.len() <= INLINE_BYTES_MAX {
            self.append(pipeline, format, key.as_ref(), &body)?
        } else {
            // Nobody closes the semaphore, so the acquisition cannot fail.
            let _turn = self.large.acquire().await.map_err(|_| IngestError::Busy)?;
            let (ingest, endpoint) = (Arc::clone(self), pipeline.clone());
            tokio::task::spawn_blocking(move || {
                ingest.append(&endpoint, format, key.as_ref(), &body)
            })
            .await
            .map_err(|error| LogError::Unavailable {
                reason: format!("reading the events failed: {error}"),
            })??
        };
        let results = tokio::time::timeout(self.config.append_timeout, appended)
            .await
            .map_err(|_| IngestError::Timeout)?;
        Ok(Receipt { many, results })
    }

    fn append(
        &self,
        endpoint: &Endpoint,
        format: Format,
        key: Option<&IdempotencyKey>,
        body: &Bytes,
    ) -> Result<(bool, Appended), IngestError> {
        let limits = Limits {
            event_bytes: usize_of(self.config.event_bytes_max),
            events: self.config.events_max,
            levels: self.config.json_depth_max,
        };
        let stamp = Stamp {
            timestamp_ms: now_ms(),
            idempotency_key: key.map(|key| &*key.0),
        };
        let Events { many, records } = body::read(endpoint, limits, format, body, stamp)?;
        if records.is_empty() {
            return Ok((many, Box::pin(std::future::ready(Vec::new()))));
        }
        Ok((many, self.log.append(&endpoint.topic, records)?))
    }
}

type Appended = futures_util::future::BoxFuture<'static, Vec<Result<Position, LogError>>>;

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
