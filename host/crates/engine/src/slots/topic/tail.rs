//! Reading the topic, and writing to it. Each look asks for the topic's end, and reads
//! the new records. The first one reads the whole topic, with the plugins in it, a
//! piece at a time.

use std::sync::Arc;

use courtside_log::{LogError, RecordLog};
use courtside_types::{NewRecord, Offset, Position, Topic};
use futures_util::future::BoxFuture;

use super::{ONLY, TopicRecord};

const READ_BYTES: usize = 1 << 20;

/// One reader of the topic.
pub struct Tail {
    log: Arc<dyn RecordLog>,
    topic: Topic,
    next: Offset,
    is_caught_up: bool,
}

impl Tail {
    #[must_use]
    pub fn new(log: Arc<dyn RecordLog>, topic: Topic) -> Self {
        Self {
            log,
            topic,
            next: Offset(0),
            is_caught_up: false,
        }
    }

    /// Whether the topic has ever been read to its end.
    #[must_use]
    pub const fn is_caught_up(&self) -> bool {
        self.is_caught_up
    }

    /// Reads the new records, to the end as of now or until `stops` says so.
    pub fn read(
        &mut self,
        stops: impl Fn() -> bool,
        mut each: impl FnMut(Offset, TopicRecord),
    ) -> Result<(), LogError> {
        let bounds = self.log.bounds(&self.topic)?;
        let end = bounds.first().map_or(Offset(0), |bounds| bounds.end);
        if end < self.next {
            // The topic was deleted and made again. Its old records hold until new ones
            // replace them.
            tracing::warn!(topic = %self.topic, "topic was deleted and created again, reading it from its start");
            self.next = Offset(0);
        }
        while self.next < end && !stops() {
            let records = self.log.read(&self.topic, ONLY, self.next, READ_BYTES)?;
            // Without records, the rest is compacted away, or has only the ends of
            // transactions.
            self.next = records.last().map_or(end, |record| record.offset.next());
            for record in &records {
                match TopicRecord::of(record) {
                    Some(content) => each(record.offset, content),
                    None => {
                        let key =
                            String::from_utf8_lossy(record.key.as_deref().unwrap_or_default());
                        tracing::debug!(topic = %self.topic, offset = record.offset.0, %key, "record of an unknown kind skipped");
                    }
                }
            }
        }
        self.is_caught_up |= self.next >= end;
        Ok(())
    }

    /// Appends a record. Whether the record got there shows when it is read; nobody
    /// waits for that, since the brokers may be away for long.
    pub fn write(&self, record: NewRecord) -> Result<(), LogError> {
        self.append(record).map(drop)
    }

    /// Appends a record as [`write`](Self::write) does. A caller that waits for the
    /// returned future learns sooner that the append failed.
    pub fn append(
        &self,
        record: NewRecord,
    ) -> Result<BoxFuture<'static, Vec<Result<Position, LogError>>>, LogError> {
        self.log.append(&self.topic, vec![(ONLY, record)])
    }
}
