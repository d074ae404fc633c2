//! Layouts that are recorded, compared and refused.

use std::{
    ops::ControlFlow,
    sync::{Arc, Barrier},
};

use courtside_log::{
    conformance::{append, assigned, deleted, join, record, wait},
    embedded::{Embedded, EmbeddedConfig},
    partitioner::{Method, Partitioner},
};
use courtside_types::Topic;
use serde::Deserialize;
use tempfile::TempDir;

use super::{
    record::{ONLY, READ_BYTES, read_each},
    *,
};
use crate::pipeline::kept::KeptTopic;

const GROUP: &str = "courtside-scores";

fn log() -> (TempDir, Arc<Embedded>) {
    let dir = tempfile::tempdir().unwrap();
    let log = Embedded::open(dir.path(), EmbeddedConfig::default()).unwrap();
    log.ensure_topics(&[deleted(&"in".into(), 8)]).unwrap();
    (dir, log)
}

fn layout(partitioner: &str) -> Layout {
    let partitioner = format!("{{\"partitioner\":{partitioner}}}");
    #[derive(Deserialize)]
    struct Of {
        partitioner: Partitioner,
    }
    Layout {
        input: "in".to_owned(),
        partitions: 8,
        partitioner: serde_json::from_str::<Of>(&partitioner)
            .unwrap()
            .partitioner,
        writes: writes(KeptTopic::table("out"), &[]),
    }
}

fn writes(output: KeptTopic, outputs: &[(&str, KeptTopic)]) -> Writes {
    let outputs = outputs.iter().cloned();
    Writes {
        output,
        outputs: outputs
            .map(|(name, topic)| (name.to_owned(), topic))
            .collect(),
    }
}

fn refused(log: &dyn RecordLog, layout: &Layout) -> String {
    let error = settle(log, GROUP, layout).unwrap_err();
    assert_eq!(error.code(), "pipeline-mismatch", "{error}");
    error.to_string()
}

