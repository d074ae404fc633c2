//! Groups in memory: their members and committed offsets.
//!
//! Partition p of the input belongs to worker p modulo the number of workers.
//! A worker that joins fences the earlier member with its number, and all members that
//! have another number of workers. One thread, the writer, lets members join and applies
//! commits. So a fenced member cannot commit after its successor has read the committed
//! offsets.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use parking_lot::{Condvar, Mutex};

use super::rows::OffsetRow;
use crate::GroupName;

/// A group reading a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct GroupKey {
    pub group: GroupName,
    pub topic: u32,
}

/// A member as seen by those that wake it or fence it.
#[derive(Debug)]
pub(super) struct Listener {
    pub worker: u32,
    pub workers: u32,
    fenced: AtomicBool,
    ticks: Mutex<u64>,
    ticked: Condvar,
}

impl Listener {
    pub fn new(worker: u32, workers: u32) -> Self {
        Self {
            worker,
            workers,
            fenced: AtomicBool::new(false),
            ticks: Mutex::new(0),
            ticked: Condvar::new(),
        }
    }

    pub fn owns(&self, partition: u32) -> bool {
        partition % self.workers.max(1) == self.worker
    }

    pub fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    fn fence(&self) {
        self.fenced.store(true, Ordering::Release);
        self.wake();
    }

    pub fn wake(&self) {
        *self.ticks.lock() += 1;
        self.ticked.notify_all();
    }

    pub fn ticks(&self) -> u64 {
        *self.ticks.lock()
    }

    /// Waits for a tick after `seen`; false when there was none in time.
    pub fn wait(&self, seen: u64, deadline: Instant) -> bool {
        let mut ticks = self.ticks.lock();
        while *ticks == seen {
            if self.ticked.wait_until(&mut ticks, deadline).timed_out() {
                return *ticks != seen;
            }
        }
        true
    }
}

#[derive(Debug, Default)]
struct Group {
    committed: BTreeMap<u32, OffsetRow>,
    members: BTreeMap<u32, Arc<Listener>>,
}

impl Group {
    /// Whether the group reads its topic: while it has a member there, and after that
    /// until its latest commit is older than `since_ms`.
    fn reads(&self, since_ms: u64) -> bool {
        let latest = self.committed.values().map(|row| row.at_ms).max();
        !self.members.is_empty() || latest.is_some_and(|at_ms| at_ms >= since_ms)
    }
}

#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Mutex<HashMap<GroupKey, Group>>,
}

impl Groups {
    pub fn join(&self, key: GroupKey, member: Arc<Listener>) {
        let mut groups = self.groups.lock();
        let group = groups.entry(key).or_default();
        group.members.retain(|worker, other| {
            let stays = *worker != member.worker && other.workers == member.workers;
            if !stays {
                other.fence();
            }
            stays
        });
        group.members.insert(member.worker, member);
    }

    pub fn leave(&self, key: &GroupKey, member: &Arc<Listener>) {
        if let Some(group) = self.groups.lock().get_mut(key)
            && let Some(current) = group.members.get(&member.worker)
            && Arc::ptr_eq(current, member)
        {
            group.members.remove(&member.worker);
        }
    }

    pub fn members(&self, key: &GroupKey) -> Vec<Arc<Listener>> {
        let groups = self.groups.lock();
        groups
            .get(key)
            .map(|group| group.members.values().cloned().collect())
            .unwrap_or_default()
    }

    /// All groups that have members or committed offsets, with the number of members.
    pub fn all(&self) -> Vec<(GroupKey, usize)> {
        let groups = self.groups.lock();
        let known = groups
            .iter()
            .filter(|(_, group)| !group.members.is_empty() || !group.committed.is_empty());
        known
            .map(|(key, group)| (key.clone(), group.members.len()))
            .collect()
    }

    /// Forgets all groups of a topic that was deleted.
    pub fn forget(&self, topic: u32) {
        let mut groups = self.groups.lock();
        groups.retain(|key, _| key.topic != topic);
    }

    pub fn committed(&self, key: &GroupKey, partition: u32) -> Option<u64> {
        let groups = self.groups.lock();
        groups
            .get(key)?
            .committed
            .get(&partition)
            .map(|row| row.offset)
    }

