//! The output of a command: its answer to standard output, and words for a person to
//! standard error. Either may be closed, full, or read by nobody any more.
//!
//! An answer that cannot be written is an error, unless its reader has read enough
//! (`| head`). Words for a person that nobody gets are no error.

use std::io::{self, Write};

use courtside_types::coded;

/// Writes words for a person as they are.
pub fn say(text: &str) {
    let mut err = io::stderr();
    // Standard error is gone, so the failure has no reader.
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// Writes words for a person, with a line break after them.
pub fn say_line(text: &str) {
    say(&format!("{text}\n"));
}

/// Writes an answer.
pub fn write_out(bytes: &[u8]) -> anyhow::Result<()> {
    try_write(bytes).map(|_| ())
}

/// Writes an answer; `false` says that nobody reads it any more.
pub fn try_write(bytes: &[u8]) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    judge(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Whether an answer that was written this way has a reader.
pub fn judge(written: io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(unwritable(&error)),
    }
}

fn unwritable(error: &io::Error) -> anyhow::Error {
    coded!(
        "output-unwritable",
        "the answer cannot be written to standard output: {error}"
    )
}

/// Standard output for an answer that is written piece by piece. A reader that has
/// gone gets nothing more, and the command goes on to its end.
#[derive(Debug)]
pub struct Answer<W> {
    out: W,
    is_read: bool,
}

impl<W: Write> Answer<W> {
    pub const fn new(out: W) -> Self {
        let is_read = true;
        Self { out, is_read }
    }

    fn judge<T>(&mut self, written: io::Result<T>, if_gone: T) -> io::Result<T> {
        written.or_else(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => {
                self.is_read = false;
                Ok(if_gone)
            }
            io::ErrorKind::Interrupted => Err(error),
            _ => Err(io::Error::other(unwritable(&error))),
        })
    }
}

impl<W: Write> Write for Answer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_read {
            return Ok(bytes.len());
        }
        let written = self.out.write(bytes);
        self.judge(written, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.is_read {
            return Ok(());
        }
        let flushed = self.out.flush();
        self.judge(flushed, ())
    }
}

/// Standard error as a writer that never fails.
#[derive(Debug)]
pub struct Words;

impl Write for Words {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let mut answer = Answer::new(Failing(io::ErrorKind::BrokenPipe));
        assert!(answer.write_all(b"a row").is_ok());
        assert!(answer.write_all(b"another").is_ok());
        assert!(answer.flush().is_ok());
    }

    #[test]
    fn an_answer_that_cannot_be_written_is_an_error_with_a_code() {
        let mut answer = Answer::new(Failing(io::ErrorKind::StorageFull));
        let error = answer.write_all(b"a row").unwrap_err();
        assert!(
            error.to_string().starts_with("output-unwritable: "),
            "{error}"
        );
        let error = answer.flush().unwrap_err();
        assert!(
            error.to_string().starts_with("output-unwritable: "),
            "{error}"
        );
    }
}
