//! Takeovers and rollbacks, against a run in which the bad plugin never was.

use courtside_log::{Assignment, Bounds, LogError, Polled};
use courtside_types::TopicPartition;

use super::*;
use crate::worker::{
    core::{Action, CommitEnd, Core, Input, Report},
    orders::Order,
    processing::now_ms,
    status::PartitionState,
    takeover::{
        Directive, Redone, TRIALS_MAX,
        history::{Kind, TakeoverRecord},
        partition::Slots,
        rows::{self, is_reserved},
    },
};

/// A plugin that folds events into a number, each plugin in its own way. A bad plugin
/// also misbehaves.
pub(crate) struct Folding {
    digest: Digest,
    description: Description,
}

impl Folding {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            digest: Digest::of(name.as_bytes()),
            description: Description {
                name: name.into(),
                version: "1".into(),
                writes: "folding/1".into(),
                reads: vec!["folding/1".into()],
            },
        })
    }
}

impl Plugin for Folding {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn instantiate(&self) -> Result<Box<dyn Instance>, Failure> {
        Ok(Box::new(FoldingInstance {
            name: self.description.name.to_string(),
            entities: BTreeMap::new(),
            next: 0,
        }))
    }
}

/// The state that a plugin makes of a state and an event.
pub(crate) fn fold(state: u64, plugin: &str, value: &str, offset: Offset) -> u64 {
    let mixed = format!("{state}/{plugin}/{value}/{offset}");
    xxhash_rust::xxh3::xxh3_64(mixed.as_bytes())
}

struct FoldingInstance {
    name: String,
    /// The state, and what the next checkpoint does.
    entities: BTreeMap<u32, (u64, Option<&'static str>)>,
    next: u32,
}

impl FoldingInstance {
    fn failure() -> Failure {
        Failure {
            kind: FailureKind::Trap,
            message: "told to".into(),
        }
    }
}

impl Instance for FoldingInstance {
    fn open(&mut self, _: &str, saved: Option<&SavedState>) -> Result<EntityId, OpenError> {
        let state = saved.map_or(0, |saved| {
            u64::from_le_bytes(saved.state.as_ref().try_into().unwrap())
        });
        self.next += 1;
        self.entities.insert(self.next, (state, None));
        Ok(EntityId(self.next))
    }

