//! Readers of streams like those of fans: their connections are cut at any
//! moment, and they come back to any host with the last id that they had.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flate2::write::GzDecoder;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use reqwest::{StatusCode, header::CONTENT_ENCODING};
use serde::Deserialize;
use tokio::task::JoinSet;

/// How long a connection lasts, in milliseconds.
const LASTS_MS: std::ops::Range<u64> = 20..1_500;
/// Wait after a host that does not answer, or whose stream ends.
const RETRY_WAIT: Duration = Duration::from_millis(100);

/// Readers at work; dropped, they are gone.
#[derive(Debug)]
pub struct Readers {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    http: reqwest::Client,
    urls: Vec<String>,
    cuts: AtomicBool,
    readers: Vec<Mutex<Reader>>,
}

/// A reader, and the states that it has seen.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    /// The only game that the reader follows; `None` stands for all games.
    pub game: Option<String>,
    takes_gzip: bool,
    last_id: Option<String>,
    last_url: usize,
    /// The latest state of each game: how many events it counts, and its bytes.
    latest: BTreeMap<String, (u64, String)>,
    tally: Tally,
    /// States that were older than one seen before.
    went_back: Vec<String>,
}

/// The counts of one reader or of all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub connections: u64,
    pub cuts: u64,
    /// Connections to another host than the one before.
    pub hops: u64,
    pub states: u64,
    /// Events of a game that were never seen as its latest.
    pub skipped: u64,
    /// States seen again.
    pub again: u64,
}

/// The fields of an output that tell how far it is.
#[derive(Deserialize)]
struct Output {
    game_id: String,
    events: u64,
}

impl Readers {
    /// Starts `all` readers of all games, and one reader of each of `games`.
    /// Every other reader takes gzip. The seed decides about hosts and cuts.
    #[must_use]
    pub fn start(urls: Vec<String>, all: usize, games: &[String], seed: u64) -> Self {
        let of_all = (0..all).map(|_| None);
        let of_one = games.iter().cloned().map(Some);
        let readers = of_all.chain(of_one).enumerate().map(|(number, game)| {
            Mutex::new(Reader {
                game,
                takes_gzip: number % 2 == 1,
                ..Reader::default()
            })
        });
        let shared = Arc::new(Shared {
            http: reqwest::Client::builder()
                .no_proxy()
                .build()
                .expect("an http client"),
            urls,
            cuts: AtomicBool::new(true),
            readers: readers.collect(),
        });
        let mut tasks = JoinSet::new();
        for number in 0..shared.readers.len() {
            let shared = Arc::clone(&shared);
            let rng = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
            tasks.spawn(async move { shared.read(number, rng).await });
        }
        Self { shared, tasks }
    }

    /// Cuts no connection from now on.
    pub fn calm(&self) {
        self.shared.cuts.store(false, Ordering::Relaxed);
    }

    /// Compares the states that readers have by now with the states that every
    /// reader must have in the end.
    ///
    /// # Errors
    /// Names a reader that does not have them yet.
    ///
    /// # Panics
    /// If a reader saw a game go back, or has ended.
    pub fn have(&mut self, wanted: &BTreeMap<String, String>) -> Result<Tally, String> {
        if let Some(ended) = self.tasks.try_join_next() {
            panic!("a reader ended: {ended:?}");
        }
        let mut tally = Tally::default();
        for reader in &self.shared.readers {
            let reader = reader.lock().unwrap();
            assert!(reader.went_back.is_empty(), "{reader:#?}");
            reader.has(wanted)?;
            tally.add(reader.tally);
        }
        Ok(tally)
    }
}

impl Shared {
    async fn read(&self, number: usize, mut rng: StdRng) {
        loop {
            let url = rng.random_range(0..self.urls.len());
            let reading = self.follow(number, url);
            let is_cut = if self.cuts.load(Ordering::Relaxed) {
                let lasts = Duration::from_millis(rng.random_range(LASTS_MS));
                tokio::time::timeout(lasts, reading).await.is_err()
            } else {
                reading.await;
                false
            };
            if is_cut {
                self.readers[number].lock().unwrap().tally.cuts += 1;
            } else {
                tokio::time::sleep(RETRY_WAIT).await;
            }
        }
    }

