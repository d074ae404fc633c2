//! How a command says what went wrong: in one line, with a stable code, and with what
//! to do about it.

use courtside_client::terminal::say_line;

use super::plain;

/// The text of an error for a person.
#[must_use]
pub fn complaint(error: &anyhow::Error) -> String {
    let mut words = in_one_line(&causes(error));
    let code = words.split_once(": ").map_or("", |(code, _)| code);
    if let Some(advice) = advice(code) {
        words = format!("{words}; {advice}");
    }
    // A host's words may quote an event, whose bytes must not steer the terminal.
    format!("courtside: {}", plain::line(&words))
}

/// Prints an error for a person.
pub fn complain(error: &anyhow::Error) {
    say_line(&complaint(error));
}

/// Joins an error and its causes, but leaves out a cause that the text already names.
fn causes(error: &anyhow::Error) -> String {
    let mut words = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if words.is_empty() {
            words = cause;
        } else if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

/// Joins lines into one, without the picture that a parser draws of a file's line.
fn in_one_line(text: &str) -> String {
    let is_drawn = |line: &&str| {
        let rest = line
            .trim_start()
            .trim_start_matches(|c: char| c.is_ascii_digit());
        rest.trim_start().starts_with('|')
    };
    let lines = text.lines().filter(|line| !is_drawn(line));
    let words: Vec<_> = lines.flat_map(str::split_whitespace).collect();
    words.join(" ")
}

/// The operator's next step for codes whose words cannot name it. `docs/errors.md` has all codes.
fn advice(code: &str) -> Option<&'static str> {
    Some(match code {
        "host-unreachable" => "start the host, or say with --url where it is",
        "host-untrusted" => "name with --cacert whose word to take, or check --url",
        "bad-url" => "say one like http://127.0.0.1:8080",
        "token-required" => "show one with --token-file or COURTSIDE_TOKEN",
        "token-invalid" => "show one of this host with --token-file or COURTSIDE_TOKEN",
        "scope-missing" => "show one that has it with --token-file or COURTSIDE_TOKEN",
        "token-unreadable" => "put the token into it as `courtside token` printed it",
        "cacert-unreadable" => "name a PEM file with the root certificates of the host",
        "config-invalid" => "`courtside serve --dump-config` prints all settings",
        "file-unreadable"
        | "plugin-file-unreadable"
        | "play-file-unreadable"
        | "export-unwritable" => "check the path and its permissions",
        "export-invalid" => "name a file that `courtside export` wrote whole",
        "output-unwritable" => "make room, or write elsewhere",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};
    use courtside_play::PlayError;

    use super::*;

    #[test]
    fn a_complaint_is_one_line_with_a_code_and_what_to_do() {
        let error = anyhow!("no such file").context("token-unreadable: /tmp/token");
        assert_eq!(
            complaint(&error),
            "courtside: token-unreadable: /tmp/token: no such file; \
             put the token into it as `courtside token` printed it"
        );
        let error = anyhow!("no-such-topic: audit");
        assert_eq!(complaint(&error), "courtside: no-such-topic: audit");
    }

    #[test]
    fn a_cause_is_told_once() {
        let source = std::io::Error::other("it burns");
        let error = PlayError::Unreadable {
            path: "games".into(),
            source,
        };
        let told = complaint(&error.into());
        assert_eq!(told.matches("it burns").count(), 1, "{told}");
    }

    #[test]
    fn a_parser_draws_no_picture() {
        let error = toml::from_str::<toml::Table>("a = 1\nx = [\n").unwrap_err();
        let told = complaint(&Err::<(), _>(error).context("config-invalid").unwrap_err());
        assert!(
            told.starts_with("courtside: config-invalid: TOML parse error at line 2"),
            "{told}"
        );
        assert!(!told.contains(['\n', '|', '^']), "{told}");
        assert!(
            told.ends_with("; `courtside serve --dump-config` prints all settings"),
            "{told}"
        );
    }

    #[test]
    fn nothing_in_a_complaint_moves_the_cursor() {
        let told = complaint(&anyhow!("invalid-field: a\u{1b}[2Jb\nc"));
        assert_eq!(told, "courtside: invalid-field: a\\u{1b}[2Jb c");
    }
}
