//! Fetches a recording from a host over HTTP.

use std::collections::BTreeMap;

use bytes::Bytes;
use courtside_client::{HostArgs, no_answer};
use courtside_engine::replay::{
    RECORDING_BYTES_MAX, Recording, ReplayError, entity::EntityView, line::Line, timeline::Timeline,
};
use courtside_types::{Digest, PartitionId, coded, failure::Failure};
use futures_util::StreamExt as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Response, StatusCode};

use super::client::{UNREACHABLE, problem};

/// How long a host may be silent: it may read much before it finds something.
const SILENCE_MAX: std::time::Duration = std::time::Duration::from_secs(120);
/// Most bytes of a line, which is a record, in hexadecimal digits at worst.
const LINE_BYTES_MAX: usize = 64 << 20;
/// Characters that are quoted of an answer that no Courtside host gives.
const QUOTED_CHARS_MAX: usize = 200;

/// A host, and the entity to ask for.
#[derive(Clone, Debug)]
pub struct EntityRequest {
    pub host: HostArgs,
    pub pipeline: String,
    pub key: String,
    /// The partition to take, if the key has events in several.
    pub partition: Option<PartitionId>,
}

impl EntityRequest {
    /// Fetches all that the host knows of the entity.
    pub async fn recording(&self) -> anyhow::Result<Recording> {
        let client = self
            .host
            .http()?
            .read_timeout(SILENCE_MAX)
            .build()
            .map_err(|error| self.no_answer(&error))?;
        // The committed offset is fetched first and the published records last,
        // so that the outputs of all events below that offset are there.
        let entity: EntityView = self
            .get(&client, &self.path("checkpoints"))
            .await?
            .json()
            .await
            .map_err(|error| self.no_answer(&error))?;
        let events = self.lines(&client, "events").await?;
        let published = self.lines(&client, "outputs").await?;
        let mut recording = self.assemble(entity, events, published)?;
        recording.plugins = self.plugins(&client, &recording.timeline()).await?;
        Ok(recording)
    }

    /// Puts the parts together for one entity, up to its committed offset.
    fn assemble(
        &self,
        entity: EntityView,
        mut events: Vec<Line>,
        mut published: Vec<Line>,
    ) -> Result<Recording, ReplayError> {
        let mut at = entity.partitions;
        if at.len() > 1 {
            let has_events = |number: u32| events.iter().any(|event| event.partition == number);
            at.retain(|at| has_events(at.partition));
        }
        if at.len() > 1 {
            let numbers: Vec<_> = at.iter().map(|at| at.partition.to_string()).collect();
            return Err(ReplayError::Ambiguous {
                key: entity.key,
                partitions: numbers.join(", "),
            });
        }
        let no_events = |key: String| ReplayError::NoEvents {
            key,
            partition: self.partition.unwrap_or(PartitionId(0)),
        };
        let at = at.pop().ok_or_else(|| no_events(entity.key.clone()))?;
        let committed = at.committed.unwrap_or(at.start);
        let is_processed = |offset: Option<u64>| offset.is_some_and(|offset| offset < committed);
        events.retain(|event| event.partition == at.partition && is_processed(event.offset));
        published.retain(|line| {
            is_processed(line.source)
                && line
                    .provenance()
                    .is_some_and(|found| found.partition.0 == at.partition)
        });
        if events.is_empty() {
            return Err(no_events(entity.key));
        }
        Ok(Recording {
            pipeline: entity.pipeline,
            key: entity.key,
            at,
            events,
            published,
            plugins: BTreeMap::new(),
        })
    }

    /// The plugins of a timeline, as far as the host has them.
    async fn plugins(
        &self,
        client: &Client,
        timeline: &Timeline,
    ) -> anyhow::Result<BTreeMap<Digest, Bytes>> {
        let mut plugins = BTreeMap::new();
        for stretch in &timeline.0 {
            let digest = stretch.digest;
            if plugins.contains_key(&digest) {
                continue;
            }
            let pipeline = encoded(&self.pipeline);
            let path = format!("/pipelines/{pipeline}/plugins/{digest}.wasm");
            let answer = self.ask(client, &path).await?;
            if answer.status() == StatusCode::NOT_FOUND {
                continue;
            }
            let answer = well(answer).await?;
            let bytes = answer
                .bytes()
                .await
                .map_err(|error| self.no_answer(&error))?;
            if Digest::of(&bytes) != digest {
                return Err(coded!(
                    UNREACHABLE,
                    "the bytes that came are not those of the plugin {digest}"
                ));
            }
            plugins.insert(digest, bytes);
        }
        Ok(plugins)
    }

    fn no_answer(&self, error: &reqwest::Error) -> Failure {
        no_answer(&self.host.url, error)
    }

    fn path(&self, what: &str) -> String {
        let partition = self
            .partition
            .map_or_else(String::new, |partition| format!("?partition={partition}"));
        format!(
            "/pipelines/{}/{what}/{}{partition}",
            encoded(&self.pipeline),
            encoded(&self.key)
        )
    }

    async fn ask(&self, client: &Client, path: &str) -> Result<Response, Failure> {
        let url = format!("{}{path}", self.host.url.trim_end_matches('/'));
        let answer = client.get(&url).send().await;
        answer.map_err(|error| self.no_answer(&error))
    }

    async fn get(&self, client: &Client, path: &str) -> Result<Response, Failure> {
        well(self.ask(client, path).await?).await
    }

    /// Reads records, one a line, as they come.
    async fn lines(&self, client: &Client, what: &str) -> anyhow::Result<Vec<Line>> {
        let answer = self.get(client, &self.path(what)).await?;
        let mut chunks = answer.bytes_stream();
        let (mut lines, mut held, mut rest) = (Vec::new(), 0_usize, Vec::new());
        let strange = |error: &dyn std::fmt::Display| {
            coded!(
                UNREACHABLE,
                "{what}: a line of the answer cannot be read: {error}"
            )
        };
        while let Some(chunk) = chunks.next().await {
            rest.extend_from_slice(&chunk.map_err(|error| self.no_answer(&error))?);
            let mut read = 0;
            while let Some(unread) = rest.get(read..)
                && let Some(length) = unread.iter().position(|byte| *byte == b'\n')
            {
                let text = unread.get(..length).unwrap_or_default();
                read = read.saturating_add(length).saturating_add(1);
                // A host that finds nothing for a while sends empty lines.
                if text.is_empty() {
                    continue;
                }
                let line: Line = serde_json::from_slice(text).map_err(|error| strange(&error))?;
                held = held.saturating_add(line.size());
                if held > RECORDING_BYTES_MAX {
                    let key = self.key.clone();
                    return Err(ReplayError::TooLarge { key }.into());
                }
                lines.push(line);
            }
            rest.drain(..read);
            if rest.len() > LINE_BYTES_MAX {
                return Err(strange(&"the line does not end"));
            }
        }
        Ok(lines)
    }
}

fn encoded(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

/// The answer if it is a success; otherwise an error in the host's words.
async fn well(answer: Response) -> Result<Response, Failure> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = answer.bytes().await.unwrap_or_default();
    Err(problem(&body, || {
        let text = String::from_utf8_lossy(&body);
        let quoted: String = text.chars().take(QUOTED_CHARS_MAX).collect();
        format!("{status}: {quoted}")
    }))
}
