//! [`Processing`] against a model, with a native plugin that fails on demand.

mod breaker;
mod halts;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
pub(super) use courtside_log::memory::MemoryCheckpoints as Memory;
use courtside_log::{COMMIT_EXTRA_BYTES, Checkpoints, Commit, Fetched};
use courtside_plugin_host::{
    Description, Emission, EntityId, Event, Failure, FailureKind, Instance, Limits, OpenError,
    Outcome, Plugin, Refusal, SavedState,
};
use courtside_types::{
    Digest, Header, Key, NewRecord, Offset, PartitionId, Record, TOPIC_HEADER, TopicId,
    headers::{IDEMPOTENCY_HEADER, IDEMPOTENCY_INDEX_HEADER},
    slot_name::SlotName,
};
use proptest::prelude::*;

use super::{
    envelope::Envelope,
    instances::Active,
    output,
    position::Start,
    processing::{Budget, Interrupted, Processing, Stop, now_ms},
};
use crate::{
    pipeline::{self, Output, Pipeline, identity::Identity},
    worker::redriven::{BEGINS, ORIGIN, REDRIVE, UNTIL},
};

pub(crate) mod rollback;

/// A plugin that counts events, and does as an event's value says.
pub(crate) struct Faulty {
    digest: Digest,
    description: Description,
}

impl Faulty {
    pub(crate) fn new(name: &str, reads: &[&str]) -> Arc<Self> {
        Arc::new(Self {
            digest: Digest::of(name.as_bytes()),
            description: Description {
                name: name.into(),
                version: "1.0.0".into(),
                writes: "faulty/1".into(),
                reads: reads.iter().map(|format| (*format).into()).collect(),
            },
        })
    }
}

impl Plugin for Faulty {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn instantiate(&self) -> Result<Box<dyn Instance>, Failure> {
        Ok(Box::new(FaultyInstance {
            name: self.description.name.to_string(),
            entities: BTreeMap::new(),
            next: 0,
            stalled: BTreeSet::new(),
            calls: 0,
            dead: false,
        }))
    }
}

struct FaultyInstance {
    name: String,
    entities: BTreeMap<u32, (String, u64, bool)>,
    next: u32,
    /// Entities that run out of time at the next checkpoint.
    stalled: BTreeSet<u32>,
    calls: u32,
    dead: bool,
}

impl FaultyInstance {
    fn fail<T>(&mut self) -> Result<T, Failure> {
        self.fail_by(FailureKind::Trap)
    }

    fn fail_by<T>(&mut self, kind: FailureKind) -> Result<T, Failure> {
        self.dead = true;
        Err(Failure {
            kind,
            message: "told to".into(),
        })
    }
}

impl Instance for FaultyInstance {
    fn open(&mut self, key: &str, saved: Option<&SavedState>) -> Result<EntityId, OpenError> {
        if self.dead || key.starts_with("trap-open") {
            self.fail::<()>()?;
        }
        if key.starts_with("refuse-open") {
            return Err(OpenError::Refused("told to".into()));
        }
        let count = saved.map_or(0, |saved| {
            u64::from_le_bytes(saved.state.as_ref().try_into().unwrap())
        });
        self.next += 1;
        self.entities.insert(self.next, (key.into(), count, false));
        Ok(EntityId(self.next))
    }

