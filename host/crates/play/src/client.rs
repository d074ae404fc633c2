//! The host as play sees it: two requests, and what their answers mean.
//!
//! One client serves a whole run; its connections are kept between requests.
//! [`judge_post`] and [`judge_game`] decide what an answer means; they know
//! nothing of sockets.

use std::time::Duration;

use bytes::Bytes;
use courtside_client::{HostArgs, is_untrusted, root};
use courtside_types::{Offset, PartitionId, Position};
use reqwest::{
    Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::retry::Tuning;

/// No answer of a host is this long; a longer one is not read.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How much of an answer that is no problem document is quoted.
const QUOTED_CHARS_MAX: usize = 200;

/// The host did not do what it was asked, and may do so later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unavailable {
    pub(super) reason: String,
    /// How long the host asked to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// Events may be in the log without having been acknowledged.
    pub(super) is_in_doubt: bool,
}

/// The host refused for good: asking again does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("play-refused: the host answered {status}: {detail}")]
    Status { status: StatusCode, detail: String },
    #[error(
        "play-untrusted: the host is not trusted: {detail}; --cacert names a file with the certificates to trust"
    )]
    Untrusted { detail: String },
    #[error("play-not-courtside: the server at this URL is no courtside host: {detail}")]
    Strange { detail: String },
}

/// Outcome of a `POST /score` for its events.
#[derive(Debug)]
pub(super) enum PostOutcome {
    All(Vec<Position>),
    /// Results in the order of the events; None for an event that was not
    /// acknowledged. At least one event was acknowledged, and at least one was
    /// not.
    Some {
        results: Vec<Option<Position>>,
        away: Unavailable,
    },
    /// No event was acknowledged.
    None(Unavailable),
    Refused(Refusal),
}

/// Outcome of a `GET /games/{id}`.
#[derive(Debug)]
pub(super) enum GameOutcome {
    Output(Box<RawValue>),
    /// The host processed all events, and they led to no output.
    NoOutput,
    NotYet(Unavailable),
    Refused(Refusal),
}

#[derive(Debug)]
pub(super) struct PlayClient {
    http: reqwest::Client,
    base: Url,
    score: Url,
    post_timeout: Duration,
    get_timeout: Duration,
}

impl PlayClient {
    pub(super) fn new(host: &HostArgs, tuning: &Tuning) -> anyhow::Result<Self> {
        let base = host.url()?;
        let http = host.http()?.connect_timeout(tuning.post_timeout).build()?;
        let score = under(&base, &["score"]);
        Ok(Self {
            http,
            base,
            score,
            post_timeout: tuning.post_timeout,
            get_timeout: tuning.get_timeout,
        })
    }

    /// Sends the events of one request, as NDJSON.
    pub(super) async fn post(&self, body: Bytes, key: &str, events: usize) -> PostOutcome {
        let request = self
            .http
            .post(self.score.clone())
            .timeout(self.post_timeout)
            .header(CONTENT_TYPE, "application/x-ndjson")
            .header("idempotency-key", key)
            .body(body);
        match answer(request).await {
            Ok((status, retry_after, body)) => judge_post(status, retry_after, &body, events),
            Err(RequestFailure::Away(away)) => PostOutcome::None(away),
            Err(RequestFailure::Refused(refused)) => PostOutcome::Refused(refused),
        }
    }

    /// The game's latest output, once the host has processed its event at
    /// that position.
    pub(super) async fn game(
        &self,
        id: &str,
        partition: PartitionId,
        offset: Offset,
    ) -> GameOutcome {
        let mut url = under(&self.base, &["games", id]);
        url.query_pairs_mut()
            .append_pair("after", &format!("{partition}:{offset}"));
        let request = self.http.get(url).timeout(self.get_timeout);
        match answer(request).await {
            Ok((status, retry_after, body)) => judge_game(status, retry_after, &body),
            Err(RequestFailure::Away(away)) => GameOutcome::NotYet(away),
            Err(RequestFailure::Refused(refused)) => GameOutcome::Refused(refused),
        }
    }
}

