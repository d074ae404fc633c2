//! Calls of a well-behaved plugin: its input and its results.

use bytes::Bytes;
use courtside_types::{Digest, Header, failure::ErrorCode as _};

use super::{
    super::{Engine, EngineConfig},
    kit::{Probe, compile, limits, probe_with, process, record},
};
use crate::{Compiler, Event, OpenError, Refusal, SavedState};

#[test]
fn a_plugin_describes_itself() {
    let bytes = probe_with(&[]);
    let plugin = compile(&bytes).unwrap();
    assert_eq!(plugin.digest(), Digest::of(&bytes));
    let description = plugin.description();
    assert_eq!(description.name, "probe");
    assert_eq!(description.version, "1.2.3");
    assert_eq!(description.writes, "probe/1");
    assert_eq!(description.reads, ["probe/1"]);
}

#[test]
fn events_go_in_and_emissions_come_out_in_order() {
    let mut probe = Probe::new();
    let outcome = probe.process(&["A1", "q", "A2"]).unwrap();
    let emitted: Vec<_> = outcome
        .emissions
        .iter()
        .map(|emission| (emission.event, emission.value.clone().unwrap()))
        .collect();
    assert_eq!(emitted, [(0, "A1".into()), (2, "A2".into())]);
    assert_eq!(outcome.refused, None);
    assert!(probe.process(&[]).unwrap().emissions.is_empty());
}

#[test]
fn every_field_of_an_event_and_of_an_emission_passes() {
    let mut probe = Probe::new();
    let mut record = record(5, "h");
    record.headers.push(Header {
        name: "none".into(),
        value: None,
    });
    let tombstone = courtside_types::Record {
        value: None,
        headers: Vec::new(),
        ..record.clone()
    };
    let events = [&tombstone, &record].map(|record| Event { record, seed: 77 });
    let outcome = probe.instance.process(probe.entity, &events).unwrap();

    assert_eq!(outcome.emissions[0].value, Some(Bytes::new()));
    let emission = &outcome.emissions[1];
    assert_eq!(emission.output.as_deref(), Some("board"));
    assert_eq!(emission.headers, record.headers);
    assert_eq!(emission.value, None);
    let mut key = Vec::new();
    for number in [5, record.timestamp_ms, 77] {
        key.extend_from_slice(&number.to_le_bytes());
    }
    assert_eq!(emission.key.as_deref(), Some(&key[..]));
}

#[test]
fn a_refusal_keeps_what_came_before_it() {
    let mut probe = Probe::new();
    let outcome = probe.process(&["A", "r", "B"]).unwrap();
    assert_eq!(outcome.emissions.len(), 1);
    assert_eq!(
        outcome.refused,
        Some(Refusal {
            index: 1,
            reason: "no good".into()
        })
    );
    assert_eq!(probe.answer("C"), "C");
}

#[test]
fn a_checkpoint_opens_again_where_it_stood() {
    let mut probe = Probe::new();
    assert_eq!(probe.instance.checkpoint(probe.entity).unwrap(), None);
    probe.process(&["A", "B"]).unwrap();
    let saved = probe.instance.checkpoint(probe.entity).unwrap().unwrap();
    assert_eq!(
        saved,
        SavedState {
            format: "probe/1".into(),
            state: Bytes::from_static(&[2, 0, 0, 0]),
        }
    );

    let again = probe.instance.open("a", Some(&saved)).unwrap();
    process(&mut *probe.instance, again, &["C"]).unwrap();
    let saved = probe.instance.checkpoint(again).unwrap().unwrap();
    assert_eq!(saved.state[0], 3);
}

#[test]
fn a_plugin_may_refuse_to_open_and_is_well_after_it() {
    let mut probe = Probe::new();
    let bad = SavedState {
        format: "probe/1".into(),
        state: Bytes::from_static(b"12345"),
    };
    assert_eq!(
        probe.instance.open("b", Some(&bad)),
        Err(OpenError::Refused("no good".into()))
    );
    assert_eq!(probe.answer("A"), "A");
}

#[test]
fn closing_runs_the_destructor_and_frees_the_number() {
    let mut probe = Probe::new();
    let other = probe.instance.open("b", None).unwrap();
    assert_ne!(other, probe.entity);
    probe.instance.close(other);
    probe.instance.close(other);
    assert_eq!(&probe.answer("k")[..], 1_u32.to_le_bytes());
    assert_eq!(probe.instance.open("c", None).unwrap(), other);
}

#[test]
fn entities_and_instances_do_not_meet() {
    let plugin = compile(&probe_with(&[])).unwrap();
    let mut one = Probe::of(&*plugin);
    let mut two = Probe::of(&*plugin);
    let neighbour = one.instance.open("b", None).unwrap();
    one.process(&["A", "B", "C"]).unwrap();
    two.process(&["A"]).unwrap();
    assert_eq!(one.instance.checkpoint(neighbour).unwrap(), None);
    let saved = two.instance.checkpoint(two.entity).unwrap().unwrap();
    assert_eq!(saved.state[0], 1);
}

#[test]
fn the_world_outside_stands_still() {
    let plugin = compile(&probe_with(&[])).unwrap();
    let mut first = Probe::of(&*plugin);
    let draw = first.answer("d");
    let (random, clocks) = draw.split_at(8);
    assert_ne!(random, [0; 8]);
    assert_eq!(clocks, [0; 16]);
    assert_eq!(first.answer("d"), draw, "the next draw is the same");
    assert_eq!(Probe::new().answer("d"), draw, "elsewhere, too");
}

#[test]
fn there_is_no_network() {
    // The answer is a result: a byte says that it is an error, and a byte after the
    // padding says which.
    const IS_ERR: u8 = 1;
    const ACCESS_DENIED: u8 = 1;
    let answer = Probe::new().answer("n");
    assert_eq!((answer[0], answer[4]), (IS_ERR, ACCESS_DENIED));
}

#[test]
fn a_plugin_outlives_its_engine() {
    let plugin = compile(&probe_with(&[])).unwrap(); // drops the engine
    let mut probe = Probe::of(&*plugin);
    assert_eq!(probe.answer("A"), "A");
    // The ticker still ticks, so an endless loop is ended.
    assert!(probe.process(&["l"]).is_err());
}

#[test]
fn compiled_code_is_kept_on_disk_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = EngineConfig {
        cache_dir: Some(dir.path().join("compiled")),
        ..EngineConfig::default()
    };
    let bytes = probe_with(&[]);
    for hits in [0, 1] {
        let engine = Engine::new(config.clone()).unwrap();
        let plugin = engine.compile(&bytes, &limits()).unwrap();
        assert_eq!(engine.cache_hits(), hits);
        assert_eq!(Probe::of(&*plugin).answer("A"), "A");
    }
}

#[test]
fn a_cache_that_cannot_be_there_is_an_error_at_the_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = EngineConfig {
        cache_dir: Some(file.path().join("compiled")),
        ..EngineConfig::default()
    };
    let error = Engine::new(config).unwrap_err();
    assert_eq!(error.code(), "plugin-cache-unusable");
}

#[test]
fn compiling_leaves_the_callers_priority_as_it_is() {
    let priority = || rustix::process::getpriority_process(None).unwrap();
    let before = priority();
    compile(&probe_with(&[])).unwrap();
    assert_eq!(priority(), before);
}
