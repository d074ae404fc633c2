//! Halted entities, and the redriven events that have them go on.

use courtside_types::SOURCE_HEADER;

use super::*;

/// An event as a redrive appends it, with the offset that it had first. `begins` marks
/// the first event of the redrive, and `until` the last one.
fn redriven(
    bench: &mut Bench,
    (key, value): (&str, &str),
    origin: u64,
    begins: bool,
    until: Option<u64>,
) -> Record {
    let mut record = bench.record(Some(key), value);
    record.headers.push(mark());
    let mut add = |name: &'static str, value: String| {
        record.headers.push(Header::new(name, value));
    };
    add(REDRIVE, format!("0/{origin}"));
    add(ORIGIN, format!("in/0/{origin}"));
    if begins {
        add(BEGINS, "1".to_owned());
    }
    if let Some(until) = until {
        add(UNTIL, until.to_string());
    }
    record
}

/// An entity that halted at offset 1, with another dead letter at 2.
fn halted(entities_per_instance: usize) -> Bench {
    let mut bench = Bench::new(entities_per_instance, 100);
    bench.events(&[("g", "x")]);
    bench.commit();
    bench.events(&[("g", "poison"), ("g", "x")]);
    bench.commit();
    assert_eq!(
        bench.of("g"),
        [
            "in/0/0 a:g:1",
            "in/0/1 entity-halted",
            "in/0/2 entity-halted"
        ]
    );
    let halt = bench.checkpoint("g").unwrap().halted.unwrap();
    assert_eq!((halt.newest, halt.is_blocked), (Offset(2), true));
    bench
}

#[test]
fn a_halt_is_over_when_all_that_it_kept_back_was_redriven() {
    for commits in [false, true] {
        let mut bench = halted(8);
        bench.swap(SlotName::Default, "good", &["faulty/1"]);
        let first = redriven(&mut bench, ("g", "poison"), 1, true, None);
        bench.feed(vec![first]);
        if commits {
            bench.commit();
            assert!(bench.checkpoint("g").unwrap().halted.is_some());
        }
        let second = redriven(&mut bench, ("g", "x"), 2, false, Some(2));
        bench.feed(vec![second]);
        bench.events(&[("g", "x")]);
        bench.commit();
        assert_eq!(
            bench.of("g")[3..],
            ["in/0/3 good:g:2", "in/0/4 good:g:3", "in/0/5 good:g:4"]
        );
        assert_eq!(bench.checkpoint("g").unwrap().halted, None);
    }
}

#[test]
fn what_comes_meanwhile_waits_for_its_turn() {
    let mut bench = halted(8);
    bench.swap(SlotName::Default, "good", &["faulty/1"]);
    bench.events(&[("g", "x")]);
    let first = redriven(&mut bench, ("g", "poison"), 1, true, None);
    let second = redriven(&mut bench, ("g", "x"), 2, false, Some(2));
    bench.feed(vec![first, second]);
    bench.events(&[("g", "x")]);
    bench.commit();
    assert_eq!(
        bench.of("g")[3..],
        [
            "in/0/3 entity-halted",
            "in/0/4 good:g:2",
            "in/0/5 good:g:3",
            "in/0/6 entity-halted"
        ]
    );
    let third = redriven(&mut bench, ("g", "x"), 3, true, None);
    let fourth = redriven(&mut bench, ("g", "x"), 6, false, Some(6));
    bench.feed(vec![third, fourth]);
    bench.events(&[("g", "x")]);
    bench.commit();
    assert_eq!(
        bench.of("g")[7..],
        ["in/0/7 good:g:4", "in/0/8 good:g:5", "in/0/9 good:g:6"]
    );
}

/// The plugin fails again at a redriven event. Later events are dead letters, redriven
/// or not, until another redrive begins.
#[test]
fn a_redriven_event_that_fails_keeps_back_those_after_it() {
    for per_instance in [1, 8] {
        let mut bench = halted(per_instance);
        let first = redriven(&mut bench, ("g", "poison"), 1, true, None);
        let second = redriven(&mut bench, ("g", "x"), 2, false, Some(2));
        bench.feed(vec![first, second]);
        bench.commit();
        let third = redriven(&mut bench, ("g", "x"), 2, false, Some(2));
        bench.feed(vec![third]);
        bench.commit();
        assert_eq!(
            bench.of("g")[3..],
            [
                "in/0/3 entity-halted",
                "in/0/4 entity-halted",
                "in/0/5 entity-halted"
            ]
        );
        let letter = bench.committed.last().unwrap();
        assert_eq!(
            header(letter, ORIGIN).unwrap(),
            "in/0/2",
            "the first origin"
        );
        let halt = bench.checkpoint("g").unwrap().halted.unwrap();
        assert_eq!((halt.newest, halt.is_blocked), (Offset(2), true));
        bench.swap(SlotName::Default, "good", &["faulty/1"]);
        let first = redriven(&mut bench, ("g", "poison"), 1, true, None);
        let second = redriven(&mut bench, ("g", "x"), 2, false, Some(2));
        bench.feed(vec![first, second]);
        bench.commit();
        assert_eq!(bench.of("g")[6..], ["in/0/6 good:g:2", "in/0/7 good:g:3"]);
        assert_eq!(bench.checkpoint("g").unwrap().halted, None);
    }
}

