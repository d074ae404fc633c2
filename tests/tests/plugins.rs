//! Plugins dropped in, replaced, broken and removed while events come in. One
//! game is played all along, and must have counted every event in the end.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    process::{Command, ExitCode},
};

use courtside_tests::{
    Engine, Host, Place, built, suite::Suite, tests, topics::Topics, until, wasm,
};
use reqwest::StatusCode;
use serde_json::{Value, json};

const SLOT: &str = "scores/default";

/// A game that gets a point at a time.
struct Game {
    id: &'static str,
    seq: u64,
}

impl Game {
    const fn new(id: &'static str) -> Self {
        Self { id, seq: 0 }
    }

    fn next(&mut self) -> Value {
        self.seq += 1;
        json!({
            "game_id": self.id, "seq": self.seq, "type": "free_throw", "team": "BOS",
            "player": "Ada Park", "points": 1, "period": 1, "clock": "9:42",
        })
    }

    /// Adds a point, and returns the game's output after it.
    async fn goes_on(&mut self, host: &Host) -> Value {
        let place = host.accepts("/score", &self.next()).await;
        let output = host.game_after(self.id, "scores", &place).await;
        let output = output.expect("an output");
        assert_eq!(output["events"], self.seq, "{output}");
        output
    }

    /// Adds a point while the game's plugin is `nba-scoring` or `box-score`.
    async fn scores(&mut self, host: &Host) -> Value {
        let output = self.goes_on(host).await;
        assert_eq!(output["points"]["BOS"], self.seq, "{output}");
        output
    }
}

fn counts_rebounds(output: &Value) -> bool {
    output.get("rebounds").is_some()
}

async fn a_file_that_is_no_plugin_is_rejected_and_what_ran_goes_on(engine: Engine) {
    let good = built::plugin("nba-scoring");
    let place = Place::with_plugin(&good)
        .on(engine)
        .set("plugin.call_cpu_time_max", "200ms");
    let mut host = place.start_ready().await;
    let mut game = Game::new("LAL-BOS");

    let noise: Vec<u8> = (0..100_000).map(|_| rand::random()).collect();
    let unknown_import =
        r#"(component (import "example:else/where" (instance (export "f" (func)))))"#;
    let offered = [
        ("plugin-empty", Vec::new()),
        ("plugin-truncated", good[..good.len() / 2].to_vec()),
        ("plugin-truncated", good[..good.len() - 1].to_vec()),
        ("plugin-not-wasm", [b"noise".to_vec(), noise].concat()),
        ("plugin-core-module", wasm::component("(module)")),
        ("plugin-wrong-world", wasm::component("(component)")),
        ("plugin-import-unknown", wasm::component(unknown_import)),
        ("plugin-start-failed", wasm::trapping_at_start(&good)),
        ("plugin-start-failed", wasm::looping_at_start(&good)),
    ];
    for (code, bytes) in offered {
        place.put(SLOT, &bytes);
        let reason = host.rejects(SLOT, code).await;
        if code == "plugin-import-unknown" {
            assert!(reason.contains("example:else/where"), "{reason}");
        }
        game.scores(&host).await;
        // The file is again the plugin that runs, so the slot is well again.
        place.put(SLOT, &good);
        let slot = host.runs(SLOT, &good).await;
        assert_eq!(slot["swaps"], 1, "{slot}");
    }
    assert_eq!(host.get("/readyz").await.status, StatusCode::OK);
    assert!(host.is_running());
    host.stop().await;
    assert_eq!(Topics::of(&place).dead_letters("scores"), []);
}

