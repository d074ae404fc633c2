//! Callbacks of the clients: their logs go to ours, rebalances wait for the member to
//! take them, and waiting threads are woken.

use std::{
    cell::Cell,
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use courtside_types::PartitionId;
use parking_lot::{Condvar, Mutex};
use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};

use super::reachability::{Reachability, essence};

/// A count of events, for one thread to wait for the next.
#[derive(Debug, Default)]
pub(super) struct Signal {
    ticks: Mutex<u64>,
    raised: Condvar,
}

impl Signal {
    pub fn ticks(&self) -> u64 {
        *self.ticks.lock()
    }

    pub fn raise(&self) {
        let mut ticks = self.ticks.lock();
        *ticks = ticks.wrapping_add(1);
        self.raised.notify_all();
    }

    /// Returns once the signal was raised since `seen`, or at the deadline.
    pub fn wait(&self, seen: u64, deadline: Instant) {
        let mut ticks = self.ticks.lock();
        while *ticks == seen {
            if self.raised.wait_until(&mut ticks, deadline).timed_out() {
                return;
            }
        }
    }
}

/// Kind of a client's log lines about a connection that failed.
const FAILED: &str = "FAIL";
/// Time in which the same log line is written once: every client repeats for every
/// broker that it cannot be reached, and for every try that it failed.
const SAME_LINE_WITHIN: Duration = Duration::from_secs(30);
/// Lines that are remembered to find repeats.
const LINES_MAX: usize = 64;

/// Writes a client's log line to ours.
pub(super) fn log(level: RDKafkaLogLevel, what: &str, message: &str) {
    // Properties pass through to all clients, and a client warns of those that do not
    // concern it.
    if what == "CONFWARN"
        || !matches!(level, RDKafkaLogLevel::Debug) && was_written(essence(message))
    {
        return;
    }
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", what, "{message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: "librdkafka", what, "{message}");
        }
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", what, "{message}"),
    }
}

/// Whether the same line was written a moment ago; otherwise it is remembered.
fn was_written(line: String) -> bool {
    static LINES: Mutex<VecDeque<(String, Instant)>> = Mutex::new(VecDeque::new());
    let mut lines = LINES.lock();
    lines.retain(|(_, at)| at.elapsed() < SAME_LINE_WITHIN);
    if lines.iter().any(|(known, _)| *known == line) {
        return true;
    }
    if lines.len() >= LINES_MAX {
        lines.pop_front();
    }
    lines.push_back((line, Instant::now()));
    false
}

/// Context of clients that only ask and read.
pub(super) struct PlainContext {
    pub reach: Option<Arc<Reachability>>,
}

impl ClientContext for PlainContext {
    fn log(&self, level: RDKafkaLogLevel, what: &str, message: &str) {
        if let Some(reach) = &self.reach
            && what == FAILED
        {
            reach.note_line(message);
        }
        log(level, what, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(reach) = &self.reach {
            reach.note(&error, reason);
        }
        note_end(&error, reason);
        tracing::debug!(target: "librdkafka", %error, reason, "client error");
    }
}

impl ConsumerContext for PlainContext {}

thread_local! {
    static END: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The end of the partition whose end this thread just polled. The event has the
/// offset, but `rdkafka` passes on its text alone.
pub(super) fn take_end() -> Option<u64> {
    END.take()
}

fn note_end(error: &KafkaError, reason: &str) {
    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
        END.set(parse_end(reason));
    }
}

fn parse_end(reason: &str) -> Option<u64> {
    let (_, rest) = reason.split_once("at offset ")?;
    rest.split(' ').next()?.parse().ok()
}

/// A change of the member's partitions.
#[derive(Debug)]
pub(super) enum Rebalance {
    Assigned(Vec<PartitionId>),
    /// Partitions to let go of, once their records that were read are committed.
    Revoked(Vec<PartitionId>),
    /// Partitions that are gone already.
    Lost(Vec<PartitionId>),
}

/// Context of a member's consumer.
pub(super) struct Membership {
    pub signal: Arc<Signal>,
    /// Whether a rebalance revokes all partitions, or only those that must move.
    pub eager: bool,
    reach: Arc<Reachability>,
    /// The number under which `reach` knows what this client is denied.
    client: u64,
    is_denied: AtomicBool,
    /// The permissions that the brokers must grant.
    needs: String,
    rebalances: Mutex<VecDeque<Rebalance>>,
    closing: AtomicBool,
}

impl Membership {
    /// `needs` says what the brokers must permit.
    pub fn new(reach: Arc<Reachability>, eager: bool, needs: String) -> Self {
        Self {
            signal: Arc::default(),
            client: reach.enrol(),
            reach,
            eager,
            is_denied: AtomicBool::new(false),
            needs,
            rebalances: Mutex::default(),
            closing: AtomicBool::new(false),
        }
    }

