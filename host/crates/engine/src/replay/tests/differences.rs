//! A replay beside the records that were published.

use super::*;

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
    let fewer = super::super::compare::compare(&recording(&case, all), &now[..4], Headers::All);
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
