//! Between our records and the clients'.

use std::{ffi::CStr, ptr, slice};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use rdkafka::{
    bindings,
    message::{BorrowedMessage, Header as KafkaHeader, Headers as _, Message as _, OwnedHeaders},
    producer::BaseRecord,
    types::RDKafkaRespErr,
    util::IntoOpaque,
};

use crate::types::{Header, NewRecord, Offset, PartitionId, Record, TopicPartition};

/// Copies a record out of the client's memory, into one allocation of ours.
pub(super) fn record(message: &BorrowedMessage<'_>) -> Record {
    let headers = headers(message);
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
        offset: Offset(u64::try_from(message.offset()).unwrap_or_default()),
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

/// The headers of a record. What is no UTF-8 in a name becomes U+FFFD: anybody
/// may write such a name, and the client's own way to the headers panics there.
#[allow(
    unsafe_code,
    reason = "the client has no other way to a header's name as bytes"
)]
fn headers<'m>(message: &'m BorrowedMessage<'_>) -> Vec<(ByteString, Option<&'m [u8]>)> {
    let Some(known) = message.headers() else {
        return Vec::new();
    };
    let mut headers = Vec::with_capacity(known.count());
    let mut list = ptr::null_mut();
    // SAFETY: the message lives as long as the borrow, and owns its headers,
    // which were parsed above and are changed by nobody.
    let found = unsafe { bindings::rd_kafka_message_headers(message.ptr(), &raw mut list) };
    if found != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Vec::new();
    }
    for index in 0..known.count() {
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the list is the message's, and the places outlive the call.
        let found = unsafe {
            bindings::rd_kafka_header_get_all(
                list,
                index,
                &raw mut name,
                &raw mut value,
                &raw mut size,
            )
        };
        if found != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            break;
        }
        // SAFETY: a name ends with a null byte, and lives as long as the message.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        // SAFETY: where there is a value, it has this size and lives as long.
        let value =
            (!value.is_null()).then(|| unsafe { slice::from_raw_parts(value.cast::<u8>(), size) });
        headers.push((name.as_ref().into(), value));
    }
    headers
}

/// A record of ours, to be produced. The client copies it.
pub(super) fn base_record<'a, D: IntoOpaque>(
    place: &'a TopicPartition,
    record: &'a NewRecord,
    opaque: D,
) -> BaseRecord<'a, [u8], [u8], D> {
    let mut base = BaseRecord::with_opaque_to(&place.topic, opaque)
        .partition(number(place.partition))
        .timestamp(i64::try_from(record.timestamp_ms).unwrap_or(i64::MAX));
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

/// A partition's number as the clients have it.
pub(super) fn number(partition: PartitionId) -> i32 {
    i32::try_from(partition.0).unwrap_or(i32::MAX)
}
