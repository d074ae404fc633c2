//! The brokers of a test run.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::OnceLock,
};

/// `HOST:PORT,…`; none where there is no Kafka and none can be started, which
/// is said, and is an error where it is required.
pub(super) fn brokers() -> Option<String> {
    static BROKERS: OnceLock<Result<String, String>> = OnceLock::new();
    match BROKERS.get_or_init(find) {
        Ok(brokers) => Some(brokers.clone()),
        Err(reason) => {
            let required = std::env::var("COURTSIDE_TEST_REQUIRE").unwrap_or_default();
            assert!(
                !required.split_whitespace().any(|suite| suite == "kafka"),
                "kafka is required, and skipped: {reason}"
            );
            println!("kafka: skipped: {reason}");
            None
        }
    }
}

fn find() -> Result<String, String> {
    if let Ok(brokers) = std::env::var("COURTSIDE_TEST_KAFKA") {
        return Ok(brokers);
    }
    let why_not = run("why-not")?;
    if !why_not.is_empty() {
        return Err(why_not);
    }
    let script = script();
    // The test runner ends without telling, so somebody waits for that.
    let watch = format!(
        "while kill -0 {} 2>/dev/null; do sleep 1; done; exec '{}' down",
        std::process::id(),
        script.display(),
    );
    let brokers = run("up")?;
    Command::new("setsid")
        .args(["sh", "-c", &watch])
        .env("COURTSIDE_KAFKA_DIR", dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("nobody would stop it: {error}"))?;
    Ok(brokers)
}

fn script() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/kafka/cluster").into()
}

/// A folder of this process.
fn dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || concat!(env!("CARGO_MANIFEST_DIR"), "/../target").into(),
        PathBuf::from,
    );
    target.join(format!("kafka/test-{}", std::process::id()))
}

fn run(command: &str) -> Result<String, String> {
    let output = Command::new(script())
        .arg(command)
        .env("COURTSIDE_KAFKA_DIR", dir())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(format!("tests/kafka/cluster {command}: {}", reason.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
