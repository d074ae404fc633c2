//! Tries a plugin that runs nowhere yet on a recording. The plugin opens the checkpoint
//! as in a swap, and processes the events in several ways, which must all lead to the
//! same bytes.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
};

use bytes::Bytes;
use courtside_log::memory::MemoryCheckpoints;
use courtside_plugin_host::{Plugin, Rejection};
use courtside_types::{Key, Offset, PartitionId, slot_name::SlotName};
use serde::Serialize;

use super::{
    compare::{Comparison, Headers, compare, same_lines},
    error::ReplayError,
    line::Line,
    recording::Recording,
    run::{BATCH, Case, Plan, Replayed},
};
use crate::{
    slots::rehearsal::{Rehearsal, RehearsalOutcome},
    worker::{
        envelope::Envelope,
        output::{ERROR_CODE, ERROR_REASON},
    },
};

/// The ways in which events are handed over.
const PLANS: [(&str, Plan); 4] = [
    (
        "in batches",
        Plan {
            batch: BATCH,
            reopens: false,
        },
    ),
    (
        "one by one",
        Plan {
            batch: 1,
            reopens: false,
        },
    ),
    (
        "in batches, once more",
        Plan {
            batch: BATCH,
            reopens: false,
        },
    ),
    (
        "in batches of 7, opened again from a checkpoint after each",
        Plan {
            batch: 7,
            reopens: true,
        },
    ),
];

/// Why a plugin should not take over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Objection {
    /// The stable code of `docs/errors.md`.
    pub code: String,
    pub reason: String,
}

impl From<Rejection> for Objection {
    fn from(rejection: Rejection) -> Self {
        Self {
            code: rejection.code.to_owned(),
            reason: rejection.message,
        }
    }
}

/// Result of trying a plugin on a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CheckOutcome {
    pub key: String,
    pub events: usize,
    /// Format of the checkpoint that was opened; None without a checkpoint or a state
    /// in it.
    pub checkpoint: Option<String>,
    pub outputs: usize,
    /// Dead letters by their code.
    pub dead_letters: BTreeMap<String, usize>,
    /// Records that are as they were published; `differ` counts the others.
    pub same: usize,
    pub differ: usize,
    /// Why the plugin should not take over; empty if all is well.
    pub objections: Vec<Objection>,
}

/// Tries a plugin on a recording. An error says that the try itself was not possible.
pub fn try_out(
    recording: &Recording,
    plugin: &Arc<dyn Plugin>,
) -> Result<CheckOutcome, ReplayError> {
    let mut tried = CheckOutcome {
        key: recording.key.clone(),
        events: recording.events.len(),
        ..CheckOutcome::default()
    };
    let key = Key::copy_from_slice(recording.key.as_bytes());
    let partition = recording.partition();
    if let Some(checkpoint) = &recording.at.checkpoint {
        let stored = hex::decode(&checkpoint.stored)
            .map_err(|error| ReplayError::Export(format!("checkpoint: {error}")))?;
        tried.checkpoint.clone_from(&checkpoint.format);
        let objection = rehearse(plugin, partition, key.clone(), stored.into())?;
        tried.objections.extend(objection);
    }
    let Some(first) = run_all(&recording.case_with(plugin)?, &mut tried.objections)? else {
        return Ok(tried);
    };
    if let Some(stored) = first.checkpoint {
        let objection = rehearse(plugin, partition, key, stored)?;
        tried.objections.extend(objection);
    }
    let Comparison {
        same, differences, ..
    } = compare(recording, &first.lines, Headers::ButThePlugin);
    (tried.same, tried.differ) = (same, differences.len());
    count(recording, &first.lines, &mut tried);
    Ok(tried)
}

struct Run {
    lines: Vec<Line>,
    checkpoint: Option<Bytes>,
}

