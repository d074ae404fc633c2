//! Streams of real games whose readers are cut off again and again, while hosts
//! are killed; and reads of outputs that another host wrote.

use std::{collections::BTreeMap, env, process::ExitCode, time::Duration};

use courtside_tests::{
    Engine, Host, Place, built, games, play::Player, readers::Readers, suite::Suite, tests, until,
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpSocket,
};

/// Readers of all games; each game has one more of its own.
const READERS_OF_ALL: usize = 8;
/// The seconds that the clock of a game shows in all, without overtime.
const GAME_SECONDS: f64 = 48.0 * 60.0;

/// The places of two hosts on Kafka, where hosts share the work, and otherwise
/// of one.
fn places(engine: Engine) -> Vec<Place> {
    let plugin = built::plugin("nba-scoring");
    let first = Place::with_plugin(&plugin)
        .on(engine)
        .with_fixed_port()
        .set("worker.workers", "1");
    let mut places = vec![first];
    if engine == Engine::Kafka {
        let second = places[0].beside().with_fixed_port();
        second.put("scores/default", &plugin);
        places.push(second);
    }
    places
}

async fn started(places: &[Place]) -> Vec<Host> {
    let mut hosts = Vec::new();
    for place in places {
        hosts.push(place.start_ready().await);
    }
    hosts
}

/// Plays thirty games in half a minute (or `COURTSIDE_TEST_RESUME_SECONDS`).
/// One reader of each and several of all are cut off every few moments
/// (`COURTSIDE_TEST_SEED` draws the same again). Each host is killed once. In
/// the end all readers have the last state of each game, and none saw a game go
/// back.
async fn readers_who_are_cut_off_miss_nothing(engine: Engine) {
    let number = |name: &str| Some(env::var(name).ok()?.parse::<u64>().expect("a number"));
    let seconds = number("COURTSIDE_TEST_RESUME_SECONDS").unwrap_or(30);
    let seed = number("COURTSIDE_TEST_SEED").unwrap_or_else(rand::random);
    println!("COURTSIDE_TEST_SEED={seed} COURTSIDE_TEST_RESUME_SECONDS={seconds}");
    let places = places(engine);
    let mut hosts = started(&places).await;
    let games = games::thirty();
    let ids: Vec<String> = games.iter().map(|game| game.id.clone()).collect();
    let urls = places.iter().map(Place::url).collect();
    let mut readers = Readers::start(urls, READERS_OF_ALL, &ids, seed);

    let speed = (GAME_SECONDS / seconds as f64).to_string();
    let player = Player::start(&hosts[0].url(), &games, &["--speed", &speed]);
    for (number, place) in places.iter().enumerate() {
        let share = Duration::from_secs(seconds) / u32::try_from(places.len() + 1).expect("few");
        tokio::time::sleep(share).await;
        hosts.remove(number).kill();
        hosts.insert(number, place.start_ready().await);
    }
    player.succeeds(&games).await;

    let mut committed = BTreeMap::new();
    for host in &hosts {
        host.has_processed_all().await;
        for game in &games {
            let answer = host.get(&format!("/games/{}", game.id)).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            game.check(&answer.json());
            let before = committed.insert(game.id.clone(), answer.body.clone());
            assert!(
                before.is_none_or(|before| before == answer.body),
                "hosts differ in {}",
                game.id
            );
        }
    }
    readers.calm();
    let tally = until("readers to have the last of each game", || {
        let have = readers.have(&committed);
        async { have }
    })
    .await;
    println!("{}: {tally:?}", engine.name());
    assert!(tally.cuts > tally.connections / 2, "{tally:?}");
    for host in hosts {
        host.stop().await;
    }
}

/// Waits until each host processes some of the games.
async fn each_has_partitions(hosts: &[Host]) {
    until("every host to have partitions", || async {
        let view = hosts[0].get("/group").await.json();
        let members = view["groups"][0]["members"].as_array().expect("members");
        let has = |member: &&Value| member["partitions"] != json!([]);
        // Each host has one worker.
        let sharing = members.iter().filter(has).count();
        (sharing == hosts.len())
            .then_some(())
            .ok_or(view.to_string())
    })
    .await;
}

