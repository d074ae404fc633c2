//! Records as they are stored: in batches, as in Kafka.
//!
//! A batch is one value of the store. It carries no absolute offset (its key
//! does), so that the caller that appends can encode and compress on its own thread,
//! and the writer only gives offsets. Decoded records are slices of the one buffer
//! that was decompressed, so a caller that keeps a record's key keeps the whole batch.
//!
//! ```text
//! 0   8  xxh3 of all that follows     10  4  count       26  4  length of the records
//! 8   1  format, 1                    14  4  last offset - first offset
//! 9   1  flags: 1 LZ4, 2 sparse       18  8  latest timestamp (ms), at most the append's
//! 30  records, LZ4-compressed where that pays, each:
//!     [sparse: offset - first offset] timestamp key headers value
//! ```
//! Numbers of the header are little-endian, those of records LEB128; a length
//! is stored plus one, 0 meaning none. In a batch that is not sparse, offsets
//! follow one another, so such batches can be joined by appending one's records
//! to another's. Only compaction makes sparse ones.

use std::cell::RefCell;

use bytes::Bytes;
use bytestring::ByteString;
use courtside_types::{Header, Offset, Record};
use fjall::UserValue;
use xxhash_rust::xxh3::xxh3_64;

/// Batches are cut when their records reach this length.
pub(super) const RAW_BYTES_CUT: usize = 256 << 10;

/// Below this length, compressing is not tried.
const COMPRESS_FROM_BYTES: usize = 512;

const HEAD_BYTES: usize = 30;
const CHECKSUM_BYTES: usize = 8;
const FORMAT: u8 = 1;
const FLAG_LZ4: u8 = 1;
const FLAG_SPARSE: u8 = 2;

/// LZ4 cannot shrink bytes by more than this.
const LZ4_RATIO_MAX: usize = 256;

/// Why stored bytes are not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Damage(&'static str);

/// The head of a batch, which stands before the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    lz4: bool,
    sparse: bool,
    pub count: u32,
    /// The last record's offset minus the first record's.
    pub last_delta: u32,
    /// The latest time of the batch's records, but never later than the append. So
    /// records with times in the future do not make a batch younger than it is.
    pub timestamp_ms_max: u64,
    pub raw_len: u32,
}

impl Head {
    /// Reads the head alone, without verifying the checksum.
    pub fn parse(value: &[u8]) -> Result<Self, Damage> {
        let head = value
            .get(CHECKSUM_BYTES..HEAD_BYTES)
            .ok_or(Damage("shorter than its head"))?;
        let (&[format, flags], head) = head.split_first_chunk().ok_or(Damage("no format"))?;
        if format != FORMAT || flags & !(FLAG_LZ4 | FLAG_SPARSE) != 0 {
            return Err(Damage("unknown format"));
        }
        let (count, head) = head.split_first_chunk().ok_or(Damage("no count"))?;
        let (last_delta, head) = head.split_first_chunk().ok_or(Damage("no last offset"))?;
        let (timestamp_ms_max, head) = head.split_first_chunk().ok_or(Damage("no timestamp"))?;
        let (raw_len, _) = head.split_first_chunk().ok_or(Damage("no length"))?;
        let head = Self {
            lz4: flags & FLAG_LZ4 != 0,
            sparse: flags & FLAG_SPARSE != 0,
            count: u32::from_le_bytes(*count),
            last_delta: u32::from_le_bytes(*last_delta),
            timestamp_ms_max: u64::from_le_bytes(*timestamp_ms_max),
            raw_len: u32::from_le_bytes(*raw_len),
        };
        let dense = head.last_delta.checked_add(1) == Some(head.count);
        if head.count == 0 || head.last_delta < head.count - 1 || !(head.sparse || dense) {
            return Err(Damage("count and offsets disagree"));
        }
        Ok(head)
    }

    fn to_bytes(self) -> [u8; HEAD_BYTES - CHECKSUM_BYTES] {
        let mut bytes = [0; HEAD_BYTES - CHECKSUM_BYTES];
        let flags = u8::from(self.lz4) * FLAG_LZ4 + u8::from(self.sparse) * FLAG_SPARSE;
        let parts: [&[u8]; 5] = [
            &[FORMAT, flags],
            &self.count.to_le_bytes(),
            &self.last_delta.to_le_bytes(),
            &self.timestamp_ms_max.to_le_bytes(),
            &self.raw_len.to_le_bytes(),
        ];
        let fields = parts.into_iter().flatten();
        bytes
            .iter_mut()
            .zip(fields)
            .for_each(|(to, from)| *to = *from);
        bytes
    }
}

/// A batch that is ready to be stored.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    pub head: Head,
    pub value: UserValue,
}