fn under(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    // An http URL always has a path to extend.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

type Answer = (StatusCode, Option<Duration>, Vec<u8>);

/// Why no answer came: a later try may get one, or none will.
enum RequestFailure {
    Away(Unavailable),
    Refused(Refusal),
}

async fn answer(request: reqwest::RequestBuilder) -> Result<Answer, RequestFailure> {
    let response = request.send().await.map_err(|error| unanswered(&error))?;
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let body = read(response).await?;
    Ok((status, retry_after, body))
}

async fn read(mut response: Response) -> Result<Vec<u8>, RequestFailure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unanswered(&error))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(RequestFailure::Away(Unavailable {
                reason: format!("an answer over {ANSWER_BYTES_MAX} bytes"),
                retry_after: None,
                is_in_doubt: true,
            }));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn unanswered(error: &reqwest::Error) -> RequestFailure {
    if is_untrusted(error) {
        let detail = root(error);
        return RequestFailure::Refused(Refusal::Untrusted { detail });
    }
    RequestFailure::Away(Unavailable {
        reason: root(error),
        retry_after: None,
        // Without a connection, nothing was sent.
        is_in_doubt: !error.is_connect(),
    })
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    let wait = at.duration_since(jiff::Timestamp::now());
    Some(wait.try_into().unwrap_or(Duration::ZERO))
}

/// A problem document of RFC 9457, with the fields that Courtside adds.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    results: Option<Vec<Element>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Element {
    Appended(Position),
    Failed {
        #[serde(rename = "error")]
        _error: serde::de::IgnoredAny,
    },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Positions {
    One(Position),
    Many(Vec<Position>),
}

/// Whether the same request may succeed later.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || status == StatusCode::REQUEST_TIMEOUT
        || status == StatusCode::TOO_MANY_REQUESTS
}

fn detail(problem: &Problem, body: &[u8]) -> String {
    match (&problem.detail, &problem.title) {
        (Some(text), _) | (None, Some(text)) => text.clone(),
        (None, None) => String::from_utf8_lossy(body)
            .trim()
            .chars()
            .take(QUOTED_CHARS_MAX)
            .collect(),
    }
}

fn away(status: StatusCode, detail: &str, retry_after: Option<Duration>) -> Unavailable {
    Unavailable {
        reason: format!("{status}: {detail}"),
        retry_after,
        is_in_doubt: status != StatusCode::TOO_MANY_REQUESTS,
    }
}

fn judge_post(
    status: StatusCode,
    retry_after: Option<Duration>,
    body: &[u8],
    events: usize,
) -> PostOutcome {
    if status.is_success() {
        let positions = match serde_json::from_slice(body) {
            Ok(Positions::One(position)) => vec![position],
            Ok(Positions::Many(positions)) => positions,
            Err(_) => Vec::new(),
        };
        if positions.len() == events {
            return PostOutcome::All(positions);
        }
        return PostOutcome::Refused(Refusal::Strange {
            detail: format!("{status} without the positions of {events} events"),
        });
    }
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let detail = detail(&problem, body);
    if !is_passing(status) {
        return PostOutcome::Refused(Refusal::Status { status, detail });
    }
    let mut away = away(status, &detail, retry_after);
    let results: Vec<_> = problem
        .results
        .unwrap_or_default()
        .into_iter()
        .map(|element| match element {
            Element::Appended(position) => Some(position),
            Element::Failed { .. } => None,
        })
        .collect();
    // Results that do not match the events one to one acknowledge nothing.
    if results.len() != events {
        return PostOutcome::None(away);
    }
    // The host reports what became of each event, so no event is in doubt.
    away.is_in_doubt = false;
    if results.iter().all(Option::is_none) {
        return PostOutcome::None(away);
    }
    if results.iter().all(Option::is_some) {
        return PostOutcome::All(results.into_iter().flatten().collect());
    }
    PostOutcome::Some { results, away }
}