fn records(log: &dyn RecordLog) -> usize {
    let mut count = 0;
    let topic = format!("{GROUP}{LAYOUT_SUFFIX}").into();
    read_each(log, &topic, ONLY, READ_BYTES, |_| {
        count += 1;
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    count
}

#[test]
fn a_group_keeps_the_layout_that_it_was_created_with() {
    let (_dir, log) = log();
    let first = layout(r#""fnv1a""#);
    for _ in 0..3 {
        settle(&*log, GROUP, &first).unwrap();
    }
    assert_eq!(records(&*log), 1);
    let said = refused(&*log, &layout(r#""murmur2""#));
    assert!(said.contains("was fnv1a, and is murmur2"), "{said}");
    let more = Layout {
        partitions: 9,
        ..first.clone()
    };
    let said = refused(&*log, &more);
    assert!(said.contains("was 8, and is 9"), "{said}");
    let elsewhere = Layout {
        input: "other".to_owned(),
        ..first.clone()
    };
    let said = refused(&*log, &elsewhere);
    assert!(said.contains("was in, and is other"), "{said}");
    // No refused layout was written, and another group has a layout of its own.
    settle(&*log, GROUP, &first).unwrap();
    assert_eq!(records(&*log), 1);
    settle(&*log, "another", &more).unwrap();
}

#[test]
fn a_map_may_grow_by_keys_that_have_no_events_elsewhere() {
    let (_dir, log) = log();
    let topic = Topic::from("in");
    settle(&*log, GROUP, &layout(r#"{"manual":{"a":1}}"#)).unwrap();
    // A key may not move or go, and the fallback may not change.
    let said = refused(&*log, &layout(r#"{"manual":{"a":2}}"#));
    assert!(
        said.contains("\"a\"") && said.contains("was 1, and is 2"),
        "{said}"
    );
    let said = refused(&*log, &layout(r#""murmur2""#));
    assert!(said.contains("\"a\""), "{said}");
    refused(&*log, &layout(r#"{"manual":{"a":1},"fallback":"crc32"}"#));

    let home = Method::Murmur2.partition(b"b", 8);
    let away = (home.0 + 1) % 8;
    append(&*log, &topic, home.0, &["of another key"]);
    settle(
        &*log,
        GROUP,
        &layout(&format!(r#"{{"manual":{{"a":1,"b":{away}}}}}"#)),
    )
    .unwrap();
    assert_eq!(records(&*log), 2);

    let home = Method::Murmur2.partition(b"c", 8);
    let away = (home.0 + 1) % 8;
    let event = vec![(home, record("c", "1"))];
    wait(log.append(&topic, event).unwrap());
    let grown = |partition: u32| {
        let b = (Method::Murmur2.partition(b"b", 8).0 + 1) % 8;
        layout(&format!(
            r#"{{"manual":{{"a":1,"b":{b},"c":{partition}}}}}"#
        ))
    };
    let said = refused(&*log, &grown(away));
    assert!(said.contains("\"c\""), "{said}");
    // The map may have the key in the partition where it is anyway.
    settle(&*log, GROUP, &grown(home.0)).unwrap();
    // A host with the map from before is refused.
    refused(&*log, &layout(r#"{"manual":{"a":1}}"#));
}

#[test]
fn outputs_change_while_no_host_of_the_group_runs() {
    let (_dir, log) = log();
    let base = layout(r#""murmur2""#);
    let of = |writes| Layout {
        writes,
        ..base.clone()
    };
    let (table, stream) = (KeptTopic::table("out"), KeptTopic::stream("out"));
    let alerts = |topic: &str| ("alerts", KeptTopic::table(topic));
    let first = of(writes(table.clone(), &[alerts("a")]));
    settle(&*log, GROUP, &first).unwrap();
    let mut member = join(&*log, GROUP, &"in".into(), 0, 1);
    assigned(&mut *member, 8);
    settle(&*log, GROUP, &first).unwrap();
    for (other, words) in [
        (
            writes(KeptTopic::table("o"), &[alerts("a")]),
            "output was out (keep = \"latest\"), and is o (keep = \"latest\")",
        ),
        (
            writes(stream, &[alerts("a")]),
            "output was out (keep = \"latest\"), and is out (keep = \"all\")",
        ),
        (
            writes(table.clone(), &[]),
            "outputs.alerts was a (keep = \"latest\"), and is not configured",
        ),
        (
            writes(
                table.clone(),
                &[alerts("a"), ("more", KeptTopic::stream("m"))],
            ),
            "outputs.more was not configured, and is m (keep = \"all\")",
        ),
    ] {
        let said = refused(&*log, &of(other));
        assert!(said.contains(words), "{said}");
        assert!(said.contains("stop all of them"), "{said}");
    }
    assert_eq!(records(&*log), 1);
    drop(member);
    let other = of(writes(KeptTopic::table("o"), &[alerts("b")]));
    settle(&*log, GROUP, &other).unwrap();
    assert_eq!(records(&*log), 2);
    // A host that joined meanwhile with the outputs from before learns of it.
    let said = Watch::new(GROUP, first).other(&*log).unwrap().unwrap();
    assert!(said.contains("outputs.alerts was a"), "{said}");
    // A change of the outputs lets no other part of the layout change with it.
    let moved = Layout {
        partitions: 9,
        ..base.clone()
    };
    let said = refused(&*log, &moved);
    assert!(said.contains("was 8, and is 9"), "{said}");
}

#[test]
fn a_group_is_looked_for_where_its_state_is() {
    let (_dir, log) = log();
    let here = |input, partitions| check(&*log, GROUP, input, partitions);
    here("other", 3).unwrap();
    let topic = super::topic(GROUP);
    log.ensure_topics(&[topic]).unwrap();
    here("other", 3).unwrap();
    settle(&*log, GROUP, &layout(r#""fnv1a""#)).unwrap();
    here("in", 8).unwrap();
    for (input, partitions, words) in [
        ("other", 8, "was in, and is other"),
        ("in", 9, "was 8, and is 9"),
    ] {
        let error = here(input, partitions).unwrap_err();
        assert_eq!(error.code(), "pipeline-mismatch", "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_running_host_learns_of_another_layout() {
    let (_dir, log) = log();
    let own = layout(r#"{"manual":{"a":1}}"#);
    settle(&*log, GROUP, &own).unwrap();
    let watch = Watch::new(GROUP, own);
    for _ in 0..2 {
        assert_eq!(watch.other(&*log), Ok(None));
    }
    let home = Method::Murmur2.partition(b"b", 8);
    let away = (home.0 + 1) % 8;
    let grown = layout(&format!(r#"{{"manual":{{"a":1,"b":{away}}}}}"#));
    settle(&*log, GROUP, &grown).unwrap();
    for _ in 0..2 {
        let said = watch.other(&*log).unwrap().unwrap();
        assert!(said.contains("\"b\""), "{said}");
    }
    assert_eq!(Watch::new(GROUP, grown).other(&*log), Ok(None));
}

#[test]
fn reading_ends_where_it_is_enough() {
    let (_dir, log) = log();
    let topic = Topic::from("in");
    append(&*log, &topic, 0, &["1", "2", "3"]);
    let mut offsets = Vec::new();
    read_each(&*log, &topic, ONLY, 1, |record| {
        offsets.push(record.offset.0);
        Ok(if record.offset.0 == 1 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })
    .unwrap();
    assert_eq!(offsets, [0, 1]);
}

#[test]
fn of_hosts_that_start_at_once_one_wins() {
    for round in 0..10 {
        let (_dir, log) = log();
        let start = Barrier::new(4);
        let layouts = [r#""murmur2""#, r#""fnv1a""#, r#""crc32""#, r#""random""#].map(layout);
        let settled: Vec<bool> = std::thread::scope(|scope| {
            let hosts = layouts.each_ref().map(|layout| {
                scope.spawn(|| {
                    start.wait();
                    settle(&*log, GROUP, layout).is_ok()
                })
            });
            hosts.map(|host| host.join().unwrap()).to_vec()
        });
        let winners = settled.iter().filter(|settled| **settled).count();
        assert_eq!(winners, 1, "round {round}: {settled:?}");
        let again = layouts
            .iter()
            .map(|layout| settle(&*log, GROUP, layout).is_ok());
        assert!(again.eq(settled.iter().copied()), "round {round}");
    }
}

#[test]
fn what_is_no_layout_is_not_passed_over() {
    let (_dir, log) = log();
    settle(&*log, GROUP, &layout(r#""murmur2""#)).unwrap();
    let topic = format!("{GROUP}{LAYOUT_SUFFIX}").into();
    append(&*log, &topic, 0, &["{}"]);
    let error = settle(&*log, GROUP, &layout(r#""murmur2""#)).unwrap_err();
    assert_eq!(error.code(), "log-corrupt", "{error}");
}
