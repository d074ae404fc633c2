//! The ways in which feeds write the time left in a period. The scoring plugins
//! read the same ones, so an accepted event is never refused for its clock.

/// Whether a text is `M:SS` or `MM:SS` with up to three decimals of a second,
/// or the ISO 8601 duration of the same time.
pub(super) fn is_clock(text: &str) -> bool {
    match text.strip_prefix("PT") {
        Some(duration) => is_duration(duration),
        None => text.split_once(':').is_some_and(|(minutes, seconds)| {
            let two_digits = seconds
                .split('.')
                .next()
                .is_some_and(|whole| whole.len() == 2);
            is_number(minutes, 2) && two_digits && is_seconds(seconds)
        }),
    }
}

fn is_duration(duration: &str) -> bool {
    match duration.split_once('M') {
        Some((minutes, "")) => is_number(minutes, 2),
        Some((minutes, seconds)) => {
            is_number(minutes, 2) && seconds.strip_suffix('S').is_some_and(is_seconds)
        }
        None => duration.strip_suffix('S').is_some_and(is_seconds),
    }
}

fn is_seconds(text: &str) -> bool {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let below_sixty = whole.len() == 1 || whole < "60";
    is_number(whole, 2) && below_sixty && is_number(decimals, 3)
}

fn is_number(text: &str, digits_max: usize) -> bool {
    (1..=digits_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::is_clock;

    #[test]
    fn clocks_as_feeds_write_them() {
        for clock in [
            "0:00",
            "9:42",
            "09:42",
            "12:00",
            "10:59",
            "99:00",
            "0:51.6",
            "00:51.60",
            "9:42.0",
            "99:59.999",
            "PT09M42.00S",
            "PT9M42S",
            "PT12M",
            "PT12M00.00S",
            "PT51.6S",
            "PT0S",
        ] {
            assert!(is_clock(clock), "{clock}");
        }
        for clock in [
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
            assert!(!is_clock(clock), "{clock}");
        }
    }
}