/// An event that is refused, or that traps, has had its turn.
#[test]
fn a_redriven_event_that_is_a_letter_of_its_own_ends_a_halt_too() {
    for (value, code) in [("refuse", "event-refused"), ("trap", "plugin-trap")] {
        let mut bench = halted(8);
        let first = redriven(&mut bench, ("g", value), 1, true, None);
        let second = redriven(&mut bench, ("g", value), 2, false, Some(2));
        bench.feed(vec![first, second]);
        bench.events(&[("h", "x"), ("g", "x")]);
        bench.commit();
        assert_eq!(
            bench.of("g")[3..],
            [
                format!("in/0/3 {code}"),
                format!("in/0/4 {code}"),
                "in/0/6 a:g:2".to_owned()
            ]
        );
        assert_eq!(bench.of("h"), ["in/0/5 a:h:1"]);
        assert_eq!(bench.checkpoint("g").unwrap().halted, None);
    }
}

/// A neighbour's failure sends the entity back to the last commit in the middle of a
/// redrive.
#[test]
fn a_neighbours_trap_changes_nothing_of_a_redrive() {
    let mut bench = halted(8);
    bench.swap(SlotName::Default, "good", &["faulty/1"]);
    bench.events(&[("g", "x")]);
    let first = redriven(&mut bench, ("g", "poison"), 1, true, None);
    let second = redriven(&mut bench, ("g", "x"), 2, false, None);
    let third = redriven(&mut bench, ("g", "x"), 3, false, Some(3));
    bench.feed(vec![first, second, third]);
    bench.events(&[("g", "x"), ("h", "x"), ("h", "trap"), ("g", "x")]);
    bench.commit();
    assert_eq!(
        bench.of("g")[3..],
        [
            "in/0/3 entity-halted",
            "in/0/4 good:g:2",
            "in/0/5 good:g:3",
            "in/0/6 good:g:4",
            "in/0/7 good:g:5",
            "in/0/10 good:g:6"
        ]
    );
    assert_eq!(bench.of("h"), ["in/0/8 good:h:1", "in/0/9 plugin-trap"]);
}

/// The entity does not go on, but its partition does.
#[test]
fn a_halted_entity_that_the_plugin_cannot_read_stops_nobody() {
    let mut bench = halted(8);
    bench.swap(SlotName::Default, "b", &["faulty/2"]);
    let first = redriven(&mut bench, ("g", "x"), 1, true, Some(2));
    assert_eq!(bench.feed(vec![first]), []);
    bench.events(&[("h", "x")]);
    bench.commit();
    assert_eq!(bench.of("g")[3..], ["in/0/3 entity-halted"]);
    assert_eq!(bench.of("h"), ["in/0/4 b:h:1"]);
    let envelope = bench.checkpoint("g").unwrap();
    assert_eq!(envelope.halted.unwrap().code, "plugin-cannot-read");
    assert_eq!(envelope.saved.unwrap().state.as_ref(), 1_u64.to_le_bytes());
}

/// A refused event was not processed, so a redrive brings it to the plugin again.
#[test]
fn a_refused_event_is_redriven_among_others() {
    let mut bench = Bench::new(8, 100);
    bench.events(&[("g", "refuse"), ("g", "x")]);
    bench.commit();
    let again = redriven(&mut bench, ("g", "x"), 0, true, Some(0));
    bench.feed(vec![again]);
    bench.commit();
    assert_eq!(
        bench.of("g"),
        ["in/0/0 event-refused", "in/0/1 a:g:1", "in/0/2 a:g:2"]
    );
    assert_eq!(
        header(&bench.committed[2], SOURCE_HEADER).unwrap(),
        "in/0/2"
    );
}

/// A rollback has processed events of the entity again. Their dead letters from before
/// are void, so redriving them does nothing.
#[test]
fn letters_that_a_rollback_has_undone_are_not_processed() {
    use crate::worker::{envelope::Redone, redriven::MADE_OF};
    let mut bench = Bench::new(8, 100);
    bench.events(&[("g", "refuse"), ("g", "x"), ("g", "x"), ("g", "refuse")]);
    bench.commit();
    let mut envelope = bench.checkpoint("g").unwrap();
    envelope.redone = vec![Redone {
        from: Offset(0),
        until: Offset(3),
        attempt: 2,
    }];
    let key = Bytes::from_static(b"g");
    bench.memory.apply(&Commit {
        checkpoints: vec![(P, key, Some(envelope.encode()))],
        ..Commit::default()
    });
    bench.processing.activate(&SlotName::of_key(b"g"), None);
    let mut of = |origin: u64, attempt: u32| {
        let mut record = redriven(&mut bench, ("g", "x"), origin, true, Some(origin));
        let made_of = format!("{origin}/{attempt}");
        record.headers.push(Header::new(MADE_OF, made_of));
        bench.feed(vec![record]);
    };
    of(0, 1);
    of(0, 2);
    of(3, 1);
    bench.commit();
    assert_eq!(
        bench.of("g")[4..],
        ["in/0/5 a:g:3", "in/0/6 a:g:4"],
        "processed again, and not once more"
    );
    assert_eq!(bench.checkpoint("g").unwrap().redone, envelope.redone);
}
