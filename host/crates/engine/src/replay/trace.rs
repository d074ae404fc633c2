//! Reads what a host knows of one entity, for the routes below `/pipelines`.
//!
//! The log has no index by key. So a request for events reads a partition of the
//! input from end to end, and a request for outputs reads all partitions of the
//! outputs, because a plugin may have published under any key. Records are read
//! a page at a time, and a page is the memory that a request takes. Nothing is
//! kept between two requests.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use courtside_log::{
    Checkpoints, LogError, RecordLog,
    partitioner::{Method, Partitioner},
};
use courtside_types::{
    Digest, Offset, PartitionId, Record, Topic, TopicPartition, slot_name::SlotName,
};
use serde::Deserialize;

use super::{
    entity::{CheckpointView, EntityPartition, EntityView, HaltView, PipelineView, TakeoverView},
    line::{Line, Text, provenance},
};
use crate::{
    pipeline::Pipeline,
    slots::{library::Library, manager::SlotViews, topic, view::SwapKind},
    worker::{envelope::Envelope, status::PipelineStatus},
};

/// Bytes of a page.
const PAGE_BYTES: usize = 1 << 20;
/// Most events of a key whose outputs can be told; each takes eight bytes.
const EVENTS_MAX: usize = 4 << 20;

/// A pipeline of a running host, with all that a trace of its entities needs.
pub struct EntityHistory {
    pub pipeline: Arc<Pipeline>,
    pub partitioner: Partitioner,
    pub checkpoints: Arc<dyn Checkpoints>,
    pub status: Arc<PipelineStatus>,
    pub slots: SlotViews,
    /// Plugins by digest: the host's copies, and the group's.
    pub library: Arc<Library>,
}

impl std::fmt::Debug for EntityHistory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Traced({})", self.pipeline.name)
    }
}

/// Records of a partition as they were when it was opened, a page at a time.
#[derive(Debug)]
pub struct Pages {
    pub place: TopicPartition,
    next: Offset,
    end: Offset,
}

impl Pages {
    fn of(place: TopicPartition, next: Offset, end: Offset) -> Self {
        Self { place, next, end }
    }

    /// The next page; none at the end.
    pub fn next(&mut self, log: &dyn RecordLog) -> Result<Option<Vec<Record>>, LogError> {
        if self.next >= self.end {
            return Ok(None);
        }
        let TopicPartition { topic, partition } = &self.place;
        let mut records = log.read(topic, *partition, self.next, PAGE_BYTES)?;
        records.retain(|record| record.offset < self.end);
        // An empty page means that no record is left before the end.
        self.next = records
            .last()
            .map_or(self.end, |record| record.offset.next());
        Ok(Some(records))
    }
}

impl EntityHistory {
    /// The partitions that a key's events come to.
    #[must_use]
    pub fn partitions_of(&self, key: &[u8]) -> Vec<PartitionId> {
        let count = self.pipeline.partitions;
        if self.partitioner.fallback == Method::Random {
            return (0..count).map(PartitionId).collect();
        }
        vec![self.partitioner.partition(key, count)]
    }

    /// The state of a key's entity in each of these partitions, as far as it is
    /// known.
    pub fn entity(
        &self,
        log: &dyn RecordLog,
        key: &str,
        partitions: &[PartitionId],
    ) -> Result<EntityView, LogError> {
        let (slot, running) = self.slot_of(key.as_bytes());
        let pipeline = &self.pipeline;
        // The committed offsets are read first, so that later reads see
        // everything below them.
        let committed = log
            .group_status(&pipeline.group, &pipeline.input)?
            .committed;
        let bounds = log.bounds(&pipeline.input)?;
        let letters = log.bounds(&pipeline.dead_letter)?;
        let outputs_cut = self.outputs_cut(log)?;
        let takeovers = self.takeovers(log, key.as_bytes())?;
        let partitions = partitions.iter().map(|id| {
            let of_partition = |bounds: &[courtside_log::Bounds]| {
                let bounds = bounds.get(id.0 as usize).copied();
                bounds.ok_or_else(|| LogError::NoSuchPartition {
                    topic: pipeline.input.clone(),
                    partition: *id,
                })
            };
            let bounds = of_partition(&bounds)?;
            let held = self.status.get(*id).is_some();
            let stored = match held {
                true => self.checkpoints.get(*id, key.as_bytes())?,
                false => None,
            };
            Ok(EntityPartition {
                partition: id.0,
                start: bounds.start.0,
                end: bounds.end.0,
                committed: committed.get(id).map(|offset| offset.0),
                dead_letter_start: of_partition(&letters)?.start.0,
                outputs_cut: outputs_cut.clone(),
                held,
                checkpoint: stored.as_ref().map(checkpoint).transpose()?,
                takeovers: takeovers
                    .iter()
                    .filter(|(partition, _)| partition == id)
                    .map(|(_, takeover)| takeover.clone())
                    .collect(),
            })
        });
        Ok(EntityView {
            key: key.to_owned(),
            pipeline: PipelineView::of(pipeline, &slot),
            slot: slot.to_string(),
            running,
            partitions: partitions.collect::<Result<_, LogError>>()?,
        })
    }

