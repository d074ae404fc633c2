//! CPU time by kind of thread, as `/proc` counts it.

use std::{collections::BTreeMap, fs, time::Duration};

/// The unit in which `/proc` counts time.
pub const TICK: Duration = Duration::from_millis(10);

/// CPU time that the threads of this process have had, by the name of their kind.
#[derive(Clone, Debug, Default)]
pub struct CpuTimes(BTreeMap<String, Duration>);

impl CpuTimes {
    pub fn now() -> Self {
        let mut times = BTreeMap::<String, Duration>::new();
        let threads = fs::read_dir("/proc/self/task").expect("the threads of this process");
        for thread in threads.flatten() {
            // A thread may have ended since.
            let Ok(stat) = fs::read_to_string(thread.path().join("stat")) else {
                continue;
            };
            let (name, time) = parse(&stat);
            *times.entry(kind(name)).or_default() += time;
        }
        Self(times)
    }

    /// Prints the time since `before` of each kind, in microseconds an event.
    pub fn print_since(&self, before: &Self, events: usize) {
        let mut rows: Vec<_> = self
            .0
            .iter()
            .map(|(kind, time)| {
                let earlier = before.0.get(kind).copied().unwrap_or_default();
                (time.saturating_sub(earlier), kind)
            })
            .collect();
        rows.sort_unstable_by(|one, other| other.cmp(one));
        let all: Duration = rows.iter().map(|(time, _)| *time).sum();
        let rows: Vec<_> = rows
            .iter()
            .filter(|(time, _)| *time * 100 > all)
            .map(|(time, kind)| format!("{kind} {:.2}", an_event(*time, events)))
            .collect();
        println!(
            "  CPU of the host: {:.2} us an event ({})",
            an_event(all, events),
            rows.join(", ")
        );
    }
}

/// CPU time that a process has had.
pub fn of_process(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    parse(&stat).1
}

/// Microseconds an event.
pub fn an_event(time: Duration, events: usize) -> f64 {
    time.as_secs_f64() * 1e6 / events as f64
}

/// The name and the time in a line of `/proc`.
fn parse(stat: &str) -> (&str, Duration) {
    // The fields stand behind the name, which may have anything in it.
    let (head, fields) = stat.rsplit_once(") ").expect("a name");
    let (_, name) = head.split_once('(').expect("a name");
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks = ticks.map(|ticks| ticks.parse::<u32>().expect("a number"));
    (name, TICK * ticks.sum::<u32>())
}

/// Threads of one kind differ in their numbers.
fn kind(name: &str) -> String {
    let name = name.trim_end_matches(|last: char| last.is_ascii_digit() || last == '-');
    name.to_owned()
}
