//! The counts of a pipeline's workers for things that come and go: partitions and
//! slots.
//!
//! These counts are not in the recorder that has the rest, which forgets nothing: a
//! partition that left would go on to show the lag that it had. They are kept here for
//! as long as this host has the partition or the slot, and read when somebody asks for
//! them (`gauges/` of HTTP). A worker holds the numbers that it counts in, so a call of
//! a plugin costs two looks at the clock and four additions to numbers that no other
//! worker writes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use courtside_plugin_host::{FailureKind, Plugin};
use courtside_types::{Offset, PartitionId, slot_name::SlotName};
use parking_lot::Mutex;

use super::instances::Active;

/// The counts of one partition since a worker of this host has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionGauges {
    pub committed: Offset,
    pub events: u64,
    pub commits: u64,
}

/// One worker's counts of the plugins of one slot.
#[derive(Debug, Default)]
pub struct SlotGauges {
    calls: AtomicU64,
    call_nanos: AtomicU64,
    events: AtomicU64,
    refusals: AtomicU64,
    failures: [AtomicU64; FailureKind::ALL.len()],
    instances: AtomicU64,
}

impl SlotGauges {
    /// Counts a call of a plugin with events.
    pub fn called(&self, events: usize, took: Duration) {
        self.calls.fetch_add(1, Relaxed);
        self.events.fetch_add(events as u64, Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.call_nanos.fetch_add(nanos, Relaxed);
    }

    /// Counts an event that the plugin refused.
    pub fn refused(&self) {
        self.refusals.fetch_add(1, Relaxed);
    }

    /// Counts a failed call of the plugin.
    pub fn failed(&self, kind: FailureKind) {
        if let Some(failures) = self.failures.get(kind as usize) {
            failures.fetch_add(1, Relaxed);
        }
    }

    pub fn instance_made(&self) {
        self.instances.fetch_add(1, Relaxed);
    }

    pub fn instance_gone(&self) {
        self.instances.fetch_sub(1, Relaxed);
    }
}

/// The sums of all workers' counts of a slot.
#[derive(Clone, Debug, Default)]
pub struct SlotSums {
    pub calls: u64,
    pub call_time: Duration,
    pub events: u64,
    pub refusals: u64,
    pub failures: [u64; FailureKind::ALL.len()],
    pub instances: u64,
    /// The memory of the instances of the slot's plugin.
    pub memory_bytes: u64,
}

impl SlotSums {
    fn add(&mut self, one: &SlotGauges) {
        self.calls += one.calls.load(Relaxed);
        self.call_time += Duration::from_nanos(one.call_nanos.load(Relaxed));
        self.events += one.events.load(Relaxed);
        self.refusals += one.refusals.load(Relaxed);
        self.instances += one.instances.load(Relaxed);
        for (sum, more) in self.failures.iter_mut().zip(&one.failures) {
            *sum += more.load(Relaxed);
        }
    }
}

struct OfSlot {
    /// The plugin that instances were made of last.
    plugin: Weak<dyn Plugin>,
    workers: BTreeMap<u32, Arc<SlotGauges>>,
}

/// All figures of a pipeline.
#[derive(Default)]
pub struct PipelineGauges {
    partitions: Mutex<BTreeMap<PartitionId, PartitionGauges>>,
    slots: Mutex<BTreeMap<SlotName, OfSlot>>,
    /// CPU time of each worker's thread.
    workers: Mutex<BTreeMap<u32, Duration>>,
}

impl std::fmt::Debug for PipelineGauges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PipelineGauges")
    }
}

impl PipelineGauges {
    /// Notes that a worker has a partition from now on, whose counts begin at 0.
    pub fn assigned(&self, partition: PartitionId, committed: Offset) {
        let gauges = PartitionGauges {
            committed,
            ..PartitionGauges::default()
        };
        self.partitions.lock().insert(partition, gauges);
    }

    /// Notes the partitions that a commit moved: each with its committed offset, and
    /// the number of events since it was assigned.
    pub fn committed(&self, moved: impl Iterator<Item = (PartitionId, Offset, u64)>) {
        let mut partitions = self.partitions.lock();
        for (partition, committed, events) in moved {
            if let Some(gauges) = partitions.get_mut(&partition) {
                gauges.committed = committed;
                gauges.events = events;
                gauges.commits += 1;
            }
        }
    }

    pub fn forget(&self, partition: PartitionId) {
        self.partitions.lock().remove(&partition);
    }

    #[must_use]
    pub fn partitions(&self) -> BTreeMap<PartitionId, PartitionGauges> {
        self.partitions.lock().clone()
    }

