//! Compares the records of a replay with those that were published.
//!
//! The log does not keep all records. A topic kept as a table loses records whose key has
//! a later one, and a topic kept as a stream loses its oldest records. So a missing
//! record is a difference only if the log must still have it; otherwise it is counted as
//! gone.

use std::collections::BTreeMap;

use courtside_types::{ATTEMPT_HEADER, DIGEST_HEADER, EVENT_TIME_HEADER, Offset, PLUGIN_HEADER};
use serde::Serialize;
use serde_json::Value;

use super::{
    line::{HeaderLine, Line, Text},
    recording::Recording,
    redone,
    timeline::Timeline,
};
use crate::worker::output::{ERROR_CODE, ERROR_REASON};

/// Kind of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Changed,
    /// The record was replayed, but never published.
    Added,
    /// The record was published, but not replayed.
    Missing,
}

/// One record that is not as it was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The offset of the event that led to it.
    pub source: u64,
    pub kind: Kind,
    pub published: Option<Line>,
    pub replayed: Option<Line>,
}

/// Result of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Records that are as they were published.
    pub same: usize,
    /// Replayed records that the log may no longer have.
    pub gone: usize,
    /// Published records that a rollback has undone.
    pub undone: usize,
    pub differences: Vec<Difference>,
}

/// Headers that a comparison looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headers {
    All,
    /// All headers but those that name the plugin, because the replay has another one.
    ButThePlugin,
}

/// Records are compared if these are equal: the event's offset, and the topic and key
/// they go to.
type Meeting = (u64, String, Option<Vec<u8>>);

/// Compares what was replayed with what a recording says was published.
#[must_use]
pub fn compare(recording: &Recording, replayed: &[Line], headers: Headers) -> Comparison {
    let mut comparison = Comparison::default();
    let timeline = recording.timeline();
    let first = recording.events.first().and_then(|event| event.offset);
    let (published, undone) = in_force(recording, &timeline, first);
    comparison.undone = undone;
    let mut meetings: BTreeMap<Meeting, (Vec<&Line>, Vec<&Line>)> = BTreeMap::new();
    for line in published {
        meetings.entry(meeting(line)).or_default().0.push(line);
    }
    for line in replayed {
        meetings.entry(meeting(line)).or_default().1.push(line);
    }
    let log = Kept::of(recording, replayed);
    for ((source, ..), (published, replayed)) in meetings {
        // Compaction leaves the last of several records of a key, so they are paired from
        // the end.
        let mut pairs: Vec<(Option<&Line>, Option<&Line>)> = Vec::new();
        let (mut before, mut now) = (published.into_iter().rev(), replayed.into_iter().rev());
        loop {
            match (before.next(), now.next()) {
                (None, None) => break,
                pair => pairs.push(pair),
            }
        }
        for (before, now) in pairs.into_iter().rev() {
            let kind = match (before, now) {
                (Some(before), Some(now)) if is_same(before, now, headers) => {
                    comparison.same += 1;
                    continue;
                }
                (None, Some(now)) if log.may_be_gone(now) => {
                    comparison.gone += 1;
                    continue;
                }
                (Some(_), Some(_)) => Kind::Changed,
                (None, _) => Kind::Added,
                (_, None) => Kind::Missing,
            };
            comparison.differences.push(Difference {
                source,
                kind,
                published: before.cloned(),
                replayed: now.cloned(),
            });
        }
    }
    comparison
}

/// The published records of the recorded events, and how many others a rollback has
/// undone. A record is undone if its event was processed again later, or if its plugin,
/// as things stand, never got the event.
fn in_force<'a>(
    recording: &'a Recording,
    timeline: &Timeline,
    first: Option<u64>,
) -> (Vec<&'a Line>, usize) {
    let mut latest: BTreeMap<u64, u32> = BTreeMap::new();
    let attempts = recording.published.iter().filter_map(Line::provenance);
    for found in attempts {
        let attempt = latest.entry(found.offset.0).or_default();
        *attempt = found.attempt.max(*attempt);
    }
    // Compaction may have left nothing of the records that were published again.
    let is_rolled_back =
        latest.values().any(|attempt| *attempt > 1) || !redone::of(recording).is_empty();
    let mut undone = 0;
    let mut lines = Vec::new();
    for line in &recording.published {
        let Some(found) = line.provenance() else {
            continue;
        };
        if first.is_none_or(|first| found.offset < Offset(first)) {
            continue;
        }
        let is_last = latest.get(&found.offset.0) == Some(&found.attempt);
        let is_timely =
            !is_rolled_back || found.digest.is_none() || found.digest == timeline.at(found.offset);
        if is_last && is_timely {
            lines.push(line);
        } else {
            undone += 1;
        }
    }
    (lines, undone)
}

