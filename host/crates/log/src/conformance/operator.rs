//! Conformance tests of what an operator does, which every engine must pass.

use std::{collections::BTreeMap, time::Instant};

use courtside_types::{
    Offset, PartitionId, Topic, TopicId,
    topics::{LAYOUT_SUFFIX, PLUGINS_SUFFIX},
};

use super::{
    HANGS_AFTER, Subject,
    kit::{append, assigned, compacted, deleted, fetched, join, values},
    resets::{checkpoints, committed, processed, retry, until_empty},
};
use crate::{
    GroupSpec, RecordLog, TopicSpec,
    admin::{Admin, NewTopic, TopicChange},
};

pub(super) fn new(name: &Topic, partitions: u32) -> NewTopic {
    NewTopic {
        name: name.clone(),
        partitions: Some(partitions),
        ..NewTopic::default()
    }
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn set(settings: &[(&str, &str)]) -> TopicChange {
    TopicChange {
        set: pairs(settings),
        ..TopicChange::default()
    }
}

fn more(partitions: u32) -> TopicChange {
    TopicChange {
        partitions: Some(partitions),
        ..TopicChange::default()
    }
}

fn setting(log: &dyn Admin, topic: &Topic, name: &str) -> Option<String> {
    let details = log.describe_topic(topic).unwrap();
    details.settings.get(name).map(|one| one.value.clone())
}

pub(super) fn code<T: std::fmt::Debug>(outcome: Result<T, crate::LogError>) -> &'static str {
    outcome.unwrap_err().code()
}

pub fn topics_are_created_described_and_deleted(subject: &mut impl Subject) {
    let (log, a) = (subject.admin(), subject.name("a"));
    assert_eq!(code(log.describe_topic(&a)), "no-such-topic");
    let wanted = NewTopic {
        settings: pairs(&[("cleanup.policy", "compact")]),
        ..new(&a, 3)
    };
    log.create_topic(&wanted).unwrap();
    assert_eq!(code(log.create_topic(&wanted)), "topic-exists");
    let bad = NewTopic {
        settings: pairs(&[("no.such.setting", "1")]),
        ..new(&subject.name("b"), 1)
    };
    assert_eq!(code(log.create_topic(&bad)), "log-invalid");
    let bad = NewTopic {
        replicas: Some(99),
        ..new(&subject.name("b"), 1)
    };
    assert_eq!(code(log.create_topic(&bad)), "log-invalid");
    assert_eq!(
        code(log.create_topic(&new(&"a b".into(), 1))),
        "log-invalid"
    );

    append(&*log, &a, 1, &["x", "y"]);
    let listed = log.topics().unwrap();
    let listed = listed.iter().find(|topic| topic.name == a).unwrap();
    assert_eq!((listed.partitions, &*listed.cleanup), (3, "compact"));
    let details = log.describe_topic(&a).unwrap();
    let ends: Vec<_> = details
        .partitions
        .iter()
        .map(|one| one.bounds.unwrap().end.0)
        .collect();
    assert_eq!(ends, [0, 2, 0]);

    log.delete_topic(&a).unwrap();
    assert_eq!(code(log.partitions(&a)), "no-such-topic");
    assert_eq!(code(log.delete_topic(&a)), "no-such-topic");
    // A new topic of the same name has nothing of the deleted one.
    log.create_topic(&new(&a, 2)).unwrap();
    assert_eq!(append(&*log, &a, 1, &["z"]), [0]);
    drop(log);
    subject.reopen();
    let log = subject.log();
    assert_eq!(log.partitions(&a), Ok(2));
    assert_eq!(values(&*log, &a, 1, 0), ["z"]);
}

