//! Access: every route, with every kind of token; and CORS.

use std::time::Duration;

use axum::{body::Body, http::Request};
use courtside_types::Digest;
use serde_json::Value;

use super::host::{Answer, GOOD, TestHost};
use crate::{Access, AccessConfig, Scope, Token, openapi};

/// The description that the docs have, for a host with tokens.
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/openapi.json");

fn tokens(anonymous: &[Scope]) -> Access {
    let token = |scope: Scope| Token {
        name: scope.to_string(),
        scopes: vec![scope],
        sha256: Digest::of(format!("secret-{scope}").as_bytes()),
    };
    Access::open(&AccessConfig {
        tokens: [Scope::Write, Scope::Read, Scope::Operate]
            .map(token)
            .into(),
        anonymous: anonymous.to_vec(),
        ..AccessConfig::default()
    })
    .unwrap()
}

fn host(anonymous: &[Scope]) -> TestHost {
    let mut host = TestHost::with(|http, _| {
        // The operator of tests answers nothing by itself.
        http.operate_timeout = Duration::from_millis(10);
    });
    host.host.access = tokens(anonymous);
    host
}

async fn ask(host: &TestHost, method: &str, path: &str, token: Option<&str>) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let body = if method == "GET" { "" } else { "x" };
    host.ask(request.body(Body::from(body)).unwrap()).await
}

/// The scope that each operation needs. A new route fails the test until somebody adds
/// its scope to this table.
const NEEDS: &[(&str, &str, Option<&str>)] = &[
    ("POST", "/score", Some("write")),
    ("POST", "/events/{pipeline}", Some("write")),
    ("GET", "/games", Some("read")),
    ("GET", "/games/{id}", Some("read")),
    ("GET", "/games/{id}/events", Some("read")),
    ("GET", "/games/{id}/ws", Some("read")),
    ("GET", "/events", Some("read")),
    ("GET", "/ws", Some("read")),
    ("GET", "/plugins", Some("read")),
    ("GET", "/group", Some("read")),
    ("GET", "/metrics", Some("read")),
    ("GET", "/dead-letters/{pipeline}", Some("read")),
    (
        "GET",
        "/dead-letters/{pipeline}/{partition}/{offset}",
        Some("read"),
    ),
    ("GET", "/dead-letters/{pipeline}/redrive", Some("read")),
    ("POST", "/dead-letters/{pipeline}/redrive", Some("operate")),
    ("GET", "/pipelines/{pipeline}/events/{key}", Some("read")),
    ("GET", "/pipelines/{pipeline}/outputs/{key}", Some("read")),
    (
        "GET",
        "/pipelines/{pipeline}/checkpoints/{key}",
        Some("read"),
    ),
    ("GET", "/pipelines/{pipeline}/plugins/{file}", Some("read")),
    ("GET", "/backup", Some("operate")),
    ("PUT", "/plugins/{pipeline}/default", Some("operate")),
    (
        "POST",
        "/plugins/{pipeline}/default/rollback",
        Some("operate"),
    ),
    (
        "POST",
        "/plugins/{pipeline}/default/confirm",
        Some("operate"),
    ),
    ("PUT", "/plugins/{pipeline}/keys/{key}", Some("operate")),
    ("DELETE", "/plugins/{pipeline}/keys/{key}", Some("operate")),
    (
        "POST",
        "/plugins/{pipeline}/keys/{key}/rollback",
        Some("operate"),
    ),
    (
        "POST",
        "/plugins/{pipeline}/keys/{key}/confirm",
        Some("operate"),
    ),
    (
        "POST",
        "/plugins/{pipeline}/default/restore-file",
        Some("operate"),
    ),
    (
        "POST",
        "/plugins/{pipeline}/keys/{key}/restore-file",
        Some("operate"),
    ),
    ("GET", "/openapi.json", None),
    ("GET", "/healthz", None),
    ("GET", "/readyz", None),
];

/// Method, path and operation of every entry in the description.
fn operations(api: &Value) -> Vec<(String, String, Value)> {
    let paths = api["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        let item = item.as_object().unwrap();
        item.iter().map(move |(method, operation)| {
            (method.to_uppercase(), path.clone(), operation.clone())
        })
    });
    operations.collect()
}

fn described(anonymous: &[Scope]) -> Value {
    serde_json::to_value(openapi(&tokens(anonymous))).unwrap()
}

