//! The requests that wait for the writer.
//!
//! Appends are bounded in bytes, from the call until they are durable. Commits, joins,
//! topics and cleaning are bounded in number: each thread that asks waits for its
//! answer, so it has one request here at most.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::Request;
use crate::LogError;

/// Bytes that each append counts for besides its records, so that the number of small
/// appends is bounded too.
const APPEND_OVERHEAD_BYTES: usize = 256;

#[derive(Debug)]
pub(in super::super) struct Queue {
    inner: Mutex<Inner>,
    filled: Condvar,
    append_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Inner {
    requests: VecDeque<Request>,
    append_bytes: usize,
    /// How many requests the writer waits for; fewer need not wake it.
    wanted: usize,
    closed: bool,
}

/// How long to wait for how many requests, once the first is there.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Gather {
    pub count: usize,
    pub wait: Duration,
}

/// The outcome of [`Queue::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Taken {
    Some,
    /// No request came until the given time.
    Nothing,
    /// The queue is closed, and no request is left.
    Closed,
}

impl Queue {
    pub fn new(append_bytes_max: usize) -> Self {
        Self {
            inner: Mutex::default(),
            filled: Condvar::new(),
            append_bytes_max,
        }
    }

    /// Reserves room for an append. An append that is larger than the whole queue gets
    /// room while no other append has any.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation, LogError> {
        let bytes = bytes.saturating_add(APPEND_OVERHEAD_BYTES);
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(closed());
        }
        let total = inner.append_bytes.saturating_add(bytes);
        if total > self.append_bytes_max && inner.append_bytes > 0 {
            return Err(LogError::Busy);
        }
        inner.append_bytes = total;
        Ok(Reservation {
            queue: Arc::clone(self),
            bytes,
        })
    }

    pub fn push(&self, request: Request) -> Result<(), LogError> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(closed());
        }
        inner.requests.push_back(request);
        let is_awaited = inner.requests.len() >= inner.wanted;
        drop(inner);
        if is_awaited {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Takes requests up to about `bytes_max`. Waits for the first one (at most until
    /// `until`), and then for more as `gather` says.
    pub fn take(
        &self,
        into: &mut Vec<Request>,
        bytes_max: usize,
        until: Option<Instant>,
        gather: Gather,
    ) -> Taken {
        let mut inner = self.inner.lock();
        inner.wanted = 1;
        while inner.requests.is_empty() {
            if inner.closed {
                return Taken::Closed;
            }
            match until {
                None => self.filled.wait(&mut inner),
                Some(until) => {
                    if self.filled.wait_until(&mut inner, until).timed_out()
                        && inner.requests.is_empty()
                    {
                        return Taken::Nothing;
                    }
                }
            }
        }
        inner.wanted = gather.count;
        let deadline = Instant::now() + gather.wait;
        while inner.requests.len() < gather.count
            && !inner.closed
            && !self.filled.wait_until(&mut inner, deadline).timed_out()
        {}
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(request) = inner.requests.pop_front()
        {
            bytes += request.stored_bytes();
            into.push(request);
        }
        Taken::Some
    }

    pub fn len(&self) -> usize {
        self.inner.lock().requests.len()
    }

    /// Takes no more requests; those that wait are still given out.
    pub fn close(&self) {
        self.inner.lock().closed = true;
        self.filled.notify_all();
    }

    pub fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }

    /// Closes the queue and drops the waiting requests, so that their callers get an
    /// error rather than wait.
    pub fn abandon(&self) {
        self.close();
        let requests = std::mem::take(&mut self.inner.lock().requests);
        drop(requests);
    }
}

pub(in super::super) fn closed() -> LogError {
    LogError::Unavailable {
        reason: "the log is closed".to_owned(),
    }
}

/// Room in the queue, released when dropped.
#[derive(Debug)]
pub(in super::super) struct Reservation {
    queue: Arc<Queue>,
    bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut inner = self.queue.inner.lock();
        inner.append_bytes = inner.append_bytes.saturating_sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_given_back() {
        let queue = Arc::new(Queue::new(1000));
        let first = queue.reserve(500).unwrap();
        assert_eq!(queue.reserve(500).err(), Some(LogError::Busy));
        drop(first);
        let large = queue.reserve(5000).unwrap();
        assert_eq!(queue.reserve(1).err(), Some(LogError::Busy));
        drop(large);
        assert!(queue.reserve(1).is_ok());
    }

    #[test]
    fn a_closed_queue_takes_nothing() {
        let queue = Arc::new(Queue::new(1000));
        queue.close();
        assert_eq!(queue.reserve(1).err(), Some(closed()));
        assert_eq!(
            queue.take(&mut Vec::new(), 1, None, Gather::default()),
            Taken::Closed
        );
    }
}
