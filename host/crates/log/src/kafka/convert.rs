//! Conversion between our records and the clients'.

use bytes::{Bytes, BytesMut};
use courtside_types::{Header, NewRecord, Offset, PartitionId, Record, TopicPartition};
use rdkafka::{
    message::{BorrowedMessage, Header as KafkaHeader, Message as _, OwnedHeaders},
    producer::BaseRecord,
    util::IntoOpaque,
};

use super::native;

/// Copies a record out of the client's memory, into one allocation of ours.
pub(super) fn record(message: &BorrowedMessage<'_>) -> Record {
    let headers = native::headers(message);
    let header_bytes: usize = headers
        .iter()
        .filter_map(|(_, value)| value.map(<[u8]>::len))
        .sum();
    let len = message.key_len() + message.payload_len() + header_bytes;
    let mut room = BytesMut::with_capacity(len);
    let mut copy = |bytes: &[u8]| -> Bytes {
        room.extend_from_slice(bytes);
        room.split().freeze()
    };
    Record {
        offset: offset(message),
        timestamp_ms: message
            .timestamp()
            .to_millis()
            .and_then(|ms| u64::try_from(ms).ok())
            .unwrap_or_default(),
        key: message.key().map(&mut copy),
        headers: headers
            .into_iter()
            .map(|(name, value)| Header {
                name,
                value: value.map(&mut copy),
            })
            .collect(),
        value: message.payload().map(&mut copy),
    }
}

pub(super) fn offset(message: &BorrowedMessage<'_>) -> Offset {
    Offset(u64::try_from(message.offset()).unwrap_or_default())
}

/// Stands for the time of a record that has none. Every broker takes such a record,
/// whatever bounds a topic sets, and it is read with the time 0.
pub(super) const NO_TIME_MS: u64 = u64::MAX;
const NO_TIME: i64 = -1;

/// A record of ours, to be produced. The client copies it, and gives a record of time 0
/// the time of its append.
pub(super) fn base_record<'a, D: IntoOpaque>(
    place: &'a TopicPartition,
    record: &'a NewRecord,
    opaque: D,
) -> BaseRecord<'a, [u8], [u8], D> {
    let mut base = BaseRecord::with_opaque_to(&place.topic, opaque)
        .partition(number(place.partition))
        .timestamp(match record.timestamp_ms {
            NO_TIME_MS => NO_TIME,
            time => i64::try_from(time).unwrap_or(i64::MAX),
        });
    if let Some(key) = &record.key {
        base = base.key(&**key);
    }
    if let Some(value) = &record.value {
        base = base.payload(&**value);
    }
    if !record.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        let add = |headers: OwnedHeaders, header: &Header| {
            headers.insert(KafkaHeader {
                key: &header.name,
                value: header.value.as_deref(),
            })
        };
        base = base.headers(record.headers.iter().fold(headers, add));
    }
    base
}

/// The most bytes that a record takes in a batch before its compression.
pub(super) fn sent_bytes_max(record: &NewRecord) -> usize {
    // Lengths and numbers take up to this.
    const OF_RECORD: usize = 36;
    const OF_HEADER: usize = 10;
    let headers = record.headers.len().saturating_mul(OF_HEADER);
    record
        .size()
        .saturating_add(headers)
        .saturating_add(OF_RECORD)
}

/// A partition's number as the clients have it.
pub(super) fn number(partition: PartitionId) -> i32 {
    i32::try_from(partition.0).unwrap_or(i32::MAX)
}
