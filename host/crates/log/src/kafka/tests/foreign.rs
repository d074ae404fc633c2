//! Records that other producers wrote in ways that ours never does, and groups of
//! other consumers.

use std::time::Duration;

use courtside_types::{Offset, PartitionId, Topic};
use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use super::{brokers, config, limits, prefix};
use crate::{RecordLog as _, conformance::deleted, kafka::Kafka};

/// The headers have a name that is no text, an empty name, no value, an empty value
/// and a value of any bytes.
#[test]
#[allow(
    unsafe_code,
    reason = "the client takes a header's name as text, and there is no text like that"
)]
fn headers_of_any_bytes_are_read() {
    let Some(brokers) = brokers() else { return };
    let dir = tempfile::tempdir().unwrap();
    let log = Kafka::open(dir.path(), config(&brokers), &limits()).unwrap();
    let topic = Topic::from(format!("{}in", prefix()));
    log.ensure_topics(&[deleted(&topic, 1)]).unwrap();

    let broken = b"tr\xffce".to_vec();
    // SAFETY: nobody reads it as text: the client copies its bytes.
    let broken = unsafe { str::from_utf8_unchecked(&broken) };
    let headers: [(&str, Option<&[u8]>); 5] = [
        (broken, Some(b"1")),
        ("", Some(b"2")),
        ("none", None),
        ("empty", Some(b"")),
        ("binary", Some(b"\0\xff\n")),
    ];
    let sent = headers
        .iter()
        .fold(OwnedHeaders::new(), |sent, (key, value)| {
            sent.insert(Header { key, value: *value })
        });
    let producer: BaseProducer = config(&brokers).client().create().unwrap();
    let record = BaseRecord::<[u8], [u8]>::to(&topic)
        .key(b"\xff")
        .payload(b"")
        .headers(sent);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(Duration::from_secs(30)).unwrap();

    let read = log.read(&topic, PartitionId(0), Offset(0), 1024).unwrap();
    let [record] = &read[..] else {
        panic!("{read:?}");
    };
    assert_eq!(record.key.as_deref(), Some(&b"\xff"[..]));
    assert_eq!(record.value.as_deref(), Some(&b""[..]));
    let seen: Vec<_> = record
        .headers
        .iter()
        .map(|header| (&*header.name, header.value.as_deref()))
        .collect();
    let mut wanted = headers;
    wanted[0].0 = "tr\u{fffd}ce";
    assert_eq!(seen, wanted);
}

#[test]
fn a_group_of_another_consumer_is_seen_by_what_it_committed() {
    let Some(brokers) = brokers() else { return };
    let dir = tempfile::tempdir().unwrap();
    let log = Kafka::open(dir.path(), config(&brokers), &limits()).unwrap();
    let [a, b] = ["a", "b"].map(|name| Topic::from(format!("{}{name}", prefix())));
    log.ensure_topics(&[deleted(&a, 3), deleted(&b, 1)])
        .unwrap();
    let group = format!("{}others", prefix());
    assert!(!log.reads(&group, &a).unwrap());

    // The other consumer commits without joining, so its group has no members.
    let other: BaseConsumer = config(&brokers)
        .client()
        .set("group.id", &group)
        .create()
        .unwrap();
    let mut offsets = TopicPartitionList::new();
    let offset = rdkafka::Offset::Offset(0);
    offsets.add_partition_offset(&a, 2, offset).unwrap();
    other.commit(&offsets, CommitMode::Sync).unwrap();
    assert!(log.reads(&group, &a).unwrap());
    assert!(!log.reads(&group, &b).unwrap());
    assert!(
        log.group_names()
            .unwrap()
            .iter()
            .any(|name| **name == *group)
    );
}
