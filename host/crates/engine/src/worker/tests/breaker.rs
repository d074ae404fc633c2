//! Plugins that go over their limits, and are no longer called.

use super::*;

fn calls_of(bench: &mut Bench, events: &[(&str, &str)]) -> u64 {
    let before = bench.processing.counts.calls;
    bench.events(events);
    bench.commit();
    bench.processing.counts.calls - before
}

/// The value of an event, and the code of the limit that it makes the plugin go over.
const COSTLY: [(&str, &str); 3] = [
    ("loop", "plugin-deadline"),
    ("eat", "plugin-memory"),
    ("flood", "plugin-emitted-too-much"),
];

fn costly_in_each_layout() -> impl Iterator<Item = (usize, (&'static str, &'static str))> {
    COSTLY
        .into_iter()
        .flat_map(|overruns| [(1, overruns), (8, overruns)])
}

#[test]
fn an_entity_that_goes_over_a_limit_again_and_again_is_halted() {
    for (per_instance, (overruns, code)) in costly_in_each_layout() {
        let mut bench = Bench::new(per_instance, 100);
        bench.events(&[("g", "x"), ("g", overruns), ("g", "x"), ("g", overruns)]);
        bench.commit();
        assert_eq!(
            bench.of("g"),
            [
                "in/0/0 a:g:1",
                &format!("in/0/1 {code}"),
                "in/0/2 a:g:2",
                &format!("in/0/3 {code}"),
            ],
            "one that goes well lies between them"
        );
        bench.events(&[("g", overruns), ("g", "x")]);
        bench.commit();
        assert_eq!(
            bench.of("g")[4..],
            ["in/0/4 entity-halted", "in/0/5 entity-halted"]
        );
        assert_eq!(calls_of(&mut bench, &[("g", overruns), ("g", "x")]), 0);
        let halt = bench.checkpoint("g").unwrap().halted.unwrap();
        assert_eq!(halt.code, code);
    }
}

/// A trap costs others little, so only its event is a dead letter, as often as it
/// comes.
#[test]
fn an_entity_that_traps_again_and_again_goes_on() {
    let mut bench = Bench::new(8, 100);
    bench.events(&[("g", "trap"), ("g", "trap"), ("g", "trap"), ("g", "x")]);
    bench.commit();
    assert_eq!(bench.of("g").last().unwrap(), "in/0/3 a:g:1");
}

#[test]
fn a_plugin_that_goes_over_a_limit_for_all_is_not_called_any_more() {
    for (per_instance, (overruns, code)) in costly_in_each_layout() {
        let mut bench = Bench::new(per_instance, 100);
        for key in ["a", "b", "c"] {
            bench.events(&[(key, overruns), (key, overruns)]);
            bench.commit();
        }
        assert_eq!(calls_of(&mut bench, &[("d", overruns), ("e", "x")]), 0);
        assert_eq!(bench.of("d"), ["in/0/6 entity-halted"]);
        assert_eq!(bench.of("e"), ["in/0/7 entity-halted"]);
        let halt = bench.checkpoint("e").unwrap().halted.unwrap();
        assert_eq!(halt.code, code);

        // Another plugin gets its chance.
        bench.swap(SlotName::Default, "good", &["faulty/1"]);
        bench.events(&[("f", overruns)]);
        bench.commit();
        assert_eq!(bench.of("f"), ["in/0/8 good:f:1"]);
    }
}

#[test]
fn one_call_that_goes_well_says_that_it_is_not_the_plugin() {
    let mut bench = Bench::new(8, 100);
    for key in ["a", "b", "c", "d"] {
        bench.events(&[(key, "loop"), (key, "loop")]);
        bench.commit();
        bench.events(&[("fine", "x")]);
        bench.commit();
    }
    assert_eq!(bench.of("fine").len(), 4);
    assert!(bench.of("fine").iter().all(|line| line.contains("a:fine:")));
}

