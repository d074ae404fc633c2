//! The layout of a group: the input, its number of partitions, and its partitioner.
//! All hosts of a group must have the same layout, and it must stay as long as the
//! group has state. An entity is a key in a partition, so with any other layout games
//! would start again from zero.
//!
//! The topics that a group writes are part of the layout, because hosts that write to
//! different topics would each show a part of the games. These topics may change, but
//! only while no host of the group runs: the first host that starts then records the
//! new topics.
//!
//! The layout that a group was created with is the first record of the topic
//! `<group>.pipeline`, which has one partition and keeps everything. A later
//! record is in force if it names the one that it replaces, so of two hosts that
//! start at once the first to write wins, and each sees what the other wrote. Both
//! engines work so, at the cost of a few reads at the start.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use courtside_log::{
    Cleanup, LogError, RecordLog, TopicSpec,
    block::block_on,
    partitioner::{Method, Partitioner},
};
use courtside_types::{
    NewRecord, Offset, PartitionId, Record, Topic, failure::ErrorCode, topics::LAYOUT_SUFFIX,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::pipeline::kept::KeptTopic;

const ONLY: PartitionId = PartitionId(0);
const READ_BYTES: usize = 1 << 20;
/// Bytes of one read where an input is read whole.
const SCAN_BYTES: usize = 8 << 20;
/// How often such a reading logs how far it is.
const PROGRESS: Duration = Duration::from_secs(5);
/// Rounds of reading and writing. Each further host that writes a layout at the same
/// time costs one more.
const ATTEMPTS: usize = 8;

/// Where the keys of a pipeline's input are, and where its outputs go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    pub input: String,
    pub partitions: u32,
    pub partitioner: Partitioner,
    pub writes: Writes,
}

/// The topics that a pipeline writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Writes {
    pub output: KeptTopic,
    pub outputs: BTreeMap<String, KeptTopic>,
}

impl Writes {
    /// The names of the topics.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        let all = std::iter::once(&self.output).chain(self.outputs.values());
        all.map(|written| written.topic.as_str())
    }

    /// Every topic, with the name that the configuration has for the output.
    fn named(&self) -> BTreeMap<String, &KeptTopic> {
        let outputs = self.outputs.iter();
        let outputs = outputs.map(|(name, topic)| (format!("outputs.{name}"), topic));
        outputs
            .chain([("output".to_owned(), &self.output)])
            .collect()
    }
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
    #[error(
        "group {group} was created with another layout: {reason}. The topics of this configuration do not have the group's state and offsets"
    )]
    Elsewhere { group: String, reason: String },
    #[error(
        "hosts of group {group} run with other outputs: {reason}. Configure the outputs that they have; or stop all of them, wait for the session timeout of hosts that were killed, and start a host with the new outputs"
    )]
    OtherOutputs { group: String, reason: String },
}

impl ErrorCode for LayoutError {
    fn code(&self) -> &str {
        match self {
            Self::Log(error) => error.code(),
            Self::Mismatch { .. } | Self::Elsewhere { .. } | Self::OtherOutputs { .. } => {
                "pipeline-mismatch"
            }
        }
    }
}

/// The topic of a group's layouts.
#[must_use]
pub fn topic(group: &str) -> TopicSpec {
    TopicSpec {
        name: format!("{group}{LAYOUT_SUFFIX}").into(),
        partitions: Some(1),
        cleanup: Cleanup::Delete {
            retention: None,
            retention_bytes: None,
        },
    }
}

/// Records the layout of a group that has none; otherwise compares it with the
/// recorded one. The map of keys may have grown, by keys that the input does not hold
/// in another partition. The outputs may be others while the group has no member.
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
                if let Some(reason) = key_in_use(log, &found, layout, &added)? {
                    return Err(mismatch(reason));
                }
                if let Some(reason) = other_writes(&found, layout) {
                    nobody_runs(log, group, layout, &reason)?;
                }
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

/// Checks, before a change of a group's state, that the state belongs to this input
/// with `partitions` partitions. A group without a layout passes.
pub fn check(
    log: &dyn RecordLog,
    group: &str,
    input: &str,
    partitions: u32,
) -> Result<(), LayoutError> {
    let Some(found) = recorded(log, group)? else {
        return Ok(());
    };
    same_place(&found, input, partitions).map_err(|reason| LayoutError::Elsewhere {
        group: group.to_owned(),
        reason,
    })
}

