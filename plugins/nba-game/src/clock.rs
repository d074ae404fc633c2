//! The time left in a period, as feeds write it and as a game shows it.

use std::fmt;

/// A reading of the game clock. Feeds write `9:42`, `09:42`, `0:51.6` or
/// `PT09M42.00S`; a game shows each reading in one way, `9:42` or `0:51.6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    minutes: u8,
    seconds: u8,
    tenths: u8,
}

impl Clock {
    /// Reads `M:SS` or `MM:SS`, with up to three decimals of a second, or the
    /// ISO 8601 duration of the same time. Hundredths are cut, for the clock must
    /// not show more time than is left.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        match text.strip_prefix("PT") {
            Some(duration) => Self::of_duration(duration),
            None => {
                let (minutes, seconds) = text.split_once(':')?;
                let whole = seconds.split_once('.').map_or(seconds, |(whole, _)| whole);
                if whole.len() != 2 {
                    return None;
                }
                Self::of(minutes, seconds)
            }
        }
    }

    fn of_duration(duration: &str) -> Option<Self> {
        let (minutes, rest) = duration.split_once('M').unwrap_or(("0", duration));
        match rest.strip_suffix('S') {
            Some(seconds) => Self::of(minutes, seconds),
            None if rest.is_empty() && !duration.is_empty() => Self::of(minutes, "0"),
            None => None,
        }
    }

    fn of(minutes: &str, seconds: &str) -> Option<Self> {
        let (seconds, decimals) = match seconds.split_once('.') {
            Some((seconds, decimals)) if is_number(decimals, 3) => (seconds, decimals),
            Some(_) => return None,
            None => (seconds, "0"),
        };
        if !is_number(minutes, 2) || !is_number(seconds, 2) {
            return None;
        }
        let clock = Self {
            minutes: minutes.parse().ok()?,
            seconds: seconds.parse().ok()?,
            tenths: decimals.get(..1)?.parse().ok()?,
        };
        (clock.seconds < 60).then_some(clock)
    }
}

fn is_number(text: &str, digits_max: usize) -> bool {
    (1..=digits_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            minutes,
            seconds,
            tenths,
        } = self;
        write!(f, "{minutes}:{seconds:02}")?;
        match tenths {
            0 => Ok(()),
            tenths => write!(f, ".{tenths}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn every_way_to_write_a_reading_is_shown_in_one() {
        for (text, shown) in [
            ("9:42", "9:42"),
            ("09:42", "9:42"),
            ("PT09M42.00S", "9:42"),
            ("PT9M42S", "9:42"),
            ("9:42.0", "9:42"),
            ("12:00", "12:00"),
            ("PT12M00.00S", "12:00"),
            ("PT12M", "12:00"),
            ("0:51.6", "0:51.6"),
            ("00:51.60", "0:51.6"),
            ("PT00M51.60S", "0:51.6"),
            ("PT51.6S", "0:51.6"),
            ("0:51.69", "0:51.6"),
            ("0:00.0", "0:00"),
            ("PT00M00.00S", "0:00"),
            ("PT0S", "0:00"),
            ("99:59.999", "99:59.9"),
        ] {
            let clock = Clock::read(text).map(|clock| clock.to_string());
            assert_eq!(clock.as_deref(), Some(shown), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_clock() {
        for text in [
            "",
            ":",
            "9",
            "9:4",
            "9:60",
            "9:421",
            "112:00",
            "-9:42",
            "9:42 ",
            "a:00",
            "9.42",
            "9:42.",
            "9:42.1234",
            "9:4.2",
            "9:+2",
            "+9:42",
            "PT",
            "PTS",
            "PTM",
            "PT9",
            "PT9M42",
            "PT9M60S",
            "PT112M",
            "pt9m",
            "P9M",
            "PT9M42,5S",
            "PT9MS",
            "PT1H",
            "PT9M42S ",
            "٩:٤٢",
        ] {
            assert_eq!(Clock::read(text), None, "{text}");
        }
    }
}
