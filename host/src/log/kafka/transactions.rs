//! A worker's transactional producer: one commit, one transaction.
//!
//! It is made when it is first needed, and anew after an error that the client
//! does not recover from. `init_transactions` ends what a predecessor of the
//! same id left open, so ids are stable over restarts.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::ConsumerGroupMetadata,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, Producer as _, ProducerContext, PurgeConfig},
};

use super::{config::KafkaConfig, context, convert, errors::is_denial};
use crate::{
    log::LogError,
    types::{NewRecord, TopicPartition},
};

/// How long a look at what is in flight takes.
const LOOK: Duration = Duration::from_millis(1);
/// When a group's coordinator dies while offsets are sent to it, the client may
/// wait for the next one without a limit, until some connection comes or goes
/// (librdkafka's issues 5456 and 5511). So idle ones go after a while.
const IDLE_PROPERTY: &str = "connections.max.idle.ms";
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Records between two looks at what was delivered.
const RECORDS_PER_LOOK: usize = 1000;

/// Why a transaction was not committed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing of it happened, and it may be tried again.
    Again(LogError),
    /// Nothing of it happened: the group does not take offsets of this member
    /// as it was.
    Generation(String),
    /// Another producer has the id, or nobody knows what happened.
    Lost(String),
}

/// Nobody waits for deliveries one by one: a failed one fails the transaction.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, what: &str, message: &str) {
        context::log(level, what, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason, "transactional producer error");
    }
}

impl ProducerContext for Quiet {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            tracing::debug!(%error, "a record of a transaction was not delivered");
        }
    }
}

pub(super) struct Transactions {
    config: KafkaConfig,
    id: String,
    record_bytes_max: usize,
    producer: Option<BaseProducer<Quiet>>,
    must_abort: bool,
}

/// What goes into a transaction.
pub(super) struct Contents<'a> {
    pub records: Vec<(&'a TopicPartition, &'a NewRecord)>,
    pub offsets: TopicPartitionList,
}

impl Transactions {
    pub fn new(config: &KafkaConfig, id: String, record_bytes_max: usize) -> Self {
        Self {
            config: config.clone(),
            id,
            record_bytes_max,
            producer: None,
            must_abort: false,
        }
    }

    /// Makes ready to begin a transaction: whatever was open is ended.
    pub fn ready(&mut self) -> Result<(), LogError> {
        if self.must_abort && self.producer.is_some() {
            self.abort();
        }
        if self.must_abort {
            // What it left open, the next one ends.
            self.producer = None;
            self.must_abort = false;
        }
        if self.producer.is_some() {
            return Ok(());
        }
        let unavailable = |error: KafkaError| failed(&self.id, &error);
        let mut config = self.config.producer(self.record_bytes_max);
        let timeout = self.config.transaction_timeout.as_millis().to_string();
        config
            .set("transactional.id", &self.id)
            .set("transaction.timeout.ms", &timeout)
            .set("message.timeout.ms", &timeout)
            .set("delivery.report.only.error", "true");
        if !self.config.properties.contains_key(IDLE_PROPERTY) {
            config.set(IDLE_PROPERTY, IDLE_MAX.as_millis().to_string());
        }
        let producer: BaseProducer<Quiet> =
            config.create_with_context(Quiet).map_err(unavailable)?;
        producer
            .init_transactions(self.config.request_timeout)
            .map_err(unavailable)?;
        self.producer = Some(producer);
        Ok(())
    }

    pub fn commit(
        &mut self,
        contents: &Contents<'_>,
        identity: &ConsumerGroupMetadata,
    ) -> Result<(), Failure> {
        self.ready().map_err(Failure::Again)?;
        let Some(producer) = &self.producer else {
            return Err(Failure::Lost("there is no producer".to_owned()));
        };
        let deadline = Instant::now() + self.config.transaction_timeout;
        let outcome = fill(
            producer,
            contents,
            identity,
            deadline,
            self.config.request_timeout,
        )
        .and_then(|()| finish(producer, deadline));
        outcome.map_err(|step| self.classify(step))
    }

