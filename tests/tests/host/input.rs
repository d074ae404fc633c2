//! Bad input over a real socket: each is answered with what is wrong, and
//! nothing of it gets into the log. The host's own tests have every shape of
//! bad input.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
};

use courtside_tests::{Engine, Place, built, topics::Topics};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::point;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

fn with(field: &str, value: Value) -> String {
    let mut event = point("LAL-BOS", 1);
    event[field] = value;
    event.to_string()
}

pub async fn bad_events_are_answered_with_what_is_wrong_and_leave_nothing(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring"))
        .on(engine)
        .set("ingest.event_bytes_max", "4KiB")
        .set("ingest.body_bytes_max", "64KiB");
    let host = place.start_ready().await;
    let good = point("LAL-BOS", 1).to_string();
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let deep = good.replacen('{', &format!("{{\"deep\":{deep},"), 1);
    let bad: [(&str, String, u16, &str, Value); 15] = [
        (
            JSON,
            "{\"game_id\":".to_owned(),
            400,
            "invalid-json",
            Value::Null,
        ),
        (JSON, "7".to_owned(), 400, "", Value::Null),
        (JSON, deep, 400, "too-deep", Value::Null),
        (
            JSON,
            with("player", json!("x".repeat(5000))),
            413,
            "event-too-large",
            Value::Null,
        ),
        (
            JSON,
            format!("[{}]", vec![&*good; 1000].join(",")),
            413,
            "",
            Value::Null,
        ),
        (
            JSON,
            format!("[{good},{}]", with("points", json!(-2))),
            400,
            "invalid-field",
            json!("points"),
        ),
        (
            JSON,
            with("game_id", json!("")),
            400,
            "invalid-field",
            json!("game_id"),
        ),
        (
            JSON,
            with("game_id", json!("x".repeat(129))),
            400,
            "invalid-field",
            json!("game_id"),
        ),
        (
            JSON,
            with("game_id", json!("LAL\u{7}BOS")),
            400,
            "invalid-field",
            json!("game_id"),
        ),
        (
            JSON,
            with("points", json!(-1)),
            400,
            "invalid-field",
            json!("points"),
        ),
        (
            JSON,
            with("clock", json!("12:60")),
            400,
            "invalid-field",
            json!("clock"),
        ),
        (
            JSON,
            json!({"game_id": "LAL-BOS"}).to_string(),
            400,
            "missing-field",
            json!("seq"),
        ),
        (
            "text/plain",
            good.clone(),
            415,
            "unsupported-media-type",
            Value::Null,
        ),
        (
            NDJSON,
            format!("{good}\n{{\n"),
            400,
            "invalid-json",
            Value::Null,
        ),
        (
            NDJSON,
            format!("{good}\n{}\n", with("seq", json!(0))),
            400,
            "invalid-field",
            json!("seq"),
        ),
    ];
    for (content_type, body, status, code, field) in bad {
        let shown: String = body.chars().take(100).collect();
        let answer = host.post("/score", content_type, body).await;
        assert_eq!(answer.status.as_u16(), status, "{shown}: {answer:?}");
        let said = answer.code();
        assert!(code.is_empty() || said == code, "{shown}: {answer:?}");
        assert_eq!(
            answer.json().get("field").unwrap_or(&Value::Null),
            &field,
            "{shown}"
        );
        assert_ne!(answer.json()["detail"].as_str().unwrap_or_default(), "");
    }
    let nowhere = host.post("/events/nowhere", JSON, good.clone()).await;
    assert_eq!(nowhere.status, StatusCode::NOT_FOUND);
    assert_eq!(nowhere.code(), "pipeline-not-found");

    // After all that, one good event is the only one.
    let at = host.accepts("/score", &point("LAL-BOS", 1)).await;
    let output = host.game_after("LAL-BOS", "scores", &at).await;
    assert_eq!(output.expect("an output")["events"], 1);
    host.stop().await;
    assert_eq!(Topics::of(&place).records("NBA-Games").len(), 1);
}

/// Connections that break off at any byte of a request, and one that stays.
pub async fn a_connection_cut_in_the_middle_leaves_nothing(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let host = place.start_ready().await;
    let body = point("LAL-BOS", 1).to_string();
    let request = format!(
        "POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for end in (1..request.len()).step_by(7) {
        let mut socket = TcpStream::connect(host.address()).expect("a connection");
        socket
            .write_all(&request.as_bytes()[..end])
            .expect("a part of a request");
        drop(socket);
    }
    // The socket is half closed, so that the test can still read an answer: it
    // is no success.
    let mut socket = TcpStream::connect(host.address()).expect("a connection");
    let cut = request.len() - 5;
    socket
        .write_all(&request.as_bytes()[..cut])
        .expect("most of a request");
    socket.shutdown(Shutdown::Write).expect("half a connection");
    let mut answer = String::new();
    socket
        .read_to_string(&mut answer)
        .expect("an answer, or none");
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    // The host gets bytes that are no request at all.
    let mut socket = TcpStream::connect(host.address()).expect("a connection");
    socket.write_all(&[0xff; 512]).expect("noise");
    socket.shutdown(Shutdown::Write).expect("half a connection");
    let mut answer = Vec::new();
    // The host may answer, or just close.
    drop(socket.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP/1.1 2"));

    let at = host.accepts("/score", &point("LAL-BOS", 1)).await;
    let output = host.game_after("LAL-BOS", "scores", &at).await;
    assert_eq!(output.expect("an output")["events"], 1);
    host.stop().await;
    assert_eq!(Topics::of(&place).records("NBA-Games").len(), 1);
}

pub async fn the_answer_says_where_the_events_are(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let host = place.start_ready().await;
    let one = host
        .post("/score", JSON, point("LAL-BOS", 1).to_string())
        .await;
    assert_eq!(one.status, StatusCode::OK);
    assert_eq!(one.json()["topic"], place.topic("NBA-Games"));
    assert_eq!(one.json()["offset"], 0);
    let several = json!([
        point("LAL-BOS", 2),
        point("NYK-BKN", 1),
        point("LAL-BOS", 3)
    ]);
    let several = host.post("/score", JSON, several.to_string()).await;
    let places = several.json();
    let places = places.as_array().expect("an array");
    assert_eq!(places.len(), 3);
    let home = &one.json()["partition"];
    assert_eq!(
        (&places[0]["partition"], &places[2]["partition"]),
        (home, home)
    );
    assert!(places[0]["offset"].as_u64() < places[2]["offset"].as_u64());
    // A client that reads after its write sees the write.
    let at = format!("{home}:{}", places[2]["offset"]);
    let output = host.game_after("LAL-BOS", "scores", &at).await;
    assert_eq!(output.expect("an output")["events"], 3);
    host.stop().await;
}
