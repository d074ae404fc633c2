//! A steady load: games that are scored one event after another, each sent
//! again, to another host, until it is acknowledged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use courtside_tests::{
    games::{self, Game},
    until_within,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::fleet::{Board, Fleet, Names, PATIENCE};

/// One of every three games is posted in requests of several events.
const BATCHED: usize = 3;
const BATCH: usize = 5;
/// Clients do not wait for a host that stands still.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
const RETRY_WAIT: Duration = Duration::from_millis(100);

/// An event that is in the log, as a host said.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub partition: u32,
    pub offset: u64,
    pub game: String,
    pub event: String,
}

/// The pace of a load.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub games: usize,
    /// Pause between an acknowledgement and the next request of a game.
    pub pause: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            games: 24,
            pause: Duration::from_millis(200),
        }
    }
}

pub struct Load {
    shared: Arc<Shared>,
    scorers: Vec<JoinHandle<Vec<Acknowledged>>>,
}

struct Shared {
    http: reqwest::Client,
    urls: Vec<String>,
    pace: Pace,
    stop: AtomicBool,
    acknowledged: AtomicUsize,
    /// Answers other than acknowledgements, and how often each came.
    refusals: Mutex<BTreeMap<String, usize>>,
}

/// The outcome of a load.
pub struct Posted {
    pub acknowledged: Vec<Acknowledged>,
    pub refusals: BTreeMap<String, usize>,
}

impl Load {
    pub fn start(urls: Vec<String>, pace: Pace, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(REQUEST_TIMEOUT)
                .build()
                .expect("an http client"),
            urls,
            pace,
            stop: AtomicBool::new(false),
            acknowledged: AtomicUsize::new(0),
            refusals: Mutex::default(),
        });
        let scorers = games::invented(pace.games)
            .into_iter()
            .enumerate()
            .map(|(number, game)| {
                let rng = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
                let batch = if number % BATCHED == 0 { BATCH } else { 1 };
                tokio::spawn(score(Arc::clone(&shared), game, batch, rng))
            });
        Self {
            scorers: scorers.collect(),
            shared,
        }
    }

    pub fn acknowledged(&self) -> usize {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits for `count` more acknowledgements.
    pub async fn goes_on(&self, count: usize) {
        let wanted = self.acknowledged() + count;
        until_within(PATIENCE, "events to be acknowledged", || async {
            let seen = self.acknowledged();
            if seen >= wanted {
                return Ok(());
            }
            let refusals = self.shared.refusals.lock().unwrap();
            Err(format!("{seen} of {wanted}, and {refusals:?}"))
        })
        .await;
    }

    /// Ends the load, and the hosts once they have processed all of it. Returns the
    /// events that were posted, and the games that each host shows in the end.
    pub async fn end(self, mut fleet: Fleet) -> (Names, Posted, Vec<Board>) {
        let posted = self.stop().await;
        fleet.has_processed_all().await;
        fleet.check();
        let names = fleet.names.clone();
        let boards = fleet.boards().await;
        fleet.stop().await;
        (names, posted, boards)
    }

    /// Ends the load once all events that were begun are acknowledged.
    pub async fn stop(self) -> Posted {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Vec::new();
        for scorer in self.scorers {
            let ended = tokio::time::timeout(PATIENCE, scorer).await;
            let refusals = self.shared.refusals.lock().unwrap().clone();
            let ended = ended.unwrap_or_else(|_| panic!("not acknowledged: {refusals:?}"));
            acknowledged.extend(ended.expect("a scorer"));
        }
        let refusals = self.shared.refusals.lock().unwrap().clone();
        Posted {
            acknowledged,
            refusals,
        }
    }
}

/// A game's id when it is played again.
pub fn round_of(game: &str, round: u32) -> String {
    // Teams that have not scored are known by the id's end.
    let (date, teams) = game.split_at(10);
    format!("{date}.{round}{teams}")
}

/// Scores a game, and then its copies under other ids, until the load ends.
async fn score(
    shared: Arc<Shared>,
    game: Game,
    batch: usize,
    mut rng: StdRng,
) -> Vec<Acknowledged> {
    let mut acknowledged = Vec::new();
    for round in 1_u32.. {
        let game = game.renamed(&round_of(&game.id, round));
        for (number, events) in game.lines.chunks(batch).enumerate() {
            if shared.stop.load(Ordering::Relaxed) {
                return acknowledged;
            }
            let key = format!("{}.{number}", game.id);
            let places = shared.post(&key, events, batch > 1, &mut rng).await;
            shared
                .acknowledged
                .fetch_add(events.len(), Ordering::Relaxed);
            for ((partition, offset), event) in places.into_iter().zip(events) {
                acknowledged.push(Acknowledged {
                    partition,
                    offset,
                    game: game.id.clone(),
                    event: event.clone(),
                });
            }
            let pause = shared.pace.pause.as_secs_f64() * rng.random_range(0.5..1.5);
            tokio::time::sleep(Duration::from_secs_f64(pause)).await;
        }
    }
    acknowledged
}

impl Shared {
    async fn post(
        &self,
        key: &str,
        events: &[String],
        is_many: bool,
        rng: &mut StdRng,
    ) -> Vec<(u32, u64)> {
        loop {
            let url = &self.urls[rng.random_range(0..self.urls.len())];
            match self.try_post(url, key, events, is_many).await {
                Ok(places) => {
                    assert_eq!(places.len(), events.len(), "{key}");
                    return places;
                }
                Err(refusal) => {
                    let mut refusals = self.refusals.lock().unwrap();
                    *refusals.entry(refusal).or_default() += 1;
                }
            }
            tokio::time::sleep(RETRY_WAIT).await;
        }
    }

    async fn try_post(
        &self,
        url: &str,
        key: &str,
        events: &[String],
        is_many: bool,
    ) -> Result<Vec<(u32, u64)>, String> {
        let content_type = match is_many {
            true => "application/x-ndjson",
            false => "application/json",
        };
        let request = self
            .http
            .post(format!("{url}/score"))
            .header("content-type", content_type)
            .header("idempotency-key", key)
            .body(events.join("\n"));
        let no_answer = |error: reqwest::Error| match error.is_timeout() {
            true => "no answer in time".to_owned(),
            false => "no answer".to_owned(),
        };
        let answer = request.send().await.map_err(no_answer)?;
        let status = answer.status().as_u16();
        let body = answer.text().await.map_err(no_answer)?;
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body:?}"));
        if status == 200 {
            let place = |place: &Value| {
                let number = |field: &str| place[field].as_u64().expect("a number");
                let partition = u32::try_from(number("partition")).expect("a partition");
                (partition, number("offset"))
            };
            return Ok(match &body {
                Value::Array(places) => places.iter().map(place).collect(),
                one => vec![place(one)],
            });
        }
        // A client is told that it may try again, whatever fails.
        assert!([429, 503].contains(&status), "{key}: {status} {body}");
        let code = body["code"].as_str().unwrap_or_default();
        assert!(!code.is_empty(), "{key}: {status} {body}");
        Err(format!("{status} {code}"))
    }
}
