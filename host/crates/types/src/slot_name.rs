//! The names of slots, and the files they come from.
//!
//! A slot is named by its file, such as `scores/keys/2026-11-20-LAL-BOS`. So a game
//! called `default` is not the default slot.

use std::{fmt, path::PathBuf};

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use serde::{Deserialize, Serialize};

use crate::{Digest, Key};

/// A slot within its pipeline.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotName {
    /// Every key that has no slot of its own.
    Default,
    /// One key.
    Key(Key),
    /// One key too long for a file name, by its SHA-256.
    Hashed(Digest),
}

const DEFAULT_FILE: &str = "default.wasm";
const KEYS_DIR: &str = "keys";
const EXTENSION: &str = ".wasm";
const HASHED: &str = "sha256-";

/// The bytes that are percent-encoded in a file name: all but ASCII letters, digits,
/// `.`, `_` and `-`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b'-');

/// Linux takes file names of up to 255 bytes.
const FILE_NAME_BYTES_MAX: usize = 255;

impl SlotName {
    /// The slot of one key.
    #[must_use]
    pub fn of_key(key: &[u8]) -> Self {
        let slot = Self::Key(Bytes::copy_from_slice(key));
        if slot.stem().len() + EXTENSION.len() > FILE_NAME_BYTES_MAX {
            Self::Hashed(Digest::of(key))
        } else {
            slot
        }
    }

    /// The slot of a file in a pipeline's `keys` directory.
    #[must_use]
    pub fn from_key_file(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(EXTENSION)?;
        if stem.is_empty() || stem.starts_with('.') {
            return None;
        }
        if let Some(digest) = stem.strip_prefix(HASHED)
            && let Ok(digest) = digest.parse()
        {
            return Some(Self::Hashed(digest));
        }
        let key: Vec<u8> = percent_decode_str(stem).collect();
        Some(Self::Key(key.into()))
    }

    /// The slot's file, below the pipeline's directory.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        match self {
            Self::Default => DEFAULT_FILE.into(),
            _ => PathBuf::from(KEYS_DIR).join(format!("{}{EXTENSION}", self.stem())),
        }
    }

    /// The directory of the slots of single keys, below the pipeline's.
    #[must_use]
    pub const fn keys_dir() -> &'static str {
        KEYS_DIR
    }

    /// Whether a key's events come to this slot, where it has a plugin.
    #[must_use]
    pub fn covers(&self, key: &[u8]) -> bool {
        match self {
            Self::Default => true,
            Self::Key(own) => own == key,
            Self::Hashed(digest) => *digest == Digest::of(key),
        }
    }

    fn stem(&self) -> String {
        match self {
            Self::Default => "default".into(),
            Self::Key(key) => {
                let stem = percent_encode(key, ENCODED).to_string();
                // A file whose name begins with a dot is hidden, and one that
                // begins like a hash is taken for one.
                if let Some(rest) = stem.strip_prefix('.') {
                    format!("%2E{rest}")
                } else if let Some(rest) = stem.strip_prefix(HASHED) {
                    format!("sha256%2D{rest}")
                } else {
                    stem
                }
            }
            Self::Hashed(digest) => format!("{HASHED}{digest}"),
        }
    }

    /// The slot of a key as an address has it: percent-encoded, as in the name of
    /// its file or another way.
    #[must_use]
    pub fn of_stem(stem: &str) -> Option<Self> {
        match Self::from_key_file(&format!("{stem}{EXTENSION}")) {
            Some(Self::Hashed(digest)) => Some(Self::Hashed(digest)),
            _ if stem.is_empty() => None,
            _ => {
                let key: Vec<u8> = percent_decode_str(stem).collect();
                Some(Self::of_key(&key))
            }
        }
    }

    /// The slot of a name as [`fmt::Display`] writes it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name.strip_prefix("keys/") {
            None => (name == "default").then_some(Self::Default),
            Some(stem) => Self::from_key_file(&format!("{stem}{EXTENSION}")),
        }
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            _ => write!(f, "{KEYS_DIR}/{}", self.stem()),
        }
    }
}

/// Serializes a name as [`fmt::Display`] writes it.
impl Serialize for SlotName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SlotName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| serde::de::Error::custom(format!("no slot: {name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_file_name() {
        let slot = SlotName::of_key(b"LAL-BOS");
        assert_eq!(slot.file(), PathBuf::from("keys/LAL-BOS.wasm"));
        assert_eq!(SlotName::from_key_file("LAL-BOS.wasm"), Some(slot));
    }

    #[test]
    fn names_survive_both_ways() {
        for key in [
            "a/b",
            "..",
            "50%",
            "sha256-abc",
            ".hidden",
            "Dončić",
            " ",
            "\u{1}",
        ] {
            let slot = SlotName::of_key(key.as_bytes());
            let file = slot.file();
            let name = file.file_name().unwrap().to_str().unwrap();
            assert_eq!(SlotName::from_key_file(name), Some(slot.clone()), "{name}");
            assert_eq!(SlotName::parse(&slot.to_string()), Some(slot), "{name}");
        }
    }

    #[test]
    fn a_key_that_looks_like_a_hash_is_a_key() {
        let key = format!("sha256-{}", Digest::of(b"x"));
        let slot = SlotName::of_key(key.as_bytes());
        let file = slot.file();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert_eq!(SlotName::from_key_file(name), Some(slot));
    }

    #[test]
    fn a_key_too_long_goes_by_its_hash() {
        let key = [b'%'; 128];
        let slot = SlotName::of_key(&key);
        assert_eq!(slot, SlotName::Hashed(Digest::of(&key)));
        assert!(slot.covers(&key));
        assert_eq!(SlotName::parse(&slot.to_string()), Some(slot));
    }

    #[test]
    fn other_files_are_no_slots() {
        for name in ["x.txt", ".wasm", ".hidden.wasm", "x.wasm.tmp"] {
            assert_eq!(SlotName::from_key_file(name), None, "{name}");
        }
    }
}
