//! Batches that are verified, decompressed and decoded.

use bytes::Bytes;
use bytestring::ByteString;
use courtside_types::{Header, Offset, Record};
use fjall::UserValue;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Damage, HEAD_BYTES, Head,
    write::{Encoded, close},
};

/// LZ4 cannot shrink bytes by more than this.
const LZ4_RATIO_MAX: usize = 256;

/// A stored batch, verified and decompressed.
#[derive(Debug)]
pub(in crate::embedded) struct Batch {
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
pub(in crate::embedded) struct Records {
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
