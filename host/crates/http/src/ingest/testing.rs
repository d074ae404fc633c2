//! A record log in memory, with faults on demand, for the tests of the routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use courtside_log::{
    Bounds, Checkpoints, GroupName, GroupSpec, GroupStatus, Health, LogError, Member, RecordLog,
    TopicSpec,
};
use courtside_types::{NewRecord, Offset, PartitionId, Position, Record, Topic, TopicId};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

/// How the log fails its appends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    Busy,
    Full,
    Unavailable,
    /// The events of a request from this index on are not appended.
    From(usize),
    /// The log never says what became of the appends.
    Silent,
}

#[derive(Debug, Default)]
struct State {
    topics: BTreeMap<Topic, Vec<Part>>,
    committed: BTreeMap<PartitionId, Offset>,
    fault: Fault,
    read_only: bool,
}

#[derive(Clone, Debug, Default)]
struct Part {
    records: Vec<Record>,
    start: u64,
    end: u64,
}

#[derive(Debug)]
pub(crate) struct MemoryLog {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl MemoryLog {
    pub fn new(topics: &[(&str, u32)]) -> Arc<Self> {
        let topics = topics
            .iter()
            .map(|(name, partitions)| {
                (
                    Topic::from(*name),
                    vec![Part::default(); usize::try_from(*partitions).unwrap()],
                )
            })
            .collect();
        Arc::new(Self {
            state: Mutex::new(State {
                topics,
                ..State::default()
            }),
            changes: watch::channel(0).0,
        })
    }

    pub fn set_fault(&self, fault: Fault) {
        self.state.lock().fault = fault;
    }

    pub fn set_read_only(&self, read_only: bool) {
        self.state.lock().read_only = read_only;
    }

    /// While the caller holds the returned lock, the log does not answer.
    pub fn stall(&self) -> impl Sized {
        self.state.lock()
    }

    /// All the records of a topic.
    pub fn records(&self, topic: &str) -> Vec<Record> {
        let state = self.state.lock();
        let parts = state.topics.get(topic).unwrap().iter();
        parts.flat_map(|part| part.records.clone()).collect()
    }

    pub fn len(&self, topic: &str) -> usize {
        self.records(topic).len()
    }

    /// Commits one record of an output topic.
    pub fn put(&self, topic: &str, partition: u32, record: NewRecord) -> Offset {
        let offset = self.push(topic, PartitionId(partition), record);
        self.tick();
        offset
    }

    /// Commits input offsets.
    pub fn commit(&self, partition: u32, next: u64) {
        self.state
            .lock()
            .committed
            .insert(PartitionId(partition), Offset(next));
        self.tick();
    }

    /// Leaves only the latest record of each key.
    pub fn compact(&self, topic: &str) {
        for part in self.state.lock().topics.get_mut(topic).unwrap() {
            let mut seen = BTreeSet::new();
            part.records.reverse();
            part.records
                .retain(|record| seen.insert(record.key.clone()));
            part.records.reverse();
        }
    }

    /// Drops the records before an offset, as retention does.
    pub fn retain(&self, topic: &str, partition: usize, start: u64) {
        let mut state = self.state.lock();
        let part = &mut state.topics.get_mut(topic).unwrap()[partition];
        part.start = start;
        part.records.retain(|record| record.offset.0 >= start);
    }

    /// Leaves a gap at the end of a partition, as a transaction's marker does.
    pub fn skip(&self, topic: &str, partition: usize) {
        let mut state = self.state.lock();
        state.topics.get_mut(topic).unwrap()[partition].end += 1;
        drop(state);
        self.tick();
    }

    fn push(&self, topic: &str, partition: PartitionId, record: NewRecord) -> Offset {
        let mut state = self.state.lock();
        let index = usize::try_from(partition.0).unwrap();
        let part = &mut state.topics.get_mut(topic).unwrap()[index];
        let offset = Offset(part.end);
        part.end += 1;
        part.records.push(Record {
            offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key,
            headers: record.headers,
            value: record.value,
        });
        offset
    }

