//! Play against a host that follows a script, over real connections.

mod host;

use std::{collections::BTreeMap, fs, future::pending, sync::Arc};

use axum::http::StatusCode;
use clap::Parser;
use proptest::prelude::*;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use host::{Host, Shared, Step};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: PlayArgs,
}

fn parse(args: &[&str]) -> Result<PlayArgs, clap::Error> {
    let args = ["play"].iter().chain(args);
    Cli::try_parse_from(args).map(|cli| cli.args)
}

/// Waits are short, but for the patience: a busy machine must not run out of
/// it.
fn quick() -> Tuning {
    Tuning {
        delay_min: Duration::from_millis(1),
        delay_max: Duration::from_millis(20),
        post_timeout: Duration::from_secs(2),
        ..Tuning::default()
    }
}

struct Played {
    ended: Ended,
    out: String,
    err: String,
}

impl Played {
    fn rows(&self) -> BTreeMap<String, Value> {
        let rows: Vec<Value> = serde_json::from_str(&self.out).unwrap();
        rows.into_iter()
            .map(|row| (row["game_id"].as_str().unwrap().to_owned(), row))
            .collect()
    }
}

async fn play_until(
    args: &PlayArgs,
    tuning: &Tuning,
    interrupted: impl Future<Output = ()> + Send,
) -> Played {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut terminal = Terminal {
        out: &mut out,
        err: &mut err,
        attended: false,
    };
    let ended = play(args, tuning, &mut terminal, interrupted).await;
    Played {
        ended: ended.unwrap(),
        out: String::from_utf8(out).unwrap(),
        err: String::from_utf8(err).unwrap(),
    }
}

async fn play_through(args: &PlayArgs) -> Played {
    play_until(args, &quick(), pending()).await
}

/// Files of games of that many events, and the arguments to play them.
fn files(games: &BTreeMap<String, u64>, url: &str, more: &[&str]) -> (TempDir, PlayArgs) {
    let directory = tempfile::tempdir().unwrap();
    let mut args: Vec<String> = Vec::new();
    for (game, events) in games {
        let lines: String = (1..=*events)
            .map(|seq| {
                let seconds = 719 - seq;
                let clock = format!("{}:{:02}", seconds / 60, seconds % 60);
                format!(
                    "{{\"game_id\":\"{game}\",\"seq\":{seq},\"points\":2,\"period\":1,\
                     \"clock\":\"{clock}\"}}\n"
                )
            })
            .collect();
        let path = directory.path().join(game);
        fs::write(&path, lines).unwrap();
        args.push(path.display().to_string());
    }
    args.extend(["--output=json".to_owned(), format!("--url={url}")]);
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let args = parse(&args).unwrap();
    (directory, args)
}

fn games(games: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let games = games.iter();
    games
        .map(|(id, events)| ((*id).to_owned(), *events))
        .collect()
}

#[tokio::test]
async fn every_event_arrives_once_in_order_and_the_scores_are_shown() {
    let host = Host::start();
    let games = games(&[("a", 250), ("b", 1), ("c", 99)]);
    let (_files, args) = files(&games, &host.url(), &[]);
    let played = play_through(&args).await;
    assert_eq!(played.ended, Ended::Complete, "{}", played.err);
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
    assert_eq!(played.ended, Ended::Incomplete, "{}", played.err);
    assert!(played.err.contains("play-untrusted: "), "{}", played.err);
    assert!(!played.err.contains("play-timeout"), "{}", played.err);
}

#[tokio::test]
async fn connections_bound_the_requests_in_flight() {
    let host = Host::start();
    let ids: Vec<_> = (0..20).map(|number| format!("g{number}")).collect();
    let games = ids.iter().map(|id| (id.clone(), 10)).collect();
    let (_files, args) = files(&games, &host.url(), &["--connections=3", "--batch=2"]);
    assert_eq!(play_through(&args).await.ended, Ended::Complete);
    host.check(&games, true);
    let in_flight_max = host.books.lock().in_flight_max;
    assert!((2..=3).contains(&in_flight_max), "{in_flight_max}");
}

