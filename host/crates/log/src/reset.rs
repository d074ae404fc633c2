//! Moving what a group has committed, offsets and checkpoints together.
//!
//! The process that resets a group joins it as its only member. So no other member has
//! the partitions meanwhile, and a host that starts in between fences the process like
//! any member that lost them. A commit then moves the offsets and deletes every
//! checkpoint of their partitions in one atomic step. Where there are very many
//! checkpoints, each step takes only some of the partitions. If the process is killed
//! in between, each partition is either as it was or as it should be, and the same
//! reset does the rest.
//!
//! Memory: the keys of one step's checkpoints, at most [`KEYS_PER_STEP`] and the keys
//! of one more partition.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use courtside_types::{Key, NewRecord, Offset, PartitionId, Topic, TopicId, TopicPartition};

use super::{Commit, GroupName, GroupSpec, HOST_KEY, LogError, Member, Polled, RecordLog};

/// Checkpoints in one step. Once a step has more, the next partition begins another
/// step.
const KEYS_PER_STEP: usize = 250_000;
const KEYS_PER_SCAN: usize = 10_000;
/// How long the partitions may take to be assigned, with a restore of all their
/// checkpoints.
const ASSIGNED_WITHIN: Duration = Duration::from_secs(600);
/// How long a step is tried again after an error that may pass.
const COMMITTED_WITHIN: Duration = Duration::from_secs(60);
/// How often the reset checks whether other members have joined the group.
const LOOK: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(100);
const RETRY_WAIT: Duration = Duration::from_millis(100);

/// The offsets to move to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Earliest,
    Latest,
    At(Offset),
}

/// A partition that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    pub partition: PartitionId,
    /// The committed offset; none where the group has not committed any.
    pub from: Option<Offset>,
    pub to: Offset,
}

/// A partition that has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub at: Move,
    /// Entities whose checkpoints were deleted.
    pub checkpoints: usize,
}

/// Records and checkpoints that are written in the same step in which a partition
/// moves.
#[derive(Debug, Default)]
pub struct Also {
    pub records: Vec<(TopicPartition, NewRecord)>,
    /// Checkpoints that replace all those of the partition.
    pub checkpoints: Vec<(Key, Bytes)>,
}

/// The moves that a reset would make, in all partitions where none are named. Refused
/// while the group has members.
pub fn plan(
    log: &dyn RecordLog,
    group: &str,
    input: &Topic,
    partitions: &[PartitionId],
    target: Target,
) -> Result<Vec<Move>, LogError> {
    let bounds = log.bounds(input)?;
    let status = log.group_status(group, input)?;
    if !status.members.is_empty() {
        return Err(not_empty(group));
    }
    let all = (0_u32..).map(PartitionId).take(bounds.len());
    let wanted: BTreeSet<PartitionId> = if partitions.is_empty() {
        all.collect()
    } else {
        partitions.iter().copied().collect()
    };
    let moves = wanted.into_iter().map(|partition| {
        let bounds = bounds
            .get(partition.0 as usize)
            .ok_or_else(|| LogError::NoSuchPartition {
                topic: input.clone(),
                partition,
            })?;
        let to = match target {
            Target::Earliest => bounds.start,
            Target::Latest => bounds.end,
            Target::At(offset) => offset,
        };
        if !(bounds.start..=bounds.end).contains(&to) {
            return Err(LogError::OffsetOutOfRange {
                topic: input.clone(),
                partition,
                offset: to,
                start: bounds.start,
                end: bounds.end,
            });
        }
        let from = status.committed.get(&partition).copied();
        Ok(Move {
            partition,
            from,
            to,
        })
    });
    moves.collect()
}

/// The member that moves the offsets of a group. Its commits are refused where one of
/// these topics is no longer the one with this id.
#[must_use]
pub fn member(group: &str, input: &Topic, topics: Vec<(Topic, TopicId)>) -> GroupSpec {
    GroupSpec {
        group: GroupName::from(group),
        input: input.clone(),
        worker: 0,
        workers: 1,
        topics,
        visits: false,
    }
}

