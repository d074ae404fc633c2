//! State that the threads and handles of the Kafka engine share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rdkafka::consumer::BaseConsumer;
use tokio::sync::watch;

use super::{
    checkpoints::Store, config::KafkaConfig, context::PlainContext, errors::closed, ids::Ids,
    reachability::Reachability, times::Times, topics::Topics,
};
use crate::LogError;

/// State that the engine's threads and handles share.
pub(super) struct KafkaState {
    pub config: KafkaConfig,
    pub instance: String,
    pub record_bytes_max: usize,
    pub tombstone_retention: Duration,
    pub topics: Topics,
    pub times: Arc<Times>,
    /// This client and `uncommitted` ask where partitions end, for readers of either
    /// isolation.
    pub committed: Arc<BaseConsumer<PlainContext>>,
    pub uncommitted: BaseConsumer<PlainContext>,
    pub ids: Ids,
    pub store: Arc<Store>,
    pub reach: Arc<Reachability>,
    pub changes: watch::Sender<u64>,
    pub closed: AtomicBool,
}

impl KafkaState {
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub fn check_open(&self) -> Result<(), LogError> {
        if self.is_closed() {
            return Err(closed());
        }
        Ok(())
    }

    pub fn tick(&self) {
        self.changes
            .send_modify(|ticks| *ticks = ticks.wrapping_add(1));
    }
}
