//! The times that brokers take.
//!
//! A topic may bound how far a record's time is behind and ahead of the broker's clock
//! (`message.timestamp.before.max.ms`, `message.timestamp.after.max.ms`). The broker
//! refuses a record beyond, and its whole batch with it. So the first refusal teaches
//! the topic's rule: by this host's clock, a record beyond the bounds gets the time of
//! its append. Where the two clocks differ too much for that, a second refusal teaches
//! to give no time at all: every broker takes such a record, and keeps it by its own
//! clock. The record's header says what the event's time was. A rule is forgotten
//! after a while, since an operator may have widened the bounds or set the clock.

use std::{
    borrow::Cow,
    collections::HashMap,
    time::{Duration, Instant},
};

use courtside_types::{EVENT_TIME_HEADER, Header, NewRecord, Topic, TopicPartition};
use parking_lot::Mutex;

use super::convert::NO_TIME_MS;

/// How long a rule holds.
const RULE_FOR: Duration = Duration::from_secs(600);
/// A time this close to a bound may be beyond it when the broker looks.
const MARGIN_MS_MAX: u64 = 60_000;

/// How far a record's time may be from the broker's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub before_ms: u64,
    pub after_ms: u64,
}

impl Bounds {
    fn take(&self, time_ms: u64, now_ms: u64) -> bool {
        let inner = |bound: u64| bound - (bound / 10).min(MARGIN_MS_MAX);
        time_ms >= now_ms.saturating_sub(inner(self.before_ms))
            && time_ms <= now_ms.saturating_add(inner(self.after_ms))
    }
}

/// How records of a topic are given a time that its brokers take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Within(Bounds),
    Without,
}

impl Rule {
    /// The record with another time; none where its own will do.
    fn settle(self, record: &NewRecord, now_ms: u64) -> Option<NewRecord> {
        let own = record.timestamp_ms;
        let time_ms = match self {
            Self::Without => NO_TIME_MS,
            // The client gives a record of time 0 the time of its append.
            Self::Within(bounds) if own == 0 || bounds.take(own, now_ms) => return None,
            Self::Within(_) => now_ms,
        };
        let mut settled = record.clone();
        settled.timestamp_ms = time_ms;
        let is_told = |header: &Header| &*header.name == EVENT_TIME_HEADER;
        if own != 0 && !settled.headers.iter().any(is_told) {
            settled.headers.push(Header::event_time(own));
        }
        Some(settled)
    }
}

/// A record without a time.
pub(super) fn without_time(record: &NewRecord) -> NewRecord {
    let settled = Rule::Without.settle(record, 0);
    settled.unwrap_or_else(|| record.clone())
}

/// The rules that are in force at a moment.
#[derive(Debug)]
pub(super) struct Rules(HashMap<Topic, Rule>);

impl Rules {
    /// Records with times that the brokers take, as far as the rules tell.
    pub fn settle<'a>(
        &self,
        records: impl Iterator<Item = (&'a TopicPartition, &'a NewRecord)>,
        now_ms: u64,
    ) -> Vec<(&'a TopicPartition, Cow<'a, NewRecord>)> {
        records
            .map(|(place, record)| {
                let rule = self.0.get(&place.topic);
                let settled = rule.and_then(|rule| rule.settle(record, now_ms));
                (place, settled.map_or(Cow::Borrowed(record), Cow::Owned))
            })
            .collect()
    }
}

/// The rules that refusals have taught the host's workers.
#[derive(Debug, Default)]
pub(super) struct Times {
    rules: Mutex<HashMap<Topic, (Rule, Instant)>>,
}

impl Times {
    pub fn rules(&self) -> Rules {
        let mut rules = self.rules.lock();
        rules.retain(|_, (_, since)| since.elapsed() < RULE_FOR);
        let rules = rules.iter();
        Rules(
            rules
                .map(|(topic, (rule, _))| (topic.clone(), *rule))
                .collect(),
        )
    }

    /// Learns that the brokers refused the time that these rules gave a record. False
    /// says that no other time is left to try. `bounds` asks for the topic's bounds.
    pub fn refused(
        &self,
        rules: &Rules,
        topic: &Topic,
        bounds: impl FnOnce() -> Option<Bounds>,
    ) -> bool {
        let used = rules.0.get(topic);
        if self.rules().0.get(topic) != used {
            // Another worker has learnt the rule meanwhile.
            return true;
        }
        let rule = match used {
            Some(Rule::Without) => return false,
            Some(Rule::Within(_)) => Rule::Without,
            None => bounds().map_or(Rule::Without, Rule::Within),
        };
        self.learn(topic, rule);
        true
    }