    pub fn next_rebalance(&self) -> Option<Rebalance> {
        self.rebalances.lock().pop_front()
    }

    /// Notes that the brokers do not let the member do its work.
    pub fn deny(&self, reason: &str) {
        self.is_denied.store(true, Ordering::Release);
        self.reach.deny(self.client, reason);
    }

    /// Notes that the brokers let the member do its work.
    pub fn permit(&self) {
        if self.is_denied.load(Ordering::Acquire) {
            self.is_denied.store(false, Ordering::Release);
            self.reach.permit(self.client);
        }
    }

    /// Has later rebalances let go of partitions at once, without asking the member.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    fn take(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        list: &TopicPartitionList,
    ) {
        let partitions = partitions(list);
        let is_assign = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            let done = if is_assign {
                assign(consumer, &TopicPartitionList::new())
            } else {
                unassign(consumer, &held(consumer, list))
            };
            if let Err(error) = done {
                tracing::debug!(%error, "partitions cannot be unassigned");
            }
            return;
        }
        let rebalance = if is_assign {
            Rebalance::Assigned(partitions)
        } else if consumer.assignment_lost() {
            Rebalance::Lost(partitions)
        } else {
            Rebalance::Revoked(partitions)
        };
        if is_assign {
            self.permit();
        }
        tracing::debug!(?rebalance, "rebalance");
        self.rebalances.lock().push_back(rebalance);
        self.signal.raise();
    }
}

impl ClientContext for Membership {
    fn log(&self, level: RDKafkaLogLevel, what: &str, message: &str) {
        log(level, what, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.reach.note(&error, reason);
        if let Some(
            RDKafkaErrorCode::GroupAuthorizationFailed | RDKafkaErrorCode::TopicAuthorizationFailed,
        ) = error.rdkafka_error_code()
        {
            self.deny(&format!("{reason}; the user needs {}", self.needs));
        }
        tracing::debug!(target: "librdkafka", %error, reason, "client error");
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.reach.permit(self.client);
    }
}

impl ConsumerContext for Membership {
    /// Only passes the rebalance on: the member assigns or lets go when it is ready.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        self.take(consumer, error, list);
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<PartitionId> {
    let id = |number: i32| u32::try_from(number).ok().map(PartitionId);
    list.elements()
        .iter()
        .filter_map(|element| id(element.partition()))
        .collect()
}

/// The listed partitions that the client still has. The client refuses to let go of
/// others, and waits for the call even where none is left.
fn held(consumer: &BaseConsumer<Membership>, list: &TopicPartitionList) -> TopicPartitionList {
    let Ok(assigned) = consumer.assignment() else {
        return list.clone();
    };
    let mut held = TopicPartitionList::new();
    for element in list.elements() {
        let (topic, partition) = (element.topic(), element.partition());
        if assigned.find_partition(topic, partition).is_some() {
            held.add_partition(topic, partition);
        }
    }
    held
}

/// Takes partitions over, as the group's protocol has it.
pub(super) fn assign(
    consumer: &BaseConsumer<Membership>,
    list: &TopicPartitionList,
) -> Result<(), KafkaError> {
    if consumer.context().eager {
        consumer.assign(list)
    } else {
        consumer.incremental_assign(list)
    }
}

/// Lets go of partitions, as the group's protocol has it: an eager one lets go of all.
pub(super) fn unassign(
    consumer: &BaseConsumer<Membership>,
    list: &TopicPartitionList,
) -> Result<(), KafkaError> {
    if consumer.context().eager {
        consumer.unassign()
    } else {
        consumer.incremental_unassign(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_read_from_the_text() {
        let text = "Fetch from broker 1 reached end of partition at offset 42 (HighwaterMark 43)";
        assert_eq!(parse_end(text), Some(42));
        assert_eq!(parse_end("something else"), None);
    }
}