/// The layout of a group, where one is recorded.
pub fn recorded(log: &dyn RecordLog, group: &str) -> Result<Option<Layout>, LogError> {
    match in_force(log, &topic(group).name) {
        Err(LogError::NoSuchTopic { .. }) => Ok(None),
        found => Ok(found?.map(|(_, layout)| layout)),
    }
}

/// A running host's check that its layout is still the one in force: a host with a
/// grown map may have started since, and sends keys elsewhere.
#[derive(Debug)]
pub struct Watch {
    topic: Topic,
    own: Layout,
    /// The end up to which the layouts were read: nothing is read while it stays.
    seen: Mutex<Option<Offset>>,
}

impl Watch {
    #[must_use]
    pub fn new(group: &str, own: Layout) -> Self {
        Self {
            topic: topic(group).name,
            own,
            seen: Mutex::default(),
        }
    }

    /// How another host has changed the layout, in words, where it is no longer
    /// this host's own.
    pub fn other(&self, log: &dyn RecordLog) -> Result<Option<String>, LogError> {
        let bounds = log.bounds(&self.topic)?;
        let end = bounds.first().map(|bounds| bounds.end);
        let mut seen = self.seen.lock();
        if *seen == end {
            return Ok(None);
        }
        match in_force(log, &self.topic)? {
            Some((_, found)) if found != self.own => {
                let added = added_keys(&self.own, &found);
                let other = added.map(|added| match other_writes(&self.own, &found) {
                    Some(reason) => reason,
                    None => format!("the partitioner's map now also has {added:?}"),
                });
                Ok(Some(other.unwrap_or_else(|reason| reason)))
            }
            _ => {
                *seen = end;
                Ok(None)
            }
        }
    }
}

