//! The access rules, as configured.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::tokens::{Scope, Token, Tokens};

/// Without tokens, and without a file of them, reading and writing is open, and
/// operating is for the host's own machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessConfig {
    /// Read again when it changes; empty where there is none.
    pub tokens_file: PathBuf,
    /// Beside those of the file.
    pub tokens: Vec<Token>,
    /// Scopes that need no token, where there are tokens.
    pub anonymous: Vec<Scope>,
}

impl AccessConfig {
    pub fn has_file(&self) -> bool {
        !self.tokens_file.as_os_str().is_empty()
    }

    /// Whether the host has tokens.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.has_file() || !self.tokens.is_empty()
    }

    pub fn check(&self) -> Result<(), String> {
        if self.anonymous.contains(&Scope::Operate) {
            return Err(
                "anonymous: operate must not be in it, because operating always needs a token"
                    .into(),
            );
        }
        if !self.tokens.is_empty() {
            Tokens::new(self.tokens.clone()).map_err(|reason| format!("tokens: {reason}"))?;
        } else if !self.is_set() && !self.anonymous.is_empty() {
            return Err(
                "anonymous: it needs tokens beside it, because a host without tokens asks for none"
                    .into(),
            );
        }
        Ok(())
    }
}