    fn process(&mut self, entity: EntityId, events: &[Event<'_>]) -> Result<Outcome, Failure> {
        let mut outcome = Outcome::default();
        let is_bad = self.name.starts_with("bad");
        for (index, event) in events.iter().enumerate() {
            let (state, then) = self.entities.get_mut(&entity.0).unwrap();
            let value = std::str::from_utf8(event.record.value.as_deref().unwrap()).unwrap();
            let refuse = |outcome: &mut Outcome| {
                outcome.refused = Some(Refusal {
                    index,
                    reason: self.name.clone(),
                });
            };
            match value {
                "refuse" => {
                    refuse(&mut outcome);
                    return Ok(outcome);
                }
                "bad-refuse" if is_bad => {
                    refuse(&mut outcome);
                    return Ok(outcome);
                }
                "trap" => return Err(Self::failure()),
                "bad-trap" if is_bad => return Err(Self::failure()),
                "bad-halt" if is_bad => *then = Some("trap"),
                "bad-forget" if is_bad => *then = Some("forget"),
                _ => *then = None,
            }
            *state = fold(*state, &self.name, value, event.record.offset);
            outcome.emissions.push(Emission {
                event: index,
                output: None,
                key: None,
                headers: Vec::new(),
                value: Some(format!("{}:{state}", self.name).into()),
            });
        }
        Ok(outcome)
    }

    fn checkpoint(&mut self, entity: EntityId) -> Result<Option<SavedState>, Failure> {
        match self.entities[&entity.0] {
            (_, Some("trap")) => Err(Self::failure()),
            (_, Some(_)) => Ok(None),
            (state, None) => Ok(Some(SavedState {
                format: "folding/1".into(),
                state: Bytes::copy_from_slice(&state.to_le_bytes()),
            })),
        }
    }

    fn close(&mut self, entity: EntityId) {
        self.entities.remove(&entity.0);
    }
}

const PARTITIONS: u32 = 2;

fn slot_pipeline(commit_bytes_max: usize, confirm_after: Duration) -> Arc<Pipeline> {
    let mut pipeline = (*pipeline(2, 4)).clone();
    pipeline.plugins = Some(TopicPartition {
        topic: "test.plugins".into(),
        partition: PartitionId(0),
    });
    pipeline.settings.commit_bytes_max = commit_bytes_max;
    pipeline.settings.confirm_after = confirm_after;
    Arc::new(pipeline)
}

/// A host, and the log and memory that outlive it. Its core is driven as a worker's loop
/// drives it.
struct World {
    pipeline: Arc<Pipeline>,
    memory: Arc<Memory>,
    host: Host,
    log: BTreeMap<PartitionId, Vec<Record>>,
    /// The first offset that the log still has of a partition, where that is not 0.
    starts: BTreeMap<PartitionId, Offset>,
    committed: BTreeMap<PartitionId, Offset>,
    directives: Vec<Directive>,
    published: Vec<NewRecord>,
    told: Vec<TakeoverRecord>,
    commits: usize,
    /// The log cannot be asked whether it has what a rollback needs.
    is_deaf: bool,
    /// A commit is not answered, because the host dies.
    dies: bool,
    /// Partitions may stop, or wait for a plugin.
    may_stop: bool,
    /// Another host of the group, which may run other plugins.
    other: Option<Host>,
}

/// What a host has in memory.
struct Host {
    core: Core,
    /// The member's place in each partition that it has.
    read: BTreeMap<PartitionId, Offset>,
    paused: BTreeSet<PartitionId>,
    states: BTreeMap<PartitionId, (PartitionState, Option<&'static str>)>,
    /// The plugin that runs in each slot.
    running: BTreeMap<SlotName, (Option<&'static str>, Option<Arc<Active>>)>,
}

impl Host {
    fn new(pipeline: &Arc<Pipeline>, memory: &Arc<Memory>) -> Self {
        Self {
            core: Core::new(
                Arc::clone(pipeline),
                Arc::clone(memory) as _,
                0,
                Arc::default(),
                Instant::now(),
            ),
            read: BTreeMap::new(),
            paused: BTreeSet::new(),
            states: BTreeMap::new(),
            running: BTreeMap::new(),
        }
    }
}

impl World {
    fn new(commit_bytes_max: usize) -> Self {
        Self::confirming(commit_bytes_max, Duration::from_secs(3600))
    }

    fn confirming(commit_bytes_max: usize, confirm_after: Duration) -> Self {
        let pipeline = slot_pipeline(commit_bytes_max, confirm_after);
        let memory = Arc::new(Memory::default());
        let mut world = Self {
            host: Host::new(&pipeline, &memory),
            pipeline,
            memory,
            log: BTreeMap::new(),
            starts: BTreeMap::new(),
            committed: BTreeMap::new(),
            directives: Vec::new(),
            published: Vec::new(),
            told: Vec::new(),
            commits: 0,
            is_deaf: false,
            dies: false,
            may_stop: true,
            other: None,
        };
        for partition in (0..PARTITIONS).map(PartitionId) {
            world.log.insert(partition, Vec::new());
            world.assign(partition);
        }
        world
    }

    /// Gives the core an input and what it polls, and does what follows.
    fn take(&mut self, input: Input, polled: Option<Polled>) {
        let actions = self.host.core.step(input, Instant::now());
        self.carry_out(actions, polled);
    }

    fn carry_out(&mut self, mut actions: Vec<Action>, mut polled: Option<Polled>) {
        loop {
            let mut answer = None;
            for action in actions {
                answer = self.act(action, &mut polled);
            }
            let Some(input) = answer else {
                return;
            };
            actions = self.host.core.step(input, Instant::now());
        }
    }

    fn act(&mut self, action: Action, polled: &mut Option<Polled>) -> Option<Input> {
        match action {
            Action::Poll { .. } => {
                return Some(polled.take().map_or(Input::PollFailed, Input::Polled));
            }
            Action::Commit { commit, .. } => {
                self.apply(&commit);
                let end = CommitEnd::Committed(Duration::ZERO);
                return (!self.dies).then_some(Input::CommitEnded(end));
            }
            Action::Seek { partition, next } => {
                self.host.read.insert(partition, next);
                return Some(Input::Sought(Ok(())));
            }
            Action::FindStart(partition) => {
                let start = self.starts.get(&partition).copied().unwrap_or_default();
                let unavailable = LogError::Unavailable {
                    reason: "told to".to_owned(),
                };
                let start = if self.is_deaf {
                    Err(unavailable)
                } else {
                    Ok(start)
                };
                return Some(Input::Start(start));
            }
            Action::CheckTopics => return Some(Input::Topics(Ok(()))),
            Action::Pause(partitions) => self.host.paused.extend(partitions),
            Action::Resume(partitions) => {
                let paused = &mut self.host.paused;
                paused.retain(|paused| !partitions.contains(paused));
            }
            Action::Release(partitions) => {
                let read = &mut self.host.read;
                read.retain(|held, _| !partitions.contains(held));
            }
            Action::Report(Report::Partition(partition, status)) => {
                let is_held = matches!(
                    status.state,
                    PartitionState::Waiting | PartitionState::Stopped
                );
                assert!(self.may_stop || !is_held, "{status:?}");
                let state = (status.state, status.code);
                self.host.states.insert(partition, state);
            }
            Action::Sleep(_) | Action::Answer(_) | Action::Report(_) => {}
        }
        None
    }

    fn processing(&self) -> &Processing {
        self.host.core.processing()
    }

    fn assign(&mut self, partition: PartitionId) {
        let committed = self.committed.get(&partition).copied();
        let assignment = Assignment {
            partition,
            committed,
            bounds: Bounds {
                start: Offset(0),
                end: Offset(self.log[&partition].len() as u64),
            },
        };
        self.host.read.insert(partition, assignment.next());
        self.host.paused.remove(&partition);
        self.take(Input::Turn, Some(Polled::Assigned(vec![assignment])));
    }

    /// The group takes a partition away, once what is pending is committed.
    fn revoke(&mut self, partition: PartitionId) {
        self.take(Input::Turn, Some(Polled::Revoked(vec![partition])));
        assert!(!self.host.read.contains_key(&partition));
    }

    /// A second host, with the same plugins and none of the partitions.
    fn add_host(&mut self) {
        self.other = Some(Host::new(&self.pipeline, &self.memory));
        let running = self.host.running.clone();
        self.turn_to_other();
        for (slot, (name, _)) in running {
            self.swap(&slot, name);
        }
        self.turn_to_other();
    }

    /// The other host is the one that does things from now on.
    fn turn_to_other(&mut self) {
        let other = self.other.as_mut().expect("another host");
        std::mem::swap(&mut self.host, other);
    }

    /// A partition goes to the other host, which does things from now on.
    fn move_over(&mut self, partition: u32) {
        let partition = PartitionId(partition);
        self.revoke(partition);
        self.turn_to_other();
        self.assign(partition);
    }

    /// Takes the partitions that nobody has.
    fn take_all(&mut self) {
        for partition in (0..PARTITIONS).map(PartitionId) {
            let is_elsewhere = |other: &Host| other.read.contains_key(&partition);
            if !self.host.read.contains_key(&partition)
                && !self.other.as_ref().is_some_and(is_elsewhere)
            {
                self.assign(partition);
            }
        }
    }

    fn runs(&self, slot: &SlotName) -> Option<&'static str> {
        self.host.running.get(slot).and_then(|(name, _)| *name)
    }

    /// Does `act` at each host.
    fn at_each_host(&mut self, act: impl Fn(&mut Self)) {
        act(self);
        if self.other.is_some() {
            self.turn_to_other();
            act(self);
            self.turn_to_other();
        }
    }

    /// Drops the host with all that it did not commit, and starts it again.
    fn crash(&mut self) {
        let before = std::mem::replace(&mut self.host, Host::new(&self.pipeline, &self.memory));
        for directive in self.directives.clone() {
            self.direct(directive, None);
        }
        for (slot, (name, _)) in before.running {
            self.swap(&slot, name);
        }
        for partition in before.read.into_keys() {
            self.assign(partition);
        }
    }

    fn swap(&mut self, slot: &SlotName, name: Option<&'static str>) {
        let active = name.map(|name| Active::new(slot.clone(), Folding::new(name)));
        let running = (name, active.clone());
        self.host.running.insert(slot.clone(), running);
        let (done, _answer) = crossbeam_channel::bounded(1);
        let slot = slot.clone();
        let order = Order::Activate { slot, active, done };
        self.take(Input::Order(order), None);
    }

    fn direct(&mut self, directive: Directive, active: Option<Arc<Active>>) {
        let (done, _answer) = crossbeam_channel::bounded(1);
        let order = Order::Rollback {
            slot: directive.slot.clone(),
            directive,
            active,
            done,
        };
        self.take(Input::Order(order), None);
    }

    fn withdraw(&mut self, slot: &SlotName, id: u64) {
        let (done, _answer) = crossbeam_channel::bounded(1);
        let slot = slot.clone();
        let order = Order::Withdraw { slot, id, done };
        self.take(Input::Order(order), None);
    }

    fn confirm(&mut self, slot: &SlotName, digest: Option<Digest>, at: u64) {
        let (done, _answer) = crossbeam_channel::bounded(1);
        let order = Order::Confirm {
            slot: slot.clone(),
            digest,
            at,
            done,
        };
        self.take(Input::Order(order), None);
    }

    fn roll_back(&mut self, slot: &SlotName, bad: &str, to: Option<&'static str>) {
        let id = self.directives.len() as u64 + 1;
        let directive = Directive {
            id,
            slot: slot.clone(),
            bad: Digest::of(bad.as_bytes()),
            to: to.map(|to| Digest::of(to.as_bytes())),
            at: now_ms(),
        };
        self.directives.push(directive.clone());
        self.at_each_host(|world| {
            // A host that runs another plugin than the undone one keeps it.
            if world.other.is_none() || world.runs(slot) == Some(bad) {
                let active = to.map(|to| Active::new(slot.clone(), Folding::new(to)));
                world.host.running.insert(slot.clone(), (to, active));
            }
            let active = world.host.running.get(slot);
            let active = active.and_then(|(_, active)| active.clone());
            world.direct(directive.clone(), active);
        });
    }

    fn event(&mut self, partition: u32, key: &str, value: &str) {
        self.event_with(partition, key, value, Vec::new());
    }

    fn event_with(&mut self, partition: u32, key: &str, value: &str, headers: Vec<Header>) {
        let records = self.log.get_mut(&PartitionId(partition)).unwrap();
        records.push(Record {
            offset: Offset(records.len() as u64),
            timestamp_ms: 1,
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            headers,
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
        });
    }

    /// Polls once. Returns false if there was nothing.
    fn poll(&mut self, count_max: usize) -> bool {
        let mut fetched = Vec::new();
        for (partition, next) in &mut self.host.read {
            let records = &self.log[partition];
            let from = usize::try_from(next.0).unwrap().min(records.len());
            let to = (from + count_max).min(records.len());
            if from < to && !self.host.paused.contains(partition) {
                *next = Offset(to as u64);
                fetched.push(Fetched {
                    partition: *partition,
                    records: records[from..to].to_vec(),
                });
            }
        }
        let something = !fetched.is_empty();
        if something {
            self.take(Input::Turn, Some(Polled::Records(fetched)));
        }
        something
    }

    /// Commits what is pending. Returns false if there was nothing.
    fn commit(&mut self) -> bool {
        let before = self.commits;
        let actions = self.host.core.commit_now();
        self.carry_out(actions, None);
        self.commits > before
    }

    fn idle(&mut self) {
        self.take(Input::Turn, Some(Polled::Idle));
    }

    /// The log takes a commit.
    fn apply(&mut self, commit: &Commit) {
        self.commits += 1;
        for (partition, key, _) in &commit.checkpoints {
            let mut offsets = commit.offsets.iter();
            assert!(
                offsets.any(|(with, _)| with == partition),
                "{key:?} of a partition whose offset is not committed: nothing would fence it"
            );
        }
        for (place, record) in &commit.records {
            if &*place.topic == "test.plugins" {
                let told = TakeoverRecord::parse(record.value.as_ref().unwrap()).unwrap();
                assert_eq!(record.key.as_deref(), Some(told.key().as_bytes()));
                self.told.push(told);
                continue;
            }
            let source = header(record, &output::SOURCE).unwrap();
            let mut parts = source.split('/').skip(1).map(|part| part.parse().unwrap());
            let partition = PartitionId(u32::try_from(parts.next().unwrap()).unwrap());
            let offset = Offset(parts.next().unwrap());
            let committed = self.committed.get(&partition).copied().unwrap_or_default();
            let attempt: Option<u32> =
                header(record, "courtside-attempt").map(|attempt| attempt.parse().unwrap());
            assert_eq!(
                attempt.is_some_and(|attempt| attempt >= 2),
                offset < committed
            );
            self.published.push(record.clone());
        }
        for (partition, next) in &commit.offsets {
            let committed = self.committed.entry(*partition).or_default();
            assert!(*committed <= *next, "a committed offset goes back");
            *committed = *next;
        }
        self.memory.apply(commit);
    }

    fn drain(&mut self) {
        self.at_each_host(|world| {
            for _ in 0..100_000 {
                let polled = world.poll(7);
                if !world.commit() && !polled && !world.processing().is_restoring() {
                    if !world.processing().has_chores(now_ms()) {
                        return;
                    }
                    world.idle();
                }
            }
            panic!("it does not come to an end");
        });
    }

    /// Orders a rollback while the log cannot be asked, from now on. The partitions are
    /// held, and records read from them are dropped.
    fn hold(&mut self, slot: &SlotName, bad: &str, to: Option<&'static str>) {
        self.is_deaf = true;
        self.roll_back(slot, bad, to);
        assert!(self.processing().is_to_begin());
    }

    fn slots(&self, partition: u32) -> Slots {
        Slots::read(&*self.memory, PartitionId(partition)).unwrap()
    }

    /// The entities' checkpoints, without their offsets. An offset is that of the last
    /// event in the commit that wrote it, so it depends on the commits and not on the
    /// events.
    fn entities(&self) -> BTreeMap<(PartitionId, Key), Envelope> {
        let checkpoints = self.memory.all();
        let entities = checkpoints.iter().filter(|((_, key), _)| !is_reserved(key));
        entities
            .filter_map(|(key, bytes)| {
                let mut envelope = Envelope::decode(bytes).unwrap();
                envelope.offset = Offset(0);
                // A checkpoint may hold nothing but the note of a rollback; that one is
                // left out.
                let is_noted = !envelope.redone.is_empty();
                envelope.redone.clear();
                let is_empty = envelope.saved.is_none()
                    && envelope.recent.is_empty()
                    && envelope.halted.is_none();
                (!is_noted || !is_empty).then(|| (key.clone(), envelope))
            })
            .collect()
    }

    /// The events that an entity processed again, as its checkpoint says.
    fn entities_redone(&self, key: &[u8]) -> Vec<(Offset, Offset, u32)> {
        let bytes = self.memory.get(P, key).unwrap().unwrap();
        let redone = Envelope::decode(&bytes).unwrap().redone;
        let redone = redone.iter();
        redone
            .map(|one| (one.from, one.until, one.attempt))
            .collect()
    }

    fn reserved(&self, prefix: &[u8]) -> usize {
        let checkpoints = self.memory.all();
        let keys = checkpoints.keys();
        keys.filter(|(_, key)| key.starts_with(prefix)).count()
    }

    /// The record that was published last of each event.
    fn last_published(&self) -> BTreeMap<String, String> {
        let published = self.published.iter();
        published
            .map(|record| {
                let source = header(record, &output::SOURCE).unwrap();
                let code = header(record, &output::ERROR_CODE);
                let value = || {
                    let value = record.value.clone().unwrap();
                    String::from_utf8(value.to_vec()).unwrap()
                };
                (source, code.unwrap_or_else(value))
            })
            .collect()
    }

    fn redone(&self) -> Vec<(PartitionId, Redone)> {
        let redoing = self.processing().redoing();
        redoing.map(|(id, redone, _)| (id, redone)).collect()
    }
}

fn own_slot() -> SlotName {
    SlotName::of_key(b"k0")
}

fn still_slot() -> SlotName {
    SlotName::of_key(b"k1")
}

fn begin(world: &mut World) {
    world.swap(&own_slot(), Some("own"));
    world.swap(&still_slot(), Some("still"));
    world.swap(&SlotName::Default, Some("good"));
    world.idle();
    world.may_stop = false;
}

#[test]
fn a_swap_is_told_in_the_commit_of_what_it_touches() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    assert_eq!(world.commits, 1, "an idle worker says what runs");
    world.event(0, "k2", "x");
    world.poll(9);
    world.commit();
    assert_eq!(world.commits, 2);
    assert_eq!(world.slots(0).get(&SlotName::Default).unwrap().trials, []);
    assert_eq!(world.reserved(&rows::BEFORES), 0, "nothing to go back to");

