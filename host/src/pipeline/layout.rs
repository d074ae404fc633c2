//! What must stay as it is as long as a group has state: the input, its number
//! of partitions, and its partitioner. An entity is a key in a partition, so
//! with any other layout games would start again from zero.
//!
//! The layout that a group was created with is the first record of the topic
//! `<group>.pipeline`, which has one partition and keeps everything. A later
//! record is in force if it names the one that it replaces, so of two hosts that
//! start at once the first to write wins, and each sees what the other wrote. The
//! same for both engines; it costs a few reads at the start.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    log::{
        Cleanup, LogError, RecordLog, TopicSpec,
        block::block_on,
        partitioner::{Method, Partitioner},
    },
    types::{NewRecord, Offset, PartitionId, Record, Topic},
};

/// What the topic of a group's layouts has after the group's name.
pub const TOPIC_SUFFIX: &str = ".pipeline";

const ONLY: PartitionId = PartitionId(0);
const READ_BYTES: usize = 1 << 20;
/// Each one more than the first is for a host that wrote at the same time.
const ATTEMPTS: usize = 8;

/// Where the keys of a pipeline's input are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    pub input: String,
    pub partitions: u32,
    pub partitioner: Partitioner,
}

/// A layout as it is recorded.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    /// The offset of the record that this one takes the place of.
    replaces: Option<u64>,
    layout: Layout,
}

/// Why a pipeline cannot start with its layout.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(
        "group {group} was created with another layout: {reason}. With this one its entities would start again from zero"
    )]
    Mismatch { group: String, reason: String },
}

impl LayoutError {
    /// The stable code of `docs/errors.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Log(error) => error.code(),
            Self::Mismatch { .. } => "pipeline-mismatch",
        }
    }
}

/// The topic of a group's layouts.
#[must_use]
pub fn topic(group: &str) -> TopicSpec {
    TopicSpec {
        name: format!("{group}{TOPIC_SUFFIX}").into(),
        partitions: Some(1),
        cleanup: Cleanup::Delete {
            retention: None,
            retention_bytes: None,
        },
    }
}

/// Records the layout of a group that has none, and compares it with the one
/// that it has. A map of keys may have grown by keys that the input does not hold
/// in another partition.
pub fn settle(log: &dyn RecordLog, group: &str, layout: &Layout) -> Result<(), LayoutError> {
    let spec = topic(group);
    let topic = spec.name.clone();
    log.ensure_topics(&[spec])?;
    let mismatch = |reason| LayoutError::Mismatch {
        group: group.to_owned(),
        reason,
    };
    for _ in 0..ATTEMPTS {
        let replaces = match in_force(log, &topic)? {
            Some((_, found)) if found == *layout => return Ok(()),
            Some((offset, found)) => {
                let added = added_keys(&found, layout).map_err(mismatch)?;
                must_be_new(log, &found, layout, &added)?.map_err(mismatch)?;
                Some(offset.0)
            }
            None => None,
        };
        append(log, &topic, replaces, layout)?;
    }
    Err(LayoutError::Log(LogError::Unavailable {
        reason: format!("other hosts keep changing the layout of group {group}"),
    }))
}

/// The layout in force, and the offset it stands at.
fn in_force(log: &dyn RecordLog, topic: &Topic) -> Result<Option<(Offset, Layout)>, LogError> {
    let mut found: Option<(Offset, Layout)> = None;
    read_each(log, topic, ONLY, |record| {
        let recorded: Recorded = serde_json::from_slice(
            record.value.as_deref().unwrap_or_default(),
        )
        .map_err(|error| LogError::Corrupt {
            reason: format!(
                "{topic}/{ONLY}/{} is no layout, or one of a newer version: {error}",
                record.offset
            ),
        })?;
        if recorded.replaces == found.as_ref().map(|(offset, _)| offset.0) {
            found = Some((record.offset, recorded.layout));
        }
        Ok(())
    })?;
    Ok(found)
}

fn append(
    log: &dyn RecordLog,
    topic: &Topic,
    replaces: Option<u64>,
    layout: &Layout,
) -> Result<(), LogError> {
    let recorded = Recorded {
        replaces,
        layout: layout.clone(),
    };
    let value = serde_json::to_vec(&recorded).map_err(|error| LogError::Unavailable {
        reason: format!("a layout cannot be written: {error}"),
    })?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let record = NewRecord {
        timestamp_ms: since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        }),
        key: None,
        headers: Vec::new(),
        value: Some(Bytes::from(value)),
    };
    let appended = block_on(log.append(topic, vec![(ONLY, record)])?);
    appended.into_iter().try_for_each(|result| result.map(drop))
}

