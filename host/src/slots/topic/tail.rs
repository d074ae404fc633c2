//! Reading the topic, and writing to it. A look costs a question for its end,
//! and what is new; the first one reads all of it, plugins among it, a piece at a
//! time.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{ONLY, Said};
use crate::{
    log::{LogError, RecordLog},
    types::{NewRecord, Offset, Position, Topic},
};

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

    /// Whether it has ever been read to its end.
    #[must_use]
    pub const fn is_caught_up(&self) -> bool {
        self.is_caught_up
    }

    /// Reads what has come, to the end as of now or until it is told to stop.
    pub fn read(
        &mut self,
        stops: impl Fn() -> bool,
        mut each: impl FnMut(Offset, Said),
    ) -> Result<(), LogError> {
        let bounds = self.log.bounds(&self.topic)?;
        let end = bounds.first().map_or(Offset(0), |bounds| bounds.end);
        if end < self.next {
            // It was deleted and made again: what it said holds, as far as
            // nothing else is said.
            tracing::warn!(topic = %self.topic, "the topic begins again");
            self.next = Offset(0);
        }
        while self.next < end && !stops() {
            let records = self.log.read(&self.topic, ONLY, self.next, READ_BYTES)?;
            // Where there is none, what is left is compacted away, or ends of
            // transactions.
            self.next = records.last().map_or(end, |record| record.offset.next());
            for record in &records {
                match Said::of(record) {
                    Some(said) => each(record.offset, said),
                    None => {
                        let key =
                            String::from_utf8_lossy(record.key.as_deref().unwrap_or_default());
                        tracing::debug!(topic = %self.topic, offset = record.offset.0, %key, "passed over");
                    }
                }
            }
        }
        self.is_caught_up |= self.next >= end;
        Ok(())
    }

    /// Says something. Whether it got there shows when it is read; nobody waits
    /// for it, since the brokers may be away for long.
    pub fn say(&self, record: NewRecord) -> Result<(), LogError> {
        self.append(record).map(drop)
    }

    /// The same, for who wants to know sooner where it cannot be said.
    pub fn append(
        &self,
        record: NewRecord,
    ) -> Result<BoxFuture<'static, Vec<Result<Position, LogError>>>, LogError> {
        self.log.append(&self.topic, vec![(ONLY, record)])
    }
}
