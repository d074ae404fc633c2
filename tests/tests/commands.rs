//! The operator's commands, as the operator has them: the real binary, beside
//! hosts and after them, on both engines.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    process::{ExitCode, Stdio},
    time::Duration,
};

use courtside_tests::{
    Engine, Host, Place, built,
    games::{self, Game},
    place::output,
    play::Player,
    suite::Suite,
    tests, until,
};
use serde_json::Value;

/// What a command answers, as JSON.
fn answer(place: &Place, words: &[&str]) -> Value {
    let said = output(place.operate(words).args(["--output", "json"]));
    assert!(said.status.success(), "{words:?}: {said:?}");
    serde_json::from_slice(&said.stdout).expect("JSON")
}

/// What a command answers a person.
fn table(place: &Place, words: &[&str]) -> String {
    let said = output(&mut place.operate(words));
    assert!(said.status.success(), "{words:?}: {said:?}");
    String::from_utf8(said.stdout).expect("text")
}

/// Why a command does not do what it was told.
fn refusal(place: &Place, words: &[&str]) -> String {
    let said = output(&mut place.operate(words));
    assert_eq!(said.status.code(), Some(1), "{words:?}: {said:?}");
    assert!(said.stdout.is_empty(), "{words:?}: {said:?}");
    String::from_utf8(said.stderr).expect("text")
}

/// Where a host runs, the embedded engine's directory is its own; on Kafka the
/// command sees what is going on.
fn refused_beside_a_host(place: &Place, words: &[&str], on_kafka: &str) {
    let code = match place.engine() {
        Engine::Embedded => "data-dir-in-use",
        Engine::Kafka => on_kafka,
    };
    let said = refusal(place, words);
    assert!(
        said.contains(&format!("courtside: {code}: ")),
        "{words:?}: {said}"
    );
}

async fn play(host: &Host, games: &[Game]) {
    Player::start(&host.url(), games, &[]).succeeds(games).await;
}

async fn check_all(host: &Host, games: &[Game]) {
    for game in games {
        game.check(&host.game(&game.id).await.expect("an output"));
    }
}

async fn topics_from_their_creation_to_their_end(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let (input, output) = (place.topic("NBA-Games"), place.topic("NBA-Scores"));
    if engine == Engine::Embedded {
        let said = refusal(&place, &["topics", "list"]);
        assert!(said.contains("no-record-log"), "{said}");
        assert!(!place.data_dir().join("log").exists());
    }
    let created = answer(&place, &["topics", "create"]);
    let names = created["topics"].as_array().expect("topics").clone();
    for topic in [&input, &output] {
        assert!(names.contains(&topic.as_str().into()), "{created}");
    }
    let again = answer(&place, &["topics", "create"]);
    assert_eq!(again["topics"], Value::Array(vec![]), "{again}");

    let audit = place.topic("audit");
    let words = [
        "topics",
        "create",
        &audit,
        "--partitions",
        "2",
        "-c",
        "retention.ms=86400000",
    ];
    table(&place, &words);
    assert!(refusal(&place, &words).contains("topic-exists"));
    let listed = answer(&place, &["topics", "list"]);
    let listed = listed.as_array().expect("topics");
    let find = |name: &str| {
        listed
            .iter()
            .find(|topic| topic["topic"] == name)
            .expect("a topic")
    };
    assert_eq!(find(&input)["pipelines"][0]["role"], "input");
    assert_eq!(find(&output)["pipelines"][0]["pipeline"], "scores");
    assert_eq!(find(&output)["cleanup"], "compact");
    assert_eq!(find(&audit)["pipelines"], Value::Array(vec![]));
    assert_eq!(find(&audit)["partitions"], 2);
    let text = table(&place, &["topics", "list"]);
    assert!(text.contains("input of scores"), "{text}");

    table(
        &place,
        &[
            "topics",
            "alter",
            &audit,
            "-c",
            "retention.ms=1000",
            "--partitions",
            "3",
        ],
    );
    let described = answer(&place, &["topics", "describe", &audit]);
    assert_eq!(described["settings"]["retention.ms"]["value"], "1000");
    assert_eq!(described["partitions"].as_array().map(Vec::len), Some(3));
    let text = table(&place, &["topics", "describe", &audit]);
    assert!(text.contains("retention.ms"), "{text}");

    // What would move keys, or what a host would not start on.
    let said = refusal(&place, &["topics", "alter", &input, "--partitions", "64"]);
    assert!(said.contains("partitions-fixed"), "{said}");
    assert!(said.contains("create another topic"), "{said}");
    let said = refusal(
        &place,
        &["topics", "alter", &output, "-c", "cleanup.policy=delete"],
    );
    assert!(said.contains("topic-mismatch"), "{said}");
    assert!(refusal(&place, &["topics", "alter", &audit]).contains("nothing-to-alter"));
    let nowhere = place.topic("nowhere");
    for words in [
        ["topics", "describe", &nowhere],
        ["topics", "delete", &nowhere],
    ] {
        assert!(refusal(&place, &words).contains("no-such-topic"));
    }

    let host = place.start_ready().await;
    refused_beside_a_host(
        &place,
        &["topics", "delete", &output, "--yes"],
        "topic-in-use",
    );
    host.stop().await;

    let said = refusal(&place, &["topics", "delete", &audit]);
    assert!(said.contains("confirmation-needed"), "{said}");
    table(&place, &["topics", "delete", &audit, "--yes"]);
    assert!(refusal(&place, &["topics", "describe", &audit]).contains("no-such-topic"));
}

