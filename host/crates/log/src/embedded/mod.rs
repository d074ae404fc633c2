//! The embedded engine: one process, no server, durable on disk.
//!
//! Records, offsets and checkpoints are rows of a fjall database ([rows]),
//! records as compressed [batches](batch). One thread writes ([`write`](mod@write)), all
//! others read. A commit is one atomic batch of the database, so that it needs
//! no transactions of its own. Groups live in this process: each worker is a
//! member, and partitions go to workers by number ([groups]). Another thread
//! drops records that are old or superseded ([clean]).
//!
//! The engine lives as long as the host. It takes memory for the store (see [store]),
//! for appends that wait to be durable (`queue_bytes_max`), for one open batch per
//! partition that a member reads, and during compaction for a bounded map of keys.
//!
//! The engine differs from Kafka on purpose in two points. Neither retention nor
//! compaction drops records that a reading group has not committed yet. Committed
//! offsets are kept however long a group is away, although cleaning no longer waits
//! for the group after `group_retention`.
//!
//! Kafka would delete the records that a group has not read. Here nobody could read
//! them elsewhere: the engine has no cluster, and an operator who outgrows one machine
//! takes Kafka.

mod admin;
mod backup;
mod batch;
mod catalog;
mod checkpoints;
mod clean;
mod config;
mod disk;
mod groups;
mod member;
mod parts;
mod read;
mod rows;
mod state;
mod store;
#[cfg(any(test, feature = "conformance"))]
#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests run it"
)]
pub mod subject;
#[cfg(test)]
mod tests;
mod topics;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
};

use courtside_process::clock::now_ms;
use courtside_types::{NewRecord, Offset, PartitionId, Position, Record, Topic, TopicId, usize_of};
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};

pub(super) use self::store::lock;
pub use self::{
    backup::{LogCopy, verify},
    config::EmbeddedConfig,
};
use self::{
    checkpoints::GroupCheckpoints,
    clean::Cleaner,
    groups::{GroupKey, Groups},
    member::EmbeddedMember,
    parts::PartBuilder,
    read::Cursor,
    state::EmbeddedState,
    store::Store,
    write::{
        Append, EnsureTopics, Request,
        queue::{Queue, closed},
        writer::Writer,
    },
};
use super::{
    Bounds, Checkpoints, GroupName, GroupSpec, GroupStatus, Health, LogError, Member, MemberStatus,
    RecordLog, TopicSpec, backup::BackupRows,
};

/// The embedded engine. Dropping it closes it.
pub struct Embedded {
    shared: Arc<EmbeddedState>,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    writer: JoinHandle<()>,
    cleaner: Cleaner,
    /// Keeps other processes out.
    _lock: File,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded")
            .field("path", &self.shared.path)
            .finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the log in a directory, and creates both if they do not exist.
    pub fn open(path: impl AsRef<Path>, config: EmbeddedConfig) -> Result<Arc<Self>, LogError> {
        let path = path.as_ref();
        let checked = config.check().and_then(|()| config.check_journal());
        checked.map_err(|reason| LogError::Invalid {
            what: "the configuration of the log".to_owned(),
            reason,
        })?;
        let lock = store::lock(path)?;
        let shared = EmbeddedState {
            path: path.to_owned(),
            queue: Arc::new(Queue::new(usize_of(config.queue_bytes_max))),
            config,
            store: RwLock::new(None),
            topics: RwLock::default(),
            groups: Groups::default(),
            changes: watch::Sender::new(0),
            cleaning: Mutex::new(()),
            trouble: RwLock::new(None),
            backing_up: Arc::default(),
        };
        let store = Store::open(&shared.path, &shared.config)?;
        let found = catalog::load(&store)?;
        catalog::apply(&shared, found);
        *shared.store.write() = Some(store);
        let shared = Arc::new(shared);
        let writer = Writer::new(Arc::clone(&shared));
        let writer = thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(no_thread)?;
        // Dropping `log` after this point closes the queue, which stops the writer.
        let log = Arc::new(Self {
            shared: Arc::clone(&shared),
            threads: Mutex::new(None),
        });
        let cleaner = Cleaner::start(&shared).map_err(|error| {
            shared.queue.close();
            no_thread(error)
        })?;
        *log.threads.lock() = Some(Threads {
            writer,
            cleaner,
            _lock: lock,
        });
        Ok(log)
    }

    /// Drops old and superseded records now, rather than at the next interval;
    /// returns when done.
    pub fn clean_now(&self) -> Result<(), LogError> {
        clean::clean_all(&self.shared)
    }
}

