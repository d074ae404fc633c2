//! Topics as pipelines need them: missing ones are created, and existing ones must be
//! as they should.
//!
//! Several hosts may start at once: the second one finds the topic there, and
//! compares it like any other. A broker may not know yet what another one was told,
//! so a host asks until they agree or time is up.

use std::{
    thread,
    time::{Duration, Instant},
};

use courtside_types::{PartitionId, Topic, topics::CHECKPOINTS_SUFFIX};
use rdkafka::{
    ClientConfig, Offset as KafkaOffset,
    admin::{
        AdminClient, AdminOptions, ConfigResource, NewTopic as KafkaTopic, ResourceSpecifier,
        TopicReplication,
    },
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{Found, LOOK, TRY, Topics};
use crate::{
    Cleanup, LogError, TopicSpec,
    admin::remedy,
    block::block_on,
    kafka::{
        config::message_bytes_max,
        context::PlainContext,
        errors::{is_denial, unavailable, without},
        times::Bounds,
    },
    name::check_name,
};

/// Topics of checkpoints are compacted in small steps, so that a restore reads
/// little that is superseded.
const CHECKPOINT_SEGMENT_BYTES: &str = "33554432";
const CHECKPOINT_DIRTY_RATIO: &str = "0.1";

const CLEANUP: &str = "cleanup.policy";
const IN_SYNC_MIN: &str = "min.insync.replicas";
const MESSAGE_BYTES_MAX: &str = "max.message.bytes";
const TIME_BEFORE_MAX: &str = "message.timestamp.before.max.ms";
const TIME_AFTER_MAX: &str = "message.timestamp.after.max.ms";

impl Topics {
    /// Creates the topics that are missing, but none where an existing one is not as it
    /// should be.
    pub fn ensure(&self, specs: &[TopicSpec]) -> Result<(), LogError> {
        let mut missing = Vec::new();
        let mut there = Vec::new();
        for spec in specs {
            check(&spec.name)?;
            match self.find(&spec.name)? {
                None => missing.push(spec),
                Some(found) => {
                    self.compare(spec, &found)?;
                    there.push(spec);
                }
            }
        }
        let admin = self.admin()?;
        self.compare_all_settings(&admin, &there)?;
        for spec in &missing {
            let replicas = i32::try_from(self.config.replication_factor).unwrap_or(i32::MAX);
            let settings = self.settings(spec);
            let create = |is_taken: fn(&str) -> bool| {
                let settings = settings.iter().filter(|(name, _)| is_taken(name));
                let settings = settings.map(|(name, value)| (*name, &**value));
                self.create(&admin, &spec.name, spec.partitions, replicas, settings)
            };
            let created = match create(|_| true) {
                // Brokers before Kafka 3.6 do not know these two settings.
                Err(LogError::Invalid { .. }) => {
                    create(|name| ![TIME_BEFORE_MAX, TIME_AFTER_MAX].contains(&name))
                }
                created => created,
            };
            match created {
                // Another host was faster.
                Ok(()) | Err(LogError::TopicExists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for spec in &missing {
            let found = self.await_topic(&spec.name)?;
            self.compare(spec, &found)?;
        }
        self.compare_all_settings(&admin, &missing)
    }

    pub(super) fn admin(&self) -> Result<AdminClient<PlainContext>, LogError> {
        let config: ClientConfig = self.config.client();
        config
            .create_with_context(PlainContext { reach: None })
            .map_err(unavailable)
    }

    pub(super) fn options(&self) -> AdminOptions {
        AdminOptions::new()
            .request_timeout(Some(self.config.request_timeout))
            .operation_timeout(Some(self.config.request_timeout))
    }

    fn compare(&self, spec: &TopicSpec, found: &Found) -> Result<(), LogError> {
        if let Some(wanted) = spec.partitions
            && wanted != found.partitions
        {
            return mismatch(spec, "partitions", found.partitions, wanted);
        }
        let wanted = self.config.replication_factor as usize;
        if wanted > 0 && wanted != found.replicas {
            return mismatch(spec, "replicas", found.replicas, wanted);
        }
        Ok(())
    }

    fn compare_all_settings(
        &self,
        admin: &AdminClient<PlainContext>,
        specs: &[&TopicSpec],
    ) -> Result<(), LogError> {
        let names: Vec<&str> = specs.iter().map(|spec| &*spec.name).collect();
        for (spec, described) in specs.iter().zip(self.describe(admin, &names)?) {
            self.compare_settings(spec, |name| {
                let entry = described.get(name);
                entry.and_then(|entry| entry.value.clone())
            })?;
        }
        Ok(())
    }

    /// Retention and the like are the operator's: a difference there is told,
    /// not refused.
    pub(super) fn compare_settings(
        &self,
        spec: &TopicSpec,
        actual: impl Fn(&str) -> Option<String>,
    ) -> Result<(), LogError> {
        for (name, wanted) in self.settings(spec) {
            let actual = actual(name).unwrap_or_default();
            if actual == wanted {
                continue;
            }
            match name {
                CLEANUP | IN_SYNC_MIN => return mismatch(spec, name, actual, wanted),
                // A record of the largest size would fail on every try.
                MESSAGE_BYTES_MAX if !is_at_least(&actual, &wanted) => {
                    return mismatch(spec, name, actual, wanted);
                }
                MESSAGE_BYTES_MAX => {}
                // The brokers do not know this setting.
                TIME_BEFORE_MAX | TIME_AFTER_MAX if actual.is_empty() => {}
                _ => tracing::info!(
                    topic = %spec.name,
                    setting = name,
                    actual,
                    wanted,
                    "topic has another setting than the configuration asks for, and keeps it"
                ),
            }
        }
        Ok(())
    }

    /// The settings of topics that exist, in the order of their names.
    pub(super) fn describe(
        &self,
        admin: &AdminClient<PlainContext>,
        names: &[&str],
    ) -> Result<Vec<ConfigResource>, LogError> {
        let deadline = Instant::now() + self.config.request_timeout;
        loop {
            let described = self.describe_once(admin, names)?;
            // The client does not tell an error of one topic, but returns no
            // settings of it then.
            if described.len() == names.len()
                && described.iter().all(|topic| !topic.entries.is_empty())
            {
                return Ok(described);
            }
            if Instant::now() >= deadline {
                return Err(LogError::Unavailable {
                    reason: format!(
                        "the brokers do not tell the settings of {}; may courtside ask for them (ACL DescribeConfigs)?",
                        names.join(", ")
                    ),
                });
            }
            thread::sleep(LOOK);
        }
    }

    /// Asks once for the settings of topics. A topic that the brokers do not know, or
    /// may not tell us of, comes without any settings.
    pub(super) fn describe_once(
        &self,
        admin: &AdminClient<PlainContext>,
        names: &[&str],
    ) -> Result<Vec<ConfigResource>, LogError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let resources: Vec<_> = names
            .iter()
            .map(|name| ResourceSpecifier::Topic(name))
            .collect();
        let described =
            block_on(admin.describe_configs(&resources, &self.options())).map_err(unavailable)?;
        described
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|error| unavailable(KafkaError::AdminOp(error)))
    }

    /// How far the times of a topic's records may be from the brokers' clock; none
    /// where they do not tell.
    pub fn time_bounds(&self, topic: &Topic) -> Option<Bounds> {
        let described = self.describe_once(&self.admin().ok()?, &[topic]).ok()?;
        let bound = |name: &str| -> Option<u64> {
            let entry = described.first()?.get(name)?;
            entry.value.as_deref()?.parse().ok()
        };
        Some(Bounds {
            before_ms: bound(TIME_BEFORE_MAX)?,
            after_ms: bound(TIME_AFTER_MAX)?,
        })
    }

    /// Creates a topic; 0 replicas stand for the brokers' default.
    pub(super) fn create<'a>(
        &self,
        admin: &AdminClient<PlainContext>,
        name: &'a Topic,
        partitions: Option<u32>,
        replicas: i32,
        settings: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), LogError> {
        let count = partitions.unwrap_or(self.partitions_default);
        let fixed = if replicas > 0 { replicas } else { -1 };
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        let topic = KafkaTopic::new(name, count, TopicReplication::Fixed(fixed));
        let topic = settings.fold(topic, |topic, (name, value)| topic.set(name, value));
        let created =
            block_on(admin.create_topics([&topic], &self.options())).map_err(unavailable)?;
        for created in created {
            if let Err((_, code)) = created {
                return Err(self.not_created(name, count, replicas, code));
            }
        }
        Ok(())
    }

    fn not_created(
        &self,
        name: &Topic,
        partitions: i32,
        replicas: i32,
        code: RDKafkaErrorCode,
    ) -> LogError {
        let reason = match code {
            RDKafkaErrorCode::TopicAlreadyExists => {
                return LogError::TopicExists {
                    topic: name.clone(),
                };
            }
            RDKafkaErrorCode::InvalidReplicationFactor => {
                let metadata = self
                    .client
                    .fetch_metadata(None, self.config.request_timeout);
                let brokers = metadata.map_or_else(
                    |_| "fewer".to_owned(),
                    |metadata| metadata.brokers().len().to_string(),
                );
                let wanted = if replicas > 0 {
                    format!("{replicas} replicas (kafka.replication_factor)")
                } else {
                    "as many replicas as the brokers take by default (default.replication.factor)"
                        .to_owned()
                };
                format!("{wanted} are asked for, and the cluster has {brokers} brokers")
            }
            RDKafkaErrorCode::InvalidPartitions => {
                format!("the brokers do not take {partitions} partitions")
            }
            RDKafkaErrorCode::InvalidConfig => {
                "the brokers do not take its settings: a name is not known, or a value is out of its range".to_owned()
            }
            code if is_denial(&KafkaError::AdminOp(code)) => {
                let needs = || format!("Create on topic {name}, or an operator who creates it");
                return without(needs, KafkaError::AdminOp(code));
            }
            code if is_passing(code) => return unavailable(KafkaError::AdminOp(code)),
            code => code.to_string(),
        };
        LogError::Invalid {
            what: format!("topic {name}"),
            reason,
        }
    }

    /// Waits until the brokers know of a topic and its partitions have leaders.
    pub(super) fn await_topic(&self, name: &Topic) -> Result<Found, LogError> {
        let deadline = Instant::now() + self.config.request_timeout;
        loop {
            if let Some(found) = self.find(name)? {
                let all: Vec<_> = (0..found.partitions).map(PartitionId).collect();
                if self
                    .try_offsets(&self.client, name, &all, KafkaOffset::End, TRY)
                    .is_ok()
                {
                    self.note(name, found.partitions);
                    return Ok(found);
                }
            }
            if Instant::now() >= deadline {
                return Err(LogError::Unavailable {
                    reason: format!("topic {name} was created and has no leaders yet"),
                });
            }
            thread::sleep(LOOK);
        }
    }

    /// The settings of a topic that is created.
    pub(super) fn settings(&self, spec: &TopicSpec) -> Vec<(&'static str, String)> {
        let mut settings = vec![(
            MESSAGE_BYTES_MAX,
            message_bytes_max(self.record_bytes_max).to_string(),
        )];
        // An event may be of any age, and so may the records that come of it.
        settings.push((TIME_BEFORE_MAX, i64::MAX.to_string()));
        let ms = |time: Duration| time.as_millis().min(i64::MAX as u128).to_string();
        match &spec.cleanup {
            Cleanup::Compact {
                tombstone_retention,
            } => {
                settings.push((CLEANUP, "compact".to_owned()));
                // Hosts' clocks may be ahead. Where retention counts from records'
                // times, the brokers' bound stays: other producers meet the same one.
                settings.push((TIME_AFTER_MAX, i64::MAX.to_string()));
                settings.push(("delete.retention.ms", ms(*tombstone_retention)));
                if spec.name.ends_with(CHECKPOINTS_SUFFIX) {
                    settings.push(("segment.bytes", CHECKPOINT_SEGMENT_BYTES.to_owned()));
                    settings.push((
                        "min.cleanable.dirty.ratio",
                        CHECKPOINT_DIRTY_RATIO.to_owned(),
                    ));
                }
            }
            Cleanup::Delete {
                retention,
                retention_bytes,
            } => {
                let unbounded = || "-1".to_owned();
                settings.push((CLEANUP, "delete".to_owned()));
                settings.push(("retention.ms", retention.map_or_else(unbounded, ms)));
                settings.push((
                    "retention.bytes",
                    retention_bytes.map_or_else(unbounded, |bytes| bytes.to_string()),
                ));
            }
        }
        if self.config.min_insync_replicas > 0 {
            settings.push((IN_SYNC_MIN, self.config.min_insync_replicas.to_string()));
        }
        settings
    }
}

pub(super) fn check(name: &Topic) -> Result<(), LogError> {
    check_name(name).map_err(|reason| LogError::Invalid {
        what: format!("topic {:?}", &**name),
        reason: reason.to_owned(),
    })
}

/// Whether asking again later may help.
pub(super) fn is_passing(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::MessageTimedOut
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::NotController
            | RDKafkaErrorCode::NetworkException
    )
}

fn is_at_least(actual: &str, wanted: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    number(actual) >= number(wanted)
}

fn mismatch(
    spec: &TopicSpec,
    what: &'static str,
    actual: impl ToString,
    wanted: impl ToString,
) -> Result<(), LogError> {
    let wanted = wanted.to_string();
    Err(LogError::Mismatch {
        topic: spec.name.clone(),
        what,
        actual: actual.to_string(),
        remedy: remedy(&spec.name, what, &wanted),
        wanted,
    })
}
