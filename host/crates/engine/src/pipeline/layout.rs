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
//!
//! An operator can read the layouts as any other topic.

mod difference;
mod fields;
mod moved_keys;
mod record;
#[cfg(test)]
mod tests;
mod watch;

use courtside_log::{Cleanup, LogError, RecordLog, TopicSpec};
use courtside_types::{failure::ErrorCode, topics::LAYOUT_SUFFIX};

use self::{
    difference::{added_keys, other_writes, same_input},
    moved_keys::key_in_use,
    record::{append, in_force},
};
pub use self::{
    fields::{Layout, Writes},
    watch::Watch,
};

/// Rounds of reading and writing. Each further host that writes a layout at the same
/// time costs one more.
const ATTEMPTS: usize = 8;

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
    same_input(&found, input, partitions).map_err(|reason| LayoutError::Elsewhere {
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