    /// The slot that a key's events go to, and the plugin that runs there.
    fn slot_of(&self, key: &[u8]) -> (SlotName, Option<String>) {
        let slots = self.slots.lock();
        let digest = |slot: &SlotName| {
            let plugin = slots.get(slot)?.plugin.as_ref()?;
            Some(plugin.digest.clone())
        };
        let own = SlotName::of_key(key);
        match digest(&own) {
            Some(running) => (own, Some(running)),
            None => (SlotName::Default, digest(&SlotName::Default)),
        }
    }

    /// The takeovers of a key's slots, from the topic of plugins. If there is no
    /// such topic, nothing was recorded.
    fn takeovers(
        &self,
        log: &dyn RecordLog,
        key: &[u8],
    ) -> Result<Vec<(PartitionId, TakeoverView)>, LogError> {
        #[derive(Deserialize)]
        struct RecordedTakeover {
            slot: String,
            partition: u32,
            seq: u64,
            offset: u64,
            digest: Option<String>,
            kind: SwapKind,
            previous: Option<String>,
            until: Option<u64>,
            attempt: u32,
        }
        let topic = topic::name(&self.pipeline.group);
        let bounds = match log.bounds(&topic) {
            Err(LogError::NoSuchTopic { .. }) => return Ok(Vec::new()),
            bounds => bounds?,
        };
        let mut found = Vec::new();
        for (bounds, number) in bounds.iter().zip(0..) {
            let place = TopicPartition {
                topic: topic.clone(),
                partition: PartitionId(number),
            };
            let mut pages = Pages::of(place, bounds.start, bounds.end);
            while let Some(page) = pages.next(log)? {
                for record in page {
                    let key_of = record.key.as_deref().unwrap_or_default();
                    if !key_of.starts_with(b"takeover/") {
                        continue;
                    }
                    let value = record.value.as_deref().unwrap_or_default();
                    let Ok(recorded) = serde_json::from_slice::<RecordedTakeover>(value) else {
                        continue;
                    };
                    let covers =
                        SlotName::parse(&recorded.slot).is_some_and(|slot| slot.covers(key));
                    if covers {
                        let takeover = TakeoverView {
                            slot: recorded.slot,
                            seq: recorded.seq,
                            offset: recorded.offset,
                            digest: recorded.digest,
                            kind: recorded.kind,
                            previous: recorded.previous,
                            until: recorded.until,
                            attempt: recorded.attempt,
                        };
                        found.push((PartitionId(recorded.partition), takeover));
                    }
                }
            }
        }
        // Until compaction, a takeover of one number may be there twice.
        found
            .sort_by_key(|(partition, takeover)| (*partition, takeover.slot.clone(), takeover.seq));
        Ok(found)
    }

    /// The bytes of a plugin, as far as the host or its group keeps them.
    #[must_use]
    pub fn plugin(&self, digest: Digest) -> Option<Vec<u8>> {
        let loaded = self.library.load(digest);
        loaded
            .inspect_err(|missing| tracing::debug!(%digest, %missing, "copy of a plugin not found"))
            .ok()
    }

    /// The events of a key, from an offset on.
    pub fn events(
        self: &Arc<Self>,
        log: &dyn RecordLog,
        key: &str,
        partitions: &[PartitionId],
        after: Option<(PartitionId, Offset)>,
    ) -> Result<Lines, LogError> {
        let mut pages = self.pages(log, &self.pipeline.input, partitions)?;
        if let Some((partition, offset)) = after {
            pages.retain(|pages| pages.place.partition >= partition);
            for of in &mut pages {
                if of.place.partition == partition {
                    of.next = of.next.max(offset.next());
                }
            }
        }
        Ok(Lines {
            key: key.to_owned(),
            pages,
            kind: LineKind::Events,
        })
    }

