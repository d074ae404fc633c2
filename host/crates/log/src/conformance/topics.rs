//! Cases about topics.

use std::time::Duration;

use courtside_types::{Offset, PartitionId};

use super::{Subject, kit::*};
use crate::{Bounds, Cleanup, GroupSpec, LogError, TopicSpec};

pub fn topics_are_created_once_and_compared(subject: &mut impl Subject) {
    let (log, a, b) = (subject.log(), subject.name("a"), subject.name("b"));
    log.ensure_topics(&[deleted(&a, 3), compacted(&b, 1)])
        .unwrap();
    let any = TopicSpec {
        partitions: None,
        ..deleted(&a, 1)
    };
    log.ensure_topics(&[any, compacted(&b, 1)]).unwrap();
    assert_eq!(log.partitions(&a), Ok(3));
    assert_eq!(log.partitions(&b), Ok(1));

    let c = subject.name("c");
    let error = log
        .ensure_topics(&[deleted(&c, 1), deleted(&a, 4)])
        .unwrap_err();
    assert_eq!(error.code(), "topic-mismatch");
    assert_eq!(
        log.partitions(&c).unwrap_err().code(),
        "no-such-topic",
        "all or none"
    );
    let error = log.ensure_topics(&[compacted(&a, 3)]).unwrap_err();
    assert_eq!(error.code(), "topic-mismatch");

    let mut changed = deleted(&a, 3);
    changed.cleanup = Cleanup::Delete {
        retention: Some(Duration::from_secs(60)),
        retention_bytes: Some(1 << 30),
    };
    log.ensure_topics(&[changed]).unwrap();
    for name in ["", "..", "a b", "é"] {
        let error = log.ensure_topics(&[deleted(&name.into(), 1)]).unwrap_err();
        assert_eq!(error.code(), "log-invalid", "{name:?}");
    }
}

pub fn what_does_not_exist_is_named(subject: &mut impl Subject) {
    let (log, a, b) = (subject.log(), subject.name("a"), subject.name("b"));
    log.ensure_topics(&[deleted(&a, 1)]).unwrap();
    let code = |error: LogError| error.code();
    let read = |topic, partition| log.read(topic, PartitionId(partition), Offset(0), 1);
    assert_eq!(read(&b, 0).map_err(code), Err("no-such-topic"));
    assert_eq!(read(&a, 1).map_err(code), Err("no-such-partition"));
    let append = |topic, partition| {
        let records = vec![
            (PartitionId(0), record("", "")),
            (PartitionId(partition), record("", "")),
        ];
        log.append(topic, records).map(|_| ()).map_err(code)
    };
    assert_eq!(append(&b, 0), Err("no-such-topic"));
    assert_eq!(append(&a, 1), Err("no-such-partition"));
    assert_eq!(log.bounds(&a).unwrap(), [Bounds::default()], "all or none");
    assert_eq!(log.bounds(&b).map_err(code), Err("no-such-topic"));
    assert_eq!(log.partitions(&b).map_err(code), Err("no-such-topic"));
    let spec = GroupSpec {
        group: subject.name("g"),
        input: b,
        worker: 0,
        workers: 1,
        topics: Vec::new(),
        visits: false,
    };
    assert_eq!(
        log.join(spec).map(|_| ()).map_err(code),
        Err("no-such-topic")
    );
}
