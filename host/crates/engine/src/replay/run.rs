//! The worker's own processing with a log in memory.
//!
//! A batch ends with a commit, as in a live worker. Suspects, refusals, duplicates and
//! halts are the same, because the code is the same.

use std::sync::Arc;

use bytes::Bytes;
use courtside_log::{Checkpoints, Commit, Fetched, LogError, memory::MemoryCheckpoints};
use courtside_plugin_host::Plugin;
use courtside_types::{
    Key, NewRecord, Offset, PartitionId, Record, TopicPartition, slot_name::SlotName,
};

use super::{error::ReplayError, line::provenance};
use crate::{
    pipeline::Pipeline,
    worker::{
        envelope::Redone,
        instances::Active,
        position::Start,
        processing::{Interrupted, Processing, Stop},
        times,
    },
};

/// Events between two commits, if the plan does not say.
pub const BATCH: usize = 256;

/// One entity's events, and the plugins that get them.
pub struct Case {
    pub pipeline: Arc<Pipeline>,
    pub partition: PartitionId,
    pub key: Key,
    /// The plugins, each with the first offset that it gets, in order.
    pub plugins: Vec<(Offset, Arc<dyn Plugin>)>,
    /// Events that rollbacks had the entity process again, in the order of their first
    /// events.
    pub redone: Vec<Redone>,
    pub events: Vec<Record>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Case({} events)", self.events.len())
    }
}

/// How the events are handed over. The result must not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Events between two commits.
    pub batch: usize,
    /// Whether the entity opens from its checkpoint after each commit, as after
    /// a restart, or on another host.
    pub reopens: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            batch: BATCH,
            reopens: false,
        }
    }
}

/// Result of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Outputs and dead letters, in the order of their events.
    pub records: Vec<(TopicPartition, NewRecord)>,
    /// The last checkpoint, as it would be stored.
    pub checkpoint: Option<Bytes>,
    /// Number of calls that failed and were made again.
    pub failures: u64,
}

impl Case {
    pub fn run(&self, plan: Plan) -> Result<Replayed, ReplayError> {
        let memory = Arc::new(MemoryCheckpoints::default());
        let mut replayed = Replayed {
            records: Vec::new(),
            checkpoint: None,
            failures: 0,
        };
        let mut rest = self.events.as_slice();
        let mut plugins = self.plugins.iter().peekable();
        let mut redone = self.redone.iter().peekable();
        let mut active = None;
        let mut processing = None;
        while let Some(first) = rest.first() {
            // Another plugin gets the events from here on. As for a swap, all events
            // before it are committed.
            let mut is_new = false;
            while let Some((_, plugin)) = plugins.next_if(|(from, _)| *from <= first.offset) {
                active = Some(Active::new(SlotName::Default, Arc::clone(plugin)));
                is_new = true;
            }
            let processing = match processing.take() {
                Some(running) if !plan.reopens => processing.insert(running),
                _ => {
                    is_new = true;
                    processing.insert(self.begin(&memory, first.offset)?)
                }
            };
            if is_new {
                processing.activate(&SlotName::Default, active.clone());
            }
            // A worker learns of a rollback with the first event that it processes
            // again. Afterwards it knows which letters no longer mean anything.
            while let Some(redone) = redone.next_if(|redone| redone.from <= first.offset) {
                processing
                    .note_redone(self.partition, &self.key, *redone)
                    .map_err(failed)?;
            }
            let next_plugin = plugins.peek().map(|(from, _)| *from);
            let next_redone = redone.peek().map(|redone| redone.from);
            let until = next_plugin.into_iter().chain(next_redone).min();
            let count = rest
                .iter()
                .take(plan.batch.max(1))
                .take_while(|event| until.is_none_or(|until| event.offset < until))
                .count();
            let (batch, others) = rest.split_at(count);
            rest = others;
            let failed = processing.counts.failures;
            let commit = self.process(processing, batch)?;
            replayed.failures += processing.counts.failures.saturating_sub(failed);
            memory.apply(&commit);
            processing.settle(&commit);
            let mut records = commit.records;
            records.retain(|(place, _)| self.is_of_entity(place));
            records
                .iter_mut()
                .for_each(|(_, record)| times::take_back(record));
            // A commit has the dead letters last. The records are sorted by event
            // here, so that their order does not depend on the batches.
            records
                .sort_by_key(|(_, record)| provenance(&record.headers).map(|found| found.offset));
            replayed.records.append(&mut records);
        }
        replayed.checkpoint = memory.get(self.partition, &self.key).map_err(failed)?;
        Ok(replayed)
    }

    fn begin(
        &self,
        memory: &Arc<MemoryCheckpoints>,
        next: Offset,
    ) -> Result<Processing, ReplayError> {
        let checkpoints = Arc::clone(memory) as Arc<dyn Checkpoints>;
        let mut processing = Processing::new(Arc::clone(&self.pipeline), checkpoints);
        processing
            .assign(self.partition, Start::fresh(next))
            .map_err(failed)?;
        Ok(processing)
    }

    fn process(
        &self,
        processing: &mut Processing,
        batch: &[Record],
    ) -> Result<Commit, ReplayError> {
        let next = batch.first().map(|event| event.offset).unwrap_or_default();
        let interrupted = |error: Interrupted| ReplayError::Failed(error.to_string());
        let stopped = |stops: Vec<(PartitionId, Stop)>| match stops.into_iter().next() {
            None => Ok(()),
            Some((_, stop)) => Err(ReplayError::Stopped {
                next,
                code: stop.code,
                reason: stop.reason,
            }),
        };
        let fetched = Fetched {
            partition: self.partition,
            records: batch.to_vec(),
        };
        stopped(processing.process(vec![fetched]).map_err(interrupted)?)?;
        let (commit, stops) = processing.prepare().map_err(interrupted)?;
        stopped(stops)?;
        Ok(commit.unwrap_or_default())
    }

    /// Whether a record belongs to an entity; a worker also writes records of its own.
    fn is_of_entity(&self, place: &TopicPartition) -> bool {
        let pipeline = &self.pipeline;
        place.topic == pipeline.output.topic
            || place.topic == pipeline.dead_letter
            || pipeline
                .outputs
                .values()
                .any(|output| output.topic == place.topic)
    }
}

fn failed(error: LogError) -> ReplayError {
    ReplayError::Failed(error.to_string())
}
