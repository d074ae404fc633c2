//! Whole games, thirty of them, while nothing happens, while plugins change,
//! and while the host is killed again and again. In the end each has its true
//! score, and each event was counted once.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use courtside_tests::{
    Engine, Host, Place, built,
    games::{self, Game},
    play::Player,
    suite::Suite,
    tests,
    topics::Topics,
    until, wasm,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

const SLOT: &str = "scores/default";

async fn check_all(host: &Host, games: &[Game]) {
    for game in games {
        game.check(&host.game(&game.id).await.expect("an output"));
    }
}

/// The games of a round: after the first they have other ids.
fn round(games: &[Game], number: usize) -> Vec<Game> {
    let renamed = games.iter().map(|game| match number {
        1 => game.clone(),
        _ => {
            // Teams that have not scored are known by the id's end.
            let (date, teams) = game.id.split_at(10);
            game.renamed(&format!("{date}.{number}{teams}"))
        }
    });
    renamed.collect()
}

/// Plays round after round until `other` is done, too. Returns its result, and
/// the games that were played.
async fn play_until<T>(
    url: &str,
    games: &[Game],
    arguments: &[&str],
    other: impl Future<Output = T>,
) -> (T, Vec<Vec<Game>>) {
    let mut other = pin!(other);
    let mut done = None;
    let mut rounds = Vec::new();
    while done.is_none() {
        let games = round(games, rounds.len() + 1);
        {
            let player = Player::start(url, &games, arguments);
            let mut playing = pin!(player.succeeds(&games));
            tokio::select! {
                () = &mut playing => {}
                came = &mut other => {
                    done = Some(came);
                    playing.await;
                }
            }
        }
        rounds.push(games);
    }
    (done.expect("it is done"), rounds)
}

async fn thirty_games_have_their_true_scores(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let mut host = place.start_ready().await;
    let games = games::thirty();
    let player = Player::start(&host.url(), &games, &[]);
    player.succeeds(&games).await;
    check_all(&host, &games).await;
    assert!(host.is_running());
    host.stop().await;

    let topics = Topics::of(&place);
    let copies = topics.each_counted_once("scores", "NBA-Games", "NBA-Scores");
    assert_eq!(copies, 0);
    drop(topics);

    // A reader sees after a restart what it saw before.
    let host = place.start_ready().await;
    check_all(&host, &games).await;
    host.stop().await;
}

/// Swaps in turn to a build identical in logic, to one that writes another
/// state format, and to one that is broken. Rounds of games are played until
/// all is done.
async fn fifty_swaps_change_no_score(engine: Engine) {
    const SWAPS: usize = 50;
    let first = built::plugin("nba-scoring");
    let builds = [
        wasm::variant(&first, "identical in logic"),
        built::plugin("box-score"),
        wasm::trapping_at_start(&first),
    ];
    let place = Place::with_plugin(&first).on(engine);
    let mut host = place.start_ready().await;
    let games = games::thirty();

    let swapping = async {
        for number in 0..SWAPS {
            let build = &builds[number % builds.len()];
            place.put(SLOT, build);
            if number % builds.len() == 2 {
                let reason = host.rejects(SLOT, "plugin-start-failed").await;
                assert!(reason.contains("unreachable"), "{reason}");
                // The plugin that ran goes on.
                let slot = host.slot(SLOT).await.expect("the slot");
                assert_eq!(slot["plugin"]["name"], "box-score", "{slot}");
            } else {
                host.runs(SLOT, build).await;
            }
        }
    };
    let arguments = ["--batch", "10", "--connections", "4"];
    let ((), rounds) = play_until(&host.url(), &games, &arguments, swapping).await;
    for games in &rounds {
        check_all(&host, games).await;
    }
    let slot = host.slot(SLOT).await.expect("the slot");
    let activated = SWAPS - SWAPS / 3;
    assert_eq!(slot["swaps"], 1 + activated, "{slot}");
    assert!(host.is_running(), "the host was restarted");
    host.stop().await;

    let topics = Topics::of(&place);
    let copies = topics.each_counted_once("scores", "NBA-Games", "NBA-Scores");
    assert_eq!(copies, 0);
    assert_eq!(topics.dead_letters("scores"), []);
    let makers: BTreeSet<_> = topics
        .records("NBA-Scores")
        .iter()
        .map(|(_, record)| record.header("courtside-digest").cloned())
        .collect();
    assert!(makers.len() >= 2, "no event met a swap: {makers:?}");
}

