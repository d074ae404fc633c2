//! Topics that are deleted under a running worker, and offsets that are committed
//! beside it: anybody with the brokers' tools may do what our own commands refuse.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use courtside_log::{
    RecordLog,
    conformance::{Subject as _, deleted, record, wait},
    kafka::subject::{KafkaSubject, brokers, config},
};
use courtside_types::PartitionId;
use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
};

use super::identity::{Rig, events, processed, scene};
use crate::{
    pipeline::{Pipeline, missing::refuse_missing},
    worker::status::PartitionState,
};

const HANGS_AFTER: Duration = Duration::from_secs(120);

/// The brokers' own tools, which delete and create without our checks.
struct Tools(AdminClient<DefaultClientContext>);

impl Tools {
    fn new(brokers: &str) -> Self {
        Self(config(brokers).client().create().unwrap())
    }

    fn delete(&self, topic: &str) {
        let deleted = wait(self.0.delete_topics(&[topic], &AdminOptions::new()));
        deleted.unwrap().remove(0).unwrap();
    }

    /// Tries to create the topic until its name is free.
    fn create(&self, topic: &str) {
        let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
        let create = || {
            let created = wait(self.0.create_topics([&new], &AdminOptions::new()));
            created.unwrap().remove(0)
        };
        while let Err((_, code)) = create() {
            assert_eq!(code, rdkafka::error::RDKafkaErrorCode::TopicAlreadyExists);
        }
    }
}

/// Appends one event. A producer that has heard of the deletion takes none until it has
/// heard of the topic that is there now.
fn until_taken(log: &dyn RecordLog, pipeline: &Pipeline) {
    let since = Instant::now();
    loop {
        let sent = log.append(&pipeline.input, vec![(PartitionId(0), record("k", "x"))]);
        let error = match sent.map(wait) {
            Ok(mut sent) => match sent.remove(0) {
                Ok(_) => return,
                Err(error) => error,
            },
            Err(error) => error,
        };
        assert!(error.may_pass() && since.elapsed() < HANGS_AFTER, "{error}");
    }
}

/// The new topic has fewer records than were processed, as many, and more.
#[test]
fn an_input_made_anew_under_a_worker_is_not_skipped() {
    let Some(brokers) = brokers() else { return };
    let tools = Tools::new(&brokers);
    for count in [3, 5, 12] {
        let subject = KafkaSubject::new(brokers.clone());
        let log = subject.log();
        let pipeline = scene(&subject);
        events(&*log, &pipeline, 5);
        let rig = Rig::start(&log, &pipeline);
        rig.has_processed(&[0, 1, 2, 3, 4]);
        tools.delete(&pipeline.input);
        tools.create(&pipeline.input);
        (0..count).for_each(|_| until_taken(&*log, &pipeline));
        rig.is(PartitionState::Stopped, "topic-recreated");
        assert_eq!(processed(&*log, &pipeline), [0, 1, 2, 3, 4]);
        rig.stop();
    }
}

#[test]
fn checkpoints_that_are_gone_are_told_by_their_own_code() {
    let Some(brokers) = brokers() else { return };
    let (tools, subject) = (Tools::new(&brokers), KafkaSubject::new(brokers.clone()));
    let log = subject.log();
    let pipeline = scene(&subject);
    let checkpoints = log.checkpoints_topic(&pipeline.group).unwrap().name;
    events(&*log, &pipeline, 3);
    let rig = Rig::start(&log, &pipeline);
    rig.has_processed(&[0, 1, 2]);
    tools.delete(&checkpoints);
    rig.is(PartitionState::Waiting, "topic-missing");
    // An empty topic of checkpoints is no better than none, whoever made it.
    tools.create(&checkpoints);
    events(&*log, &pipeline, 1);
    rig.is(PartitionState::Stopped, "topic-recreated");
    assert_eq!(processed(&*log, &pipeline), [0, 1, 2]);
    rig.stop();
    // A topic that the next start makes anew does not hold the old checkpoints either.
    tools.delete(&checkpoints);
    while log.topic_ids(std::slice::from_ref(&checkpoints)).unwrap() != [None] {}
    let rig = Rig::start(&log, &pipeline);
    rig.is(PartitionState::Stopped, "position-missing");
    assert_eq!(processed(&*log, &pipeline), [0, 1, 2]);
    rig.stop();
}

/// The offsets have metadata that is no text, and one is out of the log's range.
#[test]
#[allow(
    unsafe_code,
    reason = "the client takes an offset's metadata as text, and there is no text like that"
)]
fn an_offset_that_another_program_commits_is_only_told() {
    let Some(brokers) = brokers() else { return };
    let subject = KafkaSubject::new(brokers.clone());
    let log = subject.log();
    let pipeline = scene(&subject);
    events(&*log, &pipeline, 5);
    let rig = Rig::start(&log, &pipeline);
    rig.has_processed(&[0, 1, 2, 3, 4]);
    rig.stop();
    events(&*log, &pipeline, 3);
    let foreign: Arc<BaseConsumer> = {
        let mut client = config(&brokers).client();
        client.set("group.id", &*pipeline.group);
        Arc::new(client.create().unwrap())
    };
    let broken = b"by\xffte".to_vec();
    // SAFETY: nobody reads it as text: the client copies its bytes.
    let broken = unsafe { str::from_utf8_unchecked(&broken) };
    let expected: Vec<u64> = (0..8).collect();
    for next in [7, 99, 0] {
        let mut list = TopicPartitionList::new();
        let offset = KafkaOffset::Offset(next);
        list.add_partition_offset(&pipeline.input, 0, offset)
            .unwrap();
        list.find_partition(&pipeline.input, 0)
            .unwrap()
            .set_metadata(broken);
        foreign.commit(&list, CommitMode::Sync).unwrap();
        let rig = Rig::start(&log, &pipeline);
        rig.has_processed(&expected);
        rig.is(PartitionState::Running, "");
        rig.has_committed(8);
        rig.stop();
    }
    assert_eq!(processed(&*log, &pipeline), expected);
}

#[test]
fn what_a_group_keeps_is_not_made_anew_under_its_offsets() {
    let Some(brokers) = brokers() else { return };
    let (tools, subject) = (Tools::new(&brokers), KafkaSubject::new(brokers.clone()));
    let log = subject.log();
    let pipeline = scene(&subject);
    let (group, input) = (&pipeline.group, &pipeline.input);
    let rig = Rig::start(&log, &pipeline);
    // The worker commits even without any event.
    rig.has_committed(0);
    rig.stop();
    let suffixes = [".pipeline", ".plugins", ".redrive"];
    let others = suffixes.map(|suffix| deleted(&format!("{group}{suffix}").into(), 1));
    log.ensure_topics(&others).unwrap();
    refuse_missing(&*log, group, input).unwrap();
    for suffix in [
        ".checkpoints",
        ".dead-letter",
        ".pipeline",
        ".plugins",
        ".redrive",
    ] {
        let topic = format!("{group}{suffix}");
        tools.delete(&topic);
        let error = loop {
            if let Err(error) = refuse_missing(&*log, group, input) {
                break error;
            }
        };
        assert_eq!(error.code(), "topic-missing");
        assert!(error.to_string().contains(&topic), "{error}");
        tools.create(&topic);
        while log.topic_ids(&[topic.as_str().into()]).unwrap() == [None] {}
    }
}