async fn what_is_in_the_slots_place_and_is_no_file_is_rejected(engine: Engine) {
    let good = built::plugin("nba-scoring");
    let place = Place::with_plugin(&good).on(engine);
    let host = place.start_ready().await;
    let mut game = Game::new("LAL-BOS");

    place.exchange(SLOT, |draft| {
        symlink("nowhere.wasm", draft).expect("a dangling link");
    });
    let reason = host.rejects(SLOT, "plugin-file-unreadable").await;
    assert!(reason.contains("link"), "{reason}");
    game.scores(&host).await;

    // To read a pipe that nobody writes to would take for ever.
    place.exchange(SLOT, |draft| {
        let made = Command::new("mkfifo").arg(draft).status();
        assert!(made.expect("mkfifo").success());
    });
    host.rejects(SLOT, "plugin-not-a-file").await;
    game.scores(&host).await;

    place.exchange(SLOT, |draft| {
        fs::create_dir(draft).expect("a directory");
    });
    host.rejects(SLOT, "plugin-not-a-file").await;
    game.scores(&host).await;

    // A link that leads somewhere is as good as the file.
    let elsewhere = place.path("box_score.wasm");
    fs::write(&elsewhere, built::plugin("box-score")).expect("a plugin elsewhere");
    place.exchange(SLOT, |draft| {
        symlink(&elsewhere, draft).expect("a link");
    });
    host.runs(SLOT, &built::plugin("box-score")).await;
    assert!(counts_rebounds(&game.scores(&host).await));
    host.stop().await;
}

async fn a_file_over_the_limit_is_rejected_unread(engine: Engine) {
    let good = built::plugin("nba-scoring");
    let limit = format!("{}B", good.len());
    let place = Place::with_plugin(&good)
        .on(engine)
        .set("plugin.plugin_bytes_max", &limit);
    let host = place.start_ready().await;
    place.put(SLOT, &wasm::variant(&good, "larger"));
    let reason = host.rejects(SLOT, "plugin-too-large").await;
    assert!(reason.contains(&good.len().to_string()), "{reason}");
    Game::new("LAL-BOS").scores(&host).await;
    host.stop().await;
}

async fn a_file_that_is_half_written_for_long_is_taken_when_it_is_whole(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let host = place.start_ready().await;
    let mut game = Game::new("LAL-BOS");
    game.scores(&host).await;

    let next = built::plugin("box-score");
    let (half, rest) = next.split_at(next.len() / 2);
    // The test writes the new file over the old one, as `cp` does.
    let mut file = place.begin(SLOT, half);
    host.rejects(SLOT, "plugin-truncated").await;
    for _ in 0..3 {
        assert!(!counts_rebounds(&game.scores(&host).await));
    }
    file.write_all(rest).expect("the rest of a plugin");
    drop(file);
    host.runs(SLOT, &next).await;
    assert!(counts_rebounds(&game.scores(&host).await));
    host.stop().await;
}

async fn the_plugin_of_one_key_is_of_that_key_alone(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let host = place.start_ready().await;
    let (mut its, mut other) = (Game::new("LAL-BOS"), Game::new("NYK-BOS"));
    its.scores(&host).await;
    other.scores(&host).await;

    let slot = "scores/keys/LAL-BOS";
    place.put(slot, &built::plugin("box-score"));
    let view = host.runs(slot, &built::plugin("box-score")).await;
    assert_eq!(view["key"], "LAL-BOS");
    assert!(counts_rebounds(&its.scores(&host).await));
    assert!(!counts_rebounds(&other.scores(&host).await));

    // Another default plugin does not replace the key's own.
    let default = wasm::variant(&built::plugin("nba-scoring"), "another default");
    place.put(SLOT, &default);
    host.runs(SLOT, &default).await;
    assert!(counts_rebounds(&its.scores(&host).await));
    assert!(!counts_rebounds(&other.scores(&host).await));

    place.remove(slot);
    until("the key's slot to be gone", || async {
        host.slot(slot)
            .await
            .map_or(Ok(()), |view| Err(view.to_string()))
    })
    .await;
    assert!(!counts_rebounds(&its.scores(&host).await));
    assert!(!counts_rebounds(&other.scores(&host).await));
    host.stop().await;
}