    fn tick(&self) {
        self.changes.send_modify(|tick| *tick += 1);
    }

    fn unavailable() -> LogError {
        LogError::Unavailable {
            reason: "on demand".to_owned(),
        }
    }
}

impl RecordLog for MemoryLog {
    fn record_bytes_max(&self) -> usize {
        usize::MAX
    }

    fn topic_ids(&self, topics: &[Topic]) -> Result<Vec<Option<TopicId>>, LogError> {
        Ok(vec![Some(TopicId::NONE); topics.len()])
    }

    fn ensure_topics(&self, _: &[TopicSpec]) -> Result<(), LogError> {
        Ok(())
    }

    fn partitions(&self, topic: &Topic) -> Result<u32, LogError> {
        Ok(u32::try_from(self.bounds(topic)?.len()).unwrap())
    }

    fn bounds(&self, topic: &Topic) -> Result<Vec<Bounds>, LogError> {
        let state = self.state.lock();
        let parts = state
            .topics
            .get(topic)
            .ok_or_else(|| LogError::NoSuchTopic {
                topic: topic.clone(),
            })?;
        let bounds = |part: &Part| Bounds {
            start: Offset(part.start),
            end: Offset(part.end),
        };
        Ok(parts.iter().map(bounds).collect())
    }

    fn append(
        &self,
        topic: &Topic,
        records: Vec<(PartitionId, NewRecord)>,
    ) -> Result<BoxFuture<'static, Vec<Result<Position, LogError>>>, LogError> {
        let fault = self.state.lock().fault;
        let from = match fault {
            Fault::Busy => return Err(LogError::Busy),
            Fault::Unavailable => return Err(Self::unavailable()),
            Fault::Full => {
                return Err(LogError::Full {
                    free_bytes: 1,
                    needed_bytes: 2,
                });
            }
            Fault::From(from) => from,
            Fault::None | Fault::Silent => usize::MAX,
        };
        let mut results = Vec::new();
        for (index, (partition, record)) in records.into_iter().enumerate() {
            if index >= from {
                results.push(Err(Self::unavailable()));
                continue;
            }
            let offset = self.push(topic, partition, record);
            results.push(Ok(Position {
                topic: topic.clone(),
                partition,
                offset,
            }));
        }
        self.tick();
        if fault == Fault::Silent {
            return Ok(Box::pin(std::future::pending()));
        }
        Ok(Box::pin(std::future::ready(results)))
    }

    fn read(
        &self,
        topic: &Topic,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Vec<Record>, LogError> {
        let state = self.state.lock();
        let index = usize::try_from(partition.0).unwrap();
        let part = &state.topics.get(topic).unwrap()[index];
        let mut bytes = 0;
        let mut records = Vec::new();
        for record in part.records.iter().filter(|record| record.offset >= from) {
            bytes += record.size();
            if bytes > max_bytes && !records.is_empty() {
                break;
            }
            records.push(record.clone());
        }
        Ok(records)
    }

    fn join(&self, _: GroupSpec) -> Result<Box<dyn Member>, LogError> {
        Err(Self::unavailable())
    }

    fn checkpoints(&self, _: &str) -> Result<Arc<dyn Checkpoints>, LogError> {
        Err(Self::unavailable())
    }

    fn group_status(&self, _: &str, _: &Topic) -> Result<GroupStatus, LogError> {
        Ok(GroupStatus {
            members: Vec::new(),
            committed: self.state.lock().committed.clone(),
        })
    }

    fn group_names(&self) -> Result<Vec<GroupName>, LogError> {
        Ok(Vec::new())
    }

    fn reads(&self, _: &str, _: &Topic) -> Result<bool, LogError> {
        Ok(false)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn health(&self) -> Health {
        if self.state.lock().read_only {
            Health::ReadOnly {
                code: "disk-full",
                reason: "on demand".to_owned(),
            }
        } else {
            Health::Ready
        }
    }

    fn close(&self) {}
}

/// Waits until something holds that another thread brings about; a test that waits
/// in vain fails here, after 30 seconds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