#[tokio::test]
async fn a_partial_failure_sends_again_what_was_not_acknowledged_alone() {
    let host = Host::start();
    let mask = vec![true, false, true, false];
    host.books.lock().posts = [Step::Partial(mask), Step::Partial(vec![false]), Step::Serve].into();
    let games = games(&[("a", 5)]);
    let (_files, args) = files(&games, &host.url(), &["--batch=4"]);
    let played = play_through(&args).await;
    assert_eq!(played.ended, Ended::Complete, "{}", played.err);
    host.check(&games, false);
    let books = host.books.lock();
    let requests: Vec<_> = books
        .requests
        .iter()
        .map(|(_, _, seqs)| seqs.clone())
        .collect();
    assert_eq!(
        requests,
        [vec![1, 2, 3, 4], vec![2, 4], vec![2, 4], vec![5]]
    );
    let keys: Vec<_> = books.requests.iter().map(|(_, key, _)| key).collect();
    assert_ne!(keys[0], keys[1], "another body, another key");
    assert_eq!(keys[1], keys[2], "the same body, the same key");
    assert_ne!(keys[2], keys[3]);
    // The last acknowledged position counts, not that of the last request's
    // events.
    assert_eq!(books.asked["a"], "3:4");
}

#[tokio::test]
async fn a_request_whose_answer_is_lost_keeps_its_key() {
    let host = Host::start();
    host.books.lock().posts = [Step::ServeAndCut, Step::ServeAndHang, Step::Cut].into();
    let games = games(&[("a", 3)]);
    let (_files, args) = files(&games, &host.url(), &[]);
    assert_eq!(play_through(&args).await.ended, Ended::Complete);
    host.check(&games, true);
    let books = host.books.lock();
    assert_eq!(books.requests.len(), 4);
    assert!(
        books
            .requests
            .iter()
            .all(|request| *request == books.requests[0])
    );
}