/// The keys that a layout's map has and the one before had not; or what else
/// is different, in words.
fn added_keys<'a>(from: &Layout, to: &'a Layout) -> Result<BTreeSet<&'a str>, String> {
    let differs = |what: &str, from: &dyn std::fmt::Display, to: &dyn std::fmt::Display| {
        Err(format!("{what} was {from}, and is {to}"))
    };
    if from.input != to.input {
        return differs("its input", &from.input, &to.input);
    }
    if from.partitions != to.partitions {
        return differs("the number of partitions", &from.partitions, &to.partitions);
    }
    let (from, to) = (&from.partitioner, &to.partitioner);
    if from.fallback != to.fallback {
        return differs("the partitioner", &from.fallback, &to.fallback);
    }
    for (key, partition) in &from.manual {
        let what = format!("the partition of {key:?} in the partitioner's map");
        match to.manual.get(key) {
            Some(now) if now == partition => {}
            Some(now) => return differs(&what, partition, now),
            None => return differs(&what, partition, &"in it no more"),
        }
    }
    let added = to
        .manual
        .keys()
        .filter(|key| !from.manual.contains_key(*key));
    Ok(added.map(String::as_str).collect())
}

/// Looks for the keys in the partitions that they went to until now; or says,
/// in words, which is there. It reads those partitions whole.
fn must_be_new(
    log: &dyn RecordLog,
    from: &Layout,
    to: &Layout,
    added: &BTreeSet<&str>,
) -> Result<Result<(), String>, LogError> {
    if from.partitioner.fallback == Method::Random {
        // They may be anywhere, and no entity is whole.
        return Ok(Ok(()));
    }
    let partition = |layout: &Layout, key: &str| {
        layout
            .partitioner
            .partition(key.as_bytes(), layout.partitions)
    };
    let mut moving: BTreeMap<PartitionId, BTreeSet<&[u8]>> = BTreeMap::new();
    for key in added {
        let before = partition(from, key);
        if before != partition(to, key) {
            moving.entry(before).or_default().insert(key.as_bytes());
        }
    }
    let input = Topic::from(from.input.as_str());
    for (partition, keys) in moving {
        let mut found = None;
        read_each(log, &input, partition, |record| {
            if let Some(key) = &record.key
                && keys.contains(&**key)
            {
                found.get_or_insert_with(|| key.clone());
            }
            Ok(())
        })?;
        if let Some(key) = found {
            let key = String::from_utf8_lossy(&key).into_owned();
            return Ok(Err(format!(
                "{key:?} is new in the partitioner's map, and has events in partition {partition} already"
            )));
        }
    }
    Ok(Ok(()))
}