    world.swap(&SlotName::Default, Some("bad"));
    assert_eq!(world.commits, 2, "a swap has no commit of its own");
    world.event(0, "k2", "x");
    world.event(0, "k3", "x");
    world.poll(9);
    world.commit();
    assert_eq!(world.commits, 3);
    let row = world.slots(0).get(&SlotName::Default).cloned().unwrap();
    assert_eq!(row.digest, Some(Digest::of(b"bad")));
    assert_eq!((row.seq, row.offset, row.attempt), (2, Offset(1), 1));
    assert_eq!(row.trials.len(), 1);
    assert_eq!(row.trials[0].previous, Some(Digest::of(b"good")));
    assert_eq!(row.trials[0].offset, Offset(1));
    // The other partition has the row, too, so that each knows which plugin ran before.
    let other = world.slots(1).get(&SlotName::Default).cloned().unwrap();
    assert_eq!(other.digest, row.digest);
    assert_eq!(world.reserved(&rows::BEFORES), 2);
    let told: Vec<_> = world
        .told
        .iter()
        .filter(|told| told.partition == P)
        .map(|told| (told.kind, told.seq, told.offset, &*told.plugin))
        .collect();
    assert_eq!(
        told,
        [
            (Kind::Swap, 1, Offset(0), "good@1"),
            (Kind::Swap, 2, Offset(1), "bad@1"),
        ]
    );
    assert_eq!(
        world.told.last().unwrap().previous,
        Some(Digest::of(b"good"))
    );
    // Neither a swap to the same plugin nor a restart is a takeover.
    world.swap(&SlotName::Default, Some("bad"));
    world.crash();
    world.event(0, "k2", "x");
    world.drain();
    assert_eq!(world.slots(0).get(&SlotName::Default), Some(&row));
    assert_eq!(world.told.len(), 4);
}

#[test]
fn a_state_from_before_is_kept_once() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    world.event(0, "k2", "x");
    world.drain();
    let before = world.memory.get(P, b"k2").unwrap();
    world.swap(&SlotName::Default, Some("bad"));
    for value in ["x", "x", "bad-refuse", "x"] {
        world.event(0, "k2", value);
        world.event(0, "k3", value);
        world.drain();
        world.crash();
    }
    let trial = rows::TrialId::of(&SlotName::Default, 2);
    let kept = |key: &str| {
        let row = world
            .memory
            .get(P, &rows::before_key(trial, key.as_bytes()));
        rows::Before::decode(&row.unwrap().unwrap()).unwrap()
    };
    assert_eq!(kept("k2").envelope, before);
    assert_eq!(kept("k2").position, Offset(1));
    assert_eq!(kept("k3").envelope, None);
    assert_eq!(world.reserved(&rows::BEFORES), 2);
}

#[test]
fn a_confirmed_swap_stays_and_its_states_from_before_go() {
    for by_order in [true, false] {
        let after = Duration::from_millis(if by_order { 3_600_000 } else { 20 });
        let mut world = World::confirming(1 << 20, after);
        begin(&mut world);
        world.event(0, "k2", "x");
        world.drain();
        world.swap(&SlotName::Default, Some("bad"));
        for number in 0..1000 {
            world.event(0, &format!("key{number}"), "x");
        }
        world.poll(2000);
        world.commit();
        assert_eq!(world.reserved(&rows::BEFORES), 1000);
        if by_order {
            world.drain();
            assert_eq!(world.reserved(&rows::BEFORES), 1000);
            world.confirm(&SlotName::Default, None, now_ms());
        } else {
            std::thread::sleep(after * 2);
        }
        world.drain();
        assert_eq!(world.reserved(&rows::BEFORES), 0);
        let states = world.entities();
        world.roll_back(&SlotName::Default, "bad", Some("good"));
        world.drain();
        assert_eq!(world.entities(), states, "there is no way back");
    }
}

#[test]
fn without_time_to_take_swaps_back_nothing_is_kept() {
    let mut world = World::confirming(1 << 20, Duration::ZERO);
    begin(&mut world);
    world.swap(&SlotName::Default, Some("bad"));
    world.event(0, "k0", "x");
    world.event(0, "k2", "x");
    world.drain();
    assert_eq!(world.reserved(&rows::BEFORES), 0);
    let row = world.slots(0).get(&SlotName::Default).cloned().unwrap();
    assert_eq!((row.seq, row.trials), (2, Vec::new()));
}

/// Under load there is no idle time, so commits delete useless rows. The rows of very
/// many swaps do not pile up.
#[test]
fn what_is_kept_of_many_swaps_is_bounded() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    let names = ["good", "bad", "bad1", "bad2", "bad3", "bad4"];
    for round in 0..200 {
        world.swap(&SlotName::Default, Some(names[round % names.len()]));
        for number in 0..50 {
            world.event(0, &format!("key{number}"), "x");
        }
        world.poll(100);
        world.commit();
        assert!(world.reserved(&rows::BEFORES) <= 50 * 8, "{round}");
    }
    let row = world.slots(0).get(&SlotName::Default).cloned().unwrap();
    assert_eq!(row.trials.len(), 4);
    world.drain();
    assert_eq!(world.reserved(&rows::BEFORES), 50 * 4);
}

