//! Dead letters, listed and redriven as an operator does it, on both engines:
//! the scores are right in the end, live events and crashes included.

use std::process::ExitCode;

use courtside_tests::{
    Engine, Host, Place, built,
    place::{courtside, output},
    suite::Suite,
    tests, until,
};
use reqwest::StatusCode;
use serde_json::{Value, json};

const SLOT: &str = "scores/default";

/// The plugin `misbehaving` traps whenever it opens a game of such a name.
const HALTED: &str = "trap-open-LAL-BOS";
/// The plugin `misbehaving` refuses each event of a game of such a name.
const REFUSED: &str = "refuse-LAL-BOS";

fn event(game: &str, seq: u64) -> Value {
    json!({
        "game_id": game, "seq": seq, "type": "free_throw", "team": "BOS",
        "player": "Ada Park", "points": 1, "period": 1, "clock": "9:42",
    })
}

fn lines(game: &str, seqs: std::ops::RangeInclusive<u64>) -> Vec<String> {
    seqs.map(|seq| event(game, seq).to_string()).collect()
}

/// Posts one more event, and checks that every event of the game has counted
/// once, and in order.
async fn is_whole_with(host: &Host, game: &str, events: u64) {
    let place = host.accepts("/score", &event(game, events)).await;
    let seen = host.game_after(game, "scores", &place).await;
    let seen = seen.expect("an output");
    for (field, value) in [
        ("events", events),
        ("last_seq", events),
        ("duplicates", 0),
        ("gaps", 0),
    ] {
        assert_eq!(seen[field], value, "{field} in {seen}");
    }
    assert_eq!(seen["points"]["BOS"], events, "{seen}");
}

/// Runs `courtside dead-letter`, and returns its exit status, output and errors.
fn dead_letter(host: &Host, words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = courtside("dead-letter");
    command.args(words).args(["--url", &host.url()]);
    let said = output(&mut command);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (said.status.code(), text(said.stdout), text(said.stderr))
}

