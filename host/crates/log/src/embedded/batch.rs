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
//!
//! The outputs of a game resemble each other. So a batch of some 256 KiB takes a small
//! part of its records' size, and the LSM tree has few keys.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub(super) use self::{
    read::{Batch, Records},
    write::{Builder, Encoded, join},
};

/// Batches are cut when their records reach this length.
pub(super) const RAW_BYTES_CUT: usize = 256 << 10;

const HEAD_BYTES: usize = 30;
const CHECKSUM_BYTES: usize = 8;
const FORMAT: u8 = 1;
const FLAG_LZ4: u8 = 1;
const FLAG_SPARSE: u8 = 2;

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
