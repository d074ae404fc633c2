//! Many readers of few games: the host in a process of its own, all readers in
//! this one, on the same cores.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use flate2::{Decompress, FlushDecompress};
use hdrhistogram::Histogram;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    runtime::Runtime,
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{client::Client, http_api::name, load, process::Process};

const SUBSCRIBERS: usize = 10_000;
const GAMES: usize = 13;
/// Events of each game before any reader comes, so that outputs have their size.
const PLAYED: usize = 200;
const EVERY: Duration = Duration::from_millis(500);
/// Events of each game while nobody looks, and while all do.
const ALONE: usize = 20;
const WATCHED: usize = 60;
/// Readers that come at a time.
const COMING: usize = 200;
/// One in this many of the readers with a compressed stream reads the stream.
const INFLATED: usize = 20;
const SETTLED: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Gzip,
    WebSocket,
}

pub fn plain() {
    run(Kind::Plain);
}

pub fn gzip() {
    run(Kind::Gzip);
}

pub fn websocket() {
    run(Kind::WebSocket);
}

/// The state of a game that its readers and its sender share.
struct Match {
    game: String,
    /// When each event was sent, by its number, in microseconds after the start.
    sent: Vec<AtomicU64>,
}

struct Clock {
    started: Instant,
    matches: Vec<Match>,
    bytes: AtomicU64,
}

fn run(kind: Kind) {
    raise_descriptors();
    let runtime = Runtime::new().expect("a runtime");
    let host = Process::start(&runtime);
    let all = PLAYED + ALONE + WATCHED;
    let mut lines = vec![Vec::new(); GAMES];
    for (number, line) in load::interleaved(GAMES as u64, all).into_iter().enumerate() {
        lines[number % GAMES].push(line.json);
    }
    let matches = lines.iter().map(|lines| Match {
        game: name(&lines[0], "seq").0,
        sent: (0..=all).map(|_| AtomicU64::new(0)).collect(),
    });
    let clock = Arc::new(Clock {
        started: Instant::now(),
        matches: matches.collect(),
        bytes: AtomicU64::new(0),
    });
    let post = |from, to, every| {
        runtime.block_on(post_all(host.address, &clock, &lines, from..to, every));
        std::thread::sleep(SETTLED);
    };
    post(0, PLAYED, Duration::ZERO);
    post(PLAYED, PLAYED + ALONE, EVERY);
    let alone_kb = host.resident_kb();

    let stop = CancellationToken::new();
    let came = Instant::now();
    let mut readers = runtime.block_on(subscribe(host.address, kind, &clock, &stop));
    let came = came.elapsed();
    std::thread::sleep(SETTLED);
    let idle_kb = host.resident_kb();
    clock.bytes.store(0, Ordering::Relaxed);

    let (cpu, watched) = (host.cpu(), Instant::now());
    post(PLAYED + ALONE, all, EVERY);
    let cores = (host.cpu() - cpu).as_secs_f64() / watched.elapsed().as_secs_f64();
    let watched_kb = host.resident_kb();
    stop.cancel();

    let mut sightings = vec![Vec::new(); GAMES];
    runtime.block_on(async {
        while let Some(reader) = readers.join_next().await {
            if let Some((game, seen)) = reader.expect("a reader") {
                sightings[game].push(seen);
            }
        }
    });
    let each = |kb: u64| kb.saturating_sub(alone_kb) as f64 / SUBSCRIBERS as f64;
    println!(
        "{kind:?}: {SUBSCRIBERS} subscribers to one of {GAMES} games each came in {:.1} s; {} events posted at {:.0}/s",
        came.as_secs_f64(),
        GAMES * WATCHED,
        GAMES as f64 / EVERY.as_secs_f64(),
    );
    println!(
        "memory: {alone_kb} KB without them, {idle_kb} KB with them there, {watched_kb} KB after the load: {:.1} KB and {:.1} KB a subscriber",
        each(idle_kb),
        each(watched_kb),
    );
    println!(
        "the host had {cores:.2} of {} cores; {:.0} bytes an event and reader on the wire",
        std::thread::available_parallelism().map_or(0, usize::from),
        clock.bytes.load(Ordering::Relaxed) as f64 / (SUBSCRIBERS * WATCHED) as f64,
    );
    if kind != Kind::WebSocket {
        print_deliveries(&clock, &sightings);
    }
}

/// An event and when it was seen, in microseconds after the start.
type Sighting = (usize, u64);

