//! Operating slots: access, the question to the slot, and the answer.

use std::{net::SocketAddr, time::Duration};

use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Method, Request},
};
use courtside_engine::slots::{
    request::{Answer as Done, RanView, RequestError, RequestKind, RollbackView},
    view::{FileView, LimitsView, SlotState, SlotView},
};
use courtside_log::LogError;
use courtside_plugin_host::Rejection;
use courtside_types::{Digest, slot_name::SlotName};

use super::host::{Answer, PLUGIN_BYTES_MAX, TestHost, Wire};

const SLOT: &str = "/plugins/scores/default";

async fn operate(host: &TestHost, method: Method, path: &str, body: impl Into<Body>) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1:8080")
        .body(body.into())
        .unwrap();
    let peer: SocketAddr = "127.0.0.1:50000".parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(peer));
    host.ask(request).await
}

fn view(slot: &str) -> SlotView {
    SlotView {
        slot: slot.to_owned(),
        pipeline: "scores".to_owned(),
        key: None,
        state: SlotState::Active,
        limits: LimitsView::default(),
        plugin: None,
        since: None,
        takeover: [].into(),
        file: FileView::default(),
        swaps: 1,
        trial_until: None,
        agreed: true,
        hosts: Vec::new(),
        history: Vec::new(),
        swaps_of_group: Vec::new(),
    }
}

fn planned() -> RollbackView {
    let ran = || RanView {
        digest: Some("ab".to_owned()),
        plugin: None,
    };
    RollbackView {
        slot: "scores/default".to_owned(),
        done: false,
        from: ran(),
        to: ran(),
        until: None,
        partitions: [].into(),
        events: 7,
        entities: 1,
        refused: None,
    }
}

fn will_answer(host: &TestHost, answer: Result<Done, RequestError>) {
    *host.operator.answer.lock() = Some(answer);
}

#[tokio::test]
async fn only_the_own_machine_operates() {
    let host = TestHost::new();
    for (method, path) in [
        (Method::PUT, SLOT),
        (Method::PUT, "/plugins/scores/keys/K"),
        (Method::DELETE, "/plugins/scores/keys/K"),
        (Method::POST, "/plugins/scores/default/rollback"),
        (Method::POST, "/plugins/scores/keys/K/rollback"),
        (Method::POST, "/plugins/scores/default/confirm"),
        (Method::POST, "/plugins/scores/keys/K/confirm"),
        (Method::POST, "/plugins/scores/default/restore-file"),
        (Method::POST, "/plugins/scores/keys/K/restore-file"),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1:8080")
            .body(Body::from("bytes"))
            .unwrap();
        let answer = host.ask(request).await;
        answer.is_problem(403, "operating-is-local");
    }
    assert!(host.operator.asked.lock().is_empty());

    // Over a socket, the host knows the address of its client.
    let (address, _) = host.listen().await;
    will_answer(&host, Ok(Done::Slot(Box::new(view("scores/default")))));
    let request =
        format!("POST {SLOT}/confirm HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n");
    Wire::open(address, &request).await.until("200 OK").await;
    let elsewhere = request.replace("localhost", "evil.example");
    Wire::open(address, &elsewhere)
        .await
        .until("operating-is-local")
        .await;
    assert_eq!(host.operator.asked.lock().len(), 1);
}

#[tokio::test]
async fn a_plugin_is_put_where_the_address_says() {
    let host = TestHost::new();
    for (path, slot) in [
        (SLOT, SlotName::Default),
        ("/plugins/scores/keys/a%2Fb", SlotName::of_key(b"a/b")),
    ] {
        will_answer(&host, Ok(Done::Slot(Box::new(view("scores/default")))));
        let answer = operate(&host, Method::PUT, path, "bytes").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["state"], "active");
        let asked = host.operator.asked.lock().pop().unwrap();
        assert_eq!(
            asked,
            ("scores".to_owned(), slot, RequestKind::Put("bytes".into()))
        );
    }
    will_answer(&host, Ok(Done::Slot(Box::new(view("scores/keys/K")))));
    let answer = operate(&host, Method::DELETE, "/plugins/scores/keys/K", "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        host.operator.asked.lock().pop().unwrap().2,
        RequestKind::Remove
    );
    let answer = operate(&host, Method::DELETE, SLOT, "").await;
    answer.is_problem(405, "method-not-allowed");
    let answer = operate(&host, Method::PUT, "/plugins/scores/keys/", "").await;
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn what_cannot_be_put_is_a_problem() {
    let host = TestHost::new();
    let put =
        |path: &'static str, bytes: usize| operate(&host, Method::PUT, path, vec![0_u8; bytes]);
    let answer = put(SLOT, PLUGIN_BYTES_MAX + 1).await;
    answer.is_problem(413, "plugin-too-large");
    assert_eq!(answer.header("connection"), Some("close"));
    let answer = put("/plugins/nothing/default", 1).await;
    answer.is_problem(404, "pipeline-not-found");
    assert!(host.operator.asked.lock().is_empty());

    let rejection = Rejection {
        code: "plugin-rehearsal-failed",
        message: "entity LAL-BOS: open: no".to_owned(),
    };
    let refused = RequestError::Refused {
        code: "plugin-dir-unwritable",
        reason: "read-only".to_owned(),
    };
    let away = LogError::Unavailable {
        reason: "away".to_owned(),
    };
    for (error, status, code) in [
        (
            RequestError::Rejected(rejection),
            422,
            "plugin-rehearsal-failed",
        ),
        (refused, 409, "plugin-dir-unwritable"),
        (RequestError::Log(away), 503, "log-unavailable"),
        (RequestError::Busy, 429, "slots-busy"),
        (RequestError::Stopping, 503, "stopping"),
        (
            RequestError::NoSuchSlot("x".to_owned()),
            404,
            "slot-not-found",
        ),
    ] {
        will_answer(&host, Err(error));
        let problem = put(SLOT, PLUGIN_BYTES_MAX).await.is_problem(status, code);
        if status == 422 {
            assert_eq!(problem["detail"], "entity LAL-BOS: open: no");
        }
    }
}

#[tokio::test]
async fn a_rollback_says_first_what_it_does() {
    let host = TestHost::new();
    let ask = |query: &'static str| {
        let path = format!("/plugins/scores/default/rollback{query}");
        let host = &host;
        async move { operate(host, Method::POST, &path, "").await }
    };
    for (query, what) in [
        ("?dry_run=true", RequestKind::Plan(None)),
        ("", RequestKind::RollBack(None)),
        ("?dry_run=false", RequestKind::RollBack(None)),
        (
            "?digest=2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
            RequestKind::RollBack(Some(Digest::of(b"x"))),
        ),
    ] {
        will_answer(&host, Ok(Done::Rollback(Box::new(planned()))));
        let answer = ask(query).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["events"], 7);
        assert_eq!(host.operator.asked.lock().pop().unwrap().2, what);
    }
    for query in [
        "?dry_run=maybe",
        "?dryrun=true",
        "?digest=x",
        "?dry_run=true&dry_run=true",
    ] {
        ask(query).await.is_problem(400, "invalid-parameter");
    }
    assert!(host.operator.asked.lock().is_empty());
}

#[tokio::test]
async fn what_takes_long_goes_on() {
    let host = TestHost::with(|http, _| http.operate_timeout = Duration::from_millis(20));
    let answer = operate(&host, Method::PUT, SLOT, "bytes").await;
    let problem = answer.is_problem(504, "operate-timeout");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("scores/default"), "{detail}");
}
