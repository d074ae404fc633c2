//! What the clients' errors mean to us.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::{
    log::LogError,
    types::{PartitionId, Topic},
};

/// An error that concerns no topic in particular.
#[allow(clippy::needless_pass_by_value)]
pub(super) fn unavailable(error: KafkaError) -> LogError {
    LogError::Unavailable {
        reason: error.to_string(),
    }
}

pub(super) fn closed() -> LogError {
    LogError::Unavailable {
        reason: "the log is closed".to_owned(),
    }
}

/// An error of what was asked of one partition.
pub(super) fn of_partition(error: &KafkaError, topic: &Topic, partition: PartitionId) -> LogError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
            LogError::NoSuchTopic {
                topic: topic.clone(),
            }
        }
        Some(RDKafkaErrorCode::UnknownPartition) => LogError::NoSuchPartition {
            topic: topic.clone(),
            partition,
        },
        _ => LogError::Unavailable {
            reason: format!("{topic}/{partition}: {error}"),
        },
    }
}
