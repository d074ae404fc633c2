//! Reads of games, the page, the operator's questions, and unknown routes.

use axum::{body::Body, http::Request};
use courtside_engine::slots::view::GroupsView;
use courtside_types::NotReady;
use serde_json::{Value, json};

use super::host::{GOOD, OUTPUT, TestHost};

#[tokio::test]
async fn a_game_is_its_output_as_committed() {
    let host = TestHost::new();
    host.put(1, "LAL BOS", Some("{\"points\" : 1,\n\"x\":2}"));
    host.caught_up().await;
    let answer = host.get("/games/LAL%20BOS").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, "{\"points\" : 1,\n\"x\":2}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("courtside-position"), Some("1:0"));
    assert_eq!(answer.header("courtside-plugin"), Some("nba-scoring/0.1.0"));
    assert_eq!(answer.header("courtside-source"), Some("NBA-Games/0/5"));
    assert_eq!(answer.header("courtside-digest"), None);
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let etag = answer.header("etag").unwrap().to_owned();

    let again = async |etag: &str| {
        let request = Request::get("/games/LAL%20BOS")
            .header("if-none-match", etag)
            .body(Body::empty())
            .unwrap();
        host.ask(request).await
    };
    let known = again(&format!("\"other\", W/{etag}")).await;
    assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
    assert_eq!(known.header("etag"), Some(&*etag));
    assert_eq!(again("\"other\"").await.status, 200);

    host.get("/games/none")
        .await
        .is_problem(404, "game-not-found");
    host.get("/games/%ff").await.is_problem(400, "invalid-path");
}

#[tokio::test]
async fn an_output_that_is_no_json_is_bytes() {
    let host = TestHost::new();
    host.put(0, "g", Some("<b>"));
    host.caught_up().await;
    let answer = host.get("/games/g").await;
    assert_eq!(answer.body, "<b>");
    assert_eq!(
        answer.header("content-type"),
        Some("application/octet-stream")
    );
    let page = host.get("/games").await.json();
    assert_eq!(
        page,
        json!({"games": [{"hex": "3c623e"}], "keys": ["g"], "next": null})
    );
}

#[tokio::test]
async fn pages_of_games() {
    let host = TestHost::new();
    for game in 0..7 {
        host.put(game % 2, &format!("g{game}"), Some(&game.to_string()));
    }
    host.put(0, "g4", None);
    host.caught_up().await;
    let mut path = "/games?limit=2".to_owned();
    let mut games = Vec::new();
    loop {
        let page = host.get(&path).await.json();
        games.extend(page["games"].as_array().unwrap().clone());
        match &page["next"] {
            Value::String(next) => path = format!("/games?limit=2&cursor={next}"),
            next => {
                assert_eq!(*next, Value::Null);
                break;
            }
        }
    }
    assert_eq!(Value::from(games), json!([0, 1, 2, 3, 5, 6]));
    let other = host.get("/games?pipeline=bets").await.json();
    assert_eq!(other, json!({"games": [], "keys": [], "next": null}));
}

#[tokio::test]
async fn bad_parameters_are_named() {
    let host = TestHost::new();
    for (path, field) in [
        ("/games?limit=0", "limit"),
        ("/games?limit=1001", "limit"),
        ("/games?limit=ten", "limit"),
        ("/games?cursor=xyz", "cursor"),
        ("/games?after=7", "after"),
        ("/games/g?after=a:b", "after"),
        ("/games?limt=1", "limt"),
        ("/games?limit=1&limit=2", "limit"),
        ("/events?after=0:1", "after"),
    ] {
        let problem = host.get(path).await.is_problem(400, "invalid-parameter");
        assert_eq!(problem["field"], field, "{path}");
    }
    let answer = host.get("/games?pipeline=none").await;
    answer.is_problem(404, "pipeline-not-found");
    let answer = host.get("/games?after=9:0").await;
    assert_eq!(
        answer.is_problem(400, "no-such-partition")["field"],
        "after"
    );
}

#[tokio::test]
async fn a_read_sees_its_write() {
    let host = TestHost::with(|http, _| {
        http.read_after_timeout = std::time::Duration::from_millis(300);
    });
    host.caught_up().await;
    let place = host.post("/score", "application/json", GOOD).await.json();
    let after = format!("{}:{}", place["partition"], place["offset"]);
    let path = format!("/games/LAL-BOS?after={after}");
    host.get(&path).await.is_problem(504, "read-after-timeout");
    host.put(0, "LAL-BOS", Some("{}"));
    let partition = place["partition"].as_u64().unwrap();
    host.log.commit(u32::try_from(partition).unwrap(), 1);
    // On a busy machine this may take longer than `read_after_timeout`.
    host.sees(&path["/games/".len()..], "{}").await;
    assert_eq!(host.get(&format!("/games?after={after}")).await.status, 200);
}

