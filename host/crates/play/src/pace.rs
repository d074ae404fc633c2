//! When an event is due, and which events go out together.
//!
//! All of it is arithmetic on times given from outside: nothing here reads a
//! clock or waits.

use std::time::Duration;

use bytes::Bytes;

const QUARTERS: u32 = 4;
const QUARTER_MS: u32 = 12 * 60 * 1000;
const OVERTIME_MS: u32 = 5 * 60 * 1000;

/// No request grows beyond this, however long its events: a host limits the
/// size of a body.
const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Time played in a game, breaks between periods left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GameTime {
    ms: u32,
}

impl GameTime {
    /// The time played when `period` (from 1) shows `clock`, the time left in
    /// it: `9:42`, `0:03.4`, `58.1` or `PT09M42.00S`. None where they cannot be read.
    pub(super) fn at(period: u32, clock: &str) -> Option<Self> {
        let earlier = period.checked_sub(1)?;
        let overtimes = earlier.saturating_sub(QUARTERS);
        let start = QUARTER_MS * earlier.min(QUARTERS) + OVERTIME_MS.checked_mul(overtimes)?;
        let length = if period <= QUARTERS {
            QUARTER_MS
        } else {
            OVERTIME_MS
        };
        let left = clock_ms(clock)?.min(length);
        let ms = start.checked_add(length - left)?;
        Some(Self { ms })
    }
}

fn clock_ms(clock: &str) -> Option<u32> {
    let (clock, separator) = match clock.strip_prefix("PT") {
        Some(duration) => (duration.strip_suffix('S').unwrap_or(duration), 'M'),
        None => (clock, ':'),
    };
    let (minutes, seconds) = match clock.split_once(separator) {
        Some((minutes, "")) if separator == 'M' => (minutes.parse::<u32>().ok()?, "0"),
        Some((minutes, seconds)) => (minutes.parse::<u32>().ok()?, seconds),
        None => (0, clock),
    };
    let seconds: f64 = seconds.parse().ok()?;
    if !(0.0..60.0).contains(&seconds) {
        return None;
    }
    // The check above keeps the seconds from 0 to below 60, so the cast loses
    // nothing.
    let ms = (seconds * 1000.0).round() as u32;
    minutes.checked_mul(60_000)?.checked_add(ms)
}

/// An event as it goes over the wire.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) bytes: Bytes,
    /// None where the event does not say; it then goes with the one before it.
    pub(super) at: Option<GameTime>,
}

/// How many times faster than the game clock events go out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed(f64);

impl std::str::FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<f64>() {
            Ok(factor) if (0.001..=1e6).contains(&factor) => Ok(Self(factor)),
            _ => Err("must be a number from 0.001 to 1000000; 1 is real time".to_owned()),
        }
    }
}

/// Turns the times of one game's events, in their order, into times since the
/// game's first event went out. A clock that goes back (a correction in the
/// source) holds nothing up and lets nothing go early.
#[derive(Debug)]
struct Pace {
    speed: Option<Speed>,
    first: Option<GameTime>,
    due: Duration,
}

impl Pace {
    fn due(&mut self, at: Option<GameTime>) -> Duration {
        if let (Some(Speed(factor)), Some(at)) = (self.speed, at) {
            let first = *self.first.get_or_insert(at);
            let played_s = f64::from(at.ms.saturating_sub(first.ms)) / 1000.0;
            // The quotient stays in range: 50 days of milliseconds over a speed of
            // 0.001 at least.
            let due = Duration::try_from_secs_f64(played_s / factor).unwrap_or(Duration::MAX);
            self.due = self.due.max(due);
        }
        self.due
    }
}

/// Cuts one game's events into requests.
#[derive(Debug)]
pub(super) struct Chunks<S> {
    script: S,
    /// The next event, and when it is due.
    ahead: Option<(Line, Duration)>,
    pace: Pace,
    events_max: usize,
}

