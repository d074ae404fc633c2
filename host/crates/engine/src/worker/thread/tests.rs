//! A worker that is asked to let partitions go, with a log that follows a script.

mod engines;
mod identity;
mod kafka_engine;
mod rollback;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use courtside_log::{Assignment, Bounds, Commit, Fetched, Polled};
use courtside_types::{Digest, Record, TopicId, slot_name::SlotName};

use super::*;
use crate::worker::{instances::Active, processing::now_ms, takeover::Directive};
use crate::{
    pipeline::identity::Identity,
    worker::{
        status::PartitionState,
        tests::{Faulty, Memory, pipeline},
    },
};

#[derive(Debug, PartialEq, Eq)]
enum Call {
    Commit(Vec<(PartitionId, Offset)>),
    Release(Vec<PartitionId>),
    Seek(PartitionId, Offset),
    Resume(Vec<PartitionId>),
}

#[derive(Default)]
struct Script {
    polls: VecDeque<Polled>,
    /// Whether commits succeed.
    works: bool,
    /// The errors of the next seeks.
    seeks: VecDeque<LogError>,
    calls: Vec<Call>,
    /// The time that each commit was given.
    times: Vec<Duration>,
    /// Raised in each poll: an order comes while the poll waits.
    ordered: Arc<AtomicBool>,
}

struct Scripted(Arc<Mutex<Script>>);

impl Member for Scripted {
    fn poll(&mut self, _: Duration, _: usize) -> Result<Polled, LogError> {
        let mut script = self.0.lock().unwrap();
        script.ordered.store(true, Ordering::Relaxed);
        let next = script.polls.pop_front();
        Ok(next.unwrap_or(Polled::Idle))
    }

    fn pause(&mut self, _: &[PartitionId]) {}

    fn resume(&mut self, partitions: &[PartitionId]) {
        let call = Call::Resume(partitions.to_vec());
        self.0.lock().unwrap().calls.push(call);
    }

    fn seek(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        let mut script = self.0.lock().unwrap();
        script.calls.push(Call::Seek(partition, next));
        script.seeks.pop_front().map_or(Ok(()), Err)
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), LogError> {
        let mut script = self.0.lock().unwrap();
        script.calls.push(Call::Commit(commit.offsets.clone()));
        if script.works {
            return Ok(());
        }
        Err(LogError::Unavailable {
            reason: "told to".to_owned(),
        })
    }

    fn commit_within(&mut self, commit: &Commit, time: Duration) -> Result<(), LogError> {
        self.0.lock().unwrap().times.push(time);
        self.commit(commit)
    }

    fn is_waited_for(&self) -> bool {
        let script = self.0.lock().unwrap();
        matches!(script.polls.front(), Some(Polled::Revoked(_)))
    }

    fn release(&mut self, partitions: &[PartitionId]) {
        let call = Call::Release(partitions.to_vec());
        self.0.lock().unwrap().calls.push(call);
    }
}

/// A worker with the plugin "a" in force.
fn running(script: &Arc<Mutex<Script>>) -> WorkerLoop {
    let mut running = running_on(script, Arc::default());
    activate(&mut running, Some("a"));
    running
}

/// A worker without a plugin, whose checkpoints are in this memory.
fn running_on(script: &Arc<Mutex<Script>>, memory: Arc<Memory>) -> WorkerLoop {
    running_of(pipeline(16, 16), script, memory)
}

fn running_of(
    pipeline: Arc<Pipeline>,
    script: &Arc<Mutex<Script>>,
    memory: Arc<Memory>,
) -> WorkerLoop {
    let interrupt = Arc::<AtomicBool>::default();
    let now = Instant::now();
    let core = Core::new(
        Arc::clone(&pipeline),
        memory,
        0,
        Arc::clone(&interrupt),
        now,
    );
    let (_, inbox) = crossbeam_channel::bounded(1);
    WorkerLoop {
        pipeline,
        status: Arc::default(),
        worker: 0,
        core,
        member: Box::new(Scripted(Arc::clone(script))),
        inbox,
        interrupt,
        starts: Box::new(|_| Ok(Offset(0))),
        watch: IdentityWatch::new(Box::new(|_| Ok(Vec::new())), &Identity::default()),
        poll_backoff: RETRY,
        handles: Handles::new("scores", 0),
        stopping: None,
    }
}

