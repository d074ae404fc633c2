//! The clients' errors as errors of the log.

use courtside_types::{PartitionId, Topic};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::LogError;

/// An error that concerns no topic in particular.
#[allow(clippy::needless_pass_by_value)]
pub(super) fn unavailable(error: KafkaError) -> LogError {
    let reason = error.to_string();
    if is_denial(&error) {
        return LogError::Denied { reason };
    }
    LogError::Unavailable { reason }
}

/// An error of a call that needs a permission, as in "Describe on topic NBA-Games".
pub(super) fn without(permission: impl FnOnce() -> String, error: KafkaError) -> LogError {
    if is_denial(&error) {
        return LogError::Denied {
            reason: format!("{error}; the user needs {}", permission()),
        };
    }
    unavailable(error)
}

/// Whether the brokers did not let the host in, or did not permit the call.
pub(super) fn is_denial(error: &KafkaError) -> bool {
    let code = match error {
        // This error has a code, and does not tell it by the method.
        KafkaError::AdminOp(code) => Some(*code),
        _ => error.rdkafka_error_code(),
    };
    matches!(
        code,
        Some(
            RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::SSL
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
        )
    )
}

/// Whether the brokers may have refused a record for its time, or for that of another
/// in its batch: in a batch of several, the client cannot tell them apart.
pub(super) const fn is_of_time(code: Option<RDKafkaErrorCode>) -> bool {
    matches!(
        code,
        Some(
            RDKafkaErrorCode::InvalidTimestamp
                | RDKafkaErrorCode::InvalidRecord
                | RDKafkaErrorCode::InvalidDifferentRecord
        )
    )
}

pub(super) fn closed() -> LogError {
    LogError::Unavailable {
        reason: "the log is closed".to_owned(),
    }
}

/// An error of a request for one partition.
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
        _ if is_denial(error) => without(|| format!("Read on topic {topic}"), error.clone()),
        _ => LogError::Unavailable {
            reason: format!("{topic}/{partition}: {error}"),
        },
    }
}