impl Encoded {
    /// The bytes that the batch counts for in a partition: key and value.
    pub fn stored_bytes(&self) -> u64 {
        (super::rows::RECORD_KEY_BYTES + self.value.len()) as u64
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
pub(super) fn join(batches: &[Encoded]) -> Encoded {
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
pub(super) struct Builder {
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
fn close(bytes: &mut [u8], head: Head) {
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

/// A stored batch, verified and decompressed.
#[derive(Debug)]
pub(super) struct Batch {
    pub head: Head,
    base: u64,
    raw: Bytes,
}

impl Batch {
    pub fn parse(base: u64, value: UserValue) -> Result<Self, Damage> {
        let head = Head::parse(&value)?;
        let (checksum, rest) = value.split_first_chunk().ok_or(Damage("no checksum"))?;
        if u64::from_le_bytes(*checksum) != xxh3_64(rest) {
            return Err(Damage("the checksum is wrong"));
        }
        let stored = value.get(HEAD_BYTES..).ok_or(Damage("no records"))?;
        let raw_len = head.raw_len as usize;
        let raw = if head.lz4 {
            if raw_len / LZ4_RATIO_MAX > stored.len() {
                return Err(Damage("the length is not possible"));
            }
            let raw = lz4_flex::block::decompress(stored, raw_len)
                .map_err(|_| Damage("it does not decompress"))?;
            Bytes::from(raw)
        } else {
            Bytes::from_owner(value).slice(HEAD_BYTES..)
        };
        if raw.len() != raw_len {
            return Err(Damage("the length is wrong"));
        }
        Ok(Self { head, base, raw })
    }

    /// A batch as it is stored, but with another latest time.
    pub fn restamped(value: &UserValue, timestamp_ms_max: u64) -> Result<Encoded, Damage> {
        let head = Self::parse(0, value.clone())?.head;
        let head = Head {
            timestamp_ms_max,
            ..head
        };
        let mut bytes = value.to_vec();
        close(&mut bytes, head);
        Ok(Encoded {
            head,
            value: UserValue::from(bytes),
        })
    }

    pub fn records(self) -> Records {
        Records {
            sparse: self.head.sparse,
            last: self.base.saturating_add(self.head.last_delta.into()),
            base: self.base,
            next: self.base,
            left: self.head.count,
            raw: self.raw,
            at: 0,
        }
    }
}

/// The records of a batch, decoded one at a time.
#[derive(Debug)]
pub(super) struct Records {
    raw: Bytes,
    at: usize,
    base: u64,
    /// The smallest offset that the next record may have.
    next: u64,
    last: u64,
    left: u32,
    sparse: bool,
}

impl Iterator for Records {
    type Item = Result<Record, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let record = self.record();
        self.left = if record.is_ok() { self.left - 1 } else { 0 };
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left as usize))
    }
}

impl Records {
    fn record(&mut self) -> Result<Record, Damage> {
        let offset = if self.sparse {
            self.base.saturating_add(self.varint()?)
        } else {
            self.next
        };
        if offset < self.next || offset > self.last {
            return Err(Damage("offsets are out of order"));
        }
        self.next = offset.saturating_add(1);
        let timestamp_ms = self.varint()?;
        let key = self.bytes()?;
        let headers_count = self.length()?;
        // A header takes at least two bytes, so the bytes left bound the vector.
        let left = self.raw.len() - self.at.min(self.raw.len());
        let mut headers = Vec::with_capacity(headers_count.min(left / 2));
        for _ in 0..headers_count {
            let len = self.length()?;
            let name = ByteString::try_from(self.slice(len)?)
                .map_err(|_| Damage("a header name is not UTF-8"))?;
            let value = self.bytes()?;
            headers.push(Header { name, value });
        }
        let value = self.bytes()?;
        if self.left == 1 && (self.at != self.raw.len() || offset != self.last) {
            return Err(Damage("it does not end with its last record"));
        }
        Ok(Record {
            offset: Offset(offset),
            timestamp_ms,
            key,
            headers,
            value,
        })
    }

    fn varint(&mut self) -> Result<u64, Damage> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.raw.get(self.at).ok_or(Damage("it ends in a number"))?;
            self.at += 1;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                break;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Damage("a number is too long"))
    }

    fn length(&mut self) -> Result<usize, Damage> {
        usize::try_from(self.varint()?).map_err(|_| Damage("a length is too long"))
    }

    fn slice(&mut self, len: usize) -> Result<Bytes, Damage> {
        let end = self
            .at
            .checked_add(len)
            .filter(|end| *end <= self.raw.len());
        let end = end.ok_or(Damage("it ends in a field"))?;
        let bytes = self.raw.slice(self.at..end);
        self.at = end;
        Ok(bytes)
    }

    fn bytes(&mut self) -> Result<Option<Bytes>, Damage> {
        match self.length()? {
            0 => Ok(None),
            len => self.slice(len - 1).map(Some),
        }
    }
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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn field() -> impl Strategy<Value = Bytes> {
        // Short fields of few letters, so that some batches compress.
        prop_oneof![
            vec(b'a'..b'd', 0..40).prop_map(Bytes::from),
            vec(any::<u8>(), 0..300).prop_map(Bytes::from),
        ]
    }

