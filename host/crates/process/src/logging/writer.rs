//! Lines on their way to a descriptor that may be closed, full, or read by nobody.
//!
//! A thread that logs leaves its line in a queue and goes on: it never waits for the
//! descriptor, and never fails. One thread writes, and is the only one that may hang.
//! The queue costs [`QUEUE_BYTES_MAX`] at most. A line that finds no room, or that
//! cannot be written, is dropped and counted, and the writer says how many are
//! missing where the gap is, once it can write again.
//!
//! The queue is our own. That of `tracing-appender` is bounded in lines and not in
//! bytes, it does not count what it fails to write, and its guard may panic as it
//! drops.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// Room for some thousand lines.
pub const QUEUE_BYTES_MAX: usize = 1024 * 1024;
/// Memory of a line beside its bytes: its place in the queue, and the allocator's part.
const LINE_OVERHEAD_BYTES: usize = 64;
/// How often the writer tries to say how many lines are missing after a failed write.
const NOTICE_RETRY: Duration = Duration::from_secs(1);

/// Lines that were dropped, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedLines {
    /// The queue had no room: nobody reads what the writer writes, or too slowly.
    pub queue_full: u64,
    /// The write failed.
    pub write_failed: u64,
}

impl DroppedLines {
    const fn total(self) -> u64 {
        self.queue_full.saturating_add(self.write_failed)
    }
}

/// The queue. A thread that pushes a line never blocks and never fails. The writer's
/// thread lives as long as the process.
#[derive(Debug, Default)]
pub struct LogQueue {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    /// Bytes of the lines among the entries.
    bytes: usize,
    is_writing: bool,
    dropped: DroppedLines,
    /// How many of the dropped lines the writer has reported.
    told: u64,
    /// When to report the other dropped lines.
    notice_at: Option<Instant>,
}

#[derive(Debug)]
enum Entry {
    Line(Box<[u8]>),
    /// Lines that found no room are missing here.
    Gap,
}

/// The writer's next step.
enum Step {
    Write(Box<[u8]>),
    /// Tell that this many lines are missing.
    Tell(u64),
}

impl LogQueue {
    /// Starts the thread that writes to `sink`; `notice` is the line that tells how
    /// many lines are missing.
    pub fn start(
        sink: impl Write + Send + 'static,
        notice: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self::default());
        let written = Arc::clone(&queue);
        let mut lines = Lines {
            sink,
            is_torn: false,
        };
        std::thread::Builder::new()
            .name("logging".to_owned())
            .spawn(move || {
                loop {
                    match written.next() {
                        Step::Write(line) => written.wrote(lines.write(&line).is_ok()),
                        Step::Tell(count) => {
                            written.told(count, lines.write(&notice(count)).is_ok());
                        }
                    }
                }
            })?;
        Ok(queue)
    }

    /// Leaves a line, with its line break, to be written.
    pub fn push(&self, line: &[u8]) {
        let mut queue = self.queue.lock();
        let bytes = queue.bytes.saturating_add(cost(line));
        if bytes > QUEUE_BYTES_MAX {
            queue.dropped.queue_full = queue.dropped.queue_full.saturating_add(1);
            if !matches!(queue.entries.back(), Some(Entry::Gap)) {
                queue.entries.push_back(Entry::Gap);
            }
        } else {
            queue.bytes = bytes;
            queue.entries.push_back(Entry::Line(line.into()));
        }
        drop(queue);
        self.changed.notify_all();
    }

    /// Waits until everything is written or dropped, but no longer than `wait_max`.
    pub fn flush(&self, wait_max: Duration) {
        let deadline = Instant::now() + wait_max;
        let mut queue = self.queue.lock();
        if queue.notice_at.is_some() {
            queue.notice_at = Some(Instant::now());
            self.changed.notify_all();
        }
        while !queue.is_idle() {
            if self.changed.wait_until(&mut queue, deadline).timed_out() {
                return;
            }
        }
    }

    #[must_use]
    pub fn dropped(&self) -> DroppedLines {
        self.queue.lock().dropped
    }

    /// Waits for something to do.
    fn next(&self) -> Step {
        let mut queue = self.queue.lock();
        loop {
            if let Some(step) = queue.step() {
                return step;
            }
            match queue.notice_at {
                Some(at) => drop(self.changed.wait_until(&mut queue, at)),
                None => self.changed.wait(&mut queue),
            }
        }
    }

    fn wrote(&self, is_written: bool) {
        let mut queue = self.queue.lock();
        queue.is_writing = false;
        if !is_written {
            queue.dropped.write_failed = queue.dropped.write_failed.saturating_add(1);
            let retry = Instant::now() + NOTICE_RETRY;
            queue.notice_at.get_or_insert(retry);
        }
        self.changed.notify_all();
    }

    fn told(&self, count: u64, is_written: bool) {
        let mut queue = self.queue.lock();
        queue.is_writing = false;
        if is_written {
            queue.told = queue.told.saturating_add(count);
            queue.notice_at = None;
        } else {
            queue.notice_at = Some(Instant::now() + NOTICE_RETRY);
        }
        self.changed.notify_all();
    }
}

/// A formatter writes an event in one call.
impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    fn is_idle(&self) -> bool {
        let is_due = self.notice_at.is_some_and(|at| at <= Instant::now());
        self.entries.is_empty() && !self.is_writing && !is_due
    }

    /// Takes the next step, if there is anything to do now.
    fn step(&mut self) -> Option<Step> {
        if matches!(self.entries.front(), Some(Entry::Gap)) {
            self.entries.pop_front();
            self.notice_at = Some(Instant::now());
        }
        let missing = self.dropped.total().saturating_sub(self.told);
        if missing == 0 {
            self.notice_at = None;
        } else if self.notice_at.is_some_and(|at| at <= Instant::now()) {
            self.is_writing = true;
            return Some(Step::Tell(missing));
        }
        let Some(Entry::Line(line)) = self.entries.pop_front() else {
            return None;
        };
        self.bytes = self.bytes.saturating_sub(cost(&line));
        self.is_writing = true;
        Some(Step::Write(line))
    }
}

fn cost(line: &[u8]) -> usize {
    line.len().saturating_add(LINE_OVERHEAD_BYTES)
}

/// Writes lines whole; a line that was torn is ended before the next.
struct Lines<W> {
    sink: W,
    /// The last write ended in the middle of a line.
    is_torn: bool,
}

impl<W: Write> Lines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.sink.write_all(b"\n")?;
            self.is_torn = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.sink.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            self.is_torn = !rest.is_empty();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
