//! Rebalances: a session takes partitions over, and lets go of them.

use std::{sync::Arc, time::Duration};

use courtside_process::shutdown::waits;
use courtside_types::{Offset, PartitionId};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList, consumer::Consumer as _};

use super::session::{AssignedPartition, FetchState, MemberSession};
use crate::{
    Polled,
    kafka::{
        context::{assign, unassign},
        convert::number,
    },
};

impl MemberSession {
    /// Takes assigned partitions over. The restorer will tell from where to read them.
    /// Until then the session reads nothing, and records that the client fetches are void.
    pub(super) fn take_over(&mut self, partitions: &[PartitionId]) {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        let offsets = self.initial_offsets(partitions);
        for (partition, offset) in partitions.iter().zip(offsets) {
            let queue = self
                .consumer
                .split_partition_queue(&self.topic, number(*partition));
            let added = list.add_partition_offset(&self.topic, number(*partition), offset);
            let (Some(mut queue), Ok(())) = (queue, added) else {
                tracing::error!(topic = %self.topic, %partition, "assigned partition cannot be read");
                continue;
            };
            let signal = Arc::clone(&self.consumer.context().signal);
            queue.set_nonempty_callback(move || signal.raise());
            self.tasks.retain(|task| task.partition != *partition);
            self.tasks.push(AssignedPartition {
                partition: *partition,
                queue,
                next: Offset(0),
                highest: Offset(0),
                state: FetchState::Void,
                claim: None,
                paused: false,
            });
        }
        if let Err(error) = assign(&self.consumer, &list) {
            tracing::error!(group = %self.spec.group, %error, "assigned partitions cannot be taken over");
        }
        if self.identity.is_some() {
            self.restore();
        }
        self.wake();
    }

    /// Wakes the client's threads that fetch. A rebalance has the client pause the
    /// partitions that stay, and resume them without waking these threads, which may
    /// sleep for a second. A seek to the next offset wakes them.
    fn wake(&self) {
        if self.shared.config.assignor.is_eager() {
            return;
        }
        for task in &self.tasks {
            if task.state == FetchState::Reading {
                let at = KafkaOffset::Offset(i64::try_from(task.next.0).unwrap_or(i64::MAX));
                let partition = number(task.partition);
                let sought = self
                    .consumer
                    .seek(&self.topic, partition, at, Duration::ZERO);
                if let Err(error) = sought {
                    tracing::debug!(topic = %self.topic, partition, %error, "fetch of a partition cannot be woken");
                }
            }
        }
    }

    /// The offsets at which partitions are assigned until they are restored: their
    /// ends, so that the client fetches nothing in vain. The ends are numbers, because
    /// the client looks a logical end up, and then goes there late, in spite of a seek
    /// made meanwhile.
    fn initial_offsets(&self, partitions: &[PartitionId]) -> Vec<KafkaOffset> {
        if partitions.is_empty() {
            return Vec::new();
        }
        let _wait = waits::begin(format!("the ends of {}", self.topic));
        let topics = &self.shared.topics;
        let ends = topics.ends(&self.shared.uncommitted, &self.topic, partitions);
        let ends = ends.or_else(|_| {
            let start = |partition: &PartitionId| topics.start(&self.topic, *partition);
            partitions.iter().map(start).collect()
        });
        let ends = ends.unwrap_or_else(|_| vec![Offset::default(); partitions.len()]);
        let offset = |end: Offset| KafkaOffset::Offset(i64::try_from(end.0).unwrap_or_default());
        ends.into_iter().map(offset).collect()
    }

    /// Tells the worker to release partitions. The session itself lets go of partitions
    /// that the worker was not told of yet.
    pub(super) fn revoke(&mut self, partitions: Vec<PartitionId>) {
        let known = |partition: &PartitionId| {
            self.tasks
                .iter()
                .any(|task| task.partition == *partition && task.is_known())
        };
        if partitions.iter().any(known) {
            // The list stays whole: an eager group lets go of all partitions or none.
            self.unreleased = Some(partitions.clone());
            self.events.push_back(Polled::Revoked(partitions));
        } else {
            // An empty list is let go of, too: the client waits for the call.
            self.release(&partitions);
        }
    }

    pub(super) fn lose(&mut self, partitions: &[PartitionId]) {
        let mut lost: Vec<_> = Vec::new();
        self.tasks.retain(|task| {
            let goes = partitions.contains(&task.partition);
            if goes && task.is_known() {
                lost.push(task.partition);
            }
            !goes
        });
        self.events.retain(|event| match event {
            Polled::Stopped { partition, .. } => !partitions.contains(partition),
            Polled::Revoked(revoked) => !revoked.iter().all(|one| partitions.contains(one)),
            _ => true,
        });
        self.unreleased = None;
        if !lost.is_empty() {
            lost.sort_unstable();
            self.events.push_back(Polled::Lost(lost));
        }
    }

    pub(super) fn let_go(&self, partitions: &[PartitionId]) {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.topic, number(*partition));
        }
        if let Err(error) = unassign(&self.consumer, &list) {
            tracing::debug!(group = %self.spec.group, %error, "partitions cannot be unassigned");
        }
        self.wake();
    }

    pub(super) fn release(&mut self, partitions: &[PartitionId]) {
        self.tasks
            .retain(|task| !partitions.contains(&task.partition));
        self.events.retain_mut(|event| match event {
            Polled::Stopped { partition, .. } => !partitions.contains(partition),
            // These partitions were restored just now, and are released before a poll
            // told of them.
            Polled::Assigned(assigned) => {
                assigned.retain(|new| !partitions.contains(&new.partition));
                !assigned.is_empty()
            }
            _ => true,
        });
        self.unreleased = None;
        self.let_go(partitions);
    }
}