/// A caller that gives an order while a worker ends learns that no answer will come.
#[test]
fn an_order_that_comes_too_late_is_not_kept() {
    let (orders, inbox) = Orders::new();
    let (done, answer) = crossbeam_channel::bounded(1);
    let slot = SlotName::Default;
    assert!(orders.give(Order::Activate {
        slot,
        active: None,
        done,
    }));
    drop(inbox);
    let heard = answer.recv_timeout(Duration::from_secs(60));
    assert_eq!(
        heard,
        Err(crossbeam_channel::RecvTimeoutError::Disconnected)
    );
}

const P: PartitionId = PartitionId(0);
const Q: PartitionId = PartitionId(1);

fn assigned() -> Polled {
    let assignment = |partition| Assignment {
        partition,
        committed: None,
        bounds: Bounds {
            start: Offset(0),
            end: Offset(1),
        },
    };
    Polled::Assigned(vec![assignment(P), assignment(Q)])
}

fn records(partitions: &[PartitionId]) -> Polled {
    let fetched = |partition: &PartitionId| Fetched {
        partition: *partition,
        records: vec![Record {
            offset: Offset(0),
            timestamp_ms: 1,
            key: Some("k".into()),
            headers: Vec::new(),
            value: Some("x".into()),
        }],
    };
    Polled::Records(partitions.iter().map(fetched).collect())
}

type Ids = Result<Vec<Option<TopicId>>, LogError>;

/// A worker whose looks at its input get these answers. After the last answer the topic
/// is there.
fn looking(script: &Arc<Mutex<Script>>, answers: Vec<Ids>) -> WorkerLoop {
    const ID: TopicId = TopicId(7);
    let identity = Identity {
        input: Some(("in".into(), ID)),
        checkpoints: None,
    };
    let answers = Mutex::new(VecDeque::from(answers));
    let ask = move |_: &[_]| {
        let answer = answers.lock().unwrap().pop_front();
        answer.unwrap_or_else(|| Ok(vec![Some(ID)]))
    };
    let mut running = running(script);
    running.watch = IdentityWatch::new(Box::new(ask), &identity);
    running
}

/// Steps until the condition holds.
fn until(running: &mut WorkerLoop, is: impl Fn(&WorkerLoop) -> bool) {
    let since = Instant::now();
    while !is(running) {
        assert!(since.elapsed() < Duration::from_secs(60), "it never is");
        running.step();
    }
}

/// The log does not say which topic the partitions are of, so they wait. A revoked one
/// goes at once all the same.
#[test]
fn partitions_that_cannot_be_begun_with_hold_nobody_back() {
    let script = Arc::new(Mutex::new(Script {
        polls: [assigned(), Polled::Revoked(vec![P])].into(),
        works: true,
        ..Script::default()
    }));
    let unavailable = || {
        Err(LogError::Unavailable {
            reason: "told to".to_owned(),
        })
    };
    let mut running = looking(&script, vec![unavailable(), unavailable(), unavailable()]);
    running.step();
    let waits = (PartitionState::Waiting, Some("log-unavailable"));
    assert_eq!(state_of(&running, P), waits);
    assert_eq!(state_of(&running, Q), waits);
    running.step();
    assert_eq!(script.lock().unwrap().calls, [Call::Release(vec![P])]);
    assert_eq!(running.core.partitions(), [Q]);
    script.lock().unwrap().calls.clear();

    until(&mut running, |running| {
        state_of(running, Q) == (PartitionState::Running, None)
    });
    {
        let mut script = script.lock().unwrap();
        let begun = [Call::Seek(Q, Offset(0)), Call::Resume(vec![Q])];
        assert_eq!(script.calls[..2], begun);
        script.calls.clear();
    }
    script.lock().unwrap().polls.push_back(records(&[Q]));
    for _ in 0..2 {
        running.step();
    }
    assert_eq!(
        script.lock().unwrap().calls,
        [Call::Commit(vec![(Q, Offset(1))])]
    );
}

