//! The host's side of a compile process: starts it, feeds it, and ends it where it
//! goes over a limit, or when nobody wants the result any more.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::ExitStatusExt as _},
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use courtside_types::Digest;

use super::{
    limits::{CODE_BYTES_MAX, CompileLimits, Over},
    protocol::{self, Answer, AnswerFrame, Order, Task},
};
use crate::{
    Rejection,
    wasm::rejection::{self, rejection},
};

/// The longest time until a compile notices that it must stop.
pub const TICK: Duration = Duration::from_millis(20);
/// How many times its CPU time a compile may take by the clock, since it has the
/// lowest priority.
const CLOCK_FACTOR: u32 = 10;
const CLOCK_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a process that has closed its socket may take to end.
const END_WAIT: Duration = Duration::from_secs(10);
/// The longest message of a failed process, in bytes.
const LAST_WORDS_BYTES_MAX: u64 = 4096;

/// Why there is no answer.
#[derive(Debug)]
pub enum CompileError {
    /// The plugin went over a limit, and would again.
    Over(Over),
    /// Another failure, which says nothing about the next attempt.
    Other(Rejection),
}

/// Why the exchange with the process has no result.
enum TalkError {
    /// The process answered that the plugin went over a limit.
    Over(Over),
    Socket(io::Error),
}

impl From<io::Error> for TalkError {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

impl From<io::Error> for CompileError {
    fn from(error: io::Error) -> Self {
        Self::Other(rejection(
            rejection::NOT_TRIED,
            format!("the process that compiles it cannot start: {error}"),
        ))
    }
}

/// One plugin for one process.
pub struct Job<'a> {
    pub task: Task,
    pub bytes: &'a [u8],
    pub limits: CompileLimits,
    pub stop: &'a AtomicBool,
}

impl Job<'_> {
    /// Runs the job to its end.
    pub fn run(&self) -> Result<Answer, CompileError> {
        let (mut socket, theirs) = UnixStream::pair()?;
        socket.set_read_timeout(Some(TICK))?;
        socket.set_write_timeout(Some(TICK))?;
        let mut process = Process::start(theirs)?;
        let clock = self.limits.cpu_time_max.saturating_mul(CLOCK_FACTOR);
        let deadline = Instant::now() + clock.min(CLOCK_MAX);
        let mut interruptible = InterruptibleSocket {
            socket: &mut socket,
            stop: self.stop,
            deadline,
            ended: None,
        };
        let error = match self.talk(&mut interruptible) {
            Ok(answer) => return Ok(answer),
            Err(TalkError::Over(over)) => return Err(CompileError::Over(over)),
            Err(TalkError::Socket(error)) => error,
        };
        Err(match interruptible.ended {
            Some(WaitEnd::Stop) => CompileError::Other(stopped()),
            Some(WaitEnd::Deadline) => CompileError::Other(self.over_deadline()),
            // The process is gone or its answer is invalid; its end tells more.
            None => process.why(&error),
        })
    }

    fn talk(&self, socket: &mut InterruptibleSocket<'_>) -> Result<Answer, TalkError> {
        let order = Order {
            task: self.task,
            memory_bytes_max: self.limits.memory_bytes_max,
            cpu_time_max: self.limits.cpu_time_max,
            bytes: self.bytes.len() as u64,
        };
        protocol::write(socket, &order)?;
        socket.write_all(self.bytes)?;
        socket.socket.shutdown(Shutdown::Write)?;
        Ok(match protocol::read(socket)? {
            AnswerFrame::Surface(surface) => Answer::Surface(surface),
            AnswerFrame::Rejected { code, message } => Answer::Rejected { code, message },
            AnswerFrame::NoMemory => return Err(TalkError::Over(Over::Memory)),
            AnswerFrame::Code { bytes, digest } => {
                if bytes > CODE_BYTES_MAX {
                    return Err(TalkError::Over(Over::Code));
                }
                let mut code = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
                Read::take(socket, bytes).read_to_end(&mut code)?;
                if Digest::of(&code) != digest {
                    let error = io::Error::from(io::ErrorKind::InvalidData);
                    return Err(error.into());
                }
                Answer::Code(code)
            }
        })
    }

    fn over_deadline(&self) -> Rejection {
        let limit = self.limits.cpu_time_max;
        rejection(
            rejection::COMPILE_LIMIT,
            format!(
                "it was not compiled within {CLOCK_FACTOR} times plugin.compile_time_max ({limit:?}) by the clock: \
                 the machine is too busy, or the limit too low"
            ),
        )
    }
}

/// Why waiting for the process ended.
#[derive(Clone, Copy, Debug)]
enum WaitEnd {
    Stop,
    Deadline,
}

