//! Errors that end a command or the start of a host. Each has a stable code, which stays
//! a value of its own on its way through `anyhow`.

use std::{borrow::Cow, error::Error, fmt};

/// An error of a part, with its stable code of `docs/errors.md`.
pub trait ErrorCode: Error + Send + Sync + 'static {
    fn code(&self) -> &str;
}

/// An error that ends a command or a start, with its stable code of `docs/errors.md`.
#[derive(Debug)]
pub struct Failure {
    code: Cow<'static, str>,
    reason: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    pub fn new(code: impl Into<Cow<'static, str>>, reason: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            reason: reason.into(),
            source: None,
        }
    }

    /// The failure that an error of a part leads to.
    pub fn of(error: impl ErrorCode) -> Self {
        Self {
            code: error.code().to_owned().into(),
            reason: error.to_string(),
            source: Some(Box::new(error)),
        }
    }

    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.reason)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let source = self.source.as_deref()?;
        Some(source)
    }
}

/// The code of the first failure in an error's chain.
#[must_use]
pub fn code_of(error: &anyhow::Error) -> Option<&str> {
    let mut chain = error.chain();
    chain.find_map(|cause| cause.downcast_ref::<Failure>().map(Failure::code))
}

/// Makes a [`Failure`] of a code and a formatted reason, as an [`anyhow::Error`].
#[macro_export]
macro_rules! coded {
    ($code:expr, $($reason:tt)+) => {
        ::anyhow::Error::new($crate::failure::Failure::new($code, ::std::format!($($reason)+)))
    };
}

/// Gives errors a code and a reason; the error itself becomes their cause.
pub trait OrFail<T> {
    fn or_fail(self, code: &'static str, reason: impl Into<String>) -> anyhow::Result<T>;
    fn or_fail_with(self, code: &'static str, reason: impl FnOnce() -> String)
    -> anyhow::Result<T>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> OrFail<T> for Result<T, E> {
    fn or_fail(self, code: &'static str, reason: impl Into<String>) -> anyhow::Result<T> {
        self.or_fail_with(code, || reason.into())
    }

    fn or_fail_with(
        self,
        code: &'static str,
        reason: impl FnOnce() -> String,
    ) -> anyhow::Result<T> {
        self.map_err(|error| {
            anyhow::Error::new(Failure {
                source: Some(error.into()),
                ..Failure::new(code, reason())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_code_stays_a_value_through_contexts() {
        let error = Err::<(), _>(std::io::Error::other("it burns"))
            .or_fail("file-unreadable", "games")
            .context("while it starts")
            .unwrap_err();
        assert_eq!(code_of(&error), Some("file-unreadable"));
        assert_eq!(
            format!("{error:#}"),
            "while it starts: file-unreadable: games: it burns"
        );
        let plain = anyhow::anyhow!("usage: not a code");
        assert_eq!(code_of(&plain), None);
    }
}
