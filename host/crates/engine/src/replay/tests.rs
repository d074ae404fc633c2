//! Replay against what a live worker would have published, with a native plugin
//! that fails on demand.

mod differences;
mod timelines;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use courtside_plugin_host::Plugin;
use courtside_types::{
    ATTEMPT_HEADER, DIGEST_HEADER, Digest, Header, Key, Offset, PLUGIN_HEADER, PartitionId, Record,
    SOURCE_HEADER, TopicPartition, slot_name::SlotName,
};

use super::{
    Recording, ReplayError, archive, check,
    compare::{Comparison, Headers, Kind, compare},
    entity::{EntityPartition, PipelineView, TakeoverView},
    line::{HeaderLine, Line, Text, provenance},
    run::{Case, Plan},
    timeline::{Stretch, Timeline},
};
use crate::{
    pipeline::identity::Identity,
    slots::view::SwapKind,
    worker::redriven,
    worker::{
        output::ERROR_CODE,
        tests::{Faulty, pipeline},
    },
};

const P: PartitionId = PartitionId(0);

fn event(offset: u64, value: &str) -> Record {
    Record {
        offset: Offset(offset),
        timestamp_ms: 1_000 + offset,
        key: Some(Bytes::from_static(b"g")),
        headers: Vec::new(),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    }
}

fn case(plugins: Vec<(u64, Arc<dyn Plugin>)>, events: Vec<Record>) -> Case {
    let plugins = plugins.into_iter();
    Case {
        pipeline: pipeline(8, 100),
        partition: P,
        key: Key::from_static(b"g"),
        plugins: plugins
            .map(|(from, plugin)| (Offset(from), plugin))
            .collect(),
        redone: Vec::new(),
        events,
    }
}

fn plugin(name: &str) -> Arc<dyn Plugin> {
    Faulty::new(name, &["faulty/1"])
}

fn lines(case: &Case, plan: Plan) -> Vec<Line> {
    let replayed = case.run(plan).unwrap();
    let records = replayed.records.iter();
    records
        .map(|(place, record)| Line::of_new(place, record))
        .collect()
}

/// The lines that the log would have after a run: the same lines with offsets.
fn published(lines: &[Line]) -> Vec<Line> {
    let numbered = lines.iter().zip(0..).map(|(line, offset)| Line {
        offset: Some(offset),
        ..line.clone()
    });
    numbered.collect()
}

fn recording(case: &Case, published: Vec<Line>) -> Recording {
    let place = TopicPartition {
        topic: case.pipeline.input.clone(),
        partition: P,
    };
    let events = case.events.iter();
    Recording {
        pipeline: PipelineView::of(&case.pipeline, &SlotName::Default),
        key: "g".to_owned(),
        at: EntityPartition {
            partition: 0,
            start: 0,
            end: 100,
            committed: Some(100),
            dead_letter_start: 0,
            outputs_cut: Vec::new(),
            held: true,
            checkpoint: None,
            takeovers: Vec::new(),
        },
        events: events.map(|event| Line::of_event(&place, event)).collect(),
        published,
        plugins: BTreeMap::new(),
    }
}

fn takeover(slot: &str, seq: u64, offset: u64, digest: Option<Digest>) -> TakeoverView {
    TakeoverView {
        slot: slot.to_owned(),
        seq,
        offset,
        digest: digest.map(|digest| digest.to_string()),
        kind: SwapKind::Swap,
        previous: None,
        until: None,
        attempt: 1,
    }
}

/// Events of all kinds: counted, refused, fatal, without a value, a duplicate. The
/// offsets have gaps, where other keys have their events.
fn eventful() -> Vec<Record> {
    let mut events: Vec<Record> = [
        "x", "refuse", "trap", "x", "league", "poison", "x", "x", "trap", "x",
    ]
    .iter()
    .zip((3..).step_by(3))
    .map(|(value, offset)| event(offset, value))
    .collect();
    let nothing = Record {
        value: None,
        ..event(40, "")
    };
    let mut again = event(41, "x");
    again.headers = vec![
        Identity::default().mark(),
        Header::new(courtside_types::headers::IDEMPOTENCY_HEADER, "k"),
    ];
    let twice = Record {
        offset: Offset(42),
        ..again.clone()
    };
    events.extend([nothing, again, twice]);
    events
}

