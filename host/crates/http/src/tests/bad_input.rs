//! Each kind of bad input: its status, its code, the field it names, and that
//! nothing was appended.

use axum::{body::Body, http::Request};
use bytesize::ByteSize;
use courtside_types::headers::IDEMPOTENCY_HEADER;
use serde_json::{Value, json};

use super::host::{GOOD, INPUT, TestHost};
use crate::ingest::testing::Fault;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// Posts a body to `/score` that must be refused.
async fn refused(content_type: &str, body: impl Into<Body>, status: u16, code: &str) -> Value {
    let host = TestHost::with(|_, ingest| {
        ingest.body_bytes_max = ByteSize::kib(256);
        ingest.events_max = 50;
    });
    let answer = host.post("/score", content_type, body).await;
    let problem = answer.is_problem(status, code);
    assert_eq!(host.log.len(INPUT), 0);
    problem
}

fn with(field: &str, value: Value) -> String {
    let mut event: Value = serde_json::from_str(GOOD).unwrap();
    event[field] = value;
    event.to_string()
}

#[tokio::test]
async fn broken_json() {
    refused(JSON, &GOOD[..GOOD.len() - 1], 400, "invalid-json").await;
    refused(JSON, "", 400, "invalid-json").await;
    refused(JSON, format!("{GOOD}{GOOD}"), 400, "invalid-json").await;
    refused(JSON, &b"{\"game_id\":\"\xff\"}"[..], 400, "invalid-utf8").await;
}

#[tokio::test]
async fn wrong_shape() {
    refused(JSON, "\"a score\"", 400, "invalid-json").await;
    refused(JSON, "[[]]", 400, "invalid-json").await;
    let problem = refused(JSON, with("seq", json!("one")), 400, "invalid-field").await;
    assert_eq!(problem["field"], "seq");
    let problem = refused(JSON, "{}", 400, "missing-field").await;
    assert_eq!(problem["field"], "seq");
}

#[tokio::test]
async fn too_deep() {
    let value = format!("{}{}", "[".repeat(40), "]".repeat(40));
    let body = GOOD.replacen('{', &format!("{{\"x\":{value},"), 1);
    refused(JSON, body, 400, "too-deep").await;
}

#[tokio::test]
async fn too_large() {
    let large = "x".repeat(70 * 1024);
    refused(JSON, with("x", json!(large)), 413, "event-too-large").await;
    refused(
        NDJSON,
        format!("{GOOD}\n").repeat(51),
        413,
        "too-many-events",
    )
    .await;
    refused(JSON, "x".repeat(256 * 1024 + 1), 413, "body-too-large").await;
    // A body without `Content-Length` is refused, too.
    let chunks = (0..300).map(|_| Ok::<_, std::io::Error>("x".repeat(1024)));
    let body = Body::from_stream(futures_util::stream::iter(chunks));
    refused(JSON, body, 413, "body-too-large").await;
}

#[tokio::test]
async fn one_bad_element() {
    let bad = with("points", json!(-1));
    let problem = refused(JSON, format!("[{GOOD},{bad}]"), 400, "invalid-field").await;
    assert_eq!(
        (&problem["field"], &problem["index"]),
        (&json!("points"), &json!(1))
    );
    assert!(problem.get("line").is_none());
    let problem = refused(NDJSON, format!("{GOOD}\n\n{bad}"), 400, "invalid-field").await;
    assert_eq!(
        (&problem["field"], &problem["line"]),
        (&json!("points"), &json!(3))
    );
    assert!(problem.get("index").is_none());
}

#[tokio::test]
async fn bad_game_ids() {
    for id in [
        json!(""),
        json!("x".repeat(129)),
        json!("a\u{7}"),
        json!(null),
        json!(1),
    ] {
        let problem = refused(JSON, with("game_id", id), 400, "invalid-field").await;
        assert_eq!(problem["field"], "game_id");
    }
}

