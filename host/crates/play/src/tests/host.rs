//! A host that follows a script of faults and keeps what it was told, in a
//! runtime of its own, so that it can be killed with all its connections.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// The treatment of one request.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The host takes all events, and answers.
    Serve,
    /// Nothing is taken, and the answer is a problem.
    Answer(StatusCode, Option<u64>),
    /// A 503 that took the events for which this is true, and no others.
    Partial(Vec<bool>),
    /// All is taken, and the connection cut in the middle of the answer.
    ServeAndCut,
    /// All is taken, and no answer ever comes.
    ServeAndHang,
    /// Nothing is taken, and the connection cut.
    Cut,
}

/// An event that counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) seq: u64,
    pub(super) points: u64,
    pub(super) offset: u64,
}

#[derive(Debug, Default)]
pub(super) struct Books {
    /// Steps for the next requests of any game, in order; after these, `Serve`.
    pub(super) posts: VecDeque<Step>,
    pub(super) gets: VecDeque<Step>,
    /// Games that are always refused for good.
    pub(super) banned: HashSet<String>,
    pub(super) games: BTreeMap<String, Vec<Counted>>,
    /// The `seq`s of each request that came, with its game and key.
    pub(super) requests: Vec<(String, String, Vec<u64>)>,
    /// The positions asked for in `?after=`.
    pub(super) asked: BTreeMap<String, String>,
    pub(super) in_flight_max: usize,
    bodies: HashMap<String, Bytes>,
    counted_keys: HashSet<String>,
    in_flight: HashMap<String, usize>,
    end: u64,
    /// Rules that play broke.
    pub(super) broken: Vec<String>,
}

pub(super) type SharedBooks = Arc<Mutex<Books>>;

const PARTITION: u32 = 3;

