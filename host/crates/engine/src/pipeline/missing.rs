//! Topics that a group needs and that are gone.

use std::time::{Duration, Instant};

use courtside_log::{LogError, RecordLog};
use courtside_types::{
    Topic,
    topics::{DEAD_LETTER_SUFFIX, LAYOUT_SUFFIX, PLUGINS_SUFFIX, REDRIVE_SUFFIX},
};

/// How long the log must not find a group's own topic before it counts as missing.
const MISSING_WITHIN: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 2000 });
const MISSING_LOOK: Duration = Duration::from_millis(100);

/// The topics that a group keeps for itself, each with a word for its contents.
fn own(log: &dyn RecordLog, group: &str) -> Vec<(Topic, &'static str)> {
    let named = |suffix| Topic::from(format!("{group}{suffix}"));
    let state = log.checkpoints_topic(group).map(|spec| spec.name);
    let mut own: Vec<_> = state.into_iter().map(|topic| (topic, "state")).collect();
    own.extend([
        (named(LAYOUT_SUFFIX), "layout"),
        (named(PLUGINS_SUFFIX), "plugins"),
        (named(DEAD_LETTER_SUFFIX), "dead letters"),
        (named(REDRIVE_SUFFIX), "redriven letters"),
    ]);
    own
}

/// Refuses to go on without a topic that a group keeps something in, where the
/// group has committed offsets: made anew, the topic would be empty, and nobody
/// would know what is gone.
pub fn refuse_missing(log: &dyn RecordLog, group: &str, input: &Topic) -> Result<(), LogError> {
    // Offsets come first: a group that has committed some had all its topics before.
    let committed = match log.group_status(group, input) {
        Err(LogError::NoSuchTopic { .. }) => return Ok(()),
        status => status?.committed,
    };
    if committed.is_empty() {
        return Ok(());
    }
    for (topic, what) in own(log, group) {
        if is_missing(log, &topic)? {
            return Err(LogError::TopicMissing {
                topic,
                why: format!(
                    "group {group} keeps its {what} in this topic, and has committed offsets that belong to it. Restore the topic; or create an empty one with `courtside topics create`, and reset the state with `courtside reset`"
                ),
            });
        }
    }
    Ok(())
}

/// A broker may not have heard yet of a topic that others know.
fn is_missing(log: &dyn RecordLog, topic: &Topic) -> Result<bool, LogError> {
    let since = Instant::now();
    while log.topic_ids(std::slice::from_ref(topic))? == [None] {
        if since.elapsed() >= MISSING_WITHIN {
            return Ok(true);
        }
        std::thread::sleep(MISSING_LOOK);
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use courtside_log::{
        Commit,
        conformance::{assigned, deleted, join},
        embedded::{Embedded, EmbeddedConfig},
    };
    use courtside_types::{Offset, PartitionId};

    use super::*;

    #[test]
    fn what_a_group_keeps_is_not_made_anew_under_its_offsets() {
        let dir = tempfile::tempdir().unwrap();
        let log = Embedded::open(dir.path(), EmbeddedConfig::default()).unwrap();
        let (group, input) = ("g", Topic::from("in"));
        // Neither a new group nor one that has not committed yet misses a topic.
        refuse_missing(&*log, group, &input).unwrap();
        log.ensure_topics(&[deleted(&input, 1)]).unwrap();
        refuse_missing(&*log, group, &input).unwrap();
        let mut member = join(&*log, group, &input, 0, 1);
        assigned(&mut *member, 1);
        let commit = Commit {
            offsets: vec![(PartitionId(0), Offset(0))],
            ..Commit::default()
        };
        member.commit(&commit).unwrap();
        drop(member);
        for (topic, what) in own(&*log, group) {
            let error = refuse_missing(&*log, group, &input).unwrap_err();
            assert_eq!(error.code(), "topic-missing");
            let said = error.to_string();
            assert!(said.contains(&*topic) && said.contains(what), "{said}");
            assert!(said.contains("courtside topics create"), "{said}");
            log.ensure_topics(&[deleted(&topic, 1)]).unwrap();
        }
        refuse_missing(&*log, group, &input).unwrap();
    }
}
