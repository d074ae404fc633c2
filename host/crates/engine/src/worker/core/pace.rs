//! How much a worker polls at once, and how often it commits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::warmup::{WARMUP_COMMIT_INTERVAL, WARMUP_POLL_BYTES, Warmup};
use crate::{pipeline::WorkerSettings, worker::processing::Budget};

/// A run of polled records is cut short once it holds more than this many times
/// `commit_bytes_max`.
const BUDGET_COMMITS: usize = 4;
/// A run is cut short after this time, because other partitions, swaps and revokes wait
/// for its end.
const RUN_TIME_MAX: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Pace {
    poll_bytes_max: usize,
    commit_interval: Duration,
    commit_bytes_max: usize,
    /// How many bytes a poll asks for: fewer after the records of a poll went over the
    /// budget.
    poll_bytes: usize,
    /// Set for a while after a swap, when polls and commits are small.
    warmup: Option<Warmup>,
    /// Set when a caller waits for the worker.
    interrupt: Arc<AtomicBool>,
}

impl Pace {
    pub fn new(settings: &WorkerSettings, interrupt: Arc<AtomicBool>) -> Self {
        Self {
            poll_bytes_max: settings.poll_bytes_max,
            commit_interval: settings.commit_interval,
            commit_bytes_max: settings.commit_bytes_max,
            poll_bytes: settings.poll_bytes_max,
            warmup: None,
            interrupt,
        }
    }

    /// Whether a caller waits for the worker.
    pub fn is_interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }

    /// How many bytes the next poll asks for.
    pub fn poll_bytes(&self) -> usize {
        match self.warmup {
            Some(_) => self.poll_bytes.min(WARMUP_POLL_BYTES),
            None => self.poll_bytes,
        }
    }

    /// The budget of a run. A poll of the smallest size has no budget, so its run goes
    /// to the end.
    pub fn budget(&self) -> Option<Budget> {
        (self.poll_bytes > 1).then(|| Budget {
            bytes_max: self.commit_bytes_max * BUDGET_COMMITS,
            time_max: RUN_TIME_MAX,
            interrupt: Arc::clone(&self.interrupt),
        })
    }

    /// Whether this many bytes, pending since then, are to be committed now.
    pub fn is_commit_due(&self, bytes: usize, since: Option<Instant>, now: Instant) -> bool {
        // Polls are this small after a run went over its budget. Each commit doubles
        // them, so the worker commits at once.
        if self.poll_bytes < self.poll_bytes_max.min(WARMUP_POLL_BYTES) {
            return true;
        }
        let interval = match self.warmup {
            Some(_) => self.commit_interval.min(WARMUP_COMMIT_INTERVAL),
            None => self.commit_interval,
        };
        bytes >= self.commit_bytes_max
            || since.is_some_and(|since| now.saturating_duration_since(since) >= interval)
    }

    /// Begins a warm-up after a swap.
    pub fn warm_up(&mut self, now: Instant) {
        self.warmup = Some(Warmup::begin(now));
    }

    /// Notes an idle poll, which may end the warm-up.
    pub fn idle(&mut self) {
        self.warmup.take_if(|warmup| warmup.ends_when_idle());
    }

    /// Notes a commit of `entities` entities, of which `opened` had to be opened.
    /// Returns true if polls grow, so the budget has to be set anew.
    pub fn committed(&mut self, entities: usize, opened: u64, now: Instant) -> bool {
        self.warmup
            .take_if(|warmup| warmup.committed(entities, opened, now));
        let grows = self.poll_bytes < self.poll_bytes_max;
        if grows {
            self.poll_bytes = (self.poll_bytes * 2).min(self.poll_bytes_max);
        }
        grows
    }

    /// Makes polls smaller, because the records of one led to too many bytes.
    pub fn shrink(&mut self) {
        self.poll_bytes = (self.poll_bytes / 8).max(1);
    }

    /// Makes polls as small as they can be. A run that took too long may take as long
    /// again, so the next try is to be the last.
    pub fn shrink_fully(&mut self) {
        self.poll_bytes = 1;
    }
}
