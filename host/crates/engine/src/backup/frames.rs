//! A backup on its way: frames, as one end writes them and the other reads them.
//!
//! The first twelve bytes name the format. A frame is its kind and a number of
//! its own (u8 each), the lengths of a key and a value (u32, little-endian), the
//! key and the value. The last frame has the count of all before it as its key
//! and the XXH3 of all bytes before it as its value, so that a backup that is cut
//! short or damaged on the way is never taken for whole.

use std::io::{self, Read};

use xxhash_rust::xxh3::Xxh3;

use super::BackupError;

const MAGIC: &[u8; 12] = b"csbackup\x01\0\0\0";
const HEAD_BYTES: usize = 10;
/// No name or key is longer.
const KEY_BYTES_MAX: usize = 1 << 16;

const FILE: u8 = 1;
const ROW: u8 = 2;
const END: u8 = 3;
const FAILURE: u8 = 4;

/// Frames as bytes, gathered into pages for the sender.
pub struct FrameWriter {
    page: Vec<u8>,
    hash: Xxh3,
    frames: u64,
}

impl Default for FrameWriter {
    fn default() -> Self {
        let mut this = Self {
            page: Vec::new(),
            hash: Xxh3::new(),
            frames: 0,
        };
        this.put(MAGIC);
        this
    }
}

impl std::fmt::Debug for FrameWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FrameWriter({} frames)", self.frames)
    }
}

impl FrameWriter {
    pub fn file(&mut self, path: &str, bytes: &[u8]) {
        self.frame(FILE, 0, path.as_bytes(), bytes);
    }

    pub fn row(&mut self, space: u8, key: &[u8], value: &[u8]) {
        self.frame(ROW, space, key, value);
    }

    pub fn end(&mut self) {
        let (count, hash) = (self.frames.to_le_bytes(), self.hash.digest().to_le_bytes());
        self.frame(END, 0, &count, &hash);
    }

    pub fn failure(&mut self, code: &str, reason: &str) {
        self.frame(FAILURE, 0, code.as_bytes(), reason.as_bytes());
    }

    /// The frames since the last page.
    pub fn take_page(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.page)
    }

    fn frame(&mut self, kind: u8, number: u8, key: &[u8], value: &[u8]) {
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        self.put(&[kind, number]);
        self.put(&len(key));
        self.put(&len(value));
        self.put(key);
        self.put(value);
        self.frames += 1;
    }

    fn put(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.page.extend_from_slice(bytes);
    }
}

/// A part of a backup.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    File {
        path: String,
        bytes: Vec<u8>,
    },
    Row {
        space: u8,
        key: Vec<u8>,
        value: Vec<u8>,
    },
}

/// Frames, read from bytes that may end anywhere.
pub struct FrameReader<R> {
    reader: R,
    hash: Xxh3,
    frames: u64,
    begun: bool,
}

impl<R: Read> FrameReader<R> {
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            hash: Xxh3::new(),
            frames: 0,
            begun: false,
        }
    }

    /// The next frame; `None` after the last one, if all frames were whole.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, BackupError> {
        if !self.begun {
            if self.bytes(MAGIC.len())? != MAGIC {
                return Err(BackupError::CutShort(
                    "the host answers in the format of another version".to_owned(),
                ));
            }
            self.begun = true;
        }
        let expected = self.hash.digest();
        let head = self.bytes(HEAD_BYTES)?;
        let [kind, number, lengths @ ..] = &*head else {
            return Err(damaged());
        };
        let mut lengths = lengths
            .as_chunks()
            .0
            .iter()
            .map(|len| u32::from_le_bytes(*len));
        let mut len = || lengths.next().and_then(|len| usize::try_from(len).ok());
        let (Some(key), Some(value)) = (len(), len()) else {
            return Err(damaged());
        };
        if key > KEY_BYTES_MAX {
            return Err(damaged());
        }
        let (key, value) = (self.bytes(key)?, self.bytes(value)?);
        let count = self.frames;
        self.frames += 1;
        match *kind {
            FILE | END | FAILURE if *number != 0 => Err(damaged()),
            FILE => {
                let path = String::from_utf8(key).map_err(|_| damaged())?;
                Ok(Some(Frame::File { path, bytes: value }))
            }
            ROW => {
                let space = *number;
                Ok(Some(Frame::Row { space, key, value }))
            }
            END if key == count.to_le_bytes() && value == expected.to_le_bytes() => Ok(None),
            FAILURE => Err(BackupError::Host {
                code: String::from_utf8_lossy(&key).into_owned(),
                reason: String::from_utf8_lossy(&value).into_owned(),
            }),
            _ => Err(damaged()),
        }
    }

    /// Reads `len` bytes. Memory grows as bytes come, so a damaged length costs none.
    fn bytes(&mut self, len: usize) -> Result<Vec<u8>, BackupError> {
        let mut bytes = Vec::new();
        let read = (&mut self.reader)
            .take(len as u64)
            .read_to_end(&mut bytes)
            .map_err(|error: io::Error| BackupError::CutShort(error.to_string()))?;
        if read < len {
            return Err(BackupError::CutShort(
                "the answer ended before its last frame".to_owned(),
            ));
        }
        self.hash.update(&bytes);
        Ok(bytes)
    }
}

fn damaged() -> BackupError {
    BackupError::CutShort("the bytes received differ from the bytes that the host sent".to_owned())
}

#[cfg(test)]
mod tests {
    use courtside_types::failure::ErrorCode as _;

    use super::*;

    fn sent() -> Vec<u8> {
        let mut writer = FrameWriter::default();
        writer.file("plugins/a/b", b"bytes");
        writer.row(2, b"key", &[7; 300]);
        writer.row(0, b"", b"");
        writer.end();
        writer.take_page()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Frame>, BackupError> {
        let mut reader = FrameReader::new(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next_frame()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn frames_come_as_they_were_sent() {
        let frames = read(&sent()).unwrap();
        assert_eq!(frames.len(), 3);
        assert_eq!(
            frames[1],
            Frame::Row {
                space: 2,
                key: b"key".to_vec(),
                value: vec![7; 300]
            }
        );
    }

    #[test]
    fn frames_that_are_cut_or_changed_anywhere_are_never_whole() {
        let sent = sent();
        for len in 0..sent.len() {
            assert_eq!(read(&sent[..len]).unwrap_err().code(), "backup-cut-short");
        }
        for at in 0..sent.len() {
            let mut changed = sent.clone();
            changed[at] ^= 1;
            assert!(read(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_failure_of_the_host_has_its_code() {
        let mut writer = FrameWriter::default();
        writer.failure("log-corrupt", "a table is damaged");
        let error = read(&writer.take_page()).unwrap_err();
        assert_eq!(error.code(), "log-corrupt");
        assert_eq!(error.to_string(), "a table is damaged");
    }
}