    /// Reads from a host until the stream ends.
    async fn follow(&self, number: usize, url: usize) {
        let request = {
            let reader = self.readers[number].lock().unwrap();
            let path = match &reader.game {
                Some(game) => format!("/games/{game}/events"),
                None => "/events".to_owned(),
            };
            let mut request = self.http.get(format!("{}{path}", self.urls[url]));
            if let Some(id) = &reader.last_id {
                request = request.header("last-event-id", id);
            }
            if reader.takes_gzip {
                request = request.header("accept-encoding", "gzip");
            }
            request
        };
        let Ok(mut answer) = request.send().await else {
            return;
        };
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            return;
        }
        assert_eq!(answer.status(), StatusCode::OK);
        let is_gzip = answer.headers().get(CONTENT_ENCODING);
        let mut text = match is_gzip.map(|encoding| encoding.to_str().expect("a word")) {
            None => Text::Plain(Vec::new()),
            Some("gzip") => Text::Gzip(GzDecoder::new(Vec::new())),
            Some(other) => panic!("{other}"),
        };
        {
            let mut reader = self.readers[number].lock().unwrap();
            assert_eq!(matches!(text, Text::Gzip(_)), reader.takes_gzip);
            reader.tally.connections += 1;
            let from = std::mem::replace(&mut reader.last_url, url);
            reader.tally.hops += u64::from(from != url);
        }
        while let Ok(Some(bytes)) = answer.chunk().await {
            for event in text.events(&bytes) {
                self.readers[number].lock().unwrap().take(&event);
            }
        }
    }
}

/// The bytes of a stream that have arrived and were not yet taken.
enum Text {
    Plain(Vec<u8>),
    Gzip(GzDecoder<Vec<u8>>),
}

impl Text {
    /// Adds bytes, and takes the events that are now complete.
    fn events(&mut self, bytes: &[u8]) -> Vec<String> {
        let text = match self {
            Self::Plain(text) => {
                text.extend_from_slice(bytes);
                text
            }
            Self::Gzip(decoder) => {
                decoder.write_all(bytes).expect("gzip");
                decoder.flush().expect("gzip");
                decoder.get_mut()
            }
        };
        let Some(end) = text.windows(2).rposition(|end| end == b"\n\n") else {
            return Vec::new();
        };
        let whole: Vec<u8> = text.drain(..end + 2).collect();
        let whole = String::from_utf8(whole).expect("UTF-8");
        whole.split_terminator("\n\n").map(str::to_owned).collect()
    }
}

impl Reader {
    fn take(&mut self, event: &str) {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let (Some(id), Some(data)) = (field("id: "), field("data: ")) else {
            return;
        };
        assert_eq!(field("event: "), Some("game"), "{event}");
        self.last_id = Some(id.to_owned());
        let output: Output = serde_json::from_str(data).unwrap_or_else(|error| {
            panic!("{error} in {event:?}");
        });
        if let Some(game) = &self.game {
            assert_eq!(output.game_id, *game);
        }
        self.tally.states += 1;
        let seen = (output.events, data.to_owned());
        let before = self.latest.insert(output.game_id, seen);
        let before = before.map_or(0, |(before, _)| before);
        match output.events.checked_sub(before) {
            None => self
                .went_back
                .push(format!("{before} events, then {event}")),
            Some(0) => self.tally.again += 1,
            Some(more) => self.tally.skipped += more - 1,
        }
    }

    /// Checks that the reader's latest states are the wanted ones.
    fn has(&self, wanted: &BTreeMap<String, String>) -> Result<(), String> {
        let wanted = wanted
            .iter()
            .filter(|(game, _)| self.game.as_ref().is_none_or(|only| only == *game));
        for (game, wanted) in wanted {
            let seen = self.latest.get(game).map(|(_, bytes)| bytes);
            if seen != Some(wanted) {
                let who = self.game.as_deref().unwrap_or("all games");
                return Err(format!(
                    "a reader of {who}, at {:?}, has of {game} {seen:?} and not {wanted}",
                    self.last_id
                ));
            }
        }
        Ok(())
    }
}

impl Tally {
    const fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.cuts += other.cuts;
        self.hops += other.hops;
        self.states += other.states;
        self.skipped += other.skipped;
        self.again += other.again;
    }
}
