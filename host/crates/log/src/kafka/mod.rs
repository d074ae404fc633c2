//! The Kafka engine: the brokers are the log, this is their client.
//!
//! Appends go through one idempotent producer ([append]). Each worker is a
//! member of the group with a consumer ([member]) and a transactional producer
//! ([transactions]): a commit is one transaction over emissions, dead letters,
//! checkpoints and offsets. Checkpoints are a compacted topic beside the
//! input, restored on assignment ([restore]) into a store that is thrown away
//! at the next start ([checkpoints]). The store lives as long as the host.
//!
//! Memory: records that wait to be appended (`log.queue_bytes_max`), and records that
//! are fetched ahead: `kafka.fetch_ahead_bytes_max` for each assigned partition, and
//! 1 MiB for each partition that is read otherwise.
//!
//! Differences from the embedded engine on purpose: a commit that ends a
//! transaction takes an offset of its own in each partition it wrote, so offsets
//! have gaps; a record of time 0 gets the time of its append; retention is the
//! brokers', and does not wait for a group.
//!
//! Before a commit ends, a look at the topics' [ids] must show that the input and the
//! checkpoints are still the same topics. That look begins after the worker's last
//! poll.

mod admin;
mod append;
mod checkpoints;
mod config;
mod context;
mod convert;
mod errors;
mod fill;
mod groups;
mod ids;
mod member;
mod native;
mod offsets;
mod producer;
mod reachability;
mod reader;
mod restore;
mod state;
#[cfg(any(test, feature = "conformance"))]
#[allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests run it"
)]
pub mod subject;
#[cfg(test)]
mod tests;
mod times;
mod topics;
mod transactions;
mod verdict;

use std::{
    fmt,
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytestring::ByteString;
use courtside_types::{NewRecord, Offset, PartitionId, Position, Record, Topic, TopicId};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rdkafka::{
    consumer::{BaseConsumer, Consumer as _},
    error::RDKafkaErrorCode,
};
use tempfile::TempDir;
use tokio::sync::watch;

use self::{
    append::Appender,
    checkpoints::{GroupCheckpoints, Store},
    config::Isolation,
    context::PlainContext,
    errors::unavailable,
    groups::{GroupError, Groups},
    ids::Ids,
    member::KafkaMember,
    reachability::Reachability,
    reader::Readers,
    state::KafkaState,
    times::Times,
    topics::Topics,
};
pub use self::{
    checkpoints::checkpoints_topic,
    config::{Assignor, KafkaConfig, Limits},
};
use super::{
    Bounds, Checkpoints, Cleanup, GroupName, GroupSpec, GroupStatus, Health, LatestRecords,
    LogError, Member, RecordLog, TopicSpec,
};

/// The `group.id` of clients that only ask, and join no group.
const ASKERS: &str = "courtside-askers";
/// How often watchers are told to look for records that other hosts committed.
const TICK: Duration = Duration::from_millis(20);
/// How long a command's transaction may take.
const COMMAND_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// How often brokers that cannot be reached are tried.
const PROBE: Duration = Duration::from_millis(500);

/// The Kafka engine. Dropping it closes it.
pub struct Kafka {
    shared: Arc<KafkaState>,
    appender: Arc<Appender>,
    readers: Readers,
    groups: Groups,
    pulse: Mutex<Option<JoinHandle<()>>>,
    /// Keeps other processes out of the data directory.
    lock: Mutex<Option<File>>,
    /// The temporary directory of a command, which is removed with the engine.
    _scratch: Option<TempDir>,
}

impl fmt::Debug for Kafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kafka")
            .field("brokers", &self.shared.config.brokers)
            .finish_non_exhaustive()
    }
}

impl Kafka {
    /// Connects to the brokers. The engine keeps this host's name and a copy of the
    /// checkpoints in the directory.
    pub fn open(
        path: impl AsRef<Path>,
        config: KafkaConfig,
        limits: &Limits,
    ) -> Result<Arc<Self>, LogError> {
        Self::connect(path.as_ref(), config, limits, None)
    }

    /// Connects for a command, beside the hosts. The command has a name and a
    /// directory of its own, which are gone when it ends.
    pub fn beside(config: KafkaConfig, limits: &Limits) -> Result<Arc<Self>, LogError> {
        let scratch =
            TempDir::with_prefix("courtside-").map_err(|error| LogError::Unavailable {
                reason: format!("a temporary directory cannot be created: {error}"),
            })?;
        let config = KafkaConfig {
            instance: format!("command-{:016x}", rand::random::<u64>()),
            // A command leaves its groups when it ends, and not at a timeout.
            static_membership: false,
            // One commit of a command may hold all records that there are.
            transaction_timeout: config.transaction_timeout.max(COMMAND_TRANSACTION_TIMEOUT),
            ..config
        };
        let path = scratch.path().to_owned();
        Self::connect(&path, config, limits, Some(scratch))
    }