#[tokio::test]
async fn negative_points() {
    let problem = refused(JSON, with("points", json!(-2)), 400, "invalid-field").await;
    assert_eq!(problem["field"], "points");
    assert_eq!(problem["detail"], "points must be an integer from 0 to 10");
}

#[tokio::test]
async fn wrong_content_type() {
    for content_type in ["text/plain", "application/json; charset=latin1", ""] {
        let problem = refused(content_type, GOOD, 415, "unsupported-media-type").await;
        assert!(problem["detail"].as_str().unwrap().contains(NDJSON));
    }
    let host = TestHost::new();
    let none = Request::post("/score").body(Body::from(GOOD)).unwrap();
    host.ask(none)
        .await
        .is_problem(415, "unsupported-media-type");
    let zipped = Request::post("/score")
        .header("content-type", JSON)
        .header("content-encoding", "gzip")
        .body(Body::from(GOOD))
        .unwrap();
    host.ask(zipped)
        .await
        .is_problem(415, "unsupported-content-encoding");
    assert_eq!(host.log.len(INPUT), 0);
}

#[tokio::test]
async fn bad_idempotency_key() {
    let host = TestHost::new();
    for key in ["", "a b", &"x".repeat(129)] {
        let request = Request::post("/score")
            .header("content-type", JSON)
            .header("idempotency-key", key)
            .body(Body::from(GOOD))
            .unwrap();
        let problem = host
            .ask(request)
            .await
            .is_problem(400, "invalid-idempotency-key");
        assert_eq!(problem["field"], "Idempotency-Key");
    }
    assert_eq!(host.log.len(INPUT), 0);
}

#[tokio::test]
async fn unknown_pipeline() {
    let host = TestHost::new();
    let answer = host.post("/events/none", JSON, GOOD).await;
    answer.is_problem(404, "pipeline-not-found");
}

#[tokio::test]
async fn the_log_refuses() {
    for (fault, status, code, retry_after) in [
        (Fault::Busy, 429, "log-busy", "1"),
        (Fault::Full, 503, "disk-full", "5"),
        (Fault::Unavailable, 503, "log-unavailable", "1"),
        (Fault::From(0), 503, "log-unavailable", "1"),
    ] {
        let host = TestHost::new();
        host.log.set_fault(fault);
        let answer = host.post("/score", JSON, GOOD).await;
        answer.is_problem(status, code);
        assert_eq!(answer.header("retry-after"), Some(retry_after), "{fault:?}");
        assert_eq!(host.log.len(INPUT), 0);
    }
}