fn plugins_on_trial(world: &World, partition: u32) -> Vec<Option<Digest>> {
    let slots = world.slots(partition);
    let row = slots.get(&SlotName::Default).unwrap();
    row.trials.iter().map(|trial| trial.digest).collect()
}

/// The checkpoints that the good plugin alone makes of the events of a partition.
fn without_bad_plugins(events: &[(&str, &str)]) -> BTreeMap<(PartitionId, Key), Envelope> {
    let mut reference = World::new(1 << 20);
    begin(&mut reference);
    for (key, value) in events {
        reference.event(0, key, value);
    }
    reference.drain();
    reference.entities()
}

/// Hosts are upgraded one by one, and partitions come to the bad plugin, away from it
/// and to it again: one order undoes all that it did.
#[test]
fn a_rollback_undoes_every_stint_of_the_bad_plugin() {
    let events = [
        ("k2", "1"),
        ("k3", "1"),
        ("k2", "2"),
        ("k4", "2"),
        ("k2", "3"),
        ("k5", "3"),
        ("k3", "4"),
        ("k5", "4"),
    ];
    for ends_at_good in [true, false] {
        let mut world = World::new(1 << 20);
        begin(&mut world);
        world.add_host();
        world.turn_to_other();
        world.swap(&SlotName::Default, Some("bad"));
        world.turn_to_other();
        let stints = if ends_at_good { 3 } else { 4 };
        for stint in events.chunks(2).take(stints) {
            for (key, value) in stint {
                world.event(0, key, value);
            }
            world.drain();
            world.move_over(0);
        }
        assert_eq!(plugins_on_trial(&world, 0), [Some(Digest::of(b"bad"))]);
        world.roll_back(&SlotName::Default, "bad", Some("good"));
        for (key, value) in events.chunks(2).skip(stints).flatten() {
            world.event(0, key, value);
        }
        world.drain();
        assert_eq!(world.entities(), without_bad_plugins(&events));
        assert_eq!(plugins_on_trial(&world, 0), []);
        assert_eq!(world.reserved(&rows::BEFORES), 0);
        let rollbacks = world.told.iter().filter(|told| told.kind == Kind::Rollback);
        let rollbacks: Vec<_> = rollbacks.filter(|told| told.partition == P).collect();
        assert_eq!(rollbacks.len(), 1, "{rollbacks:?}");
        assert_eq!(rollbacks[0].previous, Some(Digest::of(b"bad")));
        assert_eq!(rollbacks[0].digest, Some(Digest::of(b"good")));
        assert_eq!(rollbacks[0].offset, Offset(2), "where it came first");
    }
}