    fn process(&mut self, entity: EntityId, events: &[Event<'_>]) -> Result<Outcome, Failure> {
        if self.dead {
            return self.fail();
        }
        self.calls += 1;
        let mut outcome = Outcome::default();
        for (index, event) in events.iter().enumerate() {
            let value = event.record.value.as_deref().unwrap();
            let (key, count, poisoned) = self.entities.get_mut(&entity.0).unwrap();
            match value {
                b"trap" => return self.fail(),
                b"stall" => {
                    self.stalled.insert(entity.0);
                }
                b"trap-when-old" if self.calls > 1 => return self.fail(),
                b"loop" if self.name != "good" => return self.fail_by(FailureKind::Deadline),
                b"eat" if self.name != "good" => return self.fail_by(FailureKind::Memory),
                b"flood" if self.name != "good" => return self.fail_by(FailureKind::Emitted),
                b"poison" => *poisoned = self.name != "good",
                b"refuse" => {
                    outcome.refused = Some(Refusal {
                        index,
                        reason: "told to".into(),
                    });
                    return Ok(outcome);
                }
                _ => {}
            }
            *count += 1;
            outcome.emissions.push(Emission {
                event: index,
                output: (value == b"astray").then(|| "nowhere".into()),
                key: (value == b"league").then(|| Bytes::from_static(b"league")),
                headers: Vec::new(),
                value: Some(match value {
                    b"huge" => vec![0; 5000].into(),
                    _ => format!("{}:{key}:{count}", self.name).into(),
                }),
            });
        }
        Ok(outcome)
    }

    fn checkpoint(&mut self, entity: EntityId) -> Result<Option<SavedState>, Failure> {
        if self.dead {
            return self.fail();
        }
        if self.stalled.contains(&entity.0) {
            return self.fail_by(FailureKind::Deadline);
        }
        let (_, count, poisoned) = self.entities[&entity.0].clone();
        if poisoned {
            return self.fail();
        }
        if self.entities[&entity.0].0.starts_with("forgetful") {
            return Ok(None);
        }
        Ok(Some(SavedState {
            format: "faulty/1".into(),
            state: Bytes::copy_from_slice(&count.to_le_bytes()),
        }))
    }

    fn close(&mut self, entity: EntityId) {
        self.entities.remove(&entity.0);
    }
}

const P: PartitionId = PartitionId(0);

pub(crate) fn pipeline(entities_per_instance: usize, entities_open_max: usize) -> Arc<Pipeline> {
    Arc::new(Pipeline {
        name: "test".into(),
        group: "test".into(),
        input: "in".into(),
        identity: Identity::default(),
        partitions: 1,
        output: Output {
            topic: "out".into(),
            partitions: 1,
        },
        outputs: BTreeMap::new(),
        dead_letter: "test.dead-letter".into(),
        plugins: None,
        host: "test".into(),
        settings: pipeline::WorkerSettings {
            workers: 1,
            commit_interval: Duration::from_millis(100),
            commit_bytes_max: 1 << 20,
            poll_bytes_max: 1 << 20,
            call_events_max: 8,
            call_bytes_max: 1 << 20,
            entities_per_instance,
            entities_open_max,
            entity_idle: Duration::from_secs(3600),
            drain_deadline: Duration::from_secs(1),
            confirm_after: Duration::from_secs(3600),
        },
        limits: Limits {
            memory_bytes_max: 1 << 20,
            call_cpu_time_max: Duration::from_secs(1),
            emitted_bytes_max: 1 << 20,
            checkpoint_bytes_max: 1 << 20,
            plugin_bytes_max: 1 << 20,
        },
        slot_limits: BTreeMap::new(),
        record_bytes_max: 4096,
    })
}

/// The header which says that the host wrote a record to the pipeline's input.
fn mark() -> Header {
    Identity::default().mark()
}

struct Bench {
    processing: Processing,
    memory: Arc<Memory>,
    committed: Vec<NewRecord>,
    /// The committed records, those of each commit in the order of its events, whatever
    /// the topic.
    told: Vec<NewRecord>,
    next: u64,
}

impl Bench {
    fn new(entities_per_instance: usize, entities_open_max: usize) -> Self {
        Self::of_pipeline(pipeline(entities_per_instance, entities_open_max))
    }

    fn of_pipeline(pipeline: Arc<Pipeline>) -> Self {
        let memory = Arc::new(Memory::default());
        let checkpoints: Arc<dyn Checkpoints> = Arc::<Memory>::clone(&memory);
        let mut processing = Processing::new(pipeline, checkpoints);
        processing.assign(P, Start::fresh(Offset(0))).unwrap();
        let mut bench = Self {
            processing,
            memory,
            committed: Vec::new(),
            told: Vec::new(),
            next: 0,
        };
        bench.swap(SlotName::Default, "a", &["faulty/1"]);
        bench
    }

    fn swap(&mut self, slot: SlotName, name: &str, reads: &[&str]) {
        let active = Active::new(slot.clone(), Faulty::new(name, reads));
        self.processing.activate(&slot, Some(active));
    }

