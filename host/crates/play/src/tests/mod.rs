//! Play against a host that follows a script, over real connections.

mod failures;
mod host;
mod kit;

use std::{collections::BTreeMap, fs, future::pending, sync::Arc};

use axum::http::StatusCode;
use clap::Parser;
use proptest::prelude::*;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tempfile::TempDir;

use self::{
    host::{Host, SharedBooks, Step},
    kit::{files, games, parse, play_through, play_until, quick},
};
use super::*;

#[tokio::test]
async fn every_event_arrives_once_in_order_and_the_scores_are_shown() {
    let host = Host::start();
    let games = games(&[("a", 250), ("b", 1), ("c", 99)]);
    let (_files, args) = files(&games, &host.url(), &[]);
    let played = play_through(&args).await;
    assert_eq!(played.ended, PlayEnd::Complete, "{}", played.err);
    assert!(
        played
            .err
            .contains("all 350 events of 3 games acknowledged"),
        "{}",
        played.err
    );
    host.check(&games, true);
    let rows = played.rows();
    for (game, events) in &games {
        assert_eq!(rows[game]["acknowledged"], *events);
        assert_eq!(rows[game]["output"]["points"]["ALL"], events * 2);
    }
    let sizes: Vec<_> = host
        .books
        .lock()
        .requests
        .iter()
        .filter(|(game, ..)| game == "a")
        .map(|(.., seqs)| seqs.len())
        .collect();
    assert_eq!(sizes, [100, 100, 50]);
}

/// A host that shows a self-signed certificate, and the directory of another
/// certificate.
async fn stranger() -> (String, TempDir) {
    let made = || rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (shown, believed) = (made(), made());
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("ca.pem"), believed.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(shown.signing_key.serialize_der()).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![shown.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(acceptor.accept(stream).await);
        }
    });
    (url, directory)
}

#[tokio::test]
async fn a_host_that_is_not_trusted_is_not_asked_again() {
    let (url, directory) = stranger().await;
    let cacert = format!("--cacert={}", directory.path().join("ca.pem").display());
    let (_files, args) = files(&games(&[("a", 3)]), &url, &[&cacert]);
    let played = play_through(&args).await;
    assert_eq!(played.ended, PlayEnd::Incomplete, "{}", played.err);
    assert!(played.err.contains("play-untrusted: "), "{}", played.err);
    assert!(!played.err.contains("play-timeout"), "{}", played.err);
}

#[tokio::test]
async fn connections_bound_the_requests_in_flight() {
    let host = Host::start();
    let ids: Vec<_> = (0..20).map(|number| format!("g{number}")).collect();
    let games = ids.iter().map(|id| (id.clone(), 10)).collect();
    let (_files, args) = files(&games, &host.url(), &["--connections=3", "--batch=2"]);
    assert_eq!(play_through(&args).await.ended, PlayEnd::Complete);
    host.check(&games, true);
    let in_flight_max = host.books.lock().in_flight_max;
    assert!((2..=3).contains(&in_flight_max), "{in_flight_max}");
}

#[tokio::test]
async fn runs_and_rounds_share_no_key() {
    let host = Host::start();
    let games = games(&[("a", 3)]);
    let (_files, args) = files(&games, &host.url(), &[]);
    play_through(&args).await;
    play_through(&args).await;
    let books = host.books.lock();
    assert_ne!(books.requests[0].1, books.requests[1].1);
}