/// Three swaps are on trial, and a host is three swaps behind.
#[test]
fn moves_between_hosts_that_differ_use_up_no_swap() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    world.add_host();
    let mut events = Vec::new();
    let bads = ["bad1", "bad2", "bad3"];
    for bad in bads {
        world.swap(&SlotName::Default, Some(bad));
        world.event(0, "k2", bad);
        events.push(("k2", bad));
        world.drain();
    }
    for number in 0..20 {
        let key = ["k2", "k3", "k4"][number % 3];
        world.move_over(0);
        world.event(0, key, "moved");
        events.push((key, "moved"));
        world.drain();
    }
    let on_trial = bads.map(|bad| Some(Digest::of(bad.as_bytes())));
    assert_eq!(plugins_on_trial(&world, 0), on_trial);
    let returns = world.told.iter().filter(|told| told.kind == Kind::Return);
    assert_eq!(returns.count(), 10);
    for (bad, to) in [("bad3", "bad2"), ("bad2", "bad1"), ("bad1", "good")] {
        world.roll_back(&SlotName::Default, bad, Some(to));
    }
    world.drain();
    assert_eq!(world.entities(), without_bad_plugins(&events));
}

/// The bad plugin was put there, taken away on purpose, and put there again by
/// somebody.
#[test]
fn a_plugin_in_the_midst_of_others_is_undone_alone() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    let mut events = Vec::new();
    for (plugin, value) in [("bad", "1"), ("fix", "2"), ("bad", "3"), ("fix", "4")] {
        world.swap(&SlotName::Default, Some(plugin));
        for key in ["k2", value] {
            world.event(0, key, value);
            events.push((key, value));
        }
        world.drain();
    }
    world.roll_back(&SlotName::Default, "bad", Some("fix"));
    world.drain();
    let reference = {
        let mut reference = World::new(1 << 20);
        begin(&mut reference);
        reference.swap(&SlotName::Default, Some("fix"));
        for (key, value) in &events {
            reference.event(0, key, value);
        }
        reference.drain();
        reference.entities()
    };
    assert_eq!(world.entities(), reference);
    assert_eq!(plugins_on_trial(&world, 0), [Some(Digest::of(b"fix"))]);
    // The plugin on trial still leads back to the one that ran before both.
    world.roll_back(&SlotName::Default, "fix", Some("good"));
    world.drain();
    assert_eq!(world.entities(), without_bad_plugins(&events));
}

#[test]
fn a_rollback_is_told_and_leaves_nothing_behind() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    world.event(0, "k2", "x");
    world.drain();
    world.swap(&SlotName::Default, Some("bad"));
    for value in ["x", "bad-halt", "x"] {
        world.event(0, "k2", value);
    }
    world.drain();
    world.roll_back(&SlotName::Default, "bad", Some("good"));
    let redone = Redone {
        from: Offset(1),
        until: Offset(4),
    };
    assert_eq!(world.redone(), [(P, redone)]);
    world.drain();
    assert_eq!(world.redone(), []);
    let told = world.told.iter().find(|told| told.kind == Kind::Rollback);
    let told = told.unwrap();
    assert_eq!((told.offset, told.until), (Offset(1), Some(Offset(4))));
    assert_eq!((told.digest, told.attempt), (Some(Digest::of(b"good")), 2));
    assert_eq!(told.previous, Some(Digest::of(b"bad")));
    assert_eq!(world.reserved(&rows::BEFORES), 0);
    assert_eq!(world.reserved(&rows::LATES), 0);
    assert_eq!(world.committed[&P], Offset(4));
    // The directive is given again after a restart, and does nothing.
    let states = world.entities();
    world.crash();
    world.drain();
    assert_eq!(world.entities(), states);
}

/// A plugin that is put back later on purpose is not undone by a directive from before.
#[test]
fn an_old_directive_does_not_take_back_a_later_swap() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    world.swap(&SlotName::Default, Some("bad"));
    world.event(0, "k2", "x");
    world.drain();
    world.roll_back(&SlotName::Default, "bad", Some("good"));
    world.drain();
    world.swap(&SlotName::Default, Some("bad"));
    world.event(0, "k2", "x");
    world.drain();
    world.crash();
    world.drain();
    let row = world.slots(0).get(&SlotName::Default).cloned().unwrap();
    assert_eq!(row.digest, Some(Digest::of(b"bad")));
    assert_eq!(row.trials.len(), 1);
}