/// With another input in the configuration, a reset would delete the state and
/// leave the offsets that belong to it; without its state, a group would count
/// from zero.
async fn what_a_group_has_is_not_lost_by_mistake(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring"))
        .on(engine)
        .configured(
            "[pipelines.scores]\ninput = \"NBA-Games\"\noutput = \"NBA-Scores\"\n\
             key = \"/game_id\"\n",
        );
    let games = games::invented(2);
    let host = place.start_ready().await;
    play(&host, &games).await;
    host.has_processed_all().await;
    host.stop().await;

    let mut kept = vec![
        place.topic("courtside-scores.pipeline"),
        place.topic("courtside-scores.plugins"),
        place.topic("courtside-scores.redrive"),
    ];
    if engine == Engine::Kafka {
        kept.push(place.topic("courtside-scores.checkpoints"));
    }
    // Brokers may take a moment to let the host's members go.
    until("the group to be left", || async {
        let said = refusal(&place, &["topics", "delete", &kept[0], "--yes"]);
        if said.contains("courtside reset") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
    for topic in &kept {
        let said = refusal(&place, &["topics", "delete", topic, "--yes"]);
        assert!(said.contains("topic-in-use: "), "{said}");
        assert!(said.contains("courtside reset"), "{said}");
        // Also where the configuration knows nothing of the group.
        let stranger = "pipelines.scores.group=\"another\"";
        let words = ["topics", "delete", topic, "--yes", "--set", stranger];
        let said = refusal(&place, &words);
        assert!(said.contains("topic-in-use: "), "{said}");
    }
    let other = place.topic("other");
    table(&place, &["topics", "create", &other]);
    let setting = format!("pipelines.scores.input={other:?}");
    let words = [
        "reset", "scores", "--to", "latest", "--yes", "--set", &setting,
    ];
    let said = refusal(&place, &words);
    assert!(said.contains("pipeline-mismatch: "), "{said}");
    assert!(said.contains(&other), "{said}");

    let host = place.start_ready().await;
    check_all(&host, &games).await;
    host.stop().await;
}

/// Games are played; the pipeline is reset, and scores them again.
async fn a_reset_pipeline_comes_to_the_same_scores(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let games = games::invented(6);
    let events: usize = games.iter().map(|game| game.lines.len()).sum();
    let group = place.topic("courtside-scores");
    let host = place.start_ready().await;
    play(&host, &games).await;
    host.has_processed_all().await;
    check_all(&host, &games).await;
    refused_beside_a_host(
        &place,
        &["reset", "scores", "--to", "earliest", "--yes"],
        "group-not-empty",
    );
    if engine == Engine::Kafka {
        let seen = answer(&place, &["groups", &group]);
        assert_eq!(seen["state"], "stable", "{seen}");
        assert_eq!(seen["lag"], 0, "{seen}");
        let partitions = seen["partitions"].as_array().expect("partitions");
        assert!(
            partitions.iter().all(|one| one["member"].is_string()),
            "{seen}"
        );
    }
    host.stop().await;

    let listed = answer(&place, &["groups"]);
    let listed = listed.as_array().expect("groups");
    let own = listed
        .iter()
        .find(|one| one["group"] == *group)
        .expect("the group");
    assert_eq!((&own["state"], &own["lag"]), (&"empty".into(), &0.into()));
    let said = refusal(&place, &["groups", "no-such-group"]);
    assert!(said.contains("no-such-group: "), "{said}");
    let said = refusal(&place, &["reset", "others", "--to", "latest", "--yes"]);
    assert!(said.contains("pipeline-not-found: "), "{said}");
    let said = refusal(&place, &["reset", "scores", "--to", "earliest"]);
    assert!(said.contains("confirmation-needed: "), "{said}");
    let words = [
        "reset",
        "scores",
        "--to",
        "9999999",
        "--partition",
        "0",
        "--yes",
    ];
    let said = refusal(&place, &words);
    assert!(said.contains("offset-out-of-range: "), "{said}");
    assert_eq!(
        answer(&place, &["groups", &group])["lag"],
        0,
        "nothing was done"
    );

    let reset = answer(&place, &["reset", "scores", "--to", "earliest", "--yes"]);
    let moved = reset["partitions"].as_array().expect("partitions");
    let deleted: u64 = moved
        .iter()
        .map(|one| one["checkpoints_deleted"].as_u64().expect("a count"))
        .sum();
    assert_eq!(deleted, games.len() as u64, "{reset}");
    assert!(moved.iter().all(|one| one["to"] == 0), "{reset}");
    let seen = answer(&place, &["groups", &group]);
    assert_eq!(seen["lag"], events, "{seen}");

    let host = place.start_ready().await;
    host.has_processed_all().await;
    check_all(&host, &games).await;
    // No game counts anything as seen before, and none has lost anything.
    for game in &games {
        let output = host.game(&game.id).await.expect("an output");
        assert_eq!(output["duplicates"], 0, "{output}");
        assert_eq!(output["gaps"], 0, "{output}");
    }
    host.stop().await;
}

/// Also on the embedded engine, whose log nobody else can open meanwhile.
async fn a_running_host_shows_its_groups(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let host = place.start_ready().await;
    let games = games::invented(2);
    play(&host, &games).await;
    host.has_processed_all().await;
    let group = place.topic("courtside-scores");
    let url = host.url();
    let live = ["groups", &group, "--live", "--url", &url];
    // A second worker may still be joining.
    let text = until("all partitions to be running", || async {
        let text = table(&place, &live);
        let running = text.matches("running").count();
        if running
            == answer(&place, &live)["partitions"]
                .as_array()
                .map_or(0, Vec::len)
        {
            Ok(text)
        } else {
            Err(text)
        }
    })
    .await;
    let seen = answer(&place, &live);
    assert_eq!(seen["pipeline"], "scores", "{seen}");
    assert_eq!(seen["lag"], 0, "{seen}");
    let partitions = seen["partitions"].as_array().expect("partitions");
    let members = seen["members"].as_array().expect("members");
    assert!(!members.is_empty(), "{seen}");
    assert_eq!(text.matches("running").count(), partitions.len(), "{text}");
    for member in members {
        let name = member["member"].as_str().expect("a name");
        assert!(text.contains(name), "{text}");
    }
    let listed = answer(&place, &["groups", "--live", "--url", &url]);
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    let said = refusal(&place, &["groups", "nobody", "--live", "--url", &url]);
    assert!(said.contains("courtside: no-such-group: "), "{said}");
    host.stop().await;
}

/// Killed at any moment, a reset has happened or has not; the next one does it.
async fn a_reset_that_is_killed_is_done_again(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let games = games::invented(3);
    let group = place.topic("courtside-scores");
    let host = place.start_ready().await;
    play(&host, &games).await;
    host.has_processed_all().await;
    host.stop().await;
    let words = ["reset", "scores", "--to", "earliest", "--yes"];
    for millis in [20, 150, 400, 900] {
        let mut killed = place.operate(&words);
        let mut killed = killed
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary starts");
        tokio::time::sleep(Duration::from_millis(millis)).await;
        killed.kill().expect("a command to kill");
        killed.wait().expect("its end");
        // Every partition is as it was, or as it should be.
        let seen = answer(&place, &["groups", &group]);
        for one in seen["partitions"].as_array().expect("partitions") {
            let committed = one["committed"].as_u64().unwrap_or(0);
            let end = one["end"].as_u64().expect("an end");
            let near_end = end.saturating_sub(1);
            assert!(committed == 0 || committed >= near_end, "{seen}");
        }
    }
    until(
        "the reset, when the killed one's session is over",
        || async {
            let said = output(&mut place.operate(&words));
            if said.status.success() {
                Ok(())
            } else {
                Err(format!("{said:?}"))
            }
        },
    )
    .await;
    let host = place.start_ready().await;
    host.has_processed_all().await;
    check_all(&host, &games).await;
    host.stop().await;
}

fn main() -> ExitCode {
    Suite::new()
        .on_both(|| {
            tests![
                topics_from_their_creation_to_their_end,
                what_a_group_has_is_not_lost_by_mistake,
                a_reset_pipeline_comes_to_the_same_scores,
                a_running_host_shows_its_groups,
                a_reset_that_is_killed_is_done_again,
            ]
        })
        .run()
}
