//! Streams over real sockets: the beginning, a cut, a slow reader, the end.

use futures_util::StreamExt;

use super::host::{TestHost, Wire};

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n")
}

#[tokio::test]
async fn a_stream_begins_with_the_state_and_goes_on() {
    let host = TestHost::new();
    host.put(0, "a", Some("{\"n\":\n1}"));
    host.put(1, "b", Some("{\"n\":2}"));
    host.caught_up().await;
    let (address, _) = host.listen().await;
    let mut wire = Wire::open(address, &get("/events", "")).await;
    let head = wire.until("retry: 1000\n\n").await;
    assert!(head.contains("content-type: text/event-stream"));
    assert!(!head.contains("content-encoding"));
    let mut games = [wire.until("}\n\n").await, wire.until("}\n\n").await];
    games.sort_by_key(|game| game.contains(":2}"));
    assert!(games[0].contains("event: game\nid: "));
    assert!(
        games[0].contains("\ndata: {\"n\":\ndata: 1}\n\n"),
        "{}",
        games[0]
    );
    assert!(games[1].contains("\ndata: {\"n\":2}\n\n"));
    host.put(1, "b", None);
    let deleted = wire.until("}\n\n").await;
    assert!(
        deleted.contains("event: deleted\nid: 0:0,1:1\ndata: {\"game_id\":\"b\"}\n\n"),
        "{deleted}"
    );
}

#[tokio::test]
async fn after_a_cut_only_what_is_newer_comes() {
    let host = TestHost::new();
    host.put(0, "a", Some("1"));
    host.put(0, "b", Some("2"));
    host.caught_up().await;
    let (address, _) = host.listen().await;
    let mut wire = Wire::open(address, &get("/events", "")).await;
    wire.until("id: 0:1\ndata: 2\n\n").await;
    drop(wire);
    host.put(0, "a", Some("3"));
    host.sees("a", "3").await;
    for request in [
        get("/events", "last-event-id: 0:1\r\n"),
        get("/events?last_event_id=0:1", ""),
        get("/games/a/events?last_event_id=0:1", ""),
    ] {
        let mut wire = Wire::open(address, &request).await;
        wire.until("retry: 1000\n\n").await;
        let game = wire.until("\n\n").await;
        assert!(game.contains("event: game\nid: 0:2\ndata: 3\n\n"), "{game}");
    }
    // The host cannot read this last id, so the client gets everything.
    let mut wire = Wire::open(address, &get("/events", "last-event-id: x\r\n")).await;
    wire.until("data: 2\n\n").await;
    wire.until("data: 3\n\n").await;
}

#[tokio::test]
async fn a_slow_reader_is_spared_what_was_superseded() {
    let host = TestHost::new();
    let value = |n: u32| format!("\"{n}-{}\"", "x".repeat(50_000));
    let (address, _) = host.listen().await;
    let mut wire = Wire::open(address, &get("/events", "")).await;
    wire.until("retry: 1000\n\n").await;
    // The states are far more than the sockets hold, and a read sees every fortieth.
    for n in 0..400 {
        host.put(0, "a", Some(&value(n)));
        if n % 40 == 39 {
            host.sees("a", &value(n)).await;
        }
    }
    let mut states = 0;
    loop {
        states += 1;
        if wire.until("\n\n").await.contains("\"399-") {
            break;
        }
    }
    assert!(states < 400, "{states}");
}

#[tokio::test]
async fn silence_is_broken_by_heartbeats() {
    let host = TestHost::with(|http, _| {
        http.heartbeat = std::time::Duration::from_millis(10);
    });
    host.caught_up().await;
    let (address, _) = host.listen().await;
    let mut wire = Wire::open(address, &get("/games/none/events", "")).await;
    wire.until("retry: 1000\n\n").await;
    wire.until("\n:\n\n").await;
    wire.until("\n:\n\n").await;
}

#[tokio::test]
async fn streams_end_when_the_host_stops() {
    let host = TestHost::new();
    host.put(0, "a", Some("1"));
    let (address, served) = host.listen().await;
    let mut sse = Wire::open(address, &get("/events", "")).await;
    sse.until("data: 1\n\n").await;
    let mut ws = Wire::open(address, &get("/ws", HANDSHAKE)).await;
    ws.until("\"data\":1}").await;
    let idle = Wire::open(address, "").await;
    host.shutdown.cancel();
    served.await.unwrap();
    assert!(sse.rest().await.ends_with("0\r\n\r\n"));
    assert!(ws.rest().await.contains("come back with your last id"));
    assert_eq!(idle.rest().await, "");
}

const HANDSHAKE: &str = "connection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";

#[tokio::test]
async fn a_websocket_says_the_same() {
    let host = TestHost::new();
    host.put(0, "a", Some("{\"n\":1}"));
    host.put(0, "b", Some("2"));
    host.caught_up().await;
    let (address, _) = host.listen().await;
    let mut wire = Wire::open(address, &get("/ws", HANDSHAKE)).await;
    assert!(wire.until("\r\n\r\n").await.starts_with("HTTP/1.1 101"));
    wire.until(r#"{"id":"0:0","event":"game","key":"a","data":{"n":1}}"#)
        .await;
    wire.until(r#"{"id":"0:1","event":"game","key":"b","data":2}"#)
        .await;
    host.put(0, "a", None);
    wire.until(r#"{"id":"0:2","event":"deleted","key":"a","data":{"game_id":"a"}}"#)
        .await;

    let mut wire = Wire::open(address, &get("/games/b/ws?last_event_id=0:0", HANDSHAKE)).await;
    wire.until(r#"{"id":"0:1","event":"game","key":"b","data":2}"#)
        .await;

    let headers = format!("origin: http://evil.example\r\n{HANDSHAKE}");
    let mut wire = Wire::open(address, &get("/ws", &headers)).await;
    wire.until("origin-not-allowed").await;
}

#[tokio::test]
async fn a_stream_costs_nothing_once_its_client_is_gone() {
    let host = TestHost::new();
    let response = {
        use axum::{body::Body, http::Request};
        let request = Request::get("/events").body(Body::empty()).unwrap();
        tower::ServiceExt::oneshot(host.router(), request)
            .await
            .unwrap()
    };
    let holders = std::sync::Arc::strong_count(host.host.scoreboard.board("scores").unwrap());
    let mut body = response.into_body().into_data_stream();
    body.next().await.unwrap().unwrap();
    drop(body);
    let now = std::sync::Arc::strong_count(host.host.scoreboard.board("scores").unwrap());
    assert_eq!(now, holders - 1);
}
