//! The settings of the Kafka engine, and the clients' properties made of them.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use bytesize::ByteSize;
use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::COMMIT_EXTRA_BYTES;

/// Limits from the configuration that concern both engines.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Partitions of a topic that is created without saying how many.
    pub partitions: u32,
    pub record_bytes_max: usize,
    pub queue_bytes_max: usize,
    pub tombstone_retention: Duration,
}

/// Configuration of the Kafka engine.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// `HOST:PORT,…`; where it is empty, the engine is the embedded one.
    pub brokers: String,
    /// This host's name, the same after a restart; empty takes one that is
    /// made up once and kept in the data directory.
    pub instance: String,
    pub assignor: Assignor,
    /// Whether members have a fixed place in their group (`group.instance.id`).
    pub static_membership: bool,
    /// Whether members with such a place give it up when their host is stopped.
    pub leave_at_stop: bool,
    /// Replicas of topics that are created; 0 takes the brokers' default.
    pub replication_factor: u32,
    /// `min.insync.replicas` of topics that are created; 0 takes the brokers' default.
    pub min_insync_replicas: u32,
    #[serde(with = "humantime_serde")]
    pub session_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
    /// How long the brokers keep a transaction open whose host says nothing.
    #[serde(with = "humantime_serde")]
    pub transaction_timeout: Duration,
    /// The shortest time between two commits of a worker.
    #[serde(with = "humantime_serde")]
    pub commit_interval_min: Duration,
    /// How long an answer of the brokers is waited for.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Records of one partition that are fetched ahead.
    pub fetch_ahead_bytes_max: ByteSize,
    /// A file of further properties, for those that are secret.
    pub properties_file: PathBuf,
    /// Any property of librdkafka.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    /// Which of them are the file's, and so are not shown.
    #[serde(skip)]
    pub from_file: BTreeSet<String>,
}

/// How the partitions are shared out among the members of a group, and by whom.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Assignor {
    /// A member does, evenly, and moves as few as it can; the others go on.
    #[default]
    CooperativeSticky,
    /// A member does: neighbours to the same; all stop for it.
    Range,
    /// A member does: by turns; all stop for it.
    #[serde(rename = "roundrobin")]
    RoundRobin,
    /// The brokers do (the `consumer` protocol of Kafka 4); the others go on.
    Consumer,
}

impl Assignor {
    /// Whether all partitions are let go of when some move.
    pub(super) const fn is_eager(self) -> bool {
        matches!(self, Self::Range | Self::RoundRobin)
    }

    /// The clients' name of an assignor by which members share partitions out.
    const fn strategy(self) -> Option<&'static str> {
        match self {
            Self::CooperativeSticky => Some("cooperative-sticky"),
            Self::Range => Some("range"),
            Self::RoundRobin => Some("roundrobin"),
            Self::Consumer => None,
        }
    }
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: String::new(),
            instance: String::new(),
            assignor: Assignor::default(),
            static_membership: false,
            leave_at_stop: true,
            replication_factor: 0,
            min_insync_replicas: 0,
            session_timeout: Duration::from_secs(15),
            heartbeat_interval: Duration::from_secs(1),
            transaction_timeout: Duration::from_secs(10),
            commit_interval_min: Duration::from_millis(25),
            request_timeout: Duration::from_secs(10),
            fetch_ahead_bytes_max: ByteSize::mib(4),
            properties_file: PathBuf::new(),
            properties: BTreeMap::new(),
            from_file: BTreeSet::new(),
        }
    }
}

/// Properties that the engine's promises rest on.
const OURS: &[&str] = &[
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "heartbeat.interval.ms",
    "isolation.level",
    "message.max.bytes",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "request.required.acks",
    "session.timeout.ms",
    "transactional.id",
    "transaction.timeout.ms",
];

/// Properties that only members have: other clients refuse some of their values.
const OF_MEMBERS: &[&str] = &[POLL_INTERVAL_MAX, "group.remote.assignor"];
const POLL_INTERVAL_MAX: &str = "max.poll.interval.ms";
const POLL_INTERVAL_MAX_DEFAULT: Duration = Duration::from_secs(300);

