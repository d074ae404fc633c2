//! The thread that hears signals, and has the last word.
//!
//! It has a runtime of its own: a host whose other threads all hang hears
//! SIGTERM all the same.

use std::{io, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{OVERDUE, STATUS_OVERDUE, Shutdown, exit::exit, signals::Signals, waits};
use crate::logging;

/// A second signal within this time repeats the first one: a terminal sends SIGINT
/// to all processes of a group, and the host's parent may pass it on.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long the last line may take: nobody may read the log any more.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Hears signals from here on, for as long as the process lives. The returned channel
/// changes with each SIGHUP.
pub fn watch(shutdown: &Shutdown) -> io::Result<watch::Receiver<()>> {
    let shutdown = shutdown.clone();
    let (ready, is_ready) = crossbeam_channel::bounded(1);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let taken = runtime.and_then(|runtime| {
                let signals = runtime.block_on(async { Signals::take() })?;
                Ok((runtime, signals))
            });
            match taken {
                Ok((runtime, signals)) => {
                    drop(ready.send(Ok(signals.reload())));
                    runtime.block_on(follow(signals, &shutdown));
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
    is_ready
        .recv()
        .unwrap_or_else(|_| Err(io::Error::other("the thread for signals ended")))
}

async fn follow(mut signals: Signals, shutdown: &Shutdown) {
    let told = tokio::select! {
        signal = signals.end() => Some(signal),
        () = shutdown.token().cancelled() => None,
    };
    shutdown.begin(told);
    let begun = Instant::now();
    let overdue = Instant::from_std(shutdown.exit_by());
    loop {
        tokio::select! {
            () = sleep_until(overdue) => give_up("it did not end in time"),
            signal = signals.end() => {
                if told.is_none() || begun.elapsed() >= AGAIN_AFTER {
                    give_up(&format!("{signal} while it stopped"));
                }
            }
        }
    }
}

/// Ends the process, and says what it leaves behind.
fn give_up(why: &str) {
    let left = waits::open().join(", ");
    let why = why.to_owned();
    waits::within("the last line of the log", LAST_WORDS, move || {
        tracing::error!(
            code = OVERDUE,
            why,
            left,
            "the host ends before all its parts have ended"
        );
        logging::end(None);
    });
    exit(STATUS_OVERDUE)
}

/// Ends the process once its log is written, even while threads hang.
pub fn end_process(status: u8) -> ! {
    logging::end(None);
    exit(status)
}
