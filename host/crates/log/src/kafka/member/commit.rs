//! Commits of a session: checked, then one transaction.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use courtside_process::clock::now_ms;
use courtside_types::{NewRecord, Offset, PartitionId, Topic, TopicPartition};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList, consumer::Consumer as _};

use super::{
    end::{Fencing, SessionEnd, SessionError},
    session::MemberSession,
};
use crate::{
    COMMIT_EXTRA_BYTES, Commit, KEY_BYTES_MAX, LogError,
    kafka::{
        convert::number,
        errors::unavailable,
        times::Rules,
        transactions::{Contents, TransactionError},
        verdict::Verdict,
    },
};

impl MemberSession {
    pub(super) fn commit(
        &mut self,
        commit: &Commit,
        deadline: Instant,
        fencing: &mut Fencing,
    ) -> Result<(), SessionError> {
        let left = move || deadline.saturating_duration_since(Instant::now());
        self.look_after_group()?;
        if !self.shared.config.assignor.is_eager() {
            // Whenever other members come and go, a generation moves before the client
            // tells of the rebalance, and an epoch moves without any event.
            self.renew();
        }
        self.check(commit)?;
        let outcome = self.transact(commit, left());
        self.committed_at = Some(Instant::now());
        self.read_since_commit = false;
        let Err(TransactionError { verdict, error, .. }) = outcome else {
            self.consumer.context().permit();
            self.follow(commit, left);
            self.shared.tick();
            return Ok(());
        };
        match verdict {
            Verdict::Abort | Verdict::Renew => {
                if let LogError::Denied { reason } = &*error {
                    self.consumer.context().deny(reason);
                }
            }
            Verdict::Generation => {
                // Either the member has lost partitions, which `check` refuses, or the
                // group moved on with it, and the next try is of the new generation.
                self.look_after_group()?;
                self.renew();
                self.check(commit)?;
            }
            Verdict::Fenced => {
                self.look_after_group()?;
                if fencing.note(Instant::now()) {
                    return Err(SessionEnd::rival(*error).into());
                }
                self.start_over(left());
            }
            Verdict::Unknown => {
                self.look_after_group()?;
                self.start_over(left());
            }
        }
        Err(SessionError::Log(*error))
    }

    /// Adds a settled commit to the copy of the checkpoints. The session restores a
    /// copy anew that cannot follow the commit.
    fn follow(&mut self, commit: &Commit, left: impl Fn() -> Duration) {
        match self.keep(commit) {
            Ok(true) => {}
            Ok(false) => self.start_over(left()),
            Err(error) => {
                tracing::warn!(group = %self.spec.group, %error, "copy of the checkpoints cannot be updated, restoring it from the topic");
                self.start_over(left());
            }
        }
    }

    /// Writes the committed checkpoints to the host's copy. False where another
    /// assignment has claimed one of the partitions.
    fn keep(&self, commit: &Commit) -> Result<bool, LogError> {
        let claim = |partition| {
            let mut tasks = self.tasks.iter();
            let task = tasks.find(|task| task.partition == partition);
            task.and_then(|task| task.claim)
        };
        let store = &self.shared.store;
        store.put(&self.spec.group, &commit.checkpoints, claim)
    }

    /// Refuses an offset that the partition does not have. The brokers are asked
    /// for its end only where the offset is beyond the records read.
    pub(super) fn check_range(
        &mut self,
        partition: PartitionId,
        next: Offset,
    ) -> Result<(), LogError> {
        let task = self.task(partition)?;
        if next <= task.next.max(task.highest) {
            return Ok(());
        }
        let topics = &self.shared.topics;
        let ends = topics.ends(&self.shared.uncommitted, &self.topic, &[partition])?;
        if ends.first().is_some_and(|end| next <= *end) {
            return Ok(());
        }
        // An offset beyond the end may be one of the topic before.
        let expected = &self.spec.topics;
        let topics = expected.iter().map(|(topic, _)| topic.clone()).collect();
        let deadline = Instant::now() + self.shared.config.request_timeout;
        self.shared.ids.ask(topics).check(expected, deadline)?;
        Err(self.out_of_range(partition, next))
    }

