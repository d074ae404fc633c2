//! Opening the record log. Only this module knows which engine the log has.

use std::{sync::Arc, time::Duration};

use courtside_log::{
    LogError, RecordLog,
    admin::Admin,
    embedded::{Embedded, EmbeddedConfig},
    kafka::{self, Kafka},
};
use courtside_types::{
    coded,
    failure::{Failure, OrFail as _},
    usize_of,
};

use crate::config::Config;

/// Opens the record log that the configuration names.
pub fn open_log(config: &Config) -> anyhow::Result<Arc<dyn RecordLog>> {
    std::fs::create_dir_all(&config.data_dir).or_fail_with("data-dir-unusable", || {
        format!("{} cannot be made", config.data_dir.display())
    })?;
    if config.kafka.is_set() {
        let dir = config.data_dir.join("kafka");
        let log = Kafka::open(dir, config.kafka.clone(), &limits(config)).map_err(Failure::of)?;
        return Ok(log);
    }
    let log =
        Embedded::open(config.data_dir.join("log"), config.log.clone()).map_err(Failure::of)?;
    Ok(log)
}

/// Opens the log of a data directory that no host has open, to be copied.
pub fn open_backup(config: &Config) -> anyhow::Result<Arc<dyn Admin>> {
    if config.kafka.is_set() {
        let error = LogError::BackupElsewhere;
        return Err(Failure::of(error).into());
    }
    open_admin(config, false)
}

/// Opens the log for a command of an operator. On Kafka the command works beside the
/// hosts; otherwise no host may run. A missing log is made only where `create` says so.
/// The command's log cleans nothing: only a host's groups say which events they still
/// need, and none of them has members now.
pub fn open_admin(config: &Config, create: bool) -> anyhow::Result<Arc<dyn Admin>> {
    if config.kafka.is_set() {
        let log = Kafka::beside(config.kafka.clone(), &limits(config)).map_err(Failure::of)?;
        return Ok(log);
    }
    if !create && !config.data_dir.join("log").is_dir() {
        return Err(coded!(
            "no-record-log",
            "{} holds no record log; name its data directory with --data-dir, or the brokers with --kafka",
            config.data_dir.display()
        ));
    }
    let settings = EmbeddedConfig {
        cleanup_interval: Duration::MAX,
        ..config.log.clone()
    };
    let log = Embedded::open(config.data_dir.join("log"), settings);
    log.map(|log| log as _).map_err(|error| match error {
        LogError::InUse { .. } => coded!(
            error.code(),
            "{error}: stop its host first, or ask the running host: `courtside backup` and `courtside groups --live` do so"
        ),
        error => Failure::of(error).into(),
    })
}

fn limits(config: &Config) -> kafka::Limits {
    kafka::Limits {
        partitions: config.log.partitions,
        record_bytes_max: usize_of(config.log.record_bytes_max),
        queue_bytes_max: usize_of(config.log.queue_bytes_max),
        tombstone_retention: config.topics.tombstone_retention,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use courtside_log::{
        Cleanup, TopicSpec,
        conformance::{record, wait},
    };
    use courtside_types::{NewRecord, Offset, PartitionId, Topic};

    use super::*;

    /// A stopped host's group still needs events, though its last commit is old.
    #[test]
    fn a_command_that_opens_the_log_deletes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            data_dir: dir.path().to_owned(),
            ..Config::default()
        };
        config.log.cleanup_interval = Duration::from_millis(10);
        let topic: Topic = "scores".into();
        let log = open_admin(&config, true).unwrap();
        let cleanup = Cleanup::Delete {
            retention: Some(Duration::from_secs(1)),
            retention_bytes: None,
        };
        log.ensure_topics(&[TopicSpec {
            name: topic.clone(),
            partitions: Some(1),
            cleanup,
        }])
        .unwrap();
        let old = NewRecord {
            timestamp_ms: 1,
            ..record("k", "old")
        };
        for position in wait(log.append(&topic, vec![(PartitionId(0), old)]).unwrap()) {
            position.unwrap();
        }

        let start = |log: &dyn RecordLog| log.bounds(&topic).unwrap()[0].start;
        thread::sleep(config.log.cleanup_interval * 50);
        assert_eq!(start(&*log), Offset(0));
        log.close();

        let log = open_log(&config).unwrap();
        while start(&*log) == Offset(0) {
            thread::sleep(config.log.cleanup_interval);
        }
        log.close();
    }
}
