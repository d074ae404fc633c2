//! Differences between two layouts, in words.

use std::collections::BTreeSet;

use super::fields::Layout;
use crate::pipeline::kept::KeptTopic;

fn differs<T>(
    what: &str,
    from: &dyn std::fmt::Display,
    to: &dyn std::fmt::Display,
) -> Result<T, String> {
    Err(format!("{what} was {from}, and is {to}"))
}

pub(super) fn same_input(from: &Layout, input: &str, partitions: u32) -> Result<(), String> {
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
pub(super) fn added_keys<'a>(from: &Layout, to: &'a Layout) -> Result<BTreeSet<&'a str>, String> {
    same_input(from, &to.input, to.partitions)?;
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
pub(super) fn other_writes(from: &Layout, to: &Layout) -> Option<String> {
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