/// Somebody wants the bad plugin after all, and another host has not heard so.
#[test]
fn a_directive_that_was_withdrawn_takes_nothing_back() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    world.event(0, "k2", "x");
    world.drain();
    world.swap(&SlotName::Default, Some("bad"));
    world.event(0, "k2", "x");
    world.drain();
    let states = world.entities();
    let directive = Directive {
        id: 7,
        slot: SlotName::Default,
        bad: Digest::of(b"bad"),
        to: Some(Digest::of(b"good")),
        at: 0,
    };
    world.is_deaf = true;
    let (_, active) = world.host.running[&SlotName::Default].clone();
    world.direct(directive.clone(), active);
    assert!(world.processing().is_to_begin());
    // A partition that is held takes nothing, and goes on where it was.
    world.event(0, "k2", "x");
    world.poll(9);
    assert_eq!(world.host.read[&P], Offset(3), "the member has come so far");
    world.withdraw(&SlotName::Default, 7);
    assert!(!world.processing().is_to_begin());
    assert_eq!(world.host.read[&P], Offset(2));
    assert_eq!(world.entities(), states);
    world.drain();
    assert_eq!(world.committed[&P], Offset(3));
    // Swaps from now on are later than the directive, should it come again.
    world.swap(&SlotName::Default, Some("good"));
    world.event(0, "k2", "x");
    world.drain();
    let row = world.slots(0).get(&SlotName::Default).cloned().unwrap();
    assert_eq!(row.trials.last().unwrap().directive, 7);
    // A directive that is withdrawn at once undoes nothing after a restart either.
    world.swap(&SlotName::Default, Some("bad"));
    world.crash();
    let (_, active) = world.host.running[&SlotName::Default].clone();
    world.direct(directive, active);
    world.withdraw(&SlotName::Default, 7);
    world.is_deaf = false;
    world.drain();
    assert!(world.told.iter().all(|told| told.kind == Kind::Swap));
}

#[test]
fn a_key_gets_back_what_the_default_slot_made_of_it() {
    let reference = {
        let mut world = World::new(1 << 20);
        world.swap(&SlotName::Default, Some("good"));
        for _ in 0..4 {
            world.event(0, "k7", "x");
        }
        world.drain();
        world.entities()
    };
    let slot = SlotName::of_key(b"k7");
    let mut world = World::new(1 << 20);
    world.swap(&SlotName::Default, Some("good"));
    world.event(0, "k7", "x");
    world.drain();
    // The key's first plugin; there was none in the slot before.
    world.swap(&slot, Some("bad"));
    world.event(0, "k7", "x");
    world.event(0, "k7", "x");
    world.drain();
    world.roll_back(&slot, "bad", None);
    world.event(0, "k7", "x");
    world.drain();
    assert_eq!(world.entities(), reference);
    assert_eq!(world.slots(0).get(&slot).unwrap().digest, None);
}

/// The default slot's plugin is taken back after a key got one of its own: that
/// key's events since are processed again, too, by the plugin that has it now.
#[test]
fn what_the_bad_plugin_did_goes_from_a_key_that_left_its_slot() {
    let mut world = World::new(1 << 20);
    let slot = SlotName::of_key(b"k7");
    world.swap(&SlotName::Default, Some("good"));
    world.event(0, "k7", "1");
    world.drain();
    world.swap(&SlotName::Default, Some("bad"));
    world.event(0, "k7", "2");
    world.drain();
    world.swap(&slot, Some("own"));
    world.event(0, "k7", "3");
    world.drain();
    world.roll_back(&SlotName::Default, "bad", Some("good"));
    world.event(0, "k7", "4");
    world.drain();
    let reference = {
        let mut world = World::new(1 << 20);
        world.swap(&SlotName::Default, Some("good"));
        world.event(0, "k7", "1");
        world.drain();
        world.swap(&slot, Some("own"));
        for value in ["2", "3", "4"] {
            world.event(0, "k7", value);
        }
        world.drain();
        world.entities()
    };
    assert_eq!(world.entities(), reference);
    // The states that the key's own trial kept are from after that rollback.
    world.roll_back(&slot, "own", None);
    world.drain();
    let reference = {
        let mut world = World::new(1 << 20);
        world.swap(&SlotName::Default, Some("good"));
        for value in ["1", "2", "3", "4"] {
            world.event(0, "k7", value);
        }
        world.drain();
        world.entities()
    };
    assert_eq!(world.entities(), reference);
}

#[test]
fn a_log_that_has_too_little_refuses_before_anything_is_touched() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    world.event(0, "k2", "x");
    world.drain();
    world.swap(&SlotName::Default, Some("bad"));
    world.event(0, "k2", "x");
    world.drain();
    let directive = Directive {
        id: 1,
        slot: SlotName::Default,
        bad: Digest::of(b"bad"),
        to: Some(Digest::of(b"good")),
        at: 0,
    };
    let (_, active) = world.host.running[&SlotName::Default].clone();
    let states = world.entities();
    world.may_stop = true;
    world.starts.insert(P, Offset(2));
    world.direct(directive, active);
    let refused = (PartitionState::Stopped, Some("rollback-out-of-range"));
    assert_eq!(world.host.states[&P], refused);
    assert_ne!(world.host.states[&PartitionId(1)], refused);
    world.event(0, "k2", "x");
    world.poll(9);
    world.commit();
    assert_eq!(world.entities(), states, "the partition is stopped");
    // A confirmation of another slot, or up to a time before, is not about the swap.
    world.confirm(&own_slot(), None, now_ms());
    world.confirm(&SlotName::Default, None, 1);
    assert_eq!(world.host.states[&P], refused);
    // An operator who confirms the swap makes the partition go on as it is.
    world.confirm(&SlotName::Default, None, now_ms());
    assert_eq!(world.host.states[&P], (PartitionState::Running, None));
    assert_eq!(world.host.read[&P], Offset(2));
    world.drain();
    assert_eq!(world.committed[&P], Offset(3));
    assert_eq!(world.slots(0).get(&SlotName::Default).unwrap().trials, []);
}

#[test]
fn nobody_waits_for_the_rollback_of_a_partition_that_is_stopped() {
    let events = |world: &mut World| {
        world.event(0, "k2", "x");
        world.event(1, "k2", "x");
        world.drain();
    };
    let mut reference = World::new(1 << 20);
    begin(&mut reference);
    events(&mut reference);
    events(&mut reference);
    reference.event(0, "k9", "x");
    reference.drain();

    let mut world = World::new(1 << 20);
    begin(&mut world);
    events(&mut world);
    world.swap(&SlotName::Default, Some("bad"));
    events(&mut world);
    // A checkpoint that nobody can read stops a partition.
    let damaged = (P, Key::from_static(b"k9"));
    let damage = Bytes::from_static(b"damaged");
    world.memory.put(P, damaged.1.clone(), damage);
    world.event(0, "k9", "x");
    world.may_stop = true;
    world.poll(9);
    let stopped = (PartitionState::Stopped, Some("checkpoint-corrupt"));
    assert_eq!(world.host.states[&P], stopped);

    world.roll_back(&SlotName::Default, "bad", Some("good"));
    assert!(!world.processing().is_to_begin());
    let redone: Vec<_> = world.redone().into_iter().map(|(id, _)| id).collect();
    assert_eq!(redone, [PartitionId(1)]);
    world.drain();
    assert_eq!(world.redone(), []);
    // The rollback of the stopped partition is not forgotten, should the partition ever
    // go on.
    world.memory.apply(&Commit {
        checkpoints: vec![(P, damaged.1, None)],
        ..Commit::default()
    });
    world.revoke(P);
    world.is_deaf = true;
    world.assign(P);
    assert!(world.processing().is_to_begin());
    world.is_deaf = false;
    world.drain();
    assert_eq!(world.entities(), reference.entities());
}