#[test]
fn slots_do_not_answer_for_each_other() {
    let mut bench = Bench::new(8, 100);
    bench.swap(SlotName::of_key(b"own"), "own", &["faulty/1"]);
    for key in ["a", "b", "c"] {
        bench.events(&[(key, "loop"), (key, "loop")]);
        bench.commit();
    }
    bench.events(&[("d", "x"), ("own", "x")]);
    bench.commit();
    assert_eq!(bench.of("d"), ["in/0/6 entity-halted"]);
    assert_eq!(bench.of("own"), ["in/0/7 own:own:1"]);
}

/// An operator who redrives an event wants it tried.
#[test]
fn what_is_redriven_is_tried_all_the_same() {
    let mut bench = Bench::new(8, 100);
    for key in ["a", "b", "c"] {
        bench.events(&[(key, "loop"), (key, "loop")]);
        bench.commit();
    }
    bench.events(&[("d", "x")]);
    bench.commit();
    let mut record = bench.record(Some("d"), "x");
    record.headers.push(mark());
    for (name, value) in [
        (REDRIVE, "0/6"),
        (ORIGIN, "in/0/6"),
        (BEGINS, "1"),
        (UNTIL, "6"),
    ] {
        record.headers.push(Header::new(name, value.to_owned()));
    }
    bench.feed(vec![record]);
    // The redriven event went well, so the plugin gets the events of others, too.
    bench.events(&[("e", "x")]);
    bench.commit();
    assert_eq!(bench.of("d")[1..], ["in/0/7 a:d:1"]);
    assert_eq!(bench.of("e"), ["in/0/8 a:e:1"]);
}

/// The plugin's own state goes wrong at a checkpoint, though its calls go well.
#[test]
fn a_plugin_that_runs_out_of_time_at_checkpoints_is_not_called_any_more() {
    let mut bench = Bench::new(8, 100);
    for key in ["a", "b", "c"] {
        bench.events(&[(key, "stall")]);
        bench.commit();
    }
    assert_eq!(calls_of(&mut bench, &[("d", "x")]), 0);
    assert_eq!(bench.of("d"), ["in/0/3 entity-halted"]);
}

/// An entity whose events are read again and again counts as one.
#[test]
fn what_is_run_again_after_an_abort_counts_once() {
    let mut bench = Bench::new(8, 100);
    for _ in 0..4 {
        let records = ["loop", "loop"].map(|value| bench.record(Some("a"), value));
        let fetched = vec![Fetched {
            partition: P,
            records: records.to_vec(),
        }];
        assert_eq!(bench.processing.process(fetched).unwrap(), []);
        bench.processing.abort();
        bench.next = 0;
    }
    bench.events(&[("b", "x")]);
    bench.commit();
    assert_eq!(bench.of("b"), ["in/0/0 a:b:1"]);
}

/// An event that went well since the last commit stays so, whatever becomes of others.
#[test]
fn what_went_well_is_not_undone_for_others() {
    let mut bench = Bench::new(8, 100);
    bench.events(&[
        ("d", "x"),
        ("a", "loop"),
        ("a", "loop"),
        ("b", "loop"),
        ("b", "loop"),
        ("c", "loop"),
        ("c", "loop"),
    ]);
    bench.events(&[("d", "x")]);
    bench.commit();
    assert_eq!(bench.of("d"), ["in/0/0 a:d:1", "in/0/7 a:d:2"]);
}

/// An instance whose memory is full is made anew, and then processes the event.
#[test]
fn an_event_that_goes_well_in_an_instance_of_its_own_is_no_dead_letter() {
    let mut bench = Bench::new(8, 100);
    bench.events(&[("g", "x")]);
    bench.commit();
    bench.events(&[("g", "trap-when-old")]);
    bench.commit();
    assert_eq!(bench.of("g"), ["in/0/0 a:g:1", "in/0/1 a:g:2"]);
}