    pub fn all_committed(&self, key: &GroupKey) -> BTreeMap<u32, OffsetRow> {
        let groups = self.groups.lock();
        groups
            .get(key)
            .map(|group| group.committed.clone())
            .unwrap_or_default()
    }

    pub fn set_committed(&self, key: &GroupKey, partition: u32, row: OffsetRow) {
        let mut groups = self.groups.lock();
        if let Some(group) = groups.get_mut(key) {
            group.committed.insert(partition, row);
        } else {
            let committed = BTreeMap::from([(partition, row)]);
            groups.insert(
                key.clone(),
                Group {
                    committed,
                    ..Group::default()
                },
            );
        }
    }

    /// Replaces the committed offsets of all groups by those read from the store.
    pub fn replace_committed(&self, rows: Vec<(GroupKey, u32, OffsetRow)>) {
        let mut groups = self.groups.lock();
        groups
            .values_mut()
            .for_each(|group| group.committed.clear());
        for (key, partition, row) in rows {
            groups
                .entry(key)
                .or_default()
                .committed
                .insert(partition, row);
        }
    }

    /// Whether a group reads its topic, as of [`Group::reads`].
    pub fn reads(&self, key: &GroupKey, since_ms: u64) -> bool {
        let groups = self.groups.lock();
        groups.get(key).is_some_and(|group| group.reads(since_ms))
    }

    /// The offset up to which all groups that read a partition have committed; `None`
    /// if no group reads it.
    pub fn read_up_to(&self, topic: u32, partition: u32, since_ms: u64) -> Option<u64> {
        let groups = self.groups.lock();
        let reading = groups
            .iter()
            .filter(|(key, group)| key.topic == topic && group.reads(since_ms));
        reading
            .map(|(_, group)| group.committed.get(&partition).map_or(0, |row| row.offset))
            .min()
    }

    /// Wakes every member, for the log is closing.
    pub fn wake_all(&self) {
        for group in self.groups.lock().values() {
            group.members.values().for_each(|member| member.wake());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> GroupKey {
        GroupKey {
            group: "g".into(),
            topic: 1,
        }
    }

    fn row(offset: u64, at_ms: u64) -> OffsetRow {
        OffsetRow { offset, at_ms }
    }

    #[test]
    fn a_worker_has_one_member_and_all_count_workers_alike() {
        let groups = Groups::default();
        let join = |worker, workers| {
            let member = Arc::new(Listener::new(worker, workers));
            groups.join(key(), Arc::clone(&member));
            member
        };
        let (first, other) = (join(0, 2), join(1, 2));
        let second = join(0, 2);
        assert!(first.is_fenced() && !other.is_fenced() && !second.is_fenced());
        // A fenced member does not remove its successor when it leaves.
        groups.leave(&key(), &first);
        assert_eq!(groups.members(&key()).len(), 2);
        let alone = join(0, 1);
        assert!(second.is_fenced() && other.is_fenced() && !alone.is_fenced());
        groups.leave(&key(), &alone);
        assert!(groups.members(&key()).is_empty());
    }

    #[test]
    fn groups_keep_back_retention_while_they_read() {
        let groups = Groups::default();
        assert_eq!(groups.read_up_to(1, 0, 0), None);
        groups.set_committed(&key(), 0, row(7, 1000));
        let other = GroupKey {
            group: "h".into(),
            topic: 1,
        };
        groups.set_committed(&other, 0, row(5, 2000));
        assert_eq!(groups.read_up_to(1, 0, 0), Some(5));
        assert_eq!(groups.read_up_to(2, 0, 0), None, "of another topic");
        assert_eq!(
            groups.read_up_to(1, 1, 0),
            Some(0),
            "nothing of it committed"
        );
        assert_eq!(groups.read_up_to(1, 0, 3000), None, "both are long gone");
        assert!(groups.reads(&other, 2000) && !groups.reads(&other, 3000));
        let member = Arc::new(Listener::new(0, 1));
        groups.join(key(), Arc::clone(&member));
        assert_eq!(groups.read_up_to(1, 0, 3000), Some(7), "one is back");
    }

    #[test]
    fn a_tick_before_the_wait_is_not_missed() {
        let listener = Listener::new(0, 1);
        let seen = listener.ticks();
        listener.wake();
        assert!(listener.wait(seen, Instant::now()));
        assert!(!listener.wait(listener.ticks(), Instant::now()));
    }
}
