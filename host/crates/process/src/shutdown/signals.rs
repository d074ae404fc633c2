//! The signals that a host takes. `docs/deploy.md` has the table.
//!
//! A handler stays in place until the process ends, so that no signal cuts a clean
//! stop short, however late it comes. SIGPIPE is ignored by Rust's own start.

use std::io;

use rustix::process::Signal as Number;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// Each of these signals would end a process that does not handle it, and means
/// nothing to a host. With XFSZ handled, a write over the limit on file sizes fails,
/// and the host goes on.
const IGNORED: [Number; 3] = [Number::USR1, Number::USR2, Number::XFSZ];

#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    reload: watch::Receiver<()>,
}

impl Signals {
    /// Takes the signals from now on.
    pub fn take() -> io::Result<Self> {
        for number in IGNORED {
            // A handler outlives its listener.
            drop(signal(SignalKind::from_raw(number.as_raw()))?);
        }
        let hangup = signal(SignalKind::hangup())?;
        let (ask, reload) = watch::channel(());
        tokio::spawn(ask_for_reloads(hangup, ask));
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            reload,
        })
    }

    /// Waits for a signal that ends the host cleanly, and returns its name.
    pub async fn end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }

    /// A channel that changes with each SIGHUP.
    pub fn reload(&self) -> watch::Receiver<()> {
        self.reload.clone()
    }
}

async fn ask_for_reloads(mut hangup: Signal, ask: watch::Sender<()>) {
    while hangup.recv().await.is_some() {
        tracing::info!(
            signal = "SIGHUP",
            "the files of tokens and certificates are read again, if there are any"
        );
        // A host without files to reload has no listener.
        let _ = ask.send(());
    }
}
