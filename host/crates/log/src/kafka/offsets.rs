//! Sends the offsets of transactions on a thread of its own.
//!
//! The client's call for it takes a time limit and waits without one: it counts
//! on answers and on the ends of connections, and a coordinator that dies at the
//! wrong moment gives it neither (librdkafka's issues 5456 and 5511). A worker
//! that waited in it could neither let go of partitions nor end. So the worker
//! waits here, for a bounded time. A call that hangs keeps its thread and its
//! producer until it returns, which it does when a connection comes or goes; the
//! worker goes on with a new producer, whose beginning ends the transaction.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender};
use rdkafka::{
    TopicPartitionList,
    consumer::ConsumerGroupMetadata,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, Producer as _},
};

use super::producer::{TransactionContext, left, retry};

/// How much later than the deadline the client's own error may come.
const CLIENT_DELAY_MAX: Duration = Duration::from_millis(500);

/// Offsets to send, and the transaction and the member that they are for.
pub(super) struct Sending {
    pub producer: Arc<BaseProducer<TransactionContext>>,
    pub offsets: TopicPartitionList,
    pub identity: Arc<ConsumerGroupMetadata>,
}

/// Why offsets were not sent.
#[derive(Debug)]
pub(super) enum NotSent {
    Failed(KafkaError),
    /// The client does not return. Its producer can no longer be used.
    Hangs,
}

/// Sends offsets on a thread, which begins with the first ones. A new thread replaces
/// one that hangs.
#[derive(Default)]
pub(super) struct OffsetSender {
    thread: Option<Thread>,
}

struct Thread {
    inbox: Sender<(Sending, Instant)>,
    outcomes: Receiver<Result<(), KafkaError>>,
}

impl OffsetSender {
    /// Sends offsets. `meanwhile` runs until it is done, and should end once the answer
    /// is there, which its argument tells.
    pub fn send(
        &mut self,
        sending: Sending,
        deadline: Instant,
        meanwhile: impl FnOnce(&dyn Fn() -> bool),
    ) -> Result<(), NotSent> {
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => Thread::start(send)?,
        };
        let sent = thread.wait(sending, deadline, meanwhile);
        // Only a thread that answered is kept. One that hangs ends with its call.
        if !matches!(sent, Err(NotSent::Hangs)) {
            self.thread = Some(thread);
        }
        sent
    }
}

impl Thread {
    fn start(
        send: impl Fn(&Sending, Instant) -> Result<(), KafkaError> + Send + 'static,
    ) -> Result<Self, NotSent> {
        let (inbox, sendings) = crossbeam_channel::bounded::<(Sending, Instant)>(1);
        let (report, outcomes) = crossbeam_channel::bounded(1);
        let spawned = std::thread::Builder::new()
            .name("send-offsets".to_owned())
            .spawn(move || {
                while let Ok((sending, deadline)) = sendings.recv() {
                    let outcome = send(&sending, deadline);
                    drop(sending);
                    if report.send(outcome).is_err() {
                        break;
                    }
                }
            });
        match spawned {
            Ok(_) => Ok(Self { inbox, outcomes }),
            Err(error) => {
                tracing::warn!(%error, "thread that sends offsets cannot start");
                let code = RDKafkaErrorCode::CriticalSystemResource;
                Err(NotSent::Failed(KafkaError::Global(code)))
            }
        }
    }

    fn wait(
        &self,
        sending: Sending,
        deadline: Instant,
        meanwhile: impl FnOnce(&dyn Fn() -> bool),
    ) -> Result<(), NotSent> {
        let sent = self.inbox.send((sending, deadline));
        sent.map_err(|_| NotSent::Hangs)?;
        meanwhile(&|| !self.outcomes.is_empty());
        match self.outcomes.recv_deadline(deadline + CLIENT_DELAY_MAX) {
            Ok(outcome) => outcome.map_err(NotSent::Failed),
            Err(_) => Err(NotSent::Hangs),
        }
    }
}

fn send(sending: &Sending, deadline: Instant) -> Result<(), KafkaError> {
    retry(deadline, || {
        sending.producer.send_offsets_to_transaction(
            &sending.offsets,
            &sending.identity,
            left(deadline),
        )
    })
}

#[cfg(test)]
mod tests {
    use rdkafka::{
        ClientConfig,
        consumer::{BaseConsumer, Consumer as _},
    };

    use super::*;

    /// Offsets of a group, for a producer that no broker hears.
    fn sending() -> Sending {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1");
        config.set("group.id", "g");
        let consumer: BaseConsumer = config.create().unwrap();
        let identity = consumer.group_metadata().unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1");
        Sending {
            producer: Arc::new(
                config
                    .create_with_context(TransactionContext::default())
                    .unwrap(),
            ),
            offsets: TopicPartitionList::new(),
            identity: Arc::new(identity),
        }
    }

    #[test]
    fn a_call_that_hangs_is_left_behind_and_the_next_one_is_made() {
        let (hold, held) = crossbeam_channel::bounded::<()>(0);
        let hanging = Thread::start(move |_, _| {
            held.recv().ok();
            Ok(())
        });
        let mut sender = OffsetSender {
            thread: Some(hanging.unwrap()),
        };
        let sent = sender.send(sending(), Instant::now(), |_| {});
        assert!(matches!(sent, Err(NotSent::Hangs)), "{sent:?}");
        assert!(sender.thread.is_none());
        // Without a transaction the client refuses: the call was made, and returned.
        let deadline = Instant::now() + Duration::from_secs(60);
        let sent = sender.send(sending(), deadline, |_| {});
        assert!(matches!(sent, Err(NotSent::Failed(_))), "{sent:?}");
        assert!(sender.thread.is_some());
        drop(hold);
    }
}
