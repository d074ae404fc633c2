//! The group's topic as this host reads and writes it, with what the host remembers of
//! its records.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use courtside_log::{LogError, RecordLog};
use courtside_types::{NewRecord, Topic, slot_name::SlotName};

use super::pending_rollback::Appended;
use crate::{
    slots::{
        group::{directives::Directives, records::GroupRecords},
        library::Library,
        topic::{self, Confirmation, TopicRecord, tail::Tail},
    },
    worker::takeover::Directive,
};

pub(super) struct GroupTopic {
    topic: Topic,
    tail: Tail,
    records: GroupRecords,
    /// Whether the last read failed.
    fails: bool,
}

impl GroupTopic {
    pub fn new(log: Arc<dyn RecordLog>, topic: Topic, confirm_after: Duration) -> Self {
        Self {
            tail: Tail::new(log, topic.clone()),
            topic,
            records: GroupRecords::new(confirm_after),
            fails: false,
        }
    }

    pub const fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Whether this host has read all records from before its start.
    pub const fn is_caught_up(&self) -> bool {
        self.tail.is_caught_up()
    }

    pub const fn records(&self) -> &GroupRecords {
        &self.records
    }

    pub const fn records_mut(&mut self) -> &mut GroupRecords {
        &mut self.records
    }

    pub const fn directives(&self) -> &Directives {
        self.records.directives()
    }

    pub const fn directives_mut(&mut self) -> &mut Directives {
        self.records.directives_mut()
    }

    pub fn read(&mut self, library: &Library, stopping: &AtomicBool) {
        let records = &mut self.records;
        let stops = || stopping.load(Ordering::Relaxed);
        let read = self.tail.read(stops, |offset, record| {
            library.record(offset, &record);
            records.record(record);
        });
        let failed = std::mem::replace(&mut self.fails, read.is_err());
        match read {
            Err(error) if !failed => {
                tracing::warn!(topic = %self.topic, code = error.code(), %error, "records of other hosts about plugins cannot be read");
            }
            _ => {}
        }
    }

    /// Appends a record, and does not wait for the outcome.
    pub fn write(&self, record: NewRecord) -> Result<(), LogError> {
        self.tail.write(record)
    }

    /// Gives a directive to all hosts. This host follows it when it reads the record.
    pub fn order(&self, directive: &Directive) -> Result<Appended, LogError> {
        self.tail.append(topic::directive(directive))
    }

    /// Withdraws the directive at a place of a slot, here and on all hosts.
    pub fn withdraw(&mut self, slot: &SlotName, place: u64) -> Result<(), LogError> {
        self.write(topic::no_directive(slot, place))?;
        let slot = slot.clone();
        self.records.record(TopicRecord::Withdrawn { slot, place });
        Ok(())
    }

    /// Confirms a plugin, here and on all hosts.
    pub fn confirm(&mut self, confirmation: Confirmation) -> Result<(), LogError> {
        self.write(confirmation.record())?;
        self.records.record(TopicRecord::Confirmation(confirmation));
        Ok(())
    }
}