/// All committed records of a partition, as of now.
fn read_each(
    log: &dyn RecordLog,
    topic: &Topic,
    partition: PartitionId,
    mut each: impl FnMut(&Record) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let bounds = log.bounds(topic)?;
    let Some(bounds) = bounds.get(partition.0 as usize) else {
        return Ok(());
    };
    let mut next = bounds.start;
    while next < bounds.end {
        let records = log.read(topic, partition, next, READ_BYTES)?;
        // What is left are ends of transactions.
        let Some(last) = records.last() else { break };
        next = last.offset.next();
        records.iter().try_for_each(&mut each)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use tempfile::TempDir;

    use super::*;
    use crate::log::{
        conformance::{append, deleted, record, wait},
        embedded::{Embedded, EmbeddedConfig},
    };

    const GROUP: &str = "courtside-scores";

    fn log() -> (TempDir, Arc<Embedded>) {
        let dir = tempfile::tempdir().unwrap();
        let log = Embedded::open(dir.path(), EmbeddedConfig::default()).unwrap();
        log.ensure_topics(&[deleted(&"in".into(), 8)]).unwrap();
        (dir, log)
    }

    fn layout(partitioner: &str) -> Layout {
        let partitioner = format!("{{\"partitioner\":{partitioner}}}");
        #[derive(Deserialize)]
        struct Of {
            partitioner: Partitioner,
        }
        Layout {
            input: "in".to_owned(),
            partitions: 8,
            partitioner: serde_json::from_str::<Of>(&partitioner)
                .unwrap()
                .partitioner,
        }
    }

    fn refused(log: &dyn RecordLog, layout: &Layout) -> String {
        let error = settle(log, GROUP, layout).unwrap_err();
        assert_eq!(error.code(), "pipeline-mismatch", "{error}");
        error.to_string()
    }

    fn records(log: &dyn RecordLog) -> usize {
        let mut count = 0;
        let topic = format!("{GROUP}{TOPIC_SUFFIX}").into();
        read_each(log, &topic, ONLY, |_| {
            count += 1;
            Ok(())
        })
        .unwrap();
        count
    }

    #[test]
    fn a_group_keeps_the_layout_that_it_was_created_with() {
        let (_dir, log) = log();
        let first = layout(r#""fnv1a""#);
        for _ in 0..3 {
            settle(&*log, GROUP, &first).unwrap();
        }
        assert_eq!(records(&*log), 1);
        let said = refused(&*log, &layout(r#""murmur2""#));
        assert!(said.contains("was fnv1a, and is murmur2"), "{said}");
        let more = Layout {
            partitions: 9,
            ..first.clone()
        };
        let said = refused(&*log, &more);
        assert!(said.contains("was 8, and is 9"), "{said}");
        let elsewhere = Layout {
            input: "other".to_owned(),
            ..first.clone()
        };
        let said = refused(&*log, &elsewhere);
        assert!(said.contains("was in, and is other"), "{said}");
        // Nothing of it was written, and another group is another matter.
        settle(&*log, GROUP, &first).unwrap();
        assert_eq!(records(&*log), 1);
        settle(&*log, "another", &more).unwrap();
    }

    #[test]
    fn a_map_may_grow_by_keys_that_have_no_events_elsewhere() {
        let (_dir, log) = log();
        let topic = Topic::from("in");
        settle(&*log, GROUP, &layout(r#"{"manual":{"a":1}}"#)).unwrap();
        // Moved, gone, or with another fallback.
        let said = refused(&*log, &layout(r#"{"manual":{"a":2}}"#));
        assert!(
            said.contains("\"a\"") && said.contains("was 1, and is 2"),
            "{said}"
        );
        let said = refused(&*log, &layout(r#""murmur2""#));
        assert!(said.contains("\"a\""), "{said}");
        refused(&*log, &layout(r#"{"manual":{"a":1},"fallback":"crc32"}"#));

        let home = Method::Murmur2.partition(b"b", 8);
        let away = (home.0 + 1) % 8;
        append(&*log, &topic, home.0, &["of another key"]);
        settle(
            &*log,
            GROUP,
            &layout(&format!(r#"{{"manual":{{"a":1,"b":{away}}}}}"#)),
        )
        .unwrap();
        assert_eq!(records(&*log), 2);

        let home = Method::Murmur2.partition(b"c", 8);
        let away = (home.0 + 1) % 8;
        let event = vec![(home, record("c", "1"))];
        wait(log.append(&topic, event).unwrap());
        let grown = |partition: u32| {
            let b = (Method::Murmur2.partition(b"b", 8).0 + 1) % 8;
            layout(&format!(
                r#"{{"manual":{{"a":1,"b":{b},"c":{partition}}}}}"#
            ))
        };
        let said = refused(&*log, &grown(away));
        assert!(said.contains("\"c\""), "{said}");
        // Where it is anyway it may stay.
        settle(&*log, GROUP, &grown(home.0)).unwrap();
        // Who has the map from before would move it.
        refused(&*log, &layout(r#"{"manual":{"a":1}}"#));
    }

    #[test]
    fn of_hosts_that_start_at_once_one_wins() {
        for round in 0..10 {
            let (_dir, log) = log();
            let start = Barrier::new(4);
            let layouts = [r#""murmur2""#, r#""fnv1a""#, r#""crc32""#, r#""random""#].map(layout);
            let settled: Vec<bool> = std::thread::scope(|scope| {
                let hosts = layouts.each_ref().map(|layout| {
                    scope.spawn(|| {
                        start.wait();
                        settle(&*log, GROUP, layout).is_ok()
                    })
                });
                hosts.map(|host| host.join().unwrap()).to_vec()
            });
            let winners = settled.iter().filter(|settled| **settled).count();
            assert_eq!(winners, 1, "round {round}: {settled:?}");
            let again = layouts
                .iter()
                .map(|layout| settle(&*log, GROUP, layout).is_ok());
            assert!(again.eq(settled.iter().copied()), "round {round}");
        }
    }

    #[test]
    fn what_is_no_layout_is_not_passed_over() {
        let (_dir, log) = log();
        settle(&*log, GROUP, &layout(r#""murmur2""#)).unwrap();
        let topic = format!("{GROUP}{TOPIC_SUFFIX}").into();
        append(&*log, &topic, 0, &["{}"]);
        let error = settle(&*log, GROUP, &layout(r#""murmur2""#)).unwrap_err();
        assert_eq!(error.code(), "log-corrupt", "{error}");
    }
}
