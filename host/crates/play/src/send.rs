//! Sends one game: its events in order, one request at a time, until every
//! one is acknowledged.
//!
//! **Order.** The next request of a game leaves when every event of the one
//! before is acknowledged. Where a request fails in part, the events that were
//! not acknowledged are sent again, alone and in their order. Events after the
//! first that failed may then stand in the log before it; sending those again
//! too would not change that, it would only add duplicates after it. A plugin
//! that goes by `seq` counts the late one where it belongs.
//!
//! **Once.** A request whose answer was lost may be in the log, so it is sent
//! again with the same `Idempotency-Key`, which the host knows. A key always
//! names the same body, because the host tells the events of a request apart by
//! the key and their place in the body. So the events that remain of a partial
//! failure, which are another body, go under a key of their own. An exception is
//! a request with an earlier answer that was lost: any of its events may be in
//! the log under the old key. Such a request is sent again unchanged, until all
//! of it is acknowledged.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};

use super::{
    client::{PlayClient, PostOutcome},
    ledger::{GameNumber, Ledger},
    pace::{Chunks, Line, Speed},
    retry::{GaveUp, Retry, Tuning},
};

/// The events of one game, in order.
pub(super) type Lines = Box<dyn Iterator<Item = Result<Line, serde_json::Error>> + Send>;

/// Shared by all games of a round.
pub(super) struct Sending<'a> {
    pub(super) client: &'a PlayClient,
    pub(super) ledger: &'a Ledger,
    pub(super) tuning: &'a Tuning,
    /// A permit for each request in flight.
    pub(super) connections: &'a Semaphore,
    /// Prefix of each `Idempotency-Key`, which no other run or round has.
    pub(super) name: &'a str,
    pub(super) speed: Option<Speed>,
    pub(super) events_per_request_max: usize,
}

/// Events of one game on their way.
struct Request {
    events: Vec<Line>,
    body: Bytes,
    key: String,
    /// Whether each event was acknowledged.
    acknowledged: Vec<bool>,
    /// An attempt may have left events in the log unacknowledged.
    is_in_doubt: bool,
}

/// Plays the game to its end, or to a final failure, which the ledger then has.
pub(super) async fn game(
    sending: &Sending<'_>,
    number: GameNumber,
    lines: Lines,
) -> Result<(), GaveUp> {
    let mut chunks = Chunks::new(lines, sending.speed, sending.events_per_request_max);
    let mut keys = 0..;
    let start = Instant::now();
    loop {
        let chunk = match next(&mut chunks, start).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => {
                let failure = format!("play-unwritable: an event cannot be written: {error}");
                sending.ledger.fail(number, failure);
                return Ok(());
            }
        };
        if !deliver(sending, number, chunk, &mut keys).await? {
            return Ok(());
        }
    }
    sending.ledger.complete(number);
    Ok(())
}

async fn next(
    chunks: &mut Chunks<Lines>,
    start: Instant,
) -> Result<Option<Vec<Line>>, serde_json::Error> {
    let Some(due) = chunks.due()? else {
        return Ok(None);
    };
    if due > Duration::ZERO {
        sleep_until(start + due).await;
    }
    // The wait was until `due`, so these events are due even if the timer is
    // early.
    chunks.take(start.elapsed().max(due)).map(Some)
}

/// Sends the events until all are acknowledged. False says that the host
/// refused them for good.
async fn deliver(
    sending: &Sending<'_>,
    number: GameNumber,
    events: Vec<Line>,
    keys: &mut impl Iterator<Item = u64>,
) -> Result<bool, GaveUp> {
    let mut key = || {
        let request = keys.next().unwrap_or_default();
        format!("{}-{}-{request}", sending.name, number.0)
    };
    let mut request = Request::new(events, key());
    let mut retry = Retry::new(sending.ledger, sending.tuning);
    loop {
        let away = match attempt(sending, &request).await {
            PostOutcome::All(positions) => {
                let fresh = request.note(positions.iter().map(|_| true));
                sending.ledger.acknowledge(number, positions.iter(), fresh);
                return Ok(true);
            }
            PostOutcome::Some { results, away } => {
                let fresh = request.note(results.iter().map(Option::is_some));
                let positions = results.iter().flatten();
                sending.ledger.acknowledge(number, positions, fresh);
                if request.is_acknowledged() {
                    return Ok(true);
                }
                if !request.is_in_doubt {
                    request = Request::new(request.remaining(), key());
                }
                retry = Retry::new(sending.ledger, sending.tuning);
                away
            }
            PostOutcome::None(away) => away,
            PostOutcome::Refused(refused) => {
                sending.ledger.fail(number, refused.to_string());
                return Ok(false);
            }
        };
        request.is_in_doubt |= away.is_in_doubt;
        retry.pause(&away).await?;
    }
}

async fn attempt(sending: &Sending<'_>, request: &Request) -> PostOutcome {
    // The semaphore is never closed. A game holds a permit for its request
    // alone, so that its wait for the next event or attempt keeps no other game
    // waiting.
    let _permit = sending.connections.acquire().await.ok();
    let (body, events) = (request.body.clone(), request.events.len());
    sending.client.post(body, &request.key, events).await
}

impl Request {
    fn new(events: Vec<Line>, key: String) -> Self {
        let bytes = events.iter().map(|event| event.bytes.len() + 1).sum();
        let mut body = BytesMut::with_capacity(bytes);
        for event in &events {
            body.extend_from_slice(&event.bytes);
            body.extend_from_slice(b"\n");
        }
        Self {
            acknowledged: vec![false; events.len()],
            events,
            body: body.freeze(),
            key,
            is_in_doubt: false,
        }
    }

    /// Notes which events were acknowledged, and counts those that had not been.
    fn note(&mut self, acknowledged: impl Iterator<Item = bool>) -> u64 {
        let mut fresh = 0;
        for (known, now) in self.acknowledged.iter_mut().zip(acknowledged) {
            fresh += u64::from(now && !*known);
            *known |= now;
        }
        fresh
    }

    fn is_acknowledged(&self) -> bool {
        self.acknowledged.iter().all(|known| *known)
    }

    fn remaining(self) -> Vec<Line> {
        let pairs = self.events.into_iter().zip(self.acknowledged);
        pairs
            .filter_map(|(event, known)| (!known).then_some(event))
            .collect()
    }
}