/// Hands the events over in each way, and returns the first run. Each run that differs
/// from it adds an objection. Returns none if the plugin cannot process the events.
fn run_all(case: &Case, objections: &mut Vec<Objection>) -> Result<Option<Run>, ReplayError> {
    let mut first: Option<Run> = None;
    for (how, plan) in PLANS {
        let replayed = match case.run(plan) {
            Ok(replayed) => replayed,
            Err(ReplayError::Stopped { next, code, reason }) => {
                objections.push(Objection {
                    code: code.to_owned(),
                    reason: format!("{how}: at offset {next}: {reason}"),
                });
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let run = Run {
            lines: lines(&replayed),
            checkpoint: replayed.checkpoint,
        };
        let Some(first) = &first else {
            first = Some(run);
            continue;
        };
        if let Some(difference) = difference(first, &run)? {
            let [(usual, _), ..] = PLANS;
            objections.push(Objection {
                code: "plugin-not-deterministic".to_owned(),
                reason: format!(
                    "{difference} differs between runs with the events {usual} and {how}"
                ),
            });
        }
    }
    Ok(first)
}

/// The first difference between two runs, in words.
fn difference(one: &Run, other: &Run) -> Result<Option<String>, ReplayError> {
    if !same_lines(&one.lines, &other.lines) {
        let is_same = |(one, two): &(&Line, &Line)| {
            same_lines(std::slice::from_ref(*one), std::slice::from_ref(*two))
        };
        let at = one
            .lines
            .iter()
            .zip(&other.lines)
            .find(|pair| !is_same(pair));
        let source = at.and_then(|(line, _)| line.source);
        return Ok(Some(source.map_or_else(
            || "the number of its outputs".to_owned(),
            |source| format!("the output of the event at offset {source}"),
        )));
    }
    let (one, other) = (one.checkpoint.as_ref(), other.checkpoint.as_ref());
    let is_same = stands_for(one)? == stands_for(other)?;
    Ok((!is_same).then(|| "its checkpoint".to_owned()))
}

/// The part of a checkpoint that follows from the events alone. The offset does not: an
/// event that changes nothing moves it in a commit with others, but not in a commit of
/// its own. The words of a failure do not either, because they contain measured times.
/// An entity of which nothing is kept counts as one without a checkpoint.
fn stands_for(checkpoint: Option<&Bytes>) -> Result<Option<Envelope>, ReplayError> {
    let Some(stored) = checkpoint else {
        return Ok(None);
    };
    let mut envelope =
        Envelope::decode(stored).map_err(|error| ReplayError::Failed(error.to_string()))?;
    envelope.offset = Offset(0);
    if let Some(halt) = &mut envelope.halted {
        halt.reason.clear();
    }
    let is_empty = envelope.saved.is_none()
        && envelope.halted.is_none()
        && envelope.redone.is_empty()
        && envelope.recent.is_empty();
    Ok((!is_empty).then_some(envelope))
}

fn lines(replayed: &Replayed) -> Vec<Line> {
    let records = replayed.records.iter();
    records
        .map(|(place, record)| Line::of_new(place, record))
        .collect()
}

/// Opens a checkpoint as a swap does.
fn rehearse(
    plugin: &Arc<dyn Plugin>,
    partition: PartitionId,
    key: Key,
    stored: Bytes,
) -> Result<Option<Objection>, ReplayError> {
    let memory = MemoryCheckpoints::default();
    memory.put(partition, key, stored);
    let rehearsal = Rehearsal {
        candidate: plugin,
        current: None,
        slot: &SlotName::Default,
        others: &[],
        checkpoints: &memory,
        partitions: &[partition],
        entities_per_instance: 1,
        entities_max: 1,
        stopping: &AtomicBool::new(false),
    };
    match rehearsal.run() {
        Ok(RehearsalOutcome::Passed(_)) => Ok(None),
        Ok(RehearsalOutcome::Rejected(rejection)) => Ok(Some(rejection.into())),
        Err(error) => Err(ReplayError::Failed(error.to_string())),
    }
}

/// Counts outputs and dead letters. A failure of the plugin is an objection, unless the
/// plugin that ran failed at the same event.
fn count(recording: &Recording, lines: &[Line], tried: &mut CheckOutcome) {
    let published: BTreeMap<u64, &str> = recording
        .published
        .iter()
        .filter_map(|line| Some((line.source?, line.text(&ERROR_CODE)?)))
        .collect();
    let mut failed: BTreeMap<&str, &Line> = BTreeMap::new();
    for line in lines {
        let Some(code) = line.text(&ERROR_CODE) else {
            tried.outputs += 1;
            continue;
        };
        *tried.dead_letters.entry(code.to_owned()).or_default() += 1;
        let is_known = line
            .source
            .is_some_and(|source| published.contains_key(&source));
        if (code.starts_with("plugin-") || code == "entity-halted") && !is_known {
            failed.entry(code).or_insert(line);
        }
    }
    for (code, line) in failed {
        let reason = line.text(&ERROR_REASON).unwrap_or_default();
        tried.objections.push(Objection {
            code: code.to_owned(),
            reason: format!(
                "the event at offset {}: {reason}",
                line.source.unwrap_or_default()
            ),
        });
    }
}
