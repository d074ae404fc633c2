//! Standard error as a descriptor of its own: without the lock and the buffer that
//! the standard library puts around it, which a write that hangs would hold.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd as _,
    time::Duration,
};

/// How soon a descriptor that had no room is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub struct Stderr(File);

impl Stderr {
    pub fn open() -> io::Result<Self> {
        let descriptor = io::stderr().as_fd().try_clone_to_owned()?;
        Ok(Self(descriptor.into()))
    }
}

impl Write for Stderr {
    /// Waits for room, also where a process that shares the descriptor made it
    /// non-blocking.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(RETRY_INTERVAL);
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