async fn a_pipeline_without_a_plugin_waits_and_loses_nothing(engine: Engine) {
    let place = Place::new().on(engine);
    let host = place.start().await;
    let mut game = Game::new("LAL-BOS");
    let mut last = String::new();
    for _ in 0..5 {
        last = host.accepts("/score", &game.next()).await;
    }
    let ready = host.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        ready.json()["reasons"][0]["code"],
        "plugin-missing",
        "{ready:?}"
    );
    assert_eq!(host.get("/healthz").await.status, StatusCode::OK);
    assert_eq!(host.slot(SLOT).await.expect("the slot")["state"], "waiting");
    let group = host.get("/group").await.json();
    assert_eq!(group["groups"][0]["lag"], 5, "{group}");

    place.put(SLOT, &built::plugin("nba-scoring"));
    host.is_ready().await;
    let output = host.game_after(game.id, "scores", &last).await;
    assert_eq!(output.expect("an output")["events"], 5);
    game.scores(&host).await;

    // Without its default plugin the game waits, and goes on when there is one
    // again.
    place.remove(SLOT);
    host.slot_is(SLOT, "waiting", |view| view["state"] == "waiting")
        .await;
    assert_eq!(
        host.get("/readyz").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    let place_of_waiting = host.accepts("/score", &game.next()).await;
    place.put(SLOT, &built::plugin("nba-scoring"));
    let output = host.game_after(game.id, "scores", &place_of_waiting).await;
    assert_eq!(output.expect("an output")["events"], game.seq);
    host.stop().await;
}

async fn a_plugin_that_cannot_read_what_is_live_is_rejected(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let host = place.start_ready().await;
    let mut game = Game::new("LAL-BOS");
    game.scores(&host).await;
    place.put(SLOT, &built::plugin("misbehaving"));
    let reason = host.rejects(SLOT, "plugin-cannot-read").await;
    for part in ["LAL-BOS", "nba-scoring/1", "misbehaving/1"] {
        assert!(reason.contains(part), "{reason}");
    }
    game.scores(&host).await;

    // The plugin may not have that game alone, either. It may have another
    // game, of which nothing is kept.
    place.put("scores/keys/LAL-BOS", &built::plugin("misbehaving"));
    host.rejects("scores/keys/LAL-BOS", "plugin-cannot-read")
        .await;
    game.scores(&host).await;
    place.put("scores/keys/NYK-BOS", &built::plugin("misbehaving"));
    host.runs("scores/keys/NYK-BOS", &built::plugin("misbehaving"))
        .await;
    let output = Game::new("NYK-BOS").goes_on(&host).await;
    assert_eq!(output["key"], "NYK-BOS");

    // Its game cannot go back to a plugin that does not read what it wrote.
    place.remove("scores/keys/NYK-BOS");
    host.rejects("scores/keys/NYK-BOS", "plugin-cannot-read")
        .await;
    host.stop().await;
    assert_eq!(Topics::of(&place).dead_letters("scores"), []);
}

async fn a_plugin_that_fails_to_open_what_it_says_it_reads_is_rejected(engine: Engine) {
    // A rehearsal takes the games of partitions that the host has, so none may be on its
    // way from worker to worker.
    let place = Place::with_plugin(&built::plugin("nba-scoring"))
        .on(engine)
        .set("worker.workers", "1");
    let host = place.start_ready().await;
    let mut game = Game::new("LAL-BOS");
    game.scores(&host).await;
    let liar = wasm::reworded(
        &built::plugin("misbehaving"),
        "misbehaving/1",
        "nba-scoring/1",
    );
    place.put(SLOT, &liar);
    let reason = host.rejects(SLOT, "plugin-rehearsal-failed").await;
    assert!(reason.contains("LAL-BOS"), "{reason}");
    assert!(reason.contains("open"), "{reason}");
    game.scores(&host).await;
    // Nobody has the game yet with which the plugin would be rehearsed.
    place.put("scores/keys/NYK-BOS", &liar);
    host.runs("scores/keys/NYK-BOS", &liar).await;
    host.stop().await;
    assert_eq!(Topics::of(&place).dead_letters("scores"), []);
}

