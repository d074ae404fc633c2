//! A worker's transactional producer: one commit, one transaction.
//!
//! The producer is made when it is first needed, and anew after an error that the
//! client does not recover from. `init_transactions` ends a transaction that a
//! predecessor of the same id left open, so ids are stable over restarts.
//!
//! A producer is not used again after it gave up a transaction whose records may be in
//! the log. The client would give the next records the sequence numbers of the old
//! ones. Brokers would then drop the next records as copies, while their transaction
//! succeeds.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use courtside_process::shutdown::waits;
use courtside_types::{NewRecord, Topic, TopicPartition};
use parking_lot::Mutex;
use rdkafka::{
    TopicPartitionList,
    consumer::ConsumerGroupMetadata,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, Producer as _, PurgeConfig},
};

use super::{
    config::KafkaConfig,
    errors::is_denial,
    fill::{fill, flush, settle},
    offsets::{NotSent, OffsetSender, Sending},
    producer::{Refusals, TransactionContext, left, retry},
    verdict::{ClientReport, Stage, Verdict, judge},
};
use crate::LogError;

/// When a group's coordinator dies while offsets are sent to it, the client may
/// wait for the next one until some connection comes or goes (librdkafka's issues
/// 5456 and 5511). So idle connections end after a while; see also [`OffsetSender`].
const IDLE_PROPERTY: &str = "connections.max.idle.ms";
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Records wait for a flush, which sends at most one batch of each partition. The client
/// would otherwise spin: while five records of a partition are under way and others
/// wait, its thread looks again and again whether it may send these.
const LINGER: Duration = Duration::from_millis(500);
const BATCH_RECORDS_MAX: &str = "batch.num.messages";
/// The largest number that the client takes: bytes alone limit a batch.
const BATCH_RECORDS: u32 = 1_000_000;
/// Shortest time between two tries of an idle worker to end an open transaction.
const TIDY_WAIT: Duration = Duration::from_secs(1);
/// Longest time of such a try, and so how late an idle worker may notice an order.
const TIDY_TIME: Duration = Duration::from_millis(500);

/// A transaction that is not committed, as far as the host knows.
#[derive(Debug)]
pub(super) struct TransactionError {
    pub verdict: Verdict,
    pub error: Box<LogError>,
    /// Topics of records that the brokers refuse, most likely for their times.
    pub times: BTreeSet<Topic>,
}

impl TransactionError {
    pub fn new(verdict: Verdict, error: LogError) -> Self {
        Self {
            verdict,
            error: Box::new(error),
            times: BTreeSet::new(),
        }
    }

    /// An error before the brokers were asked to commit.
    pub fn before_commit(error: LogError) -> Self {
        Self::new(Verdict::Abort, error)
    }
}

/// How long a worker waits for the end of a producer, which may itself wait for its
/// brokers' threads.
const FREE_TIME_MAX: Duration = Duration::from_secs(1);

pub(super) struct Transactions {
    config: KafkaConfig,
    id: String,
    record_bytes_max: usize,
    producer: Option<Arc<BaseProducer<TransactionContext>>>,
    /// A producer whose `init_transactions` has not ended in time, and since when. The
    /// next call goes on with it.
    beginning: Option<(BaseProducer<TransactionContext>, Instant)>,
    offsets: OffsetSender,
    refusals: Arc<Mutex<Refusals>>,
    /// The producer's [`TransactionContext::is_in_doubt`].
    is_in_doubt: Arc<AtomicBool>,
    must_abort: bool,
    /// The last producer may have left a transaction open.
    is_open: bool,
    tidied: Option<Instant>,
}

/// Records and offsets of one transaction.
pub(super) struct Contents<'a> {
    pub records: Vec<(&'a TopicPartition, Cow<'a, NewRecord>)>,
    pub offsets: TopicPartitionList,
}