/// Makes the planned moves, and writes what `also` returns for each.
pub fn apply(
    log: &dyn RecordLog,
    spec: GroupSpec,
    moves: &[Move],
    also: impl Fn(&Move) -> Also,
) -> Result<Vec<Moved>, LogError> {
    let (group, input) = (&*spec.group.clone(), &spec.input.clone());
    // A member may have joined since the plan was made.
    if !log.group_status(group, input)?.members.is_empty() {
        return Err(not_empty(group));
    }
    let mut member = log.join(spec)?;
    let count = log.partitions(input)?;
    let patience = Patience {
        within: ASSIGNED_WITHIN,
        is_over: &|| false,
    };
    take_all(log, &mut *member, group, input, count, &patience)?;
    let checkpoints = log.checkpoints(group)?;
    let mut moved = Vec::with_capacity(moves.len());
    let mut step = Commit::default();
    for (index, at) in moves.iter().enumerate() {
        let also = also(at);
        // If one step both deleted and wrote a key, either could win.
        let stays = |key: &Key| also.checkpoints.iter().any(|(new, _)| new == key);
        let mut entities = 0;
        let mut after: Option<Key> = None;
        loop {
            let found = checkpoints.scan(at.partition, after.as_deref(), KEYS_PER_SCAN)?;
            let Some((last, _)) = found.last() else { break };
            after = Some(last.clone());
            let is_entity = |(key, _): &&(Key, Bytes)| key.first() != Some(&HOST_KEY);
            entities += found.iter().filter(is_entity).count();
            let goes = found.into_iter().filter(|(key, _)| !stays(key));
            let goes = goes.map(|(key, _)| (at.partition, key, None));
            step.checkpoints.extend(goes);
        }
        let new = also.checkpoints.into_iter();
        let new = new.map(|(key, bytes)| (at.partition, key, Some(bytes)));
        step.checkpoints.extend(new);
        step.offsets.push((at.partition, at.to));
        step.records.extend(also.records);
        moved.push(Moved {
            at: *at,
            checkpoints: entities,
        });
        if step.checkpoints.len() >= KEYS_PER_STEP || index + 1 == moves.len() {
            commit(&mut *member, group, &step)?;
            step = Commit::default();
        }
    }
    Ok(moved)
}

fn not_empty(group: &str) -> LogError {
    LogError::GroupNotEmpty {
        group: group.into(),
    }
}

/// How long a caller waits.
pub struct Patience<'a> {
    pub within: Duration,
    /// Whether the caller must stop waiting, though `within` is not over.
    pub is_over: &'a dyn Fn() -> bool,
}

/// Waits until all partitions are this member's, also those whose committed offset
/// cannot be read from: a reset mends those. Fails once other members are in the group,
/// since they may keep partitions.
pub fn take_all(
    log: &dyn RecordLog,
    member: &mut dyn Member,
    group: &str,
    input: &Topic,
    count: u32,
    patience: &Patience<'_>,
) -> Result<(), LogError> {
    let within = patience.within;
    let mut held = BTreeSet::new();
    let mut looked = Instant::now();
    let started = Instant::now();
    let deadline = started + within;
    while held.len() < count as usize {
        if Instant::now() >= deadline || (patience.is_over)() {
            return Err(LogError::Unavailable {
                reason: format!(
                    "group {group} assigned only {} of {count} partitions to this command within {} s",
                    held.len(),
                    started.elapsed().as_secs()
                ),
            });
        }
        match member.poll(POLL, 1)? {
            Polled::Assigned(assigned) => {
                let partitions: Vec<_> = assigned.iter().map(|one| one.partition).collect();
                member.pause(&partitions);
                held.extend(partitions);
            }
            Polled::Stopped { partition, .. } => {
                held.insert(partition);
            }
            // Other members have joined.
            Polled::Revoked(_) | Polled::Lost(_) => return Err(not_empty(group)),
            Polled::Records(_) | Polled::Idle if looked.elapsed() >= LOOK => {
                looked = Instant::now();
                if log.group_status(group, input)?.members.len() > 1 {
                    return Err(not_empty(group));
                }
            }
            Polled::Records(_) | Polled::Idle => {}
        }
    }
    Ok(())
}

fn commit(member: &mut dyn Member, group: &str, step: &Commit) -> Result<(), LogError> {
    let deadline = Instant::now() + COMMITTED_WITHIN;
    loop {
        match member.commit(step) {
            Err(error) if error.may_pass() && Instant::now() < deadline => {
                // If the group has moved on with other members, a poll tells.
                if let Polled::Revoked(_) | Polled::Lost(_) = member.poll(RETRY_WAIT, 1)? {
                    return Err(not_empty(group));
                }
            }
            outcome => return outcome,
        }
    }
}