fn number_from(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// Kills a host at random moments, some of them while it starts, and before
/// some kills offers it one of the builds. The moments come from
/// `COURTSIDE_TEST_SEED` (printed), their number from `COURTSIDE_TEST_KILLS`.
/// Rounds of games are played until all is done.
async fn kill_again_and_again(place: Place, builds: &[Vec<u8>]) {
    let seed = number_from("COURTSIDE_TEST_SEED").unwrap_or_else(rand::random);
    let kills = number_from("COURTSIDE_TEST_KILLS").unwrap_or(6);
    eprintln!("{kills} kills, COURTSIDE_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let games = games::thirty();
    // A plugin has run before, so that it goes on where a broken one is
    // offered.
    place.start_ready().await.kill();

    let killing = async {
        for _ in 0..kills {
            let mut host = place.spawn();
            let moment = if rng.random_ratio(1, 4) {
                rng.random_range(0..300)
            } else {
                host.listens().await;
                rng.random_range(0..1500)
            };
            let offered = rng.random_range(0..=moment);
            tokio::time::sleep(Duration::from_millis(offered)).await;
            place.put(SLOT, &builds[rng.random_range(0..builds.len())]);
            tokio::time::sleep(Duration::from_millis(moment - offered)).await;
            assert!(host.is_running(), "it ended by itself");
            host.kill();
        }
        place.start_ready().await
    };
    let arguments = ["--batch", "20", "--connections", "4"];
    let (host, rounds) = play_until(&place.url(), &games, &arguments, killing).await;
    for games in &rounds {
        check_all(&host, games).await;
    }
    host.stop().await;
    let topics = Topics::of(&place);
    let copies = topics.each_counted_once("scores", "NBA-Games", "NBA-Scores");
    assert_eq!(topics.dead_letters("scores"), []);
    eprintln!("{} rounds, {copies} events came twice", rounds.len());
}

async fn kills_change_no_score(engine: Engine) {
    let plugin = built::plugin("nba-scoring");
    let place = Place::with_plugin(&plugin).on(engine).with_fixed_port();
    kill_again_and_again(place, &[plugin]).await;
}

/// On Kafka, static membership lets the group know the host again when it comes
/// back.
async fn kills_in_the_middle_of_swaps_change_no_score(engine: Engine) {
    let first = built::plugin("nba-scoring");
    let broken = wasm::trapping_at_start(&first);
    let identical = wasm::variant(&first, "identical in logic");
    let place = Place::with_plugin(&first)
        .on(engine)
        .with_fixed_port()
        .set("kafka.static_membership", "true");
    let builds = [first, built::plugin("box-score"), identical, broken];
    kill_again_and_again(place, &builds).await;
}

/// Three processes are one group. The games go into one of them, all show
/// them, and Kafka's own consumer finds nothing else in the topic.
async fn three_hosts_share_thirty_games(engine: Engine) {
    const WORKERS: usize = 2;
    let plugin = built::plugin("nba-scoring");
    let first = Place::with_plugin(&plugin)
        .on(engine)
        .set("log.partitions", "8")
        .set("worker.workers", &WORKERS.to_string());
    let places = [first.beside(), first.beside(), first];
    let mut hosts = Vec::new();
    for place in &places {
        place.put(SLOT, &plugin);
        hosts.push(place.start_ready().await);
    }
    until("every worker to have partitions", || async {
        let view = hosts[0].get("/group").await.json();
        let members = view["groups"][0]["members"].as_array().expect("members");
        let have = |member: &&Value| member["partitions"] != json!([]);
        let sharing = members.iter().filter(have).count();
        (sharing == WORKERS * hosts.len())
            .then_some(())
            .ok_or(view.to_string())
    })
    .await;

    let games = games::thirty();
    let player = Player::start(&hosts[1].url(), &games, &[]);
    player.succeeds(&games).await;
    for host in &hosts {
        host.has_processed_all().await;
        check_all(host, &games).await;
    }

    let topic = places[0].topic("NBA-Scores");
    let records = engine.cluster().expect("brokers").consume(&topic);
    let events: usize = games.iter().map(|game| game.lines.len()).sum();
    assert_eq!(records.len(), events, "an output for each event");
    let mut last: BTreeMap<&str, &str> = BTreeMap::new();
    for record in &records {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        last.insert(key.expect("a key"), value.expect("a value"));
    }
    assert_eq!(last.len(), games.len());
    for game in &games {
        game.check(&serde_json::from_str(last[&*game.id]).expect("an output in JSON"));
    }
    for host in hosts {
        host.stop().await;
    }
    let topics = Topics::of(&places[0]);
    let copies = topics.each_counted_once("scores", "NBA-Games", "NBA-Scores");
    assert_eq!(copies, 0);
}

fn main() -> ExitCode {
    let tests = || {
        tests![
            thirty_games_have_their_true_scores,
            fifty_swaps_change_no_score,
            kills_change_no_score,
            kills_in_the_middle_of_swaps_change_no_score,
        ]
    };
    Suite::new()
        .on_both(tests)
        .on(Engine::Kafka, tests![three_hosts_share_thirty_games])
        .run()
}
