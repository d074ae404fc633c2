//! The records that events lead to: emissions and dead letters, with the
//! headers that say where they come from.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use courtside_log::COMMIT_EXTRA_BYTES;
use courtside_plugin_host::{Emission, Failure, FailureKind, Outcome};
use courtside_types::{
    ATTEMPT_HEADER, DIGEST_HEADER, ENTITY_KEY_BYTES_MAX, HOST_HEADER_PREFIX, Header, NewRecord,
    PLUGIN_HEADER, PartitionId, Record, SOURCE_HEADER, TopicPartition,
};

use super::instances::Active;
use crate::pipeline::Pipeline;

pub const PLUGIN: ByteString = ByteString::from_static(PLUGIN_HEADER);
pub const DIGEST: ByteString = ByteString::from_static(DIGEST_HEADER);
pub const SOURCE: ByteString = ByteString::from_static(SOURCE_HEADER);
/// On the records of an event that is processed again after a rollback: the number of
/// the attempt, 2 after the first rollback.
pub const ATTEMPT: ByteString = ByteString::from_static(ATTEMPT_HEADER);
/// Stable code, on dead letters.
pub const ERROR_CODE: ByteString = ByteString::from_static("courtside-error-code");
/// The reason in words, on dead letters.
pub const ERROR_REASON: ByteString = ByteString::from_static("courtside-error-reason");

/// On a dead letter that had to leave out its event's value and headers: the
/// event's size.
pub const CUT: ByteString = ByteString::from_static("courtside-cut-bytes");

/// The bytes that a header takes beside its name and value, at most.
const HEADER_FRAMING_BYTES: usize = 16;

/// A reason is cut at this length: it is a plugin's text.
const REASON_BYTES_MAX: usize = 2048;

/// Checks an outcome against the parts of the contract that need the pipeline.
pub fn check(pipeline: &Pipeline, events: usize, outcome: Outcome) -> Result<Outcome, Failure> {
    let failed = |kind, message: String| Err(Failure { kind, message });
    let broken = |message| failed(FailureKind::Contract, message);
    for emission in &outcome.emissions {
        if emission.event >= events {
            return broken(format!(
                "an emission is for event number {}, and the call has {events} events",
                emission.event
            ));
        }
        let size = emission_size(emission);
        if size > pipeline.record_bytes_max {
            return failed(
                FailureKind::Emitted,
                format!(
                    "an emission has {size} bytes as a record, the limit log.record_bytes_max is {}",
                    pipeline.record_bytes_max
                ),
            );
        }
        if pipeline.output(emission.output.as_deref()).is_none() {
            return broken(format!(
                "the pipeline has no output {:?}",
                emission.output.as_deref().unwrap_or_default()
            ));
        }
        if let Some(header) = emission.headers.iter().find(|header| is_hosts(header)) {
            return broken(format!(
                "an emission has the header {:?}, and names that begin with {HOST_HEADER_PREFIX} are the host's own",
                header.name
            ));
        }
    }
    match &outcome.refused {
        Some(refusal) if refusal.index >= events => broken(format!(
            "a refusal is for event number {}, and the call has {events} events",
            refusal.index
        )),
        _ => Ok(outcome),
    }
}

/// Readers believe the host's headers, so a plugin cannot write them.
fn is_hosts(header: &Header) -> bool {
    header
        .name
        .get(..HOST_HEADER_PREFIX.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(HOST_HEADER_PREFIX))
}

/// The size as the log counts it, without the headers that the host adds.
fn emission_size(emission: &Emission) -> usize {
    NewRecord::size_of(
        emission.key.as_ref(),
        &emission.headers,
        emission.value.as_ref(),
    )
}

/// The record that an emission is published as.
#[must_use]
pub fn emission(
    pipeline: &Pipeline,
    active: &Active,
    partition: PartitionId,
    key: &Bytes,
    event: &Record,
    attempt: u32,
    emission: Emission,
) -> Option<(TopicPartition, NewRecord)> {
    let output = pipeline.output(emission.output.as_deref())?;
    let key = emission.key.unwrap_or_else(|| key.clone());
    let place = output.place(&key);
    let mut headers = emission.headers;
    headers.reserve_exact(3 + usize::from(attempt > 1));
    provenance(
        &mut headers,
        pipeline,
        Some(active),
        partition,
        event,
        attempt,
    );
    Some((
        place,
        NewRecord {
            timestamp_ms: event.timestamp_ms,
            key: Some(key),
            headers,
            value: emission.value,
        },
    ))
}

/// The record that an event becomes if it cannot be processed.
///
/// The host's headers come after the event's, and their order counts: a redrive takes
/// them off from the end (`dead_letters::event`), and a replay looks for the plugin right
/// before the source (`replay::line`).
#[must_use]
pub fn dead_letter(
    pipeline: &Pipeline,
    active: Option<&Arc<Active>>,
    partition: PartitionId,
    event: &Record,
    attempt: u32,
    code: &'static str,
    reason: &str,
) -> (TopicPartition, NewRecord) {
    let mut headers = event.headers.clone();
    provenance(
        &mut headers,
        pipeline,
        active.map(|active| &**active),
        partition,
        event,
        attempt,
    );
    headers.push(Header::event_time(event.timestamp_ms));
    let reason = reason
        .get(..reason.floor_char_boundary(REASON_BYTES_MAX))
        .unwrap_or_default();
    headers.push(Header::new(ERROR_CODE, Bytes::from_static(code.as_bytes())));
    headers.push(Header::new(
        ERROR_REASON,
        Bytes::copy_from_slice(reason.as_bytes()),
    ));
    let mut letter = NewRecord {
        timestamp_ms: event.timestamp_ms,
        key: event.key.clone(),
        headers,
        value: event.value.clone(),
    };
    if !fits(pipeline, &letter) {
        cut(&mut letter, event);
    }
    (pipeline.dead_letters(partition), letter)
}

/// Whether the log takes a dead letter. Another producer's event may be larger
/// than any that we append: compressed, it was small enough for the brokers.
fn fits(pipeline: &Pipeline, letter: &NewRecord) -> bool {
    let framing = letter.headers.len().saturating_mul(HEADER_FRAMING_BYTES);
    letter.size().saturating_add(framing)
        <= pipeline.record_bytes_max.saturating_add(COMMIT_EXTRA_BYTES)
}

/// Drops what came with the event, except for a key of usual length. The whole event is
/// at the place that the letter's source header names.
fn cut(letter: &mut NewRecord, event: &Record) {
    letter.value = None;
    letter.key.take_if(|key| key.len() > ENTITY_KEY_BYTES_MAX);
    letter.headers.drain(..event.headers.len());
    let size = event.size().to_string();
    letter.headers.push(Header::new(CUT, size));
}

fn provenance(
    headers: &mut Vec<Header>,
    pipeline: &Pipeline,
    active: Option<&Active>,
    partition: PartitionId,
    event: &Record,
    attempt: u32,
) {
    if let Some(active) = active {
        headers.push(Header::new(PLUGIN, active.plugin_header.clone()));
        headers.push(Header::new(DIGEST, active.digest_header.clone()));
    }
    let source = format!("{}/{partition}/{}", pipeline.input, event.offset);
    headers.push(Header::new(SOURCE, source));
    if attempt > 1 {
        headers.push(Header::new(ATTEMPT, attempt.to_string()));
    }
}
