//! The end of a host: who tells it to end, how long that may take, and what is
//! left behind.
//!
//! Each part of a host has a bound of its own for its end. [`last_resort`] holds
//! where a bound does not: it ends the process at the last deadline, whatever
//! the other threads do, and names what it leaves behind ([`waits`]). The module
//! lives as long as the process, and costs one thread.
//!
//! Calls of librdkafka without a bound are made on threads that can be left behind. The
//! process ends by `_exit`, because a destructor could hang, too. Acknowledged events
//! are safe from a kill at any moment.

mod exit;
mod last_resort;
mod signals;
pub mod waits;

use std::{
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

pub use self::last_resort::{end_process, watch};

/// How long a process may live after the drain deadline.
pub const GRACE: Duration = Duration::from_secs(10);
/// Time after the drain deadline that the workers, the slots and a redrive have for
/// their ends. A membership takes [`LEAVE_TIME_MAX`] of it.
const END_TIME_MAX: Duration = Duration::from_secs(8);
/// Time after the drain deadline that the record log and its readers have.
const CLOSE_TIME_MAX: Duration = Duration::from_millis(9500);
/// How long a host waits for a start that is given up.
pub const GIVE_UP_TIME_MAX: Duration = Duration::from_secs(5);
/// How long the brokers may take to let a member go.
pub const LEAVE_TIME_MAX: Duration = Duration::from_secs(4);
/// How often a host looks whether a thread has ended.
const LOOK: Duration = Duration::from_millis(2);

/// The exit status of a host that left something behind.
pub const STATUS_OVERDUE: u8 = 3;
/// The stable code of such an end, as `docs/errors.md` has it.
pub const OVERDUE: &str = "stop-overdue";

/// When a host was told to end, and by which signal, if by one.
type Begun = (Instant, Option<&'static str>);

/// Whether a host was told to end, and when.
#[derive(Clone, Debug)]
pub struct Shutdown {
    token: CancellationToken,
    begun: Arc<OnceLock<Begun>>,
    drain: Duration,
}

impl Shutdown {
    /// `drain` is how long requests and workers may take to finish.
    #[must_use]
    pub fn new(drain: Duration) -> Self {
        Self {
            token: CancellationToken::new(),
            begun: Arc::default(),
            drain,
        }
    }

    /// Tells the host to end. The first call counts.
    pub fn begin(&self, signal: Option<&'static str>) {
        self.begun.get_or_init(|| (Instant::now(), signal));
        self.token.cancel();
    }

    /// The signal that the host ends for.
    #[must_use]
    pub fn signal(&self) -> Option<&'static str> {
        self.begun.get().and_then(|(_, signal)| *signal)
    }

    /// Cancelled once the host is told to end.
    #[must_use]
    pub const fn token(&self) -> &CancellationToken {
        &self.token
    }

    fn after(&self, time: Duration) -> Instant {
        let (begun, _) = self.begun.get_or_init(|| (Instant::now(), None));
        *begun + time
    }

    /// When a host no longer waits for a start that is given up.
    #[must_use]
    pub fn give_up_by(&self) -> Instant {
        self.after(GIVE_UP_TIME_MAX)
    }

    /// When everything that processes must have ended.
    #[must_use]
    pub fn end_by(&self) -> Instant {
        self.after(self.drain + END_TIME_MAX)
    }

    /// When the record log must be closed.
    #[must_use]
    pub fn close_by(&self) -> Instant {
        self.after(self.drain + CLOSE_TIME_MAX)
    }

    /// When the process ends, whatever is left.
    #[must_use]
    pub fn exit_by(&self) -> Instant {
        self.after(self.drain + GRACE)
    }
}

/// The end of a thread that was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Clean,
    Panicked,
    /// The thread still runs, and is left behind.
    Overdue,
}

/// Waits for the end of a thread, until `by` at the latest.
pub fn end_of(name: &str, thread: JoinHandle<()>, by: Instant) -> End {
    let wait = waits::begin(name);
    while !thread.is_finished() {
        if Instant::now() >= by {
            wait.leave();
            return End::Overdue;
        }
        std::thread::sleep(LOOK);
    }
    match thread.join() {
        Ok(()) => End::Clean,
        Err(_) => End::Panicked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_in_order_and_count_from_the_first_call() {
        let shutdown = Shutdown::new(Duration::from_secs(7));
        assert!(!shutdown.token().is_cancelled());
        shutdown.begin(Some("SIGTERM"));
        let exit_by = shutdown.exit_by();
        assert!(shutdown.give_up_by() < shutdown.end_by());
        assert!(shutdown.end_by() < shutdown.close_by());
        assert!(shutdown.close_by() < exit_by);
        shutdown.begin(None);
        assert_eq!(shutdown.exit_by(), exit_by);
        assert_eq!(shutdown.signal(), Some("SIGTERM"));
        assert!(shutdown.token().is_cancelled());
        assert!(exit_by <= Instant::now() + Duration::from_secs(7) + GRACE);
    }

    #[test]
    fn a_thread_that_does_not_end_is_left_behind_by_its_name() {
        let (hold, held) = crossbeam_channel::bounded::<()>(0);
        let thread = std::thread::spawn(move || {
            held.recv().ok();
        });
        assert_eq!(end_of("stuck one", thread, Instant::now()), End::Overdue);
        let left = waits::open();
        assert!(left.iter().any(|name| name.starts_with("stuck one (")));
        drop(hold);

        let by = Instant::now() + Duration::from_secs(60);
        assert_eq!(
            end_of("quick one", std::thread::spawn(|| {}), by),
            End::Clean
        );
        let failed = std::thread::spawn(|| panic!("as planned"));
        assert_eq!(end_of("failed one", failed, by), End::Panicked);
        let left = waits::open();
        assert!(!left.iter().any(|name| name.contains("quick one")));
        assert!(!left.iter().any(|name| name.contains("failed one")));
    }
}