/// The entity remembers where the rollback began, however many commits it takes.
/// Otherwise letters from before would be processed once more.
#[test]
fn what_was_processed_again_is_remembered_from_its_beginning() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    world.swap(&SlotName::Default, Some("bad"));
    for _ in 0..20 {
        world.event(0, "k2", "bad-refuse");
    }
    world.drain();
    world.roll_back(&SlotName::Default, "bad", Some("good"));
    for _ in 0..100 {
        world.poll(1);
        world.commit();
    }
    assert_eq!(world.redone(), []);
    let redone = world.entities_redone(b"k2");
    assert_eq!(redone, [(Offset(0), Offset(20), 2)]);
    // Two more rollbacks are two more entries, however long each takes.
    for attempt in [3, 4] {
        world.swap(&SlotName::Default, Some("bad"));
        let from = world.committed[&P];
        for _ in 0..20 {
            world.event(0, "k2", "bad-refuse");
        }
        world.drain();
        world.roll_back(&SlotName::Default, "bad", Some("good"));
        for _ in 0..100 {
            world.poll(1);
            world.commit();
        }
        let redone = world.entities_redone(b"k2");
        let last = redone.last().unwrap();
        assert_eq!(*last, (from, Offset(from.0 + 20), attempt));
        assert_eq!(redone.len(), attempt as usize - 1);
    }
}

/// The plugins of both slots are undone together, in either order. The key ends as it
/// was before the first of them.
#[test]
fn a_key_goes_back_to_before_the_first_of_two_slots() {
    let own = SlotName::of_key(b"k7");
    let reference = {
        let mut world = World::new(1 << 20);
        world.swap(&SlotName::Default, Some("good"));
        for value in ["1", "2", "3", "4"] {
            world.event(0, "k7", value);
        }
        world.drain();
        world.entities()
    };
    for is_default_first in [true, false] {
        for commit_bytes_max in [1, 1 << 20] {
            let mut world = World::new(commit_bytes_max);
            world.swap(&SlotName::Default, Some("good"));
            world.event(0, "k7", "1");
            world.drain();
            world.swap(&SlotName::Default, Some("bad"));
            world.event(0, "k7", "2");
            world.drain();
            world.swap(&own, Some("bad1"));
            world.event(0, "k7", "3");
            world.drain();
            let (default, key) = (SlotName::Default, own.clone());
            if is_default_first {
                world.hold(&default, "bad", Some("good"));
                world.is_deaf = false;
                world.roll_back(&key, "bad1", None);
            } else {
                world.hold(&key, "bad1", None);
                world.is_deaf = false;
                world.roll_back(&default, "bad", Some("good"));
            }
            world.event(0, "k7", "4");
            world.drain();
            assert_eq!(world.entities(), reference, "{is_default_first}");
            assert_eq!(world.reserved(&rows::BEFORES), 0);
        }
    }
}

/// A letter says which attempt at its event it is of. An entity's new attempt is higher
/// than all before, whichever slot the entity was in then.
#[test]
fn attempts_grow_over_the_slots_of_a_partition() {
    let mut world = World::new(1 << 20);
    begin(&mut world);
    let own = SlotName::of_key(b"k2");
    for (slot, to) in [(&SlotName::Default, Some("good")), (&own, None)] {
        world.swap(slot, Some("bad"));
        world.event(0, "k2", "x");
        world.drain();
        world.roll_back(slot, "bad", to);
        world.drain();
    }
    let slots = world.slots(0);
    assert_eq!(slots.get(&SlotName::Default).unwrap().attempt, 2);
    assert_eq!(slots.get(&own).unwrap().attempt, 3);
}

/// Records that were read while a rollback waited for the log were dropped. If the swap
/// is confirmed instead, they are read again.
#[test]
fn a_partition_that_need_not_be_held_any_more_misses_nothing() {
    let reference = {
        let mut world = World::new(1 << 20);
        begin(&mut world);
        world.swap(&SlotName::Default, Some("bad"));
        world.event(0, "k2", "x");
        world.drain();
        world.swap(&SlotName::Default, Some("good"));
        for value in ["1", "2", "3"] {
            world.event(0, "k2", value);
        }
        world.drain();
        world.entities()
    };
    let mut world = World::new(1 << 20);
    begin(&mut world);
    world.swap(&SlotName::Default, Some("bad"));
    world.event(0, "k2", "x");
    world.drain();
    let swapped_at = world.slots(0).get(&SlotName::Default).unwrap().at;
    world.hold(&SlotName::Default, "bad", Some("good"));
    world.event(0, "k2", "1");
    world.event(0, "k2", "2");
    world.poll(9);
    let come = Offset(3);
    assert_eq!(world.host.read[&P], come, "the member has come so far");
    // A confirmation of earlier swaps is not about this one.
    let bad = Some(Digest::of(b"bad"));
    world.confirm(&SlotName::Default, bad, swapped_at - 1);
    assert_eq!(world.host.read[&P], come);
    assert!(world.processing().is_to_begin());
    world.confirm(&SlotName::Default, bad, now_ms());
    assert!(!world.processing().is_to_begin());
    assert_eq!(world.host.read[&P], Offset(1));
    world.is_deaf = false;
    world.event(0, "k2", "3");
    world.drain();
    assert_eq!(world.entities(), reference);
}

/// A confirmation of the plugin that a rollback brings back does not keep the other one's
/// work.
#[test]
fn a_rollback_is_not_dropped_by_a_confirmation_of_the_plugin_that_it_brings_back() {
    let rolled_back = |confirms: bool| {
        let mut world = World::new(1 << 20);
        begin(&mut world);
        world.swap(&SlotName::Default, Some("bad"));
        world.event(0, "k2", "x");
        world.drain();
        world.hold(&SlotName::Default, "bad", Some("good"));
        if confirms {
            let good = Digest::of(b"good");
            world.confirm(&SlotName::Default, Some(good), now_ms());
            assert!(world.processing().is_to_begin());
        }
        world.is_deaf = false;
        world.event(0, "k2", "1");
        world.drain();
        assert_eq!(
            world.told.last().map(|told| told.kind),
            Some(Kind::Rollback)
        );
        world.entities()
    };
    assert_eq!(rolled_back(true), rolled_back(false));
}

/// A swap does not become too old to be undone while its rollback waits for the log.
#[test]
fn what_is_to_be_taken_back_is_not_confirmed_meanwhile() {
    let after = Duration::from_millis(200);
    let mut world = World::confirming(1 << 20, after);
    begin(&mut world);
    world.swap(&SlotName::Default, Some("bad"));
    world.event(0, "k2", "x");
    world.poll(9);
    world.commit();
    world.hold(&SlotName::Default, "bad", Some("good"));
    std::thread::sleep(after * 2);
    world.idle();
    // A commit that is for something else does not confirm the swap either.
    world.commit();
    world.is_deaf = false;
    world.drain();
    assert_eq!(
        world.told.last().map(|told| told.kind),
        Some(Kind::Rollback)
    );
    let published = world.last_published();
    assert!(published["in/0/0"].starts_with("good:"), "{published:?}");
}