pub(super) struct Host {
    pub(super) books: SharedBooks,
    pub(super) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Host {
    pub(super) fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), SharedBooks::default())
    }

    pub(super) fn start_at(address: SocketAddr, books: SharedBooks) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        // The listener is bound on another thread, because the caller's runtime
        // does not let its threads block on this one.
        let listener = std::thread::scope(|scope| {
            let bind = || {
                runtime
                    .block_on(tokio::net::TcpListener::bind(address))
                    .unwrap()
            };
            scope.spawn(bind).join().unwrap()
        });
        let address = listener.local_addr().unwrap();
        // Requests in flight ended when the last host was killed.
        books.lock().in_flight.clear();
        let router = Router::new()
            .route("/score", post(score))
            .route("/games/{id}", get(game))
            .with_state(Arc::clone(&books));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            books,
            address,
            runtime: Some(runtime),
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends the host as `kill -9` would; the events that it had taken are not
    /// lost.
    pub(super) fn kill(mut self) -> (SocketAddr, SharedBooks) {
        self.stop();
        (self.address, Arc::clone(&self.books))
    }

    fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Checks the rules that hold whatever happens: every event of the games
    /// counted once, in order unless a request failed in part.
    pub(super) fn check(&self, games: &BTreeMap<String, u64>, ordered: bool) {
        let books = self.books.lock();
        assert_eq!(books.broken, Vec::<String>::new());
        let mut seqs = BTreeMap::new();
        for (game, counted) in &books.games {
            let mut of_game: Vec<_> = counted.iter().map(|event| event.seq).collect();
            if !ordered {
                of_game.sort_unstable();
            }
            seqs.insert(game.clone(), of_game);
        }
        let expected: BTreeMap<_, Vec<_>> = games
            .iter()
            .map(|(game, events)| (game.clone(), (1..=*events).collect()))
            .collect();
        assert_eq!(seqs, expected);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn score(State(books): State<SharedBooks>, headers: HeaderMap, body: Bytes) -> Response {
    let game = books.lock().begin(&headers, &body);
    // This is long enough to notice another request of the game, if there were
    // one.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let (response, hangs) = books.lock().end(&game, &headers, &body);
    if hangs {
        std::future::pending::<()>().await;
    }
    response
}

impl Books {
    fn begin(&mut self, headers: &HeaderMap, body: &Bytes) -> String {
        if headers
            .get(header::CONTENT_TYPE)
            .map(|value| value.as_bytes())
            != Some(b"application/x-ndjson")
        {
            self.broken.push("content type".to_owned());
        }
        let key = key(headers);
        let known = self.bodies.entry(key.clone()).or_insert(body.clone());
        if known != body {
            self.broken.push(format!("{key} names two bodies"));
        }
        let events = events(body);
        let game = events[0]["game_id"].as_str().unwrap().to_owned();
        if events.iter().any(|event| event["game_id"] != game.as_str()) {
            self.broken.push("two games in one request".to_owned());
        }
        let seqs = events.iter().map(|event| event["seq"].as_u64().unwrap());
        self.requests.push((game.clone(), key, seqs.collect()));
        let in_flight = self.in_flight.entry(game.clone()).or_default();
        *in_flight += 1;
        if *in_flight > 1 {
            self.broken
                .push(format!("two requests of {game} in flight"));
        }
        let sum = self.in_flight.values().sum();
        self.in_flight_max = self.in_flight_max.max(sum);
        game
    }

    fn end(&mut self, game: &str, headers: &HeaderMap, body: &Bytes) -> (Response, bool) {
        *self.in_flight.get_mut(game).unwrap() -= 1;
        let events = events(body);
        if self.banned.contains(game) && events.iter().any(|event| event["seq"] == 5) {
            let status = StatusCode::BAD_REQUEST;
            let problem = json!({"type": "bad-event", "detail": "seq: 5 is an unlucky number"});
            return ((status, Json(problem)).into_response(), false);
        }
        let step = self.posts.pop_front().unwrap_or(Step::Serve);
        let all = vec![true; events.len()];
        match step {
            Step::Answer(status, retry_after) => (answer(status, retry_after), false),
            Step::Cut => (cut(), false),
            Step::Serve => {
                let positions = self.take(game, headers, &events, &all);
                (Json(positions).into_response(), false)
            }
            Step::ServeAndCut => {
                self.take(game, headers, &events, &all);
                (cut(), false)
            }
            Step::ServeAndHang => {
                self.take(game, headers, &events, &all);
                (cut(), true)
            }
            Step::Partial(mask) => {
                let mask: Vec<_> = mask.into_iter().cycle().take(events.len()).collect();
                let results = self.take(game, headers, &events, &mask);
                let problem = json!({"type": "log-unavailable", "title": "x", "results": results});
                let status = StatusCode::SERVICE_UNAVAILABLE;
                ((status, Json(problem)).into_response(), false)
            }
        }
    }

    /// Counts each event of a key not seen before, as the host's plugin does
    /// (whose second line of defence, `seq`, is not needed here).
    fn take(
        &mut self,
        game: &str,
        headers: &HeaderMap,
        events: &[Value],
        mask: &[bool],
    ) -> Vec<Value> {
        let mut results = Vec::new();
        for (index, (event, taken)) in events.iter().zip(mask).enumerate() {
            if !taken {
                results.push(json!({"error": "the log is away"}));
                continue;
            }
            let offset = self.end;
            self.end += 1;
            results.push(json!({"topic": "t", "partition": PARTITION, "offset": offset}));
            // Each event of a request has the request's key and its index.
            if self
                .counted_keys
                .insert(format!("{}#{index}", key(headers)))
            {
                self.games
                    .entry(game.to_owned())
                    .or_default()
                    .push(Counted {
                        seq: event["seq"].as_u64().unwrap(),
                        points: event["points"].as_u64().unwrap_or_default(),
                        offset,
                    });
            }
        }
        results
    }
}

fn key(headers: &HeaderMap) -> String {
    let key = headers.get("idempotency-key").unwrap();
    key.to_str().unwrap().to_owned()
}

fn events(body: &Bytes) -> Vec<Value> {
    body.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn answer(status: StatusCode, retry_after: Option<u64>) -> Response {
    let mut response = (status, Json(json!({"title": "not now"}))).into_response();
    if let Some(seconds) = retry_after {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn cut() -> Response {
    let error = std::io::Error::other("cut");
    let bytes = futures_util::stream::iter([Ok(Bytes::from_static(b"[")), Err(error)]);
    Body::from_stream(bytes).into_response()
}

async fn game(
    State(books): State<SharedBooks>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let mut books = books.lock();
    let books = &mut *books;
    books.asked.insert(id.clone(), query["after"].clone());
    if let Some(Step::Answer(status, retry_after)) = books.gets.pop_front() {
        return answer(status, retry_after);
    }
    let Some(counted) = books.games.get(&id) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let last = counted.iter().map(|event| event.offset).max().unwrap();
    let after = query["after"].strip_prefix("3:").unwrap();
    if after.parse::<u64>().unwrap() < last {
        books
            .broken
            .push(format!("{id}: after={after}, not {last}"));
    }
    let points: u64 = counted.iter().map(|event| event.points).sum();
    Json(json!({
        "game_id": id, "status": "final", "points": {"ALL": points},
        "events": counted.len(), "duplicates": 0, "gaps": 0,
    }))
    .into_response()
}
