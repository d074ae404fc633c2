//! Errors that keep play from sending anything.

use std::{io, path::PathBuf};

use courtside_types::failure::ErrorCode;

/// Why a play does not begin. The code stands first in the text, because it is
/// what scripts and `docs/errors.md` go by.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    #[error("play-file-unreadable: {path} cannot be read: {source}", path = .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(
        "play-file-is-directory: {path} is a directory; name the files in it, \
         for instance {path}/*.ndjson",
        path = .path.display()
    )]
    Directory { path: PathBuf },
    /// The first line of the input that is no event.
    #[error("play-broken-line: {file}:{line}: {reason}")]
    BrokenLine {
        file: String,
        line: usize,
        reason: String,
    },
    #[error("play-nothing: the input has no event")]
    Nothing,
}

impl ErrorCode for PlayError {
    fn code(&self) -> &str {
        match self {
            Self::Unreadable { .. } => "play-file-unreadable",
            Self::Directory { .. } => "play-file-is-directory",
            Self::BrokenLine { .. } => "play-broken-line",
            Self::Nothing => "play-nothing",
        }
    }
}