    /// Learns that the brokers took a record only without a time.
    pub fn took_none(&self, topic: &Topic) {
        self.learn(topic, Rule::Without);
    }

    fn learn(&self, topic: &Topic, rule: Rule) {
        let known = self
            .rules
            .lock()
            .insert(topic.clone(), (rule, Instant::now()));
        if known.is_none_or(|(known, _)| known != rule) {
            let instead = match rule {
                Rule::Within(_) => "the time of their append",
                Rule::Without => "no time",
            };
            tracing::warn!(
                code = "time-refused",
                %topic,
                instead,
                "the brokers refuse the times of records: such a record gets another time, and a header keeps the event's time"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use courtside_types::PartitionId;

    use super::*;

    const NOW: u64 = 1_790_000_000_000;
    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;

    fn settled(times: &Times, topic: &str, time_ms: u64) -> (u64, Vec<Header>) {
        let place = TopicPartition {
            topic: Topic::from(topic),
            partition: PartitionId(0),
        };
        let record = NewRecord {
            timestamp_ms: time_ms,
            key: None,
            headers: Vec::new(),
            value: None,
        };
        let settled = times
            .rules()
            .settle(std::iter::once((&place, &record)), NOW);
        let (_, record) = &settled[0];
        (record.timestamp_ms, record.headers.clone())
    }

    #[test]
    fn a_refusal_teaches_first_the_bounds_and_then_no_time() {
        let topic = Topic::from("t");
        let times = Times::default();
        let old = NOW - 30 * DAY;
        assert_eq!(settled(&times, "t", old), (old, vec![]));
        let bounds = Bounds {
            before_ms: DAY,
            after_ms: HOUR,
        };
        let none = times.rules();
        assert!(times.refused(&none, &topic, || Some(bounds)));
        // A commit that was under way learns this rule, and does not teach the next one.
        assert!(times.refused(&none, &topic, || unreachable!("the rule is known")));
        for (own, expected) in [
            (NOW, NOW),
            (NOW - DAY / 2, NOW - DAY / 2),
            (NOW + HOUR / 2, NOW + HOUR / 2),
            (old, NOW),
            (NOW - DAY, NOW),
            (NOW + HOUR, NOW),
            (NOW * 1000, NOW),
        ] {
            let header = (own != expected).then(|| Header::event_time(own));
            let expected = (expected, Vec::from_iter(header));
            assert_eq!(settled(&times, "t", own), expected, "{own}");
        }
        // The client turns a time of 0 into that of the append.
        assert_eq!(settled(&times, "t", 0), (0, vec![]));
        assert_eq!(settled(&times, "other", old), (old, vec![]));
        let within = times.rules();
        assert!(times.refused(&within, &topic, || unreachable!("the bounds are known")));
        assert_eq!(
            settled(&times, "t", NOW),
            (NO_TIME_MS, vec![Header::event_time(NOW)])
        );
        assert_eq!(settled(&times, "t", 0), (NO_TIME_MS, vec![]));
        assert!(!times.refused(&times.rules(), &topic, || Some(bounds)));
    }

    #[test]
    fn bounds_that_nobody_tells_are_taken_for_none() {
        let times = Times::default();
        assert!(times.refused(&times.rules(), &Topic::from("t"), || None));
        assert_eq!(settled(&times, "t", NOW).0, NO_TIME_MS);
    }

    #[test]
    fn a_record_says_the_time_of_its_event_once() {
        let letter = NewRecord {
            timestamp_ms: NOW,
            key: None,
            headers: vec![Header::event_time(7)],
            value: None,
        };
        assert_eq!(without_time(&letter).headers, [Header::event_time(7)]);
    }

    #[test]
    fn bounds_as_wide_as_can_be_take_all() {
        let bounds = Bounds {
            before_ms: i64::MAX as u64,
            after_ms: i64::MAX as u64,
        };
        assert!(bounds.take(1, NOW) && bounds.take(NOW * 1000, NOW));
        let narrow = Bounds {
            before_ms: 0,
            after_ms: 0,
        };
        assert!(narrow.take(NOW, NOW) && !narrow.take(NOW - 1, NOW));
    }
}
