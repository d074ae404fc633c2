//! How a command says what went wrong: in one line, with a stable code, and with what
//! to do about it.

use courtside_client::terminal::say_line;
use courtside_engine::replay::ReplayError;
use courtside_play::PlayError;
use courtside_types::failure::{ErrorCode, code_of};

use super::plain;

/// The text of an error for a person.
#[must_use]
pub fn complaint(error: &anyhow::Error) -> String {
    let mut words = words(error);
    if let Some(advice) = code(error).and_then(advice) {
        words = format!("{words}; {advice}");
    }
    // A host's words may quote an event, whose bytes must not steer the terminal.
    format!("courtside: {}", plain::line(&words))
}

/// The stable code of an error, if it has one.
#[must_use]
pub fn code(error: &anyhow::Error) -> Option<&str> {
    code_of(error).or_else(|| error.chain().find_map(of_part))
}

fn of_part<'e>(cause: &'e (dyn std::error::Error + 'static)) -> Option<&'e str> {
    let of_play = cause.downcast_ref::<PlayError>().map(ErrorCode::code);
    of_play.or_else(|| cause.downcast_ref::<ReplayError>().map(ErrorCode::code))
}

/// An error with its causes, in one line.
#[must_use]
pub fn words(error: &anyhow::Error) -> String {
    in_one_line(&causes(error))
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
        "host-untrusted" => "name the certificates to trust with --cacert, or check --url",
        "bad-url" => "give a URL like http://127.0.0.1:8080",
        "token-required" => "give a token with --token-file or COURTSIDE_TOKEN",
        "token-invalid" => "give a token of this host with --token-file or COURTSIDE_TOKEN",
        "scope-missing" => "give a token with this scope by --token-file or COURTSIDE_TOKEN",
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
    use anyhow::anyhow;
    use courtside_types::{
        coded,
        failure::{Failure, OrFail as _},
    };

    use super::*;

    #[test]
    fn a_complaint_is_one_line_with_a_code_and_what_to_do() {
        let error = Err::<(), _>(std::io::Error::other("no such file"))
            .or_fail("token-unreadable", "/tmp/token")
            .unwrap_err();
        assert_eq!(
            complaint(&error),
            "courtside: token-unreadable: /tmp/token: no such file; \
             put the token into it as `courtside token` printed it"
        );
        let error = coded!("no-such-topic", "audit");
        assert_eq!(complaint(&error), "courtside: no-such-topic: audit");
    }

    /// The code comes from another crate, or from an error of a part.
    #[test]
    fn a_code_from_below_has_its_advice() {
        let config = courtside_process::logging::LoggingConfig {
            filter: "[".to_owned(),
            ..Default::default()
        };
        let error = courtside_process::logging::start(&config).unwrap_err();
        assert_eq!(code(&error), Some("config-invalid"));
        let told = complaint(&error);
        assert!(
            told.ends_with("--dump-config` prints all settings"),
            "{told}"
        );

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("game.courtside");
        std::fs::write(&path, "no archive").unwrap();
        let error = crate::cli::replay::open_export(&path).unwrap_err();
        assert_eq!(code(&error), Some("export-invalid"));
        let told = complaint(&error);
        assert!(
            told.contains(" (in /") && told.ends_with("wrote whole"),
            "{told}"
        );
        assert_eq!(told.matches("export-invalid").count(), 1, "{told}");
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
        let told = complaint(&Failure::new("config-invalid", error.to_string()).into());
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
