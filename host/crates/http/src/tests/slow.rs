//! Readers that are slow, that stop, and that are too many.

use std::{net::SocketAddr, time::Duration};

use axum::{body::Body, http::Request};
use futures_util::StreamExt as _;
use tokio::{io::AsyncWriteExt as _, net::TcpSocket};
use tower::ServiceExt as _;

use super::host::{TestHost, Wire};
use crate::ingest::testing::eventually;

const HANDSHAKE: &str = "connection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n")
}

fn large(n: usize) -> String {
    format!("\"{n}-{}\"", "x".repeat(60_000))
}

/// Only a few outputs wait for a reader, however many there are.
#[tokio::test]
async fn what_is_put_together_for_a_reader_is_bounded() {
    const GAMES: usize = 200;
    let host = TestHost::new();
    for game in 0..GAMES {
        host.put(0, &format!("g{game}"), Some(&large(game)));
    }
    host.caught_up().await;
    let request = Request::get("/events").body(Body::empty()).unwrap();
    let response = host.router().oneshot(request).await.unwrap();
    let mut body = response.into_body().into_data_stream();
    let mut events = 0;
    while events < GAMES {
        let chunk = body.next().await.unwrap().unwrap();
        assert!(chunk.len() < 70_000, "{}", chunk.len());
        events += chunk.windows(7).filter(|part| part == b"event: ").count();
    }
    assert_eq!(events, GAMES);

    // A page of games is bounded, too, and the next page goes on from it.
    let mut games = 0;
    let mut cursor = String::new();
    loop {
        let page = host.get(&format!("/games?limit=1000{cursor}")).await;
        assert!(page.body.len() < 9 << 20, "{}", page.body.len());
        let page = page.json();
        games += page["games"].as_array().unwrap().len();
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(games, GAMES);
}

/// A client with a receive buffer of 4 KiB.
async fn small(address: SocketAddr, request: &str) -> tokio::net::TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// A reader of all games or of one stops for a while. Afterwards it gets a few states
/// that were on their way, and then the latest.
#[tokio::test]
async fn who_stopped_for_long_gets_the_latest_soon() {
    const STATES: usize = 1_000;
    let host = TestHost::with(|http, _| http.write_timeout = Duration::from_secs(600));
    host.caught_up().await;
    let (address, _) = host.listen().await;
    let mut readers = Vec::new();
    for path in ["/events", "/games/a/events", "/ws", "/games/a/ws"] {
        let headers = if path.ends_with("ws") { HANDSHAKE } else { "" };
        readers.push(Wire {
            stream: small(address, &get(path, headers)).await,
            read: String::new(),
        });
    }
    for n in 0..STATES {
        host.put(0, "a", Some(&large(n)));
        if n % 10 == 9 {
            host.sees("a", &large(n)).await;
        }
    }
    for reader in &mut readers {
        let mut states = 0;
        while !reader
            .until("-xxx")
            .await
            .contains(&format!("\"{}-xxx", STATES - 1))
        {
            states += 1;
        }
        // The host holds 64 KiB in the kernel, as much in the connection and one
        // state, which is far less than all that was written.
        assert!(states < 100, "{states}");
    }
}

#[tokio::test]
async fn a_websocket_that_takes_nothing_is_let_go() {
    let host = TestHost::with(|http, _| http.write_timeout = Duration::from_millis(100));
    let (address, _) = host.listen().await;
    let board = host.host.scoreboard.board("scores").unwrap();
    let before = std::sync::Arc::strong_count(board);
    let client = small(address, &get("/ws", HANDSHAKE)).await;
    eventually("it is there", || {
        std::sync::Arc::strong_count(board) > before
    })
    .await;
    // Each game has one state, so nothing is superseded and more is written than fits.
    for game in 0..400 {
        host.put(0, &format!("g{game}"), Some(&large(game)));
    }
    eventually("it is gone", || {
        std::sync::Arc::strong_count(board) == before
    })
    .await;
    drop(client);
}

#[tokio::test]
async fn one_subscriber_more_than_may_be_is_told() {
    let host = TestHost::with(|http, _| http.subscribers_max = 2);
    let (address, _) = host.listen().await;
    let mut first = Wire::open(address, &get("/events", "")).await;
    first.until("retry: 1000\n\n").await;
    let mut second = Wire::open(address, &get("/ws", HANDSHAKE)).await;
    second.until("\r\n\r\n").await;
    for request in [get("/games/a/events", ""), get("/games/a/ws", HANDSHAKE)] {
        let mut third = Wire::open(address, &request).await;
        let answer = third.until("}").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("\r\nretry-after: 5\r\n"), "{answer}");
        assert!(
            answer.contains("\"code\":\"too-many-subscribers\""),
            "{answer}"
        );
    }
    // Other requests still work, and a place is free again once its reader is gone.
    let mut other = Wire::open(address, &get("/healthz", "")).await;
    other.until("ok\n").await;
    drop(first);
    loop {
        let mut next = Wire::open(address, &get("/events", "")).await;
        if next.until("\r\n\r\n").await.starts_with("HTTP/1.1 200") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Streams never have all the connections.
#[test]
fn a_quarter_of_the_connections_is_for_others() {
    let of = |connections_max, subscribers_max| {
        let config = crate::HttpConfig {
            connections_max,
            subscribers_max,
            ..Default::default()
        };
        config.subscribers()
    };
    assert_eq!(of(16_384, 12_288), 12_288);
    assert_eq!(of(1_000, 12_288), 750);
    assert_eq!(of(1_000, 10), 10);
    assert_eq!(of(1, 10), 1);
}