#[derive(Clone, Debug)]
enum Turn {
    Event(u32, u8, &'static str, Option<u8>),
    Poll(usize),
    Commit,
    Idle,
    /// The log takes the commit, and the host does not live to see it.
    CommitAndCrash,
    Crash,
    Abort,
    /// A partition goes away for some turns.
    Leave(u32),
    Come,
    /// A partition goes to the other host, which may run other plugins.
    Move(u32),
    /// The other host does things.
    Other,
    Swap(usize),
    RollBack(usize),
    /// Whether rollbacks wait for the log.
    Deaf(bool),
}

fn turn() -> impl Strategy<Value = Turn> {
    let value = prop_oneof![
        8 => Just("x"), 1 => Just("refuse"), 1 => Just("trap"),
        2 => Just("bad-refuse"), 1 => Just("bad-trap"), 1 => Just("bad-halt"), 1 => Just("bad-forget"),
    ];
    let retried = prop_oneof![3 => Just(None), 1 => (0_u8..6).prop_map(Some)];
    prop_oneof![
        20 => (0..PARTITIONS, 0_u8..5, value, retried).prop_map(|(p, k, v, r)| Turn::Event(p, k, v, r)),
        6 => (1_usize..6).prop_map(Turn::Poll),
        6 => Just(Turn::Commit),
        2 => Just(Turn::Idle),
        1 => Just(Turn::CommitAndCrash),
        1 => Just(Turn::Crash),
        1 => Just(Turn::Abort),
        1 => (0..PARTITIONS).prop_map(Turn::Leave),
        2 => Just(Turn::Come),
        3 => (0..PARTITIONS).prop_map(Turn::Move),
        1 => Just(Turn::Other),
        3 => (0_usize..3).prop_map(Turn::Swap),
        3 => (0_usize..3).prop_map(Turn::RollBack),
        1 => Just(Turn::Deaf(true)),
        2 => Just(Turn::Deaf(false)),
    ]
}

/// The plugins that are swapped in and undone. The first plugin of a key is on trial,
/// too, so they are one fewer than may be on trial in a slot.
const BAD: [&str; TRIALS_MAX - 1] = ["bad1", "bad2", "bad3"];

proptest! {
    /// In the end everything is as if the bad plugins had never been, and no other
    /// entity saw anything of them. Neither the order of swaps and rollbacks matters,
    /// nor where the host dies and where partitions go.
    #[test]
    fn a_rollback_leads_where_the_bad_plugin_never_was(
        turns in proptest::collection::vec(turn(), 1..160),
        commit_bytes_max in prop_oneof![Just(1_usize), Just(1 << 20)],
    ) {
        let mut world = World::new(commit_bytes_max);
        let mut reference = World::new(1 << 20);
        for world in [&mut world, &mut reference] {
            begin(world);
        }
        world.add_host();
        let mut stacks = [
            (SlotName::Default, vec![Some("good")]),
            (own_slot(), vec![Some("own")]),
            // A key that goes from the default slot to its own, and back.
            (SlotName::of_key(b"k2"), vec![None]),
        ];
        let back = |world: &mut World, stack: &mut (SlotName, Vec<Option<&'static str>>)| {
            if stack.1.len() > 1 {
                let bad = stack.1.pop().unwrap().unwrap();
                world.roll_back(&stack.0, bad, *stack.1.last().unwrap());
            }
        };
        for turn in turns {
            match turn {
                Turn::Event(partition, key, value, retried) => {
                    let headers: Vec<_> = retried
                        .map(|number| [mark(), Header::new(IDEMPOTENCY_HEADER, number.to_string())])
                        .into_iter()
                        .flatten()
                        .collect();
                    for world in [&mut world, &mut reference] {
                        world.event_with(partition, &format!("k{key}"), value, headers.clone());
                    }
                }
                Turn::Poll(count) => {
                    world.poll(count);
                }
                Turn::Commit => {
                    world.commit();
                }
                Turn::Idle => {
                    if world.processing().pending_since().is_none() {
                        world.idle();
                    }
                }
                Turn::CommitAndCrash => {
                    world.dies = true;
                    world.commit();
                    world.dies = false;
                    world.crash();
                }
                Turn::Crash => world.crash(),
                Turn::Abort => {
                    let actions = world.host.core.go_back();
                    world.carry_out(actions, None);
                }
                Turn::Leave(partition) => {
                    let partition = PartitionId(partition);
                    if world.host.read.contains_key(&partition) {
                        world.revoke(partition);
                    }
                }
                Turn::Come => world.take_all(),
                Turn::Move(partition) => {
                    if world.host.read.contains_key(&PartitionId(partition)) {
                        world.move_over(partition);
                    }
                }
                Turn::Other => world.turn_to_other(),
                Turn::Swap(slot) => {
                    let (slot, stack) = &mut stacks[slot];
                    let latest = *stack.last().unwrap();
                    if world.runs(slot) != latest {
                        // The other host has swapped to this plugin before.
                        world.swap(slot, latest);
                    } else if stack.len() <= BAD.len() {
                        // No more plugins come than can be undone.
                        stack.push(Some(BAD[stack.len() - 1]));
                        world.swap(slot, *stack.last().unwrap());
                    }
                }
                Turn::RollBack(slot) => back(&mut world, &mut stacks[slot]),
                Turn::Deaf(is_deaf) => world.is_deaf = is_deaf,
            }
        }
        world.is_deaf = false;
        world.take_all();
        for stack in &mut stacks {
            for _ in 0..BAD.len() {
                back(&mut world, stack);
            }
        }
        world.drain();
        reference.drain();
        prop_assert_eq!(world.entities(), reference.entities());
        prop_assert_eq!(&world.committed, &reference.committed);
        prop_assert_eq!(world.last_published(), reference.last_published());
        // Each event of the slot that nobody touched was published once.
        let of_still = |world: &World| {
            let published = world.published.iter();
            let of_key = published.filter(|record| record.key.as_deref() == Some(b"k1"));
            let mut described: Vec<_> = of_key.map(describe).collect();
            // Between partitions there is no order.
            described.sort();
            described
        };
        prop_assert_eq!(of_still(&world), of_still(&reference));
        let slots = stacks.into_iter().map(|(slot, _)| slot);
        for slot in slots.chain([still_slot()]) {
            world.at_each_host(|world| {
                world.confirm(&slot, None, now_ms());
            });
        }
        world.drain();
        prop_assert_eq!(world.reserved(&rows::BEFORES), 0);
        prop_assert_eq!(world.reserved(&rows::LATES), 0);
    }
}
