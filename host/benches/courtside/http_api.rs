//! Over HTTP: acknowledged events a second, and the time from a POST to its
//! server-sent event. The client is in this process, on the same cores.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    runtime::Runtime,
    sync::mpsc,
};

use crate::{
    client::Client,
    load::{self, Line},
    rig::Rig,
};

const CONNECTIONS: usize = 64;

/// 64 connections, one event a request and then 500 in NDJSON, the pipeline
/// processing all the while.
pub fn post() {
    post_with(&[]);
}

pub fn post_with(settings: &[(&str, &str)]) {
    let runtime = Runtime::new().expect("a runtime");
    let lines = load::interleaved(1_000, usize::MAX);
    for (what, events_each, events) in [
        ("one event a request", 1, 200_000),
        ("500 in NDJSON", 500, 450_000),
    ] {
        let rig = Rig::new(false, settings);
        rig.activate();
        let (address, stop) = rig.open(&runtime);
        let took = runtime.block_on(post_all(
            address,
            &lines[..events.min(lines.len())],
            events_each,
        ));
        let events = events.min(lines.len());
        println!(
            "{what}, {CONNECTIONS} connections: {events} events acknowledged in {:.2} s: {:.0} events/s",
            took.as_secs_f64(),
            events as f64 / took.as_secs_f64()
        );
        rig.drain();
        stop.cancel();
        rig.stop();
    }
}

async fn post_all(address: SocketAddr, lines: &[Line], events_each: usize) -> Duration {
    let bodies: Arc<Vec<Vec<u8>>> = Arc::new(
        lines
            .chunks(events_each)
            .map(|chunk| {
                let parts: Vec<&[u8]> = chunk.iter().map(|line| &*line.json).collect();
                parts.join(&b'\n')
            })
            .collect(),
    );
    let next = Arc::new(AtomicUsize::new(0));
    let content_type = if events_each == 1 {
        "application/json"
    } else {
        "application/x-ndjson"
    };
    let started = Instant::now();
    let mut senders = Vec::new();
    for _ in 0..CONNECTIONS {
        let (bodies, next) = (Arc::clone(&bodies), Arc::clone(&next));
        senders.push(tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut tries = 0;
                loop {
                    match client.post(content_type, body).await {
                        200 => break,
                        429 | 503 if tries < 100 => {
                            tries += 1;
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                        status => panic!("answered with {status}"),
                    }
                }
            }
        }));
    }
    for sender in senders {
        sender.await.expect("a sender");
    }
    started.elapsed()
}

const EVENTS_PER_SECOND: u64 = 1_000;
const SECONDS: u64 = 20;

/// The time from the moment a POST is sent to the moment its server-sent event is
/// read, at 1,000 events/s in 1,000 games.
pub fn latency() {
    let runtime = Runtime::new().expect("a runtime");
    let rig = Rig::new(false, &[]);
    rig.activate();
    let (address, stop) = rig.open(&runtime);
    let (seen, sightings) = mpsc::unbounded_channel();
    let sendings = runtime.block_on(async {
        let reader = tokio::spawn(read_events(address, seen));
        tokio::time::sleep(Duration::from_millis(500)).await;
        let sendings = send_steadily(address, steady_lines(SECONDS)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        reader.abort();
        let _ = reader.await;
        sendings
    });
    print_latency("POST to server-sent event", sightings, sendings);
    stop.cancel();
    rig.stop();
}

/// Events of 1,000 games for `seconds` seconds.
pub fn steady_lines(seconds: u64) -> Vec<Line> {
    let events = usize::try_from(EVENTS_PER_SECOND * seconds).expect("a count");
    let mut lines = load::interleaved(1_000, usize::try_from(seconds).expect("a count") + 5);
    lines.truncate(events);
    lines
}

/// An event's game and number.
pub type Name = (String, u64);
pub type Sightings = mpsc::UnboundedReceiver<(Name, Instant)>;

/// Posts 1,000 events a second, and says when each was sent.
pub async fn send_steadily(address: SocketAddr, lines: Vec<Line>) -> Vec<(Name, Instant)> {
    let started = Instant::now();
    let senders = 16;
    let lines = Arc::new(lines);
    let mut tasks = Vec::new();
    for sender in 0..senders {
        let lines = Arc::clone(&lines);
        tasks.push(tokio::spawn(async move {
            let mut sendings = Vec::new();
            let mut client = Client::connect(address).await;
            for (number, line) in lines.iter().enumerate().skip(sender).step_by(senders) {
                let due = Duration::from_micros(number as u64 * 1_000_000 / EVENTS_PER_SECOND);
                tokio::time::sleep_until((started + due).into()).await;
                let at = Instant::now();
                assert_eq!(client.post("application/json", &line.json).await, 200);
                sendings.push((name(&line.json, "seq"), at));
            }
            sendings
        }));
    }
    let mut sendings = Vec::new();
    for task in tasks {
        sendings.extend(task.await.expect("a sender"));
    }
    sendings
}

/// An event counts only if a reader saw an output whose last event it is: a
/// superseded output may be skipped.
pub fn print_latency(what: &str, mut sightings: Sightings, sendings: Vec<(Name, Instant)>) {
    sightings.close();
    let mut first_seen: HashMap<Name, Instant> = HashMap::new();
    while let Ok((name, at)) = sightings.try_recv() {
        first_seen.entry(name).or_insert(at);
    }
    let events = sendings.len();
    let mut histogram: Histogram<u64> = Histogram::new(3).expect("a histogram");
    for (name, at) in sendings {
        if let Some(seen) = first_seen.get(&name) {
            let took = seen.saturating_duration_since(at);
            let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            histogram.record(took).expect("it grows");
        }
    }
    println!(
        "{what} at {EVENTS_PER_SECOND} events/s, {} of {events} seen: p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        histogram.len(),
        histogram.value_at_quantile(0.5) as f64 / 1e3,
        histogram.value_at_quantile(0.9) as f64 / 1e3,
        histogram.value_at_quantile(0.99) as f64 / 1e3,
        histogram.max() as f64 / 1e3,
    );
}

async fn read_events(address: SocketAddr, seen: mpsc::UnboundedSender<(Name, Instant)>) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream
        .write_all(b"GET /events HTTP/1.1\r\nhost: courtside\r\naccept: text/event-stream\r\n\r\n")
        .await
        .expect("sent");
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(data) = line
            .strip_prefix("data: ")
            .or_else(|| line.strip_prefix("data:"))
        {
            let at = Instant::now();
            if seen.send((name(data.as_bytes(), "last_seq"), at)).is_err() {
                return;
            }
        }
    }
}

pub fn name(json: &[u8], number: &str) -> Name {
    let value: serde_json::Value = serde_json::from_slice(json).expect("JSON");
    (
        value["game_id"].as_str().unwrap_or_default().to_owned(),
        value[number].as_u64().unwrap_or_default(),
    )
}