/// Prints what became of each watched event, for each of its readers.
fn print_deliveries(clock: &Clock, sightings: &[Vec<Vec<Sighting>>]) {
    let last = PLAYED + ALONE + WATCHED;
    let mut from_post: Histogram<u64> = Histogram::new(3).expect("a histogram");
    let mut from_first = from_post.clone();
    let (mut expected, mut superseded) = (0, 0);
    for (game, readers) in clock.matches.iter().zip(sightings) {
        for seq in last - WATCHED + 1..=last {
            let seen = readers.iter().flatten().filter(|(seen, _)| *seen == seq);
            let seen: Vec<u64> = seen.map(|(_, at)| *at).collect();
            expected += readers.len();
            let Some(first) = seen.iter().min() else {
                superseded += 1;
                continue;
            };
            let sent = game.sent[seq].load(Ordering::Acquire);
            for at in &seen {
                from_post.record(at - sent).expect("it grows");
                from_first.record(at - first).expect("it grows");
            }
        }
        let have_last = readers
            .iter()
            .filter(|seen| seen.iter().any(|(seq, _)| *seq == last));
        assert_eq!(
            have_last.count(),
            readers.len(),
            "the last of {}",
            game.game
        );
    }
    println!(
        "{} of {expected} deliveries seen; {superseded} events were superseded before any reader saw them",
        from_post.len(),
    );
    for (what, delays) in [
        ("from POST sent to event read", from_post),
        ("from its first reader to each other one", from_first),
    ] {
        println!(
            "{what}: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            delays.value_at_quantile(0.5) as f64 / 1e3,
            delays.value_at_quantile(0.9) as f64 / 1e3,
            delays.value_at_quantile(0.99) as f64 / 1e3,
            delays.max() as f64 / 1e3,
        );
    }
}

/// Raises the limit on descriptors: each reader has a connection.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("as many as there may be");
    let needed = SUBSCRIBERS as u64 + 200;
    assert!(
        limit.maximum.is_none_or(|most| most >= needed),
        "{needed} file descriptors are needed here, and as many in the host (ulimit -Hn)"
    );
}

/// Posts the games' events by turns, one event of each game per `every`.
async fn post_all(
    address: SocketAddr,
    clock: &Arc<Clock>,
    lines: &[Vec<bytes::Bytes>],
    events: std::ops::Range<usize>,
    every: Duration,
) {
    let starts = Instant::now();
    let mut posting = JoinSet::new();
    for (number, lines) in lines.iter().enumerate() {
        let clock = Arc::clone(clock);
        let lines = lines[events.clone()].to_vec();
        let starts = starts + every * u32::try_from(number).expect("few") / GAMES as u32;
        posting.spawn(async move {
            let mut client = Client::connect(address).await;
            for (turn, line) in (0..).zip(lines) {
                tokio::time::sleep_until((starts + every * turn).into()).await;
                let seq = usize::try_from(name(&line, "seq").1).expect("a number");
                let now = clock.started.elapsed().as_micros();
                let now = u64::try_from(now).expect("a time");
                clock.matches[number].sent[seq].store(now, Ordering::Release);
                assert_eq!(client.post("application/json", &line).await, 200);
            }
        });
    }
    while let Some(posted) = posting.join_next().await {
        posted.expect("posted");
    }
}

type Readers = JoinSet<Option<(usize, Vec<Sighting>)>>;

/// All readers, once each has got the output of its game. A reader that reads its
/// stream ends with the game and the events that it saw.
async fn subscribe(
    address: SocketAddr,
    kind: Kind,
    clock: &Arc<Clock>,
    stop: &CancellationToken,
) -> Readers {
    let coming = Arc::new(Semaphore::new(COMING));
    let there = Arc::new(Semaphore::new(0));
    let mut readers = JoinSet::new();
    for number in 0..SUBSCRIBERS {
        let (clock, stop) = (Arc::clone(clock), stop.clone());
        let (coming, there) = (Arc::clone(&coming), Arc::clone(&there));
        readers.spawn(async move {
            let permit = coming.acquire_owned().await.expect("a turn");
            let game = number % GAMES;
            let mut seen = Vec::new();
            let reading = async {
                let stream = open(address, kind, &clock.matches[game].game).await;
                let reader = Reader {
                    stream: BufReader::with_capacity(4096, stream),
                    clock: &clock,
                };
                let begun = || {
                    there.add_permits(1);
                    drop(permit);
                };
                match kind {
                    Kind::Plain => reader.read(&mut seen, begun).await,
                    Kind::Gzip if number % INFLATED == 0 => {
                        reader.inflate(&mut seen, begun).await;
                    }
                    Kind::Gzip | Kind::WebSocket => reader.count(begun).await,
                }
                panic!("a stream ended by itself");
            };
            tokio::select! {
                () = reading => {}
                () = stop.cancelled() => {}
            }
            let reads = kind == Kind::Plain || kind == Kind::Gzip && number % INFLATED == 0;
            reads.then_some((game, seen))
        });
    }
    let all = u32::try_from(SUBSCRIBERS).expect("a number");
    let _ = there.acquire_many(all).await.expect("all are there");
    readers
}

