//! The producer of transactions: its context, which notes why records were refused, and
//! its calls, which are tried again up to a deadline.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use courtside_types::Topic;
use parking_lot::Mutex;
use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Message as _},
    producer::ProducerContext,
};

use super::{context, errors::is_of_time, native};

/// Time between two tries of a call.
const RETRY_WAIT: Duration = Duration::from_micros(500);

/// Context of the producer. Nobody waits for deliveries one by one: a failed one fails
/// the transaction.
#[derive(Default)]
pub(super) struct TransactionContext {
    pub refusals: Arc<Mutex<Refusals>>,
    /// A record that was not delivered may be in the log all the same.
    pub is_in_doubt: Arc<AtomicBool>,
}

/// Why the brokers refused records. Once a batch is refused, the others under way fail
/// for their order, and the transaction's own error may name only that.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Topics of records that may have been refused for their times.
    pub times: BTreeSet<Topic>,
    /// A topic that a record is too large for.
    pub size: Option<Topic>,
}

impl Refusals {
    pub fn any(&self) -> bool {
        self.size.is_some() || !self.times.is_empty()
    }
}

impl ClientContext for TransactionContext {
    fn log(&self, level: RDKafkaLogLevel, what: &str, message: &str) {
        context::log(level, what, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason, "transactional producer error");
    }
}

impl ProducerContext for TransactionContext {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            if native::may_be_there(message) {
                self.is_in_doubt.store(true, Ordering::Relaxed);
            }
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                    self.refusals.lock().size = Some(message.topic().into());
                }
                code if is_of_time(code) => {
                    self.refusals.lock().times.insert(message.topic().into());
                }
                _ => {}
            }
            tracing::debug!(%error, "a record of a transaction was not delivered");
        }
    }
}

/// The time to a deadline, but at least 100 ms: less would be of no use to a request.
pub(super) fn left(deadline: Instant) -> Duration {
    deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(100))
}

/// Repeats a call until it succeeds, or until another try is of no use.
pub(super) fn retry(
    deadline: Instant,
    mut ask: impl FnMut() -> Result<(), KafkaError>,
) -> Result<(), KafkaError> {
    loop {
        match ask() {
            Err(KafkaError::Transaction(error))
                if error.is_retriable() && Instant::now() < deadline =>
            {
                std::thread::sleep(RETRY_WAIT);
            }
            outcome => return outcome,
        }
    }
}