    prop_compose! {
        fn header()(name in "[a-zé]{0,8}", value in option::of(field())) -> Header {
            Header { name: name.into(), value }
        }
    }

    prop_compose! {
        fn record()(
            gap in 1_u64..5000,
            timestamp_ms in any::<u64>(),
            key in option::of(field()),
            headers in vec(header(), 0..3),
            value in option::of(field()),
        ) -> Record {
            Record { offset: Offset(gap), timestamp_ms, key, headers, value }
        }
    }

    fn numbered(mut records: Vec<Record>, base: u64, sparse: bool) -> Vec<Record> {
        let mut offset = base;
        for record in &mut records {
            let gap = if sparse { record.offset.0 } else { 1 };
            record.offset = Offset(offset);
            offset += gap;
        }
        records
    }

    fn encode(records: &[Record], sparse: bool) -> Encoded {
        let mut builder = if sparse {
            Builder::sparse(records[0].offset.0)
        } else {
            Builder::dense()
        };
        for r in records {
            if sparse {
                assert!(builder.push_at(r));
            } else {
                builder.push(r.timestamp_ms, r.key.as_ref(), &r.headers, r.value.as_ref());
            }
        }
        builder.seal()
    }

    fn decode(base: u64, value: &[u8]) -> Result<Vec<Record>, Damage> {
        Batch::parse(base, UserValue::from(value))?
            .records()
            .collect()
    }

    fn resealed(mut value: Vec<u8>) -> Vec<u8> {
        if value.len() >= CHECKSUM_BYTES {
            let checksum = xxh3_64(&value[CHECKSUM_BYTES..]).to_le_bytes();
            value[..CHECKSUM_BYTES].copy_from_slice(&checksum);
        }
        value
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            records in vec(record(), 1..60), base in 0..u64::MAX / 2, sparse in any::<bool>(),
        ) {
            let records = numbered(records, base, sparse);
            let encoded = encode(&records, sparse);
            prop_assert_eq!(Head::parse(&encoded.value), Ok(encoded.head));
            prop_assert_eq!(encoded.head.count as usize, records.len());
            prop_assert_eq!(
                base + u64::from(encoded.head.last_delta),
                records[records.len() - 1].offset.0
            );
            prop_assert_eq!(decode(base, &encoded.value), Ok(records));
        }

        #[test]
        fn joined_batches_are_their_records_in_order(parts in vec(vec(record(), 1..4), 1..6)) {
            let all = numbered(parts.concat(), 7, false);
            let batches: Vec<_> = parts.iter().map(|part| encode(part, false)).collect();
            prop_assume!(batches.iter().all(Encoded::is_joinable));
            prop_assert_eq!(decode(7, &join(&batches).value), Ok(all));
        }

        #[test]
        fn damage_is_noticed(
            records in vec(record(), 1..20), sparse in any::<bool>(),
            at in any::<prop::sample::Index>(), xor in 1_u8.., cut in any::<prop::sample::Index>(),
        ) {
            let value = encode(&numbered(records, 0, sparse), sparse).value.to_vec();
            let mut changed = value.clone();
            changed[at.index(value.len())] ^= xor;
            prop_assert!(decode(0, &changed).is_err());
            prop_assert!(decode(0, &value[..cut.index(value.len())]).is_err());
        }

        /// In the test above, the checksum stops all damage before the decoder sees it.
        #[test]
        fn damage_with_the_right_checksum_does_no_harm(
            records in vec(record(), 1..20), sparse in any::<bool>(),
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut value = encode(&numbered(records, 0, sparse), sparse).value.to_vec();
            value.truncate(cut.index(value.len()) + 1);
            for (at, byte) in changes {
                let at = at.index(value.len());
                value[at] = byte;
            }
            if let Ok(records) = decode(0, &resealed(value)) {
                prop_assert!(records.is_sorted_by(|a, b| a.offset < b.offset));
            }
        }
    }

    #[test]
    fn alike_records_are_compressed_and_random_ones_are_not() {
        let alike: Vec<_> = (0..200)
            .map(|n| Record {
                offset: Offset(n),
                timestamp_ms: 1_700_000_000_000 + n,
                key: Some(Bytes::from_static(b"2025-11-20-LAL-BOS")),
                headers: vec![],
                value: Some(Bytes::from_static(br#"{"points":{"LAL":101,"BOS":99}}"#)),
            })
            .collect();
        let encoded = encode(&alike, false);
        assert!(encoded.head.lz4);
        assert!(encoded.value.len() * 5 < encoded.head.raw_len as usize);

        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as u8
        })
        .take(4096)
        .collect();
        let mut random = alike[0].clone();
        random.value = Some(Bytes::from(noise));
        assert!(!encode(&[random], false).head.lz4);
    }
}
