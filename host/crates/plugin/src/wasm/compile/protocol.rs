//! The protocol between a host and its compile process: a frame each way, with a
//! length and a value in postcard, and the bytes that the value announces.

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use courtside_types::Digest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::super::surface::Surface;

/// The longest value, without the bytes behind it: a component can have many exports
/// and imports.
const FRAME_BYTES_MAX: usize = 16 << 20;

/// A job for a compile process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Say what the component exports and imports.
    Survey,
    /// Check and compile it.
    Compile,
}

/// The first frame; the plugin's bytes follow.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub task: Task,
    pub memory_bytes_max: u64,
    pub cpu_time_max: Duration,
    pub bytes: u64,
}

/// The answer; if it announces code, the code follows.
#[derive(Debug, Serialize, Deserialize)]
pub enum AnswerFrame {
    Surface(Surface),
    Rejected {
        code: String,
        message: String,
    },
    /// The process had no memory left, and noticed that itself.
    NoMemory,
    Code {
        bytes: u64,
        digest: Digest,
    },
}

/// An answer with its code.
#[derive(Debug)]
pub enum Answer {
    Surface(Surface),
    Rejected { code: String, message: String },
    Code(Vec<u8>),
}

pub fn frame<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let value = postcard::to_stdvec(value).map_err(io::Error::other)?;
    let length = u32::try_from(value.len())
        .ok()
        .filter(|length| *length as usize <= FRAME_BYTES_MAX)
        .ok_or_else(|| io::Error::other("a frame is too large"))?;
    Ok([&length.to_le_bytes()[..], &value].concat())
}

pub fn write<T: Serialize>(to: &mut impl Write, value: &T) -> io::Result<()> {
    to.write_all(&frame(value)?)
}

pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut value = vec![0; length];
    from.read_exact(&mut value)?;
    postcard::from_bytes(&value).map_err(io::Error::other)
}
