//! Stopping, and coming back.

use courtside_tests::{Engine, Place, built, topics::Topics};
use reqwest::StatusCode;
use serde_json::Value;

use super::point;

const GAME: &str = "LAL-BOS";

/// SIGTERM comes while a client posts as fast as it can.
pub async fn what_was_acknowledged_before_a_clean_stop_is_there_after_it(engine: Engine) {
    const BEFORE: u64 = 50;
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let mut host = place.start_ready().await;
    let mut acknowledged = 0;
    loop {
        let event = point(GAME, acknowledged + 1).to_string();
        match host.try_post("/score", "application/json", event).await {
            Ok(answer) if answer.status == StatusCode::OK => acknowledged += 1,
            Ok(answer) => {
                assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
                break;
            }
            Err(_) => break,
        }
        if acknowledged == BEFORE {
            host.terminate();
        }
    }
    let status = host.ended().await;
    assert!(status.success(), "{status}");
    drop(host);

    let host = place.start_ready().await;
    host.has_processed_all().await;
    let output = host.game(GAME).await.expect("an output");
    // The last event may be in the log without its answer having come through.
    let seen = output["last_seq"].as_u64().expect("a number");
    assert!(
        seen == acknowledged || seen == acknowledged + 1,
        "{acknowledged}: {output}"
    );
    assert_eq!(output["events"], seen, "{output}");
    assert_eq!(output["gaps"], 0, "{output}");
    host.stop().await;
    let topics = Topics::of(&place);
    assert_eq!(
        topics.each_counted_once("scores", "NBA-Games", "NBA-Scores"),
        0
    );
}

/// A client that was not answered sends its event again, to the next host.
pub async fn a_retry_with_an_idempotency_key_counts_once_even_after_a_crash(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let event = point(GAME, 1);
    for _ in 0..3 {
        let host = place.start_ready().await;
        let request = host.request(reqwest::Method::POST, "/score");
        let answer = request
            .header("idempotency-key", "the-first-point")
            .header("content-type", "application/json")
            .body(event.to_string())
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        host.kill();
    }
    let host = place.start_ready().await;
    host.has_processed_all().await;
    let output = host.game(GAME).await.expect("an output");
    assert_eq!(
        (&output["events"], &output["duplicates"]),
        (&1.into(), &0.into())
    );
    host.stop().await;
    let topics = Topics::of(&place);
    let copies = topics.each_counted_once("scores", "NBA-Games", "NBA-Scores");
    assert_eq!(copies, 2);
}

/// Committed events are not processed again, and the others are.
pub async fn a_crash_right_after_an_acknowledgement_loses_nothing(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    for seq in 1..=5 {
        let host = place.start().await;
        host.accepts("/score", &point(GAME, seq)).await;
        host.kill();
    }
    let host = place.start_ready().await;
    host.has_processed_all().await;
    let output = host.game(GAME).await.expect("an output");
    let seen = ["events", "last_seq", "duplicates", "gaps"].map(|field| output[field].clone());
    assert_eq!(seen, [5, 5, 0, 0].map(Value::from), "{output}");
    host.stop().await;
}

/// A host with an open stream stops, and the stream's reader goes on with the
/// next host.
pub async fn a_reader_of_a_stream_goes_on_where_it_was(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let mut host = place.start_ready().await;
    let at = host.accepts("/score", &point(GAME, 1)).await;
    host.game_after(GAME, "scores", &at)
        .await
        .expect("an output");
    let path = format!("/games/{GAME}/events");
    let mut stream = host
        .request(reqwest::Method::GET, &path)
        .send()
        .await
        .expect("a stream");
    let first = next_event(&mut stream).await.expect("the state as it is");
    assert_eq!(first.1["events"], 1);
    host.terminate();
    assert_eq!(next_event(&mut stream).await, None, "the stream has an end");
    let status = host.ended().await;
    assert!(status.success(), "{status}");
    drop(host);

    let host = place.start_ready().await;
    for seq in 2..=3 {
        let at = host.accepts("/score", &point(GAME, seq)).await;
        host.game_after(GAME, "scores", &at)
            .await
            .expect("an output");
    }
    let mut stream = host
        .request(reqwest::Method::GET, &path)
        .header("last-event-id", first.0)
        .send()
        .await
        .expect("a stream");
    let next = next_event(&mut stream).await.expect("what came since");
    assert_eq!(next.1["events"], 3, "what is superseded is skipped");
    host.stop().await;
}

/// The next server-sent event that has data: its id, and the data.
async fn next_event(stream: &mut reqwest::Response) -> Option<(String, Value)> {
    let mut text = String::new();
    loop {
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            if let (Some(id), Some(data)) = (field("id: "), field("data: ")) {
                return Some((id.to_owned(), serde_json::from_str(data).expect("json")));
            }
        }
        let piece = stream.chunk().await.ok()??;
        text.push_str(std::str::from_utf8(&piece).expect("utf-8"));
    }
}
