//! A running host's view of its group's layout.

use courtside_log::{LogError, RecordLog};
use courtside_types::{Offset, Topic};
use parking_lot::Mutex;

use super::{
    Layout,
    difference::{added_keys, other_writes},
    record::in_force,
    topic,
};

/// A running host's check that its layout is still the one in force: a host with a
/// grown map may have started since, and sends keys elsewhere.
#[derive(Debug)]
pub struct Watch {
    topic: Topic,
    own: Layout,
    /// The end up to which the layouts were read: nothing is read while it stays.
    read_up_to: Mutex<Option<Offset>>,
}

impl Watch {
    #[must_use]
    pub fn new(group: &str, own: Layout) -> Self {
        Self {
            topic: topic(group).name,
            own,
            read_up_to: Mutex::default(),
        }
    }

    /// How another host has changed the layout, in words, where it is no longer
    /// this host's own.
    pub fn other(&self, log: &dyn RecordLog) -> Result<Option<String>, LogError> {
        let bounds = log.bounds(&self.topic)?;
        let end = bounds.first().map(|bounds| bounds.end);
        let mut read_up_to = self.read_up_to.lock();
        if *read_up_to == end {
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
                *read_up_to = end;
                Ok(None)
            }
        }
    }
}
