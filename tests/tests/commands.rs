//! The operator's commands, as the operator runs them: the real binary, beside hosts
//! and after them, on both engines.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    process::{ExitCode, Output, Stdio},
    time::Duration,
};

use courtside_tests::{
    Engine, Host, Place, built,
    games::{self, Game},
    place::{courtside, output},
    play::Player,
    suite::Suite,
    tests, until,
};
use serde_json::Value;

/// The answer of a command, as JSON.
fn answer(place: &Place, words: &[&str]) -> Value {
    let said = output(place.operate(words).args(["--output", "json"]));
    assert!(said.status.success(), "{words:?}: {said:?}");
    serde_json::from_slice(&said.stdout).expect("JSON")
}

/// The answer of a command, as a person sees it.
fn table(place: &Place, words: &[&str]) -> String {
    let said = output(&mut place.operate(words));
    assert!(said.status.success(), "{words:?}: {said:?}");
    String::from_utf8(said.stdout).expect("text")
}

/// The reason why a command refuses.
fn refusal(place: &Place, words: &[&str]) -> String {
    let said = output(&mut place.operate(words));
    assert_eq!(said.status.code(), Some(1), "{words:?}: {said:?}");
    assert!(said.stdout.is_empty(), "{words:?}: {said:?}");
    String::from_utf8(said.stderr).expect("text")
}

/// Checks that a command refuses while a host runs. The embedded engine's directory is
/// then the host's own; on Kafka the command sees what is going on.
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

    // A change that would move keys is refused, and one on which a host would not
    // start.
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
        // The command refuses also where the configuration does not know the group.
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

/// The command works also on the embedded engine, whose log nobody else can open
/// meanwhile.
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

/// A reset that is killed at any moment has happened or has not, and the next one does
/// it.
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

/// The one line that a failing command prints, and nothing else.
fn complaint(place: &Place, command: &str, status: i32) -> String {
    let said = run(place, command, Stdio::piped());
    assert_eq!(said.status.code(), Some(status), "{command}: {said:?}");
    assert!(said.stdout.is_empty(), "{command}: {said:?}");
    let words = String::from_utf8(said.stderr).expect("text");
    assert_eq!(words.matches('\n').count(), 1, "{command}: {words:?}");
    assert!(words.ends_with('\n'), "{command}: {words:?}");
    words
}

fn run(place: &Place, command: &str, stdout: Stdio) -> Output {
    let mut words = command.split_whitespace();
    let mut process = courtside(words.next().expect("a command"));
    process
        .args(words)
        .current_dir(place.path(""))
        .stdout(stdout)
        .stderr(Stdio::piped());
    let child = process.spawn().expect("the binary starts");
    child.wait_with_output().expect("its end")
}

