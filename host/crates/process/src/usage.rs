//! The figures of the process, under the names that all clients of Prometheus use.
//! A figure that this system does not tell is left out.
//!
//! Four files of `/proc` and the clock have all of it. The crate `metrics-process`
//! would bring a dozen crates for that.

use std::{
    fs,
    path::Path,
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::process::{Resource, getrlimit};

use crate::{
    clock::process_cpu_time,
    exposition::{Exposition, Metric},
};

static BUILD: Metric = Metric::gauge(
    "courtside_build_info",
    "1, with the version of this host as a label.",
);
static DISK_FREE: Metric = Metric::gauge(
    "courtside_disk_free_bytes",
    "Free on the file system of the data directory.",
);
static DISK_SIZE: Metric = Metric::gauge(
    "courtside_disk_size_bytes",
    "Size of the file system of the data directory.",
);
static CPU: Metric = Metric::counter("process_cpu_seconds_total", "CPU time used.");
static FDS: Metric = Metric::gauge("process_open_fds", "Open file descriptors.");
static FDS_MAX: Metric = Metric::gauge("process_max_fds", "File descriptors that may be open.");
static RESIDENT: Metric = Metric::gauge("process_resident_memory_bytes", "Memory in use.");
static STARTED: Metric = Metric::gauge(
    "process_start_time_seconds",
    "When the host started, in seconds since 1970.",
);
static THREADS: Metric = Metric::gauge("process_threads", "Threads.");

/// When this process became a host, in seconds since the Unix epoch.
static START: OnceLock<f64> = OnceLock::new();

/// Notes when the host started.
pub fn started() {
    let _ = START.get_or_init(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.unwrap_or_default().as_secs_f64()
    });
}

/// Adds the figures of the process.
pub fn collect(out: &mut Exposition) {
    out.count(&BUILD, &[("version", env!("CARGO_PKG_VERSION"))], 1);
    out.add(&CPU, &[], process_cpu_time().as_secs_f64());
    if let Some(started) = START.get() {
        out.add(&STARTED, &[], *started);
    }
    if let Some(max) = getrlimit(Resource::Nofile).current {
        out.count(&FDS_MAX, &[], max);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // The descriptor that this very count needs is left out.
        let open = open.count().saturating_sub(1);
        out.count(&FDS, &[], open as u64);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kilobytes) = field(&status, "VmRSS") {
        out.count(&RESIDENT, &[], kilobytes.saturating_mul(1024));
    }
    if let Some(threads) = field(&status, "Threads") {
        out.count(&THREADS, &[], threads);
    }
}

/// The number in a line of `/proc/self/status`.
fn field(status: &str, name: &str) -> Option<u64> {
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.split_whitespace().next()?.parse().ok()
}

/// Adds the room on the disk where the host keeps its data.
pub fn disk(dir: &Path, out: &mut Exposition) {
    let Ok(disk) = rustix::fs::statvfs(dir) else {
        return;
    };
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    out.count(&DISK_FREE, &[], bytes(disk.f_bavail));
    out.count(&DISK_SIZE, &[], bytes(disk.f_blocks));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "VmRSSX:\t1 kB\nVmRSS:\t  2048 kB\nThreads:\t7\n";
        assert_eq!(field(status, "VmRSS"), Some(2048));
        assert_eq!(field(status, "Threads"), Some(7));
        assert_eq!(field(status, "Vm"), None);
    }

    #[test]
    fn a_process_says_what_it_uses() {
        started();
        let mut out = Exposition::default();
        collect(&mut out);
        disk(Path::new("/"), &mut out);
        let text = out.text();
        for metric in [
            &BUILD, &CPU, &FDS, &FDS_MAX, &RESIDENT, &STARTED, &THREADS, &DISK_FREE, &DISK_SIZE,
        ] {
            let Metric { name, .. } = metric;
            let sample = text.lines().find(|line| line.starts_with(name));
            let value = sample.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            assert!(value.is_some_and(|value| value > 0.0), "{name}: {sample:?}");
        }
    }
}
