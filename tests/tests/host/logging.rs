//! A host whose log, or whose standard output, nobody can read.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::mpsc,
    time::Duration,
};

use courtside_tests::{Engine, Host, Place, until};
use reqwest::Method;
use rustix::process::Signal;

use super::point;

/// Reads the number of dropped lines from the figures, because the log cannot
/// tell it.
async fn dropped(host: &Host, reason: &str) -> u64 {
    let text = host.get("/metrics").await.body;
    let series = format!("courtside_logging_lines_dropped_total{{reason=\"{reason}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&series));
    value.expect("the figure").parse().expect("a count")
}

/// Lines are dropped, and the host takes events and ends as any other.
async fn goes_on(mut host: Host, reason: &str) {
    host.answers().await;
    let long = format!("/plugins/scores/default/confirm?{}", "x".repeat(8_000));
    until("lines to be dropped", || async {
        // Each request makes two lines of the log, which have all of its query.
        host.operate(Method::POST, &long, "").await;
        match dropped(&host, reason).await {
            0 => Err(host.get("/healthz").await.body),
            count => Ok(count),
        }
    })
    .await;
    host.accepts("/score", &point("LAL-BOS", 1)).await;
    host.terminate();
    let status = host.ended().await;
    assert!(status.success(), "{status}");
}

fn full() -> File {
    File::options()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full")
}

pub async fn a_disk_that_is_full_below_the_log_ends_no_host(_: Engine) {
    let place = Place::new().with_fixed_port().set("logging.format", "text");
    // With the text format, the host greets people on standard output.
    goes_on(place.spawn_onto(full().into(), full().into()), "unwritable").await;
}

pub async fn a_pipe_without_a_reader_ends_no_host(_: Engine) {
    let place = Place::new().with_fixed_port().set("logging.format", "text");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let out = writer.try_clone().expect("its end").into();
    goes_on(place.spawn_onto(out, writer.into()), "unwritable").await;
}

pub async fn a_pipe_that_nobody_drains_holds_no_host_up(_: Engine) {
    let place = Place::new().with_fixed_port().set("logging.format", "text");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let out = writer.try_clone().expect("its end").into();
    goes_on(place.spawn_onto(out, writer.into()), "unread").await;
    drop(reader);
}

pub async fn a_reader_that_comes_back_is_told_what_is_missing(_: Engine) {
    let place = Place::new().with_fixed_port();
    let path = place.path("log");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("mkfifo").success());
    // Each end waits for the other to open the pipe.
    let reading = path.clone();
    let reader = std::thread::spawn(move || File::open(reading));
    let writer = File::options().write(true).open(&path).expect("the pipe");
    let reader = reader.join().expect("a thread").expect("the pipe");
    let host = place.spawn_onto(Stdio::null(), writer.into());
    host.answers().await;
    drop(reader);
    until("a line to be lost", || async {
        host.signal(Signal::HUP);
        match dropped(&host, "unwritable").await {
            0 => Err("none yet".to_owned()),
            count => Ok(count),
        }
    })
    .await;

    let (said, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let log = BufReader::new(File::open(path).expect("the pipe"));
        for line in log.lines().map_while(Result::ok) {
            let _ = said.send(line);
        }
    });
    let told = until("the host to tell what is missing", || async {
        host.signal(Signal::HUP);
        let line = lines.recv_timeout(Duration::from_millis(100));
        let line = line.map_err(|error| error.to_string())?;
        let event: serde_json::Value =
            serde_json::from_str(&line).map_err(|error| format!("{line}: {error}"))?;
        if event["code"] == "log-lines-dropped" {
            Ok(event)
        } else {
            Err(line)
        }
    })
    .await;
    assert!(told["lines"].as_u64() >= Some(1), "{told}");
    host.stop().await;
}
