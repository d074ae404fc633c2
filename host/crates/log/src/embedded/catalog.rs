//! Topics, partitions and committed offsets: reading them when the store is opened,
//! and creating topics.

use std::sync::Arc;

use courtside_types::{Topic, TopicId};

use super::{
    config::PARTITIONS_MAX,
    groups::GroupKey,
    rows::{self, CleanupRow, OffsetRow, PartitionRow, TopicRow},
    state::EmbeddedState,
    store::{Store, read_error},
    topics::TopicState,
};
use crate::{LogError, TopicSpec, admin::remedy, name::check_name};

/// The rows of a store other than records and checkpoints.
pub(super) struct Catalog {
    topics: Vec<(Topic, TopicRow, Vec<PartitionRow>)>,
    offsets: Vec<(GroupKey, u32, OffsetRow)>,
}

pub(super) fn load(store: &Store) -> Result<Catalog, LogError> {
    let mut topics = Vec::new();
    for row in store.meta.prefix(rows::TOPIC_PREFIX) {
        let (key, value) = row.into_inner().map_err(read_error)?;
        let name = key.get(rows::TOPIC_PREFIX.len()..).unwrap_or_default();
        let name = str::from_utf8(name).map_err(|_| damaged("a topic's name"))?;
        let topic: TopicRow =
            serde_json::from_slice(&value).map_err(|_| damaged(&format!("topic {name}")))?;
        let partition = |partition| {
            let key = rows::partition_key(topic.id, partition);
            match store.meta.get(key).map_err(read_error)? {
                None => Ok(PartitionRow::default()),
                Some(row) => PartitionRow::parse(&row)
                    .ok_or_else(|| damaged(&format!("partition {name}/{partition}"))),
            }
        };
        let partitions = (0..topic.partitions.min(PARTITIONS_MAX)).map(partition);
        let partitions = partitions.collect::<Result<_, _>>()?;
        topics.push((name.into(), topic, partitions));
    }
    let mut offsets = Vec::new();
    for row in store.meta.prefix(rows::OFFSET_PREFIX) {
        let (key, value) = row.into_inner().map_err(read_error)?;
        let parsed = rows::parse_offset_key(&key).zip(OffsetRow::parse(&value));
        let ((group, topic, partition), offset) =
            parsed.ok_or_else(|| damaged("a committed offset"))?;
        let group = group.into();
        offsets.push((GroupKey { group, topic }, partition, offset));
    }
    Ok(Catalog { topics, offsets })
}

fn damaged(what: &str) -> LogError {
    LogError::Corrupt {
        reason: format!("the row of {what}"),
    }
}

/// Takes over the rows found in the store, and wakes the readers.
pub(super) fn apply(shared: &EmbeddedState, found: Catalog) {
    shared.groups.replace_committed(found.offsets);
    let mut topics = shared.topics.write();
    for (name, row, partitions) in found.topics {
        match topics.get(&name) {
            Ok(topic) => {
                topic.set_topic_row(row);
                for (partition, row) in (0..).zip(partitions) {
                    topic.set_row(partition, row);
                }
                topic.wake(0..topic.count());
            }
            Err(_) => topics.insert(Arc::new(TopicState::new(name, row, partitions))),
        }
    }
    drop(topics);
    shared.tick();
}

/// The rows that must be written so that all these topics are there.
pub(super) fn missing(
    shared: &EmbeddedState,
    specs: &[TopicSpec],
) -> Result<Vec<(Topic, TopicRow)>, LogError> {
    let topics = shared.topics.read();
    let mut next_id = topics.next_id();
    let mut missing: Vec<(Topic, TopicRow)> = Vec::new();
    for spec in specs {
        let cleanup = CleanupRow::from(&spec.cleanup);
        let known = match topics.get(&spec.name) {
            Ok(topic) => Some(topic.topic_row()),
            Err(_) => {
                let named = missing.iter().find(|(name, _)| *name == spec.name);
                named.map(|(_, row)| row.clone())
            }
        };
        let Some(known) = known else {
            let row = TopicRow {
                id: next_id,
                uid: TopicId::random(),
                partitions: new_partitions(shared, &spec.name, spec.partitions)?,
                cleanup,
                altered: false,
            };
            next_id = next_id.saturating_add(1);
            missing.push((spec.name.clone(), row));
            continue;
        };
        compare(spec, &known)?;
        if known.cleanup == cleanup {
            continue;
        }
        if known.altered {
            tracing::info!(
                topic = %spec.name,
                actual = ?known.cleanup,
                wanted = ?cleanup,
                "topic has another setting than the configuration asks for, and keeps it"
            );
        } else {
            missing.push((spec.name.clone(), TopicRow { cleanup, ..known }));
        }
    }
    Ok(missing)
}

/// The number of partitions of a new topic. Fails if its name or this number is
/// invalid.
pub(super) fn new_partitions(
    shared: &EmbeddedState,
    name: &Topic,
    partitions: Option<u32>,
) -> Result<u32, LogError> {
    let invalid = |reason: String| LogError::Invalid {
        what: format!("topic {:?}", &**name),
        reason,
    };
    check_name(name).map_err(|reason| invalid(reason.to_owned()))?;
    let partitions = partitions.unwrap_or(shared.config.partitions);
    if (1..=PARTITIONS_MAX).contains(&partitions) {
        Ok(partitions)
    } else {
        Err(invalid(format!(
            "it has 1 to {PARTITIONS_MAX} partitions, not {partitions}"
        )))
    }
}

/// Whether a topic's row is what a pipeline needs.
pub(super) fn compare(spec: &TopicSpec, known: &TopicRow) -> Result<(), LogError> {
    let mismatch = |what, actual, wanted: String| {
        Err(LogError::Mismatch {
            topic: spec.name.clone(),
            what,
            actual,
            remedy: remedy(&spec.name, what, &wanted),
            wanted,
        })
    };
    if let Some(wanted) = spec.partitions
        && wanted != known.partitions
    {
        return mismatch(
            "partitions",
            known.partitions.to_string(),
            wanted.to_string(),
        );
    }
    let (actual, wanted) = (
        known.cleanup.policy(),
        CleanupRow::from(&spec.cleanup).policy(),
    );
    if actual != wanted {
        return mismatch("cleanup.policy", actual.to_owned(), wanted.to_owned());
    }
    Ok(())
}

pub(super) fn encode_topic(row: &TopicRow) -> Result<Vec<u8>, LogError> {
    serde_json::to_vec(row).map_err(|error| LogError::Unavailable {
        reason: format!("a topic cannot be written: {error}"),
    })
}

/// Takes over topics that were written.
pub(super) fn apply_topics(shared: &EmbeddedState, rows: Vec<(Topic, TopicRow)>) {
    let mut topics = shared.topics.write();
    for (name, row) in rows {
        if let Ok(topic) = topics.get(&name) {
            topic.set_topic_row(row);
        } else {
            let partitions = vec![PartitionRow::default(); row.partitions as usize];
            topics.insert(Arc::new(TopicState::new(name, row, partitions)));
        }
    }
}