/// A host answers with the outcome of an event that was posted to the other,
/// whichever of them processed it.
async fn a_write_is_read_on_any_host(engine: Engine) {
    const GAMES: usize = 12;
    const ROUNDS: u64 = 8;
    let places = places(engine);
    let hosts = started(&places).await;
    each_has_partitions(&hosts).await;
    for seq in 1..=ROUNDS {
        for game in 0..GAMES {
            let game = format!("2026-11-20-T{game}-BOS");
            let event = json!({
                "game_id": game, "seq": seq, "type": "free_throw", "team": "BOS",
                "points": 1, "period": 1, "clock": "9:42",
            });
            let turn = usize::try_from(seq).expect("a number") % hosts.len();
            let place = hosts[turn].accepts("/score", &event).await;
            let other = &hosts[(turn + 1) % hosts.len()];
            let path = format!("/games/{game}?after={place}");
            let answer = other.get(&path).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            assert_eq!(answer.json()["events"], seq, "{answer:?}");
            // A list has the outcome, too.
            let list = other.get(&format!("/games?limit=1000&after={place}")).await;
            let list = list.json();
            let keys = list["keys"].as_array().expect("keys");
            let at = keys.iter().position(|key| *key == *game).expect("the game");
            assert_eq!(list["games"][at]["events"], seq, "{game}");
        }
    }
    for host in hosts {
        host.stop().await;
    }
}

/// Two hundred readers of all games come, and take nothing. They miss hundreds
/// of megabytes, but the host does not hold these for them. When they go on,
/// they get the latest of each game, and little else.
async fn readers_who_stop_cost_the_host_little(engine: Engine) {
    const READERS: usize = 200;
    const GAMES: usize = 300;
    const PLAYED: usize = 150;
    const MISSED: usize = 15;
    const HELD_BYTES_MAX: u64 = 100 << 20;
    let place = Place::with_plugin(&built::plugin("nba-scoring"))
        .on(engine)
        .set("http.write_timeout", "10m");
    let host = place.start_ready().await;
    let games = games::invented(GAMES);
    let play = async |events: std::ops::Range<usize>| {
        let lines: Vec<_> = games
            .iter()
            .flat_map(|game| &game.lines[events.clone()])
            .collect();
        host.accepts_all("/score", &lines).await;
        host.has_processed_all().await;
    };
    play(0..PLAYED).await;
    let before = host.memory_bytes();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let socket = TcpSocket::new_v4().expect("a socket");
        // With a small buffer, the system does not read for the reader.
        socket.set_recv_buffer_size(4096).expect("an option");
        let address = host.address().parse().expect("an address");
        let mut stream = socket.connect(address).await.expect("a connection");
        let request = b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(request).await.expect("sent");
        readers.push(stream);
    }
    let mut missed = 0;
    for round in PLAYED..PLAYED + MISSED {
        play(round..round + 1).await;
        missed += host.get("/games?limit=1000").await.body.len() * READERS;
    }
    let held = host.memory_bytes().saturating_sub(before);
    println!("{} MB missed, {} MB held", missed >> 20, held >> 20);
    assert!(missed as u64 > 4 * HELD_BYTES_MAX, "{missed}");
    assert!(held < HELD_BYTES_MAX, "{held}");

    for stream in readers {
        let mut lines = BufReader::new(stream).lines();
        let mut latest = BTreeMap::new();
        let mut states = 0;
        while latest
            .values()
            .filter(|events| **events == PLAYED + MISSED)
            .count()
            < GAMES
        {
            let line = lines.next_line().await.expect("a line").expect("a stream");
            let Some(data) = line.strip_prefix("data: ") else {
                continue;
            };
            states += 1;
            let output: Value = serde_json::from_str(data).expect("json");
            let events = output["events"].as_u64().expect("a number");
            let events = usize::try_from(events).expect("a number");
            latest.insert(output["game_id"].to_string(), events);
        }
        assert!(states < 2 * GAMES, "{states}");
    }
    host.stop().await;
}

fn main() -> ExitCode {
    let both = || {
        tests![
            readers_who_are_cut_off_miss_nothing,
            a_write_is_read_on_any_host,
        ]
    };
    Suite::new()
        .on_both(both)
        .on(
            Engine::Embedded,
            tests![readers_who_stop_cost_the_host_little],
        )
        .run()
}
