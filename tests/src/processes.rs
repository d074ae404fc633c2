//! Processes that a process started, and the memory that they have.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The children of a process that run now.
#[must_use]
pub fn children(of: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id| {
            let parent = status(*id, "PPid:");
            parent.is_some_and(|parent| parent == u64::from(of))
        })
        .collect()
}

/// The most memory that a process has had, in bytes, if it still runs.
#[must_use]
pub fn memory_peak_bytes(id: u32) -> Option<u64> {
    status(id, "VmHWM:").map(|kb| kb * 1024)
}

fn status(id: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    value.split_whitespace().next()?.parse().ok()
}

/// Watches the memory of a process's children, from now until the caller asks
/// for the peak.
pub struct ChildrenWatch {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl ChildrenWatch {
    /// # Panics
    /// If no thread can be started.
    #[must_use]
    pub fn start(of: u32) -> Self {
        let (stop, peak) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, most) = (Arc::clone(&stop), Arc::clone(&peak));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for child in children(of) {
                    let bytes = memory_peak_bytes(child).unwrap_or_default();
                    most.fetch_max(bytes, Ordering::Relaxed);
                }
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Self { stop, peak, thread }
    }

    /// The most memory that one child has had, in bytes.
    ///
    /// # Panics
    /// If the watch panicked.
    #[must_use]
    pub fn peak_bytes(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watch");
        self.peak.load(Ordering::Relaxed)
    }
}
