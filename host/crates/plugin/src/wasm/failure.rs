//! Turns wasmtime's error of a call into a [`Failure`]: the limit that was broken,
//! and one line that helps the plugin's author.

use wasmtime::{Trap, WasmBacktrace};

use super::{line::one_line, state::State, stop::Stop};
use crate::{Failure, FailureKind, Limits};

/// Bytes of a failure's message, and of the parts it is made of.
const MESSAGE_BYTES_MAX: usize = 1_024;
const FRAME_BYTES_MAX: usize = 120;
const FRAMES_MAX: usize = 6;

/// Text of wasmtime's error when a plugin hands over more than the host takes. The
/// error's type is private; a test checks that the text is still the same.
const HANDED_OVER_TOO_MUCH: &str = "too much data is being copied";

/// Functions between a panic and its trap, which do not interest the author.
const PANIC_MACHINERY: [&str; 8] = [
    "std::", "core::", "alloc::", "__rust", "rust_", "abort", "_abort", "<std::",
];

/// The purpose of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Start,
    Describe,
    Open,
    Process,
    Checkpoint,
    Close,
}

impl Call {
    /// Room for bytes that no limit counts: names of formats and outputs, reasons,
    /// and the frame of each emission (about 100 bytes).
    const FUEL_BASE: usize = 64 * 1024;

    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Describe => "describe",
            Self::Open => "open",
            Self::Process => "process",
            Self::Checkpoint => "checkpoint",
            Self::Close => "close",
        }
    }

    /// The most bytes that the host copies out of the plugin each time the plugin
    /// hands something over during this call.
    pub const fn fuel(self, limits: &Limits) -> usize {
        let counted = match self {
            Self::Start | Self::Describe | Self::Open | Self::Close => 0,
            Self::Process => limits.emitted_bytes_max.saturating_mul(2),
            Self::Checkpoint => limits.checkpoint_bytes_max,
        };
        counted.saturating_add(Self::FUEL_BASE)
    }

    /// The limit broken by handing over more than [`Self::fuel`].
    const fn over_fuel(self) -> FailureKind {
        match self {
            Self::Process => FailureKind::Emitted,
            Self::Checkpoint => FailureKind::CheckpointSize,
            Self::Start | Self::Describe | Self::Open | Self::Close => FailureKind::Contract,
        }
    }
}

impl Call {
    /// The text names no total, because wasmtime stops copying at the limit.
    fn over_fuel_text(self, limits: &Limits) -> String {
        let bytes = self.fuel(limits);
        let handed = format!("it handed over more than {bytes} bytes at once");
        match self {
            Self::Process => format!(
                "{handed}, the limit emitted_bytes_max is {}",
                limits.emitted_bytes_max
            ),
            Self::Checkpoint => format!(
                "{handed}, the limit checkpoint_bytes_max is {}",
                limits.checkpoint_bytes_max
            ),
            Self::Start | Self::Describe | Self::Open | Self::Close => handed,
        }
    }
}

/// The failure of a call that wasmtime ended with an error.
pub fn failure(call: Call, error: &wasmtime::Error, state: &mut State, limits: &Limits) -> Failure {
    let cause = error.root_cause().to_string();
    let (kind, what) = if let Some(stop) = error.downcast_ref::<Stop>() {
        let kind = match stop {
            Stop::Deadline { .. } => FailureKind::Deadline,
            Stop::Waited => FailureKind::Waited,
            Stop::Exited { .. } => FailureKind::Exited,
        };
        (kind, stop.to_string())
    } else if let Some(denied) = state.memory.denied() {
        (FailureKind::Memory, format!("{denied}; then: {cause}"))
    } else if let Some(trap) = error.downcast_ref::<Trap>() {
        (FailureKind::Trap, trap.to_string())
    } else if cause.starts_with(HANDED_OVER_TOO_MUCH) {
        (call.over_fuel(), call.over_fuel_text(limits))
    } else if call == Call::Start {
        // The error is no trap and no limit: the host has no room for the instance.
        (FailureKind::Memory, cause)
    } else {
        (FailureKind::Contract, cause)
    };

    let mut message = format!("{}: {what}", call.name());
    if let Some(words) = state.wasi.console.last_words() {
        message.push_str("; it said: ");
        message.push_str(&words);
    }
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        message.push_str("; in ");
        message.push_str(&frames(backtrace));
    }
    Failure {
        kind,
        message: one_line(&message, MESSAGE_BYTES_MAX),
    }
}

/// A failure that the host found in what a call returned.
pub fn broken(call: Call, kind: FailureKind, what: impl std::fmt::Display) -> Failure {
    let message = format!("{}: {what}", call.name());
    Failure {
        kind,
        message: one_line(&message, MESSAGE_BYTES_MAX),
    }
}

/// The functions that were active, the innermost first.
fn frames(backtrace: &WasmBacktrace) -> String {
    let names: Vec<String> = backtrace
        .frames()
        .iter()
        .map(|frame| {
            frame.func_name().map_or_else(
                || format!("function {}", frame.func_index()),
                |name| {
                    let name = format!("{:#}", rustc_demangle::demangle(name));
                    one_line(&name, FRAME_BYTES_MAX)
                },
            )
        })
        .collect();
    let machinery = names
        .iter()
        .take_while(|name| PANIC_MACHINERY.iter().any(|start| name.starts_with(start)))
        .count();
    let own = names.get(machinery..).filter(|own| !own.is_empty());
    let shown: Vec<&str> = own
        .unwrap_or(&names)
        .iter()
        .take(FRAMES_MAX)
        .map(String::as_str)
        .collect();
    shown.join(" < ")
}