/// The group takes partitions away when their topic is gone, so no partition can report
/// it.
#[test]
fn a_topic_that_is_gone_is_told_by_a_worker_without_partitions() {
    let script = Arc::new(Mutex::new(Script::default()));
    let mut running = looking(&script, vec![Ok(vec![None]), Ok(vec![None])]);
    running.step();
    let code = |running: &WorkerLoop| running.status.topics_gone().map(|(code, _)| code);
    assert_eq!(code(&running), Some("topic-missing"));
    until(&mut running, |running| code(running).is_none());
    // The next look is due at once.
    running.core.forget_last_look();
    running.watch = IdentityWatch::new(
        Box::new(|_| Ok(vec![Some(TopicId(8))])),
        &Identity {
            input: Some(("in".into(), TopicId(7))),
            checkpoints: None,
        },
    );
    running.step();
    assert_eq!(code(&running), Some("topic-recreated"));
}

/// Each call fails only after seconds while no broker answers, and the host gives its
/// workers a few seconds to end.
#[test]
fn an_order_that_comes_during_a_poll_does_not_wait_for_a_look_at_topics() {
    let script = Arc::<Mutex<Script>>::default();
    let mut running = looking(&script, vec![Ok(vec![None])]);
    let code = |running: &WorkerLoop| running.status.topics_gone().map(|(code, _)| code);
    script.lock().unwrap().ordered = Arc::clone(&running.interrupt);
    running.step();
    assert_eq!(code(&running), None, "it looked");
    script.lock().unwrap().ordered = Arc::default();
    running.step();
    assert_eq!(code(&running), Some("topic-missing"));
}

#[test]
fn what_is_revoked_is_committed_and_then_released() {
    let script = Arc::new(Mutex::new(Script {
        polls: [assigned(), records(&[P, Q]), Polled::Revoked(vec![P])].into(),
        works: true,
        ..Script::default()
    }));
    let mut running = running(&script);
    for _ in 0..4 {
        running.step();
    }
    assert_eq!(
        script.lock().unwrap().calls,
        [
            Call::Commit(vec![(P, Offset(1)), (Q, Offset(1))]),
            Call::Release(vec![P]),
        ]
    );
}

/// The time that a plugin takes counts, too, so a slow one is committed after each poll.
#[test]
fn a_commit_that_becomes_due_while_events_are_processed_is_made_at_once() {
    let script = Arc::new(Mutex::new(Script {
        polls: [assigned(), records(&[P, Q]), records(&[])].into(),
        works: true,
        ..Script::default()
    }));
    let mut pipeline = (*pipeline(16, 16)).clone();
    pipeline.settings.commit_interval = Duration::from_nanos(1);
    let mut running = running_of(Arc::new(pipeline), &script, Arc::default());
    activate(&mut running, Some("a"));
    for _ in 0..2 {
        running.step();
    }
    assert_eq!(
        script.lock().unwrap().calls,
        [Call::Commit(vec![(P, Offset(1)), (Q, Offset(1))])]
    );
}

