//! Plugins put in force over HTTP, the history of those that ran, and the way back
//! from one that was wrong.

use std::{fs, path::Path, process::ExitCode};

use courtside_tests::{
    Engine, Host, Place, built,
    games::{self, Game},
    place::{courtside, output},
    suite::Suite,
    tests,
    topics::Topics,
    until, wasm,
};
use courtside_types::Digest;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const SLOT: &str = "scores/default";

fn digest(plugin: &[u8]) -> String {
    Digest::of(plugin).to_string()
}

async fn put(host: &Host, slot: &str, plugin: &[u8]) -> courtside_tests::Answer {
    let path = format!("/plugins/{slot}");
    host.operate(Method::PUT, &path, plugin.to_vec()).await
}

/// Runs `courtside plugins` against a host, and returns its answer as JSON.
fn plugins(host: &Host, words: &[&str]) -> Result<Value, String> {
    let mut command = courtside("plugins");
    let url = host.url();
    command
        .args(words)
        .args(["--url", &url, "--output", "json"]);
    let said = output(&mut command);
    if said.status.success() {
        Ok(serde_json::from_slice(&said.stdout).expect("JSON"))
    } else {
        assert_eq!(said.status.code(), Some(1), "{said:?}");
        Err(String::from_utf8(said.stderr).expect("text"))
    }
}

/// Plays the lines of each game from one part of it to another.
async fn play(host: &Host, games: &[Game], from: f64, to: f64) {
    for game in games {
        let at = |part: f64| (game.lines.len() as f64 * part) as usize;
        host.accepts_all("/score", &game.lines[at(from)..at(to)])
            .await;
    }
}

async fn check_all(host: &Host, games: &[Game]) {
    for game in games {
        game.check(&host.game(&game.id).await.expect("an output"));
    }
}

/// The plugins that took over in a slot, the oldest first, as the group remembers.
async fn swaps(host: &Host) -> Vec<(String, Value)> {
    let view = host.slot(SLOT).await.expect("the slot");
    let swaps = view["swaps_of_group"].as_array().expect("swaps");
    swaps
        .iter()
        .map(|swap| {
            let kind = swap["kind"].as_str().expect("a kind").to_owned();
            (kind, swap["digest"].clone())
        })
        .collect()
}