async fn open(address: SocketAddr, kind: Kind, game: &str) -> TcpStream {
    let (path, headers) = match kind {
        Kind::Plain => ("events", ""),
        Kind::Gzip => ("events", "accept-encoding: gzip\r\n"),
        Kind::WebSocket => (
            "ws",
            "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
        ),
    };
    let request = format!("GET /games/{game}/{path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream
}

struct Reader<'a> {
    stream: BufReader<TcpStream>,
    clock: &'a Clock,
}

impl Reader<'_> {
    async fn read(mut self, seen: &mut Vec<Sighting>, begun: impl FnOnce()) {
        let mut begun = Some(begun);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = self.stream.read_until(b'\n', &mut line).await;
            let read = read.expect("a line");
            if read == 0 {
                return;
            }
            self.clock.bytes.fetch_add(read as u64, Ordering::Relaxed);
            if let Some(data) = line.strip_prefix(b"data: ") {
                match begun.take() {
                    Some(begun) => begun(),
                    None => seen.push(self.sighting(data)),
                }
            }
        }
    }

    async fn inflate(mut self, seen: &mut Vec<Sighting>, begun: impl FnOnce()) {
        let mut begun = Some(begun);
        let mut inflater = Decompress::new(false);
        let mut head = String::new();
        while head.trim_end() != "" || head.is_empty() {
            head.clear();
            self.stream.read_line(&mut head).await.expect("a head");
        }
        let mut text: Vec<u8> = Vec::new();
        let mut is_first = true;
        loop {
            let mut chunk = String::new();
            self.stream.read_line(&mut chunk).await.expect("a length");
            let length = usize::from_str_radix(chunk.trim_end(), 16).expect("a length");
            let mut bytes = vec![0; length + 2];
            self.stream.read_exact(&mut bytes).await.expect("a chunk");
            self.clock
                .bytes
                .fetch_add((chunk.len() + bytes.len()) as u64, Ordering::Relaxed);
            // The ten bytes that a gzip file begins with.
            let skipped = if std::mem::take(&mut is_first) { 10 } else { 0 };
            text.reserve(64 * 1024);
            inflater
                .decompress_vec(&bytes[skipped..length], &mut text, FlushDecompress::Sync)
                .expect("a part of a stream");
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                if let Some(data) = line.strip_prefix(b"data: ") {
                    match begun.take() {
                        Some(begun) => begun(),
                        None => seen.push(self.sighting(data)),
                    }
                }
            }
        }
    }

    async fn count(mut self, begun: impl FnOnce()) {
        let mut begun = Some(begun);
        let mut seen = 0;
        loop {
            let read = self.stream.fill_buf().await.expect("bytes").len();
            if read == 0 {
                return;
            }
            self.stream.consume(read);
            self.clock.bytes.fetch_add(read as u64, Ordering::Relaxed);
            // More than 500 bytes are more than the head of the answer.
            seen += read;
            if seen > 500
                && let Some(begun) = begun.take()
            {
                begun();
            }
        }
    }

    /// The last event of an output, seen now.
    fn sighting(&self, data: &[u8]) -> Sighting {
        let now = self.clock.started.elapsed().as_micros();
        let seq = last_seq(data).expect("a number");
        (seq, u64::try_from(now).expect("a time"))
    }
}

/// The number of the last event of an output. It is close to the end.
fn last_seq(data: &[u8]) -> Option<usize> {
    const FIELD: &[u8] = b"\"last_seq\":";
    let at = data.windows(FIELD.len()).rposition(|part| part == FIELD)?;
    let number = data[at + FIELD.len()..].split(|byte| !byte.is_ascii_digit());
    std::str::from_utf8(number.into_iter().next()?)
        .ok()?
        .parse()
        .ok()
}
