//! Plugins' stdout and stderr, as lines in the host's log, of which each second admits
//! a limited number. A plugin cannot tell whether a line was logged.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytestring::ByteString;
use courtside_types::Digest;
use parking_lot::Mutex;

use crate::wasm::line::one_line;

/// Lines logged for one plugin, all its instances together, in each second.
const LINES_PER_SECOND_MAX: u32 = 100;
/// Bytes of a line; the rest of a longer one is left out.
const LINE_BYTES_MAX: usize = 4 * 1024;
/// Lines of stderr remembered for a failure's message, and bytes of each.
const WORDS_LINES_MAX: usize = 3;
const WORDS_LINE_BYTES_MAX: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log of all instances of a plugin. The span of the thread that calls has the
/// slot they run in.
#[derive(Debug)]
pub struct PluginLog {
    digest: String,
    /// The plugin's name, known once it has described itself.
    name: OnceLock<ByteString>,
    rate: Mutex<Rate>,
}

impl PluginLog {
    pub fn new(digest: &Digest) -> Self {
        Self {
            digest: digest.short(),
            name: OnceLock::new(),
            rate: Mutex::new(Rate::new(Instant::now())),
        }
    }

    pub fn name_is(&self, name: ByteString) {
        // A plugin describes itself once; a second name would be the same.
        let _ = self.name.set(name);
    }

    fn line(&self, stream: Stream, line: &str) {
        let (admitted, suppressed) = self.rate.lock().admit(Instant::now());
        let plugin = self.name.get().map_or("", |name| &**name);
        let digest = self.digest.as_str();
        if suppressed > 0 {
            tracing::warn!(target: "plugin", plugin, digest, suppressed, "lines of a plugin suppressed, it writes too many");
        }
        if admitted {
            let stream = stream.name();
            tracing::info!(target: "plugin", plugin, digest, stream, "{line}");
        }
    }
}

/// How many lines the running second has seen.
#[derive(Debug)]
struct Rate {
    since: Instant,
    admitted: u32,
    suppressed: u64,
}

impl Rate {
    const fn new(now: Instant) -> Self {
        Self {
            since: now,
            admitted: 0,
            suppressed: 0,
        }
    }

    /// Whether one more line may pass, and how many lines did not in the second that
    /// this line ends.
    fn admit(&mut self, now: Instant) -> (bool, u64) {
        let mut suppressed = 0;
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            suppressed = self.suppressed;
            *self = Self::new(now);
        }
        if self.admitted < LINES_PER_SECOND_MAX {
            self.admitted += 1;
            (true, suppressed)
        } else {
            self.suppressed += 1;
            (false, suppressed)
        }
    }
}

/// The two outputs of one instance.
#[derive(Debug)]
pub struct Console {
    log: Arc<PluginLog>,
    stdout: Line,
    stderr: Line,
    /// The latest lines of stderr in the call that runs.
    words: VecDeque<String>,
}

impl Console {
    pub const fn new(log: Arc<PluginLog>) -> Self {
        Self {
            log,
            stdout: Line::new(),
            stderr: Line::new(),
            words: VecDeque::new(),
        }
    }

    pub fn begin_call(&mut self) {
        self.words.clear();
    }

    pub fn write(&mut self, stream: Stream, bytes: &[u8]) {
        for chunk in bytes.split_inclusive(|&byte| byte == b'\n') {
            let line = self.line_of(stream);
            if let Some(text) = chunk.strip_suffix(b"\n") {
                line.push(text);
                self.end_line(stream);
            } else {
                line.push(chunk);
            }
        }
    }

    /// The last lines of the plugin on stderr in this call: its panic message, if
    /// it panicked.
    pub fn last_words(&mut self) -> Option<String> {
        if !self.stderr.bytes.is_empty() {
            self.end_line(Stream::Stderr);
        }
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        (!words.is_empty()).then(|| words.join(" "))
    }

    const fn line_of(&mut self, stream: Stream) -> &mut Line {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn end_line(&mut self, stream: Stream) {
        let line = self.line_of(stream).take();
        if line.is_empty() {
            return;
        }
        self.log.line(stream, &line);
        // The standard library's hint after a panic helps nobody here.
        if stream == Stream::Stderr && !line.starts_with("note: run with") {
            if self.words.len() == WORDS_LINES_MAX {
                self.words.pop_front();
            }
            self.words.push_back(one_line(&line, WORDS_LINE_BYTES_MAX));
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.end_line(Stream::Stdout);
        self.end_line(Stream::Stderr);
    }
}

/// A line that has not ended yet.
#[derive(Debug)]
struct Line {
    bytes: Vec<u8>,
}

impl Line {
    const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    fn push(&mut self, text: &[u8]) {
        let room = LINE_BYTES_MAX.saturating_sub(self.bytes.len());
        let (kept, _) = text.split_at(text.len().min(room));
        self.bytes.extend_from_slice(kept);
    }

    /// The line as text without control characters (a terminal may be reading
    /// the log); the next one begins.
    fn take(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let line = one_line(text.trim_end(), LINE_BYTES_MAX);
        self.bytes.clear();
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console() -> Console {
        Console::new(Arc::new(PluginLog::new(&Digest::of(b""))))
    }

    #[test]
    fn a_panic_is_remembered_without_the_hint() {
        let mut console = console();
        console.write(Stream::Stdout, b"not this\n");
        console.write(
            Stream::Stderr,
            b"\nthread 'main' panicked at src/lib.rs:7:5:\nbo",
        );
        console.write(Stream::Stderr, b"om\nnote: run with `RUST_BACKTRACE=1`\n");
        assert_eq!(
            console.last_words().as_deref(),
            Some("thread 'main' panicked at src/lib.rs:7:5: boom")
        );
        console.begin_call();
        assert_eq!(console.last_words(), None);
    }

    #[test]
    fn words_are_bounded_and_an_unfinished_line_counts() {
        let mut console = console();
        for n in 0..100 {
            console.write(Stream::Stderr, format!("{n}\n").as_bytes());
        }
        console.write(Stream::Stderr, &[b'x'; 100_000]);
        assert_eq!(console.stderr.bytes.len(), LINE_BYTES_MAX);
        let words = console.last_words().unwrap();
        assert!(words.starts_with("98 99 xxx"), "{words}");
        assert!(words.len() <= WORDS_LINES_MAX * (WORDS_LINE_BYTES_MAX + 1));
    }

    #[test]
    fn bytes_that_are_not_text_do_no_harm() {
        let mut console = console();
        console.write(Stream::Stderr, b"\xff\x1b[2J\n");
        assert_eq!(console.last_words().as_deref(), Some("\u{fffd} [2J"));
    }

    #[test]
    fn a_second_admits_so_many_lines_and_the_next_says_what_it_kept_back() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for _ in 0..LINES_PER_SECOND_MAX {
            assert_eq!(rate.admit(start), (true, 0));
        }
        assert_eq!(rate.admit(start), (false, 0));
        assert_eq!(rate.admit(start), (false, 0));
        let later = start + Duration::from_secs(1);
        assert_eq!(rate.admit(later), (true, 2));
        assert_eq!(rate.admit(later), (true, 0));
    }
}
