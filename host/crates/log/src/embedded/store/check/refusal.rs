//! The reasons for which a store is not opened.

use std::{io, path::Path};

use fjall::LsmError;

use crate::{
    LogError,
    embedded::{
        config::EmbeddedConfig,
        store::{
            errors::{is_damage, write_error},
            paths::Paths,
        },
    },
};

/// Why a store is not opened.
#[derive(Debug)]
pub(super) enum Refusal {
    Damage(String),
    Fjall(fjall::Error),
}

impl Refusal {
    pub fn file(path: &Path, what: &str) -> Self {
        Self::Damage(format!("{} {what}", path.display()))
    }

    pub fn io(path: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::file(path, "is missing"),
            io::ErrorKind::UnexpectedEof => Self::file(path, "is cut short"),
            _ => Self::Fjall(error.into()),
        }
    }

    pub fn fjall(db: &Path, error: fjall::Error) -> Self {
        if is_damage(&error) {
            let what = match error {
                fjall::Error::Storage(LsmError::ChecksumMismatch { .. }) => {
                    "a checksum of its tables".to_owned()
                }
                error => error.to_string(),
            };
            Self::file(db, &format!("is damaged: {what}"))
        } else {
            Self::Fjall(error)
        }
    }

    pub fn log_error(self, paths: &Paths, config: &EmbeddedConfig) -> LogError {
        match self {
            Self::Damage(reason) => LogError::Corrupt { reason },
            Self::Fjall(error) => write_error(&paths.db(), config, &error),
        }
    }

    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Damage(_))
    }
}