#[tokio::test]
async fn scores_are_waited_for() {
    let host = Host::start();
    let late = Step::Answer(StatusCode::GATEWAY_TIMEOUT, None);
    let away = Step::Answer(StatusCode::SERVICE_UNAVAILABLE, Some(0));
    let none = Step::Answer(StatusCode::NOT_FOUND, None);
    host.books.lock().gets = [late, away, none].into();
    let games = games(&[("a", 3)]);
    let (_files, mut args) = files(&games, &host.url(), &[]);
    args.output = OutputFormat::Table;
    let played = play_through(&args).await;
    assert_eq!(played.ended, PlayEnd::Complete, "{}", played.err);
    assert!(played.out.contains("no output"), "{}", played.out);
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn an_interrupted_play_says_what_was_done() {
    let host = Host::start();
    host.books.lock().posts = [Step::Serve, Step::ServeAndHang].into();
    let (_files, args) = files(&games(&[("a", 6)]), &host.url(), &["--batch=4"]);
    let books = Arc::clone(&host.books);
    let interrupted = until(move || books.lock().requests.len() == 2);
    let tuning = Tuning::default();
    let played = play_until(&args, &tuning, interrupted).await;
    assert_eq!(played.ended, PlayEnd::Interrupted);
    assert_eq!(played.ended.exit_code(), 130);
    assert!(
        played
            .err
            .contains("interrupted: 4 of 6 events acknowledged"),
        "{}",
        played.err
    );
    assert_eq!(played.rows()["a"]["acknowledged"], 4);
}

#[tokio::test]
async fn a_loop_plays_on_under_fresh_ids() {
    let host = Host::start();
    let (_files, args) = files(&games(&[("a", 3), ("b", 4)]), &host.url(), &["--loop"]);
    let books = Arc::clone(&host.books);
    let interrupted = until(move || books.lock().games.contains_key("a-r4"));
    let played = play_until(&args, &quick(), interrupted).await;
    assert_eq!(played.ended, PlayEnd::Interrupted);
    let books = host.books.lock();
    assert_eq!(books.broken, Vec::<String>::new());
    for game in ["a", "a-r2", "a-r3"] {
        assert_eq!(books.games[game].len(), 3, "{game}");
    }
    for game in ["b", "b-r2", "b-r3"] {
        assert_eq!(books.games[game].len(), 4, "{game}");
    }
}

#[tokio::test]
async fn games_at_their_own_pace_arrive_whole() {
    let host = Host::start();
    let games = games(&[("a", 300), ("b", 200)]);
    let (_files, args) = files(&games, &host.url(), &["--speed=5000"]);
    let played = play_through(&args).await;
    assert_eq!(played.ended, PlayEnd::Complete, "{}", played.err);
    host.check(&games, true);
}

#[tokio::test]
async fn invented_games_are_played() {
    let host = Host::start();
    let url = format!("--url={}", host.url());
    let args = parse(&["--simulate=40", "--seed=9", "--output=json", &url]).unwrap();
    let played = play_through(&args).await;
    assert_eq!(played.ended, PlayEnd::Complete, "{}", played.err);
    assert!(played.err.starts_with("seed 9\n"), "{}", played.err);
    let games: BTreeMap<String, Vec<_>> = Season::new(9)
        .take(40)
        .map(|game| (game.id().to_string(), game.collect()))
        .collect();
    let counts = games.iter();
    host.check(
        &counts
            .map(|(id, game)| (id.clone(), game.len() as u64))
            .collect(),
        true,
    );
    let rows = played.rows();
    for (id, game) in &games {
        let points: u64 = game.iter().map(|event| u64::from(event.points)).sum();
        assert_eq!(rows[id]["output"]["points"]["ALL"], points);
    }
}

#[tokio::test]
async fn a_broken_line_stops_everything_before_anything_is_sent() {
    let host = Host::start();
    let (files, args) = files(&games(&[("a", 3), ("b", 3)]), &host.url(), &[]);
    fs::write(files.path().join("b"), "{\"game_id\":\"b\"}\n{\"seq\":2}\n").unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut terminal = Terminal {
        out: &mut out,
        err: &mut err,
        attended: false,
    };
    let error = play(&args, &quick(), &mut terminal, pending()).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("/b:2: missing field `game_id`"), "{error}");
    assert!(host.books.lock().requests.is_empty());
}

#[test]
fn arguments() {
    use clap::error::ErrorKind;

    let args = parse(&["a", "-", "--speed", "2", "--timeout", "5m"]).unwrap();
    assert_eq!(args.files, [PathBuf::from("a"), PathBuf::from("-")]);
    assert_eq!(args.timeout, Duration::from_secs(300));
    assert_eq!(args.host.url, "http://127.0.0.1:8080");
    for (args, kind) in [
        (&[][..], ErrorKind::MissingRequiredArgument),
        (&["a", "--simulate=3"][..], ErrorKind::ArgumentConflict),
        (&["a", "--seed=3"][..], ErrorKind::ArgumentConflict),
        (&["--simulate=0"][..], ErrorKind::ValueValidation),
        (&["a", "--speed=0"][..], ErrorKind::ValueValidation),
        (&["a", "--timeout=0s"][..], ErrorKind::ValueValidation),
        (&["a", "--batch=0"][..], ErrorKind::ValueValidation),
        (&["a", "--connections=0"][..], ErrorKind::ValueValidation),
    ] {
        assert_eq!(parse(args).unwrap_err().kind(), kind, "{args:?}");
    }
}
