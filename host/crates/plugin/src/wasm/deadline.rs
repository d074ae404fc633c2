//! Deadlines in CPU time.
//!
//! A thread moves the engine's epoch on every [`TICK`]; a call in progress
//! notices at its next loop or function entry and asks [`Budget`], which looks
//! at this thread's CPU clock. A host that is stopped or starved of CPU therefore
//! blames no plugin, and a call that ends before the first tick, as nearly all
//! do, never makes a system call. The clock starts at the first tick a call
//! sees, so the call may use up to two ticks more than its budget.

use std::{sync::Arc, thread, time::Duration};

use courtside_process::clock::thread_cpu_time;
use parking_lot::{Condvar, Mutex};
use wasmtime::UpdateDeadline;

use super::stop::Stop;

pub const TICK: Duration = Duration::from_millis(10);

/// The CPU time a call may use.
#[derive(Debug)]
pub struct Budget {
    max: Duration,
    /// This thread's CPU time at the first tick the call saw.
    started: Option<Duration>,
}

impl Budget {
    pub const fn new(max: Duration) -> Self {
        Self { max, started: None }
    }

    /// Resets the clock when a call begins.
    pub const fn arm(&mut self) {
        self.started = None;
    }

    /// Checks the CPU time of a call that saw a tick.
    pub fn check(&mut self) -> wasmtime::Result<UpdateDeadline> {
        let now = thread_cpu_time();
        let started = *self.started.get_or_insert(now);
        let used = now.saturating_sub(started);
        if used >= self.max {
            let max = self.max;
            // The clock started up to a tick late, so digits below 1 ms mean nothing.
            let used = Duration::from_millis(u64::try_from(used.as_millis()).unwrap_or(u64::MAX));
            return Err(Stop::Deadline { used, max }.into());
        }
        Ok(UpdateDeadline::Continue(1))
    }
}

/// The thread that ticks while there are instances; joins on drop.
#[derive(Debug)]
pub struct Ticker {
    shared: Arc<TickerControl>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct TickerControl {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    leases: usize,
    stopped: bool,
}

impl Ticker {
    pub fn start(engine: wasmtime::Engine) -> std::io::Result<Self> {
        let shared = Arc::<TickerControl>::default();
        let thread = thread::Builder::new().name("plugin-ticker".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run(&engine)
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Ticks at least as long as the lease is held.
    pub fn lease(self: &Arc<Self>) -> Lease {
        let mut state = self.shared.state.lock();
        state.leases += 1;
        if state.leases == 1 {
            self.shared.changed.notify_one();
        }
        Lease(Arc::clone(self))
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.state.lock().stopped = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // The thread cannot panic, and there is nobody to tell if it did.
            let _ = thread.join();
        }
    }
}

/// Keeps the ticker ticking.
#[derive(Debug)]
pub struct Lease(Arc<Ticker>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.shared.state.lock().leases -= 1;
    }
}

impl TickerControl {
    fn run(&self, engine: &wasmtime::Engine) {
        let mut state = self.state.lock();
        while !state.stopped {
            if state.leases == 0 {
                self.changed.wait(&mut state);
            } else if self.changed.wait_for(&mut state, TICK).timed_out() {
                engine.increment_epoch();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_starts_at_the_first_tick_and_again_at_the_next_call() {
        let mut budget = Budget::new(Duration::ZERO);
        assert!(budget.check().is_err(), "no time at all is over at once");

        let mut budget = Budget::new(Duration::from_secs(3600));
        assert!(budget.check().is_ok());
        assert!(budget.started.is_some());
        budget.arm();
        assert_eq!(budget.started, None);
    }

    #[test]
    fn a_sleeping_thread_uses_nothing_of_its_budget() {
        let mut budget = Budget::new(Duration::from_millis(40));
        assert!(budget.check().is_ok());
        thread::sleep(Duration::from_millis(80));
        assert!(budget.check().is_ok(), "slept, but was charged for it");
        while budget.check().is_ok() {
            std::hint::black_box(thread_cpu_time());
        }
    }
}
