//! Replay against what a live worker would have published, with a native plugin
//! that fails on demand.

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

#[test]
fn the_same_is_no_difference_and_a_change_is_one() {
    let case = case(vec![(0, plugin("a"))], eventful());
    let now = lines(&case, Plan::default());
    let recording = recording(&case, published(&now));
    let same = compare(&recording, &now, Headers::All);
    assert_eq!(same.differences, []);
    assert_eq!((same.same, same.gone, same.undone), (now.len(), 0, 0));

    // Each plugin is named in every record that it makes, so all records differ by name.
    let other = self::case(vec![(0, plugin("b"))], eventful());
    let other = lines(&other, Plan::default());
    let changed = compare(&recording, &other, Headers::All);
    assert_eq!(changed.differences.len(), now.len());
    let changed = compare(&recording, &other, Headers::ButThePlugin);
    assert!(
        changed
            .differences
            .iter()
            .all(|one| one.kind == Kind::Changed)
    );
    let letters = now.iter().filter(|line| line.text(&ERROR_CODE).is_some());
    assert_eq!(changed.same, letters.count());
    let text = changed.differences[0].text("in", 0, Headers::ButThePlugin);
    assert!(text.contains("in/0/3 → out\n  a:g:1 → b:g:1"), "{text}");
}

/// A host gave these records another time than their events have, and noted the events'
/// times.
#[test]
fn records_with_the_time_of_their_commit_are_as_they_were_published() {
    let far = 4_000_000_000_000_000;
    let mut events = vec![
        event(0, "x"),
        event(1, "refuse"),
        event(2, "x"),
        event(3, "x"),
    ];
    events[2].timestamp_ms = far;
    events[3].timestamp_ms = 0;
    let case = case(vec![(0, plugin("a"))], events);
    let now = lines(&case, Plan::default());
    let times: Vec<_> = now.iter().map(|line| line.timestamp_ms).collect();
    assert_eq!(times, [1_000, 1_001, far, 0]);
    let mut all = published(&now);
    for line in &mut all[1..] {
        line.headers.push(HeaderLine {
            name: "courtside-event-time".to_owned(),
            value: Some(Text::Utf8(line.timestamp_ms.to_string())),
        });
        line.timestamp_ms = 1_790_000_000_000;
    }
    let compared = compare(&recording(&case, all.clone()), &now, Headers::All);
    assert_eq!((compared.same, compared.differences), (4, vec![]));
    // Another event time is a difference all the same.
    all[2].headers.last_mut().unwrap().value = Some(Text::Utf8("5".to_owned()));
    let compared = compare(&recording(&case, all), &now, Headers::All);
    let text = compared.differences[0].text("in", 0, Headers::All);
    assert!(text.contains("timestamp 5 → 4000000000000000"), "{text}");
}

#[test]
fn what_compaction_took_is_gone_and_the_last_never_is() {
    let events = (0..5).map(|offset| event(offset, "x")).collect();
    let case = case(vec![(0, plugin("a"))], events);
    let now = lines(&case, Plan::default());
    let all = published(&now);
    let compare = |kept: &[Line]| compare(&recording(&case, kept.to_vec()), &now, Headers::All);
    let compacted = compare(&all[4..]);
    assert_eq!((compacted.same, compacted.gone), (1, 4));
    assert_eq!(compacted.differences, []);
    let lost = compare(&all[..4]);
    assert_eq!(lost.same, 4);
    assert_eq!(lost.differences.len(), 1);
    assert_eq!(lost.differences[0].kind, Kind::Added);
    assert_eq!(lost.differences[0].source, 4);
    // A published record must be replayed, too.
    let fewer = super::compare::compare(&recording(&case, all), &now[..4], Headers::All);
    assert_eq!(fewer.differences[0].kind, Kind::Missing);
}

#[test]
fn dead_letters_are_gone_only_where_the_log_has_let_go_of_some() {
    let case = case(
        vec![(0, plugin("a"))],
        vec![event(0, "refuse"), event(1, "x")],
    );
    let now = lines(&case, Plan::default());
    let kept: Vec<_> = published(&now)
        .into_iter()
        .filter(|line| line.text(&ERROR_CODE).is_none())
        .collect();
    let mut recording = recording(&case, kept);
    assert_eq!(compare(&recording, &now, Headers::All).differences.len(), 1);
    recording.at.dead_letter_start = 1;
    let Comparison {
        gone, differences, ..
    } = compare(&recording, &now, Headers::All);
    assert_eq!((gone, differences.len()), (1, 0));
}

