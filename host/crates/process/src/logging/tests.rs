//! The log of a process whose standard error is what no process should have: each
//! case runs this test binary again, as the child that logs.

use std::{
    fs::File,
    io::Read as _,
    process::{Child, Command, ExitStatus, Stdio},
};

use super::*;

/// Names what the child does.
const CHILD: &str = "COURTSIDE_TEST_LOGGING";
const LINES: usize = 100;

#[test]
fn child() {
    let Ok(format) = std::env::var(CHILD) else {
        return;
    };
    let config = LoggingConfig {
        format: match &*format {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        },
        filter: "info".to_owned(),
    };
    start(&config).unwrap();
    for number in 0..LINES {
        tracing::info!(number, "a line");
    }
    let panicked = std::thread::spawn(|| panic!("on purpose")).join();
    assert!(panicked.is_err());
    end(Some("the last words"));
    // The child ends here, because the harness would fail to write its own lines.
    std::process::exit(7);
}

fn spawn(format: &str, stderr: Stdio) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "logging::tests::child", "--nocapture"])
        .env(CHILD, format)
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .unwrap()
}

fn ended(mut child: Child) -> ExitStatus {
    child.wait().unwrap()
}

#[test]
fn lines_a_panic_and_the_last_words_are_written_in_order() {
    for format in ["text", "json"] {
        let mut child = spawn(format, Stdio::piped());
        let mut text = String::new();
        let mut stderr = child.stderr.take().unwrap();
        stderr.read_to_string(&mut text).unwrap();
        assert_eq!(ended(child).code(), Some(7), "{text}");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), LINES + 2, "{text}");
        assert!(lines[LINES].contains("on purpose"), "{text}");
        assert_eq!(lines[LINES + 1], "the last words");
    }
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    assert_eq!(ended(spawn("text", full.into())).code(), Some(7));
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    assert_eq!(ended(spawn("json", writer.into())).code(), Some(7));
    // This descriptor can only be read.
    let null = File::open("/dev/null").unwrap();
    assert_eq!(ended(spawn("json", null.into())).code(), Some(7));
}

#[test]
fn what_is_missing_is_told_in_the_format_of_the_log() {
    let text = String::from_utf8(notice(LogFormat::Text, false, 3)).unwrap();
    assert!(
        text.contains("ERROR") && text.contains("log-lines-dropped"),
        "{text}"
    );
    assert!(text.contains("lines=3") && text.ends_with('\n'), "{text}");
    let json: serde_json::Value =
        serde_json::from_slice(&notice(LogFormat::Json, false, 3)).unwrap();
    assert_eq!(json["code"], "log-lines-dropped");
    assert_eq!(json["lines"], 3);
    assert_eq!(json["level"], "ERROR");
}
