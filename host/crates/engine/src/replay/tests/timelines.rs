//! Timelines: the plugin that ran at each event.

use super::*;

fn stretches(timeline: &Timeline) -> Vec<(u64, Digest)> {
    let stretches = timeline.0.iter();
    stretches
        .map(|Stretch { from, digest }| (from.0, *digest))
        .collect()
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