/// The layout in force, and the offset it stands at.
fn in_force(log: &dyn RecordLog, topic: &Topic) -> Result<Option<(Offset, Layout)>, LogError> {
    let mut found: Option<(Offset, Layout)> = None;
    read_each(log, topic, ONLY, READ_BYTES, |record| {
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
        Ok(ControlFlow::Continue(()))
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

fn differs<T>(
    what: &str,
    from: &dyn std::fmt::Display,
    to: &dyn std::fmt::Display,
) -> Result<T, String> {
    Err(format!("{what} was {from}, and is {to}"))
}

fn same_place(from: &Layout, input: &str, partitions: u32) -> Result<(), String> {
    if from.input != input {
        return differs("its input", &from.input, &input);
    }
    if from.partitions != partitions {
        return differs("the number of partitions", &from.partitions, &partitions);
    }
    Ok(())
}

/// The keys that a layout's map has and the map before had not; or, as an error in
/// words, another difference.
fn added_keys<'a>(from: &Layout, to: &'a Layout) -> Result<BTreeSet<&'a str>, String> {
    same_place(from, &to.input, to.partitions)?;
    let (from, to) = (&from.partitioner, &to.partitioner);
    if from.fallback != to.fallback {
        return differs("the partitioner", &from.fallback, &to.fallback);
    }
    for (key, partition) in &from.manual {
        let what = format!("the partition of {key:?} in the partitioner's map");
        match to.manual.get(key) {
            Some(now) if now == partition => {}
            Some(now) => return differs(&what, partition, now),
            None => return differs(&what, partition, &"no longer in it"),
        }
    }
    let added = to
        .manual
        .keys()
        .filter(|key| !from.manual.contains_key(*key));
    Ok(added.map(String::as_str).collect())
}

/// How the topics that two layouts write differ, in words; `None` where they are
/// the same.
fn other_writes(from: &Layout, to: &Layout) -> Option<String> {
    let (from, to) = (from.writes.named(), to.writes.named());
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let word = |topic: Option<&&KeptTopic>| match topic {
        Some(topic) => topic.to_string(),
        None => "not configured".to_owned(),
    };
    let differences = names.into_iter().filter_map(|name| {
        let (before, now) = (from.get(name), to.get(name));
        (before != now).then(|| format!("{name} was {}, and is {}", word(before), word(now)))
    });
    let words: Vec<String> = differences.collect();
    (!words.is_empty()).then(|| words.join("; "))
}

/// Refuses other outputs while the group has members: each member would go on with
/// its own outputs.
fn nobody_runs(
    log: &dyn RecordLog,
    group: &str,
    layout: &Layout,
    reason: &str,
) -> Result<(), LayoutError> {
    let status = log.group_status(group, &layout.input.as_str().into())?;
    if status.members.is_empty() {
        tracing::warn!(
            group,
            reason,
            "the outputs of the consumer group have changed; records written before stay in the old topics"
        );
        return Ok(());
    }
    Err(LayoutError::OtherOutputs {
        group: group.to_owned(),
        reason: reason.to_owned(),
    })
}

/// A new key of the map that has events in the partition to which it went until now, in
/// words. The check reads such partitions up to the first such event, and whole where
/// there is none.
fn key_in_use(
    log: &dyn RecordLog,
    from: &Layout,
    to: &Layout,
    added: &BTreeSet<&str>,
) -> Result<Option<String>, LogError> {
    if from.partitioner.fallback == Method::Random {
        // Events of a key may be in any partition already, and no entity is whole.
        return Ok(None);
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
        tracing::info!(%input, %partition, keys = keys.len(), "reading the partition for events of keys that are new in the partitioner's map");
        let mut found = None;
        let mut logged = Instant::now();
        read_each(log, &input, partition, SCAN_BYTES, |record| {
            if let Some(key) = &record.key
                && keys.contains(&**key)
            {
                found = Some(key.clone());
                return Ok(ControlFlow::Break(()));
            }
            if logged.elapsed() >= PROGRESS {
                logged = Instant::now();
                tracing::info!(%input, %partition, offset = record.offset.0, "still reading the partition for events of new keys");
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if let Some(key) = found {
            let key = String::from_utf8_lossy(&key).into_owned();
            return Ok(Some(format!(
                "{key:?} is new in the partitioner's map, and has events in partition {partition} already"
            )));
        }
    }
    Ok(None)
}

/// Reads the committed records of a partition, up to its end as of now, until `each`
/// breaks.
fn read_each(
    log: &dyn RecordLog,
    topic: &Topic,
    partition: PartitionId,
    read_bytes: usize,
    mut each: impl FnMut(&Record) -> Result<ControlFlow<()>, LogError>,
) -> Result<(), LogError> {
    let bounds = log.bounds(topic)?;
    let Some(bounds) = bounds.get(partition.0 as usize) else {
        return Ok(());
    };
    let mut next = bounds.start;
    while next < bounds.end {
        let records = log.read(topic, partition, next, read_bytes)?;
        // Only the markers of transactions are left.
        let Some(last) = records.last() else { break };
        next = last.offset.next();
        for record in &records {
            if each(record)?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};

    use courtside_log::{
        conformance::{append, assigned, deleted, join, record, wait},
        embedded::{Embedded, EmbeddedConfig},
    };
    use tempfile::TempDir;

    use super::*;

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
            writes: writes(KeptTopic::table("out"), &[]),
        }
    }

    fn writes(output: KeptTopic, outputs: &[(&str, KeptTopic)]) -> Writes {
        let outputs = outputs.iter().cloned();
        Writes {
            output,
            outputs: outputs
                .map(|(name, topic)| (name.to_owned(), topic))
                .collect(),
        }
    }

    fn refused(log: &dyn RecordLog, layout: &Layout) -> String {
        let error = settle(log, GROUP, layout).unwrap_err();
        assert_eq!(error.code(), "pipeline-mismatch", "{error}");
        error.to_string()
    }

    fn records(log: &dyn RecordLog) -> usize {
        let mut count = 0;
        let topic = format!("{GROUP}{LAYOUT_SUFFIX}").into();
        read_each(log, &topic, ONLY, READ_BYTES, |_| {
            count += 1;
            Ok(ControlFlow::Continue(()))
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
        // No refused layout was written, and another group has a layout of its own.
        settle(&*log, GROUP, &first).unwrap();
        assert_eq!(records(&*log), 1);
        settle(&*log, "another", &more).unwrap();
    }

    #[test]
    fn a_map_may_grow_by_keys_that_have_no_events_elsewhere() {
        let (_dir, log) = log();
        let topic = Topic::from("in");
        settle(&*log, GROUP, &layout(r#"{"manual":{"a":1}}"#)).unwrap();
        // A key may not move or go, and the fallback may not change.
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
        // The map may have the key in the partition where it is anyway.
        settle(&*log, GROUP, &grown(home.0)).unwrap();
        // A host with the map from before is refused.
        refused(&*log, &layout(r#"{"manual":{"a":1}}"#));
    }

    #[test]
    fn outputs_change_while_no_host_of_the_group_runs() {
        let (_dir, log) = log();
        let base = layout(r#""murmur2""#);
        let of = |writes| Layout {
            writes,
            ..base.clone()
        };
        let (table, stream) = (KeptTopic::table("out"), KeptTopic::stream("out"));
        let alerts = |topic: &str| ("alerts", KeptTopic::table(topic));
        let first = of(writes(table.clone(), &[alerts("a")]));
        settle(&*log, GROUP, &first).unwrap();
        let mut member = join(&*log, GROUP, &"in".into(), 0, 1);
        assigned(&mut *member, 8);
        settle(&*log, GROUP, &first).unwrap();
        for (other, words) in [
            (
                writes(KeptTopic::table("o"), &[alerts("a")]),
                "output was out (keep = \"latest\"), and is o (keep = \"latest\")",
            ),
            (
                writes(stream, &[alerts("a")]),
                "output was out (keep = \"latest\"), and is out (keep = \"all\")",
            ),
            (
                writes(table.clone(), &[]),
                "outputs.alerts was a (keep = \"latest\"), and is not configured",
            ),
            (
                writes(
                    table.clone(),
                    &[alerts("a"), ("more", KeptTopic::stream("m"))],
                ),
                "outputs.more was not configured, and is m (keep = \"all\")",
            ),
        ] {
            let said = refused(&*log, &of(other));
            assert!(said.contains(words), "{said}");
            assert!(said.contains("stop all of them"), "{said}");
        }
        assert_eq!(records(&*log), 1);
        drop(member);
        let other = of(writes(KeptTopic::table("o"), &[alerts("b")]));
        settle(&*log, GROUP, &other).unwrap();
        assert_eq!(records(&*log), 2);
        // A host that joined meanwhile with the outputs from before learns of it.
        let said = Watch::new(GROUP, first).other(&*log).unwrap().unwrap();
        assert!(said.contains("outputs.alerts was a"), "{said}");
        // A change of the outputs lets no other part of the layout change with it.
        let moved = Layout {
            partitions: 9,
            ..base.clone()
        };
        let said = refused(&*log, &moved);
        assert!(said.contains("was 8, and is 9"), "{said}");
    }

    #[test]
    fn a_group_is_looked_for_where_its_state_is() {
        let (_dir, log) = log();
        let here = |input, partitions| check(&*log, GROUP, input, partitions);
        here("other", 3).unwrap();
        let topic = super::topic(GROUP);
        log.ensure_topics(&[topic]).unwrap();
        here("other", 3).unwrap();
        settle(&*log, GROUP, &layout(r#""fnv1a""#)).unwrap();
        here("in", 8).unwrap();
        for (input, partitions, words) in [
            ("other", 8, "was in, and is other"),
            ("in", 9, "was 8, and is 9"),
        ] {
            let error = here(input, partitions).unwrap_err();
            assert_eq!(error.code(), "pipeline-mismatch", "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn a_running_host_learns_of_another_layout() {
        let (_dir, log) = log();
        let own = layout(r#"{"manual":{"a":1}}"#);
        settle(&*log, GROUP, &own).unwrap();
        let watch = Watch::new(GROUP, own);
        for _ in 0..2 {
            assert_eq!(watch.other(&*log), Ok(None));
        }
        let home = Method::Murmur2.partition(b"b", 8);
        let away = (home.0 + 1) % 8;
        let grown = layout(&format!(r#"{{"manual":{{"a":1,"b":{away}}}}}"#));
        settle(&*log, GROUP, &grown).unwrap();
        for _ in 0..2 {
            let said = watch.other(&*log).unwrap().unwrap();
            assert!(said.contains("\"b\""), "{said}");
        }
        assert_eq!(Watch::new(GROUP, grown).other(&*log), Ok(None));
    }

    #[test]
    fn reading_ends_where_it_is_enough() {
        let (_dir, log) = log();
        let topic = Topic::from("in");
        append(&*log, &topic, 0, &["1", "2", "3"]);
        let mut offsets = Vec::new();
        read_each(&*log, &topic, ONLY, 1, |record| {
            offsets.push(record.offset.0);
            Ok(if record.offset.0 == 1 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })
        .unwrap();
        assert_eq!(offsets, [0, 1]);
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
        let topic = format!("{GROUP}{LAYOUT_SUFFIX}").into();
        append(&*log, &topic, 0, &["{}"]);
        let error = settle(&*log, GROUP, &layout(r#""murmur2""#)).unwrap_err();
        assert_eq!(error.code(), "log-corrupt", "{error}");
    }
}
