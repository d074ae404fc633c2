//! The host's own log: what it says of itself on standard error.
//!
//! The log must never hold the host up, nor end it. So every line goes through a
//! [`LogQueue`], also those of a panic, and the last words of a host that ends.
//!
//! One thread writes, and no other thread waits for it longer than [`END_WAIT_MAX`].
//! Commands write through the `terminal` of the crate `courtside-client`. The macros
//! `println!` and `eprintln!` panic where nobody reads, so the workspace denies them.

mod stderr;
mod writer;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal as _, Write},
    sync::{Arc, OnceLock},
    time::Duration,
};

use courtside_types::failure::OrFail as _;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::Dispatch;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, util::SubscriberInitExt as _};

use self::{
    stderr::Stderr,
    writer::{DroppedLines, LogQueue},
};
use crate::exposition::{Exposition, Metric};

/// How long a host that ends waits for its last lines to be written.
const END_WAIT_MAX: Duration = Duration::from_secs(1);
/// How long a thread that panics waits: the process may be about to abort.
const PANIC_WAIT_MAX: Duration = Duration::from_millis(100);

static DROPPED: Metric = Metric::counter(
    "courtside_logging_lines_dropped_total",
    "Lines of the host's own log that could not be written, by reason.",
);

/// A process has one standard error.
static QUEUE: OnceLock<Arc<LogQueue>> = OnceLock::new();

/// The host's own log, on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoggingConfig {
    pub format: LogFormat,
    /// Directives as of `tracing-subscriber`'s `EnvFilter`.
    pub filter: String,
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            filter: "info,fjall=warn,lsm_tree=warn,notify=warn".into(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// Logs from now on as the configuration says.
pub fn start(config: &LoggingConfig) -> anyhow::Result<()> {
    let filter = filter(config)?;
    let (format, is_terminal) = (config.format, io::stderr().is_terminal());
    let stderr = Stderr::open().or_fail("start-failed", "standard error cannot be used")?;
    let notice = move |count| notice(format, is_terminal, count);
    let queue =
        LogQueue::start(stderr, notice).or_fail("start-failed", "the log's thread cannot start")?;
    let queue = QUEUE.get_or_init(|| queue);
    dispatch(format, is_terminal, filter, Arc::clone(queue))
        .try_init()
        .or_fail("start-failed", "the process logs already")?;
    std::panic::set_hook(Box::new(panicked));
    Ok(())
}

fn filter(config: &LoggingConfig) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(&config.filter).or_fail_with("config-invalid", || {
        format!("logging.filter: {:?}", config.filter)
    })
}

fn dispatch<W>(format: LogFormat, is_terminal: bool, filter: EnvFilter, writer: W) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_terminal)
        .with_writer(writer);
    match format {
        LogFormat::Text => logs.into(),
        LogFormat::Json => logs.json().flatten_event(true).into(),
    }
}

/// The line that says how many lines are missing, in the log's own format.
fn notice(format: LogFormat, is_terminal: bool, lines: u64) -> Vec<u8> {
    let written = Arc::new(Buffer::default());
    let filter = EnvFilter::new("error");
    let dispatch = dispatch(format, is_terminal, filter, Arc::clone(&written));
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::error!(
            code = "log-lines-dropped",
            lines,
            "log lines are missing here: standard error was closed, full, or not read"
        );
    });
    std::mem::take(&mut written.0.lock())
}

/// A line in memory, as a formatter writes it.
#[derive(Debug, Default)]
struct Buffer(Mutex<Vec<u8>>);

impl Write for &Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn panicked(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let backtrace = Some(Backtrace::capture());
    let backtrace = backtrace.filter(|it| it.status() == BacktraceStatus::Captured);
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    tracing::error!(
        thread = thread.name(),
        location = panic.location().map(ToString::to_string),
        panic = text,
        backtrace = backtrace.map(|backtrace| backtrace.to_string()),
        "thread panicked",
    );
    if let Some(queue) = QUEUE.get() {
        queue.flush(PANIC_WAIT_MAX);
    }
}

/// Says a host's last words in plain text, as a command does, and waits a moment for
/// all of its log to be written.
pub fn end(last_words: Option<&str>) {
    let Some(queue) = QUEUE.get() else {
        return;
    };
    if let Some(words) = last_words {
        queue.push(format!("{words}\n").as_bytes());
    }
    queue.flush(END_WAIT_MAX);
}

/// Adds the figures of the lines that could not be written.
pub fn collect(out: &mut Exposition) {
    let DroppedLines {
        queue_full,
        write_failed,
    } = QUEUE.get().map(|queue| queue.dropped()).unwrap_or_default();
    for (reason, lines) in [("unread", queue_full), ("unwritable", write_failed)] {
        out.count(&DROPPED, &[("reason", reason)], lines);
    }
}

#[cfg(test)]
mod tests;
