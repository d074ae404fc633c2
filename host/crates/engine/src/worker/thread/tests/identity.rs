//! Tests of the offset at which a worker goes on, on a log: the group's own row
//! decides. They are called for each engine.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_log::{
    Commit, LogError, RecordLog,
    admin::{Admin, NewTopic},
    conformance::{Subject, append, assigned, deleted, join, read_all, record, wait},
    reset::{self, Also, Target},
};
use courtside_process::shutdown::End;
use courtside_types::{
    Header, NewRecord, Offset, PartitionId, SOURCE_HEADER, headers::IDEMPOTENCY_HEADER,
    slot_name::SlotName,
};

use crate::{
    pipeline::{Output, Pipeline, identity::Identity},
    worker::status::PartitionState,
    worker::{
        instances::Active,
        position::PositionRow,
        status::{PartitionStatus, PipelineStatus},
        tests::{pipeline, rollback::Folding},
        thread::{Order, Worker},
    },
};

const P: PartitionId = PartitionId(0);
/// Long enough to mean that a test hangs, not that it is slow.
const HANGS_AFTER: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(10);

/// A pipeline of one partition, with its topics.
pub(crate) fn scene(subject: &impl Subject) -> Pipeline {
    let log = subject.log();
    let mut pipeline = (*pipeline(4, 100)).clone();
    pipeline.group = subject.name("g");
    pipeline.input = subject.name("in");
    pipeline.output = Output {
        topic: subject.name("out"),
        partitions: 1,
    };
    pipeline.dead_letter = subject.name("g.dead-letter");
    pipeline.settings.commit_interval = Duration::from_millis(5);
    pipeline.record_bytes_max = log.record_bytes_max();
    log.ensure_topics(&[
        deleted(&pipeline.input, 1),
        deleted(&pipeline.output.topic, 1),
        deleted(&pipeline.dead_letter, 1),
    ])
    .unwrap();
    pipeline
}

/// A worker as a host starts it.
pub(crate) struct Rig {
    log: Arc<dyn RecordLog>,
    pipeline: Arc<Pipeline>,
    status: Arc<PipelineStatus>,
    worker: Worker,
}

impl Rig {
    pub fn start(log: &Arc<dyn RecordLog>, pipeline: &Pipeline) -> Self {
        let mut pipeline = pipeline.clone();
        log.ensure_group(&pipeline.group, &pipeline.input).unwrap();
        pipeline.identity = Identity::of(&**log, &pipeline.group, &pipeline.input).unwrap();
        let pipeline = Arc::new(pipeline);
        let status = Arc::new(PipelineStatus::default());
        let worker = Worker::start(log, &pipeline, &status, 0).unwrap();
        let (done, active) = crossbeam_channel::bounded(1);
        assert!(worker.orders().give(Order::Activate {
            slot: SlotName::Default,
            active: Some(Active::new(SlotName::Default, Folding::new("good"))),
            done,
        }));
        active.recv_timeout(HANGS_AFTER).unwrap();
        Self {
            log: Arc::clone(log),
            pipeline,
            status,
            worker,
        }
    }