#[tokio::test]
async fn a_partial_failure_after_a_lost_answer_sends_the_same_again() {
    let host = Host::start();
    host.books.lock().posts = [
        Step::ServeAndCut,
        Step::Partial(vec![false, true]),
        Step::Partial(vec![false, false]),
    ]
    .into();
    let games = games(&[("a", 3)]);
    let (_files, args) = files(&games, &host.url(), &["--batch=2"]);
    let played = play_through(&args).await;
    assert_eq!(played.ended, Ended::Complete, "{}", played.err);
    host.check(&games, true);
    assert_eq!(played.rows()["a"]["acknowledged"], 3);
    let books = host.books.lock();
    assert_eq!(books.requests.len(), 5);
    let first = &books.requests[0];
    assert!(books.requests[..4].iter().all(|request| request == first));
    // The last position of the request counts, not the one at which it was
    // first taken.
    assert_eq!(books.asked["a"], "3:5");
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
async fn a_refusal_is_final_for_its_game_alone() {
    let host = Host::start();
    host.books.lock().banned.insert("bad".to_owned());
    let all = games(&[("bad", 20), ("good", 20)]);
    let (_files, args) = files(&all, &host.url(), &["--batch=4"]);
    let played = play_through(&args).await;
    assert_eq!(played.ended, Ended::Incomplete);
    assert!(
        played
            .err
            .contains("400 Bad Request: seq: 5 is an unlucky number (bad)"),
        "{}",
        played.err
    );
    assert!(
        played
            .err
            .contains("24 of 40 events acknowledged, 1 of 2 games complete"),
        "{}",
        played.err
    );
    host.check(&games(&[("bad", 4), ("good", 20)]), true);
    let rows = played.rows();
    assert_eq!(rows["bad"]["acknowledged"], 4);
    assert_eq!(rows["bad"]["output"]["events"], 4);
    assert!(
        rows["bad"]["error"]
            .as_str()
            .unwrap()
            .starts_with("play-refused: ")
    );
    assert_eq!(rows["good"]["output"]["events"], 20);
    // Play does not send again a request that the host refused, nor later
    // events of the game.
    let books = host.books.lock();
    let of_bad = books.requests.iter().filter(|(game, ..)| game == "bad");
    assert_eq!(of_bad.count(), 2);
}

/// Each caller has an address of its own, so that nobody else listens there
/// meanwhile.
fn nobody_listens(last: u8) -> std::net::SocketAddr {
    let listener =
        std::net::TcpListener::bind((std::net::Ipv4Addr::new(127, 0, 9, last), 0)).unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn a_host_that_is_not_there_yet_is_waited_for() {
    let address = nobody_listens(1);
    let games = games(&[("a", 30), ("b", 30)]);
    let (_files, args) = files(&games, &format!("http://{address}"), &[]);
    let come = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Host::start_at(address, Shared::default())
    };
    let (played, host) = tokio::join!(play_through(&args), come);
    assert_eq!(played.ended, Ended::Complete, "{}", played.err);
    host.check(&games, true);
}

#[tokio::test]
async fn a_host_that_is_killed_again_and_again_counts_each_event_once() {
    let mut host = Host::start_at(nobody_listens(2), Shared::default());
    let games = games(&[("a", 200), ("b", 150), ("c", 100)]);
    let (_files, args) = files(&games, &host.url(), &["--batch=2", "--connections=2"]);
    let murder = async {
        for kills in 1..=5 {
            let books = Arc::clone(&host.books);
            until(move || books.lock().requests.len() > kills * 30).await;
            let (address, books) = host.kill();
            tokio::time::sleep(Duration::from_millis(20)).await;
            host = Host::start_at(address, books);
        }
        host
    };
    let (played, host) = tokio::join!(play_through(&args), murder);
    assert_eq!(played.ended, Ended::Complete, "{}", played.err);
    host.check(&games, true);
}

#[tokio::test]
async fn a_host_that_stays_away_is_given_up() {
    let address = nobody_listens(3);
    let games = games(&[("a", 30), ("b", 30)]);
    let (_files, args) = files(&games, &format!("http://{address}"), &["--timeout=2s"]);
    let played = play_through(&args).await;
    assert_eq!(played.ended, Ended::Incomplete);
    assert!(played.err.contains("play-timeout: "), "{}", played.err);
    assert!(played.err.contains("Connection refused"), "{}", played.err);
    assert!(
        played.err.contains("0 of 60 events acknowledged"),
        "{}",
        played.err
    );
    assert_eq!(played.rows()["b"]["acknowledged"], 0);
}

#[tokio::test]
async fn what_the_host_does_not_process_in_time_is_not_complete() {
    let host = Host::start();
    let late = Step::Answer(StatusCode::GATEWAY_TIMEOUT, None);
    host.books.lock().gets = std::iter::repeat_n(late, 100_000).collect();
    let games = games(&[("a", 3)]);
    let (_files, args) = files(&games, &host.url(), &["--timeout=200ms"]);
    let played = play_through(&args).await;
    assert_eq!(played.ended, Ended::Incomplete);
    assert!(played.err.contains("504 Gateway Timeout"), "{}", played.err);
    assert!(played.err.contains("all 3 events"), "{}", played.err);
    assert_eq!(played.rows()["a"]["acknowledged"], 3);
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
    assert_eq!(played.ended, Ended::Complete, "{}", played.err);
    assert!(played.out.contains("no output"), "{}", played.out);
}

#[tokio::test]
async fn another_server_is_not_taken_for_a_host() {
    let router = axum::Router::new().fallback(|| async { "hello" });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let (_files, args) = files(&games(&[("a", 3)]), &url, &[]);
    let played = play_through(&args).await;
    assert_eq!(played.ended, Ended::Incomplete);
    assert!(
        played.err.contains("play-not-courtside: "),
        "{}",
        played.err
    );
    server.abort();
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
    assert_eq!(played.ended, Ended::Interrupted);
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
    assert_eq!(played.ended, Ended::Interrupted);
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
    assert_eq!(played.ended, Ended::Complete, "{}", played.err);
    host.check(&games, true);
}

#[tokio::test]
async fn invented_games_are_played() {
    let host = Host::start();
    let url = format!("--url={}", host.url());
    let args = parse(&["--simulate=40", "--seed=9", "--output=json", &url]).unwrap();
    let played = play_through(&args).await;
    assert_eq!(played.ended, Ended::Complete, "{}", played.err);
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

fn faults() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Serve),
        2 => prop_oneof![Just(429), Just(503), Just(408), Just(500)].prop_map(|status| {
            let status = StatusCode::from_u16(status).unwrap();
            Step::Answer(status, Some(0))
        }),
        2 => prop::collection::vec(any::<bool>(), 1..6).prop_map(Step::Partial),
        1 => Just(Step::ServeAndCut),
        1 => Just(Step::Cut),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_host_does_each_event_counts_once(
        posts in faults(),
        events in prop::collection::vec(1_u64..40, 1..4),
        batch in 1_u16..20,
    ) {
        let ordered = !posts.iter().any(|step| matches!(step, Step::Partial(_)));
        let host = Host::start();
        host.books.lock().posts = posts.into();
        let games = (0..).zip(&events).map(|(id, events)| (format!("g{id}"), *events)).collect();
        let (_files, args) = files(&games, &host.url(), &[&format!("--batch={batch}")]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let played = runtime.block_on(play_through(&args));
        prop_assert_eq!(played.ended, Ended::Complete);
        host.check(&games, ordered);
    }
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
