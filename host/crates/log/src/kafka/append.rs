//! Appends: one idempotent producer for the whole host.
//!
//! The engine bounds the bytes that wait to be acknowledged, not the client, so that
//! an append is taken whole or not at all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use courtside_process::clock::now_ms;
use courtside_types::{NewRecord, Offset, PartitionId, Position, Topic, TopicPartition};
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use rdkafka::{
    ClientContext, Message as _,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{Producer as _, ProducerContext, ThreadedProducer},
};
use tokio::sync::{oneshot, watch};

use super::{
    config::{KafkaConfig, Limits},
    context, convert,
    errors::{closed, is_of_time, unavailable, without},
    reachability::Reachability,
    times::{Times, without_time},
};
use crate::LogError;

type Results = Vec<Result<Position, LogError>>;

/// One append whose records are not all acknowledged yet.
pub(super) struct Pending {
    topic: Topic,
    partitions: Vec<PartitionId>,
    state: Mutex<State>,
    bytes: usize,
    waiting_bytes: Arc<AtomicUsize>,
}

struct State {
    offsets: Vec<Option<Result<Offset, LogError>>>,
    left: usize,
    reply: Option<oneshot::Sender<Results>>,
}

impl Pending {
    fn settle(&self, index: usize, outcome: Result<Offset, LogError>) {
        let mut state = self.state.lock();
        let Some(place) = state.offsets.get_mut(index) else {
            return;
        };
        if place.replace(outcome).is_some() {
            return;
        }
        state.left = state.left.saturating_sub(1);
        if state.left > 0 {
            return;
        }
        let offsets = std::mem::take(&mut state.offsets);
        let results = offsets.into_iter().zip(&self.partitions);
        let results = results.map(|(offset, partition)| {
            Ok(Position {
                topic: self.topic.clone(),
                partition: *partition,
                offset: offset.unwrap_or_else(|| Err(closed()))?,
            })
        });
        // The caller may be gone.
        if let Some(reply) = state.reply.take() {
            drop(reply.send(results.collect()));
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.waiting_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

struct Deliveries {
    changes: watch::Sender<u64>,
    reach: Arc<Reachability>,
    fatal: Arc<AtomicBool>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, what: &str, message: &str) {
        context::log(level, what, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => self.fatal.store(true, Ordering::Release),
            _ => self.reach.note(&error, reason),
        }
        tracing::debug!(target: "librdkafka", %error, reason, "producer error");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<(Arc<Pending>, usize)>;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: Self::DeliveryOpaque) {
        let (pending, index) = *opaque;
        let outcome = match result {
            Ok(message) => Ok(Offset(u64::try_from(message.offset()).unwrap_or_default())),
            Err((error, message)) => {
                let size_bytes = message.key_len() + message.payload_len();
                Err(delivery_error(error, message.topic(), size_bytes))
            }
        };
        if outcome.is_ok() {
            self.changes
                .send_modify(|ticks| *ticks = ticks.wrapping_add(1));
        }
        pending.settle(index, outcome);
    }
}

fn delivery_error(error: &KafkaError, topic: &str, size_bytes: usize) -> LogError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => LogError::TooLarge {
            size_bytes,
            limit_bytes: size_bytes.saturating_sub(1),
        },
        code if is_of_time(code) => LogError::TimeRefused {
            topic: topic.into(),
        },
        _ => without(|| format!("Write on topic {topic}"), error.clone()),
    }
}

pub(super) struct Appender {
    config: KafkaConfig,
    record_bytes_max: usize,
    queue_bytes_max: usize,
    waiting_bytes: Arc<AtomicUsize>,
    changes: watch::Sender<u64>,
    reach: Arc<Reachability>,
    fatal: Arc<AtomicBool>,
    times: Arc<Times>,
    producer: RwLock<Option<ThreadedProducer<Deliveries>>>,
}

impl Appender {
    pub fn new(
        config: &KafkaConfig,
        limits: &Limits,
        changes: watch::Sender<u64>,
        reach: Arc<Reachability>,
        times: Arc<Times>,
    ) -> Result<Self, LogError> {
        let appender = Self {
            config: config.clone(),
            record_bytes_max: limits.record_bytes_max,
            queue_bytes_max: limits.queue_bytes_max,
            waiting_bytes: Arc::default(),
            changes,
            reach,
            fatal: Arc::default(),
            times,
            producer: RwLock::new(None),
        };
        *appender.producer.write() = Some(appender.create()?);
        Ok(appender)
    }

    fn create(&self) -> Result<ThreadedProducer<Deliveries>, LogError> {
        let mut config = self.config.producer(self.record_bytes_max);
        if !self.config.properties.contains_key("message.timeout.ms")
            && !self.config.properties.contains_key("delivery.timeout.ms")
        {
            let timeout = self.config.request_timeout.as_millis().to_string();
            config.set("message.timeout.ms", timeout);
        }
        // The engine bounds the queue itself (`reserve`), so the client must not.
        config.set("queue.buffering.max.messages", "0");
        config.set("queue.buffering.max.kbytes", "2147483647");
        let deliveries = Deliveries {
            changes: self.changes.clone(),
            reach: Arc::clone(&self.reach),
            fatal: Arc::clone(&self.fatal),
        };
        config.create_with_context(deliveries).map_err(unavailable)
    }