impl Transactions {
    pub fn new(config: &KafkaConfig, id: String, record_bytes_max: usize) -> Self {
        Self {
            config: config.clone(),
            id,
            record_bytes_max,
            producer: None,
            beginning: None,
            refusals: Arc::default(),
            is_in_doubt: Arc::default(),
            offsets: OffsetSender::default(),
            must_abort: false,
            is_open: false,
            tidied: None,
        }
    }

    /// Whether the producer of the last transaction also makes the next one.
    #[cfg(test)]
    pub const fn has_producer(&self) -> bool {
        self.producer.is_some()
    }

    /// Prepares the next transaction: ends one that was left open, and makes a producer
    /// where there is none.
    pub fn ready(&mut self) -> Result<(), LogError> {
        self.ready_by(Instant::now() + self.config.request_timeout)
    }

    /// Ends a transaction that a failure may have left open, since restores may wait
    /// for it. Does nothing where another producer of the id has ended it. After `time`,
    /// the rest is left to the next call.
    pub fn tidy(&mut self, time: Duration) {
        if !self.must_abort && !self.is_open || time.is_zero() {
            return;
        }
        let time = time.min(self.config.request_timeout);
        if let Err(error) = self.ready_by(Instant::now() + time) {
            tracing::debug!(id = %self.id, %error, "open transaction cannot be ended yet");
        }
    }

    /// Ends an open transaction as well, but tries at most once per `TIDY_WAIT`.
    pub fn tidy_now_and_then(&mut self) {
        if self.tidied.is_none_or(|at| at.elapsed() >= TIDY_WAIT) {
            self.tidy(TIDY_TIME);
            self.tidied = Some(Instant::now());
        }
    }

    fn ready_by(&mut self, deadline: Instant) -> Result<(), LogError> {
        if self.must_abort {
            self.abort(deadline);
        }
        if self.must_abort {
            // The abort did not get done; the next producer ends the transaction.
            self.renew();
        }
        if self.producer.is_some() {
            return Ok(());
        }
        let (producer, since) = match self.beginning.take() {
            Some(begun) => begun,
            None => (self.create()?, Instant::now()),
        };
        let begun = retry(deadline, || producer.init_transactions(left(deadline)));
        if let Err(error) = begun {
            let is_slow = matches!(&error, KafkaError::Transaction(error) if error.is_retriable());
            if is_slow && since.elapsed() < self.config.request_timeout {
                self.beginning = Some((producer, since));
            } else {
                self.free(producer);
            }
            return Err(failed(&self.id, &error));
        }
        self.producer = Some(Arc::new(producer));
        self.is_open = false;
        Ok(())
    }

    fn create(&mut self) -> Result<BaseProducer<TransactionContext>, LogError> {
        let unavailable = |error: KafkaError| failed(&self.id, &error);
        let mut config = self.config.producer(self.record_bytes_max);
        let timeout = self.config.transaction_timeout.as_millis().to_string();
        config
            .set("transactional.id", &self.id)
            .set("transaction.timeout.ms", &timeout)
            .set("message.timeout.ms", &timeout)
            .set("linger.ms", LINGER.as_millis().to_string())
            .set("delivery.report.only.error", "true");
        if !self.config.properties.contains_key(BATCH_RECORDS_MAX) {
            config.set(BATCH_RECORDS_MAX, BATCH_RECORDS.to_string());
        }
        if !self.config.properties.contains_key(IDLE_PROPERTY) {
            config.set(IDLE_PROPERTY, IDLE_MAX.as_millis().to_string());
        }
        self.is_in_doubt = Arc::default();
        let context = TransactionContext {
            refusals: Arc::clone(&self.refusals),
            is_in_doubt: Arc::clone(&self.is_in_doubt),
        };
        config.create_with_context(context).map_err(unavailable)
    }