/// Retention takes records of a stream whether or not they are the last of their key.
#[test]
fn what_retention_took_of_a_stream_is_gone() {
    let events = (0..5).map(|offset| event(offset, "x")).collect();
    let case = case(vec![(0, plugin("a"))], events);
    let now = lines(&case, Plan::default());
    let mut recording = recording(&case, Vec::new());
    assert_eq!(compare(&recording, &now, Headers::All).differences.len(), 5);
    recording.at.outputs_cut = vec![now[0].topic.clone()];
    let Comparison {
        gone, differences, ..
    } = compare(&recording, &now, Headers::All);
    assert_eq!((gone, differences.len()), (5, 0));
}

fn stretches(timeline: &Timeline) -> Vec<(u64, Digest)> {
    let stretches = timeline.0.iter();
    stretches
        .map(|Stretch { from, digest }| (from.0, *digest))
        .collect()
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

#[test]
fn what_was_published_says_which_plugin_ran() {
    let events = (0..9).map(|offset| event(offset, "x")).collect();
    let case = case(vec![(0, plugin("a")), (4, plugin("b"))], events);
    let all = published(&lines(&case, Plan::default()));
    let (a, b) = (plugin("a").digest(), plugin("b").digest());
    let whole = recording(&case, all.clone());
    assert_eq!(stretches(&whole.timeline()), [(0, a), (4, b)]);
    // An event of which nothing is known takes the plugin of the event before it. Events
    // before the first known one take that one's plugin.
    let some = [all[2].clone(), all[6].clone()];
    let some = recording(&case, some.to_vec());
    assert_eq!(stretches(&some.timeline()), [(0, a), (6, b)]);
    assert_eq!(some.timeline().at(Offset(5)), Some(a));
    assert_eq!(stretches(&recording(&case, Vec::new()).timeline()), []);
}

#[test]
fn takeovers_say_it_better_and_a_rollback_undoes_them() {
    let events = (0..9).map(|offset| event(offset, "x")).collect();
    let case = case(vec![(0, plugin("a")), (4, plugin("b"))], events);
    let (a, b, c) = (plugin("a").digest(), plugin("b").digest(), Digest::of(b"c"));
    let bad = published(&lines(&case, Plan::default()));
    let mut recording = recording(&case, bad.clone());
    recording.at.takeovers = vec![
        takeover("default", 1, 0, Some(a)),
        takeover("default", 2, 3, Some(b)),
    ];
    assert_eq!(stretches(&recording.timeline()), [(0, a), (3, b)]);
    recording
        .at
        .takeovers
        .push(takeover("keys/g", 1, 5, Some(c)));
    recording.at.takeovers.push(takeover("keys/g", 2, 7, None));
    assert_eq!(
        stretches(&recording.timeline()),
        [(0, a), (3, b), (5, c), (7, b)]
    );

    // b took over at 4 and was rolled back at 7: 4 to 6 were published again.
    recording.at.takeovers = vec![
        takeover("default", 1, 0, Some(a)),
        takeover("default", 2, 4, Some(b)),
        takeover("default", 3, 4, Some(a)),
    ];
    assert_eq!(stretches(&recording.timeline()), [(0, a)]);
    let good = self::case(vec![(0, plugin("a"))], case.events.clone());
    let good = lines(&good, Plan::default());
    let mut log = bad[..7].to_vec();
    log.extend(published(&good)[4..7].iter().map(|line| {
        let mut again = line.clone();
        again.headers.push(HeaderLine {
            name: ATTEMPT_HEADER.to_owned(),
            value: Some(Text::Utf8("2".to_owned())),
        });
        again
    }));
    log.extend(published(&good)[7..].to_vec());
    recording.published = log;
    let compared = compare(&recording, &good, Headers::All);
    assert_eq!(compared.differences, []);
    assert_eq!((compared.same, compared.undone), (9, 3));
}

#[test]
fn the_hosts_own_headers_are_told_from_those_of_another_pipeline() {
    let digest = Digest::of(b"ours");
    let header = |name: &'static str, value: String| Header::new(name, value);
    let foreign = [
        header(PLUGIN_HEADER, "other@1.0.0".into()),
        header(DIGEST_HEADER, Digest::of(b"other").to_string()),
        header(SOURCE_HEADER, "elsewhere/7/9".into()),
    ];
    let mut headers = foreign.to_vec();
    headers.push(header(PLUGIN_HEADER, "ours@1.0.0".into()));
    headers.push(header(DIGEST_HEADER, digest.to_string()));
    headers.push(header(SOURCE_HEADER, "in/3/21".into()));
    let found = provenance(&headers).unwrap();
    assert_eq!(
        (found.partition, found.offset),
        (PartitionId(3), Offset(21))
    );
    assert_eq!((found.digest, found.attempt), (Some(digest), 1));
    headers.push(header(ATTEMPT_HEADER, "2".into()));
    assert_eq!(provenance(&headers).unwrap().attempt, 2);
    assert_eq!(provenance(&[header(SOURCE_HEADER, "in".into())]), None);
    assert_eq!(provenance(&[]), None);
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
