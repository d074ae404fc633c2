//! Compares `/metrics` with its documentation: every figure that the docs, the
//! dashboard and the alarms name is there once it has happened, and no other. A
//! series disappears with its subject.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use courtside_tests::{Engine, Host, Place, built, suite::Suite, tests, until};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Figures of tokens and TLS, which appear when these refuse or fail. This host
/// has neither.
const OF_ACCESS: [&str; 3] = [
    "courtside_access_refused_total",
    "courtside_reload_failed",
    "courtside_tls_handshakes_failed_total",
];

/// Names of metrics in a text, whatever stands around them.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words
        .filter(|word| word.starts_with("courtside_") || word.starts_with("process_"))
        .map(ToOwned::to_owned)
        .collect()
}

/// The metrics of docs/metrics.md, with their types and labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = read("docs/metrics.md");
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.strip_suffix('`')?.to_owned();
        let kind = cells.next()?.to_owned();
        let labels = cells
            .next()?
            .split(", ")
            .map(|label| label.replace('`', ""));
        let labels = labels.map(|label| label.trim().to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        Some((name, (kind, labels)))
    });
    rows.collect()
}

/// The metrics that a host has shown, in several readings.
#[derive(Default)]
struct Seen {
    kinds: BTreeMap<String, String>,
    labels: BTreeMap<String, BTreeSet<String>>,
}

impl Seen {
    async fn read(&mut self, host: &Host) -> String {
        let answer = host.get("/metrics").await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let helped: BTreeSet<_> = answer
            .body
            .lines()
            .filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '))
            .filter(|(_, help)| !help.is_empty())
            .map(|(name, _)| name)
            .collect();
        for line in answer.body.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                assert!(helped.contains(name), "{name} has no words");
                self.kinds.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') && !line.is_empty() {
                let name = line.split(['{', ' ']).next().expect("a name");
                let name = self.family(name);
                let labels = self.labels.entry(name).or_default();
                for (label, _) in labels_of(line) {
                    labels.insert(label);
                }
            }
        }
        answer.body
    }

    /// The metric that a sample belongs to.
    fn family(&self, sample: &str) -> String {
        ["_bucket", "_count", "_sum"]
            .iter()
            .filter_map(|suffix| sample.strip_suffix(suffix))
            .find(|name| {
                self.kinds
                    .get(*name)
                    .is_some_and(|kind| kind == "histogram")
            })
            .unwrap_or(sample)
            .to_owned()
    }
}

/// The labels of a sample: none of ours has a comma or a quote in its value here.
fn labels_of(sample: &str) -> BTreeMap<String, String> {
    let inside = sample
        .split_once('{')
        .and_then(|(_, rest)| rest.rsplit_once('}'));
    let Some((inside, _)) = inside else {
        return BTreeMap::new();
    };
    let pairs = inside.split("\",").filter_map(|pair| {
        let (name, value) = pair.split_once("=\"")?;
        Some((name.to_owned(), value.trim_end_matches('"').to_owned()))
    });
    pairs.filter(|(name, _)| name != "le").collect()
}

/// The value of a sample with these labels.
fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let is_it = |line: &&str| {
        line.split(['{', ' ']).next() == Some(name) && {
            let found = labels_of(line);
            let mut wanted = labels.iter();
            wanted.all(|(label, value)| found.get(*label).is_some_and(|one| one == value))
        }
    };
    let line = text.lines().find(is_it)?;
    line.rsplit(' ').next()?.parse().ok()
}

fn event(game: &str, seq: u64) -> Value {
    json!({
        "game_id": game, "seq": seq, "type": "free_throw", "team": "BOS",
        "player": "Ada Park", "points": 1, "period": 1, "clock": "9:42",
    })
}