#[test]
fn nothing_depends_on_how_events_come() {
    let case = case(vec![(0, plugin("a"))], eventful());
    let usual = case.run(Plan::default()).unwrap();
    assert!(usual.failures > 0);
    let codes: Vec<_> = lines(&case, Plan::default())
        .iter()
        .filter_map(|line| Some((line.source?, line.text(&ERROR_CODE)?.to_owned())))
        .collect();
    assert!(
        codes.contains(&(6, "event-refused".to_owned())),
        "{codes:?}"
    );
    assert!(codes.contains(&(9, "plugin-trap".to_owned())), "{codes:?}");
    for batch in [1, 2, 7] {
        for reopens in [false, true] {
            let plan = Plan { batch, reopens };
            let other = case.run(plan).unwrap();
            assert_eq!(other.checkpoint, usual.checkpoint, "{plan:?}");
            // A poison shows only in a checkpoint, so the commits decide which earlier
            // events it takes along. Without a poison, the plan changes nothing.
            let without: Vec<_> = eventful()
                .into_iter()
                .filter(|event| event.value.as_deref() != Some(b"poison"))
                .collect();
            let case = self::case(vec![(0, plugin("a"))], without);
            assert_eq!(
                lines(&case, plan),
                lines(&case, Plan::default()),
                "{plan:?}"
            );
        }
    }
}

#[test]
fn each_plugin_gets_its_own_stretch() {
    let events = (0..9).map(|offset| event(offset, "x")).collect();
    let case = case(
        vec![(0, plugin("a")), (4, plugin("b")), (7, plugin("a"))],
        events,
    );
    for batch in [1, 3, 256] {
        let values: Vec<_> = lines(
            &case,
            Plan {
                batch,
                reopens: false,
            },
        )
        .into_iter()
        .map(|line| match line.value {
            Some(Text::Utf8(value)) => value,
            other => panic!("{other:?}"),
        })
        .collect();
        let expected: Vec<_> = (1..=9)
            .map(|count| {
                format!(
                    "{}:g:{count}",
                    if (5..=7).contains(&count) { "b" } else { "a" }
                )
            })
            .collect();
        assert_eq!(values, expected);
    }
}

#[test]
fn a_plugin_that_cannot_read_what_is_there_stops_the_replay() {
    let events = (0..4).map(|offset| event(offset, "x")).collect();
    let stranger: Arc<dyn Plugin> = Faulty::new("b", &["other/1"]);
    let case = case(vec![(0, plugin("a")), (2, stranger)], events);
    match case.run(Plan::default()) {
        Err(ReplayError::Stopped { next, code, .. }) => {
            assert_eq!((next, code), (Offset(2), "plugin-cannot-read"));
        }
        other => panic!("{other:?}"),
    }
}

fn exported() -> (Recording, Vec<u8>) {
    let case = case(vec![(0, plugin("a"))], eventful());
    let mut recording = recording(&case, published(&lines(&case, Plan::default())));
    recording.events[0].value = Some(Text::of(&[0xff, 0xfe]));
    let plugin = Bytes::from_static(b"not quite a plugin");
    recording.plugins.insert(Digest::of(&plugin), plugin);
    let mut bytes = Vec::new();
    archive::write(&recording, &mut bytes).unwrap();
    (recording, bytes)
}

#[test]
fn an_export_is_read_as_it_was_written() {
    let (recording, bytes) = exported();
    let read = archive::read(&*bytes).unwrap();
    assert_eq!(read.events, recording.events);
    assert_eq!(read.published, recording.published);
    assert_eq!(read.plugins, recording.plugins);
    assert_eq!(
        (read.at, read.key),
        (recording.at.clone(), recording.key.clone())
    );
    assert_eq!(read.pipeline, recording.pipeline);
    let mut again = Vec::new();
    archive::write(&recording, &mut again).unwrap();
    assert_eq!(again, bytes, "the same recording, the same bytes");
    let event = read.events[0].to_record().unwrap();
    assert_eq!(event.value.as_deref(), Some(&[0xff, 0xfe][..]));
}

#[test]
fn an_export_that_is_cut_or_damaged_is_none() {
    let (_, bytes) = exported();
    let code = |bytes: &[u8]| match archive::read(bytes) {
        Ok(_) => panic!("it was read"),
        Err(error) => error.to_string(),
    };
    // The last blocks of an archive are empty, and may be missing.
    let content = bytes.len() - 2 * 512;
    for length in (0..content - 512).step_by(173) {
        let said = code(&bytes[..length]);
        assert!(said.starts_with("export-invalid: "), "{length}: {said}");
    }
    let with = |from: &str, to: &str| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains(from) && from.len() == to.len());
        code(text.replacen(from, to, 1).as_bytes())
    };
    assert!(with("courtside-export/1", "courtside-export/2").contains("courtside-export/2"));
    assert!(with("not quite a plugin", "not quite another!").contains("do not have this digest"));
    assert!(
        with("\"timestamp_ms\":1003", "\"timestamp_ms\":x003").contains("events.ndjson: line 1")
    );
    assert!(code(b"hello").starts_with("export-invalid: "));
}