#[tokio::test]
async fn readiness_says_why_not() {
    let host = TestHost::new();
    host.caught_up().await;
    let ready = host.get("/readyz").await;
    assert_eq!(ready.status, 200);
    assert_eq!(ready.json(), json!({"ready": true, "reasons": []}));

    host.operator.not_ready.lock().push(NotReady {
        code: "no-plugin".to_owned(),
        reason: "scores waits".to_owned(),
    });
    host.log.set_read_only(true);
    host.shutdown.cancel();
    let not = host.get("/readyz").await;
    assert_eq!(not.status, 503);
    let answer = not.json();
    let reasons = answer["reasons"].as_array().unwrap();
    let codes: Vec<_> = reasons.iter().map(|reason| &reason["code"]).collect();
    assert_eq!(codes, ["no-plugin", "disk-full", "stopping"]);
    assert_eq!(host.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn what_is_not_there_is_a_problem() {
    let host = TestHost::new();
    host.get("/nothing").await.is_problem(404, "not-found");
    let answer = host.get("/score").await;
    answer.is_problem(405, "method-not-allowed");
    assert_eq!(answer.header("allow"), Some("POST"));
    let answer = host.post("/games", "application/json", "{}").await;
    answer.is_problem(405, "method-not-allowed");
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
    host.get("/events/scores")
        .await
        .is_problem(405, "method-not-allowed");
    host.get("/ws").await.is_problem(400, "websocket-required");
}

#[tokio::test]
async fn a_panic_is_a_problem() {
    let host = TestHost::new();
    host.get("/group").await.is_problem(500, "internal-error");
}

#[tokio::test]
async fn the_page_may_load_only_what_is_here() {
    let host = TestHost::new();
    for path in ["/", "/app.js", "/style.css", "/favicon.svg"] {
        let answer = host.get(path).await;
        assert_eq!(answer.status, 200);
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let request = Request::get(path)
            .header("if-none-match", answer.header("etag").unwrap())
            .body(Body::empty())
            .unwrap();
        assert_eq!(host.ask(request).await.status, 304);
    }
}

#[tokio::test]
async fn the_description_names_every_route() {
    let host = TestHost::new();
    let described = host.get("/openapi.json").await.json();
    let paths: Vec<_> = described["paths"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert_eq!(
        paths,
        [
            "/backup",
            "/dead-letters/{pipeline}",
            "/dead-letters/{pipeline}/redrive",
            "/dead-letters/{pipeline}/{partition}/{offset}",
            "/events",
            "/events/{pipeline}",
            "/games",
            "/games/{id}",
            "/games/{id}/events",
            "/games/{id}/ws",
            "/group",
            "/healthz",
            "/metrics",
            "/openapi.json",
            "/pipelines/{pipeline}/checkpoints/{key}",
            "/pipelines/{pipeline}/events/{key}",
            "/pipelines/{pipeline}/outputs/{key}",
            "/pipelines/{pipeline}/plugins/{file}",
            "/plugins",
            "/plugins/{pipeline}/default",
            "/plugins/{pipeline}/default/confirm",
            "/plugins/{pipeline}/default/restore-file",
            "/plugins/{pipeline}/default/rollback",
            "/plugins/{pipeline}/keys/{key}",
            "/plugins/{pipeline}/keys/{key}/confirm",
            "/plugins/{pipeline}/keys/{key}/restore-file",
            "/plugins/{pipeline}/keys/{key}/rollback",
            "/readyz",
            "/score",
            "/ws",
        ]
    );
    assert!(described["components"]["schemas"]["ScoreEvent"].is_object());
    assert_eq!(described["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(host.get("/plugins").await.json(), json!({"slots": []}));
}

#[tokio::test]
async fn requests_are_counted() {
    let recorder = crate::prometheus().unwrap().build_recorder();
    let mut host = TestHost::new();
    host.host.metrics = recorder.handle();
    *host.operator.groups.lock() = Some(GroupsView { groups: Vec::new() });
    let _recording = metrics::set_default_local_recorder(&recorder);
    crate::describe();
    host.post("/score", "application/json", GOOD).await;
    host.post("/score", "application/json", "{").await;
    let metrics = String::from_utf8(host.get("/metrics").await.body.to_vec()).unwrap();
    for line in [
        r#"courtside_http_requests_total{method="POST",route="/score",status="200"} 1"#,
        r#"courtside_http_requests_total{method="POST",route="/score",status="400"} 1"#,
        r#"courtside_ingest_events_total{pipeline="scores"} 1"#,
        r#"courtside_ingest_refused_total{pipeline="scores",code="invalid-json"} 1"#,
        r#"courtside_http_request_duration_seconds_count{method="POST",route="/score"} 2"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_wants_it() {
    let host = TestHost::new();
    for game in 0..50 {
        host.put(
            0,
            &format!("g{game}"),
            Some(&format!("\"{}\"", "x".repeat(100))),
        );
    }
    host.caught_up().await;
    let request = |path: &str| {
        Request::get(path)
            .header("accept-encoding", "gzip")
            .body(Body::empty())
            .unwrap()
    };
    let page = host.ask(request("/games")).await;
    assert_eq!(page.header("content-encoding"), Some("gzip"));
    assert!(page.body.len() < 1_000);
    let one = host.ask(request("/games/g1")).await;
    assert_eq!(one.header("content-encoding"), None);
    assert_eq!(host.log.len(OUTPUT), 50);
}