/// Checks a text with `promtool`; where that is missing, the test says so.
fn promtool_takes(text: &str) {
    let checked = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut checked = match checked {
        Ok(checked) => checked,
        Err(error) => {
            let required = std::env::var("COURTSIDE_TEST_REQUIRE").unwrap_or_default();
            assert!(
                !required.split(' ').any(|one| one == "deploy"),
                "promtool is required here: {error}"
            );
            println!("figures: promtool is not installed, /metrics is not checked by it");
            return;
        }
    };
    let mut stdin = checked.stdin.take().expect("a pipe");
    stdin.write_all(text.as_bytes()).expect("a reader");
    drop(stdin);
    let said = checked.wait_with_output().expect("an end");
    let said = [said.stdout, said.stderr].concat();
    assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// The host goes through all that is counted.
async fn every_figure_is_documented_and_every_documented_one_is_there(engine: Engine) {
    let place = Place::new().on(engine);
    let host = place.start().await;
    let mut seen = Seen::default();

    // The host waits for its plugin.
    let text = until("partitions to wait for a plugin", || async {
        let mut seen = Seen::default();
        let text = seen.read(&host).await;
        let waiting = [("pipeline", "scores"), ("state", "waiting")];
        match value(&text, "courtside_partitions", &waiting) {
            Some(count) if count > 0.0 => Ok(text),
            _ => Err(text),
        }
    })
    .await;
    seen.read(&host).await;
    let missing = [("code", "plugin-missing")];
    let blocked = [("state", "waiting"), ("code", "plugin-missing")];
    assert_eq!(value(&text, "courtside_ready", &[]), Some(0.0));
    assert_eq!(value(&text, "courtside_not_ready", &missing), Some(1.0));
    assert_eq!(
        value(&text, "courtside_partition_blocked", &blocked),
        Some(1.0)
    );
    let state = [("slot", "default"), ("state", "waiting")];
    assert_eq!(value(&text, "courtside_slot_state", &state), Some(1.0));
    let trapped = [("slot", "default"), ("code", "plugin-trap")];
    let failures = value(&text, "courtside_plugin_failures_total", &trapped);
    assert_eq!(failures, Some(0.0), "it begins at 0");

    // Events, refusals, failures, a halt, a redrive.
    let bad = built::plugin("misbehaving");
    place.put("scores/default", &bad);
    host.runs("scores/default", &bad).await;
    host.is_ready().await;
    for game in ["refuse-LAL-BOS", "trap-open-LAL-BOS"] {
        host.accepts("/score", &event(game, 1)).await;
    }
    let mut trap = event("doomed", 1);
    trap["do"] = "trap".into();
    host.accepts("/score", &trap).await;
    let posted = host.post("/score", "application/json", "{").await;
    assert_eq!(posted.status, StatusCode::BAD_REQUEST);
    host.has_processed_all().await;
    let text = seen.read(&host).await;
    let of = |code: &'static str| [("pipeline", "scores"), ("code", code)];
    let letters = |code| value(&text, "courtside_dead_letters_total", &of(code));
    assert_eq!(letters("event-refused"), Some(1.0));
    assert_eq!(letters("event-without-key"), Some(0.0), "it begins at 0");
    assert_eq!(letters("entity-halted"), Some(1.0));
    let halts = value(&text, "courtside_entity_halts_total", &of("plugin-trap"));
    assert!(halts >= Some(1.0), "{halts:?}");
    let default = [("pipeline", "scores"), ("slot", "default")];
    let failures = value(&text, "courtside_plugin_failures_total", &trapped);
    assert!(failures >= Some(2.0), "{failures:?}");
    for counted in [
        "courtside_plugin_calls_total",
        "courtside_plugin_call_seconds_total",
        "courtside_plugin_events_total",
        "courtside_plugin_refusals_total",
    ] {
        assert!(value(&text, counted, &default) > Some(0.0), "{counted}");
    }

    // Swaps, one of them rejected; the game that was halted goes on.
    place.put("scores/default", b"no component");
    host.rejects("scores/default", "plugin-not-wasm").await;
    let text = seen.read(&host).await;
    let rejected = [("slot", "default"), ("state", "rejected")];
    assert_eq!(value(&text, "courtside_slot_state", &rejected), Some(1.0));
    let good = built::plugin("nba-scoring");
    place.put("scores/default", &good);
    place.put("scores/keys/LAL-BOS", &good);
    host.runs("scores/default", &good).await;
    host.runs("scores/keys/LAL-BOS", &good).await;
    let body = json!({ "all": true }).to_string();
    let request = host.request(Method::POST, "/dead-letters/scores/redrive");
    let request = request
        .header("content-type", "application/json")
        .body(body);
    let answer = request.send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    until("the redrive to end", || async {
        let view = host.get("/dead-letters/scores/redrive").await.json();
        if view["state"] == "done" {
            Ok(())
        } else {
            Err(view.to_string())
        }
    })
    .await;

    // On Kafka the end of the redrive's transaction stays behind as a lag of one,
    // until another event comes.
    let place_of = host.accepts("/score", &event("LAL-BOS", 1)).await;
    let game = host.game_after("LAL-BOS", "scores", &place_of).await;
    assert!(game.is_some());
    let stream = host
        .request(Method::GET, "/events")
        .send()
        .await
        .expect("a stream");
    let text = seen.read(&host).await;
    let sse = value(&text, "courtside_subscribers", &[("transport", "sse")]);
    assert_eq!(sse, Some(1.0));
    let halted = value(&text, "courtside_entity_halts_ended_total", &[]);
    assert_eq!(halted, Some(1.0));
    let of_key = [("pipeline", "scores"), ("slot", "keys/LAL-BOS")];
    for held in ["courtside_plugin_memory_bytes", "courtside_slot_instances"] {
        assert!(value(&text, held, &of_key) > Some(0.0), "{held}");
    }
    let gaps = value(&text, "courtside_takeover_gap_seconds_count", &[]);
    assert!(gaps >= Some(1.0), "{gaps:?}");
    promtool_takes(&text);
    drop(stream);

    // The slot of a key is removed, and its series with it, except those that the
    // host remembers.
    place.remove("scores/keys/LAL-BOS");
    until("the slot to be gone", || async {
        let text = host.get("/metrics").await.body;
        let slot = [("slot", "keys/LAL-BOS")];
        let left = [
            "courtside_slot_state",
            "courtside_plugin_info",
            "courtside_plugin_calls_total",
            "courtside_plugin_memory_bytes",
        ]
        .map(|name| value(&text, name, &slot));
        if left == [None; 4] {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .await;
    host.stop().await;

    let documented = documented();
    assert!(
        documented.len() > 50,
        "the docs have their figures elsewhere"
    );
    for (name, kind) in &seen.kinds {
        let Some((documented, labels)) = documented.get(name) else {
            panic!("{name} is not in docs/metrics.md");
        };
        assert_eq!(documented, kind, "{name}");
        let empty = BTreeSet::new();
        let found = seen.labels.get(name).unwrap_or(&empty);
        assert_eq!(labels, found, "labels of {name}");
    }
    let missing: Vec<_> = documented
        .keys()
        .filter(|name| !seen.kinds.contains_key(*name) && !OF_ACCESS.contains(&name.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "documented, and never there: {missing:?}"
    );

    for file in [
        "deploy/grafana/courtside.json",
        "deploy/prometheus/courtside.rules.yaml",
        "deploy/prometheus/courtside.rules.test.yaml",
    ] {
        let used = names(&read(file));
        assert!(used.len() > 10, "{file} names no figures where it did");
        for name in used {
            let family = seen.family(&name);
            let is_there = seen.kinds.contains_key(&family);
            // A name with a colon is that of a recording rule.
            assert!(is_there || name.contains(':'), "{file}: nobody has {name}");
        }
    }
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/courtside.json")).unwrap();
    assert!(
        dashboard["panels"]
            .as_array()
            .is_some_and(|panels| panels.len() > 30)
    );
}

/// Each host shows the lag of its own partitions, and keeps no series of a
/// partition that left.
async fn lag_is_told_by_who_has_the_partition(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let one = place.start_ready().await;
    let of = async |host: &Host| -> BTreeSet<String> {
        let text = host.get("/metrics").await.body;
        let lines = text
            .lines()
            .filter(|line| line.starts_with("courtside_lag{"));
        lines
            .map(|line| labels_of(line)["partition"].clone())
            .collect()
    };
    let all: BTreeSet<_> = ["0", "1", "2"].map(ToOwned::to_owned).into();
    let has_all = async || {
        let one = of(&one).await;
        if one == all {
            Ok(())
        } else {
            Err(format!("{one:?}"))
        }
    };
    until("all partitions to be assigned", &has_all).await;
    let beside = place.beside();
    beside.put("scores/default", &built::plugin("nba-scoring"));
    let other = beside.start_ready().await;
    until("the partitions to be shared", || async {
        let (one, other) = (of(&one).await, of(&other).await);
        let is_shared = !one.is_empty() && !other.is_empty() && one.is_disjoint(&other);
        let together: BTreeSet<_> = one.union(&other).cloned().collect();
        if is_shared && together == all {
            Ok(())
        } else {
            Err(format!("{one:?} and {other:?}"))
        }
    })
    .await;
    let text = one.get("/metrics").await.body;
    let change = |change: &'static str| {
        let labels = [("pipeline", "scores"), ("change", change)];
        value(&text, "courtside_rebalances_total", &labels)
    };
    assert!(change("assigned") >= Some(1.0));
    assert!(change("revoked") >= Some(1.0));
    other.stop().await;
    until("the partitions to come back", &has_all).await;
    let text = one.get("/metrics").await.body;
    let free = value(
        &text,
        "courtside_partitions_unassigned",
        &[("pipeline", "scores")],
    );
    assert_eq!(free, Some(0.0));
    one.stop().await;
}

fn main() -> ExitCode {
    Suite::new()
        .on_both(|| tests![every_figure_is_documented_and_every_documented_one_is_there])
        .on(Engine::Kafka, tests![lag_is_told_by_who_has_the_partition])
        .run()
}