fn answer(host: &Host, words: &[&str], status: i32) -> Value {
    let mut words = words.to_vec();
    words.extend(["--output", "json"]);
    let (code, out, err) = dead_letter(host, &words);
    assert_eq!(code, Some(status), "{words:?}: {out} {err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

async fn bad_place(engine: Engine) -> (Place, Host) {
    let place = Place::with_plugin(&built::plugin("misbehaving")).on(engine);
    let host = place.start_ready().await;
    (place, host)
}

async fn mend(place: &Place, host: &Host) {
    let good = built::plugin("nba-scoring");
    place.put(SLOT, &good);
    host.runs(SLOT, &good).await;
}

/// The operator's night: a game halts, ten more events come, the plugin is fixed
/// by dropping the file, and the game goes on while its events still come.
async fn a_halted_game_goes_on_where_it_halted(engine: Engine) {
    let (place, host) = bad_place(engine).await;
    host.accepts_all("/score", &lines(HALTED, 1..=1)).await;
    host.has_processed_all().await;
    host.accepts_all("/score", &lines(HALTED, 2..=11)).await;
    host.has_processed_all().await;
    assert_eq!(host.game(HALTED).await, None);
    let listed = answer(&host, &["list", "--key", HALTED], 0);
    let letters = listed["letters"].as_array().expect("letters").clone();
    assert_eq!(letters.len(), 11);
    for letter in &letters {
        assert_eq!(letter["code"], "entity-halted", "{letter}");
        assert_eq!(letter["state"], "open", "{letter}");
    }
    // A letter that is redriven alone would come before its time.
    let one = format!("{}/{}", letters[0]["partition"], letters[0]["offset"]);
    let (code, _, said) = dead_letter(&host, &["redrive", "--letter", &one, "--yes"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("redrive-needs-key"), "{said}");
    // As long as the plugin is as it was, a redrive gains nothing and loses
    // nothing.
    let again = answer(&host, &["redrive", "--key", HALTED, "--yes"], 2);
    assert_eq!(again["redriven"], 11, "{again}");
    assert_eq!(again["dead_again"], 11, "{again}");
    assert_eq!(again["halted_keys"], json!([HALTED]), "{again}");

    mend(&place, &host).await;
    let plan = answer(&host, &["redrive", "--key", HALTED, "--dry-run"], 0);
    assert_eq!(plan["letters"], 11, "{plan}");
    assert_eq!(plan["keys"], 1, "{plan}");
    assert_eq!(plan["by_code"], json!({ "entity-halted": 11 }), "{plan}");
    assert_eq!(plan["redriven_before"], 11, "{plan}");
    let redrive = async {
        let address = format!("{}/dead-letters/scores/redrive", host.url());
        let request = reqwest::Client::new().post(address);
        let begun = request.json(&json!({ "key": HALTED })).send().await;
        assert_eq!(begun.expect("an answer").status(), StatusCode::ACCEPTED);
    };
    let live = async {
        for seq in 12..=60 {
            host.accepts("/score", &event(HALTED, seq)).await;
        }
    };
    tokio::join!(redrive, live);
    let ended = ended(&host).await;
    assert_eq!(ended["state"], "done", "{ended}");
    assert_eq!(ended["dead_again"], 0, "{ended}");
    assert_eq!(ended["left"], 0, "{ended}");
    is_whole_with(&host, HALTED, 61).await;
    let nothing = answer(&host, &["redrive", "--all", "--yes"], 0);
    assert_eq!(nothing["redriven"], 0, "{nothing}");
    is_whole_with(&host, HALTED, 62).await;
    host.stop().await;
}

async fn ended(host: &Host) -> Value {
    until("the redrive to end", || async {
        let progress = host.get("/dead-letters/scores/redrive").await.json();
        if progress["state"] == "running" {
            Err(progress.to_string())
        } else {
            Ok(progress)
        }
    })
    .await
}

async fn refused_events_are_redriven_once(engine: Engine) {
    let (place, host) = bad_place(engine).await;
    host.accepts_all("/score", &lines(REFUSED, 1..=5)).await;
    host.has_processed_all().await;
    let listed = answer(&host, &["list", "--code", "event-refused"], 0);
    let letters = listed["letters"].as_array().expect("letters").clone();
    assert_eq!(letters.len(), 5, "{listed}");
    let first = letters.last().expect("the oldest is the last");
    let name = format!("{}/{}", first["partition"], first["offset"]);
    let shown = answer(&host, &["show", &name], 0);
    let sent: Value = serde_json::from_str(shown["value"].as_str().expect("text")).expect("JSON");
    assert_eq!(
        sent,
        event(REFUSED, sent["seq"].as_u64().expect("a number"))
    );
    assert_eq!(shown["code"], "event-refused", "{shown}");
    assert_eq!(
        shown["origin"]["topic"],
        place.topic("NBA-Games"),
        "{shown}"
    );
    assert!(
        shown["plugin"]
            .as_str()
            .expect("a plugin")
            .starts_with("misbehaving@")
    );

    mend(&place, &host).await;
    let one = answer(&host, &["redrive", "--letter", &name, "--yes"], 0);
    assert_eq!(one["redriven"], 1, "{one}");
    let rest = answer(&host, &["redrive", "--key", REFUSED, "--yes"], 0);
    assert_eq!(rest["redriven"], 4, "{rest}");
    is_whole_with(&host, REFUSED, 6).await;
    for _ in 0..2 {
        let again = answer(&host, &["redrive", "--key", REFUSED, "--yes"], 0);
        assert_eq!(again["redriven"], 0, "{again}");
        let (code, said, _) = dead_letter(&host, &["redrive", "--key", REFUSED, "--yes"]);
        assert_eq!(code, Some(0));
        assert!(said.contains("redriven before: 5"), "{said}");
        assert!(said.contains("nothing to redrive"), "{said}");
    }
    is_whole_with(&host, REFUSED, 7).await;
    let listed = answer(&host, &["list", "--state", "redriven", "--oldest"], 0);
    assert_eq!(listed["letters"].as_array().expect("letters").len(), 5);
    assert_eq!(listed["next"], Value::Null);
    host.stop().await;
}

/// A redrive that is killed midway and begun again counts nothing twice.
async fn a_host_that_is_killed_redrives_the_rest(engine: Engine) {
    const EVENTS: u64 = 6_000;
    let (place, host) = bad_place(engine).await;
    for first in (1..=EVENTS).step_by(1_000) {
        let events = lines(HALTED, first..=first + 999);
        host.accepts_all("/score", &events).await;
    }
    host.has_processed_all().await;
    mend(&place, &host).await;
    let request = host.request(reqwest::Method::POST, "/dead-letters/scores/redrive");
    let begun = request.json(&json!({ "all": true })).send().await;
    assert_eq!(begun.expect("an answer").status(), StatusCode::ACCEPTED);
    until("the redrive to be under way", || async {
        let progress = host.get("/dead-letters/scores/redrive").await.json();
        match progress["redriven"].as_u64() {
            Some(redriven) if redriven > 0 => Ok(()),
            _ => Err(progress.to_string()),
        }
    })
    .await;
    host.kill();
    let host = place.start_ready().await;
    // On Kafka the group gives the killed host's place to nobody for a while.
    let progress = until("a redrive that comes to its end", || async {
        let (code, out, err) =
            dead_letter(&host, &["redrive", "--all", "--yes", "--output", "json"]);
        match code {
            Some(0) => Ok(out),
            _ if err.contains("redrive-elsewhere") => Err(err),
            _ => panic!("{code:?} {out} {err}"),
        }
    })
    .await;
    let progress: Value = serde_json::from_str(&progress).expect("JSON");
    assert_eq!(progress["dead_again"], 0, "{progress}");
    is_whole_with(&host, HALTED, EVENTS + 1).await;
    host.stop().await;
}

async fn what_cannot_be_is_said_by_its_code(engine: Engine) {
    let (_place, host) = bad_place(engine).await;
    let refusals: [(&[&str], &str); 5] = [
        (&["list", "--pipeline", "nobody"], "pipeline-not-found"),
        (&["show", "0/12345"], "letter-not-found"),
        (&["show", "9999/0"], "letter-not-found"),
        (
            &["redrive", "--letter", "0/12345", "--yes"],
            "letter-not-found",
        ),
        (
            &["redrive", "--all", "--pipeline", "nobody", "--yes"],
            "pipeline-not-found",
        ),
    ];
    for (words, code) in refusals {
        let (status, out, err) = dead_letter(&host, words);
        assert_eq!(status, Some(1), "{words:?}: {out} {err}");
        assert!(err.contains(&format!("courtside: {code}: ")), "{err}");
    }
    let (status, out, _) = dead_letter(&host, &["redrive", "--all"]);
    assert_eq!(status, Some(0), "{out}");
    assert!(out.contains("nothing to redrive"), "{out}");
    // A caller who sees no question is not taken to have said yes.
    host.accepts("/score", &event(REFUSED, 1)).await;
    host.has_processed_all().await;
    let (status, _, err) = dead_letter(&host, &["redrive", "--all"]);
    assert_eq!(status, Some(1), "{err}");
    assert!(err.contains("confirmation-needed"), "{err}");
    assert!(
        err.contains("1 letters of 1 keys: 1 event-refused"),
        "{err}"
    );

    let post = |body: &'static str| {
        let host = &host;
        async move {
            let path = "/dead-letters/scores/redrive";
            host.post(path, "application/json", body).await
        }
    };
    for (body, code) in [
        ("{", "invalid-json"),
        (r#"{"al": true}"#, "invalid-json"),
        ("{}", "invalid-field"),
        (r#"{"all": true, "key": "g"}"#, "invalid-field"),
        (r#"{"partition": 1}"#, "invalid-field"),
    ] {
        let answer = post(body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer.code(), code, "{body}");
    }
    for path in [
        "/dead-letters/scores?state=lost",
        "/dead-letters/scores?from=there",
        "/dead-letters/scores?limit=0",
        "/dead-letters/scores?after=7",
        "/dead-letters/scores?nothing=1",
    ] {
        let answer = host.get(path).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(answer.code(), "invalid-parameter", "{path}");
    }
    assert_eq!(
        host.get("/dead-letters/scores/x/y").await.code(),
        "invalid-path"
    );
    // A page of another site may not redrive, even from a browser on this
    // machine.
    let foreign = host
        .request(reqwest::Method::POST, "/dead-letters/scores/redrive")
        .header("origin", "http://evil.example")
        .body(r#"{"all": true}"#)
        .send()
        .await
        .expect("an answer");
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    host.stop().await;
}

/// Two pipelines have one input, and one of them has counted the event that the
/// other refused.
async fn an_input_that_two_pipelines_read_takes_no_redriven_events(engine: Engine) {
    let place = Place::new().on(engine).configured(
        r#"
        [pipelines.scores]
        input = "NBA-Games"
        output = "NBA-Scores"
        key = "/game_id"

        [pipelines.rebounds]
        input = "NBA-Games"
        output = "NBA-Rebounds"
        key = "/game_id"
        "#,
    );
    place.put(SLOT, &built::plugin("misbehaving"));
    place.put("rebounds/default", &built::plugin("box-score"));
    let host = place.start_ready().await;
    host.accepts_all("/score", &lines(REFUSED, 1..=3)).await;
    host.has_processed_all().await;
    mend(&place, &host).await;
    let other = place.topic("courtside-rebounds");
    for words in [&["--all", "--yes"][..], &["--key", REFUSED, "--dry-run"]] {
        let (code, _, said) = dead_letter(&host, &[&["redrive"], words].concat());
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("redrive-shared-input"), "{said}");
        assert!(said.contains(&other), "{said}");
    }
    let address = format!("{}/dead-letters/scores/redrive", host.url());
    let request = reqwest::Client::new().post(address);
    let answer = request.json(&json!({ "all": true })).send().await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), StatusCode::CONFLICT);
    let problem: Value = answer.json().await.expect("a problem");
    assert_eq!(problem["code"], "redrive-shared-input", "{problem}");

    let late = host.accepts("/score", &event(REFUSED, 4)).await;
    let seen = host.game_after(REFUSED, "rebounds", &late).await;
    let seen = seen.expect("an output");
    assert_eq!(
        (&seen["events"], &seen["duplicates"]),
        (&json!(4), &json!(0))
    );
    assert_eq!(answer_open(&host), 3, "the letters wait");
    host.stop().await;
}

/// How many letters of `scores` can be redriven.
fn answer_open(host: &Host) -> usize {
    let listed = answer(host, &["list", "--state", "open"], 0);
    listed["letters"].as_array().expect("letters").len()
}

/// A redriven event would come after newer states of its game.
async fn an_input_that_another_pipeline_writes_takes_no_redriven_events(engine: Engine) {
    let place = Place::new().on(engine).configured(
        r#"
        [pipelines.first]
        input = "NBA-Games"
        output = "NBA-Scores"
        key = "/game_id"

        [pipelines.scores]
        input = { topic = "NBA-Scores", keep = "latest" }
        output = "Seen"
        key = "/game_id"
        "#,
    );
    place.put("first/default", &built::plugin("nba-scoring"));
    place.put(SLOT, &built::plugin("misbehaving"));
    let host = place.start_ready().await;
    host.accepts_all("/events/first", &lines(REFUSED, 1..=1))
        .await;
    until("the output to be a dead letter", || async {
        match answer_open(&host) {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    let (code, _, said) = dead_letter(&host, &["redrive", "--all", "--yes"]);
    assert_eq!(code, Some(1), "{said}");
    let other = place.topic("courtside-first");
    for part in ["redrive-shared-input", &other, "writes it"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    host.stop().await;
}

fn main() -> ExitCode {
    let tests = || {
        tests![
            a_halted_game_goes_on_where_it_halted,
            refused_events_are_redriven_once,
            a_host_that_is_killed_redrives_the_rest,
            an_input_that_two_pipelines_read_takes_no_redriven_events,
            an_input_that_another_pipeline_writes_takes_no_redriven_events,
            what_cannot_be_is_said_by_its_code,
        ]
    };
    Suite::new().on_both(tests).run()
}