fn needed(method: &str, path: &str) -> Option<&'static str> {
    let row = NEEDS.iter().find(|row| (row.0, row.1) == (method, path));
    row.unwrap_or_else(|| panic!("what does {method} {path} need?"))
        .2
}

/// An address of that route, where the host has nothing.
fn address(path: &str) -> String {
    path.replace("{partition}", "1")
        .replace("{offset}", "7")
        .replace("{pipeline}", "none")
        .replace(['{', '}'], "")
}

#[tokio::test]
async fn every_route_needs_its_scope_and_no_other() {
    let host = host(&[]);
    let api = described(&[]);
    let operations = operations(&api);
    assert_eq!(operations.len(), NEEDS.len(), "a row too many");
    for (method, path, operation) in operations {
        let (needs, at) = (needed(&method, &path), address(&path));
        let security = needs.map(|scope| serde_json::json!([{ "token": [scope] }]));
        assert_eq!(
            operation.get("security"),
            security.as_ref(),
            "{method} {path}"
        );
        for scope in ["write", "read", "operate"] {
            // A stream of all games never ends.
            if needs == Some(scope) && matches!(&*path, "/events" | "/games/{id}/events") {
                continue;
            }
            // The operator of tests has no groups, without which these routes may panic.
            if needs == Some(scope) && matches!(&*path, "/group" | "/metrics") {
                continue;
            }
            let answer = ask(&host, &method, &at, Some(&format!("secret-{scope}"))).await;
            match needs {
                Some(needs) if needs != scope => {
                    answer.is_problem(403, "scope-missing");
                    let challenge = answer.header("www-authenticate").unwrap();
                    assert!(
                        challenge.contains(&format!("scope=\"{needs}\"")),
                        "{challenge}"
                    );
                }
                _ => assert!(
                    !matches!(answer.status.as_u16(), 401 | 403),
                    "{method} {path}"
                ),
            }
        }
        for wrong in [None, Some("none"), Some("secret-"), Some("secret-read2")] {
            let answer = ask(&host, &method, &at, wrong).await;
            let Some(_) = needs else {
                assert_ne!(answer.status, 401, "{method} {path}");
                continue;
            };
            let code = if wrong.is_none() {
                "token-required"
            } else {
                "token-invalid"
            };
            answer.is_problem(401, code);
            let challenge = answer.header("www-authenticate").unwrap();
            assert!(challenge.starts_with("Bearer "), "{challenge}");
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(wrong.is_none_or(|wrong| !text.contains(wrong)), "{text}");
        }
    }
    // Each route that operates asks the operator, except a PUT: it finds no pipeline.
    assert_eq!(host.operator.asked.lock().len(), 7);
}

#[tokio::test]
async fn the_page_and_what_is_not_there_need_no_token() {
    let host = host(&[]);
    for path in ["/", "/app.js", "/store.js", "/style.css", "/favicon.svg"] {
        assert_eq!(ask(&host, "GET", path, None).await.status, 200, "{path}");
    }
    ask(&host, "GET", "/none", None)
        .await
        .is_problem(404, "not-found");
    ask(&host, "DELETE", "/score", None)
        .await
        .is_problem(405, "method-not-allowed");
    let head = Request::head("/games").body(Body::empty()).unwrap();
    assert_eq!(host.ask(head).await.status, 401);
}

#[tokio::test]
async fn what_is_anonymous_is_open_and_described_so() {
    let host = host(&[Scope::Read]);
    host.caught_up().await;
    assert_eq!(ask(&host, "GET", "/games", None).await.status, 200);
    let stale = ask(&host, "GET", "/games", Some("stale")).await;
    stale.is_problem(401, "token-invalid");
    let write = ask(&host, "POST", "/score", None).await;
    write.is_problem(401, "token-required");
    assert_eq!(
        write.header("connection"),
        Some("close"),
        "its body was not read"
    );
    for (method, path, operation) in operations(&described(&[Scope::Read])) {
        let expected = match needed(&method, &path) {
            None => Value::Null,
            Some("read") => serde_json::json!([{}, { "token": ["read"] }]),
            Some(scope) => serde_json::json!([{ "token": [scope] }]),
        };
        assert_eq!(operation["security"], expected, "{method} {path}");
    }
}

