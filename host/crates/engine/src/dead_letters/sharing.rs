//! Other groups that read a pipeline's input, or write it.
//!
//! A redriven event is appended to the input, so every other group that reads it
//! would process the event a second time. Where another pipeline writes the input,
//! the event would also become the latest record of its key, and readers would see
//! an old state. So a redrive is refused there, until each group has an inbox of
//! its own.
//!
//! The log is asked when a redrive begins, which costs a few questions for each of
//! its groups. A group that comes later is not seen.
//!
//! The answer comes from the log's groups and their recorded layouts, and not from this
//! host's configuration alone.

use std::fmt;

use courtside_log::{GroupName, LogError, RecordLog};
use courtside_types::Topic;

use super::event;
use crate::pipeline::{Pipeline, layout};

/// How many others an error names.
const NAMED_MAX: usize = 10;

/// Another group, and what it does with the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sharer {
    Reads(GroupName),
    Writes(GroupName),
}

impl fmt::Display for Sharer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reads(group) => write!(
                f,
                "group {group} reads it as well, and would process the events a second time"
            ),
            Self::Writes(group) => write!(
                f,
                "the pipeline of group {group} writes it, and the events would come after newer states of their keys"
            ),
        }
    }
}

/// The other groups that read or write the input of a pipeline.
pub(super) fn sharers(log: &dyn RecordLog, pipeline: &Pipeline) -> Result<Vec<Sharer>, LogError> {
    let mut sharers = Vec::new();
    for group in log.group_names()? {
        if group == pipeline.group || sharers.len() >= NAMED_MAX {
            continue;
        }
        if log.reads(&group, &pipeline.input)? {
            sharers.push(Sharer::Reads(group));
        } else if writes(log, &group, &pipeline.input)? {
            sharers.push(Sharer::Writes(group));
        }
    }
    Ok(sharers)
}

/// Whether a group that is at work writes the topic, as its layout says.
fn writes(log: &dyn RecordLog, group: &str, topic: &Topic) -> Result<bool, LogError> {
    let layout = match layout::recorded(log, group) {
        Ok(Some(layout)) => layout,
        Ok(None) => return Ok(false),
        // A topic of that name may belong to somebody else.
        Err(error @ LogError::Corrupt { .. }) => {
            tracing::warn!(group, code = error.code(), %error, "layout of a consumer group cannot be read, so the redrive does not know whether the group writes its input");
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let mut written = layout.writes.topics();
    // A group writes its dead letters as well, where another pipeline may read them.
    if !written.any(|written| written == &**topic) && event::topic(group) != *topic {
        return Ok(false);
    }
    match log.reads(group, &layout.input.as_str().into()) {
        Err(LogError::NoSuchTopic { .. }) => Ok(false),
        reads => reads,
    }
}