#[test]
fn what_retention_took_is_said() {
    let (mut recording, _) = exported();
    assert_eq!(recording.reservation(), None);
    recording.at.start = 7;
    let said = recording.reservation().unwrap();
    assert!(said.contains("before offset 7"), "{said}");
    assert!(
        said.contains("2 records published for them are left"),
        "{said}"
    );
    recording.published.clear();
    let said = recording.reservation().unwrap();
    assert!(said.contains("is not known"), "{said}");
}

/// An event that changes nothing may change a checkpoint, depending on the commit that
/// it is in. The plugin has no part in that.
#[test]
fn a_plugin_is_deterministic_whose_last_events_change_nothing() {
    let nothing = |offset| Record {
        value: None,
        ..event(offset, "")
    };
    let twice = |offset| {
        let mut record = event(offset, "x");
        let header = Header::new(courtside_types::headers::IDEMPOTENCY_HEADER, "k");
        record.headers.push(header);
        record
    };
    for last in [
        vec![event(9, "refuse")],
        vec![event(9, "refuse"), event(12, "refuse")],
        vec![nothing(9)],
        vec![twice(9), twice(12)],
    ] {
        let events: Vec<_> = [event(3, "x"), event(6, "x")]
            .into_iter()
            .chain(last)
            .collect();
        let case = case(vec![(0, plugin("a"))], events);
        let recording = recording(&case, published(&lines(&case, Plan::default())));
        let tried = check::try_out(&recording, &plugin("a")).unwrap();
        assert_eq!(tried.objections, [], "{:?}", case.events);
    }
    let events = vec![event(3, "refuse"), event(6, "refuse")];
    let case = case(vec![(0, plugin("a"))], events);
    let recording = recording(&case, Vec::new());
    let tried = check::try_out(&recording, &plugin("a")).unwrap();
    assert_eq!(tried.objections, [], "nothing but refused events");
}

/// A redriven letter is skipped if a rollback has processed its event again. The events
/// after it go on as if the letter had never been.
#[test]
fn a_letter_that_a_rollback_outlived_is_skipped_as_the_worker_does() {
    let (a, b) = (plugin("a").digest(), plugin("b").digest());
    let redriven = |offset, made_of: &str| {
        let mut record = event(offset, "x");
        record.headers.push(Identity::default().mark());
        for (name, value) in [
            (redriven::REDRIVE, "0/0"),
            (redriven::ORIGIN, "in/0/5"),
            (redriven::MADE_OF, made_of),
        ] {
            record.headers.push(Header::new(name, value.to_owned()));
        }
        record
    };
    // Plugin b got 4 and 5, and a rollback at 6 took them back. The letters are of the
    // first attempt at 5, of the attempt after the rollback, and of an event that b
    // never got.
    let mut events: Vec<_> = (0..7).map(|offset| event(offset, "x")).collect();
    events.extend([
        redriven(7, "5/1"),
        event(8, "x"),
        redriven(9, "5/2"),
        redriven(10, "2/1"),
    ]);
    let case = case(vec![(0, plugin("a"))], events);
    let mut recording = recording(&case, Vec::new());
    recording.at.takeovers = vec![
        takeover("default", 1, 0, Some(a)),
        takeover("default", 2, 4, Some(b)),
        TakeoverView {
            kind: SwapKind::Rollback,
            previous: Some(b.to_string()),
            until: Some(6),
            attempt: 2,
            ..takeover("default", 3, 4, Some(a))
        },
    ];
    for plan in [1, 3, 256].map(|batch| Plan {
        batch,
        reopens: batch == 3,
    }) {
        let case = recording.case_with(&plugin("a")).unwrap();
        let values: Vec<_> = lines(&case, plan)
            .into_iter()
            .map(|line| (line.source.unwrap(), line.value.unwrap()))
            .collect();
        let expected: Vec<_> = (0..11)
            .filter(|source| *source != 7)
            .zip(1..)
            .map(|(source, count)| (source, Text::Utf8(format!("a:g:{count}"))))
            .collect();
        assert_eq!(values, expected, "{plan:?}");
    }
    // In a slot of its own, the key has nothing to do with b, so no letter is skipped.
    recording
        .at
        .takeovers
        .insert(1, takeover("keys/g", 1, 1, Some(a)));
    let case = recording.case_with(&plugin("a")).unwrap();
    assert_eq!(lines(&case, Plan::default()).len(), 11);
}
