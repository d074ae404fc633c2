//! `GET /games/{id}` over connections that are kept, the host in a process of
//! its own and the client in this one, on the same cores.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::runtime::Runtime;

use crate::{client::Client, load, process::Process};

const GAMES: u64 = 13;
const EVENTS_EACH: usize = 300;
const CONNECTIONS: usize = 64;
const SECONDS: u64 = 10;

pub fn reads() {
    let runtime = Runtime::new().expect("a runtime");
    let host = Process::start(&runtime);
    let games = runtime.block_on(play(&host));
    for (what, headers) in [("as it is", ""), ("gzip", "accept-encoding: gzip\r\n")] {
        let requests: Vec<_> = games
            .iter()
            .map(|game| format!("GET /games/{game} HTTP/1.1\r\nhost: x\r\n{headers}\r\n"))
            .collect();
        let before = host.cpu();
        let started = Instant::now();
        let (histogram, bytes) = runtime.block_on(read_all(&host, &requests));
        let took = started.elapsed().as_secs_f64();
        println!(
            "GET /games/ID, {what}, {CONNECTIONS} connections, {} bytes each: {:.0} reads/s, p50 {:.2} ms, p99 {:.2} ms; the host had {:.2} of {} cores",
            bytes / histogram.len(),
            histogram.len() as f64 / took,
            histogram.value_at_quantile(0.5) as f64 / 1e3,
            histogram.value_at_quantile(0.99) as f64 / 1e3,
            (host.cpu() - before).as_secs_f64() / took,
            std::thread::available_parallelism().map_or(0, usize::from),
        );
    }
}

/// Plays the first `EVENTS_EACH` events of each game, and returns the games' ids.
async fn play(host: &Process) -> Vec<String> {
    let lines = load::interleaved(GAMES, EVENTS_EACH);
    let events: Vec<&[u8]> = lines.iter().map(|line| &*line.json).collect();
    let mut client = Client::connect(host.address).await;
    let status = client
        .post("application/x-ndjson", &events.join(&b'\n'))
        .await;
    assert_eq!(status, 200);
    let mut games: Vec<String> = lines.iter().map(|line| line.game.to_string()).collect();
    games.sort();
    games.dedup();
    for game in &games {
        let request = format!("GET /games/{game} HTTP/1.1\r\nhost: x\r\n\r\n");
        let whole = format!("\"events\":{EVENTS_EACH}");
        while client.ask(request.as_bytes()).await != 200
            || !String::from_utf8_lossy(client.body()).contains(&whole)
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    games
}

/// Reads all the time; returns how long each read took, and how many bytes came.
async fn read_all(host: &Process, requests: &[String]) -> (Histogram<u64>, u64) {
    let ends = Instant::now() + Duration::from_secs(SECONDS);
    let mut readers = Vec::new();
    for reader in 0..CONNECTIONS {
        let address = host.address;
        let requests = requests.to_vec();
        readers.push(tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            let mut histogram: Histogram<u64> = Histogram::new(3).expect("a histogram");
            let mut bytes = 0;
            for request in requests.iter().cycle().skip(reader) {
                let asked = Instant::now();
                if asked >= ends {
                    break;
                }
                assert_eq!(client.ask(request.as_bytes()).await, 200);
                let took = u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX);
                histogram.record(took).expect("it grows");
                bytes += client.body().len() as u64;
            }
            (histogram, bytes)
        }));
    }
    let mut all: Histogram<u64> = Histogram::new(3).expect("a histogram");
    let mut bytes = 0;
    for reader in readers {
        let (histogram, read) = reader.await.expect("a reader");
        all.add(histogram).expect("it grows");
        bytes += read;
    }
    (all, bytes)
}