/// A socket that waits as long as somebody wants the answer.
struct InterruptibleSocket<'a> {
    socket: &'a mut UnixStream,
    stop: &'a AtomicBool,
    deadline: Instant,
    ended: Option<WaitEnd>,
}

impl InterruptibleSocket<'_> {
    fn wait<T>(&mut self, mut act: impl FnMut(&mut UnixStream) -> io::Result<T>) -> io::Result<T> {
        loop {
            if is_set(self.stop) {
                self.ended = Some(WaitEnd::Stop);
            } else if Instant::now() >= self.deadline {
                self.ended = Some(WaitEnd::Deadline);
            }
            if self.ended.is_some() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match act(self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                acted => return acted,
            }
        }
    }
}

impl Read for InterruptibleSocket<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.wait(|socket| socket.read(into))
    }
}

impl Write for InterruptibleSocket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(|socket| socket.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A running compile process; it ends with its owner.
struct Process(Child);

impl Process {
    fn start(socket: UnixStream) -> io::Result<Self> {
        let child = command()
            .env_clear()
            // The allocator takes addresses in large pieces, which the limit counts
            // whether they are used or not.
            .env("MIMALLOC_ARENA_RESERVE", "64MiB")
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self(child))
    }

    /// Why the process gave no answer.
    fn why(&mut self, error: &io::Error) -> CompileError {
        let is_gone = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset
        );
        let status = is_gone.then(|| self.end()).flatten();
        let Some(status) = status else {
            let words = format!("the compiler's answer cannot be read: {error}");
            return CompileError::Other(rejection(rejection::NOT_COMPILED, words));
        };
        let mut words = Vec::new();
        if let Some(stderr) = self.0.stderr.take() {
            // The process has ended, so this read does not wait.
            let _ = stderr.take(LAST_WORDS_BYTES_MAX).read_to_end(&mut words);
        }
        why(status, &String::from_utf8_lossy(&words))
    }

    /// The exit status of a process that has closed its socket. This function waits for
    /// it, because the kernel may still be at work on the process's memory.
    fn end(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + END_WAIT;
        while Instant::now() < deadline {
            match self.0.try_wait() {
                Ok(None) => std::thread::sleep(TICK),
                ended => return ended.ok().flatten(),
            }
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended needs no signal, but must be waited for all the same.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn why(status: ExitStatus, words: &str) -> CompileError {
    use rustix::process::Signal;
    let signal = status.signal();
    let is = |expected: Signal| signal == Some(expected.as_raw());
    if is(Signal::XCPU) {
        return CompileError::Over(Over::Time);
    }
    if words.contains("has overflowed its stack") {
        return CompileError::Over(Over::Stack);
    }
    // The kernel kills the process if the machine or the container is out of memory.
    if words.contains("memory allocation of") || is(Signal::KILL) {
        return CompileError::Over(Over::Memory);
    }
    let first = words.lines().find(|line| !line.trim().is_empty());
    let first = first.unwrap_or("it said nothing");
    CompileError::Other(rejection(
        rejection::NOT_COMPILED,
        format!("the compiler ended ({status}): {first}"),
    ))
}

pub fn is_set(stop: &AtomicBool) -> bool {
    stop.load(Ordering::Relaxed)
}

pub fn stopped() -> Rejection {
    rejection(
        rejection::NOT_TRIED,
        "the host stopped, or another file came, before it was compiled",
    )
}

/// The program that compiles: this one.
#[cfg(not(test))]
fn command() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(super::child::COMMAND);
    command
}

/// Tests are a program of their own, and one of its tests is the compile process.
#[cfg(test)]
fn command() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args([
        "wasm::compile::child::tests::compile_process",
        "--exact",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_says_which_limit_it_was() {
        let over = |raw: i32, words: &str| match why(ExitStatus::from_raw(raw), words) {
            CompileError::Over(over) => Some(over),
            CompileError::Other(rejection) => {
                assert_eq!(rejection.code, rejection::NOT_COMPILED);
                None
            }
        };
        use rustix::process::Signal;
        assert_eq!(over(Signal::XCPU.as_raw(), ""), Some(Over::Time));
        assert_eq!(over(Signal::KILL.as_raw(), ""), Some(Over::Memory));
        let no_memory = "memory allocation of 4096 bytes failed\n";
        assert_eq!(over(Signal::ABORT.as_raw(), no_memory), Some(Over::Memory));
        let no_stack = "\nthread 'x' has overflowed its stack\nfatal runtime error: stack overflow";
        assert_eq!(over(Signal::ABORT.as_raw(), no_stack), Some(Over::Stack));
        assert_eq!(over(Signal::SEGV.as_raw(), ""), None);
        assert_eq!(over(Signal::TERM.as_raw(), ""), None);
        assert_eq!(over(256, "no such order"), None);
    }
}