async fn until_swaps(host: &Host, wanted: &[(&str, &[u8])]) {
    let wanted: Vec<(String, Value)> = wanted
        .iter()
        .map(|(kind, plugin)| ((*kind).to_owned(), json!(digest(plugin))))
        .collect();
    until("the swaps of the group", || async {
        let seen = swaps(host).await;
        if seen == wanted {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
}

async fn a_plugin_that_is_put_runs_when_that_is_answered(engine: Engine) {
    let good = built::plugin("nba-scoring");
    let misbehaving = built::plugin("misbehaving");
    let limit = good.len().max(misbehaving.len()) + 1000;
    let too_large = wasm::variant(&good, &"x".repeat(limit));
    let place = Place::with_plugin(&good)
        .on(engine)
        .set("plugin.plugin_bytes_max", &format!("{limit}B"));
    let host = place.start_ready().await;
    let games = games::invented(2);
    play(&host, &games, 0.0, 0.3).await;
    host.has_processed_all().await;

    let next = wasm::variant(&good, "next");
    let answer = put(&host, SLOT, &next).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let view = answer.json();
    assert_eq!(view["state"], "active", "{view}");
    assert_eq!(view["plugin"]["digest"], digest(&next), "{view}");
    assert_eq!(fs::read(place.slot_file(SLOT)).expect("the file"), next);
    play(&host, &games, 0.3, 0.6).await;

    // A plugin that is put again is no swap.
    let swaps = view["swaps"].clone();
    let again = put(&host, SLOT, &next).await.json();
    assert_eq!(again["swaps"], swaps, "{again}");

    for (plugin, status, code) in [
        (&next[..next.len() / 2], 422, "plugin-truncated"),
        (&b""[..], 422, "plugin-empty"),
        (&misbehaving, 422, "plugin-cannot-read"),
        (&too_large, 413, "plugin-too-large"),
    ] {
        let answer = put(&host, SLOT, plugin).await;
        assert_eq!(answer.status.as_u16(), status, "{answer:?}");
        assert_eq!(answer.code(), code, "{answer:?}");
        if code == "plugin-cannot-read" {
            let detail = answer.json()["detail"].to_string();
            assert!(detail.contains("nba-scoring/1"), "{detail}");
        }
    }
    let view = host.slot(SLOT).await.expect("the slot");
    assert_eq!(view["plugin"]["digest"], digest(&next), "{view}");
    play(&host, &games, 0.6, 1.0).await;
    host.has_processed_all().await;
    check_all(&host, &games).await;
    let path = "/plugins/nothing/default";
    let answer = host.operate(Method::PUT, path, good.clone()).await;
    assert_eq!(answer.code(), "pipeline-not-found");
    host.stop().await;
    assert_eq!(Topics::of(&place).dead_letters("scores"), []);
}

async fn a_key_gets_a_plugin_and_loses_it(engine: Engine) {
    let good = built::plugin("nba-scoring");
    let place = Place::with_plugin(&good).on(engine);
    let host = place.start_ready().await;
    let slot = "scores/keys/a%2Fb";
    let answer = put(&host, slot, &built::plugin("box-score")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.json()["key"], "a/b");
    assert!(place.slot_file(slot).exists());
    let path = format!("/plugins/{slot}");
    let answer = host.operate(Method::DELETE, &path, "").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert!(!place.slot_file(slot).exists());
    until("the slot to be gone", || async {
        host.slot(slot)
            .await
            .map_or(Ok(()), |view| Err(view.to_string()))
    })
    .await;
    let answer = host.operate(Method::DELETE, &path, "").await;
    assert_eq!(answer.code(), "slot-not-found", "{answer:?}");

    // Where the host cannot write, it says so, and the plugin that runs goes on.
    let keys = place.plugin_dir().join("scores/keys");
    fs::remove_dir_all(&keys).expect("a directory to remove");
    fs::write(&keys, "in the way").expect("a file");
    let answer = put(&host, slot, &good).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{answer:?}");
    assert_eq!(answer.code(), "plugin-dir-unwritable");
    host.stop().await;
}

async fn who_is_elsewhere_operates_nothing(engine: Engine) {
    let good = built::plugin("nba-scoring");
    let place = Place::with_plugin(&good).on(engine);
    let host = place.start_ready().await;
    let path = format!("/plugins/{SLOT}");
    for (header, value) in [
        ("host", "evil.example"),
        ("origin", "http://evil.example"),
        ("x-forwarded-for", "192.0.2.1"),
    ] {
        let request = host.request(Method::PUT, &path).header(header, value);
        let answer = request.body("bytes").send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{header}");
        let problem: Value = answer.json().await.expect("a problem");
        assert_eq!(problem["code"], "operating-is-local");
    }
    let view = host.slot(SLOT).await.expect("the slot");
    assert_eq!(view["state"], "active", "{view}");
    host.stop().await;
}

async fn takeovers_are_remembered_over_restarts(engine: Engine) {
    let good = built::plugin("nba-scoring");
    let next = wasm::variant(&good, "next");
    let place = Place::with_plugin(&good).on(engine);
    let games = games::invented(3);
    let host = place.start_ready().await;
    play(&host, &games, 0.0, 0.5).await;
    host.has_processed_all().await;
    until_swaps(&host, &[("swap", &good)]).await;
    place.put(SLOT, &next);
    host.runs(SLOT, &next).await;
    play(&host, &games, 0.5, 1.0).await;
    host.has_processed_all().await;
    until_swaps(&host, &[("swap", &good), ("swap", &next)]).await;
    // The second plugin took over where the events of the first end. A partition
    // without events since then tells of it when its worker is idle.
    let half: usize = games.iter().map(|game| game.lines.len() / 2).sum();
    let view = until("the takeover in every partition", || async {
        let view = host.slot(SLOT).await.ok_or("no slot")?;
        let took_over = view["swaps_of_group"][1]["partitions"].as_object();
        let offsets = took_over.into_iter().flat_map(|all| all.values());
        let sum: u64 = offsets.filter_map(Value::as_u64).sum();
        if sum == half as u64 {
            Ok(view)
        } else {
            Err(view.to_string())
        }
    })
    .await;
    let (first, second) = (&view["swaps_of_group"][0], &view["swaps_of_group"][1]);
    assert_eq!(first["previous"], Value::Null, "{view}");
    assert_eq!(second["previous"], digest(&good), "{view}");
    assert!(view["trial_until"].is_string(), "{view}");
    host.kill();

    let host = place.start_ready().await;
    until_swaps(&host, &[("swap", &good), ("swap", &next)]).await;
    let history = plugins(&host, &["history", SLOT]).expect("a history");
    let swaps = history[0]["swaps"].as_array().expect("swaps");
    assert_eq!(swaps.len(), 2, "{history}");
    assert_eq!(swaps[1]["partitions"], second["partitions"], "{history}");
    let said = plugins(&host, &["history", "scores/keys/nobody"]).unwrap_err();
    assert!(said.contains("slot-not-found"), "{said}");
    let listed = plugins(&host, &["list"]).expect("slots");
    assert_eq!(listed["slots"][0]["plugin"]["digest"], digest(&next));
    host.stop().await;
}

/// After a rollback, nobody should be able to tell in the end that the bad plugin ever
/// ran.
async fn what_a_bad_plugin_counted_is_put_right(engine: Engine) {
    let (good, bad) = (built::plugin("nba-scoring"), built::plugin("miscounting"));
    let place = Place::with_plugin(&good).on(engine);
    let games = games::thirty();
    let host = place.start_ready().await;
    let refused = plugins(&host, &["rollback", SLOT, "--yes"]).unwrap_err();
    assert!(refused.contains("nothing-to-roll-back"), "{refused}");
    play(&host, &games, 0.0, 0.25).await;
    host.has_processed_all().await;
    let answer = put(&host, SLOT, &bad).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    play(&host, &games, 0.25, 0.5).await;
    host.has_processed_all().await;
    until_swaps(&host, &[("swap", &good), ("swap", &bad)]).await;
    let mut short_of = 0;
    for game in &games {
        let output = host.game(&game.id).await.expect("an output");
        short_of += points_until(game, 0.5) - points(&output);
    }
    assert!(short_of > 0, "nobody scored a three-pointer");

    let plan = plugins(&host, &["rollback", SLOT, "--dry-run"]).expect("a plan");
    let quarter: usize = games
        .iter()
        .map(|game| game.lines.len() / 2 - game.lines.len() / 4)
        .sum();
    assert_eq!(plan["events"], quarter, "{plan}");
    assert_eq!(plan["entities"], games.len(), "{plan}");
    assert_eq!(plan["from"]["digest"], digest(&bad), "{plan}");
    assert_eq!(plan["to"]["digest"], digest(&good), "{plan}");
    assert_eq!(
        (&plan["done"], &plan["refused"]),
        (&json!(false), &Value::Null)
    );
    let said = plugins(&host, &["rollback", SLOT]).unwrap_err();
    assert!(said.contains("confirmation-needed"), "{said}");
    host.runs(SLOT, &bad).await;

    // Games go on meanwhile.
    let (path, body) = (format!("/plugins/{SLOT}/rollback"), "");
    let (answer, ()) = tokio::join!(
        host.operate(Method::POST, &path, body),
        play(&host, &games, 0.5, 0.75),
    );
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.json()["done"], true);
    host.has_processed_all().await;
    until("nothing to be processed again", || async {
        let group = host.get("/group").await.body;
        if group.contains("redoing") {
            Err(group)
        } else {
            Ok(())
        }
    })
    .await;
    let view = host.slot(SLOT).await.expect("the slot");
    assert_eq!(view["plugin"]["digest"], digest(&good), "{view}");
    host.has_file_rolled_back(SLOT).await;
    until_swaps(
        &host,
        &[("swap", &good), ("swap", &bad), ("rollback", &good)],
    )
    .await;
    play(&host, &games, 0.75, 1.0).await;
    host.has_processed_all().await;
    check_all(&host, &games).await;
    host.stop().await;

    // The rollback outlasts a restart.
    let host = place.start_ready().await;
    host.has_file_rolled_back(SLOT).await;
    let view = host.slot(SLOT).await.expect("the slot");
    assert_eq!(view["plugin"]["digest"], digest(&good), "{view}");
    check_all(&host, &games).await;
    // The bad plugin comes back once somebody puts it again.
    let file = place.path("wanted.wasm");
    fs::write(&file, &bad).expect("a file");
    let put = plugins(&host, &["put", SLOT, path_of(&file)]).expect("it runs");
    assert_eq!(put["plugin"]["digest"], digest(&bad), "{put}");
    host.stop().await;
    let host = place.start_ready().await;
    host.runs(SLOT, &bad).await;
    host.stop().await;
    check_attempts(&place, &games);
}

/// A rollback does not bring back a plugin that could not read the states at the time.
async fn what_was_rejected_stays_so_after_a_rollback(engine: Engine) {
    let (good, next) = (built::plugin("nba-scoring"), built::plugin("box-score"));
    // This plugin reads the format of nba-scoring, and not that of box-score.
    let rejected = wasm::reworded(&good, "box-score/1", "box-score/9");
    let place = Place::with_plugin(&good).on(engine);
    let games = games::invented(2);
    let host = place.start_ready().await;
    play(&host, &games, 0.0, 0.3).await;
    host.has_processed_all().await;
    let mut wanted = vec![("swap", good.as_slice())];
    until_swaps(&host, &wanted).await;
    put(&host, SLOT, &next).await;
    play(&host, &games, 0.3, 0.6).await;
    host.has_processed_all().await;
    wanted.push(("swap", &next));
    until_swaps(&host, &wanted).await;
    let answer = put(&host, SLOT, &rejected).await;
    assert_eq!(answer.code(), "plugin-cannot-read", "{answer:?}");
    host.rejects(SLOT, "plugin-cannot-read").await;

    let done = plugins(&host, &["rollback", SLOT, "--yes"]).expect("it is done");
    assert_eq!(done["to"]["digest"], digest(&good), "{done}");
    let view = host.runs(SLOT, &good).await;
    assert_eq!(view["file"]["state"], "rejected", "{view}");
    wanted.push(("rollback", &good));
    until_swaps(&host, &wanted).await;
    play(&host, &games, 0.6, 0.8).await;
    host.has_processed_all().await;
    // Once this host has taken another slot's file as well, it has decided everything
    // that it decides by itself.
    place.put("scores/keys/nobody", &good);
    host.runs("scores/keys/nobody", &good).await;
    host.runs(SLOT, &good).await;
    host.kill();
    // The file stays rejected after a restart, which judges it anew.
    let host = place.start_ready().await;
    let view = host
        .slot_is(SLOT, "decided on", |view| view["file"]["state"] != "new")
        .await;
    assert_eq!(view["plugin"]["digest"], digest(&good), "{view}");
    assert_eq!(view["state"], "active", "{view}");
    assert_eq!(view["file"]["state"], "rejected", "{view}");
    assert_eq!(view["file"]["code"], "plugin-cannot-read", "{view}");
    play(&host, &games, 0.8, 1.0).await;
    host.has_processed_all().await;
    until_swaps(&host, &wanted).await;
    check_all(&host, &games).await;
    // The plugin is taken once somebody puts it, because it can read the states that
    // are there now.
    let answer = put(&host, SLOT, &rejected).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    host.stop().await;
}

/// The slot runs the plugin that was ordered, but its file is another, until a command
/// puts it right.
async fn a_file_that_was_rolled_back_is_put_right(engine: Engine) {
    let (good, bad) = (built::plugin("nba-scoring"), built::plugin("miscounting"));
    let place = Place::with_plugin(&good).on(engine);
    let games = games::invented(2);
    let host = place.start_ready().await;
    play(&host, &games, 0.0, 0.5).await;
    host.has_processed_all().await;
    let hour = |view: &Value| {
        let until: jiff::Timestamp = view["trial_until"]
            .as_str()
            .expect("an end")
            .parse()
            .unwrap();
        let left = until.duration_since(jiff::Timestamp::now()).as_secs();
        assert!((3_500..=3_600).contains(&left), "{left} s in {view}");
    };
    let first = put(&host, SLOT, &bad).await.json();
    assert_eq!(first["file"]["state"], "runs", "{first}");
    hour(&first);
    until_swaps(&host, &[("swap", &good), ("swap", &bad)]).await;
    plugins(&host, &["rollback", SLOT, "--yes"]).expect("it is done");
    let view = host.has_file_rolled_back(SLOT).await;
    assert_eq!(view["plugin"]["digest"], digest(&good), "{view}");
    let metrics = host.get("/metrics").await.body;
    for line in [
        r#"courtside_slot_state{pipeline="scores",slot="default",state="active"} 1"#,
        r#"courtside_slot_state{pipeline="scores",slot="default",state="rejected"} 0"#,
        r#"courtside_slot_file{pipeline="scores",slot="default",state="rolled-back"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    host.stop().await;
    let host = place.start_ready().await;
    host.has_file_rolled_back(SLOT).await;
    assert!(!host.log().contains("ERROR"), "{}", host.log());
    let view = plugins(&host, &["restore-file", SLOT]).expect("the slot");
    assert_eq!(view["file"]["state"], "runs", "{view}");
    assert_eq!(view["state"], "active", "{view}");
    assert_eq!(fs::read(place.slot_file(SLOT)).expect("the file"), good);
    // A plugin that is put again is on trial from now on, and not since the first
    // time.
    let again = put(&host, SLOT, &bad).await.json();
    hour(&again);
    assert!(again["trial_until"].as_str() > first["trial_until"].as_str());
    host.stop().await;
}

/// After two rollbacks the directory has the plugin that was undone first.
async fn every_plugin_that_was_rolled_back_stays_so(engine: Engine) {
    let good = built::plugin("nba-scoring");
    let second = wasm::variant(&built::plugin("miscounting"), "second");
    let third = wasm::variant(&built::plugin("miscounting"), "third");
    let place = Place::with_plugin(&good).on(engine);
    let games = games::invented(3);
    let host = place.start_ready().await;
    play(&host, &games, 0.0, 0.25).await;
    host.has_processed_all().await;
    let mut wanted = vec![("swap", good.as_slice())];
    until_swaps(&host, &wanted).await;
    for (plugin, until) in [(&second, 0.5), (&third, 0.75)] {
        put(&host, SLOT, plugin).await;
        play(&host, &games, until - 0.25, until).await;
        host.has_processed_all().await;
        wanted.push(("swap", plugin));
        until_swaps(&host, &wanted).await;
    }
    for (of, to) in [(&third, &second), (&second, &good)] {
        let done = plugins(&host, &["rollback", SLOT, "--yes"]).expect("it is done");
        assert_eq!(done["from"]["digest"], digest(of), "{done}");
        assert_eq!(done["to"]["digest"], digest(to), "{done}");
        // A rollback that is asked for again, because its answer was lost, is not done
        // once more.
        let path = format!("/plugins/{SLOT}/rollback?digest={}", digest(of));
        let again = host.operate(Method::POST, &path, "").await;
        assert_eq!(again.code(), "another-plugin-runs", "{again:?}");
        wanted.push(("rollback", to));
        until_swaps(&host, &wanted).await;
        host.has_file_rolled_back(SLOT).await;
    }
    assert_eq!(fs::read(place.slot_file(SLOT)).expect("the file"), third);
    host.stop().await;

    let stays = async |host: &Host| {
        host.has_file_rolled_back(SLOT).await;
        let view = host.slot(SLOT).await.expect("the slot");
        assert_eq!(view["plugin"]["digest"], digest(&good), "{view}");
    };
    let host = place.start_ready().await;
    stays(&host).await;
    host.stop().await;
    // This host hears of both rollbacks at once, because it has lost its notes.
    let store = place.data_dir().join("plugins/scores");
    fs::remove_dir_all(&store).expect("the store");
    let host = place.start_ready().await;
    stays(&host).await;
    host.stop().await;
    // This host ran the third plugin when it stopped.
    fs::write(
        store.join("active.json"),
        json!({"slots": {SLOT: digest(&third)}}).to_string(),
    )
    .expect("a note");
    let host = place.start_ready().await;
    stays(&host).await;
    play(&host, &games, 0.75, 1.0).await;
    host.has_processed_all().await;
    check_all(&host, &games).await;
    // A plugin that was never rolled back is taken from the directory.
    let next = wasm::variant(&good, "next");
    place.put(SLOT, &next);
    host.runs(SLOT, &next).await;
    // A plugin that was undone may then come back by the directory. It stays for a
    // host that knows only what the group says.
    place.put(SLOT, &third);
    host.runs(SLOT, &third).await;
    wanted.extend([("swap", next.as_slice()), ("swap", &third)]);
    until_swaps(&host, &wanted).await;
    host.stop().await;
    fs::remove_dir_all(&store).expect("the store");
    let host = place.start_ready().await;
    host.runs(SLOT, &third).await;
    host.stop().await;
    assert_eq!(Topics::of(&place).dead_letters("scores"), []);
}

/// The points of both teams in an output.
fn points(output: &Value) -> u64 {
    let teams = output["points"].as_object().expect("points");
    teams.values().filter_map(Value::as_u64).sum()
}

/// The points that both teams have scored in the first part of a game.
fn points_until(game: &Game, part: f64) -> u64 {
    let lines = (game.lines.len() as f64 * part) as usize;
    let of = |line: &String| {
        let event: Value = serde_json::from_str(line).expect("an event");
        event["points"].as_u64().unwrap_or(0)
    };
    game.lines[..lines].iter().map(of).sum()
}

fn path_of(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// An output that corrects a published one says so. There is one for each event that
/// the bad plugin had processed.
fn check_attempts(place: &Place, games: &[Game]) {
    let topics = Topics::of(place);
    let corrected = topics
        .records("NBA-Scores")
        .iter()
        .filter(|(_, record)| {
            let attempt = record.header("courtside-attempt");
            attempt.is_some_and(|attempt| **attempt == *b"2")
        })
        .count();
    let quarter: usize = games
        .iter()
        .map(|game| game.lines.len() / 2 - game.lines.len() / 4)
        .sum();
    assert!(corrected >= quarter, "{corrected} of {quarter}");
    assert_eq!(topics.dead_letters("scores"), []);
}

async fn what_is_confirmed_is_not_rolled_back(engine: Engine) {
    let good = built::plugin("nba-scoring");
    let next = wasm::variant(&good, "next");
    let place = Place::with_plugin(&good).on(engine);
    let games = games::invented(2);
    let host = place.start_ready().await;
    play(&host, &games, 0.0, 0.5).await;
    host.has_processed_all().await;
    put(&host, SLOT, &next).await;
    play(&host, &games, 0.5, 0.8).await;
    host.has_processed_all().await;
    host.slot_is(SLOT, "on trial", |view| view["trial_until"].is_string())
        .await;
    let confirmed = plugins(&host, &["confirm", SLOT]).expect("it stays");
    assert_eq!(confirmed["trial_until"], Value::Null, "{confirmed}");
    let said = plugins(&host, &["rollback", SLOT, "--yes"]).unwrap_err();
    assert!(said.contains("nothing-to-roll-back"), "{said}");
    host.stop().await;

    let host = place.start_ready().await;
    let said = plugins(&host, &["rollback", SLOT, "--yes"]).unwrap_err();
    assert!(said.contains("nothing-to-roll-back"), "{said}");
    play(&host, &games, 0.8, 1.0).await;
    host.has_processed_all().await;
    check_all(&host, &games).await;
    host.stop().await;
}

/// Before a key has its first own plugin, its game runs with the default one.
async fn a_keys_own_plugin_is_rolled_back_to_none(engine: Engine) {
    let (good, bad) = (built::plugin("nba-scoring"), built::plugin("miscounting"));
    let place = Place::with_plugin(&good).on(engine);
    let games = games::invented(2);
    let slot = format!("scores/keys/{}", games[0].id);
    let host = place.start_ready().await;
    play(&host, &games, 0.0, 0.25).await;
    host.has_processed_all().await;
    put(&host, &slot, &bad).await;
    play(&host, &games, 0.25, 0.5).await;
    host.has_processed_all().await;
    let done = plugins(&host, &["rollback", &slot, "--yes"]).expect("it is done");
    assert_eq!(done["to"]["digest"], Value::Null, "{done}");
    assert_eq!(done["entities"], 1, "{done}");
    host.has_file_rolled_back(&slot).await;
    let view = host.slot(&slot).await.expect("the slot");
    assert_eq!(view["plugin"], Value::Null, "{view}");
    host.kill();
    let host = place.start_ready().await;
    play(&host, &games, 0.5, 1.0).await;
    host.has_processed_all().await;
    check_all(&host, &games).await;
    host.has_file_rolled_back(&slot).await;
    host.stop().await;
}

/// Two hosts that are ready, each with some of the partitions.
async fn two_hosts(place: &Place, other: &Place) -> (Host, Host) {
    let one = place.start_ready().await;
    let two = other.start_ready().await;
    both_work(&one, &two).await;
    (one, two)
}

async fn both_work(one: &Host, two: &Host) {
    until("both to have partitions", || async {
        for host in [one, two] {
            let group = host.get("/group").await.json();
            let partitions = group["groups"][0]["partitions"].as_array().expect("some");
            if partitions.iter().all(|one| one["state"] == "elsewhere") {
                return Err(group.to_string());
            }
        }
        Ok(())
    })
    .await;
}

async fn a_rollback_asked_of_one_host_is_done_by_all(engine: Engine) {
    let (good, bad) = (built::plugin("nba-scoring"), built::plugin("miscounting"));
    let place = Place::with_plugin(&good)
        .on(engine)
        .set("log.partitions", "6")
        .set("worker.workers", "1");
    let other = place.beside();
    other.put(SLOT, &good);
    let (one, two) = two_hosts(&place, &other).await;
    let games = games::invented(12);
    play(&one, &games, 0.0, 0.25).await;
    one.has_processed_all().await;
    for host in [&one, &two] {
        host.slot_is(SLOT, "agreed", |view| {
            view["agreed"] == true && view["hosts"].as_array().map(Vec::len) == Some(2)
        })
        .await;
    }
    put(&one, SLOT, &bad).await;
    one.slot_is(SLOT, "not agreed", |view| view["agreed"] == false)
        .await;
    put(&two, SLOT, &bad).await;
    one.slot_is(SLOT, "agreed again", |view| view["agreed"] == true)
        .await;
    play(&two, &games, 0.25, 0.5).await;
    one.has_processed_all().await;

    let done = plugins(&one, &["rollback", SLOT, "--yes"]).expect("it is done");
    assert_eq!(done["to"]["digest"], digest(&good), "{done}");
    for host in [&one, &two] {
        host.has_file_rolled_back(SLOT).await;
        let view = host.slot(SLOT).await.expect("the slot");
        assert_eq!(view["plugin"]["digest"], digest(&good), "{view}");
    }
    play(&two, &games, 0.5, 0.75).await;
    two.has_processed_all().await;

    // A host that has only the file that was rolled back gets the plugin from the
    // group.
    two.stop().await;
    let third = place.beside();
    third.put(SLOT, &bad);
    let three = third.start_ready().await;
    three.has_file_rolled_back(SLOT).await;
    let view = three.slot(SLOT).await.expect("the slot");
    assert_eq!(view["plugin"]["digest"], digest(&good), "{view}");
    both_work(&one, &three).await;
    play(&three, &games, 0.75, 1.0).await;
    three.has_processed_all().await;
    check_all(&one, &games).await;
    check_all(&three, &games).await;
    one.stop().await;
    three.stop().await;
    assert_eq!(Topics::of(&place).dead_letters("scores"), []);
}

async fn a_partition_waits_on_another_host_for_a_plugin_that_can_read_it(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring"))
        .on(engine)
        .set("log.partitions", "6")
        .set("worker.workers", "1");
    let games = games::invented(12);
    let one = place.start_ready().await;
    play(&one, &games, 0.0, 0.5).await;
    one.has_processed_all().await;
    let other = place.beside();
    other.put(SLOT, &built::plugin("misbehaving"));
    let two = other.start().await;
    both_work(&one, &two).await;
    play(&one, &games, 0.5, 1.0).await;
    until("partitions to wait", || async {
        let ready = two.get("/readyz").await;
        if ready.body.contains("plugin-cannot-read") {
            Ok(())
        } else {
            Err(ready.body)
        }
    })
    .await;
    assert_eq!(one.get("/readyz").await.status, StatusCode::OK);
    put(&two, SLOT, &built::plugin("nba-scoring")).await;
    two.is_ready().await;
    one.has_processed_all().await;
    check_all(&one, &games).await;
    one.stop().await;
    two.stop().await;
    assert_eq!(Topics::of(&place).dead_letters("scores"), []);
}

fn main() -> ExitCode {
    let both = || {
        tests![
            a_plugin_that_is_put_runs_when_that_is_answered,
            a_key_gets_a_plugin_and_loses_it,
            who_is_elsewhere_operates_nothing,
            takeovers_are_remembered_over_restarts,
            what_a_bad_plugin_counted_is_put_right,
            what_is_confirmed_is_not_rolled_back,
            a_keys_own_plugin_is_rolled_back_to_none,
            every_plugin_that_was_rolled_back_stays_so,
            what_was_rejected_stays_so_after_a_rollback,
            a_file_that_was_rolled_back_is_put_right,
        ]
    };
    let several_hosts = tests![
        a_rollback_asked_of_one_host_is_done_by_all,
        a_partition_waits_on_another_host_for_a_plugin_that_can_read_it,
    ];
    Suite::new()
        .on_both(both)
        .on(Engine::Kafka, several_hosts)
        .run()
}