/// The log does not take the commit. At the deadline the worker lets go all the same,
/// and reads the partitions that stay again.
#[test]
fn a_revoke_ends_at_the_drain_deadline() {
    let script = Arc::new(Mutex::new(Script {
        polls: [assigned(), records(&[P, Q]), Polled::Revoked(vec![P])].into(),
        ..Script::default()
    }));
    let mut running = running(&script);
    for _ in 0..3 {
        running.step();
    }
    let drain = running.pipeline.settings.drain_deadline;
    {
        let mut script = script.lock().unwrap();
        assert!(script.times.len() > 1, "it tried again");
        assert!(script.times.iter().all(|time| *time <= drain));
        script.calls.retain(|call| !matches!(call, Call::Commit(_)));
        assert_eq!(
            script.calls,
            [Call::Release(vec![P]), Call::Seek(Q, Offset(0))]
        );
        script.calls.clear();
        script.works = true;
        script.polls.push_back(records(&[Q]));
    }
    for _ in 0..2 {
        running.step();
    }
    assert_eq!(
        script.lock().unwrap().calls,
        [Call::Commit(vec![(Q, Offset(1))])]
    );
}

/// Each try that knows of no deadline may take as long as a transaction.
#[test]
fn a_stop_behind_other_orders_bounds_the_next_try() {
    let script = Arc::new(Mutex::new(Script {
        polls: [assigned(), records(&[P, Q])].into(),
        ..Script::default()
    }));
    let mut running = running(&script);
    for _ in 0..2 {
        running.step();
    }
    let (sender, inbox) = crossbeam_channel::unbounded();
    for id in 0..3 {
        let (done, _answer) = crossbeam_channel::bounded(1);
        let slot = SlotName::Default;
        sender.send(Order::Withdraw { slot, id, done }).unwrap();
    }
    sender.send(Order::Stop(Instant::now())).unwrap();
    running.inbox = inbox;
    // The first order needs a commit, which fails, and the others wait meanwhile.
    running.step();
    assert!(running.stopping.is_some());
    let script = script.lock().unwrap();
    let commits = script.calls.iter();
    let commits = commits.filter(|call| matches!(call, Call::Commit(_)));
    assert_eq!(commits.count(), script.times.len() + 1);
}

/// The revoke comes while a commit is tried again and again. The group waits for it no
/// longer than for a revoke that came before the commit.
#[test]
fn a_commit_that_fails_does_not_hold_a_revoke_back() {
    let revoked = Polled::Revoked(vec![P]);
    let script = Arc::new(Mutex::new(Script {
        polls: [assigned(), records(&[P, Q]), Polled::Idle, revoked].into(),
        ..Script::default()
    }));
    let mut running = running(&script);
    for _ in 0..4 {
        running.step();
    }
    let mut script = script.lock().unwrap();
    assert!(script.calls.len() > 3, "it tried more than once");
    script.calls.retain(|call| !matches!(call, Call::Commit(_)));
    assert_eq!(
        script.calls,
        [
            Call::Seek(P, Offset(0)),
            Call::Seek(Q, Offset(0)),
            Call::Release(vec![P]),
        ]
    );
}

