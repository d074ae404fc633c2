//! Records of a session's tasks.
//!
//! Each partition has its own queue, so that partitions are read by turns. A paused
//! one is simply not read: its queue keeps the records that were fetched ahead.

use std::time::{Duration, Instant};

use courtside_types::{Offset, PartitionId, Record};
use rdkafka::{consumer::Consumer as _, error::RDKafkaErrorCode};

use super::session::{FetchState, MemberSession};
use crate::{
    Fetched, LogError, Polled,
    kafka::{
        context::assign,
        convert,
        errors::unavailable,
        reader::{at, seek},
    },
};

/// How long a stopped partition may take to be sought before it is assigned anew.
const STOPPED_SEEK: Duration = Duration::from_millis(200);

impl MemberSession {
    pub(super) fn fetch(&mut self, bytes_max: usize) -> Vec<Fetched> {
        let mut fetched = Vec::new();
        let mut stopped = Vec::new();
        let mut bytes = 0_usize;
        let count = self.tasks.len();
        let (last, first) = self.tasks.split_at_mut(self.turn.min(count));
        self.turn = if self.turn + 1 < count {
            self.turn + 1
        } else {
            0
        };
        for task in first.iter_mut().chain(last) {
            if task.paused || task.state != FetchState::Reading {
                continue;
            }
            let mut records: Vec<Record> = Vec::new();
            while bytes < bytes_max || fetched.is_empty() && records.is_empty() {
                match task.queue.poll(Duration::ZERO) {
                    Some(Ok(message)) => {
                        let record = convert::record(&message);
                        if record.offset >= task.next {
                            task.next = record.offset.next();
                            bytes = bytes.saturating_add(record.size());
                            records.push(record);
                        }
                    }
                    Some(Err(error)) => match error.rdkafka_error_code() {
                        Some(
                            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
                        ) => {
                            task.state = FetchState::Stopped;
                            stopped.push((task.partition, task.next));
                            break;
                        }
                        _ => {
                            tracing::debug!(topic = %self.topic, partition = %task.partition, %error, "error while reading a partition");
                        }
                    },
                    None => break,
                }
            }
            if !records.is_empty() {
                let partition = task.partition;
                fetched.push(Fetched { partition, records });
            }
        }
        for (partition, offset) in stopped {
            let error = self.out_of_range(partition, offset);
            self.events.push_back(Polled::Stopped { partition, error });
        }
        fetched
    }

    pub(super) fn out_of_range(&self, partition: PartitionId, offset: Offset) -> LogError {
        let topics = &self.shared.topics;
        let one = [partition];
        let first = |offsets: Result<Vec<Offset>, LogError>| {
            offsets.ok().and_then(|offsets| offsets.first().copied())
        };
        LogError::OffsetOutOfRange {
            topic: self.topic.clone(),
            partition,
            offset,
            start: first(topics.starts_now(&self.topic, &one)).unwrap_or_default(),
            end: first(topics.ends(&self.shared.uncommitted, &self.topic, &one))
                .unwrap_or_default(),
        }
    }

    /// Seeks a partition back to its next unread offset.
    pub(super) fn reread(&mut self, partition: PartitionId) {
        let Ok(task) = self.task(partition) else {
            return;
        };
        let next = task.next;
        if task.state == FetchState::Reading
            && let Err(error) = self.seek(partition, next)
        {
            tracing::error!(group = %self.spec.group, %partition, %error, "partition cannot be read again from its next unread offset");
            self.start_over(self.shared.config.request_timeout);
        }
    }

    pub(super) fn set_paused(&mut self, partitions: &[PartitionId], paused: bool) {
        for partition in partitions {
            if let Ok(task) = self.task(*partition) {
                task.paused = paused;
            }
        }
    }

    pub(super) fn seek(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        self.task(partition)?;
        self.check_range(partition, next)?;
        let is_stopped = self.task(partition)?.state == FetchState::Stopped;
        let wait = if is_stopped {
            STOPPED_SEEK
        } else {
            self.shared.config.request_timeout
        };
        let sought = seek(
            &self.consumer,
            &self.topic,
            partition,
            next,
            Instant::now() + wait,
        );
        let is_eager = self.consumer.context().eager;
        if sought.is_err() && is_stopped && !is_eager {
            // The client may have given the partition up, so it is assigned anew.
            let list = at(&self.topic, partition, next)?;
            self.let_go(&[partition]);
            assign(&self.consumer, &list).map_err(unavailable)?;
        } else {
            sought?;
        }
        let task = self.task(partition)?;
        task.highest = task.highest.max(task.next);
        task.next = next;
        task.state = FetchState::Reading;
        self.events.retain(|event| {
            !matches!(event, Polled::Stopped { partition: stopped, .. } if *stopped == partition)
        });
        Ok(())
    }
}