fn judge_game(status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> GameOutcome {
    if status.is_success() {
        return match serde_json::from_slice(body) {
            Ok(output) => GameOutcome::Output(output),
            Err(_) => GameOutcome::Refused(Refusal::Strange {
                detail: format!("{status} without JSON"),
            }),
        };
    }
    if status == StatusCode::NOT_FOUND {
        return GameOutcome::NoOutput;
    }
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let detail = detail(&problem, body);
    if is_passing(status) {
        GameOutcome::NotYet(away(status, &detail, retry_after))
    } else {
        GameOutcome::Refused(Refusal::Status { status, detail })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn position(offset: u64) -> serde_json::Value {
        json!({"topic": "t", "partition": 3, "offset": offset})
    }

    fn post(status: u16, body: &serde_json::Value, events: usize) -> PostOutcome {
        let status = StatusCode::from_u16(status).unwrap();
        judge_post(status, None, body.to_string().as_bytes(), events)
    }

    #[test]
    fn positions_acknowledge() {
        assert!(
            matches!(post(200, &position(7), 1), PostOutcome::All(all) if all[0].offset.0 == 7)
        );
        let two = json!([position(7), position(9)]);
        assert!(matches!(post(201, &two, 2), PostOutcome::All(all) if all[1].offset.0 == 9));
    }

    #[test]
    fn a_success_without_all_positions_acknowledges_nothing() {
        for body in [json!([position(7)]), json!({"ok": true}), json!([])] {
            let posted = post(200, &body, 2);
            assert!(
                matches!(posted, PostOutcome::Refused(Refusal::Strange { .. })),
                "{posted:?}"
            );
        }
    }

    #[test]
    fn a_partial_failure_tells_the_acknowledged_apart() {
        let body = json!({
            "type": "log-unavailable", "title": "x", "status": 503,
            "results": [position(1), {"error": "queue full"}, position(2), {"error": {"a": 1}}],
        });
        let PostOutcome::Some { results, .. } = post(503, &body, 4) else {
            panic!("no partial failure");
        };
        let offsets: Vec<_> = results
            .iter()
            .map(|result| result.as_ref().map(|position| position.offset.0))
            .collect();
        assert_eq!(offsets, [Some(1), None, Some(2), None]);
        // Results that do not fit the request acknowledge nothing, nor do
        // results that are all errors.
        assert!(matches!(post(503, &body, 3), PostOutcome::None(_)));
        let none = json!({"results": [{"error": "x"}]});
        assert!(matches!(post(503, &none, 1), PostOutcome::None(_)));
        // A 503 that acknowledges all events is odd, but leaves nothing to send
        // again.
        let all = json!({"results": [position(1)]});
        assert!(matches!(post(503, &all, 1), PostOutcome::All(all) if all.len() == 1));
    }

    #[test]
    fn only_a_host_that_says_so_leaves_no_doubt() {
        let in_doubt = |status, body: serde_json::Value| match post(status, &body, 1) {
            PostOutcome::None(away) => away.is_in_doubt,
            other => panic!("{other:?}"),
        };
        assert!(!in_doubt(429, json!({})));
        assert!(!in_doubt(503, json!({"results": [{"error": "x"}]})));
        assert!(in_doubt(
            503,
            json!({"detail": "the log did not answer in time"})
        ));
        assert!(in_doubt(503, json!({"results": []})));
        assert!(in_doubt(502, json!({})));
    }

    #[test]
    fn what_passes_is_retried_and_what_does_not_is_final() {
        let body = json!({"detail": "points must not be negative", "title": "bad event"});
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(
                matches!(post(status, &body, 1), PostOutcome::None(_)),
                "{status}"
            );
        }
        for status in [301, 400, 404, 413, 415, 422] {
            let PostOutcome::Refused(refused) = post(status, &body, 1) else {
                panic!("{status} is final");
            };
            let text = refused.to_string();
            assert!(text.contains("points must not be negative"), "{text}");
            assert!(text.starts_with("play-refused: "), "{text}");
        }
    }

    #[test]
    fn an_answer_that_is_no_problem_is_quoted() {
        let posted = judge_post(StatusCode::FORBIDDEN, None, b"<html>no</html>\n", 1);
        assert!(
            matches!(&posted, PostOutcome::Refused(refused)
                if refused.to_string().ends_with("403 Forbidden: <html>no</html>")),
            "{posted:?}"
        );
    }

    #[test]
    fn games() {
        let game = |status: u16, body: &str| {
            judge_game(StatusCode::from_u16(status).unwrap(), None, body.as_bytes())
        };
        assert!(
            matches!(game(200, "{\"a\": 1.10}"), GameOutcome::Output(raw) if raw.get() == "{\"a\": 1.10}")
        );
        assert!(matches!(game(404, "{}"), GameOutcome::NoOutput));
        assert!(matches!(game(504, "{}"), GameOutcome::NotYet(_)));
        assert!(matches!(game(400, "{}"), GameOutcome::Refused(_)));
        assert!(matches!(game(200, "<html>"), GameOutcome::Refused(_)));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let wait = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(wait("3"), Some(Duration::from_secs(3)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(wait("Mon, 31 Dec 2300 23:59:59 GMT") > Some(Duration::from_secs(3600)));
        assert_eq!(wait("soon"), None);
    }

    #[test]
    fn urls_are_built_under_the_base() {
        let base = Url::parse("http://h:1/live/?x#y").unwrap();
        assert_eq!(under(&base, &["score"]).as_str(), "http://h:1/live/score");
        assert_eq!(
            under(&base, &["games", "a/b ?é"]).as_str(),
            "http://h:1/live/games/a%2Fb%20%3F%C3%A9"
        );
    }
}