const BATCH_BYTES_MAX: &str = "batch.size";
/// The client's own default.
const BATCH_BYTES_MAX_DEFAULT: usize = 1_000_000;

/// Parts of property names that mark a secret.
const SECRET: &[&str] = &["password", "secret", "key.pem", "oauthbearer.config"];

/// Stands for a secret where the configuration is shown.
pub const REDACTED: &str = "<redacted>";

impl KafkaConfig {
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.brokers.is_empty()
    }

    /// Adds the properties of the file, where one is named. Properties that are set
    /// already stay.
    pub fn read_file(&mut self) -> Result<(), String> {
        if self.properties_file.as_os_str().is_empty() {
            return Ok(());
        }
        let path = self.properties_file.display();
        let of = |problem: String| format!("properties_file: {path}: {problem}");
        let text = std::fs::read_to_string(&self.properties_file)
            .map_err(|error| of(error.to_string()))?;
        for (name, value) in parse_properties(&text).map_err(of)? {
            if !self.properties.contains_key(&name) {
                self.properties.insert(name.clone(), value);
                self.from_file.insert(name);
            }
        }
        Ok(())
    }

    /// Checks the values; an error says which one cannot be.
    pub fn check(&self) -> Result<(), String> {
        if let Some(name) = self
            .properties
            .keys()
            .find(|name| OURS.contains(&name.as_str()))
        {
            return Err(format!(
                "properties.{name}: courtside sets this property itself, because its guarantees depend on it"
            ));
        }
        for broker in self.brokers.split(',').filter(|_| self.is_set()) {
            let port = broker.trim().rsplit_once(':').map(|(_, port)| port);
            if port.is_none_or(|port| port.parse::<u16>().is_err()) {
                return Err(format!("brokers: {broker:?} is not HOST:PORT"));
            }
        }
        let is_classic = self.assignor.strategy().is_some();
        if is_classic && self.properties.contains_key("group.remote.assignor") {
            return Err(
                "properties.group.remote.assignor: it is allowed only with the assignor consumer"
                    .to_owned(),
            );
        }
        if is_classic && self.session_timeout > self.poll_interval_max() {
            return Err(
                "session_timeout is over max.poll.interval.ms, which the client library refuses"
                    .to_owned(),
            );
        }
        if is_classic && self.heartbeat_interval * 3 > self.session_timeout {
            return Err(
                "heartbeat_interval is over a third of session_timeout, so that one lost heartbeat could cost the session"
                    .to_owned(),
            );
        }
        if self.min_insync_replicas > self.replication_factor && self.replication_factor > 0 {
            return Err("min_insync_replicas is over replication_factor".to_owned());
        }
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if !self.instance.bytes().all(legal) || self.instance.len() > 100 {
            return Err("instance: it must be at most 100 letters, digits, . _ and -".to_owned());
        }
        // The client finds unknown properties and values out of their range.
        let native = self.member("g", "i", 0, false).create_native_config();
        native.map(|_| ()).map_err(|error| error.to_string())
    }

    /// A copy without secrets, to be shown to people.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let mut shown = self.clone();
        for name in std::mem::take(&mut shown.from_file) {
            shown.properties.remove(&name);
        }
        for (name, value) in &mut shown.properties {
            if SECRET.iter().any(|part| name.contains(part)) {
                REDACTED.clone_into(value);
            }
        }
        shown
    }

    /// Properties of all clients.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("client.id", "courtside")
            .set("bootstrap.servers", &self.brokers)
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("topic.metadata.propagation.max.ms", "1000");
        for (name, value) in &self.properties {
            if !OF_MEMBERS.contains(&name.as_str()) {
                config.set(name, value);
            }
        }
        config
    }

    /// Properties of all producers.
    pub(super) fn producer(&self, record_bytes_max: usize) -> ClientConfig {
        let mut config = self.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set(
                "message.max.bytes",
                message_bytes_max(record_bytes_max).to_string(),
            );
        let defaults = [
            // A lone event waits for nobody, and events that come while a request is
            // under way go with the next.
            ("linger.ms", "0".to_owned()),
            ("compression.type", "lz4".to_owned()),
            ("retry.backoff.max.ms", "500".to_owned()),
        ];
        self.set_defaults(&mut config, &defaults);
        config
    }

    /// Properties of a worker's membership. Under the `consumer` protocol the brokers
    /// set the session and its heartbeats.
    pub(super) fn member(
        &self,
        group: &str,
        instance: &str,
        worker: u32,
        visits: bool,
    ) -> ClientConfig {
        let ms = |time: Duration| time.as_millis().to_string();
        let mut config = self.consumer(group, Isolation::Committed);
        if let Some(strategy) = self.assignor.strategy() {
            config
                .set("partition.assignment.strategy", strategy)
                .set("session.timeout.ms", ms(self.session_timeout))
                .set("heartbeat.interval.ms", ms(self.heartbeat_interval));
        } else {
            config.set("group.protocol", "consumer");
        }
        if self.static_membership && !visits {
            config.set("group.instance.id", format!("{instance}.{worker}"));
        }
        for name in OF_MEMBERS {
            if let Some(value) = self.properties.get(*name) {
                config.set(*name, value);
            }
        }
        if !self.properties.contains_key("client.id") {
            // An operator who looks at the group sees which worker is its member.
            config.set("client.id", format!("courtside-{instance}-{worker}"));
        }
        config
    }

    /// The most bytes of a batch before its compression.
    pub(super) fn batch_bytes_max(&self, record_bytes_max: usize) -> usize {
        let set = self.properties.get(BATCH_BYTES_MAX);
        let bytes = set.and_then(|bytes| bytes.parse().ok());
        bytes
            .unwrap_or(BATCH_BYTES_MAX_DEFAULT)
            .min(message_bytes_max(record_bytes_max))
    }

    fn poll_interval_max(&self) -> Duration {
        let set = self.properties.get(POLL_INTERVAL_MAX);
        let ms = set.and_then(|ms| ms.parse().ok());
        ms.map_or(POLL_INTERVAL_MAX_DEFAULT, Duration::from_millis)
    }

    /// Properties of all consumers: they keep no offsets by themselves, and never
    /// go on elsewhere than where they were told.
    pub(super) fn consumer(&self, group: &str, isolation: Isolation) -> ClientConfig {
        let mut config = self.client();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", isolation.name())
            .set("allow.auto.create.topics", "false");
        let defaults = [
            (
                "queued.max.messages.kbytes",
                (self.fetch_ahead_bytes_max.as_u64() >> 10).to_string(),
            ),
            // The client fetches again soon after an error.
            ("fetch.error.backoff.ms", "50".to_owned()),
            // The client also looks again soon at a full queue.
            ("fetch.queue.backoff.ms", "10".to_owned()),
            ("fetch.wait.max.ms", "100".to_owned()),
        ];
        self.set_defaults(&mut config, &defaults);
        config
    }

    fn set_defaults(&self, config: &mut ClientConfig, defaults: &[(&str, String)]) {
        for (name, value) in defaults {
            if !self.properties.contains_key(*name) {
                config.set(*name, value);
            }
        }
    }
}

/// Lines of `name = value`, as librdkafka's and Java's own files have them, but
/// without escapes: a password may have a backslash.
fn parse_properties(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut properties = BTreeMap::new();
    for (line, number) in text.lines().zip(1_usize..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        // The line may hold a secret, and is not repeated.
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| format!("line {number} is not NAME=VALUE"))?;
        let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
        if properties.insert(name.clone(), value).is_some() {
            return Err(format!("line {number} sets {name} again"));
        }
    }
    Ok(properties)
}

/// Whether a consumer sees records of open and aborted transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Isolation {
    Committed,
    Uncommitted,
}

impl Isolation {
    const fn name(self) -> &'static str {
        match self {
            Self::Committed => "read_committed",
            Self::Uncommitted => "read_uncommitted",
        }
    }
}

/// Size in bytes of a batch with one record of the largest size.
pub(super) const fn message_bytes_max(record_bytes_max: usize) -> usize {
    record_bytes_max
        .saturating_add(COMMIT_EXTRA_BYTES)
        .saturating_add(64 << 10)
}