fn meeting(line: &Line) -> Meeting {
    let key = line.key.as_ref().and_then(|key| key.bytes().ok());
    (
        line.source.unwrap_or_default(),
        line.topic.clone(),
        key.map(|key| key.to_vec()),
    )
}

fn is_same(published: &Line, replayed: &Line, headers: Headers) -> bool {
    published.partition == replayed.partition
        && published.event_time_ms() == replayed.event_time_ms()
        && published.value == replayed.value
        && counted(published, headers).eq(counted(replayed, headers))
}

fn counted(line: &Line, headers: Headers) -> impl Iterator<Item = &HeaderLine> {
    // The reason of a plugin's failure is in the host's words, with figures that differ
    // each time, so only the code counts. The reason of a refusal is the plugin's own,
    // and counts.
    let is_failure = line
        .text(&ERROR_CODE)
        .is_some_and(|code| code != "event-refused");
    line.headers.iter().filter(move |header| {
        let names_plugin = [PLUGIN_HEADER, DIGEST_HEADER].contains(&&*header.name);
        let is_hosts = [ATTEMPT_HEADER, EVENT_TIME_HEADER].contains(&&*header.name);
        let differs_by_plugin = headers == Headers::ButThePlugin && names_plugin;
        let is_words = is_failure && header.name == *ERROR_REASON;
        !(is_hosts || differs_by_plugin || is_words)
    })
}

/// Whether two replays led to the same records.
#[must_use]
pub fn same_lines(one: &[Line], other: &[Line]) -> bool {
    let is_same = |(one, other): (&Line, &Line)| {
        (&one.topic, one.source, &one.key) == (&other.topic, other.source, &other.key)
            && is_same(one, other, Headers::All)
    };
    one.len() == other.len() && one.iter().zip(other).all(is_same)
}

/// Tells which records the log must still have.
struct Kept<'a> {
    recording: &'a Recording,
    /// For each topic and key, the offset of the last event with a published record.
    last: BTreeMap<(String, Option<Vec<u8>>), u64>,
    /// Topics and keys whose last replayed record is a tombstone, with the offset of its
    /// event.
    deleted: BTreeMap<(String, Option<Vec<u8>>), u64>,
}

impl<'a> Kept<'a> {
    fn of(recording: &'a Recording, replayed: &[Line]) -> Self {
        let mut last = BTreeMap::new();
        for line in &recording.published {
            let (source, topic, key) = meeting(line);
            let latest = last.entry((topic, key)).or_insert(source);
            *latest = source.max(*latest);
        }
        let mut deleted = BTreeMap::new();
        for line in replayed {
            let (source, topic, key) = meeting(line);
            if line.value.is_none() {
                deleted.insert((topic, key), source);
            } else {
                deleted.remove(&(topic, key));
            }
        }
        Self {
            recording,
            last,
            deleted,
        }
    }

    fn may_be_gone(&self, replayed: &Line) -> bool {
        if replayed.topic == self.recording.pipeline.dead_letter {
            return self.recording.at.dead_letter_start > 0;
        }
        if self.recording.at.outputs_cut.contains(&replayed.topic) {
            return true;
        }
        let own = replayed.key.as_ref().and_then(|key| key.bytes().ok());
        if own.as_deref() != Some(self.recording.key.as_bytes()) {
            // Other entities may have published under that key since.
            return true;
        }
        let (source, topic, key) = meeting(replayed);
        let place = (topic, key);
        let is_at_least = |of: &BTreeMap<_, u64>| of.get(&place).is_some_and(|at| *at >= source);
        is_at_least(&self.last) || is_at_least(&self.deleted)
    }
}