/// A commit was fenced: the partitions that the member still has go on.
#[test]
fn what_is_not_lost_is_read_again_after_a_fenced_commit() {
    struct Fenced(Scripted);
    impl Member for Fenced {
        fn poll(&mut self, timeout: Duration, max_bytes: usize) -> Result<Polled, LogError> {
            self.0.poll(timeout, max_bytes)
        }
        fn pause(&mut self, _: &[PartitionId]) {}
        fn resume(&mut self, _: &[PartitionId]) {}
        fn seek(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError> {
            if partition == P {
                return Err(LogError::Fenced {
                    reason: "told to".to_owned(),
                });
            }
            self.0.seek(partition, next)
        }
        fn commit(&mut self, _: &Commit) -> Result<(), LogError> {
            Err(LogError::Fenced {
                reason: "told to".to_owned(),
            })
        }
        fn release(&mut self, _: &[PartitionId]) {}
    }
    let script = Arc::new(Mutex::new(Script {
        polls: [assigned(), records(&[P, Q])].into(),
        ..Script::default()
    }));
    let mut running = running(&script);
    running.member = Box::new(Fenced(Scripted(Arc::clone(&script))));
    for _ in 0..3 {
        running.step();
    }
    assert_eq!(script.lock().unwrap().calls, [Call::Seek(Q, Offset(0))]);
    assert_eq!(running.core.partitions(), [Q]);
    assert_eq!(running.core.positions(), [(Q, Offset(0))]);
}

fn state_of(
    running: &WorkerLoop,
    partition: PartitionId,
) -> (PartitionState, Option<&'static str>) {
    let status = running.status.all().remove(&partition).unwrap();
    (status.state, status.code)
}

/// A worker that went back to what is committed, with these errors of its seeks, and
/// the calls that it made.
fn rewound(seeks: impl IntoIterator<Item = LogError>) -> (WorkerLoop, Vec<Call>) {
    let script = Arc::new(Mutex::new(Script {
        polls: [assigned(), records(&[P, Q])].into(),
        works: true,
        seeks: seeks.into_iter().collect(),
        ..Script::default()
    }));
    let mut running = running(&script);
    for _ in 0..2 {
        running.step();
    }
    let actions = running.core.go_back();
    running.carry_out(actions);
    let calls = std::mem::take(&mut script.lock().unwrap().calls);
    (running, calls)
}

/// Otherwise the member would read on from where it is, and skip events.
#[test]
fn a_seek_that_fails_is_tried_again() {
    let unavailable = || LogError::Unavailable {
        reason: "told to".to_owned(),
    };
    let (running, calls) = rewound([unavailable(), unavailable()]);
    let seek = |partition| Call::Seek(partition, Offset(0));
    assert_eq!(calls, [seek(P), seek(P), seek(P), seek(Q)]);
    assert_eq!(state_of(&running, P), (PartitionState::Running, None));
}

#[test]
fn a_partition_that_cannot_be_read_from_where_it_must_be_stops() {
    let (mut running, calls) = rewound([LogError::Corrupt {
        reason: "told to".to_owned(),
    }]);
    let seek = |partition| Call::Seek(partition, Offset(0));
    assert_eq!(calls, [seek(P), seek(Q)]);
    let stopped = (PartitionState::Stopped, Some("log-corrupt"));
    assert_eq!(state_of(&running, P), stopped);
    assert_eq!(state_of(&running, Q), (PartitionState::Running, None));
    assert_eq!(running.core.positions(), [(Q, Offset(0))]);
    // A plugin does not make the stopped partition go on.
    activate(&mut running, None);
    assert_eq!(state_of(&running, P), stopped);
    assert_eq!(state_of(&running, Q).0, PartitionState::Waiting);
    activate(&mut running, Some("a"));
    assert_eq!(state_of(&running, P), stopped);
    assert_eq!(state_of(&running, Q).0, PartitionState::Running);
}

fn give(running: &mut WorkerLoop, order: Order) {
    let (sender, inbox) = crossbeam_channel::unbounded();
    running.inbox = inbox;
    sender.send(order).unwrap();
    running.take_orders();
}

fn activate(running: &mut WorkerLoop, name: Option<&str>) {
    let slot = SlotName::Default;
    let active = name.map(|name| Active::new(slot.clone(), Faulty::new(name, &["faulty/1"])));
    let (done, _answer) = crossbeam_channel::bounded(1);
    let order = Order::Activate { slot, active, done };
    give(running, order);
}

fn confirm(running: &mut WorkerLoop, slot: SlotName, at: u64) {
    let (done, answer) = crossbeam_channel::bounded(1);
    let order = Order::Confirm {
        slot,
        digest: None,
        at,
        done,
    };
    give(running, order);
    answer.try_recv().unwrap();
}

fn roll_back(running: &mut WorkerLoop, active: Option<Arc<Active>>) {
    let directive = Directive {
        id: 1,
        slot: SlotName::Default,
        bad: Digest::of(b"b"),
        to: Some(Digest::of(b"a")),
        at: 0,
    };
    let (done, answer) = crossbeam_channel::bounded(1);
    let order = Order::Rollback {
        slot: SlotName::Default,
        directive,
        active,
        done,
    };
    give(running, order);
    answer.try_recv().unwrap();
}

/// The log lacks events for a rollback. Only a confirmation of the swap makes the
/// partition go on, with the states that it has.
#[test]
fn a_partition_that_was_refused_goes_on_when_its_swap_is_confirmed() {
    let script = Arc::new(Mutex::new(Script {
        polls: [assigned(), records(&[P, Q])].into(),
        works: true,
        ..Script::default()
    }));
    let memory = Arc::new(Memory::default());
    let mut running = running_on(&script, Arc::clone(&memory));
    let member = Storing(Scripted(Arc::clone(&script)), Arc::clone(&memory));
    running.member = Box::new(member);
    activate(&mut running, Some("a"));
    running.step();
    // The idle worker writes which plugin runs, so that the rollback knows the one
    // before.
    running.step();
    for _ in 0..100 {
        running.step();
    }
    activate(&mut running, Some("b"));
    for _ in 0..3 {
        running.step();
    }
    let swapped_at = now_ms();
    running.starts = Box::new(|partition| Ok(Offset(if partition == P { 5 } else { 0 })));
    let before = Active::new(SlotName::Default, Faulty::new("a", &["faulty/1"]));
    roll_back(&mut running, Some(before));
    let refused = (PartitionState::Stopped, Some("rollback-out-of-range"));
    assert_eq!(state_of(&running, P), refused);
    script.lock().unwrap().calls.clear();
    let went_on = || {
        let script = script.lock().unwrap();
        let mut calls = script.calls.iter();
        calls.any(|call| matches!(call, Call::Resume(going) if going.contains(&P)))
    };
    // Swaps and other confirmations do not make the partition go on.
    activate(&mut running, None);
    activate(&mut running, Some("c"));
    confirm(&mut running, SlotName::of_key(b"k"), now_ms());
    confirm(&mut running, SlotName::Default, 1);
    running.step();
    assert_eq!(state_of(&running, P), refused);
    assert_eq!(state_of(&running, Q).0, PartitionState::Running);
    assert!(!went_on());
    confirm(&mut running, SlotName::Default, swapped_at);
    assert_eq!(state_of(&running, P), (PartitionState::Running, None));
    assert!(went_on());
}

/// A host that starts knows of the rollback before it has a plugin.
#[test]
fn a_partition_that_was_refused_while_it_waited_for_a_plugin_does_not_go_on() {
    let script = Arc::new(Mutex::new(Script {
        polls: [assigned()].into(),
        works: true,
        ..Script::default()
    }));
    let memory = Arc::new(Memory::default());
    let begun = |starts: u64| {
        let mut running = running_on(&script, Arc::clone(&memory));
        let member = Storing(Scripted(Arc::clone(&script)), Arc::clone(&memory));
        running.member = Box::new(member);
        running.starts = Box::new(move |_| Ok(Offset(starts)));
        running
    };
    let mut first = begun(0);
    for name in ["a", "b"] {
        activate(&mut first, Some(name));
        for _ in 0..3 {
            first.step();
        }
    }
    drop(first);
    let mut running = begun(5);
    roll_back(&mut running, None);
    script.lock().unwrap().polls.push_back(assigned());
    running.step();
    assert_eq!(state_of(&running, P).0, PartitionState::Waiting);
    running.step();
    let refused = (PartitionState::Stopped, Some("rollback-out-of-range"));
    assert_eq!(state_of(&running, P), refused);
    activate(&mut running, Some("a"));
    running.step();
    assert_eq!(state_of(&running, P), refused);
    let calls = &script.lock().unwrap().calls;
    assert!(!calls.contains(&Call::Resume(vec![P, Q])), "{calls:?}");
}

/// A member that keeps committed checkpoints in memory.
struct Storing(Scripted, Arc<Memory>);

impl Member for Storing {
    fn poll(&mut self, timeout: Duration, max_bytes: usize) -> Result<Polled, LogError> {
        self.0.poll(timeout, max_bytes)
    }
    fn pause(&mut self, partitions: &[PartitionId]) {
        self.0.pause(partitions);
    }
    fn resume(&mut self, partitions: &[PartitionId]) {
        self.0.resume(partitions);
    }
    fn seek(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        self.0.seek(partition, next)
    }
    fn commit(&mut self, commit: &Commit) -> Result<(), LogError> {
        self.0.commit(commit)?;
        self.1.apply(commit);
        Ok(())
    }
    fn release(&mut self, partitions: &[PartitionId]) {
        self.0.release(partitions);
    }
}

/// A log that refuses commits of [`P`] until that is mended.
#[derive(Default)]
struct Refusal {
    refuses: bool,
    is_assigned: bool,
    unread: BTreeSet<PartitionId>,
    paused: BTreeSet<PartitionId>,
    committed: Vec<Vec<PartitionId>>,
}

struct Refusing(Arc<Mutex<Refusal>>);

impl Member for Refusing {
    fn poll(&mut self, _: Duration, _: usize) -> Result<Polled, LogError> {
        let mut log = self.0.lock().unwrap();
        if !std::mem::replace(&mut log.is_assigned, true) {
            log.unread = [P, Q].into();
            return Ok(assigned());
        }
        let readable: Vec<_> = log.unread.difference(&log.paused).copied().collect();
        log.unread.retain(|partition| !readable.contains(partition));
        Ok(match readable.as_slice() {
            [] => Polled::Idle,
            readable => records(readable),
        })
    }

    fn pause(&mut self, partitions: &[PartitionId]) {
        self.0.lock().unwrap().paused.extend(partitions);
    }

    fn resume(&mut self, partitions: &[PartitionId]) {
        let mut log = self.0.lock().unwrap();
        log.paused.retain(|paused| !partitions.contains(paused));
    }

    fn seek(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        if next == Offset(0) {
            self.0.lock().unwrap().unread.insert(partition);
        }
        Ok(())
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), LogError> {
        let mut log = self.0.lock().unwrap();
        let partitions: Vec<_> = commit.offsets.iter().map(|(id, _)| *id).collect();
        if log.refuses && partitions.contains(&P) {
            return Err(LogError::Invalid {
                what: "a record of a commit".to_owned(),
                reason: "told to".to_owned(),
            });
        }
        log.committed.push(partitions);
        Ok(())
    }

    fn release(&mut self, _: &[PartitionId]) {}
}

/// The reason of the refusal may pass, and concerns no other partition.
#[test]
fn what_was_given_up_goes_on_by_itself_and_others_before_it() {
    let script = Arc::<Mutex<Script>>::default();
    let log = Arc::new(Mutex::new(Refusal {
        refuses: true,
        ..Refusal::default()
    }));
    let mut running = running(&script);
    running.member = Box::new(Refusing(Arc::clone(&log)));
    let until = |running: &mut WorkerLoop, is: &dyn Fn(&WorkerLoop) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is(running) {
            assert!(Instant::now() < deadline, "in vain");
            running.step();
        }
    };
    let stopped = (PartitionState::Stopped, Some("log-invalid"));
    let runs = (PartitionState::Running, None);
    until(&mut running, &|running| {
        !running.core.partitions().is_empty() && state_of(running, P) == stopped
    });
    // Both partitions were in one commit.
    assert_eq!(state_of(&running, Q), stopped);
    until(&mut running, &|running| state_of(running, Q) == runs);
    assert_eq!(state_of(&running, P), stopped);
    assert_eq!(log.lock().unwrap().committed, [[Q]]);
    log.lock().unwrap().refuses = false;
    until(&mut running, &|running| state_of(running, P) == runs);
    assert_eq!(log.lock().unwrap().committed, [[Q], [P]]);
    let positions = [(P, Offset(1)), (Q, Offset(1))];
    assert_eq!(running.core.positions(), positions);
}
