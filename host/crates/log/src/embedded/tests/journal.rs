//! Writes around the bound of the journal.

use bytes::Bytes;
use bytesize::ByteSize;
use courtside_types::{NewRecord, Offset, PartitionId, Topic};
use rand::{RngCore as _, SeedableRng as _, rngs::StdRng};

use super::config;
use crate::{
    LogError, RecordLog,
    conformance::{deleted, wait},
    embedded::{Embedded, EmbeddedConfig},
};

#[test]
fn an_append_that_never_has_room_in_the_journal_is_refused_and_the_next_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let log = Embedded::open(
        dir.path(),
        EmbeddedConfig {
            journal_bytes_max: ByteSize::mib(192),
            queue_bytes_max: ByteSize::mib(128),
            record_bytes_max: ByteSize::mib(8),
            ..config()
        },
    )
    .unwrap();
    let topic = Topic::from("large");
    log.ensure_topics(&[deleted(&topic, 1)]).unwrap();
    let mut random = StdRng::seed_from_u64(8);
    let mut append = |count: u64| {
        let mut value = vec![0; 7 << 20];
        random.fill_bytes(&mut value);
        let record = NewRecord {
            timestamp_ms: 1,
            key: None,
            headers: vec![],
            value: Some(Bytes::from(value)),
        };
        let records = (0..count).map(|_| (PartitionId(0), record.clone()));
        wait(log.append(&topic, records.collect()).unwrap())
    };
    let outcomes = append(8);
    for outcome in &outcomes {
        assert!(
            matches!(
                outcome,
                Err(LogError::WriteTooLarge { limit_bytes, .. }) if *limit_bytes == 55 << 20
            ),
            "{outcome:?}"
        );
    }
    let outcomes = append(7);
    assert_eq!(outcomes.len(), 7);
    assert_eq!(outcomes[6].as_ref().unwrap().offset, Offset(6));
}