/// Most changes between two values that are shown.
const CHANGES_SHOWN_MAX: usize = 8;
const VALUE_SHOWN_CHARS_MAX: usize = 160;

impl Difference {
    /// The difference on some lines, for a person.
    #[must_use]
    pub fn text(&self, input: &str, partition: u32, headers: Headers) -> String {
        let line = self.replayed.as_ref().or(self.published.as_ref());
        let topic = line.map(|line| &*line.topic).unwrap_or_default();
        let mut text = format!("{input}/{partition}/{} → {topic}", self.source);
        match (&self.published, &self.replayed) {
            (Some(published), Some(replayed)) => {
                for change in changes(published, replayed, headers) {
                    text += &format!("\n  {change}");
                }
            }
            (Some(published), None) => {
                text += &format!("\n  not replayed: {}", shown(published.value.as_ref()));
            }
            (None, Some(replayed)) => {
                text += &format!("\n  not published: {}", shown(replayed.value.as_ref()));
            }
            (None, None) => {}
        }
        text + "\n"
    }
}

fn changes(published: &Line, replayed: &Line, headers: Headers) -> Vec<String> {
    let mut changes = Vec::new();
    if published.value != replayed.value {
        match (json(published), json(replayed)) {
            (Some(before), Some(now)) if before != now => {
                leaves("", &before, &now, &mut changes);
            }
            _ => changes.push(format!(
                "{} → {}",
                shown(published.value.as_ref()),
                shown(replayed.value.as_ref())
            )),
        }
    }
    if published.partition != replayed.partition {
        changes.push(format!(
            "partition {} → {}",
            published.partition, replayed.partition
        ));
    }
    // A record may have the time of its commit, which no replay makes again, so the times
    // of the events are compared.
    let times = (published.event_time_ms(), replayed.event_time_ms());
    if times.0 != times.1 {
        changes.push(format!("timestamp {} → {}", times.0, times.1));
    }
    for header in counted(replayed, headers) {
        let same_name = |other: &&HeaderLine| other.name == header.name;
        let before = published.headers.iter().rfind(same_name);
        if before != Some(header) {
            changes.push(format!(
                "header {}: {} → {}",
                header.name,
                shown(before.and_then(|header| header.value.as_ref())),
                shown(header.value.as_ref())
            ));
        }
    }
    if changes.len() > CHANGES_SHOWN_MAX {
        let more = changes.len() - CHANGES_SHOWN_MAX;
        changes.truncate(CHANGES_SHOWN_MAX);
        changes.push(format!("and {more} more"));
    }
    changes
}

fn json(line: &Line) -> Option<Value> {
    match line.value.as_ref()? {
        Text::Utf8(text) => serde_json::from_str(text).ok(),
        Text::Hex { .. } => None,
    }
}

/// The parts of two JSON values that differ, each by its pointer.
fn leaves(path: &str, before: &Value, now: &Value, into: &mut Vec<String>) {
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => {
            let mut names: Vec<&String> = before.keys().chain(now.keys()).collect();
            names.sort();
            names.dedup();
            for name in names {
                leaves(
                    &format!("{path}/{name}"),
                    before.get(name).unwrap_or(&Value::Null),
                    now.get(name).unwrap_or(&Value::Null),
                    into,
                );
            }
        }
        (Value::Array(before), Value::Array(now)) => {
            for index in 0..before.len().max(now.len()) {
                leaves(
                    &format!("{path}/{index}"),
                    before.get(index).unwrap_or(&Value::Null),
                    now.get(index).unwrap_or(&Value::Null),
                    into,
                );
            }
        }
        _ if before == now => {}
        _ => into.push(format!("{path}: {before} → {now}")),
    }
}

fn shown(value: Option<&Text>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(Text::Hex { hex }) => cut(hex),
        Some(Text::Utf8(text)) => cut(text),
    }
}

fn cut(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(VALUE_SHOWN_CHARS_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