    /// Makes one transaction, within about the time given. One that could not be ended
    /// by then is ended before the next one. `allows` has the last word, by the
    /// deadline, before the brokers are asked to commit.
    pub fn commit(
        &mut self,
        contents: &Contents<'_>,
        identity: &Arc<ConsumerGroupMetadata>,
        time: Duration,
        allows: &dyn Fn(Instant) -> Result<(), LogError>,
    ) -> Result<(), TransactionError> {
        let _wait = waits::begin(format!("a commit of {}", self.id));
        let deadline = Instant::now() + time.min(self.config.transaction_timeout);
        self.ready_by(deadline)
            .map_err(TransactionError::before_commit)?;
        *self.refusals.lock() = Refusals::default();
        let Some(producer) = self.producer.clone() else {
            let reason = "there is no producer".to_owned();
            let error = LogError::Fenced { reason };
            return Err(TransactionError::new(Verdict::Unknown, error));
        };
        let filled = fill(
            &producer,
            &contents.records,
            self.config.batch_bytes_max(self.record_bytes_max),
            deadline,
        )
        .and_then(|()| self.send_offsets(&producer, contents, identity, deadline));
        if let Err((stage, error)) = filled {
            drop(producer);
            let mut failure = self.fail(stage, &error, deadline);
            let allowed = allows(deadline);
            if let Verdict::Abort | Verdict::Renew = failure.verdict
                && failure.times.is_empty()
                && let Err(
                    error @ (LogError::TopicMissing { .. } | LogError::TopicRecreated { .. }),
                ) = allowed
            {
                // The client's own error says only that something took too long.
                failure.error = Box::new(error);
            }
            return Err(failure);
        }
        if let Err(error) = allows(deadline) {
            drop(producer);
            self.must_abort = true;
            self.abort(deadline);
            return Err(TransactionError::before_commit(error));
        }
        settle(&producer, deadline);
        let outcome = finish(&producer, deadline);
        drop(producer);
        outcome.map_err(|(stage, error)| self.fail(stage, &error, deadline))
    }

    fn send_offsets(
        &mut self,
        producer: &Arc<BaseProducer<TransactionContext>>,
        contents: &Contents<'_>,
        identity: &Arc<ConsumerGroupMetadata>,
        deadline: Instant,
    ) -> Result<(), (Stage, KafkaError)> {
        if contents.offsets.count() > 0 {
            let sending = Sending {
                producer: Arc::clone(producer),
                offsets: contents.offsets.clone(),
                identity: Arc::clone(identity),
            };
            // The records are sent while the offsets are.
            let sent = self.offsets.send(sending, deadline, |is_answered| {
                while !is_answered() && producer.in_flight_count() > 0 && Instant::now() < deadline
                {
                    flush(producer);
                }
            });
            sent.map_err(|error| match error {
                NotSent::Failed(error) => (Stage::Filling, error),
                NotSent::Hangs => {
                    let code = RDKafkaErrorCode::OperationTimedOut;
                    (Stage::Hanging, KafkaError::Global(code))
                }
            })?;
        }
        Ok(())
    }

    /// Does what an error asks for before the next transaction.
    fn fail(&mut self, stage: Stage, error: &KafkaError, deadline: Instant) -> TransactionError {
        let fatal = self.producer.as_ref();
        let fatal = fatal.and_then(|producer| producer.client().fatal_error());
        let report = ClientReport::of(error, fatal.map(|(code, _)| code));
        let verdict = judge(stage, &report);
        tracing::debug!(id = %self.id, ?stage, ?report, ?verdict, "a transaction failed");
        let refusals = std::mem::take(&mut *self.refusals.lock());
        match verdict {
            // The client has numbered the records that the brokers refused: the next
            // transaction of this producer could fail for its order alone. The open
            // transaction is ended at once, because it would hold up restores.
            Verdict::Abort if refusals.any() => {
                self.renew();
                self.tidy(deadline.saturating_duration_since(Instant::now()));
            }
            Verdict::Abort | Verdict::Generation => {
                self.must_abort = true;
                self.abort(deadline);
            }
            Verdict::Renew | Verdict::Unknown => self.renew(),
            Verdict::Fenced => {
                self.renew();
                self.is_open = false;
            }
        }
        let reason = format!("transactions of {}: {error}", self.id);
        match verdict {
            Verdict::Abort | Verdict::Renew => {
                let (error, times) = self.refused(error, refusals, reason);
                TransactionError {
                    verdict,
                    error: Box::new(error),
                    times,
                }
            }
            Verdict::Generation => TransactionError::new(verdict, LogError::Unavailable { reason }),
            Verdict::Fenced | Verdict::Unknown => {
                TransactionError::new(verdict, LogError::Fenced { reason })
            }
        }
    }