/// Each mistake that a command can find by itself.
async fn arguments_that_are_no_text_are_told_in_one_line(_: Engine) {
    let said = output(courtside("plugin").arg(OsStr::from_bytes(b"\xff")));
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    let text = String::from_utf8(said.stderr).expect("text");
    assert!(text.starts_with("courtside: arguments-invalid: "), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

async fn what_is_wrong_is_told_in_one_line_with_a_code(_: Engine) {
    let place = Place::new();
    fs::write(place.path("broken.toml"), "a = 1\nx = [\n").expect("a file");
    fs::write(place.path("broken.ndjson"), "{\n").expect("a file");
    let nowhere = "--url http://127.0.0.1:1";
    let unreachable = "host-unreachable";
    let table = [
        ("serve --config nowhere.toml", 1, "config-invalid"),
        ("serve --config broken.toml", 1, "config-invalid"),
        ("serve --config .", 1, "config-invalid"),
        ("serve --set worker.workers=many", 1, "config-invalid"),
        ("serve --listen here", 2, "arguments-invalid"),
        ("serve --unknown", 2, "arguments-invalid"),
        ("topics list --data-dir nowhere", 1, "no-record-log"),
        ("topics list --output yaml", 2, "arguments-invalid"),
        ("topics describe", 2, "arguments-invalid"),
        (
            "topics list --kafka 127.0.0.1:1 --set kafka.request_timeout=1s",
            1,
            "log-unavailable",
        ),
        ("groups --data-dir nowhere", 1, "no-record-log"),
        ("reset scores --to yesterday", 2, "arguments-invalid"),
        (
            "reset scores --to earliest --data-dir nowhere",
            1,
            "no-record-log",
        ),
        ("token ci", 2, "arguments-invalid"),
        ("token ci --scope all", 2, "arguments-invalid"),
        ("plugin check nowhere.wasm", 2, "plugin-file-unreadable"),
        ("plugin check .", 2, "plugin-file-unreadable"),
        (
            "plugins put scores/default nowhere.wasm",
            1,
            "file-unreadable",
        ),
        ("replay --from nowhere.courtside", 2, "export-invalid"),
        ("replay --from broken.toml", 2, "export-invalid"),
        ("play", 2, "arguments-invalid"),
        ("play nowhere.ndjson", 1, "play-file-unreadable"),
        ("play .", 1, "play-file-is-directory"),
        ("play broken.ndjson", 1, "play-broken-line"),
        ("play --simulate 1 --batch many", 2, "arguments-invalid"),
        ("health --url nonsense", 1, "bad-url"),
        ("health --token-file nowhere", 1, "token-unreadable"),
        ("health --token-file .", 1, "token-unreadable"),
        ("health --cacert nowhere", 1, "cacert-unreadable"),
        ("health --cacert broken.toml", 1, "cacert-unreadable"),
        ("health --url http://nobody.invalid", 1, unreachable),
    ];
    for (command, status, code) in table {
        let words = complaint(&place, command, status);
        assert!(
            words.starts_with(&format!("courtside: {code}: ")),
            "{command}: {words}"
        );
    }
    let asking = [
        ("health", 1),
        ("games", 1),
        ("games --follow", 1),
        ("groups --live", 1),
        ("plugins list", 1),
        ("plugins rollback scores/default --yes", 1),
        ("dead-letter list", 1),
        ("replay --key x", 2),
        ("export --key x -o x.courtside", 2),
    ];
    for (command, status) in asking {
        let words = complaint(&place, &format!("{command} {nowhere}"), status);
        assert!(
            words.starts_with("courtside: host-unreachable: "),
            "{command}: {words}"
        );
        assert!(words.contains("Connection refused"), "{command}: {words}");
        assert!(
            words.ends_with("start the host, or say with --url where it is\n"),
            "{words}"
        );
    }
    assert!(!place.path("nowhere").exists(), "nothing was made");
}

/// The player waits for a host, says so once, and gives up with one error.
async fn a_player_that_nobody_answers_says_so_once(_: Engine) {
    let place = Place::new();
    let command = "play --simulate 1 --timeout 12s --url http://127.0.0.1:1";
    let said = run(&place, command, Stdio::piped());
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let words = String::from_utf8(said.stderr).expect("text");
    assert_eq!(words.matches("waiting for the host").count(), 1, "{words}");
    let errors: Vec<_> = words
        .lines()
        .filter(|line| line.starts_with("courtside: "))
        .collect();
    assert_eq!(errors.len(), 1, "{words}");
    assert!(
        errors[0].starts_with("courtside: play-timeout: "),
        "{words}"
    );
    assert!(errors[0].contains("--url"), "{words}");
}

fn full() -> Stdio {
    let full = fs::File::options().write(true).open("/dev/full");
    full.expect("/dev/full").into()
}

fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// Standard output on a full disk is an error; a pipe that nobody reads any longer is
/// not.
async fn an_answer_that_cannot_be_written_is_told(_: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring"));
    let host = place.start_ready().await;
    host.accepts(
        "/score",
        &serde_json::json!({
            "game_id": "LAL-BOS", "seq": 1, "type": "miss", "period": 1, "clock": "9:42",
        }),
    )
    .await;
    host.has_processed_all().await;
    let url = host.url();
    fs::write(place.path("plugin.wasm"), built::plugin("nba-scoring")).expect("a file");
    let commands = [
        ("serve --dump-config".to_owned(), 1),
        ("--help".to_owned(), 1),
        ("--version".to_owned(), 1),
        ("topics list --help".to_owned(), 1),
        ("token ci --scope read --output json".to_owned(), 1),
        ("plugin check plugin.wasm".to_owned(), 2),
        (format!("health --url {url}"), 1),
        (format!("games --url {url}"), 1),
        (format!("games LAL-BOS --output json --url {url}"), 1),
        (format!("groups --live --url {url}"), 1),
        (format!("plugins list --url {url}"), 1),
        (format!("dead-letter list --url {url}"), 1),
        (format!("replay --key LAL-BOS --outputs --url {url}"), 2),
    ];
    for (command, status) in &commands {
        let said = run(&place, command, full());
        assert_eq!(said.status.code(), Some(*status), "{command}: {said:?}");
        let words = String::from_utf8(said.stderr).expect("text");
        assert_eq!(words.lines().count(), 1, "{command}: {words}");
        assert!(
            words.starts_with("courtside: output-unwritable: "),
            "{command}: {words}"
        );

        let said = run(&place, command, unread());
        let words = String::from_utf8(said.stderr).expect("text");
        assert!(said.status.success(), "{command}: {words}");
        assert!(
            !words.contains("courtside:") && !words.contains("panicked"),
            "{command}: {words}"
        );
    }
    let play = format!("play --simulate 2 --seed 1 --url {url}");
    let said = run(&place, &play, full());
    let words = String::from_utf8(said.stderr).expect("text");
    assert_eq!(said.status.code(), Some(1), "{words}");
    assert!(words.contains("courtside: output-unwritable: "), "{words}");
    let said = run(&place, &play, unread());
    assert!(said.status.success(), "{said:?}");
    host.stop().await;
}

/// A command works also where nobody gets its words.
async fn a_command_does_without_standard_error(_: Engine) {
    let place = Place::new();
    for stderr in [full, unread] {
        let mut command = courtside("token");
        let said = command
            .args(["ci", "--scope", "read"])
            .stderr(stderr())
            .output();
        let said = said.expect("the binary runs");
        assert!(said.status.success(), "{said:?}");
        assert!(!said.stdout.is_empty());
        let mut command = courtside("topics");
        command
            .current_dir(place.path(""))
            .args(["list", "--data-dir", "nowhere"]);
        let status = command.stderr(stderr()).status().expect("the binary runs");
        assert_eq!(status.code(), Some(1));
    }
}

fn main() -> ExitCode {
    let of_the_binary = tests![
        arguments_that_are_no_text_are_told_in_one_line,
        what_is_wrong_is_told_in_one_line_with_a_code,
        a_player_that_nobody_answers_says_so_once,
        an_answer_that_cannot_be_written_is_told,
        a_command_does_without_standard_error,
    ];
    Suite::new()
        .on(Engine::Embedded, of_the_binary)
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
