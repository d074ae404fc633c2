//! The script that runs real brokers. The record log's own tests have this file, too.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

/// `HOST:PORT,…` of a cluster that all tests of this process share: the one
/// that `COURTSIDE_TEST_KAFKA` names, or one that this process starts. Where
/// there is none, the function says so and returns `None`.
///
/// # Panics
/// If a broker that should start does not, or Kafka is required.
#[must_use]
pub fn shared() -> Option<String> {
    static SHARED: OnceLock<Option<String>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        named().or_else(|| match why_not() {
            None => Some(up(&dir("shared"), 1, &[])),
            Some(why_not) => {
                println!("kafka: skipped: {why_not}");
                None
            }
        })
    });
    shared.clone()
}

/// The cluster that somebody started for the tests.
#[must_use]
pub fn named() -> Option<String> {
    std::env::var("COURTSIDE_TEST_KAFKA").ok()
}

/// Why no brokers can be started here.
///
/// # Panics
/// If no brokers can be started, and `COURTSIDE_TEST_REQUIRE` says that they
/// must.
#[must_use]
pub fn why_not() -> Option<&'static str> {
    static WHY_NOT: OnceLock<String> = OnceLock::new();
    let why_not = WHY_NOT.get_or_init(|| run(&dir("none"), &["why-not"]));
    let required = std::env::var("COURTSIDE_TEST_REQUIRE").unwrap_or_default();
    assert!(
        why_not.is_empty() || !required.split_whitespace().any(|suite| suite == "kafka"),
        "kafka is required, and skipped: {why_not}"
    );
    (!why_not.is_empty()).then_some(why_not)
}

/// Starts `count` brokers, whose files are in a folder of their own. They end
/// with this process, if not before.
///
/// # Panics
/// If the brokers do not start.
#[must_use]
pub fn up(dir: &Path, count: u32, options: &[&str]) -> String {
    let count = count.to_string();
    let mut arguments = vec!["up", "--brokers", &count];
    arguments.extend(options);
    let brokers = run(dir, &arguments);
    // The test runner does not tell anybody when it ends, so a process waits
    // for its end.
    let watch = format!(
        "while kill -0 {} 2>/dev/null; do sleep 1; done; exec '{}' down",
        std::process::id(),
        script().display(),
    );
    let watching = Command::new("setsid")
        .args(["--fork", "sh", "-c", &watch])
        .env("COURTSIDE_KAFKA_DIR", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("somebody who stops the brokers");
    assert!(watching.success(), "nobody would stop the brokers");
    brokers
}

/// A folder for the files of brokers of this process.
#[must_use]
pub fn dir(name: &str) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join(format!("kafka/test-{}-{name}", std::process::id()))
}

/// Runs a command of the script that must succeed, and returns its output.
///
/// # Panics
/// If the command fails, with the reason.
#[must_use]
pub fn run(dir: &Path, arguments: &[&str]) -> String {
    let output = output(dir, arguments);
    assert!(
        output.status.success(),
        "tests/kafka/cluster {arguments:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Runs a command of the script to its end.
///
/// # Panics
/// If the script cannot be started.
#[must_use]
pub fn output(dir: &Path, arguments: &[&str]) -> Output {
    // Brokers that live for minutes are faster with the quick compiler alone.
    let options = std::env::var("COURTSIDE_KAFKA_OPTS");
    let options = options.unwrap_or_else(|_| "-XX:TieredStopAtLevel=1".to_owned());
    Command::new(script())
        .args(arguments)
        .env("COURTSIDE_KAFKA_DIR", dir)
        .env("COURTSIDE_KAFKA_OPTS", options)
        .stdin(Stdio::null())
        .output()
        .expect("the script of the brokers")
}

fn script() -> PathBuf {
    root().join("tests/kafka/cluster")
}

/// The repository. Crates at different depths have this file.
fn root() -> PathBuf {
    let mut dirs = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let root = dirs.find(|dir| dir.join("Cargo.lock").exists());
    root.expect("the repository").to_owned()
}
