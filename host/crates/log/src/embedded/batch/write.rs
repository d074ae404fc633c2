//! Batches that are built, compressed and joined.

use std::cell::RefCell;

use bytes::Bytes;
use courtside_types::{Header, Record};
use fjall::UserValue;
use xxhash_rust::xxh3::xxh3_64;

use super::{CHECKSUM_BYTES, HEAD_BYTES, Head, RAW_BYTES_CUT};
use crate::embedded::rows;

/// Below this length, compressing is not tried.
const COMPRESS_FROM_BYTES: usize = 512;

/// A batch that is ready to be stored.
#[derive(Clone, Debug)]
pub(in crate::embedded) struct Encoded {
    pub head: Head,
    pub value: UserValue,
}

impl Encoded {
    /// The bytes that the batch counts for in a partition: key and value.
    pub fn stored_bytes(&self) -> u64 {
        (rows::RECORD_KEY_BYTES + self.value.len()) as u64
    }

    /// Whether the batch's records can be appended to those of another batch as they are.
    pub fn is_joinable(&self) -> bool {
        !self.head.lz4 && !self.head.sparse
    }

    fn records(&self) -> &[u8] {
        self.value.get(HEAD_BYTES..).unwrap_or_default()
    }
}

/// Makes one batch of several. [`Encoded::is_joinable`] must hold for each of them.
pub(in crate::embedded) fn join(batches: &[Encoded]) -> Encoded {
    let mut joined = Builder::dense();
    joined
        .bytes
        .reserve(batches.iter().map(|batch| batch.records().len()).sum());
    for batch in batches {
        joined.bytes.extend_from_slice(batch.records());
        joined.count += batch.head.count;
        joined.timestamp_ms_max = joined.timestamp_ms_max.max(batch.head.timestamp_ms_max);
    }
    joined.last_delta = joined.count.saturating_sub(1);
    joined.seal()
}

/// Gathers the records of one batch.
#[derive(Debug)]
pub(in crate::embedded) struct Builder {
    /// Room for the head, then the records.
    bytes: Vec<u8>,
    /// The first record's offset in a sparse batch; `None` in a dense one.
    sparse_base: Option<u64>,
    count: u32,
    last_delta: u32,
    timestamp_ms_max: u64,
    appended_ms: u64,
}

impl Builder {
    /// A builder for records that get consecutive offsets.
    pub fn dense() -> Self {
        Self::new(None)
    }

    /// A builder for records that keep their offsets, the first of which is `base`.
    pub fn sparse(base: u64) -> Self {
        Self::new(Some(base))
    }

    fn new(sparse_base: Option<u64>) -> Self {
        Self {
            bytes: vec![0; HEAD_BYTES],
            sparse_base,
            count: 0,
            last_delta: 0,
            timestamp_ms_max: 0,
            appended_ms: u64::MAX,
        }
    }

