//! A log whose members are killed at a commit.

use super::*;

/// A log whose members are killed at a commit, before the commit happens or after it.
/// Some earlier commits fail, and one of these happens all the same.
pub(super) struct Deadly {
    pub(super) log: Arc<dyn RecordLog>,
    /// Commits that are left: at 1 the member is killed after its commit, at 0 before
    /// it.
    pub(super) left: Arc<AtomicI64>,
}

/// Value of `left` with which a member does not even get its partitions.
pub(super) const NEVER: i64 = i64::MIN;

struct Killed {
    member: Box<dyn Member>,
    left: Arc<AtomicI64>,
}

impl Member for Killed {
    fn poll(&mut self, timeout: Duration, max_bytes: usize) -> Result<Polled, LogError> {
        if self.left.load(Ordering::Relaxed) == NEVER {
            std::thread::sleep(Duration::from_millis(1));
            return Ok(Polled::Idle);
        }
        self.member.poll(timeout, max_bytes)
    }
    fn pause(&mut self, partitions: &[PartitionId]) {
        self.member.pause(partitions);
    }
    fn resume(&mut self, partitions: &[PartitionId]) {
        self.member.resume(partitions);
    }
    fn seek(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        self.member.seek(partition, next)
    }
    fn commit(&mut self, commit: &Commit) -> Result<(), LogError> {
        let left = self.left.fetch_sub(1, Ordering::Relaxed);
        let killed = Err(LogError::Fenced {
            reason: "told to".to_owned(),
        });
        let doubtful = Err(LogError::Unavailable {
            reason: "told to".to_owned(),
        });
        match left {
            0 => killed,
            1 => self.member.commit(commit).and(killed),
            3 => self.member.commit(commit).and(doubtful),
            4 => doubtful,
            _ => self.member.commit(commit),
        }
    }
    fn release(&mut self, partitions: &[PartitionId]) {
        self.member.release(partitions);
    }
}

impl RecordLog for Deadly {
    fn record_bytes_max(&self) -> usize {
        self.log.record_bytes_max()
    }
    fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        self.log.ensure_topics(topics)
    }
    fn partitions(&self, topic: &Topic) -> Result<u32, LogError> {
        self.log.partitions(topic)
    }
    fn topic_ids(&self, topics: &[Topic]) -> Result<Vec<Option<TopicId>>, LogError> {
        self.log.topic_ids(topics)
    }
    fn bounds(&self, topic: &Topic) -> Result<Vec<Bounds>, LogError> {
        self.log.bounds(topic)
    }
    fn append(
        &self,
        topic: &Topic,
        records: Vec<(PartitionId, NewRecord)>,
    ) -> Result<BoxFuture<'static, Vec<Result<Position, LogError>>>, LogError> {
        self.log.append(topic, records)
    }
    fn read(
        &self,
        topic: &Topic,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Vec<Record>, LogError> {
        self.log.read(topic, partition, from, max_bytes)
    }
    fn join(&self, spec: GroupSpec) -> Result<Box<dyn Member>, LogError> {
        Ok(Box::new(Killed {
            member: self.log.join(spec)?,
            left: Arc::clone(&self.left),
        }))
    }
    fn checkpoints(&self, group: &str) -> Result<Arc<dyn Checkpoints>, LogError> {
        self.log.checkpoints(group)
    }
    fn group_status(&self, group: &str, input: &Topic) -> Result<GroupStatus, LogError> {
        self.log.group_status(group, input)
    }
    fn group_names(&self) -> Result<Vec<GroupName>, LogError> {
        self.log.group_names()
    }
    fn reads(&self, group: &str, topic: &Topic) -> Result<bool, LogError> {
        self.log.reads(group, topic)
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.log.changes()
    }
    fn health(&self) -> Health {
        self.log.health()
    }
    fn close(&self) {}
}