    fn connect(
        path: &Path,
        config: KafkaConfig,
        limits: &Limits,
        scratch: Option<TempDir>,
    ) -> Result<Arc<Self>, LogError> {
        config.check().map_err(|reason| LogError::Invalid {
            what: "the configuration of kafka".to_owned(),
            reason,
        })?;
        let lock = super::embedded::lock(path)?;
        let instance = instance(path, &config)?;
        let reach = Arc::<Reachability>::default();
        let asker = |isolation, reach: Option<Arc<Reachability>>| {
            let config = config.consumer(ASKERS, isolation);
            config
                .create_with_context::<PlainContext, BaseConsumer<PlainContext>>(PlainContext {
                    reach,
                })
                .map_err(unavailable)
        };
        let committed = Arc::new(asker(Isolation::Committed, Some(Arc::clone(&reach)))?);
        let uncommitted = asker(Isolation::Uncommitted, None)?;
        reach.connect(&committed, &config.brokers, config.request_timeout)?;
        let changes = watch::Sender::new(0);
        let times = Arc::<Times>::default();
        let appender = Appender::new(
            &config,
            limits,
            changes.clone(),
            Arc::clone(&reach),
            Arc::clone(&times),
        )?;
        let shared = Arc::new(KafkaState {
            topics: Topics::new(
                &config,
                limits.partitions,
                limits.record_bytes_max,
                Arc::clone(&committed),
            ),
            ids: Ids::start(Arc::clone(&committed))?,
            times,
            store: Arc::new(Store::open(&path.join("checkpoints"))?),
            instance,
            record_bytes_max: limits.record_bytes_max,
            tombstone_retention: limits.tombstone_retention,
            committed,
            uncommitted,
            reach,
            changes,
            closed: AtomicBool::new(false),
            config,
        });
        Ok(Arc::new(Self {
            appender: Arc::new(appender),
            readers: Readers::new(&shared.config, &shared.changes)?,
            groups: Groups::new(&shared.config),
            pulse: Mutex::new(Some(start_pulse(&shared)?)),
            shared,
            lock: Mutex::new(Some(lock)),
            _scratch: scratch,
        }))
    }

    fn ensure_checkpoints(&self, group: &str, input: &Topic) -> Result<(), LogError> {
        self.shared.topics.ensure(&[TopicSpec {
            name: checkpoints_topic(group),
            partitions: Some(self.shared.topics.partitions(input)?),
            cleanup: Cleanup::Compact {
                tombstone_retention: self.shared.tombstone_retention,
            },
        }])
    }
}

/// This host's name: as configured, or made up once and kept.
fn instance(path: &Path, config: &KafkaConfig) -> Result<String, LogError> {
    if !config.instance.is_empty() {
        return Ok(config.instance.clone());
    }
    let file = path.join("instance");
    let failed = |error: std::io::Error| LogError::Unavailable {
        reason: format!("{}: {error}", file.display()),
    };
    match std::fs::read_to_string(&file) {
        Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let name = format!("host-{:016x}", rand::random::<u64>());
    std::fs::write(&file, &name).map_err(failed)?;
    Ok(name)
}

fn start_pulse(shared: &Arc<KafkaState>) -> Result<JoinHandle<()>, LogError> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new()
        .name("log-pulse".to_owned())
        .spawn(move || pulse(&shared))
        .map_err(|error| LogError::Unavailable {
            reason: format!("a thread of the log did not start: {error}"),
        })
}