fn no_thread(error: std::io::Error) -> LogError {
    LogError::Unavailable {
        reason: format!("a thread of the log did not start: {error}"),
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

impl RecordLog for Embedded {
    fn record_bytes_max(&self) -> usize {
        self.shared.record_bytes_max()
    }

    fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        let topics = topics.to_vec();
        self.shared
            .ask(|reply| Request::EnsureTopics(EnsureTopics { topics, reply }))
    }

    fn partitions(&self, topic: &Topic) -> Result<u32, LogError> {
        self.shared
            .topics
            .read()
            .get(topic)
            .map(|topic| topic.count())
    }

    fn topic_ids(&self, topics: &[Topic]) -> Result<Vec<Option<TopicId>>, LogError> {
        let known = self.shared.topics.read();
        let id = |name: &Topic| known.get(name).ok().map(|topic| topic.uid);
        Ok(topics.iter().map(id).collect())
    }

    fn bounds(&self, topic: &Topic) -> Result<Vec<Bounds>, LogError> {
        let topic = self.shared.topics.read().get(topic)?;
        let bounds = topic.rows().into_iter().map(|row| Bounds {
            start: Offset(row.start),
            end: Offset(row.end),
        });
        Ok(bounds.collect())
    }

    fn append(
        &self,
        topic: &Topic,
        records: Vec<(PartitionId, NewRecord)>,
    ) -> Result<BoxFuture<'static, Vec<Result<Position, LogError>>>, LogError> {
        self.shared.check_trouble()?;
        let state = self.shared.topics.read().get(topic)?;
        let mut bytes = 0;
        for (partition, record) in &records {
            state.check(*partition)?;
            bytes += parts::check_size(record, self.shared.record_bytes_max())?;
        }
        if records.is_empty() {
            return Ok(Box::pin(std::future::ready(Vec::new())));
        }
        let reservation = self.shared.queue.reserve(bytes)?;
        let mut parts: Vec<PartBuilder> = Vec::new();
        // For each record, the index of its part and its place in that part.
        let mut places = Vec::with_capacity(records.len());
        let mut part_of: BTreeMap<PartitionId, (usize, u64)> = BTreeMap::new();
        for (partition, record) in &records {
            let (part, count) = part_of.entry(*partition).or_insert_with(|| {
                parts.push(PartBuilder::new(Arc::clone(&state), partition.0));
                (parts.len() - 1, 0)
            });
            places.push((*part, *count));
            *count += 1;
            if let Some(part) = parts.get_mut(*part) {
                part.push(&self.shared, record)?;
            }
        }
        let partitions: Vec<u32> = parts.iter().map(PartBuilder::partition).collect();
        let (reply, answer) = oneshot::channel();
        self.shared.queue.push(Request::Append(Append {
            parts: parts.into_iter().map(PartBuilder::finish).collect(),
            reply,
            reservation,
        }))?;
        let topic = state.name.clone();
        Ok(Box::pin(async move {
            let first = answer.await.unwrap_or_else(|_| Err(closed()));
            let position = |(part, count): (usize, u64)| {
                let offsets = first.as_ref().map_err(Clone::clone)?;
                let place = offsets.get(part).zip(partitions.get(part));
                let (offset, partition) = place.ok_or_else(closed)?;
                Ok(Position {
                    topic: topic.clone(),
                    partition: PartitionId(*partition),
                    offset: Offset(offset + count),
                })
            };
            places.into_iter().map(position).collect()
        }))
    }

    fn read(
        &self,
        topic: &Topic,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Vec<Record>, LogError> {
        let topic = self.shared.topics.read().get(topic)?;
        let partition = topic.check(partition)?;
        let store = self.shared.store()?;
        Cursor::new(topic, partition, from.0).read(&store, max_bytes)
    }

    fn join(&self, spec: GroupSpec) -> Result<Box<dyn Member>, LogError> {
        let member = EmbeddedMember::join(&self.shared, &spec)?;
        Ok(Box::new(member))
    }

    fn checkpoints(&self, group: &str) -> Result<Arc<dyn Checkpoints>, LogError> {
        Ok(Arc::new(GroupCheckpoints::new(&self.shared, group)))
    }

    fn group_status(&self, group: &str, input: &Topic) -> Result<GroupStatus, LogError> {
        let topic = self.shared.topics.read().get(input)?;
        let key = GroupKey {
            group: group.into(),
            topic: topic.id,
        };
        let members = self.shared.groups.members(&key).into_iter().map(|member| {
            let owned = (0..topic.count()).filter(|partition| member.owns(*partition));
            MemberStatus {
                member: format!("{group}-{}", member.worker),
                instance: None,
                client_id: "courtside".to_owned(),
                host: "localhost".to_owned(),
                partitions: owned.map(PartitionId).collect(),
            }
        });
        let committed = self.shared.groups.all_committed(&key).into_iter();
        Ok(GroupStatus {
            members: members.collect(),
            committed: committed
                .map(|(partition, row)| (PartitionId(partition), Offset(row.offset)))
                .collect(),
        })
    }

    fn group_names(&self) -> Result<Vec<GroupName>, LogError> {
        drop(self.shared.store()?);
        let groups = self.shared.groups.all().into_iter();
        let names: BTreeSet<GroupName> = groups.map(|(key, _)| key.group).collect();
        Ok(names.into_iter().collect())
    }

    fn reads(&self, group: &str, topic: &Topic) -> Result<bool, LogError> {
        let topic = self.shared.topics.read().get(topic)?;
        let key = GroupKey {
            group: group.into(),
            topic: topic.id,
        };
        Ok(self
            .shared
            .groups
            .reads(&key, self.shared.groups_since(now_ms())))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    fn health(&self) -> Health {
        let read_only = |error: &LogError| Health::ReadOnly {
            code: error.code(),
            reason: error.to_string(),
        };
        if let Some(error) = &*self.shared.trouble.read() {
            return read_only(error);
        }
        // Only a write sets `trouble`, so a disk that filled up since the last one is
        // found here.
        let needed_bytes = self.shared.config.disk_free_min.as_u64();
        match disk::free_bytes(&self.shared.path) {
            Ok(free_bytes) if free_bytes < needed_bytes => read_only(&LogError::Full {
                free_bytes,
                needed_bytes,
            }),
            _ => Health::Ready,
        }
    }

    fn backup(&self) -> Result<Box<dyn BackupRows>, LogError> {
        Ok(Box::new(backup::SnapshotRows::new(&self.shared)?))
    }

    fn close(&self) {
        let mut threads = self.threads.lock();
        self.shared.queue.close();
        self.shared.groups.wake_all();
        let Some(running) = threads.take() else {
            return;
        };
        running.cleaner.stop();
        if running.writer.join().is_err() {
            tracing::error!("the thread that writes the record log had panicked");
        }
        self.shared.store.write().take();
        tracing::debug!(path = %self.shared.path.display(), "record log closed");
    }
}
