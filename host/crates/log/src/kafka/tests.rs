//! The engine on a real Apache Kafka: one that `COURTSIDE_TEST_KAFKA` names, or
//! one that `tests/kafka/cluster` starts for this run.

mod doubt;
mod foreign;
mod groups;
mod topics;

use super::{
    Kafka,
    subject::{KafkaSubject, brokers, cluster, config, delete_before, limits, prefix},
};
use crate::conformance::conformance;

conformance!(match brokers() {
    Some(brokers) => KafkaSubject::new(brokers),
    None => return,
});
