//! The compile process: the host's own program once more, started with a command
//! of its own. It bounds itself, reads a plugin from standard input, which is a
//! socket, and answers on it.
//!
//! The kernel's limits are set through rustix, which the host has already. A pool of
//! cgroups needs rights that a container does not give.

use std::{
    fs::File,
    io::{self, Read as _, Write},
    os::fd::AsFd as _,
    process::ExitCode,
    thread,
};

use courtside_types::Digest;
use rustix::process::{Resource, Rlimit, Signal};

use super::{
    super::{
        check::check_complexity,
        rejection::{self, rejection},
        settings::settings,
        surface::Surface,
    },
    limits::STACK_BYTES,
    protocol::{self, AnswerFrame, Order, Task},
};
use crate::Rejection;

/// The command that makes the program a compile process; nobody types it.
pub const COMMAND: &str = "compile-plugin";

/// Compiles the plugin on standard input. The program must call this before anything
/// else begins.
#[must_use]
pub fn run() -> ExitCode {
    match answer() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The host shows this text if no answer came.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn answer() -> io::Result<()> {
    yield_to_the_host();
    let mut socket = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let order: Order = protocol::read(&mut socket)?;
    limit(&order)?;
    let mut bytes = Vec::new();
    (&socket).take(order.bytes).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != order.bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let compiling = thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || do_task(order.task, &bytes))?;
    let (answered, code) = compiling.join().unwrap_or_else(|_panic| {
        let panicked = rejection(rejection::NOT_COMPILED, "the compiler panicked");
        (rejected(panicked), Vec::new())
    });
    protocol::write(&mut socket, &answered)?;
    socket.write_all(&code)
}

/// Gives way in every respect: the process ends with the host, the kernel ends it
/// first when memory runs out, and it has the lowest priority.
fn yield_to_the_host() {
    #[cfg(target_os = "linux")]
    {
        // A failure does no harm, because the host ends this process as well.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    }
    let _ = rustix::process::setpriority_process(None, 19);
}

fn limit(order: &Order) -> io::Result<()> {
    let limit = |resource, current: u64, maximum: u64| {
        rustix::process::setrlimit(
            resource,
            Rlimit {
                current: Some(current),
                maximum: Some(maximum),
            },
        )
    };
    limit(Resource::Core, 0, 0)?;
    let seconds = order.cpu_time_max.as_millis().div_ceil(1000);
    let seconds = u64::try_from(seconds).unwrap_or(u64::MAX).max(1);
    limit(Resource::Cpu, seconds, seconds.saturating_add(1))?;
    let bytes = address_space_bytes()?.saturating_add(order.memory_bytes_max);
    limit(Resource::As, bytes, bytes)?;
    Ok(())
}

/// Bytes of address space that the program has before it begins.
fn address_space_bytes() -> io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split_ascii_whitespace().next();
    let pages: u64 = pages
        .and_then(|pages| pages.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(pages * rustix::param::page_size() as u64)
}

fn do_task(task: Task, bytes: &[u8]) -> (AnswerFrame, Vec<u8>) {
    match task {
        Task::Survey => match Surface::of(bytes) {
            Ok(surface) => (AnswerFrame::Surface(surface), Vec::new()),
            Err(rejection) => (rejected(rejection), Vec::new()),
        },
        Task::Compile => match compile(bytes) {
            Ok(code) => {
                let answered = AnswerFrame::Code {
                    bytes: code.len() as u64,
                    digest: Digest::of(&code),
                };
                (answered, code)
            }
            Err(answered) => (answered, Vec::new()),
        },
    }
}

/// Checks what can be checked without the compiler, then compiles.
fn compile(bytes: &[u8]) -> Result<Vec<u8>, AnswerFrame> {
    Surface::of(bytes)
        .and_then(|surface| surface.check())
        .and_then(|()| check_complexity(bytes))
        .map_err(rejected)?;
    let engine = wasmtime::Engine::new(&settings());
    let compiled = engine.and_then(|engine| engine.precompile_component(bytes));
    compiled.map_err(|error| {
        if error.is::<wasmtime::OutOfMemory>() {
            AnswerFrame::NoMemory
        } else {
            rejected(rejection(rejection::NOT_COMPILED, format!("{error:#}")))
        }
    })
}

fn rejected(rejection: Rejection) -> AnswerFrame {
    AnswerFrame::Rejected {
        code: rejection.code.to_owned(),
        message: rejection.message,
    }
}

#[cfg(test)]
mod tests {
    /// The compile process of all other tests of this program, whose `main` is the
    /// test harness and not ours.
    #[test]
    #[ignore = "other tests start it"]
    fn compile_process() {
        let ended = super::run();
        std::process::exit(i32::from(ended != std::process::ExitCode::SUCCESS));
    }
}