    fn record(&mut self, key: Option<&str>, value: &str) -> Record {
        let offset = Offset(self.next);
        self.next += 1;
        Record {
            offset,
            timestamp_ms: offset.0,
            key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
            headers: Vec::new(),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
        }
    }

    fn feed(&mut self, records: Vec<Record>) -> Vec<(PartitionId, Stop)> {
        self.processing
            .process(vec![Fetched {
                partition: P,
                records,
            }])
            .unwrap()
    }

    fn events(&mut self, events: &[(&str, &str)]) -> Vec<(PartitionId, Stop)> {
        let records = events
            .iter()
            .map(|(key, value)| self.record(Some(key), value))
            .collect();
        self.feed(records)
    }

    fn commit(&mut self) {
        let (commit, stops) = self.processing.prepare().unwrap();
        assert_eq!(stops, []);
        if let Some(commit) = commit {
            self.memory.apply(&commit);
            self.processing.settle(&commit);
            let mut records: Vec<_> = commit.records.into_iter().map(|(_, it)| it).collect();
            self.committed.extend(records.iter().cloned());
            records.sort_by_key(|record| {
                let source = header(record, &output::SOURCE).unwrap();
                source.rsplit('/').next().unwrap().parse::<u64>().unwrap()
            });
            self.told.append(&mut records);
        }
    }

    /// The committed records of a key: outputs by value, dead letters by code.
    fn of(&self, key: &str) -> Vec<String> {
        self.told
            .iter()
            .filter(|record| record.key.as_deref() == Some(key.as_bytes()))
            .map(describe)
            .collect()
    }

