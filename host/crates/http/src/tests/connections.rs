//! Clients that cut, stall, half close or crowd their connections.

use std::time::Duration;

use courtside_types::failure::ErrorCode as _;
use tokio::io::AsyncWriteExt;

use super::host::{GOOD, INPUT, TestHost, Wire};
use crate::{BindError, bind};

fn head(length: usize) -> String {
    format!(
        "POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_body_that_is_cut_appends_nothing() {
    let host = TestHost::new();
    let (address, _) = host.listen().await;
    // The JSON is whole, but 10 bytes of the announced length are missing.
    let mut wire = Wire::open(address, &format!("{}{GOOD}", head(GOOD.len() + 10))).await;
    wire.stream.shutdown().await.unwrap();
    wire.rest().await;
    let chunked = "POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\n\
        transfer-encoding: chunked\r\n\r\n";
    let request = format!("{chunked}{:x}\r\n{GOOD}\n\r\n", GOOD.len() + 1);
    let mut wire = Wire::open(address, &request).await;
    wire.stream.shutdown().await.unwrap();
    wire.rest().await;
    assert_eq!(host.log.len(INPUT), 0);

    // A cut body leaves the host able to take the next one.
    let mut wire = Wire::open(address, &format!("{}{GOOD}", head(GOOD.len()))).await;
    wire.until("200 OK").await;
    assert_eq!(host.log.len(INPUT), 1);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let host = TestHost::with(|http, _| http.body_timeout = Duration::from_millis(30));
    let (address, _) = host.listen().await;
    let wire = Wire::open(address, &format!("{}{GOOD}", head(GOOD.len() + 10))).await;
    let answer = wire.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("\"code\":\"body-timeout\""));
    assert_eq!(host.log.len(INPUT), 0);
}

#[tokio::test]
async fn a_body_in_pieces_is_put_together() {
    let host = TestHost::new();
    let (address, _) = host.listen().await;
    let body = format!("[{}]", [GOOD; 300].join(","));
    let mut wire = Wire::open(address, &head(body.len())).await;
    for piece in body.as_bytes().chunks(1_000) {
        wire.stream.write_all(piece).await.unwrap();
        wire.stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    wire.until("200 OK").await;
    let records = host.log.records(INPUT);
    assert_eq!(records.len(), 300);
    assert!(
        records
            .iter()
            .all(|record| record.value.as_deref() == Some(GOOD.as_bytes()))
    );
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let host = TestHost::with(|http, _| http.idle_timeout = Duration::from_millis(100));
    let (address, _) = host.listen().await;
    let wire = Wire::open(address, "GET /healthz HTTP/1.1\r\nhost: ").await;
    let answer = wire.rest().await;
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[tokio::test]
async fn one_connection_more_than_may_be_waits() {
    let host = TestHost::with(|http, _| http.connections_max = 1);
    let (address, _) = host.listen().await;
    let request = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut first = Wire::open(address, request).await;
    first.until("ok\n").await;
    let second = tokio::spawn(async move {
        let mut second = Wire::open(address, request).await;
        second.until("ok\n").await;
    });
    first.stream.write_all(request.as_bytes()).await.unwrap();
    first.until("ok\n").await;
    assert!(!second.is_finished());
    drop(first);
    second.await.unwrap();
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_let_go() {
    let host = TestHost::with(|http, _| {
        http.write_timeout = Duration::from_millis(100);
        http.connections_max = 1;
    });
    let (address, _) = host.listen().await;
    let mut wire = Wire::open(address, "GET /events HTTP/1.1\r\nhost: x\r\n\r\n").await;
    wire.until("retry: 1000\n\n").await;
    // Each game has one state, so nothing is superseded and more is written than fits.
    let value = format!("\"{}\"", "x".repeat(60_000));
    for game in 0..400 {
        host.put(0, &format!("g{game}"), Some(&value));
    }
    // The only connection is free again.
    let mut other = Wire::open(address, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    other.until("ok\n").await;
}

#[tokio::test]
async fn a_request_under_way_is_answered_when_the_host_stops() {
    let host = TestHost::new();
    let (address, served) = host.listen().await;
    let mut wire = Wire::open(address, &head(GOOD.len())).await;
    wire.stream.write_all(&GOOD.as_bytes()[..10]).await.unwrap();
    // The host sees the request before it stops, so the request is under way.
    tokio::time::sleep(Duration::from_millis(50)).await;
    host.shutdown.cancel();
    wire.stream.write_all(&GOOD.as_bytes()[10..]).await.unwrap();
    assert!(wire.rest().await.starts_with("HTTP/1.1 200 OK"));
    served.await.unwrap();
    assert_eq!(host.log.len(INPUT), 1);
}

/// A client may close its side after its request, and must still get the answer.
#[tokio::test]
async fn a_client_that_closes_its_side_gets_its_answer() {
    let host = TestHost::new();
    host.caught_up().await;
    let (address, _) = host.listen().await;
    let mut posted = Vec::new();
    for _ in 0..40 {
        let mut wire = Wire::open(address, &format!("{}{GOOD}", head(GOOD.len()))).await;
        wire.stream.shutdown().await.unwrap();
        posted.push(wire);
    }
    let mut partition = 0;
    for wire in posted {
        let answer = wire.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let place: serde_json::Value = serde_json::from_str(body).unwrap();
        partition = u32::try_from(place["partition"].as_u64().unwrap()).unwrap();
    }
    assert_eq!(host.log.len(INPUT), 40);
    // An answer that comes long after the end of the request arrives, too.
    let request = format!("GET /games/LAL-BOS?after={partition}:39 HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut asked = Vec::new();
    for _ in 0..40 {
        let mut wire = Wire::open(address, &request).await;
        wire.stream.shutdown().await.unwrap();
        asked.push(wire);
    }
    // The host accepts a later connection only after these.
    let mut other = Wire::open(address, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    other.until("ok\n").await;
    host.put(0, "LAL-BOS", Some("{}"));
    host.log.commit(partition, 40);
    for wire in asked {
        let answer = wire.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_stream_goes_on_for_a_reader_that_closes_its_side() {
    let host = TestHost::new();
    let (address, _) = host.listen().await;
    let mut wire = Wire::open(address, "GET /events HTTP/1.1\r\nhost: x\r\n\r\n").await;
    wire.stream.shutdown().await.unwrap();
    wire.until("retry: 1000\n\n").await;
    for number in 0..3 {
        host.put(0, "LAL-BOS", Some(&format!("{{\"n\":{number}}}")));
        wire.until(&format!("{{\"n\":{number}}}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_port_that_is_let_go_of_within_the_wait_is_taken() {
    let held = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = held.local_addr().unwrap();
    let asked = tokio::spawn(bind(address));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!asked.is_finished());
    drop(held);
    let listener = asked.await.unwrap().unwrap();
    assert_eq!(listener.local_addr().unwrap(), address);
}

#[tokio::test(start_paused = true)]
async fn a_port_that_is_taken_is_said_so() {
    let taken = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let error = bind(taken.local_addr().unwrap()).await.unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }));
    assert_eq!(error.code(), "listen-address-in-use");
    let nowhere = bind("192.0.2.1:0".parse().unwrap()).await.unwrap_err();
    assert_eq!(nowhere.code(), "listen-failed");
}