impl<S, E> Chunks<S>
where
    S: Iterator<Item = Result<Line, E>>,
{
    /// Without a speed, every event is due at once.
    pub(super) fn new(script: S, speed: Option<Speed>, events_max: usize) -> Self {
        Self {
            script,
            ahead: None,
            pace: Pace {
                speed,
                first: None,
                due: Duration::ZERO,
            },
            events_max,
        }
    }

    /// When the next event is due, counted from the start of the game; None
    /// after the last.
    pub(super) fn due(&mut self) -> Result<Option<Duration>, E> {
        if self.ahead.is_none()
            && let Some(line) = self.script.next().transpose()?
        {
            let due = self.pace.due(line.at);
            self.ahead = Some((line, due));
        }
        Ok(self.ahead.as_ref().map(|(_, due)| *due))
    }

    /// The events that are due by now, as many as one request may carry. Events at
    /// one clock reading are due together, as are events that piled up while the host
    /// was away.
    pub(super) fn take(&mut self, now: Duration) -> Result<Vec<Line>, E> {
        let mut chunk = Vec::new();
        let mut bytes: usize = 0;
        while chunk.len() < self.events_max && self.due()?.is_some_and(|due| due <= now) {
            if let Some((line, due)) = self.ahead.take() {
                bytes = bytes.saturating_add(line.bytes.len() + 1);
                if bytes > CHUNK_BYTES_MAX && !chunk.is_empty() {
                    self.ahead = Some((line, due));
                    break;
                }
                chunk.push(line);
            }
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn seconds(period: u32, clock: &str) -> Option<f64> {
        GameTime::at(period, clock).map(|time| f64::from(time.ms) / 1000.0)
    }

    #[test]
    fn the_clock_goes_down_and_periods_add_up() {
        assert_eq!(seconds(1, "12:00"), Some(0.0));
        assert_eq!(seconds(1, "9:42"), Some(138.0));
        assert_eq!(seconds(1, "0:00"), Some(720.0));
        assert_eq!(seconds(2, "12:00"), Some(720.0));
        assert_eq!(seconds(4, "0:00"), Some(2880.0));
        assert_eq!(seconds(5, "5:00"), Some(2880.0));
        assert_eq!(seconds(5, "0:30"), Some(3150.0));
        assert_eq!(seconds(6, "5:00"), Some(3180.0));
        assert_eq!(seconds(2, "0:03.4"), Some(1436.6));
        assert_eq!(seconds(2, "58.5"), Some(1381.5));
        assert_eq!(seconds(1, "PT09M42.00S"), Some(138.0));
        assert_eq!(seconds(1, "PT12M"), Some(0.0));
        assert_eq!(seconds(2, "PT00M03.40S"), Some(1436.6));
        assert_eq!(seconds(2, "PT58.5S"), Some(1381.5));
    }

    #[test]
    fn a_clock_that_cannot_be_read_is_no_time() {
        for (period, clock) in [
            (0, "1:00"),
            (1, ""),
            (1, "a:10"),
            (1, "1:60"),
            (1, "1:-5"),
            (1, "1:NaN"),
            (1, "PT1M60S"),
            (1, "PT1:00S"),
            (u32::MAX, "1:00"),
            (1, "99999999999:00"),
        ] {
            assert_eq!(GameTime::at(period, clock), None, "{period} {clock}");
        }
        // A clock reading beyond the length of the period counts as its beginning.
        assert_eq!(seconds(5, "11:00"), Some(2880.0));
    }

    #[test]
    fn speeds_are_positive_and_finite() {
        assert_eq!("2.5".parse(), Ok(Speed(2.5)));
        for text in ["0", "-1", "NaN", "inf", "fast", ""] {
            assert!(text.parse::<Speed>().is_err(), "{text}");
        }
    }

    fn script(clocks: &[(u32, &str)]) -> impl Iterator<Item = Result<Line, Infallible>> {
        clocks
            .iter()
            .map(|(period, clock)| {
                Ok(Line {
                    bytes: Bytes::from(format!("{period} {clock}")),
                    at: GameTime::at(*period, clock),
                })
            })
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// The events that go out at each moment, if the caller wakes whenever the next
    /// is due.
    fn played(
        clocks: &[(u32, &str)],
        speed: Option<Speed>,
        events_max: usize,
    ) -> Vec<(u64, Vec<String>)> {
        let mut chunks = Chunks::new(script(clocks), speed, events_max);
        let mut out = Vec::new();
        while let Ok(Some(due)) = chunks.due() {
            let Ok(lines) = chunks.take(due);
            let texts = lines
                .iter()
                .map(|line| String::from_utf8_lossy(&line.bytes).into_owned())
                .collect();
            out.push((u64::try_from(due.as_millis()).unwrap(), texts));
        }
        out
    }

    fn owned(chunks: &[(u64, &[&str])]) -> Vec<(u64, Vec<String>)> {
        chunks
            .iter()
            .map(|(due, texts)| (*due, texts.iter().map(|text| (*text).to_owned()).collect()))
            .collect()
    }

    const GAME: &[(u32, &str)] = &[
        (1, "12:00"),
        (1, "11:40"),
        (1, "11:40"),
        (1, "0:00"),
        (2, "12:00"),
        (2, "11:59"),
    ];

    #[test]
    fn events_of_one_clock_reading_go_out_together() {
        assert_eq!(
            played(GAME, Some(Speed(10.0)), 100),
            owned(&[
                (0, &["1 12:00"]),
                (2_000, &["1 11:40", "1 11:40"]),
                (72_000, &["1 0:00", "2 12:00"]),
                (72_100, &["2 11:59"]),
            ])
        );
    }

    #[test]
    fn without_a_speed_only_the_batch_cuts() {
        assert_eq!(
            played(GAME, None, 4),
            owned(&[
                (0, &["1 12:00", "1 11:40", "1 11:40", "1 0:00"]),
                (0, &["2 12:00", "2 11:59"]),
            ])
        );
    }

    #[test]
    fn a_clock_going_back_or_missing_goes_with_the_event_before() {
        let game = &[
            (1, "11:00"),
            (1, "10:00"),
            (1, "10:30"),
            (1, "?"),
            (1, "9:59"),
        ];
        assert_eq!(
            played(game, Some(Speed(1.0)), 100),
            owned(&[
                (0, &["1 11:00"]),
                (60_000, &["1 10:00", "1 10:30", "1 ?"]),
                (61_000, &["1 9:59"]),
            ])
        );
    }

    #[test]
    fn what_piled_up_goes_out_together() {
        let mut chunks = Chunks::new(script(GAME), Some(Speed(1.0)), 100);
        let Ok(lines) = chunks.take(Duration::from_secs(720));
        assert_eq!(lines.len(), 5);
        let Ok(lines) = chunks.take(Duration::from_secs(720));
        assert!(lines.is_empty());
        let Ok(due) = chunks.due();
        assert_eq!(due, Some(Duration::from_secs(721)));
    }

    #[test]
    fn a_request_is_bounded_in_bytes_but_carries_one_event() {
        let large = || {
            Ok::<_, Infallible>(Line {
                bytes: Bytes::from(vec![b' '; CHUNK_BYTES_MAX]),
                at: None,
            })
        };
        let mut chunks = Chunks::new([large(), large()].into_iter(), None, 100);
        for _ in 0..2 {
            let Ok(lines) = chunks.take(Duration::ZERO);
            assert_eq!(lines.len(), 1);
        }
        let Ok(due) = chunks.due();
        assert_eq!(due, None);
    }
}
