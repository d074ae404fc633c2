//! `courtside replay`, `export` and `plugin check`, as an operator and an author run
//! them: the real binary beside a host, or without one, on both engines.

use std::{
    fs,
    path::Path,
    process::{ExitCode, Output},
};

use courtside_tests::{
    Engine, Host, Place, built,
    games::{self, Game},
    place::{courtside, output},
    play::Player,
    suite::Suite,
    tests,
    topics::Topics,
};
use serde_json::{Value, json};

/// Runs a command that must end with this status.
fn run(words: &[&str], status: i32) -> Output {
    let (command, arguments) = words.split_first().expect("a command");
    let said = output(courtside(command).args(arguments));
    assert_eq!(said.status.code(), Some(status), "{words:?}: {said:?}");
    said
}

fn stdout(said: &Output) -> String {
    String::from_utf8(said.stdout.clone()).expect("text")
}

fn stderr(said: &Output) -> String {
    String::from_utf8(said.stderr.clone()).expect("text")
}

fn json(said: &Output) -> Value {
    serde_json::from_slice(&said.stdout).expect("JSON")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A file beside the place's directories.
fn file(place: &Place, name: &str, bytes: &[u8]) -> String {
    let file = place.path(name);
    fs::write(&file, bytes).expect("a file");
    path(&file).to_owned()
}

async fn play(host: &Host, games: &[Game]) {
    Player::start(&host.url(), games, &[]).succeeds(games).await;
    host.has_processed_all().await;
}

/// Games that were played in two halves, with a crash between them, are replayed as
/// they were published.
async fn a_game_is_replayed_byte_for_byte(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let games = &games::thirty()[..3];
    let host = place.start_ready().await;
    let halves: Vec<_> = games
        .iter()
        .map(|game| game.lines.split_at(game.lines.len() / 2))
        .collect();
    for (first, _) in &halves {
        host.accepts_all("/score", first).await;
    }
    host.kill();
    // The second half has another host, which takes over what the first left.
    let host = place.start_ready().await;
    for (_, second) in &halves {
        host.accepts_all("/score", second).await;
    }
    host.has_processed_all().await;

    let url = host.url();
    let mut replayed = Vec::new();
    for game in games {
        let asked = ["replay", "--url", &url, "--key", &game.id];
        let said = run(&[&asked[..], &["--diff"]].concat(), 0);
        assert_eq!(stdout(&said), "");
        let events = game.lines.len();
        let summary = stderr(&said);
        assert!(
            summary.contains(&format!("{events} records as published, 0 differ")),
            "{summary}"
        );
        let raw = run(&[&asked[..], &["--raw"]].concat(), 0);
        let lines = stdout(&run(&asked, 0));
        replayed.push((game, raw.stdout, lines));
    }
    let said = run(&["replay", "--url", &url, "--key", "nobody"], 2);
    assert!(
        stderr(&said).contains("courtside: entity-not-found: "),
        "{said:?}"
    );
    let said = run(
        &[
            "replay",
            "--url",
            &url,
            "--key",
            "nobody",
            "--pipeline",
            "none",
        ],
        2,
    );
    assert!(
        stderr(&said).contains("courtside: pipeline-not-found: "),
        "{said:?}"
    );
    host.stop().await;

    // The log, read without the host, has those very bytes.
    let topics = Topics::of(&place);
    let records = topics.records("NBA-Scores");
    for (game, raw, lines) in replayed {
        let of_game: Vec<_> = records
            .iter()
            .filter(|(_, record)| record.key.as_deref() == Some(game.id.as_bytes()))
            .collect();
        assert_eq!(of_game.len(), game.lines.len());
        let values = of_game
            .iter()
            .flat_map(|(_, record)| [record.value.as_deref().expect("an output"), b"\n"].concat());
        assert!(values.eq(raw), "{} was replayed otherwise", game.id);
        for ((partition, record), line) in of_game.iter().zip(lines.lines()) {
            let line: Value = serde_json::from_str(line).expect("a line");
            assert_eq!(line["partition"], partition.0, "{line}");
            assert_eq!(line["timestamp_ms"], record.timestamp_ms, "{line}");
            let headers = record.headers.iter().map(|header| {
                let value = header.value.as_deref().map(String::from_utf8_lossy);
                json!({"name": &*header.name, "value": value})
            });
            assert_eq!(line["headers"], headers.collect::<Value>(), "{line}");
        }
    }
}

async fn another_plugin_shows_what_it_would_have_changed(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let games = &games::thirty()[..1];
    let host = place.start_ready().await;
    play(&host, games).await;
    let slot = async || {
        let slot = host.slot("scores/default").await.expect("a slot");
        json!([
            slot["plugin"],
            slot["state"],
            slot["swaps"],
            slot["history"]
        ])
    };
    let before = slot().await;
    let (url, game) = (host.url(), &games[0]);
    let other = file(&place, "other.wasm", &built::plugin("box-score"));
    let words = [
        "replay", "--url", &url, "--key", &game.id, "--plugin", &other,
    ];
    let said = run(&words, 1);
    let text = stdout(&said);
    assert!(text.contains("/rebounds: null → "), "{text}");
    assert!(!text.contains("/points"), "no score is another: {text}");
    let report = json(&run(&[&words[..], &["--output", "json"]].concat(), 1));
    let differences = report["differences"].as_array().expect("differences");
    assert_eq!(differences.len(), game.lines.len());
    assert_eq!(report["same"], 0);
    let ran = concat!("box-score@", env!("CARGO_PKG_VERSION"));
    assert_eq!(report["plugins"][0]["plugin"], ran);
    for difference in differences {
        assert_eq!(difference["kind"], "changed");
    }
    // On request the command prints the outputs themselves, and judges nothing.
    let said = run(&[&words[..], &["--outputs"]].concat(), 0);
    assert_eq!(stdout(&said).lines().count(), game.lines.len());
    // The plugin that ran has no differences, whichever way it comes.
    let same = file(&place, "same.wasm", &built::plugin("nba-scoring"));
    let words = [
        "replay", "--url", &url, "--key", &game.id, "--plugin", &same,
    ];
    assert_eq!(stdout(&run(&words, 0)), "");
    let no_plugin = file(&place, "none.wasm", b"none");
    let words = [
        "replay", "--url", &url, "--key", &game.id, "--plugin", &no_plugin,
    ];
    assert!(stderr(&run(&words, 2)).contains("courtside: plugin-not-wasm: "));

    // Nothing live was touched.
    assert_eq!(slot().await, before);
    game.check(&host.game(&game.id).await.expect("an output"));
    host.stop().await;
    let copies = Topics::of(&place).each_counted_once("scores", "NBA-Games", "NBA-Scores");
    assert_eq!(copies, 0);
}

async fn an_export_is_replayed_and_checked_offline(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let games = &games::thirty()[..1];
    let host = place.start_ready().await;
    play(&host, games).await;
    let (url, game) = (host.url(), &games[0]);
    let export = place.path("game.courtside");
    let export = path(&export);
    let said = run(
        &["export", "--url", &url, "--key", &game.id, "-o", export],
        0,
    );
    assert!(stderr(&said).contains("1 plugins"), "{said:?}");
    let again = place.path("again.courtside");
    run(
        &[
            "export",
            "--url",
            &url,
            "--key",
            &game.id,
            "-o",
            path(&again),
        ],
        0,
    );
    assert_eq!(
        fs::read(export).expect("an export"),
        fs::read(&again).expect("an export"),
        "the same game, the same file"
    );
    host.stop().await;

    assert_eq!(stdout(&run(&["replay", "--from", export, "--diff"], 0)), "");
    let other = file(&place, "other.wasm", &built::plugin("box-score"));
    run(&["replay", "--from", export, "--plugin", &other], 1);
    let bytes = fs::read(export).expect("an export");
    let cut = file(&place, "cut.courtside", &bytes[..bytes.len() / 2]);
    let said = run(&["replay", "--from", &cut], 2);
    assert!(
        stderr(&said).contains("courtside: export-invalid: "),
        "{said:?}"
    );
    let said = run(&["replay", "--from", "nowhere.courtside"], 2);
    assert!(
        stderr(&said).contains("courtside: export-invalid: "),
        "{said:?}"
    );

    // A plugin's author checks plugins with the same file.
    let check = |plugin: &str, status: i32| {
        let words = [
            "plugin", "check", plugin, "--from", export, "--output", "json",
        ];
        json(&run(&words, status))
    };
    for plugin in ["nba-scoring", "box-score"] {
        let file = file(&place, "good.wasm", &built::plugin(plugin));
        let report = check(&file, 0);
        assert_eq!(report["passed"], true, "{report}");
        assert_eq!(report["description"]["name"], plugin, "{report}");
        assert_eq!(report["rehearsals"][0]["checkpoint"], "nba-scoring/1");
        assert_eq!(report["rehearsals"][0]["outputs"], game.lines.len());
        assert_eq!(report["rehearsals"][0]["objections"], json!([]), "{report}");
        let exports = report["exports"].to_string();
        assert!(
            exports.contains("courtside:plugin/processor@0.1.0"),
            "{report}"
        );
    }
    // One plugin cannot read the game's format, and one file is no plugin.
    let stranger = file(&place, "stranger.wasm", &built::plugin("misbehaving"));
    let report = check(&stranger, 1);
    let objections = report["rehearsals"][0]["objections"].to_string();
    assert!(objections.contains("plugin-cannot-read"), "{report}");
    let nothing = file(&place, "nothing.wasm", b"nothing");
    let report = check(&nothing, 1);
    assert_eq!(report["rejection"]["code"], "plugin-not-wasm", "{report}");
    run(&["plugin", "check", "nowhere.wasm"], 2);
    run(&["plugin", "check", &other, "--from", &cut], 2);
    let said = stdout(&run(&["plugin", "check", &other], 0));
    assert!(said.contains("verdict     a host would take it"), "{said}");
}

/// A game runs under two plugins, and the second is taken back. The replay has the
/// outputs that are in force, and each plugin gets its own part again.
async fn a_swap_and_a_rollback_are_replayed(engine: Engine) {
    let good = built::plugin("nba-scoring");
    let place = Place::with_plugin(&good).on(engine);
    let game = &games::thirty()[0];
    let host = place.start_ready().await;
    let (first, rest) = game.lines.split_at(game.lines.len() / 3);
    let (second, third) = rest.split_at(rest.len() / 2);
    host.accepts_all("/score", first).await;
    host.has_processed_all().await;
    let other = built::plugin("box-score");
    place.put("scores/default", &other);
    host.runs("scores/default", &other).await;
    host.accepts_all("/score", second).await;
    host.has_processed_all().await;

    let url = host.url();
    let words = ["replay", "--url", &url, "--key", &game.id, "--diff"];
    let said = run(&words, 0);
    let summary = stderr(&said);
    let plugins = [
        concat!("nba-scoring@", env!("CARGO_PKG_VERSION")),
        concat!(", box-score@", env!("CARGO_PKG_VERSION")),
    ];
    for plugin in plugins {
        assert!(summary.contains(plugin), "{summary}");
    }
    let events = first.len() + second.len();
    let all = format!("{events} records as published, 0 differ");
    assert!(summary.contains(&all), "{summary}");

    run(
        &[
            "plugins",
            "rollback",
            "scores/default",
            "--yes",
            "--url",
            &url,
        ],
        0,
    );
    let digest = courtside_types::Digest::of(&good).to_string();
    let is_back = |slot: &Value| slot["plugin"]["digest"] == *digest;
    host.slot_is("scores/default", "rolled back", is_back).await;
    host.accepts_all("/score", third).await;
    host.has_processed_all().await;
    let said = run(&words, 0);
    let summary = stderr(&said);
    assert!(!summary.contains("box-score"), "{summary}");
    let undone = format!(
        "{} records as published, 0 differ, {} undone by a rollback",
        game.lines.len(),
        second.len()
    );
    assert!(summary.contains(&undone), "{summary}");
    game.check(&host.game(&game.id).await.expect("an output"));
    host.stop().await;
}

/// Refused events are redriven after a rollback of the plugin that ran in between. The
/// replay comes to the state that the worker has.
async fn a_rollback_and_a_redrive_are_replayed(engine: Engine) {
    // The plugin `misbehaving` refuses each event of such a game.
    const GAME: &str = "refuse-LAL-BOS";
    const SLOT: &str = "scores/default";
    let events = |seqs: std::ops::RangeInclusive<u64>| -> Vec<String> {
        let event = |seq| {
            json!({
                "game_id": GAME, "seq": seq, "type": "three_pointer", "team": "BOS",
                "player": "Ada Park", "points": 3, "period": 1, "clock": "9:42",
            })
        };
        seqs.map(|seq| event(seq).to_string()).collect()
    };
    let place = Place::with_plugin(&built::plugin("misbehaving")).on(engine);
    let host = place.start_ready().await;
    let url = host.url();
    let post = async |seqs| {
        host.accepts_all("/score", &events(seqs)).await;
        host.has_processed_all().await;
    };
    post(1..=5).await;
    let good = built::plugin("nba-scoring");
    let bad = built::plugin("miscounting");
    for (plugin, seqs) in [(&good, 6..=10), (&bad, 11..=15)] {
        place.put(SLOT, plugin);
        host.runs(SLOT, plugin).await;
        post(seqs).await;
    }
    run(&["plugins", "rollback", SLOT, "--yes", "--url", &url], 0);
    host.runs(SLOT, &good).await;
    post(16..=20).await;
    let redrive = [
        "dead-letter",
        "redrive",
        "--key",
        GAME,
        "--yes",
        "--url",
        &url,
    ];
    run(&redrive, 0);
    post(21..=25).await;

    let game = host.game(GAME).await.expect("an output");
    assert_eq!(game["points"]["BOS"], 75, "{game}");
    assert_eq!(game["duplicates"], 0, "{game}");
    let said = run(&["replay", "--url", &url, "--key", GAME, "--diff"], 0);
    assert_eq!(stdout(&said), "");
    let summary = stderr(&said);
    assert!(
        summary.contains(" 0 differ, 5 undone by a rollback"),
        "{summary}"
    );
    host.stop().await;
}

/// A replay gives the worker's own answers once more: refusals, failures, a halt and
/// retries.
async fn what_went_wrong_goes_wrong_again(engine: Engine) {
    let place = Place::new()
        .on(engine)
        .configured("[pipelines.cases]\ninput = \"events\"\noutput = \"outputs\"\nkey = \"/key\"\n")
        .set("plugin.call_cpu_time_max", "200ms")
        .set("plugin.memory_bytes_max", "16MiB")
        .set("log.partitions", "1");
    place.put("cases/default", &built::plugin("misbehaving"));
    let host = place.start_ready().await;
    let deeds = [
        "count",
        "refuse",
        "trap",
        "trap-in-company",
        "recurse",
        "loop",
        "count",
        "eat-memory",
        "count",
        "sleep",
        "exit",
        "emit-for-nobody",
        "emit-elsewhere",
        "emit-much",
        "count",
        "trap-in-checkpoint",
        "count",
        "count",
    ];
    let events: Vec<String> = deeds
        .iter()
        .map(|deed| json!({"key": "bad", "do": deed}).to_string())
        .collect();
    host.accepts_all("/events/cases", &events).await;
    let request = host
        .request(reqwest::Method::POST, "/events/cases")
        .header("content-type", "application/json")
        .header("idempotency-key", "once")
        .body(json!({"key": "bad"}).to_string());
    for _ in 0..2 {
        let answer = request.try_clone().expect("a request").send().await;
        assert!(answer.expect("an answer").status().is_success());
    }
    host.has_processed_all().await;
    let url = host.url();
    let words = [
        "replay",
        "--url",
        &url,
        "--pipeline",
        "cases",
        "--key",
        "bad",
        "--diff",
    ];
    let said = run(&words, 0);
    let summary = stderr(&said);
    assert!(summary.contains("20 events"), "{summary}");
    assert!(summary.contains(", 0 differ"), "{summary}");
    let lines = stdout(&run(
        &[
            "replay",
            "--url",
            &url,
            "--pipeline",
            "cases",
            "--key",
            "bad",
        ],
        0,
    ));
    for code in [
        "event-refused",
        "plugin-trap",
        "plugin-deadline",
        "entity-halted",
    ] {
        assert!(lines.contains(code), "no {code} in {lines}");
    }
    host.stop().await;
}

fn main() -> ExitCode {
    let tests = || {
        tests![
            a_game_is_replayed_byte_for_byte,
            another_plugin_shows_what_it_would_have_changed,
            an_export_is_replayed_and_checked_offline,
            a_swap_and_a_rollback_are_replayed,
            a_rollback_and_a_redrive_are_replayed,
            what_went_wrong_goes_wrong_again,
        ]
    };
    Suite::new().on_both(tests).run()
}