/// Tells watchers that others may have committed, and looks after brokers that
/// could not be reached.
fn pulse(shared: &KafkaState) {
    let mut probed = Instant::now();
    while !shared.is_closed() {
        std::thread::sleep(TICK);
        if shared.changes.receiver_count() > 0 {
            shared.tick();
        }
        // The client tells its errors and logs only when it is polled.
        drop(shared.committed.poll(Duration::ZERO));
        if shared.reach.trouble().is_some() && probed.elapsed() >= PROBE {
            probed = Instant::now();
            if shared.committed.fetch_metadata(None, PROBE).is_ok() {
                shared.reach.answered();
                tracing::info!("the brokers answer again");
            }
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.close();
    }
}

impl RecordLog for Kafka {
    fn record_bytes_max(&self) -> usize {
        self.shared.record_bytes_max
    }

    fn host(&self) -> ByteString {
        self.shared.instance.as_str().into()
    }

    fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<(), LogError> {
        self.shared.check_open()?;
        self.shared.topics.ensure(topics)
    }

    fn partitions(&self, topic: &Topic) -> Result<u32, LogError> {
        self.shared.check_open()?;
        self.shared.topics.partitions(topic)
    }

    fn topic_ids(&self, topics: &[Topic]) -> Result<Vec<Option<TopicId>>, LogError> {
        self.shared.check_open()?;
        self.shared.ids.ask(topics.to_vec()).wait()
    }

    fn bounds(&self, topic: &Topic) -> Result<Vec<Bounds>, LogError> {
        self.shared.check_open()?;
        let shared = &self.shared;
        shared.topics.bounds(&shared.committed, topic)
    }

    fn written(&self, topic: &Topic) -> Result<Vec<Bounds>, LogError> {
        self.shared.check_open()?;
        let shared = &self.shared;
        shared.topics.bounds(&shared.uncommitted, topic)
    }

    fn append(
        &self,
        topic: &Topic,
        records: Vec<(PartitionId, NewRecord)>,
    ) -> Result<BoxFuture<'static, Vec<Result<Position, LogError>>>, LogError> {
        self.shared.check_open()?;
        if let Some(trouble) = self.shared.reach.trouble() {
            return Err(trouble);
        }
        let count = self.shared.topics.partitions(topic)?;
        if let Some((partition, _)) = records.iter().find(|(partition, _)| partition.0 >= count) {
            return Err(LogError::NoSuchPartition {
                topic: topic.clone(),
                partition: *partition,
            });
        }
        self.appender.append(topic, records)
    }

    fn read(
        &self,
        topic: &Topic,
        partition: PartitionId,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Vec<Record>, LogError> {
        self.shared.check_open()?;
        let topics = &self.shared.topics;
        topics.check(topic, partition)?;
        self.readers.read(topics, topic, partition, from, max_bytes)
    }

    fn read_latest(
        &self,
        topic: &Topic,
        partition: PartitionId,
        from: Offset,
        bounds: Bounds,
        max_bytes: usize,
    ) -> Result<LatestRecords, LogError> {
        self.shared.check_open()?;
        let place = (topic, partition);
        self.readers.read_latest(place, from, bounds, max_bytes)
    }

    fn checkpoints_topic(&self, group: &str) -> Option<TopicSpec> {
        Some(TopicSpec {
            name: checkpoints_topic(group),
            partitions: None,
            cleanup: Cleanup::Compact {
                tombstone_retention: self.shared.tombstone_retention,
            },
        })
    }

    fn ensure_group(&self, group: &str, input: &Topic) -> Result<(), LogError> {
        self.shared.check_open()?;
        self.ensure_checkpoints(group, input)
    }

    fn join(&self, spec: GroupSpec) -> Result<Box<dyn Member>, LogError> {
        self.shared.check_open()?;
        self.shared.topics.partitions(&spec.input)?;
        if !spec.visits {
            self.ensure_checkpoints(&spec.group, &spec.input)?;
        }
        Ok(Box::new(KafkaMember::join(&self.shared, &spec)?))
    }

    fn checkpoints(&self, group: &str) -> Result<Arc<dyn Checkpoints>, LogError> {
        Ok(Arc::new(GroupCheckpoints {
            store: Arc::clone(&self.shared.store),
            group: group.into(),
        }))
    }

    fn group_status(&self, group: &str, input: &Topic) -> Result<GroupStatus, LogError> {
        self.shared.check_open()?;
        let partitions = self.shared.topics.partitions(input)?;
        self.groups.status(group, input, partitions)
    }

    fn group_names(&self) -> Result<Vec<GroupName>, LogError> {
        self.shared.check_open()?;
        Ok(self.consumer_groups()?.into_iter().collect())
    }

    fn reads(&self, group: &str, topic: &Topic) -> Result<bool, LogError> {
        self.shared.check_open()?;
        let partitions = self.shared.topics.partitions(topic)?;
        match self.groups.reads(group, (&**topic, partitions)) {
            Err(GroupError::Code(RDKafkaErrorCode::GroupAuthorizationFailed)) => {
                tracing::warn!(group, %topic, "the brokers do not say what a consumer group reads; the user needs Describe on the group");
                Ok(false)
            }
            reads => reads.map_err(|error| {
                error.or_unavailable(|code| {
                    format!("the brokers do not say whether group {group} reads {topic}: {code}")
                })
            }),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    fn health(&self) -> Health {
        match self.shared.reach.refusal() {
            None => Health::Ready,
            Some(error) => Health::ReadOnly {
                code: error.code(),
                reason: error.to_string(),
            },
        }
    }

    fn close(&self) {
        if self.shared.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.appender.close();
        self.readers.close();
        self.groups.clear();
        let pulse = self.pulse.lock().take();
        if pulse.is_some_and(|pulse| pulse.join().is_err()) {
            tracing::error!("the thread that watches the brokers had panicked");
        }
        self.lock.lock().take();
    }
}