#[tokio::test]
async fn the_log_fails_midway() {
    let host = TestHost::new();
    host.log.set_fault(Fault::From(2));
    let answer = host
        .post("/score", NDJSON, format!("{GOOD}\n").repeat(3))
        .await;
    let problem = answer.is_problem(503, "append-incomplete");
    let results = problem["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    assert_eq!(results[0]["topic"], INPUT);
    assert_eq!(results[1]["offset"], 1);
    assert_eq!(results[2], json!({"error": "log-unavailable"}));
}

#[tokio::test]
async fn the_log_says_nothing() {
    let host = TestHost::with(|_, ingest| {
        ingest.append_timeout = std::time::Duration::from_millis(20);
    });
    host.log.set_fault(Fault::Silent);
    let answer = host.post("/score", JSON, GOOD).await;
    answer.is_problem(503, "append-timeout");
}

#[tokio::test]
async fn too_much_in_flight() {
    let host = TestHost::with(|_, ingest| {
        ingest.body_bytes_max = ByteSize::b(200);
        ingest.in_flight_bytes_max = ByteSize::b(200);
        ingest.append_timeout = std::time::Duration::from_secs(600);
    });
    host.log.set_fault(Fault::Silent);
    let router = host.router();
    let body = format!("{GOOD}{}", " ".repeat(200 - GOOD.len()));
    let request = Request::post("/score")
        .header("content-type", JSON)
        .body(Body::from(body))
        .unwrap();
    let waiting = tokio::spawn(tower::ServiceExt::oneshot(router, request));
    crate::ingest::testing::eventually("the first is in the log", || host.log.len(INPUT) == 1)
        .await;
    let answer = host.post("/score", JSON, GOOD).await;
    answer.is_problem(429, "host-busy");
    assert_eq!(answer.header("retry-after"), Some("1"));
    // A client that goes away gives back the bytes it held.
    waiting.abort();
    let _ = waiting.await;
    host.log.set_fault(Fault::None);
    assert_eq!(host.post("/score", JSON, GOOD).await.status, 200);
}

#[tokio::test]
async fn good_input_is_answered_with_its_place() {
    let host = TestHost::new();
    let request = Request::post("/score")
        .header("content-type", "application/json; charset=utf-8")
        .header("idempotency-key", "try-1")
        .body(Body::from(GOOD))
        .unwrap();
    let one = host.ask(request).await;
    assert_eq!(one.status, 200);
    assert_eq!(one.header("content-type"), Some(JSON));
    let place = one.json();
    assert_eq!(place["topic"], INPUT);
    assert_eq!(place["offset"], 0);
    let records = host.log.records(INPUT);
    assert_eq!(records[0].value.as_deref(), Some(GOOD.as_bytes()));
    let key = records[0].header(IDEMPOTENCY_HEADER);
    assert_eq!(key.map(|key| &key[..]), Some(&b"try-1"[..]));

    let many = host.post("/score", JSON, format!("[{GOOD},{GOOD}]")).await;
    let places = many.json();
    assert_eq!(places.as_array().unwrap().len(), 2);
    assert_eq!(places[1]["offset"], 2);

    let bets = r#"{"bet":{"id":1e400000}}"#;
    let out_of_range = host.post("/events/bets", JSON, bets).await;
    out_of_range.is_problem(400, "invalid-field");
    let bets = "{\"bet\":{\"id\":7}}\n{\"bet\":{\"id\":\"b\"}}";
    let places = host.post("/events/bets", NDJSON, bets).await.json();
    assert_eq!(
        places[1],
        json!({"topic": "Bets", "partition": 0, "offset": 1})
    );
    assert_eq!(host.log.records("Bets")[0].key.as_deref(), Some(&b"7"[..]));
    let bad = host.post("/events/bets", JSON, r#"{"bet":{}}"#).await;
    assert_eq!(bad.is_problem(400, "missing-field")["field"], "/bet/id");
    assert_eq!(host.post("/score", JSON, "[]").await.json(), json!([]));
}

#[tokio::test]
async fn of_two_lines_of_a_header_none_counts() {
    let host = TestHost::new();
    let post = |own: &[(&str, &str)]| {
        let mut request = Request::post("/score");
        for (name, value) in own {
            request = request.header(*name, *value);
        }
        request.body(Body::from(GOOD)).unwrap()
    };
    let json = ("content-type", "application/json");
    for (own, status, code) in [
        (
            [("host", "localhost"), ("host", "evil.example"), json],
            400,
            "invalid-host",
        ),
        (
            [
                ("origin", "http://localhost:8080"),
                ("origin", "http://evil.example"),
                json,
            ],
            400,
            "invalid-origin",
        ),
        (
            [
                ("host", "localhost:80@evil.example"),
                ("accept", "*/*"),
                json,
            ],
            400,
            "invalid-host",
        ),
        (
            [json, ("content-type", "text/plain"), ("accept", "*/*")],
            415,
            "unsupported-media-type",
        ),
        (
            [
                json,
                ("content-encoding", "identity"),
                ("content-encoding", "gzip"),
            ],
            415,
            "unsupported-content-encoding",
        ),
    ] {
        host.ask(post(&own)).await.is_problem(status, code);
    }
    assert_eq!(host.log.len(INPUT), 0);
    let taken = host.ask(post(&[json])).await;
    assert_eq!(taken.status, 200);
}