    /// Sets the time of the append, in milliseconds since the Unix epoch.
    pub fn appended_at(self, appended_ms: u64) -> Self {
        Self {
            appended_ms,
            ..self
        }
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn raw_len(&self) -> usize {
        self.bytes.len() - HEAD_BYTES
    }

    /// Whether the batch is long enough, or a record of `record_bytes` would
    /// make it too long to be stored.
    pub fn is_full_for(&self, record_bytes: usize) -> bool {
        let long = self.raw_len() >= RAW_BYTES_CUT;
        let too_long = self.raw_len() + record_bytes > (1 << 30);
        self.count > 0 && (long || too_long)
    }

    /// Adds a record with the offset that comes next.
    pub fn push(
        &mut self,
        timestamp_ms: u64,
        key: Option<&Bytes>,
        headers: &[Header],
        value: Option<&Bytes>,
    ) {
        self.last_delta = self.count;
        self.put(timestamp_ms, key, headers, value);
    }

    /// Adds a record that keeps its offset. Returns false if the offset is too far from
    /// the first one.
    pub fn push_at(&mut self, record: &Record) -> bool {
        let base = self.sparse_base.unwrap_or(record.offset.0);
        let Some(delta) = record.offset.0.checked_sub(base) else {
            return false;
        };
        let Ok(delta) = u32::try_from(delta) else {
            return false;
        };
        self.last_delta = delta;
        put_varint(&mut self.bytes, delta.into());
        self.put(
            record.timestamp_ms,
            record.key.as_ref(),
            &record.headers,
            record.value.as_ref(),
        );
        true
    }

    fn put(
        &mut self,
        timestamp_ms: u64,
        key: Option<&Bytes>,
        headers: &[Header],
        value: Option<&Bytes>,
    ) {
        self.count += 1;
        self.timestamp_ms_max = self.timestamp_ms_max.max(timestamp_ms);
        put_varint(&mut self.bytes, timestamp_ms);
        put_bytes(&mut self.bytes, key.map(AsRef::as_ref));
        put_varint(&mut self.bytes, headers.len() as u64);
        for header in headers {
            put_varint(&mut self.bytes, header.name.len() as u64);
            self.bytes.extend_from_slice(header.name.as_bytes());
            put_bytes(&mut self.bytes, header.value.as_deref());
        }
        put_bytes(&mut self.bytes, value.map(AsRef::as_ref));
    }

    /// Compresses, where that pays, and closes the batch.
    pub fn seal(mut self) -> Encoded {
        let raw_len = self.raw_len();
        let mut head = Head {
            lz4: false,
            sparse: self.sparse_base.is_some(),
            count: self.count,
            last_delta: self.last_delta,
            timestamp_ms_max: self.timestamp_ms_max.min(self.appended_ms),
            raw_len: u32::try_from(raw_len).unwrap_or(u32::MAX),
        };
        if raw_len >= COMPRESS_FROM_BYTES {
            let records = self.bytes.get(HEAD_BYTES..).unwrap_or_default();
            let value = with_compressed(records, |buffer| {
                head.lz4 = true;
                close(buffer, head);
                UserValue::from(&*buffer)
            });
            if let Some(value) = value {
                return Encoded { head, value };
            }
        }
        close(&mut self.bytes, head);
        Encoded {
            head,
            value: UserValue::from(self.bytes),
        }
    }
}

/// Writes head and checksum before the records in `bytes`.
pub(super) fn close(bytes: &mut [u8], head: Head) {
    if let Some(place) = bytes.get_mut(CHECKSUM_BYTES..HEAD_BYTES) {
        place.copy_from_slice(&head.to_bytes());
    }
    if let Some((checksum, rest)) = bytes.split_first_chunk_mut() {
        *checksum = xxh3_64(rest).to_le_bytes();
    }
}

/// Calls `then` with the head's place and the compressed records, unless
/// compression saves less than an eighth.
fn with_compressed<T>(records: &[u8], then: impl FnOnce(&mut [u8]) -> T) -> Option<T> {
    thread_local! {
        // LZ4 needs a buffer larger than its output. One buffer per thread, bounded
        // by the largest batch, saves an allocation per batch.
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        let len_max = HEAD_BYTES + lz4_flex::block::get_maximum_output_size(records.len());
        if buffer.len() < len_max {
            buffer.resize(len_max, 0);
        }
        let place = buffer.get_mut(HEAD_BYTES..)?;
        let len = lz4_flex::block::compress_into(records, place).ok()?;
        if len > records.len() - records.len() / 8 {
            return None;
        }
        let compressed = buffer.get_mut(..HEAD_BYTES + len).map(then);
        if buffer.len() > 4 * RAW_BYTES_CUT {
            *buffer = Vec::new();
        }
        compressed
    })
}

fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_bytes(bytes: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => bytes.push(0),
        Some(field) => {
            put_varint(bytes, field.len() as u64 + 1);
            bytes.extend_from_slice(field);
        }
    }
}