    /// The error of a transaction of which nothing was committed, and the topics whose
    /// records the brokers refused for their times.
    fn refused(
        &self,
        error: &KafkaError,
        refusals: Refusals,
        reason: String,
    ) -> (LogError, BTreeSet<Topic>) {
        if let Some(topic) = refusals.size {
            let what = "a record of a commit".to_owned();
            let reason =
                format!("it is larger than the settings of topic {topic} allow now: {reason}");
            return (LogError::Invalid { what, reason }, BTreeSet::new());
        }
        match refusals.times.first().cloned() {
            Some(topic) => (LogError::TimeRefused { topic }, refusals.times),
            None => (failed(&self.id, error), BTreeSet::new()),
        }
    }

    /// Gives the producer up. A new one makes the next transaction, and ends the one that
    /// this producer left open when it begins.
    fn renew(&mut self) {
        if let Some(producer) = self.producer.take() {
            self.free(producer);
        }
        self.must_abort = false;
        self.is_open = true;
    }

    /// Ends a producer, or leaves it behind: its end may wait for its brokers' threads,
    /// and no transaction needs it.
    fn free(&self, producer: impl Send + 'static) {
        let name = format!("the end of a producer of {}", self.id);
        if !waits::drop_within(&name, FREE_TIME_MAX, producer) {
            tracing::debug!(id = %self.id, "producer did not end in time and is left behind");
        }
    }

    fn abort(&mut self, deadline: Instant) {
        let Some(producer) = self.producer.clone() else {
            self.must_abort = false;
            return;
        };
        let producer = &*producer;
        // The client aborts only after it has told of the purged records, for which it
        // must be polled.
        producer.purge(PurgeConfig::default().queue());
        settle(producer, deadline);
        // The client numbers the records of the next transaction as if the purged ones
        // had never been sent. Where the brokers have those all the same, they take the
        // next records for copies, acknowledge them, and drop them. A new producer has an
        // epoch of its own, and its numbers begin anew.
        if producer.in_flight_count() > 0 || self.is_in_doubt.load(Ordering::Relaxed) {
            return self.renew();
        }
        match retry(deadline, || producer.abort_transaction(left(deadline))) {
            Ok(()) if self.is_in_doubt.load(Ordering::Relaxed) => self.renew(),
            Ok(()) => self.must_abort = false,
            Err(error) => {
                tracing::debug!(id = %self.id, %error, "transaction cannot be aborted");
                let is_retriable =
                    matches!(&error, KafkaError::Transaction(error) if error.is_retriable());
                if !is_retriable {
                    self.renew();
                }
            }
        }
    }
}

/// The error of a transaction of which nothing was committed.
fn failed(id: &str, error: &KafkaError) -> LogError {
    let reason = format!("transactions of {id}: {error}");
    let code = error.rdkafka_error_code();
    if let Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidRecord) = code {
        // Another try fails as well: the topic's settings are not those that the host
        // found at its start.
        let what = "a record of a commit".to_owned();
        return LogError::Invalid { what, reason };
    }
    if !is_denial(error) {
        return LogError::Unavailable { reason };
    }
    let needs = match code {
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

fn finish(
    producer: &BaseProducer<TransactionContext>,
    deadline: Instant,
) -> Result<(), (Stage, KafkaError)> {
    retry(deadline, || producer.commit_transaction(left(deadline))).map_err(|error| {
        // The flush comes before the commit request: nothing was committed.
        match error {
            KafkaError::Flush(_) => (Stage::Filling, error),
            error => (Stage::Ending, error),
        }
    })
}
