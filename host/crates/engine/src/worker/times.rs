//! The times of the records that a commit appends.
//!
//! An output has the time of its event, so that a replay makes the same record. Where
//! that time would not do, the record has the time of its commit, and the header
//! [`EVENT_TIME_HEADER`] has the event's own. A dead letter always has the time of its
//! commit: its topic's retention counts from when the event became one.

use courtside_types::{EVENT_TIME_HEADER, Header, NewRecord};

/// How far the time of an event may be ahead of this host's clock. Brokers refuse
/// records that are an hour ahead of theirs, unless a topic says otherwise, and the
/// two clocks may differ. Retention would wait for such a record as well.
pub const AHEAD_MAX_MS: u64 = 30 * 60 * 1000;

/// Gives an output the time of its commit if the event's time is 0 or too far ahead.
pub fn settle_output(output: &mut NewRecord, now_ms: u64) {
    let own = output.timestamp_ms;
    if own == 0 || own > now_ms.saturating_add(AHEAD_MAX_MS) {
        output.headers.push(Header::event_time(own));
        output.timestamp_ms = now_ms;
    }
}

/// Gives a dead letter, whose headers have its event's time, the time at which it
/// becomes one.
pub const fn settle_letter(letter: &mut NewRecord, now_ms: u64) {
    letter.timestamp_ms = now_ms;
}

/// Gives a record back the time of its event: a replay's records must not depend on
/// when it runs.
pub fn take_back(record: &mut NewRecord) {
    let headers = &record.headers;
    let told = headers
        .iter()
        .rposition(|header| &*header.name == EVENT_TIME_HEADER);
    let Some(told) = told else { return };
    let header = record.headers.remove(told);
    let own = header
        .value
        .as_deref()
        .and_then(|text| str::from_utf8(text).ok());
    if let Some(own) = own.and_then(|text| text.parse().ok()) {
        record.timestamp_ms = own;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000_000;

    #[test]
    fn an_output_keeps_the_time_of_its_event_where_that_will_do() {
        let (years_ago, soon, hours_ahead) = (1, NOW + AHEAD_MAX_MS, NOW + 7_200_000);
        let microseconds = NOW * 1000;
        for (own, settled) in [
            (NOW, NOW),
            (years_ago, years_ago),
            (soon, soon),
            (soon + 1, NOW),
            (hours_ahead, NOW),
            (microseconds, NOW),
            (u64::MAX, NOW),
            // An event without a time.
            (0, NOW),
        ] {
            let mut output = NewRecord {
                timestamp_ms: own,
                key: None,
                headers: Vec::new(),
                value: None,
            };
            settle_output(&mut output, NOW);
            assert_eq!(output.timestamp_ms, settled, "{own}");
            let expected = (own != settled).then(|| Header::event_time(own));
            assert_eq!(output.headers, Vec::from_iter(expected), "{own}");
            take_back(&mut output);
            assert_eq!((output.timestamp_ms, output.headers.len()), (own, 0));
        }
    }
}
