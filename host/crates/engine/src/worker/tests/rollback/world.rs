//! Hosts and a log in memory, in which a test makes anything happen.

use super::*;

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
pub(super) struct World {
    pub pipeline: Arc<Pipeline>,
    pub memory: Arc<Memory>,
    pub host: Host,
    pub log: BTreeMap<PartitionId, Vec<Record>>,
    /// The first offset that the log still has of a partition, where that is not 0.
    pub starts: BTreeMap<PartitionId, Offset>,
    pub committed: BTreeMap<PartitionId, Offset>,
    pub directives: Vec<Directive>,
    pub published: Vec<NewRecord>,
    pub takeovers: Vec<TakeoverRecord>,
    pub commits: usize,
    /// The log cannot be asked whether it has what a rollback needs.
    pub is_deaf: bool,
    /// A commit is not answered, because the host dies.
    pub dies: bool,
    /// Partitions may stop, or wait for a plugin.
    pub may_stop: bool,
    /// Another host of the group, which may run other plugins.
    pub other: Option<Host>,
}

/// The memory of a host, which ends with it.
pub(super) struct Host {
    pub core: Core,
    /// The member's place in each partition that it has.
    pub read: BTreeMap<PartitionId, Offset>,
    pub paused: BTreeSet<PartitionId>,
    pub states: BTreeMap<PartitionId, (PartitionState, Option<&'static str>)>,
    /// The plugin that runs in each slot.
    pub running: BTreeMap<SlotName, (Option<&'static str>, Option<Arc<Active>>)>,
}

impl Host {
    pub fn new(pipeline: &Arc<Pipeline>, memory: &Arc<Memory>) -> Self {
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
    pub fn new(commit_bytes_max: usize) -> Self {
        Self::confirming(commit_bytes_max, Duration::from_secs(3600))
    }

    pub fn confirming(commit_bytes_max: usize, confirm_after: Duration) -> Self {
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
            takeovers: Vec::new(),
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

    /// Gives the core an input and the result of its poll, and carries out its actions.
    pub fn feed(&mut self, input: Input, polled: Option<Polled>) {
        let actions = self.host.core.step(input, Instant::now());
        self.carry_out(actions, polled);
    }

    pub fn carry_out(&mut self, mut actions: Vec<Action>, mut polled: Option<Polled>) {
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

    pub fn act(&mut self, action: Action, polled: &mut Option<Polled>) -> Option<Input> {
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
            Action::Sleep(_) => return Some(Input::Slept),
            Action::Answer(_) | Action::Report(_) => {}
        }
        None
    }

    pub fn processing(&self) -> &Processing {
        self.host.core.processing()
    }

    pub fn assign(&mut self, partition: PartitionId) {
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
        self.feed(Input::Turn, Some(Polled::Assigned(vec![assignment])));
    }

    /// The group takes a partition away, once what is pending is committed.
    pub fn revoke(&mut self, partition: PartitionId) {
        self.feed(Input::Turn, Some(Polled::Revoked(vec![partition])));
        assert!(!self.host.read.contains_key(&partition));
    }

    /// A second host, with the same plugins and none of the partitions.
    pub fn add_host(&mut self) {
        self.other = Some(Host::new(&self.pipeline, &self.memory));
        let running = self.host.running.clone();
        self.turn_to_other();
        for (slot, (name, _)) in running {
            self.swap(&slot, name);
        }
        self.turn_to_other();
    }

    /// The other host is the one that does things from now on.
    pub fn turn_to_other(&mut self) {
        let other = self.other.as_mut().expect("another host");
        std::mem::swap(&mut self.host, other);
    }

    /// A partition goes to the other host, which does things from now on.
    pub fn move_over(&mut self, partition: u32) {
        let partition = PartitionId(partition);
        self.revoke(partition);
        self.turn_to_other();
        self.assign(partition);
    }

    /// Takes the partitions that nobody has.
    pub fn take_all(&mut self) {
        for partition in (0..PARTITIONS).map(PartitionId) {
            let is_elsewhere = |other: &Host| other.read.contains_key(&partition);
            if !self.host.read.contains_key(&partition)
                && !self.other.as_ref().is_some_and(is_elsewhere)
            {
                self.assign(partition);
            }
        }
    }

    pub fn runs(&self, slot: &SlotName) -> Option<&'static str> {
        self.host.running.get(slot).and_then(|(name, _)| *name)
    }

    /// Does `act` at each host.
    pub fn at_each_host(&mut self, act: impl Fn(&mut Self)) {
        act(self);
        if self.other.is_some() {
            self.turn_to_other();
            act(self);
            self.turn_to_other();
        }
    }

    /// Drops the host with all that it did not commit, and starts it again.
    pub fn crash(&mut self) {
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

    pub fn swap(&mut self, slot: &SlotName, name: Option<&'static str>) {
        let active = name.map(|name| Active::new(slot.clone(), Folding::new(name)));
        let running = (name, active.clone());
        self.host.running.insert(slot.clone(), running);
        let (done, _answer) = crossbeam_channel::bounded(1);
        let slot = slot.clone();
        let order = Order::Activate { slot, active, done };
        self.feed(Input::Order(order), None);
    }

    pub fn direct(&mut self, directive: Directive, active: Option<Arc<Active>>) {
        let (done, _answer) = crossbeam_channel::bounded(1);
        let order = Order::Rollback {
            slot: directive.slot.clone(),
            directive,
            active,
            done,
        };
        self.feed(Input::Order(order), None);
    }

    pub fn withdraw(&mut self, slot: &SlotName, id: u64) {
        let (done, _answer) = crossbeam_channel::bounded(1);
        let slot = slot.clone();
        let order = Order::Withdraw { slot, id, done };
        self.feed(Input::Order(order), None);
    }

    pub fn confirm(&mut self, slot: &SlotName, digest: Option<Digest>, at: u64) {
        let (done, _answer) = crossbeam_channel::bounded(1);
        let order = Order::Confirm {
            slot: slot.clone(),
            digest,
            at,
            done,
        };
        self.feed(Input::Order(order), None);
    }

    pub fn roll_back(&mut self, slot: &SlotName, bad: &str, to: Option<&'static str>) {
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

    pub fn event(&mut self, partition: u32, key: &str, value: &str) {
        self.event_with(partition, key, value, Vec::new());
    }

    pub fn event_with(&mut self, partition: u32, key: &str, value: &str, headers: Vec<Header>) {
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
    pub fn poll(&mut self, count_max: usize) -> bool {
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
            self.feed(Input::Turn, Some(Polled::Records(fetched)));
        }
        something
    }

    /// Commits what is pending. Returns false if there was nothing.
    pub fn commit(&mut self) -> bool {
        let before = self.commits;
        let actions = self.host.core.commit_now();
        self.carry_out(actions, None);
        self.commits > before
    }

    pub fn idle(&mut self) {
        self.feed(Input::Turn, Some(Polled::Idle));
    }

    /// The log takes a commit.
    pub fn apply(&mut self, commit: &Commit) {
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
                let takeover = TakeoverRecord::parse(record.value.as_ref().unwrap()).unwrap();
                assert_eq!(record.key.as_deref(), Some(takeover.key().as_bytes()));
                self.takeovers.push(takeover);
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

    pub fn drain(&mut self) {
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
    pub fn hold(&mut self, slot: &SlotName, bad: &str, to: Option<&'static str>) {
        self.is_deaf = true;
        self.roll_back(slot, bad, to);
        assert!(self.processing().is_to_begin());
    }

    pub fn slots(&self, partition: u32) -> Slots {
        Slots::read(&*self.memory, PartitionId(partition)).unwrap()
    }

    /// The entities' checkpoints, without their offsets. An offset is that of the last
    /// event in the commit that wrote it, so it depends on the commits and not on the
    /// events.
    pub fn entities(&self) -> BTreeMap<(PartitionId, Key), Envelope> {
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
    pub fn entities_redone(&self, key: &[u8]) -> Vec<(Offset, Offset, u32)> {
        let bytes = self.memory.get(P, key).unwrap().unwrap();
        let redone = Envelope::decode(&bytes).unwrap().redone;
        let redone = redone.iter();
        redone
            .map(|one| (one.from, one.until, one.attempt))
            .collect()
    }

    pub fn reserved(&self, prefix: &[u8]) -> usize {
        let checkpoints = self.memory.all();
        let keys = checkpoints.keys();
        keys.filter(|(_, key)| key.starts_with(prefix)).count()
    }

    /// The record that was published last of each event.
    pub fn last_published(&self) -> BTreeMap<String, String> {
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

    pub fn redone(&self) -> Vec<(PartitionId, Redone)> {
        let redoing = self.processing().redoing();
        redoing.map(|(id, redone, _)| (id, redone)).collect()
    }
}