    fn checkpoint(&self, key: &str) -> Option<Envelope> {
        let bytes = self.memory.get(P, key.as_bytes()).unwrap()?;
        Some(Envelope::decode(&bytes).unwrap())
    }
}

fn header(record: &NewRecord, name: &str) -> Option<String> {
    let header = record.headers.iter().find(|header| &*header.name == name)?;
    Some(String::from_utf8(header.value.clone()?.to_vec()).unwrap())
}

fn describe(record: &NewRecord) -> String {
    let source = header(record, &output::SOURCE).unwrap();
    match header(record, &output::ERROR_CODE) {
        Some(code) => format!("{source} {code}"),
        None => format!(
            "{source} {}",
            String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap()
        ),
    }
}

#[test]
fn outputs_say_where_they_come_from() {
    let mut bench = Bench::new(8, 100);
    bench.events(&[("g", "x")]);
    bench.commit();
    let record = &bench.committed[0];
    assert_eq!(header(record, "courtside-plugin").unwrap(), "a@1.0.0");
    assert_eq!(
        header(record, "courtside-digest").unwrap(),
        Digest::of(b"a").to_string()
    );
    assert_eq!(header(record, "courtside-source").unwrap(), "in/0/0");
}

#[test]
fn a_trap_costs_the_neighbours_nothing() {
    let mut bench = Bench::new(8, 100);
    bench.events(&[
        ("g", "x"),
        ("h", "x"),
        ("g", "trap"),
        ("h", "x"),
        ("g", "x"),
    ]);
    bench.commit();
    assert_eq!(
        bench.of("g"),
        ["in/0/0 a:g:1", "in/0/2 plugin-trap", "in/0/4 a:g:2"]
    );
    assert_eq!(bench.of("h"), ["in/0/1 a:h:1", "in/0/3 a:h:2"]);
}

#[test]
fn a_checkpoint_that_traps_halts_that_entity_alone() {
    let mut bench = Bench::new(8, 100);
    bench.events(&[("g", "x"), ("h", "x")]);
    bench.commit();
    bench.events(&[("g", "x"), ("g", "poison"), ("h", "x")]);
    bench.commit();
    bench.events(&[("g", "x"), ("h", "x")]);
    bench.commit();
    assert_eq!(
        bench.of("g"),
        [
            "in/0/0 a:g:1",
            "in/0/2 a:g:2",
            "in/0/3 entity-halted",
            "in/0/5 entity-halted"
        ]
    );
    assert_eq!(
        bench.of("h"),
        ["in/0/1 a:h:1", "in/0/4 a:h:2", "in/0/6 a:h:3"]
    );
    let envelope = bench.checkpoint("g").unwrap();
    assert_eq!(envelope.halted.unwrap().code, "plugin-trap");
    assert_eq!(envelope.saved.unwrap().state.as_ref(), 2_u64.to_le_bytes());
}

#[test]
fn an_open_that_fails_halts_that_entity_alone() {
    for (key, code) in [
        ("trap-open", "plugin-trap"),
        ("refuse-open", "plugin-open-refused"),
    ] {
        let mut bench = Bench::new(8, 100);
        bench.events(&[("h", "x"), (key, "x"), ("h", "x")]);
        bench.commit();
        assert_eq!(bench.of(key), ["in/0/1 entity-halted"]);
        assert_eq!(bench.of("h"), ["in/0/0 a:h:1", "in/0/2 a:h:2"]);
        assert_eq!(bench.checkpoint(key).unwrap().halted.unwrap().code, code);
    }
}

#[test]
fn an_output_that_does_not_exist_is_the_plugins_fault() {
    let mut bench = Bench::new(8, 100);
    bench.events(&[("g", "astray"), ("g", "x")]);
    bench.commit();
    assert_eq!(
        bench.of("g"),
        ["in/0/0 plugin-broke-contract", "in/0/1 a:g:1"]
    );
}

#[test]
fn an_output_that_the_log_would_not_take_is_the_plugins_fault() {
    let mut bench = Bench::new(8, 100);
    bench.events(&[("g", "huge"), ("g", "x")]);
    bench.commit();
    assert_eq!(
        bench.of("g"),
        ["in/0/0 plugin-emitted-too-much", "in/0/1 a:g:1"]
    );
}

#[test]
fn records_that_no_plugin_can_take_are_dead_letters() {
    let mut bench = Bench::new(8, 100);
    let mut tombstone = bench.record(Some("g"), "");
    tombstone.value = None;
    let mut binary = bench.record(None, "x");
    binary.key = Some(Bytes::from_static(b"\xff"));
    let keyless = bench.record(None, "x");
    let long = bench.record(Some(&"k".repeat(5000)), "x");
    let empty = bench.record(Some(""), "x");
    bench.feed(vec![tombstone, binary, keyless, long, empty]);
    bench.commit();
    let mut described: Vec<_> = bench.committed.iter().map(describe).collect();
    described.sort();
    assert_eq!(
        described,
        [
            "in/0/0 event-without-value",
            "in/0/1 event-key-not-utf8",
            "in/0/2 event-without-key",
            "in/0/3 event-key-too-long",
            "in/0/4 event-without-key"
        ]
    );
}

/// An output has its event's time where that will do. A dead letter never has it,
/// because retention counts from when the event became one.
#[test]
fn outputs_and_dead_letters_have_times_that_will_do() {
    let mut bench = Bench::new(8, 100);
    let before = now_ms();
    let times = [1, before, before + 7_200_000, before * 1000, 0, u64::MAX];
    for value in ["x", "refuse"] {
        let records = times.map(|time| Record {
            timestamp_ms: time,
            ..bench.record(Some("g"), value)
        });
        bench.feed(records.into());
    }
    bench.commit();
    let after = now_ms();
    let is_now = |time: u64| (before..=after).contains(&time);
    let (outputs, letters): (Vec<_>, Vec<_>) = bench
        .committed
        .iter()
        .partition(|record| header(record, "courtside-error-code").is_none());
    let told = |record: &NewRecord| header(record, "courtside-event-time");
    assert_eq!((outputs.len(), letters.len()), (times.len(), times.len()));
    for (own, output) in times.into_iter().zip(outputs) {
        if [1, before].contains(&own) {
            assert_eq!((output.timestamp_ms, told(output)), (own, None));
        } else {
            assert!(is_now(output.timestamp_ms), "{own}");
            assert_eq!(told(output), Some(own.to_string()));
        }
    }
    for (own, letter) in times.into_iter().zip(letters) {
        assert!(is_now(letter.timestamp_ms), "{own}");
        assert_eq!(told(letter), Some(own.to_string()));
    }
}

/// A dead letter can be committed, whatever event another producer got into the log.
#[test]
fn a_dead_letter_leaves_out_what_would_not_fit() {
    const LIMIT: usize = 4096 + COMMIT_EXTRA_BYTES;
    let mut bench = Bench::new(8, 100);
    let mut whole = bench.record(Some("whole"), "");
    whole.value = None;
    whole.headers = vec![Header::new("trace", &b"\xff\0"[..])];
    let mut large = bench.record(None, &"x".repeat(LIMIT));
    large.headers = vec![Header::new("trace", &b"1"[..])];
    let mut headed = bench.record(Some("headed"), "");
    headed.value = None;
    headed.headers = vec![Header::new("", &b""[..]); LIMIT / 8];
    let keyed = bench.record(Some(&"k".repeat(LIMIT)), "x");
    let sizes = [&large, &headed, &keyed].map(Record::size);
    bench.feed(vec![whole, large, headed, keyed]);
    bench.commit();

    let letter = |offset: u64| {
        let source = format!("in/0/{offset}");
        let mut letters = bench.committed.iter();
        letters
            .find(|letter| header(letter, "courtside-source").as_ref() == Some(&source))
            .unwrap()
    };
    assert_eq!(letter(0).headers[0], Header::new("trace", &b"\xff\0"[..]));
    assert_eq!(header(letter(0), "courtside-cut-bytes"), None);
    for (offset, size) in (1..).zip(sizes) {
        let letter = letter(offset);
        assert!(letter.size() <= LIMIT);
        assert_eq!(letter.value, None);
        assert_eq!(
            header(letter, "courtside-cut-bytes"),
            Some(size.to_string())
        );
        assert_eq!(header(letter, "trace"), None);
        assert!(header(letter, "courtside-error-code").is_some());
    }
    assert_eq!(letter(2).key.as_deref(), Some(&b"headed"[..]));
    assert_eq!(letter(3).key, None);
}

/// An append failed midway and is retried. Each event counts once, whether it got in at
/// first or not.
#[test]
fn a_retry_brings_what_the_first_time_left_out() {
    for entities_open_max in [1, 100] {
        let mut bench = Bench::new(8, entities_open_max);
        let mut send = |numbers: &[u32]| {
            let mut records = Vec::new();
            for number in numbers {
                let mut record = bench.record(Some("g"), &format!("{number}"));
                record.headers = vec![
                    mark(),
                    Header::new(IDEMPOTENCY_HEADER, &b"request"[..]),
                    Header::new(IDEMPOTENCY_INDEX_HEADER, number.to_string()),
                ];
                records.push(record);
            }
            bench.feed(records);
            bench.commit();
            // With one open entity at most, the keys of `g` are then known from its
            // checkpoint.
            bench.events(&[("another", "x")]);
            bench.commit();
        };
        send(&[0, 2, 5]);
        send(&[0, 1, 2, 3, 4, 5, 6]);
        send(&[0, 1, 2, 3, 4, 5, 6]);
        let events: Vec<_> = bench.of("g");
        // The first request has offsets 0 to 2, another key has 3, and the retry has 4
        // to 10. Numbers 0, 2 and 5 of the retry were there before.
        assert_eq!(
            events,
            [
                "in/0/0 a:g:1",
                "in/0/1 a:g:2",
                "in/0/2 a:g:3",
                "in/0/5 a:g:4",
                "in/0/7 a:g:5",
                "in/0/8 a:g:6",
                "in/0/10 a:g:7",
            ]
        );
    }
}

#[test]
fn a_retry_under_the_same_key_counts_once() {
    let mut bench = Bench::new(8, 100);
    for _ in 0..3 {
        let mut record = bench.record(Some("g"), "x");
        record.headers = vec![mark(), Header::new(IDEMPOTENCY_HEADER, &b"same"[..])];
        bench.feed(vec![record]);
        bench.commit();
    }
    assert_eq!(bench.of("g"), ["in/0/0 a:g:1"]);
}

/// Stream processors copy headers from topic to topic.
#[test]
fn a_hosts_headers_count_only_where_the_host_wrote_them() {
    let here = Identity {
        input: Some(("in".into(), TopicId(1))),
        checkpoints: None,
    };
    let of = |topic: &str, id| {
        let input = Some((topic.to_owned().into(), TopicId(id)));
        Identity {
            input,
            ..here.clone()
        }
        .mark()
    };
    for (marks, counts) in [
        (vec![here.mark()], true),
        (vec![], false),
        (vec![of("elsewhere", 1)], false),
        // The mark is of the topic that had the name before.
        (vec![of("in", 2)], false),
        (vec![Header::new(TOPIC_HEADER, "in")], false),
        (
            vec![Header {
                name: TOPIC_HEADER.into(),
                value: None,
            }],
            false,
        ),
    ] {
        let mut pipeline = Pipeline::clone(&pipeline(8, 100));
        pipeline.identity = here.clone();
        let mut bench = Bench::of_pipeline(Arc::new(pipeline));
        let mut send = |headers: &[(&'static str, &'static str)]| {
            let mut record = bench.record(Some("g"), "x");
            record.headers.clone_from(&marks);
            let own = headers
                .iter()
                .map(|(name, value)| Header::new(*name, *value));
            record.headers.extend(own);
            bench.feed(vec![record]);
            bench.commit();
        };
        for _ in 0..3 {
            send(&[
                (IDEMPOTENCY_HEADER, "same"),
                (IDEMPOTENCY_INDEX_HEADER, "0"),
            ]);
        }
        let expected = if counts { 1 } else { 3 };
        assert_eq!(bench.of("g").len(), expected, "{marks:?}");
        // A halted entity takes what is redriven, and nothing else.
        bench.events(&[("h", "poison")]);
        bench.commit();
        let mut record = bench.record(Some("h"), "x");
        record.headers.clone_from(&marks);
        for (name, value) in [
            (REDRIVE, "0/0"),
            (ORIGIN, "in/0/3"),
            (BEGINS, "1"),
            (UNTIL, "3"),
        ] {
            record.headers.push(Header::new(name, value));
        }
        bench.feed(vec![record]);
        bench.commit();
        let halted = bench.checkpoint("h").and_then(|envelope| envelope.halted);
        assert_eq!(halted.is_none(), counts, "{marks:?}");
    }
}

#[test]
fn a_retry_is_known_where_nothing_else_is_remembered() {
    let mut bench = Bench::new(8, 100);
    for _ in 0..3 {
        let mut record = bench.record(Some("forgetful"), "x");
        record.headers = vec![mark(), Header::new(IDEMPOTENCY_HEADER, &b"same"[..])];
        bench.feed(vec![record]);
        bench.commit();
    }
    assert_eq!(bench.of("forgetful"), ["in/0/0 a:forgetful:1"]);
    bench.events(&[("forgetful-of-all", "x")]);
    bench.commit();
    assert_eq!(bench.checkpoint("forgetful-of-all"), None);
}

#[test]
fn what_entities_publish_under_one_key_is_in_the_order_of_their_events() {
    let events = [
        ("g", "league"),
        ("h", "league"),
        ("g", "league"),
        ("h", "refuse"),
    ];
    let run = |commit_each: bool| {
        let mut bench = Bench::new(8, 100);
        for event in events {
            bench.events(&[event]);
            if commit_each {
                bench.commit();
            }
        }
        bench.commit();
        bench.committed.iter().map(describe).collect::<Vec<_>>()
    };
    assert_eq!(run(true), run(false));
    assert_eq!(
        run(false)[..3],
        ["in/0/0 a:g:1", "in/0/1 a:h:1", "in/0/2 a:g:2"]
    );
}

/// The outputs of each entity stay side by side, though dead letters are sorted.
#[test]
fn dead_letters_are_in_the_order_of_their_events() {
    let mut bench = Bench::new(8, 100);
    bench.events(&[
        ("g", "x"),
        ("h", "refuse"),
        ("g", "refuse"),
        ("h", "x"),
        ("h", "refuse"),
        ("g", "x"),
    ]);
    bench.commit();
    let committed: Vec<_> = bench.committed.iter().map(describe).collect();
    assert_eq!(
        committed,
        [
            "in/0/0 a:g:1",
            "in/0/5 a:g:2",
            "in/0/3 a:h:1",
            "in/0/1 event-refused",
            "in/0/2 event-refused",
            "in/0/4 event-refused",
        ]
    );
}

#[test]
fn a_run_that_leads_to_too_much_is_cut_short_and_done_again_in_pieces() {
    let mut bench = Bench::new(8, 100);
    let records: Vec<_> = (0..50).map(|_| bench.record(Some("g"), "x")).collect();
    bench.processing.set_budget(Some(Budget {
        bytes_max: 2000,
        time_max: Duration::from_secs(3600),
        interrupt: Arc::default(),
    }));
    let fetched = |records: &[Record]| {
        vec![Fetched {
            partition: P,
            records: records.to_vec(),
        }]
    };
    let interrupted = bench.processing.process(fetched(&records)).unwrap_err();
    assert!(matches!(interrupted, Interrupted::TooMuch));
    bench.processing.abort();
    for piece in records.chunks(2) {
        assert_eq!(bench.processing.process(fetched(piece)).unwrap(), []);
        bench.commit();
    }
    let expected: Vec<_> = (0..50).map(|n| format!("in/0/{n} a:g:{}", n + 1)).collect();
    assert_eq!(bench.of("g"), expected);
}

#[test]
fn a_suspect_has_an_instance_of_its_own_only_while_it_runs() {
    let mut bench = Bench::new(1000, 1000);
    let keys: Vec<String> = (0..50).map(|number| format!("k{number}")).collect();
    for value in ["trap", "x"] {
        let events: Vec<_> = keys.iter().map(|key| (key.as_str(), value)).collect();
        bench.events(&events);
        assert!(bench.processing.instances() <= 2);
        bench.commit();
    }
    for key in keys {
        assert_eq!(bench.of(&key).len(), 2, "{key}");
    }
}

#[test]
fn a_swap_takes_the_state_over() {
    let mut bench = Bench::new(8, 100);
    bench.events(&[("g", "x"), ("h", "x")]);
    bench.commit();
    bench.swap(SlotName::of_key(b"h"), "b", &["faulty/1"]);
    bench.events(&[("g", "x"), ("h", "x")]);
    bench.commit();
    bench.processing.activate(&SlotName::of_key(b"h"), None);
    bench.swap(SlotName::Default, "c", &["faulty/1"]);
    bench.events(&[("g", "x"), ("h", "x")]);
    bench.commit();
    assert_eq!(
        bench.of("g"),
        ["in/0/0 a:g:1", "in/0/2 a:g:2", "in/0/4 c:g:3"]
    );
    assert_eq!(
        bench.of("h"),
        ["in/0/1 a:h:1", "in/0/3 b:h:2", "in/0/5 c:h:3"]
    );
}

#[test]
fn a_partition_waits_for_a_plugin_that_can_read_it() {
    let mut bench = Bench::new(8, 100);
    bench.events(&[("g", "x")]);
    bench.commit();
    bench.swap(SlotName::Default, "b", &["faulty/2"]);
    let (first, second) = (bench.record(Some("g"), "x"), bench.record(Some("h"), "x"));
    let stops = bench.feed(vec![first.clone(), second.clone()]);
    assert_eq!(stops.len(), 1);
    assert_eq!(stops[0].1.code, "plugin-cannot-read");
    assert!(stops[0].1.waits);
    bench.commit();
    assert_eq!(bench.committed.len(), 1, "nothing became a dead letter");
    // A stopped partition does not take records, because they would leave a gap.
    let third = bench.record(Some("g"), "x");
    bench.feed(vec![third.clone()]);
    bench.swap(SlotName::Default, "c", &["faulty/1"]);
    assert_eq!(bench.processing.resume(P), Some(Offset(1)));
    bench.feed(vec![first, second, third]);
    bench.commit();
    assert_eq!(
        bench.of("g"),
        ["in/0/0 a:g:1", "in/0/1 c:g:2", "in/0/3 c:g:3"]
    );
    assert_eq!(bench.of("h"), ["in/0/2 c:h:1"]);
}

#[test]
fn a_checkpoint_beyond_the_commit_stops_the_partition() {
    let mut bench = Bench::new(8, 100);
    bench.events(&[("g", "x")]);
    let (commit, _) = bench.processing.prepare().unwrap();
    bench.memory.apply(&commit.unwrap());
    bench.processing.unassign(&[P]);
    let start = Start::fresh(Offset(0));
    bench.processing.assign(P, start).unwrap();
    bench.next = 0;
    let stops = bench.events(&[("g", "x")]);
    assert_eq!(stops[0].1.code, "checkpoint-ahead");
    assert!(!stops[0].1.waits);
}

#[test]
fn idle_entities_close_and_open_again() {
    let mut bench = Bench::new(4, 100);
    bench.events(&[("g", "x"), ("h", "x")]);
    bench.commit();
    assert_eq!(bench.processing.entities_open(), 2);
    let later = Instant::now() + Duration::from_secs(7200);
    bench.processing.close_idle(later);
    assert_eq!(bench.processing.entities_open(), 0);
    assert_eq!(bench.processing.instances(), 0);
    bench.events(&[("g", "x")]);
    bench.commit();
    assert_eq!(bench.of("g"), ["in/0/0 a:g:1", "in/0/2 a:g:2"]);
}

#[derive(Clone, Debug)]
enum Act {
    Event(u8, &'static str),
    Flush,
    Commit,
    Swap(bool),
    Abort,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => (0_u8..6, prop_oneof![
            8 => Just("x"), 1 => Just("trap"), 1 => Just("refuse"), 1 => Just("astray"),
        ]).prop_map(|(key, value)| Act::Event(key, value)),
        2 => Just(Act::Flush),
        2 => Just(Act::Commit),
        1 => any::<bool>().prop_map(Act::Swap),
        1 => Just(Act::Abort),
    ]
}

proptest! {
    /// Each event is processed once and in order, however events are polled, committed,
    /// rolled back, crowded into instances and swapped. Bad events become dead letters
    /// where they stand.
    #[test]
    fn each_event_counts_once_and_in_order(
        acts in proptest::collection::vec(act(), 1..120),
        entities_per_instance in 1_usize..4,
        entities_open_max in 1_usize..8,
    ) {
        let mut bench = Bench::new(entities_per_instance, entities_open_max);
        let mut log: Vec<Record> = Vec::new();
        let mut polled: Vec<Record> = Vec::new();
        let mut committed = 0;
        for act in acts {
            match act {
                Act::Event(key, value) => {
                    let record = bench.record(Some(&format!("k{key}")), value);
                    log.push(record.clone());
                    polled.push(record);
                }
                Act::Flush => {
                    let records = std::mem::take(&mut polled);
                    prop_assert_eq!(bench.feed(records), []);
                }
                Act::Commit => {
                    bench.commit();
                    committed = log.len() - polled.len();
                }
                Act::Swap(whose) => {
                    bench.commit();
                    committed = log.len() - polled.len();
                    let slot = if whose { SlotName::of_key(b"k0") } else { SlotName::Default };
                    bench.swap(slot, "a", &["faulty/1"]);
                }
                Act::Abort => {
                    bench.processing.abort();
                    polled = log[committed..].to_vec();
                }
            }
        }
        bench.feed(polled);
        bench.commit();
        for key in 0..6 {
            let key = format!("k{key}");
            let mut count = 0;
            let expected: Vec<String> = log
                .iter()
                .filter(|record| record.key.as_deref() == Some(key.as_bytes()))
                .map(|record| {
                    let what = match record.value.as_deref().unwrap() {
                        b"trap" => "plugin-trap".to_owned(),
                        b"refuse" => "event-refused".to_owned(),
                        b"astray" => "plugin-broke-contract".to_owned(),
                        _ => {
                            count += 1;
                            format!("a:{key}:{count}")
                        }
                    };
                    format!("in/0/{} {what}", record.offset)
                })
                .collect();
            prop_assert_eq!(bench.of(&key), expected);
            let state = bench.checkpoint(&key).and_then(|envelope| envelope.saved);
            let saved = state.map_or(0, |saved| u64::from_le_bytes(saved.state.as_ref().try_into().unwrap()));
            prop_assert_eq!(saved, count);
        }
    }
}
