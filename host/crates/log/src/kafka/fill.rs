//! Records of a transaction on their way to the brokers: a worker fills the producer's
//! queue, and flushes it.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use courtside_types::{NewRecord, TopicPartition};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, Producer as _},
};
use rustc_hash::FxHashMap;

use super::{convert, native, producer::TransactionContext, verdict::Stage};

/// The longest time of one flush. Failed deliveries are polled for in between.
const FLUSH_TIME: Duration = Duration::from_millis(50);

fn filling(error: KafkaError) -> (Stage, KafkaError) {
    (Stage::Filling, error)
}

/// Begins a transaction, and hands its records to the client. A batch that is full is
/// sent at once, with those of the other partitions.
pub(super) fn fill(
    producer: &BaseProducer<TransactionContext>,
    records: &[(&TopicPartition, Cow<'_, NewRecord>)],
    batch_bytes_max: usize,
    deadline: Instant,
) -> Result<(), (Stage, KafkaError)> {
    producer.begin_transaction().map_err(filling)?;
    let mut batches = Batches::new(batch_bytes_max);
    for (place, record) in records {
        if !batches.add(place, record) {
            settle(producer, deadline);
            batches.begin(place, record);
        }
        let mut waiting = convert::base_record(place, record, ());
        while let Err((error, back)) = producer.send(waiting) {
            let is_full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
            if !is_full || Instant::now() >= deadline {
                return Err(filling(error));
            }
            flush(producer);
            waiting = back;
        }
    }
    Ok(())
}

/// The batches that the next flush sends: one of each partition.
struct Batches<'a> {
    bytes: FxHashMap<&'a TopicPartition, usize>,
    bytes_max: usize,
}

impl<'a> Batches<'a> {
    fn new(bytes_max: usize) -> Self {
        Self {
            bytes: FxHashMap::default(),
            bytes_max,
        }
    }

    /// Adds a record to its partition's batch, unless the batch has no room for it.
    fn add(&mut self, place: &'a TopicPartition, record: &NewRecord) -> bool {
        let bytes = self.bytes.entry(place).or_default();
        let sum = bytes.saturating_add(convert::sent_bytes_max(record));
        let has_room = *bytes == 0 || sum <= self.bytes_max;
        if has_room {
            *bytes = sum;
        }
        has_room
    }

    /// Begins new batches, the first of which has the record.
    fn begin(&mut self, place: &'a TopicPartition, record: &NewRecord) {
        self.bytes.clear();
        self.add(place, record);
    }
}

/// Sends what waits, and waits until nothing is in flight.
pub(super) fn settle(producer: &BaseProducer<TransactionContext>, deadline: Instant) {
    while producer.in_flight_count() > 0 && Instant::now() < deadline {
        flush(producer);
    }
}

pub(super) fn flush(producer: &BaseProducer<TransactionContext>) {
    native::flush(producer.client(), FLUSH_TIME);
    producer.poll(Duration::ZERO);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use courtside_types::PartitionId;

    use super::*;

    #[test]
    fn a_flush_sends_at_most_one_batch_of_each_partition() {
        let places = [0, 1].map(|partition| TopicPartition {
            topic: "scores".into(),
            partition: PartitionId(partition),
        });
        let record = |bytes: usize| NewRecord {
            timestamp_ms: 0,
            key: None,
            headers: Vec::new(),
            value: Some(Bytes::from(vec![b'x'; bytes])),
        };
        let mut batches = Batches::new(1_000);
        for place in &places {
            assert!(batches.add(place, &record(400)));
            assert!(batches.add(place, &record(400)));
            assert!(!batches.add(place, &record(400)));
        }
        // After a flush, each partition has room again.
        batches.begin(&places[0], &record(400));
        assert!(batches.add(&places[0], &record(400)));
        assert!(batches.add(&places[1], &record(800)));
        // A record larger than a batch is a batch of its own.
        batches.begin(&places[0], &record(5_000));
        assert!(!batches.add(&places[0], &record(1)));
    }
}