    /// The figures in which a worker counts its calls of a plugin, to be held by the
    /// caller.
    #[must_use]
    pub fn of_slot(&self, worker: u32, active: &Active) -> Arc<SlotGauges> {
        let mut slots = self.slots.lock();
        let plugin = Arc::downgrade(&active.plugin);
        let slot = slots
            .entry(active.slot.clone())
            .and_modify(|slot| slot.plugin = plugin.clone())
            .or_insert_with(|| OfSlot {
                plugin,
                workers: BTreeMap::new(),
            });
        Arc::clone(slot.workers.entry(worker).or_default())
    }

    /// The sums of the slots that are there; the other slots are forgotten.
    pub fn slots(&self, is_there: impl Fn(&SlotName) -> bool) -> BTreeMap<SlotName, SlotSums> {
        let mut slots = self.slots.lock();
        slots.retain(|name, _| is_there(name));
        let sums = slots.iter().map(|(name, slot)| {
            let mut sums = SlotSums::default();
            slot.workers.values().for_each(|one| sums.add(one));
            sums.memory_bytes = slot.plugin.upgrade().map_or(0, |one| one.memory_bytes());
            (name.clone(), sums)
        });
        sums.collect()
    }

    /// How much CPU time a worker's thread has used.
    pub fn worker_used(&self, worker: u32, cpu_time: Duration) {
        self.workers.lock().insert(worker, cpu_time);
    }

    #[must_use]
    pub fn workers(&self) -> BTreeMap<u32, Duration> {
        self.workers.lock().clone()
    }
}

/// How long a worker that has events goes without a commit when a plugin takes over:
/// from the last commit of events before it, or from when there was last nothing to do,
/// to the first commit of events after it. A commit that only records the takeover ends
/// no gap, because the events wait on.
#[derive(Debug)]
pub struct Gap {
    since: Instant,
    taken_over: bool,
}

impl Gap {
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            since: now,
            taken_over: false,
        }
    }

    /// Notes that nothing waits for a commit.
    pub const fn idle(&mut self, now: Instant) {
        self.since = now;
    }

    pub const fn taken_over(&mut self) {
        self.taken_over = true;
    }

    /// Notes a commit with this many events, and returns the gap that it ends, if one
    /// was open.
    pub fn committed(&mut self, events: u64, now: Instant) -> Option<Duration> {
        if events == 0 {
            return None;
        }
        let gap = now.saturating_duration_since(self.since);
        self.since = now;
        std::mem::take(&mut self.taken_over).then_some(gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::tests::Faulty;

    #[test]
    fn a_gap_is_from_commit_to_commit_without_the_time_of_nothing_to_do() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut gap = Gap::new(start);
        assert_eq!(gap.committed(7, at(1)), None);
        gap.taken_over();
        assert_eq!(gap.committed(7, at(3)), Some(Duration::from_secs(2)));
        assert_eq!(gap.committed(7, at(4)), None);
        gap.taken_over();
        gap.idle(at(100));
        assert_eq!(gap.committed(7, at(101)), Some(Duration::from_secs(1)));
        // A commit that only records the takeover comes before the events go on.
        gap.taken_over();
        assert_eq!(gap.committed(0, at(102)), None);
        assert_eq!(gap.committed(7, at(104)), Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_slot_is_what_all_workers_counted_until_it_is_gone() {
        let gauges = PipelineGauges::default();
        let active = Active::new(SlotName::Default, Faulty::new("a", &["faulty/1"]));
        for worker in 0..2 {
            let of_worker = gauges.of_slot(worker, &active);
            of_worker.called(8, Duration::from_millis(3));
            of_worker.failed(FailureKind::Contract);
        }
        let again = gauges.of_slot(0, &active);
        again.refused();
        let sums = gauges.slots(|_| true);
        let sums = &sums[&SlotName::Default];
        assert_eq!((sums.calls, sums.events, sums.refusals), (2, 16, 1));
        assert_eq!(sums.call_time, Duration::from_millis(6));
        assert_eq!(sums.failures[FailureKind::Contract as usize], 2);
        assert!(gauges.slots(|_| false).is_empty());
        assert!(gauges.slots(|_| true).is_empty(), "it stays forgotten");
    }

    #[test]
    fn a_partition_that_comes_back_counts_from_nothing() {
        let gauges = PipelineGauges::default();
        let id = PartitionId(3);
        gauges.assigned(id, Offset(7));
        gauges.committed([(id, Offset(9), 2)].into_iter());
        assert_eq!(gauges.partitions()[&id].commits, 1);
        gauges.forget(id);
        gauges.committed([(id, Offset(11), 4)].into_iter());
        assert!(gauges.partitions().is_empty(), "it is somebody else's");
        gauges.assigned(id, Offset(20));
        let expected = PartitionGauges {
            committed: Offset(20),
            ..PartitionGauges::default()
        };
        assert_eq!(gauges.partitions()[&id], expected);
    }
}
