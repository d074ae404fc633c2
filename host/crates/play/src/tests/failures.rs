//! Hosts that refuse, fail or stay away.

use super::*;

#[tokio::test]
async fn a_partial_failure_sends_again_what_was_not_acknowledged_alone() {
    let host = Host::start();
    let mask = vec![true, false, true, false];
    host.books.lock().posts = [Step::Partial(mask), Step::Partial(vec![false]), Step::Serve].into();
    let games = games(&[("a", 5)]);
    let (_files, args) = files(&games, &host.url(), &["--batch=4"]);
    let played = play_through(&args).await;
    assert_eq!(played.ended, PlayEnd::Complete, "{}", played.err);
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
    assert_eq!(play_through(&args).await.ended, PlayEnd::Complete);
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
    assert_eq!(played.ended, PlayEnd::Complete, "{}", played.err);
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
async fn a_refusal_is_final_for_its_game_alone() {
    let host = Host::start();
    host.books.lock().banned.insert("bad".to_owned());
    let all = games(&[("bad", 20), ("good", 20)]);
    let (_files, args) = files(&all, &host.url(), &["--batch=4"]);
    let played = play_through(&args).await;
    assert_eq!(played.ended, PlayEnd::Incomplete);
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
        Host::start_at(address, SharedBooks::default())
    };
    let (played, host) = tokio::join!(play_through(&args), come);
    assert_eq!(played.ended, PlayEnd::Complete, "{}", played.err);
    host.check(&games, true);
}

#[tokio::test]
async fn a_host_that_is_killed_again_and_again_counts_each_event_once() {
    let mut host = Host::start_at(nobody_listens(2), SharedBooks::default());
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
    assert_eq!(played.ended, PlayEnd::Complete, "{}", played.err);
    host.check(&games, true);
}

#[tokio::test]
async fn a_host_that_stays_away_is_given_up() {
    let address = nobody_listens(3);
    let games = games(&[("a", 30), ("b", 30)]);
    let (_files, args) = files(&games, &format!("http://{address}"), &["--timeout=2s"]);
    let played = play_through(&args).await;
    assert_eq!(played.ended, PlayEnd::Incomplete);
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
    assert_eq!(played.ended, PlayEnd::Incomplete);
    assert!(played.err.contains("504 Gateway Timeout"), "{}", played.err);
    assert!(played.err.contains("all 3 events"), "{}", played.err);
    assert_eq!(played.rows()["a"]["acknowledged"], 3);
}

#[tokio::test]
async fn another_server_is_not_taken_for_a_host() {
    let router = axum::Router::new().fallback(|| async { "hello" });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let (_files, args) = files(&games(&[("a", 3)]), &url, &[]);
    let played = play_through(&args).await;
    assert_eq!(played.ended, PlayEnd::Incomplete);
    assert!(
        played.err.contains("play-not-courtside: "),
        "{}",
        played.err
    );
    server.abort();
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
        prop_assert_eq!(played.ended, PlayEnd::Complete);
        host.check(&games, ordered);
    }
}