    /// The records published of a key's events, including dead letters. The
    /// offsets of the events are looked up first.
    pub fn outputs(
        self: &Arc<Self>,
        log: &dyn RecordLog,
        key: &str,
        partitions: &[PartitionId],
    ) -> Result<Lines, LogError> {
        let mut sources = Vec::new();
        for mut pages in self.pages(log, &self.pipeline.input, partitions)? {
            let mut offsets = Vec::new();
            let start = pages.next;
            while let Some(page) = pages.next(log)? {
                let of_key = page
                    .iter()
                    .filter(|record| record.key.as_deref() == Some(key.as_bytes()));
                offsets.extend(of_key.map(|record| record.offset));
                if offsets.len() > EVENTS_MAX {
                    return Err(LogError::Invalid {
                        what: format!("a search for the outputs of {key:?}"),
                        reason: format!("the key has over {EVENTS_MAX} events"),
                    });
                }
            }
            sources.push(Sources {
                partition: pages.place.partition,
                start,
                offsets,
            });
        }
        let mut pages = VecDeque::new();
        for topic in self.output_topics() {
            let count = log.partitions(topic)?;
            let all: Vec<_> = (0..count).map(PartitionId).collect();
            pages.extend(self.pages(log, topic, &all)?);
        }
        pages.extend(self.pages(log, &self.pipeline.dead_letter, partitions)?);
        Ok(Lines {
            key: key.to_owned(),
            pages,
            kind: LineKind::Published(sources),
        })
    }

    /// Each topic that the pipeline writes, once.
    fn output_topics(&self) -> BTreeSet<&Topic> {
        let outputs = self.pipeline.outputs.values();
        let outputs = std::iter::once(&self.pipeline.output).chain(outputs);
        outputs.map(|output| &output.topic).collect()
    }

    /// The output topics that do not hold their first records any more.
    fn outputs_cut(&self, log: &dyn RecordLog) -> Result<Vec<String>, LogError> {
        let mut cut = Vec::new();
        for topic in self.output_topics() {
            if log.bounds(topic)?.iter().any(|held| held.start.0 > 0) {
                cut.push(topic.to_string());
            }
        }
        Ok(cut)
    }

    fn pages(
        &self,
        log: &dyn RecordLog,
        topic: &Topic,
        partitions: &[PartitionId],
    ) -> Result<VecDeque<Pages>, LogError> {
        let bounds = log.bounds(topic)?;
        let pages = partitions.iter().map(|partition| {
            let of = bounds.get(partition.0 as usize);
            let bounds = of.ok_or_else(|| LogError::NoSuchPartition {
                topic: topic.clone(),
                partition: *partition,
            })?;
            let place = TopicPartition {
                topic: topic.clone(),
                partition: *partition,
            };
            Ok(Pages::of(place, bounds.start, bounds.end))
        });
        pages.collect()
    }
}

fn checkpoint(stored: &bytes::Bytes) -> Result<CheckpointView, LogError> {
    let envelope = Envelope::decode(stored).map_err(|error| LogError::Corrupt {
        reason: error.to_string(),
    })?;
    let saved = envelope.saved.as_ref();
    Ok(CheckpointView {
        digest: envelope.digest.to_string(),
        offset: envelope.offset.0,
        format: saved.map(|saved| saved.format.to_string()),
        state: saved.map(|saved| Text::of(&saved.state)),
        halted: envelope.halted.as_ref().map(|halt| HaltView {
            code: halt.code.to_string(),
            reason: halt.reason.clone(),
        }),
        stored: hex::encode(stored),
    })
}

/// The events of a key in a partition.
#[derive(Debug)]
struct Sources {
    partition: PartitionId,
    /// First offset that the log still has.
    start: Offset,
    /// Offsets of the events, in order.
    offsets: Vec<Offset>,
}

#[derive(Debug)]
enum LineKind {
    Events,
    Published(Vec<Sources>),
}

/// Records of a key, as lines.
#[derive(Debug)]
pub struct Lines {
    key: String,
    pages: VecDeque<Pages>,
    kind: LineKind,
}

impl Lines {
    /// The lines of the next page, which may be none; `None` at the end.
    pub fn next(&mut self, log: &dyn RecordLog) -> Result<Option<String>, LogError> {
        while let Some(pages) = self.pages.front_mut() {
            let Some(page) = pages.next(log)? else {
                self.pages.pop_front();
                continue;
            };
            let mut text = String::new();
            for record in page {
                if let Some(line) = self.kind.line(&self.key, &pages.place, &record) {
                    text += &line.to_json();
                }
            }
            return Ok(Some(text));
        }
        Ok(None)
    }
}

impl LineKind {
    fn line(&self, key: &str, place: &TopicPartition, record: &Record) -> Option<Line> {
        let is_own = record.key.as_deref() == Some(key.as_bytes());
        match self {
            Self::Events => is_own.then(|| Line::of_event(place, record)),
            Self::Published(sources) => {
                let found = provenance(&record.headers)?;
                let of = sources
                    .iter()
                    .find(|sources| sources.partition == found.partition)?;
                let is_wanted = if found.offset < of.start {
                    is_own
                } else {
                    of.offsets.binary_search(&found.offset).is_ok()
                };
                is_wanted.then(|| Line::of_published(place, record))
            }
        }
    }
}