    /// Checks a commit, as far as the host can without the brokers' transaction.
    fn check(&mut self, commit: &Commit) -> Result<(), LogError> {
        for (partition, next) in &commit.offsets {
            self.task(*partition)?;
            self.check_range(*partition, *next)?;
        }
        for (partition, key, _) in &commit.checkpoints {
            self.task(*partition)?;
            if key.len() > KEY_BYTES_MAX {
                return Err(LogError::TooLarge {
                    size_bytes: key.len(),
                    limit_bytes: KEY_BYTES_MAX,
                });
            }
        }
        let limit_bytes = self
            .shared
            .record_bytes_max
            .saturating_add(COMMIT_EXTRA_BYTES);
        for (place, record) in &commit.records {
            self.shared.topics.check(&place.topic, place.partition)?;
            let size_bytes = record.size();
            if size_bytes > limit_bytes {
                return Err(LogError::TooLarge {
                    size_bytes,
                    limit_bytes,
                });
            }
        }
        Ok(())
    }

    fn offsets(&self, commit: &Commit) -> Result<TopicPartitionList, LogError> {
        let mut list = TopicPartitionList::with_capacity(commit.offsets.len());
        for (partition, next) in &commit.offsets {
            let next = KafkaOffset::Offset(i64::try_from(next.0).unwrap_or(i64::MAX));
            list.add_partition_offset(&self.topic, number(*partition), next)
                .map_err(unavailable)?;
        }
        Ok(list)
    }

    /// Makes one transaction, and repeats it with other times where the brokers refuse
    /// those of records. The rounds end: each changes a topic's rule, of which a topic
    /// has two at most.
    fn transact(&mut self, commit: &Commit, time: Duration) -> Result<(), TransactionError> {
        let deadline = Instant::now() + time.min(self.shared.config.transaction_timeout);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let rules = self.shared.times.rules();
            let outcome = self.transact_once(commit, &rules, left);
            let refused = match &outcome {
                Err(failure) if !failure.times.is_empty() => &failure.times,
                _ => return outcome,
            };
            let (times, topics) = (&self.shared.times, &self.shared.topics);
            let mut is_changed = false;
            for topic in refused {
                is_changed |= times.refused(&rules, topic, || topics.time_bounds(topic));
            }
            if !is_changed {
                // The refused records had no time, so their times are not the reason.
                let topics: Vec<&str> = refused.iter().map(|topic| &**topic).collect();
                return Err(TransactionError::before_commit(LogError::Invalid {
                    what: "a record of a commit".to_owned(),
                    reason: format!("the brokers refuse it for topic {}", topics.join(", ")),
                }));
            }
            if Instant::now() >= deadline {
                return outcome;
            }
        }
    }

    fn transact_once(
        &mut self,
        commit: &Commit,
        rules: &Rules,
        time: Duration,
    ) -> Result<(), TransactionError> {
        let offsets = self
            .offsets(commit)
            .map_err(TransactionError::before_commit)?;
        let checkpoints: Vec<(TopicPartition, NewRecord)> = commit
            .checkpoints
            .iter()
            .map(|(partition, key, value)| {
                let place = TopicPartition {
                    topic: self.checkpoints.clone(),
                    partition: *partition,
                };
                let record = NewRecord {
                    timestamp_ms: 0,
                    key: Some(key.clone()),
                    headers: Vec::new(),
                    value: value.clone(),
                };
                (place, record)
            })
            .collect();
        let records = commit.records.iter().chain(&checkpoints);
        let records = records.map(|(place, record)| (place, record));
        let contents = Contents {
            records: rules.settle(records, now_ms()),
            offsets,
        };
        let Some(identity) = &self.identity else {
            let reason = "the worker is not a member of the group now".to_owned();
            let error = LogError::Unavailable { reason };
            return Err(TransactionError::new(Verdict::Generation, error));
        };
        let expected = &self.spec.topics;
        let written = contents.records.iter().map(|(place, _)| &place.topic);
        let expected_names = expected.iter().map(|(topic, _)| topic);
        let names: BTreeSet<&Topic> = written.chain(expected_names).collect();
        let asked = self.shared.ids.ask(names.into_iter().cloned().collect());
        let is_as_meant = |deadline| asked.check(expected, deadline);
        self.transactions
            .commit(&contents, identity.metadata(), time, &is_as_meant)
    }
}