    /// Replaces the producer after a fatal error, since it takes no more records.
    fn revive(&self) -> Result<(), LogError> {
        if !self.fatal.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut producer = self.producer.write();
        if producer.is_some() && self.fatal.load(Ordering::Acquire) {
            tracing::warn!("the producer of appends failed for good and is replaced");
            let new = self.create()?;
            self.fatal.store(false, Ordering::Release);
            *producer = Some(new);
        }
        Ok(())
    }

    /// Takes records whose partitions are known to exist.
    pub fn append(
        self: &Arc<Self>,
        topic: &Topic,
        records: Vec<(PartitionId, NewRecord)>,
    ) -> Result<BoxFuture<'static, Results>, LogError> {
        for (_, record) in &records {
            let size_bytes = record.size();
            if size_bytes > self.record_bytes_max {
                return Err(LogError::TooLarge {
                    size_bytes,
                    limit_bytes: self.record_bytes_max,
                });
            }
        }
        let records: Vec<_> = records
            .into_iter()
            .map(|(partition, record)| {
                let topic = topic.clone();
                (TopicPartition { topic, partition }, record)
            })
            .collect();
        let sent = self.send(topic, &records)?;
        let (appender, topic) = (Arc::clone(self), topic.clone());
        Ok(Box::pin(async move {
            let results = sent.await;
            appender
                .append_without_times(&topic, &records, results)
                .await
        }))
    }

    /// Appends the records whose time was refused again, without a time: this host's
    /// clock may be wrong, and that is not the caller's fault.
    async fn append_without_times(
        &self,
        topic: &Topic,
        records: &[(TopicPartition, NewRecord)],
        mut results: Results,
    ) -> Results {
        let refused = results
            .iter_mut()
            .zip(records)
            .filter(|(result, _)| matches!(result, Err(LogError::TimeRefused { .. })));
        let (places, again): (Vec<_>, Vec<_>) = refused
            .map(|(result, (place, record))| (result, (place.clone(), without_time(record))))
            .unzip();
        if places.is_empty() {
            return results;
        }
        let outcome = match self.send(topic, &again) {
            Ok(sent) => sent.await,
            Err(error) => again.iter().map(|_| Err(error.clone())).collect(),
        };
        if outcome.iter().any(Result::is_ok) {
            self.times.took_none(topic);
        }
        for (place, result) in places.into_iter().zip(outcome) {
            *place = result;
        }
        results
    }

    /// Hands records to the client.
    fn send(
        &self,
        topic: &Topic,
        records: &[(TopicPartition, NewRecord)],
    ) -> Result<BoxFuture<'static, Results>, LogError> {
        self.revive()?;
        let producer = self.producer.read();
        let producer = producer.as_ref().ok_or_else(closed)?;
        if records.is_empty() {
            return Ok(Box::pin(std::future::ready(Vec::new())));
        }
        let bytes = records.iter().fold(0_usize, |sum, (_, record)| {
            sum.saturating_add(record.size())
        });
        self.reserve(bytes)?;
        let (reply, answer) = oneshot::channel();
        let pending = Arc::new(Pending {
            topic: topic.clone(),
            partitions: records.iter().map(|(place, _)| place.partition).collect(),
            state: Mutex::new(State {
                offsets: vec![None; records.len()],
                left: records.len(),
                reply: Some(reply),
            }),
            bytes,
            waiting_bytes: Arc::clone(&self.waiting_bytes),
        });
        let mut failed = None;
        let records = records.iter().map(|(place, record)| (place, record));
        let settled = self.times.rules().settle(records, now_ms());
        for (index, (place, record)) in settled.iter().enumerate() {
            // Records after one that the client did not take fail with it, so that they
            // do not overtake it.
            if let Some(error) = &failed {
                pending.settle(index, Err(LogError::clone(error)));
                continue;
            }
            let opaque = Box::new((Arc::clone(&pending), index));
            let sent = producer.send(convert::base_record(place, record, opaque));
            if let Err((error, _)) = sent {
                let error = delivery_error(&error, topic, record.size());
                pending.settle(index, Err(error.clone()));
                failed = Some(error);
            }
        }
        let count = settled.len();
        Ok(Box::pin(async move {
            answer
                .await
                .unwrap_or_else(|_| (0..count).map(|_| Err(closed())).collect())
        }))
    }

    /// An append larger than the whole queue goes when the queue is empty.
    fn reserve(&self, bytes: usize) -> Result<(), LogError> {
        let take = |waiting: usize| {
            let sum = waiting.saturating_add(bytes);
            (waiting == 0 || sum <= self.queue_bytes_max).then_some(sum)
        };
        self.waiting_bytes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take)
            .map(|_| ())
            .map_err(|_| LogError::Busy)
    }

    /// Takes no more records, and waits for those that were taken.
    pub fn close(&self) {
        let Some(producer) = self.producer.write().take() else {
            return;
        };
        if let Err(error) = producer.flush(self.config.request_timeout + Duration::from_secs(1)) {
            tracing::warn!(%error, "appends not finished before the record log closed");
        }
    }
}