    /// What an error means, and what is to be done before the next transaction.
    fn classify(&mut self, step: Step) -> Failure {
        let Step { error, ends } = step;
        let reason = format!("transactions of {}: {error}", self.id);
        let (is_fatal, requires_abort) = match &error {
            KafkaError::Transaction(error) => (error.is_fatal(), error.txn_requires_abort()),
            _ => (false, true),
        };
        let producer_is_fatal = self
            .producer
            .as_ref()
            .is_some_and(|producer| producer.client().fatal_error().is_some());
        if is_fatal || producer_is_fatal {
            self.producer = None;
            return Failure::Lost(reason);
        }
        self.must_abort = true;
        if ends && !requires_abort {
            // Asked to commit, and no answer: the next producer's beginning
            // finds out, and what is committed is read again.
            self.producer = None;
            self.must_abort = false;
            return Failure::Lost(reason);
        }
        self.abort();
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::FencedInstanceId
                | RDKafkaErrorCode::StaleMemberEpoch
                | RDKafkaErrorCode::FencedMemberEpoch,
            ) => Failure::Generation(reason),
            _ => Failure::Again(failed(&self.id, &error)),
        }
    }

    fn abort(&mut self) {
        let Some(producer) = &self.producer else {
            return;
        };
        // The client waits until what it gave up was told; telling is polling.
        let deadline = Instant::now() + self.config.request_timeout;
        producer.purge(PurgeConfig::default().queue());
        settle(producer, deadline);
        match producer.abort_transaction(self.config.request_timeout) {
            Ok(()) => self.must_abort = false,
            Err(error) => {
                tracing::debug!(id = %self.id, %error, "a transaction was not aborted");
            }
        }
    }
}

/// An error that leaves things as they were.
fn failed(id: &str, error: &KafkaError) -> LogError {
    let reason = format!("transactions of {id}: {error}");
    if !is_denial(error) {
        return LogError::Unavailable { reason };
    }
    let needs = match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            "Write on the topics of outputs, dead letters and checkpoints"
        }
        Some(RDKafkaErrorCode::GroupAuthorizationFailed) => "Read on the group",
        _ => "Write on the transactional id",
    };
    LogError::Denied {
        reason: format!("{reason}; the user needs {needs}"),
    }
}

/// An error, and whether the transaction was being committed.
struct Step {
    error: KafkaError,
    ends: bool,
}

fn filling(error: KafkaError) -> Step {
    Step { error, ends: false }
}

fn fill(
    producer: &BaseProducer<Quiet>,
    contents: &Contents<'_>,
    identity: &ConsumerGroupMetadata,
    deadline: Instant,
    timeout: Duration,
) -> Result<(), Step> {
    producer.begin_transaction().map_err(filling)?;
    for (index, (place, record)) in contents.records.iter().enumerate() {
        if index % RECORDS_PER_LOOK == RECORDS_PER_LOOK - 1 {
            producer.poll(Duration::ZERO);
        }
        let mut waiting = convert::base_record(place, record, ());
        while let Err((error, back)) = producer.send(waiting) {
            let is_full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
            if !is_full || Instant::now() >= deadline {
                return Err(filling(error));
            }
            producer.poll(LOOK);
            waiting = back;
        }
    }
    if contents.offsets.count() > 0 {
        retry(deadline, || {
            producer.send_offsets_to_transaction(&contents.offsets, identity, timeout)
        })
        .map_err(filling)?;
    }
    // The client's own flush looks every 100 ms.
    settle(producer, deadline);
    Ok(())
}

/// Waits until nothing is in flight.
fn settle(producer: &BaseProducer<Quiet>, deadline: Instant) {
    while producer.in_flight_count() > 0 && Instant::now() < deadline {
        producer.poll(LOOK);
    }
}

fn finish(producer: &BaseProducer<Quiet>, deadline: Instant) -> Result<(), Step> {
    let left = || {
        deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(100))
    };
    retry(deadline, || producer.commit_transaction(left())).map_err(|error| Step {
        // Deliveries that failed are the flush's error: nothing was committed.
        ends: !matches!(error, KafkaError::Flush(_)),
        error,
    })
}

/// Tries until it succeeds, or until trying is of no use.
fn retry(
    deadline: Instant,
    mut ask: impl FnMut() -> Result<(), KafkaError>,
) -> Result<(), KafkaError> {
    loop {
        match ask() {
            Err(KafkaError::Transaction(error))
                if error.is_retriable() && Instant::now() < deadline =>
            {
                std::thread::sleep(LOOK);
            }
            outcome => return outcome,
        }
    }
}