#[tokio::test]
async fn without_tokens_it_is_as_open_as_it_says() {
    let host = TestHost::new();
    let api: Value = host.get("/openapi.json").await.json();
    for (method, path, operation) in operations(&api) {
        assert_eq!(operation.get("security"), None, "{method} {path}");
        assert_eq!(operation["responses"].get("401"), None, "{method} {path}");
        if needed(&method, &path) == Some("operate") {
            let answer = ask(&host, &method, &address(&path), None).await;
            answer.is_problem(403, "operating-is-local");
            assert!(
                operation["responses"].get("403").is_some(),
                "{method} {path}"
            );
        }
    }
    assert_eq!(api["components"].get("securitySchemes"), None);
    // A client with a token for another host may do as much as one without.
    host.caught_up().await;
    assert_eq!(ask(&host, "GET", "/games", Some("any")).await.status, 200);
    let posted = host.post("/score", "application/json", GOOD).await;
    assert_eq!(posted.status, 200);
}

const SITE: &str = "https://scores.example";

/// A host with tokens, whose games pages of these origins may read.
fn read_by_pages_of(origins: &[&str]) -> TestHost {
    let mut host = TestHost::with(|http, _| {
        http.cors_origins = origins.iter().map(|&origin| origin.to_owned()).collect();
    });
    host.host.access = tokens(&[]);
    host
}

/// A request that a browser sends for a page of this origin.
async fn ask_for_page(host: &TestHost, method: &str, origin: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri("/games")
        .header("origin", origin)
        .header("authorization", "Bearer secret-read")
        .header("access-control-request-method", "GET")
        .header(
            "access-control-request-headers",
            "authorization,last-event-id",
        );
    host.ask(request.body(Body::empty()).unwrap()).await
}

async fn confirm_for_page(host: &TestHost) -> Answer {
    let request = Request::post("/plugins/scores/default/confirm")
        .header("origin", SITE)
        .header("authorization", "Bearer secret-operate");
    host.ask(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn pages_of_other_sites_read_where_they_are_listed() {
    const ALLOWED: &str = "access-control-allow-origin";

    let host = read_by_pages_of(&[]);
    assert_eq!(ask_for_page(&host, "GET", SITE).await.header(ALLOWED), None);
    assert_eq!(ask_for_page(&host, "OPTIONS", SITE).await.status, 405);

    let host = read_by_pages_of(&[SITE]);
    host.caught_up().await;
    let read = ask_for_page(&host, "GET", SITE).await;
    assert_eq!(
        (read.status.as_u16(), read.header(ALLOWED)),
        (200, Some(SITE))
    );
    let vary = read.headers.get_all("vary").iter();
    assert!(
        vary.into_iter()
            .any(|vary| vary.to_str().unwrap().contains("origin"))
    );
    assert!(
        read.header("access-control-expose-headers")
            .unwrap()
            .contains("etag")
    );
    // Browsers send a preflight first, without a token.
    let before = ask_for_page(&host, "OPTIONS", SITE).await;
    assert_eq!(
        (before.status.as_u16(), before.header(ALLOWED)),
        (200, Some(SITE))
    );
    assert_eq!(
        before.header("access-control-allow-methods"),
        Some("GET,HEAD")
    );
    let headers = before.header("access-control-allow-headers").unwrap();
    assert!(headers.contains("authorization") && headers.contains("last-event-id"));
    assert_eq!(before.header("access-control-allow-credentials"), None);
    // The answer above lets browsers send a plain POST with a token, too, although it
    // allows only GET and HEAD.
    let refused = confirm_for_page(&host).await;
    refused.is_problem(403, "origin-not-allowed");
    assert!(host.operator.asked.lock().is_empty());
    for origin in ["https://evil.example", "http://scores.example", "null"] {
        assert_eq!(
            ask_for_page(&host, "GET", origin).await.header(ALLOWED),
            None,
            "{origin}"
        );
    }
    let host = read_by_pages_of(&["*"]);
    let any = ask_for_page(&host, "GET", "https://evil.example").await;
    assert_eq!(any.header(ALLOWED), Some("*"));
    confirm_for_page(&host)
        .await
        .is_problem(403, "origin-not-allowed");
}

/// With `COURTSIDE_TEST_WRITE=1` the test writes the file instead.
#[test]
fn the_docs_have_the_description() {
    let made = openapi(&tokens(&[])).to_pretty_json().unwrap() + "\n";
    if std::env::var_os("COURTSIDE_TEST_WRITE").is_some() {
        std::fs::write(DOCS, made).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(DOCS).unwrap_or_default();
    assert!(
        kept == made,
        "COURTSIDE_TEST_WRITE=1 brings docs/openapi.json up to date"
    );
}