    pub fn stop(self) {
        assert!(self.worker.orders().give(Order::Stop(Instant::now())));
        let by = Instant::now() + Duration::from_secs(60);
        assert_eq!(self.worker.end(by), End::Clean);
        let since = Instant::now();
        let (group, input) = (&self.pipeline.group, &self.pipeline.input);
        while !self
            .log
            .group_status(group, input)
            .unwrap()
            .members
            .is_empty()
        {
            assert!(since.elapsed() < HANGS_AFTER, "the group has members");
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until the partition is in a state for a reason.
    pub fn is(&self, state: PartitionState, code: &str) -> PartitionStatus {
        let since = Instant::now();
        loop {
            let status = self.status.get(P);
            if let Some(status) = &status
                && status.state == state
                && status.code.unwrap_or_default() == code
            {
                return status.clone();
            }
            assert!(since.elapsed() < HANGS_AFTER, "{status:?}, not {code}");
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until these events are processed, each once, and committed.
    pub fn has_processed(&self, offsets: &[u64]) {
        let since = Instant::now();
        while processed(&*self.log, &self.pipeline) != offsets {
            let seen = (processed(&*self.log, &self.pipeline), self.status.get(P));
            assert!(since.elapsed() < HANGS_AFTER, "{seen:?}");
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until the log's committed offset is this one.
    pub fn has_committed(&self, next: u64) {
        let since = Instant::now();
        let (group, input) = (&self.pipeline.group, &self.pipeline.input);
        loop {
            let committed = self.log.group_status(group, input).unwrap().committed;
            if committed.get(&P) == Some(&Offset(next)) {
                return;
            }
            assert!(since.elapsed() < HANGS_AFTER, "{committed:?}");
            std::thread::sleep(LOOK);
        }
    }
}

/// The offsets of the events that outputs come from, in the order of the outputs.
pub(crate) fn processed(log: &dyn RecordLog, pipeline: &Pipeline) -> Vec<u64> {
    let outputs = read_all(log, &pipeline.output.topic, 0, 0);
    let offset = |record: &courtside_types::Record| {
        let source = record.header(SOURCE_HEADER).unwrap();
        let source = std::str::from_utf8(source).unwrap();
        source.rsplit('/').next().unwrap().parse().unwrap()
    };
    outputs.iter().map(offset).collect()
}

/// Resets the group as `courtside reset PIPELINE --to earliest` does.
fn reset(log: &dyn RecordLog, pipeline: &Pipeline) {
    let (group, input) = (&pipeline.group, &pipeline.input);
    log.ensure_group(group, input).unwrap();
    let identity = Identity::of(log, group, input).unwrap();
    let plan = reset::plan(log, group, input, &[], Target::Earliest).unwrap();
    reset::apply(log, reset::member(group, input, Vec::new()), &plan, |at| {
        Also {
            records: Vec::new(),
            checkpoints: vec![PositionRow::new(&identity, at.to).checkpoint()],
        }
    })
    .unwrap();
    let since = Instant::now();
    while !log.group_status(group, input).unwrap().members.is_empty() {
        assert!(since.elapsed() < HANGS_AFTER, "the group has members");
        std::thread::sleep(LOOK);
    }
}

pub(crate) fn events(log: &dyn RecordLog, pipeline: &Pipeline, count: usize) {
    append(log, &pipeline.input, 0, &vec!["x"; count]);
}

fn delete(log: &dyn Admin, pipeline: &Pipeline) {
    let since = Instant::now();
    while let Err(error) = log.delete_topic(&pipeline.input) {
        assert!(matches!(error, LogError::TopicInUse { .. }), "{error}");
        assert!(since.elapsed() < HANGS_AFTER, "{error}");
        std::thread::sleep(LOOK);
    }
    while log
        .topic_ids(std::slice::from_ref(&pipeline.input))
        .unwrap()
        != [None]
    {
        assert!(since.elapsed() < HANGS_AFTER, "the topic is still there");
        std::thread::sleep(LOOK);
    }
}

pub(crate) fn an_input_that_was_made_anew_is_not_skipped(subject: &mut impl Subject) {
    let (log, admin) = (subject.log(), subject.admin());
    let pipeline = scene(subject);
    events(&*log, &pipeline, 5);
    let rig = Rig::start(&log, &pipeline);
    rig.has_processed(&[0, 1, 2, 3, 4]);
    rig.stop();
    delete(&*admin, &pipeline);
    admin
        .create_topic(&NewTopic {
            name: pipeline.input.clone(),
            partitions: Some(1),
            ..NewTopic::default()
        })
        .unwrap();
    events(&*log, &pipeline, 7);
    let rig = Rig::start(&log, &pipeline);
    let status = rig.is(PartitionState::Stopped, "topic-recreated");
    assert!(status.reason.unwrap().contains("courtside reset"));
    assert_eq!(processed(&*log, &pipeline), [0, 1, 2, 3, 4]);
    rig.stop();
    // The partition stays stopped until a reset. After it all events of the new topic
    // are processed.
    reset(&*log, &pipeline);
    let rig = Rig::start(&log, &pipeline);
    rig.has_processed(&[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]);
    rig.stop();
}

pub(crate) fn an_offset_of_another_moves_nothing(subject: &mut impl Subject) {
    let log = subject.log();
    let pipeline = scene(subject);
    events(&*log, &pipeline, 5);
    let rig = Rig::start(&log, &pipeline);
    rig.has_processed(&[0, 1, 2, 3, 4]);
    rig.stop();
    let commit = |next| {
        let mut member = join(&*log, &pipeline.group, &pipeline.input, 0, 1);
        assigned(&mut *member, 1);
        let offsets = vec![(P, Offset(next))];
        let commit = Commit {
            offsets,
            ..Commit::default()
        };
        let since = Instant::now();
        while let Err(error) = member.commit(&commit) {
            assert!(error.may_pass() && since.elapsed() < HANGS_AFTER, "{error}");
            std::thread::sleep(LOOK);
        }
        drop(member);
        while !log
            .group_status(&pipeline.group, &pipeline.input)
            .unwrap()
            .members
            .is_empty()
        {
            assert!(since.elapsed() < HANGS_AFTER, "the group has members");
            std::thread::sleep(LOOK);
        }
    };
    events(&*log, &pipeline, 5);
    let all: Vec<u64> = (0..10).collect();
    // Offset 8 would skip events, and offset 2 would process some twice.
    for next in [8, 2] {
        commit(next);
        let rig = Rig::start(&log, &pipeline);
        rig.has_processed(&all);
        rig.is(PartitionState::Running, "");
        let end = log.bounds(&pipeline.input).unwrap()[0].end;
        rig.has_committed(end.0);
        assert_eq!(processed(&*log, &pipeline), all);
        rig.stop();
    }
}

pub(crate) fn an_offset_without_a_row_is_refused(subject: &mut impl Subject) {
    let log = subject.log();
    let pipeline = scene(subject);
    events(&*log, &pipeline, 3);
    let rig = Rig::start(&log, &pipeline);
    rig.has_processed(&[0, 1, 2]);
    rig.stop();
    // Somebody cleared the checkpoints.
    let mut member = join(&*log, &pipeline.group, &pipeline.input, 0, 1);
    let next = assigned(&mut *member, 1)[0].next();
    let checkpoints = log.checkpoints(&pipeline.group).unwrap();
    let held = checkpoints.scan(P, None, 100).unwrap();
    assert!(held.len() > 1, "a state, and a row");
    let cleared = Commit {
        checkpoints: held.into_iter().map(|(key, _)| (P, key, None)).collect(),
        offsets: vec![(P, next)],
        ..Commit::default()
    };
    let since = Instant::now();
    while let Err(error) = member.commit(&cleared) {
        assert!(error.may_pass() && since.elapsed() < HANGS_AFTER, "{error}");
        std::thread::sleep(LOOK);
    }
    drop(member);
    events(&*log, &pipeline, 1);
    let rig = Rig::start(&log, &pipeline);
    let status = rig.is(PartitionState::Stopped, "position-missing");
    assert!(status.reason.unwrap().contains("courtside reset"));
    assert_eq!(processed(&*log, &pipeline), [0, 1, 2]);
    rig.stop();
    reset(&*log, &pipeline);
    let rig = Rig::start(&log, &pipeline);
    rig.has_processed(&[0, 1, 2, 0, 1, 2, 3]);
    rig.stop();
}

/// One record was forwarded by another program with all its headers, the other was
/// ingested here. Equal idempotency keys do not make either a retry of the other.
pub(crate) fn a_key_that_was_copied_is_no_retry(subject: &mut impl Subject) {
    let log = subject.log();
    let pipeline = scene(subject);
    let elsewhere = subject.name("elsewhere");
    log.ensure_topics(&[deleted(&elsewhere, 1)]).unwrap();
    let mark = |input| {
        log.ensure_group(&pipeline.group, input).unwrap();
        Identity::of(&*log, &pipeline.group, input).unwrap().mark()
    };
    let [here, copied] = [&pipeline.input, &elsewhere].map(mark);
    assert_ne!(here, copied);
    let send = |mark: &Header| {
        let record = NewRecord {
            headers: vec![mark.clone(), Header::new(IDEMPOTENCY_HEADER, "try-7")],
            ..record("k", "x")
        };
        let sent = wait(log.append(&pipeline.input, vec![(P, record)]).unwrap());
        sent.into_iter().for_each(|sent| drop(sent.unwrap()));
    };
    for mark in [&copied, &here, &copied, &here, &copied] {
        send(mark);
    }
    let rig = Rig::start(&log, &pipeline);
    rig.has_processed(&[0, 1, 2, 4]);
    rig.has_committed(5);
    rig.stop();
}