async fn a_plugin_need_not_open_what_the_one_that_runs_cannot_open(engine: Engine) {
    let plugin = built::plugin("misbehaving");
    // There is one worker, because a move to another would open the entity
    // again.
    let place = Place::with_plugin(&plugin)
        .on(engine)
        .set("worker.workers", "1");
    let host = place.start_ready().await;
    let mut game = Game::new("fail-reopen");
    game.goes_on(&host).await;
    game.goes_on(&host).await;
    // The plugin that runs could not open the entity again, either, so that
    // the next one's failure at its rehearsal is no reason to reject it.
    let variant = wasm::variant(&plugin, "as bad");
    place.put(SLOT, &variant);
    host.runs(SLOT, &variant).await;
    host.stop().await;
}

async fn a_file_changed_while_the_host_was_down_is_a_swap(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let mut game = Game::new("LAL-BOS");
    let host = place.start_ready().await;
    game.scores(&host).await;
    host.stop().await;

    place.put(SLOT, &built::plugin("box-score"));
    let host = place.start().await;
    host.runs(SLOT, &built::plugin("box-score")).await;
    assert!(counts_rebounds(&game.scores(&host).await));
    host.kill();

    // The file is broken meanwhile: the plugin that ran goes on, from the copy
    // kept of it.
    place.put(SLOT, b"\0asm broken");
    let host = place.start().await;
    host.rejects(SLOT, "plugin-not-wasm").await;
    assert!(counts_rebounds(&game.scores(&host).await));
    assert_eq!(host.get("/readyz").await.status, StatusCode::OK);
    host.stop().await;

    // The file is removed meanwhile, which is a change, too.
    place.remove(SLOT);
    let host = place.start().await;
    host.slot_is(SLOT, "waiting", |view| {
        view["state"] == "waiting" && view["plugin"].is_null()
    })
    .await;
    let last = host.accepts("/score", &game.next()).await;
    place.put(SLOT, &built::plugin("nba-scoring"));
    let output = host.game_after(game.id, "scores", &last).await;
    assert_eq!(output.expect("an output")["events"], game.seq);
    host.stop().await;
    assert_eq!(Topics::of(&place).dead_letters("scores"), []);
}

async fn outputs_say_which_plugin_made_them_and_of_what(engine: Engine) {
    let plugin = built::plugin("nba-scoring");
    let place = Place::with_plugin(&plugin).on(engine);
    let host = place.start_ready().await;
    let mut game = Game::new("LAL-BOS");
    game.scores(&host).await;
    host.stop().await;
    let topics = Topics::of(&place);
    let (input, output) = (topics.records("NBA-Games"), topics.records("NBA-Scores"));
    let [(from, event)] = &*input else {
        panic!("{input:?}")
    };
    let [(_, record)] = &*output else {
        panic!("{output:?}")
    };
    let header = |name| String::from_utf8_lossy(record.header(name).expect(name)).into_owned();
    let digest = courtside_types::Digest::of(&plugin).to_string();
    assert_eq!(header("courtside-digest"), digest);
    assert!(header("courtside-plugin").starts_with("nba-scoring@"));
    let source = format!("{}/{from}/{}", place.topic("NBA-Games"), event.offset);
    assert_eq!(header("courtside-source"), source);
    assert_eq!(record.key, event.key);
}

fn main() -> ExitCode {
    let tests = || {
        tests![
            a_file_that_is_no_plugin_is_rejected_and_what_ran_goes_on,
            what_is_in_the_slots_place_and_is_no_file_is_rejected,
            a_file_over_the_limit_is_rejected_unread,
            a_file_that_is_half_written_for_long_is_taken_when_it_is_whole,
            the_plugin_of_one_key_is_of_that_key_alone,
            a_pipeline_without_a_plugin_waits_and_loses_nothing,
            a_plugin_that_cannot_read_what_is_live_is_rejected,
            a_plugin_that_fails_to_open_what_it_says_it_reads_is_rejected,
            a_plugin_need_not_open_what_the_one_that_runs_cannot_open,
            a_file_changed_while_the_host_was_down_is_a_swap,
            outputs_say_which_plugin_made_them_and_of_what,
        ]
    };
    Suite::new().on_both(tests).run()
}
