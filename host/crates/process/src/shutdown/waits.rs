//! A list of the things that threads wait for, by name.
//!
//! A thread that may wait for others (brokers, a disk, another thread) says so
//! for as long as it does. Only the end of the process looks at the list, and so can
//! name what it leaves behind.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

static OPEN: Mutex<Open> = Mutex::new(Open {
    next: 0,
    waits: BTreeMap::new(),
});

/// The open waits, one for each thread that waits.
struct Open {
    next: u64,
    waits: BTreeMap<u64, (String, Instant)>,
}

/// A wait, over when it is dropped.
#[derive(Debug)]
#[must_use = "the wait is over when this is dropped"]
pub struct Wait(u64);

/// Begins to wait for something.
pub fn begin(name: impl Into<String>) -> Wait {
    let mut open = OPEN.lock();
    let id = open.next;
    open.next += 1;
    open.waits.insert(id, (name.into(), Instant::now()));
    Wait(id)
}

impl Wait {
    /// Leaves the wait in the list: its thread waits no longer, and the thing that
    /// it waited for is not over.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        OPEN.lock().waits.remove(&self.0);
    }
}

/// The open waits, the oldest first, each with its age.
#[must_use]
pub fn open() -> Vec<String> {
    let open = OPEN.lock();
    let text = |(name, since): &(String, Instant)| {
        format!("{name} ({:.1} s)", since.elapsed().as_secs_f64())
    };
    open.waits.values().map(text).collect()
}

/// Runs work that may never return on a thread of its own, and waits for it at most
/// `time`. `None` says that the work is left behind, or panicked.
pub fn within<T: Send + 'static>(
    name: &str,
    time: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let wait = begin(name);
    let (done, outcome) = crossbeam_channel::bounded(1);
    let spawned = std::thread::Builder::new()
        .name("bounded-wait".to_owned())
        .spawn(move || {
            let result = work();
            drop(wait);
            // The caller may no longer wait.
            drop(done.send(result));
        });
    // Without a thread the work was dropped, unused.
    spawned.ok()?;
    outcome.recv_timeout(time).ok()
}

/// Drops a thing whose drop may wait for others, and waits for that at most `time`.
/// `false` says that the drop is left behind.
pub fn drop_within<T: Send + 'static>(name: &str, time: Duration, thing: T) -> bool {
    within(name, time, move || drop(thing)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_open(name: &str) -> bool {
        open().iter().any(|open| open.starts_with(name))
    }

    #[test]
    fn a_wait_has_its_name_as_long_as_it_lasts() {
        let wait = begin("an answer");
        assert!(is_open("an answer ("));
        drop(wait);
        assert!(!is_open("an answer ("));
    }

    #[test]
    fn what_hangs_is_left_behind_and_named_until_it_ends() {
        assert_eq!(within("a sum", Duration::from_secs(60), || 1 + 1), Some(2));
        let (hold, held) = crossbeam_channel::bounded::<()>(0);
        let hung = within("a hung call", Duration::ZERO, move || {
            held.recv().ok();
        });
        assert_eq!(hung, None);
        assert!(is_open("a hung call ("));
        drop(hold);
        let since = Instant::now();
        while is_open("a hung call (") {
            assert!(since.elapsed() < Duration::from_secs(60), "it never ended");
            std::thread::yield_now();
        }
    }
}