pub fn settings_are_altered_and_given_back(subject: &mut impl Subject) {
    let (log, a) = (subject.admin(), subject.name("a"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    log.alter_topic(&a, &set(&[("retention.bytes", "1000000")]))
        .unwrap();
    log.alter_topic(&a, &set(&[("retention.ms", "3600000")]))
        .unwrap();
    // A setting that the change does not name stays.
    let bytes = setting(&*log, &a, "retention.bytes");
    assert_eq!(bytes.as_deref(), Some("1000000"));
    for bad in [("no.such.setting", "1"), ("retention.ms", "soon")] {
        assert_eq!(code(log.alter_topic(&a, &set(&[bad]))), "log-invalid");
    }
    // The setting is the operator's from now on, also when a host starts.
    drop(log);
    subject.reopen();
    let log = subject.admin();
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    let ms = setting(&*log, &a, "retention.ms");
    assert_eq!(ms.as_deref(), Some("3600000"));
    let unset = TopicChange {
        unset: vec!["retention.ms".to_owned()],
        ..TopicChange::default()
    };
    log.alter_topic(&a, &unset).unwrap();
    assert_ne!(setting(&*log, &a, "retention.ms"), ms);
    let nowhere = subject.name("nowhere");
    assert_eq!(code(log.alter_topic(&nowhere, &unset)), "no-such-topic");
}

pub fn what_a_pipeline_needs_cannot_be_altered_away(subject: &mut impl Subject) {
    let (log, a) = (subject.admin(), subject.name("a"));
    let needs: TopicSpec = compacted(&a, 1);
    let wanted = NewTopic {
        needs: Some(needs.clone()),
        settings: pairs(&[("cleanup.policy", "delete")]),
        ..new(&a, 1)
    };
    assert_eq!(code(log.create_topic(&wanted)), "topic-mismatch");
    let wanted = NewTopic {
        settings: BTreeMap::new(),
        ..wanted
    };
    log.create_topic(&wanted).unwrap();
    let policy = setting(&*log, &a, "cleanup.policy");
    assert_eq!(policy.as_deref(), Some("compact"));
    let change = TopicChange {
        needs: Some(needs),
        ..set(&[("cleanup.policy", "delete")])
    };
    assert_eq!(code(log.alter_topic(&a, &change)), "topic-mismatch");
    log.ensure_topics(&[compacted(&a, 1)]).unwrap();
}

pub fn partitions_grow_where_no_key_has_state(subject: &mut impl Subject) {
    let (log, a, b) = (subject.admin(), subject.name("a"), subject.name("b"));
    let group = subject.name("g");
    log.create_topic(&new(&b, 2)).unwrap();
    append(&*log, &b, 1, &["x"]);
    log.alter_topic(&b, &more(4)).unwrap();
    assert_eq!(log.partitions(&b), Ok(4));
    assert_eq!(code(log.alter_topic(&b, &more(3))), "log-invalid");
    // A producer that wrote to the topic before may learn of the new partitions later,
    // so the test reopens the log.
    drop(log);
    subject.reopen();
    let log = subject.admin();
    assert_eq!(append(&*log, &b, 3, &["y"]), [0]);

    processed(&*log, &a, &group);
    let error = log.alter_topic(&a, &more(3)).unwrap_err();
    assert_eq!(error.code(), "partitions-fixed");
    assert!(error.to_string().contains(&*group), "{error}");
    assert_eq!(log.partitions(&a), Ok(2));
    if let Some(topic) = log.checkpoints_topic(&group) {
        let outcome = log.alter_topic(&topic.name, &more(3));
        assert_eq!(code(outcome), "partitions-fixed");
    }
    drop(log);
    subject.reopen();
    let log = subject.log();
    assert_eq!(log.partitions(&b), Ok(4));
    assert_eq!(values(&*log, &b, 1, 0), ["x"]);
    assert_eq!(values(&*log, &b, 3, 0), ["y"]);
}

pub fn a_topic_that_is_read_is_not_deleted(subject: &mut impl Subject) {
    let (log, a, group) = (subject.admin(), subject.name("a"), subject.name("g"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    let mut member = join(&*log, &group, &a, 0, 1);
    assigned(&mut *member, 1);
    assert_eq!(code(log.delete_topic(&a)), "topic-in-use");
    append(&*log, &a, 0, &["x"]);
    fetched(&mut *member, 1);
    retry(&mut *member, &committed(0, 1, &[]));
    drop(member);
    until_empty(&*log, &a, &group);
    log.delete_topic(&a).unwrap();
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    let status = log.group_status(&group, &a).unwrap();
    assert!(status.committed.is_empty(), "offsets go with their topic");
}

pub(super) fn id(log: &dyn RecordLog, topic: &Topic) -> Option<TopicId> {
    let ids = log.topic_ids(std::slice::from_ref(topic)).unwrap();
    let [id] = ids[..] else { panic!("{ids:?}") };
    id
}

/// Waits until a topic no longer has the known id, and returns the other one.
pub(super) fn other_id(
    log: &dyn RecordLog,
    topic: &Topic,
    known: Option<TopicId>,
) -> Option<TopicId> {
    let since = Instant::now();
    loop {
        let now = id(log, topic);
        if now != known {
            return now;
        }
        assert!(since.elapsed() < HANGS_AFTER, "{topic} is still {known:?}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

pub fn a_topic_that_is_made_anew_has_another_id(subject: &mut impl Subject) {
    let (log, a, b) = (subject.admin(), subject.name("a"), subject.name("b"));
    log.ensure_topics(&[deleted(&a, 2), deleted(&b, 1)])
        .unwrap();
    let first = [id(&*log, &a), id(&*log, &b)];
    assert!(first[0].is_some() && first[1].is_some() && first[0] != first[1]);
    let none = [
        b.clone(),
        subject.name("nowhere"),
        "no topic/at all".into(),
        a.clone(),
    ];
    assert_eq!(
        log.topic_ids(&none).unwrap(),
        [first[1], None, None, first[0]]
    );
    let nowhere = log.partitions(&none[1]).unwrap_err();
    assert_eq!(nowhere.code(), "no-such-topic", "who asks makes no topic");
    drop(log);
    subject.reopen();
    let log = subject.admin();
    assert_eq!([id(&*log, &a), id(&*log, &b)], first);
    // First the topic that was created last, then one that was created before it.
    for topic in [&b, &a] {
        let before = id(&*log, topic);
        log.delete_topic(topic).unwrap();
        assert_eq!(other_id(&*log, topic, before), None);
        log.create_topic(&new(topic, 2)).unwrap();
        let now = other_id(&*log, topic, None);
        assert!(!first.contains(&now), "{now:?} was there before");
    }
}

pub fn a_commit_means_the_topics_of_its_ids(subject: &mut impl Subject) {
    let (log, a, b) = (subject.admin(), subject.name("a"), subject.name("b"));
    let group = subject.name("g");
    log.ensure_topics(&[deleted(&a, 1), deleted(&b, 1)])
        .unwrap();
    let before = id(&*log, &b);
    let topics = [&a, &b].map(|topic| (topic.clone(), id(&*log, topic).unwrap()));
    let mut member = log
        .join(GroupSpec {
            group: group.clone(),
            input: a.clone(),
            worker: 0,
            workers: 1,
            topics: topics.to_vec(),
            visits: false,
        })
        .unwrap();
    assigned(&mut *member, 1);
    append(&*log, &a, 0, &["x", "y", "z"]);
    fetched(&mut *member, 3);
    retry(&mut *member, &committed(0, 1, &["k"]));

    log.delete_topic(&b).unwrap();
    assert_eq!(other_id(&*log, &b, before), None);
    let error = member.commit(&committed(0, 2, &["l"])).unwrap_err();
    assert_eq!(error.code(), "topic-missing", "{error}");
    assert!(
        error.may_pass() && error.to_string().contains(&*b),
        "{error}"
    );

    log.create_topic(&new(&b, 1)).unwrap();
    other_id(&*log, &b, None);
    let error = member.commit(&committed(0, 2, &["l"])).unwrap_err();
    assert_eq!(error.code(), "topic-recreated", "{error}");
    assert!(
        !error.may_pass() && error.to_string().contains(&*b),
        "{error}"
    );
    // Neither of the refused commits had any effect.
    assert_eq!(checkpoints(&*log, &group, 0), 1);
    let status = log.group_status(&group, &a).unwrap();
    assert_eq!(status.committed[&PartitionId(0)], Offset(1));
}

pub fn what_a_group_keeps_is_not_deleted(subject: &mut impl Subject) {
    let (log, a, group) = (subject.admin(), subject.name("a"), subject.name("g"));
    let kept = |suffix| deleted(&format!("{group}{suffix}").into(), 1);
    let layout = kept(LAYOUT_SUFFIX);
    log.ensure_topics(std::slice::from_ref(&layout)).unwrap();
    processed(&*log, &a, &group);
    let state = log.checkpoints_topic(&group).map(|spec| spec.name);
    let plugins = kept(PLUGINS_SUFFIX);
    log.ensure_topics(std::slice::from_ref(&plugins)).unwrap();
    for (topic, what) in [
        (Some(layout.name.clone()), "its layout"),
        (Some(plugins.name), "its plugins"),
        (state, "its state"),
    ] {
        let Some(topic) = topic else { continue };
        let error = log.delete_topic(&topic).unwrap_err();
        assert_eq!(error.code(), "topic-in-use", "{error}");
        let said = error.to_string();
        assert!(
            said.contains(what) && said.contains("courtside reset"),
            "{said}"
        );
        log.partitions(&topic).unwrap();
    }
    // The offsets go with their topic, and without them nothing needs the group's other
    // topics.
    log.delete_topic(&a).unwrap();
    let forgotten = Instant::now();
    while let Err(error) = log.delete_topic(&layout.name) {
        assert_eq!(error.code(), "topic-in-use", "{error}");
        assert!(forgotten.elapsed() < HANGS_AFTER, "{error}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

pub fn groups_are_listed_with_their_topics(subject: &mut impl Subject) {
    let (log, a, group) = (subject.admin(), subject.name("a"), subject.name("g"));
    assert_eq!(code(log.group_topics(&group)), "no-such-group");
    processed(&*log, &a, &group);
    let listed = log.groups().unwrap();
    let listed = listed.iter().find(|one| one.group == group).unwrap();
    assert_eq!((&*listed.state, listed.members), ("empty", 0));
    assert_eq!(log.group_topics(&group).unwrap(), std::slice::from_ref(&a));
    let mut member = join(&*log, &group, &a, 0, 1);
    assigned(&mut *member, 2);
    let listed = log.groups().unwrap();
    let listed = listed.iter().find(|one| one.group == group).unwrap();
    assert_eq!((&*listed.state, listed.members), ("stable", 1));
}

pub fn a_group_reads_what_it_has_offsets_or_members_of(subject: &mut impl Subject) {
    let (log, a, b) = (subject.admin(), subject.name("a"), subject.name("b"));
    let (group, other) = (subject.name("g"), subject.name("h"));
    log.ensure_topics(&[deleted(&b, 1)]).unwrap();
    processed(&*log, &a, &group);
    let is_known = |group: &Topic| log.group_names().unwrap().iter().any(|name| name == group);
    assert!(is_known(&group) && !is_known(&other));
    let reads = |group: &Topic, topic| log.reads(group, topic).unwrap();
    assert!(reads(&group, &a) && !reads(&group, &b));
    assert!(!reads(&other, &a) && !reads(&other, &b));
    // A group with a member reads the topic, also before the first commit.
    let mut member = join(&*log, &other, &b, 0, 1);
    assigned(&mut *member, 1);
    assert!(is_known(&other));
    assert!(reads(&other, &b) && !reads(&other, &a));
    drop(member);
    until_empty(&*log, &b, &other);
    assert!(!reads(&other, &b));
}
