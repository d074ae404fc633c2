//! Every bad plugin that we could think of, offered to a running host: its
//! answer, and what went on meanwhile. This test makes `docs/bad-plugins.md`, so
//! that the page tells what happens (`COURTSIDE_TEST_WRITE=1` brings it up to
//! date).

mod bombs;
mod probe;

use std::{collections::BTreeMap, fmt::Write as _, fs, os::unix::fs::symlink, process::ExitCode};

use courtside_tests::{Engine, Host, Place, built, suite::Suite, tests, topics::Topics, wasm};
use reqwest::StatusCode;
use serde_json::{Value, json};

const SLOT: &str = "scores/default";
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/bad-plugins.md");
/// The files that the fuzzer of plugins starts from.
const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/plugin");
const MARK: &str = "<!-- made by tests/tests/bad_plugins -->\n";

/// A line of the page.
struct Row {
    plugin: &'static str,
    code: String,
    words: String,
    meanwhile: String,
}

/// How a file comes into the slot's place.
enum Offer {
    Bytes(Vec<u8>),
    Link,
    Directory,
}

fn offers(good: &[u8]) -> Vec<(&'static str, &'static str, Offer)> {
    let noise = {
        let mut state = 1_u32;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            u8::try_from(state >> 24).expect("a byte")
        };
        let noise: Vec<u8> = (0..100_000).map(|_| next()).collect();
        noise
    };
    // The probe's bytes are the same whatever builds the other plugins.
    let mut damaged = probe::with(&[]);
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0xff);
    let exports_empty = |version: &str| {
        wasm::component(&format!(
            r#"(component (component $c) (instance $i (instantiate $c))
                 (export "courtside:plugin/processor@{version}" (instance $i)))"#
        ))
    };
    let imports = |import: &str| wasm::component(&format!("(component (import {import}))"));
    let probe = |from: &str, to: &str| probe::with(&[(from, to)]);
    let bytes: Vec<(&str, &str, Vec<u8>)> = vec![
        ("an empty file", "plugin-empty", Vec::new()),
        ("100,000 bytes of noise", "plugin-not-wasm", noise),
        (
            "a component as text",
            "plugin-not-wasm",
            b"(component)".to_vec(),
        ),
        (
            "half of a plugin",
            "plugin-truncated",
            good[..good.len() / 2].to_vec(),
        ),
        (
            "a plugin without its last byte",
            "plugin-truncated",
            good[..good.len() - 1].to_vec(),
        ),
        (
            "a plugin with 64 other bytes in its middle",
            "plugin-not-compiled",
            damaged,
        ),
        (
            "a plugin of 2 MiB, where 1 MiB is the limit",
            "plugin-too-large",
            wasm::variant(good, &"x".repeat(2 << 20)),
        ),
        (
            "a core module",
            "plugin-core-module",
            wasm::component("(module)"),
        ),
        (
            "a component that exports nothing",
            "plugin-wrong-world",
            wasm::component("(component)"),
        ),
        (
            "a component of a contract to come",
            "plugin-wrong-world",
            exports_empty("0.2.0"),
        ),
        (
            "the contract's name, and none of its functions",
            "plugin-wrong-world",
            exports_empty("0.1.0"),
        ),
        (
            "imports somebody else's interface",
            "plugin-import-unknown",
            imports(r#""example:else/where" (instance (export "f" (func)))"#),
        ),
        (
            "imports HTTP",
            "plugin-import-unknown",
            imports(r#""wasi:http/outgoing-handler@0.2.0" (instance (export "handle" (func)))"#),
        ),
        (
            "imports a function that WASI does not have",
            "plugin-import-unknown",
            wasm::component(
                r#"(component
                     (import "wasi:cli/exit@0.2.99" (instance (export "explode" (func))))
                     (component $c) (instance $i (instantiate $c))
                     (export "courtside:plugin/processor@0.1.0" (instance $i)))"#,
            ),
        ),
        (
            "uses relaxed SIMD, which differs between machines",
            "plugin-not-compiled",
            probe(
                ";; @start",
                "(func (result v128)
                   (i8x16.relaxed_swizzle (v128.const i64x2 0 0) (v128.const i64x2 0 0)))",
            ),
        ),
        (
            "traps when it starts",
            "plugin-start-failed",
            wasm::trapping_at_start(good),
        ),
        (
            "never ends its start",
            "plugin-start-failed",
            wasm::looping_at_start(good),
        ),
        (
            "begins with more memory than the limit",
            "plugin-start-failed",
            probe(
                "(memory (export \"memory\") 2)",
                "(memory (export \"memory\") 300)",
            ),
        ),
        (
            "traps when it is to describe itself",
            "plugin-describe-failed",
            probe(";; @describe", "unreachable"),
        ),
        (
            "never ends its description",
            "plugin-describe-failed",
            probe(";; @describe", "(loop $forever (br $forever))"),
        ),
        (
            "exits when it is to describe itself",
            "plugin-describe-failed",
            probe(";; @describe", "(call $exit (i32.const 0))"),
        ),
        (
            "has a name that is none",
            "plugin-description-invalid",
            probe("\"probe\"", "\"Probe\""),
        ),
        (
            "has a version that is none",
            "plugin-description-invalid",
            probe("\"1.2.3\"", "\"1.2.x\""),
        ),
        (
            "writes a format that is none",
            "plugin-description-invalid",
            probe("\"probe/1\"", "\"probe-1\""),
        ),
        (
            "reads another format than the games have",
            "plugin-cannot-read",
            built::plugin("misbehaving"),
        ),
        (
            "says that it reads the games' format, and does not",
            "plugin-rehearsal-failed",
            wasm::reworded(
                &built::plugin("misbehaving"),
                "misbehaving/1",
                "nba-scoring/1",
            ),
        ),
    ];
    let bytes = bytes
        .into_iter()
        .map(|(plugin, code, bytes)| (plugin, code, Offer::Bytes(bytes)));
    bytes
        .chain([
            ("a link to nowhere", "plugin-file-unreadable", Offer::Link),
            ("a directory", "plugin-not-a-file", Offer::Directory),
        ])
        .collect()
}

/// A game that gets a point for each plugin that is offered.
async fn scores(host: &Host, points: usize) {
    let event = json!({
        "game_id": "LAL-BOS", "seq": points, "type": "free_throw", "team": "BOS",
        "player": "Ada Park", "points": 1, "period": 1, "clock": "9:42",
    });
    let place = host.accepts("/score", &event).await;
    let output = host.game_after("LAL-BOS", "scores", &place).await;
    let output = output.expect("an output");
    assert_eq!(output["points"]["BOS"], points, "{output}");
    assert_eq!(output["events"], points, "{output}");
}

/// Files that are refused, while the plugin that ran goes on.
async fn refused_files(engine: Engine) -> Vec<Row> {
    let good = built::plugin("nba-scoring");
    let place = Place::with_plugin(&good)
        .on(engine)
        // A rehearsal takes the games of partitions that the host has, so none may be on
        // its way from worker to worker.
        .set("worker.workers", "1")
        .set("plugin.call_cpu_time_max", "100ms")
        .set("plugin.memory_bytes_max", "16MiB")
        .set("plugin.plugin_bytes_max", "1MiB");
    let mut host = place.start_ready().await;
    scores(&host, 1).await;
    let mut rows = Vec::new();
    for (points, (plugin, code, offer)) in (2..).zip(offers(&good)) {
        match &offer {
            Offer::Bytes(bytes) => place.put(SLOT, bytes),
            Offer::Link => place.exchange(SLOT, |draft| {
                symlink("nowhere.wasm", draft).expect("a dangling link");
            }),
            Offer::Directory => place.exchange(SLOT, |draft| {
                fs::create_dir(draft).expect("a directory");
            }),
        }
        let words = host.rejects(SLOT, code).await;
        scores(&host, points).await;
        place.exchange(SLOT, |draft| {
            fs::write(draft, &good).expect("a plugin's file");
        });
        let slot = host.runs(SLOT, &good).await;
        assert_eq!(slot["swaps"], 1, "{plugin}: {slot}");
        rows.push(Row {
            plugin,
            code: code.to_owned(),
            words: told(&words.replace(&*place.path("").to_string_lossy(), "")),
            meanwhile: format!("what ran counted the game's event {points} of {points}"),
        });
    }
    assert_eq!(host.get("/readyz").await.status, StatusCode::OK);
    assert!(host.is_running());
    host.stop().await;
    let topics = Topics::of(&place);
    assert_eq!(topics.dead_letters("scores"), []);
    assert_eq!(
        topics.each_counted_once("scores", "NBA-Games", "NBA-Scores"),
        0
    );
    rows
}

/// The deeds of a plugin: a description, a key, and the event that asks for the
/// deed. The event is posted between two that only count; some keys ask for a
/// deed by their beginning.
fn deeds() -> Vec<(&'static str, &'static str, Value)> {
    let deed = |deed: &str| json!({"do": deed});
    vec![
        ("panics", "a", deed("trap")),
        ("panics unless it is alone", "b", deed("trap-in-company")),
        ("recurses without end", "c", deed("recurse")),
        ("never returns", "d", deed("loop")),
        (
            "never returns, at two events in a row",
            "loops",
            deed("loop"),
        ),
        ("sleeps for a day", "e", deed("sleep")),
        ("exits", "f", deed("exit")),
        ("allocates until there is no more", "g", deed("eat-memory")),
        (
            "allocates until there is no more, at two events in a row",
            "eats",
            deed("eat-memory"),
        ),
        ("emits 100 MB", "h", deed("emit-much")),
        (
            "emits a little more than the limit",
            "i",
            json!({"do": "emit-much", "bytes": 9_000_000}),
        ),
        (
            "emits a little more than the limit, at two events in a row",
            "floods",
            json!({"do": "emit-much", "bytes": 9_000_000}),
        ),
        (
            "emits for an event that there is not",
            "j",
            deed("emit-for-nobody"),
        ),
        (
            "refuses an event that there is not",
            "k",
            deed("refuse-nobody"),
        ),
        (
            "emits to an output that there is not",
            "l",
            deed("emit-elsewhere"),
        ),
        (
            "emits with a header of the host's own",
            "forger",
            deed("emit-host-header"),
        ),
        ("grows its state to 100 MB", "m", deed("grow")),
        (
            "grows its state a little over the limit",
            "n",
            json!({"do": "grow", "bytes": 600_000}),
        ),
        ("panics at a checkpoint", "o", deed("trap-in-checkpoint")),
        (
            "prints 600 lines",
            "p",
            json!({"do": "print", "lines": 300}),
        ),
        ("connects to a server", "q", deed("connect")),
        (
            "looks for files, variables, time and chance",
            "r",
            deed("look"),
        ),
        ("refuses the event", "s", deed("refuse")),
        ("refuses every event", "refuse", json!({})),
        ("panics when it opens a key", "trap-open", json!({})),
        ("never ends opening a key", "loop-open", json!({})),
        ("says no to a key", "fail-open", json!({})),
        ("panics at every checkpoint", "trap-checkpoint", json!({})),
        (
            "panics when it opens its own checkpoint",
            "trap-reopen",
            deed("trap"),
        ),
        ("says no to its own checkpoint", "fail-reopen", deed("trap")),
    ]
}

/// The end of a description whose deed is asked for twice.
const TWICE: &str = ", at two events in a row";

/// Plugins that fail at work, while the neighbour in the same instance goes on.
async fn failures(engine: Engine) -> Vec<Row> {
    let place = Place::new()
        .on(engine)
        .configured("[pipelines.cases]\ninput = \"events\"\noutput = \"outputs\"\nkey = \"/key\"\n")
        .set("log.partitions", "1")
        .set("worker.workers", "1")
        .set("plugin.call_cpu_time_max", "100ms")
        .set("plugin.memory_bytes_max", "16MiB");
    place.put("cases/default", &built::plugin("misbehaving"));
    let mut host = place.start_ready().await;
    let mut counted = Vec::new();
    for (what, key, deed) in deeds() {
        let neighbour = format!("beside-{key}");
        let mut bad = deed.clone();
        bad["key"] = json!(key);
        let count = |key: &str| json!({"key": key}).to_string();
        let first = [count(&neighbour), count(key)];
        let mut then = vec![bad.to_string(), count(&neighbour), count(key)];
        if what.ends_with(TWICE) {
            then.insert(1, bad.to_string());
        }
        host.accepts_all("/events/cases", &first).await;
        if key.ends_with("-reopen") {
            // The entity has a checkpoint now, which it opens after the next
            // failure.
            host.has_processed_all().await;
        }
        host.accepts_all("/events/cases", &then).await;
        host.has_processed_all().await;
        let events = async |key: &str| {
            let output = host.game_after(key, "cases", "0:0").await;
            output.map_or(Value::Null, |output| output["events"].clone())
        };
        let beside = events(&neighbour).await;
        assert_eq!(beside, 2, "{what}: the neighbour counts");
        counted.push((what, key, events(key).await));
    }
    assert_eq!(host.get("/readyz").await.status, StatusCode::OK);
    assert!(host.is_running());
    host.stop().await;
    let topics = Topics::of(&place);
    let mut letters: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for letter in topics.dead_letters("cases") {
        let of_key = letters.entry(letter.key).or_default();
        of_key.push((letter.code, letter.reason));
    }
    let rows = counted.into_iter().map(|(plugin, key, counted)| {
        let letters = letters.remove(key).unwrap_or_default();
        let (code, words) = match letters.last() {
            None => ("none".to_owned(), String::new()),
            Some((code, reason)) => (code.clone(), told(reason)),
        };
        let own = match letters.len() {
            0 => "all three of its events were counted".to_owned(),
            3 if !plugin.ends_with(TWICE) => "its events became dead letters".to_owned(),
            1 => "that event became a dead letter, the two others were counted".to_owned(),
            count => format!("{count} of its events became dead letters, and it is halted"),
        };
        assert!(
            letters.len() == 3 || counted != Value::Null || code == "none",
            "{plugin}"
        );
        Row {
            plugin,
            code,
            words,
            meanwhile: format!("its neighbour in the instance counted all; {own}"),
        }
    });
    let rows = rows.collect();
    assert!(letters.is_empty(), "{letters:#?}");
    rows
}

/// A reason as the page has it: without the parts that differ on another machine
/// or after another build.
fn told(reason: &str) -> String {
    /// Figures of at least this many digits are measured, unless they are a
    /// limit.
    const DIGITS_MIN: usize = 5;
    /// The texts before lines and columns of a source, which are measured, too.
    const SOURCE: [&str; 2] = [".rs:", ".rs:…:"];
    let reason = reason.split("; in ").next().unwrap_or_default();
    let mut told = String::new();
    let mut rest = reason;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(at);
        let length = from
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(from.len());
        let (number, after) = from.split_at(length);
        told += before;
        let is_limit = told.ends_with("_max is ") || told.ends_with("limit is ");
        let is_measured = number.len() >= DIGITS_MIN
            || after.starts_with("ms of cpu time")
            || SOURCE.iter().any(|before| told.ends_with(before));
        told += if is_measured && !is_limit {
            "…"
        } else {
            number
        };
        rest = after;
    }
    told += rest;
    let mut cut: String = told.chars().take(180).collect();
    if cut.len() < told.len() {
        cut.push('…');
    }
    cut.replace('|', "\\|").replace('<', "&lt;")
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| the plugin | the answer | in words | meanwhile |\n| --- | --- | --- | --- |\n",
    );
    for row in rows {
        let code = match &*row.code {
            "none" => "none".to_owned(),
            code => format!("`{code}`"),
        };
        let Row {
            plugin,
            words,
            meanwhile,
            ..
        } = row;
        let _ = writeln!(text, "| {plugin} | {code} | {words} | {meanwhile} |");
    }
    text
}

async fn the_page_says_what_happens(engine: Engine) {
    let refused = refused_files(engine).await;
    let failed = failures(engine).await;
    assert!(refused.len() + failed.len() >= 25);
    let made = format!(
        "\n## Files that are refused\n\n{}\n## Plugins that fail at work\n\n{}",
        table(&refused),
        table(&failed)
    );
    let page = fs::read_to_string(PAGE).expect("the page");
    let (prose, _) = page.split_once(MARK).expect("the mark in the page");
    let page_now = format!("{prose}{MARK}{made}");
    if std::env::var_os("COURTSIDE_TEST_WRITE").is_some() && engine == Engine::Embedded {
        fs::write(PAGE, page_now).expect("the page");
        fs::create_dir_all(SEEDS).expect("a directory for seeds");
        fs::write(format!("{SEEDS}/probe.wasm"), probe::with(&[])).expect("a seed");
    } else {
        assert_eq!(
            page, page_now,
            "COURTSIDE_TEST_WRITE=1 brings docs/bad-plugins.md up to date"
        );
    }
}

/// A slot's own limits hold for its plugin, and for no other.
async fn limits_of_a_slot_are_its_own(engine: Engine) {
    let config = r#"
        [pipelines.cases]
        input = "events"
        output = "outputs"
        key = "/key"
        [pipelines.cases.plugin]
        emitted_bytes_max = "100KiB"
        [pipelines.cases.slots."keys/large".plugin]
        emitted_bytes_max = "1MiB"
        checkpoint_bytes_max = "900KiB"
        [pipelines.cases.slots."keys/small".plugin]
        plugin_bytes_max = "1KiB"
    "#;
    let misbehaving = built::plugin("misbehaving");
    let place = Place::new().on(engine).configured(config);
    place.put("cases/default", &misbehaving);
    place.put("cases/keys/large", &misbehaving);
    let host = place.start_ready().await;
    host.runs("cases/keys/large", &misbehaving).await;
    place.put("cases/keys/small", &misbehaving);
    let reason = host.rejects("cases/keys/small", "plugin-too-large").await;
    assert!(
        reason.contains("the limit plugin_bytes_max is 1024"),
        "{reason}"
    );
    for key in ["large", "other"] {
        let events = [
            json!({"key": key, "do": "emit-much", "bytes": 500_000}).to_string(),
            json!({"key": key, "do": "grow", "bytes": 600_000}).to_string(),
            json!({"key": key}).to_string(),
        ];
        host.accepts_all("/events/cases", &events).await;
    }
    host.has_processed_all().await;
    for (slot, emitted, checkpoint) in [
        ("cases/default", 100 << 10, 512 << 10),
        ("cases/keys/large", 1 << 20, 900 << 10),
    ] {
        let view = host.slot(slot).await.expect("a slot");
        assert_eq!(view["limits"]["emitted_bytes_max"], emitted, "{view}");
        assert_eq!(view["limits"]["checkpoint_bytes_max"], checkpoint, "{view}");
        assert_eq!(view["limits"]["call_cpu_time_max_ms"], 1000, "{view}");
    }
    host.stop().await;
    let letters = Topics::of(&place).dead_letters("cases");
    let of = |key: &str| {
        let of_key = letters.iter().filter(|letter| letter.key == key);
        of_key
            .map(|letter| (&*letter.code, &*letter.reason))
            .collect::<Vec<_>>()
    };
    assert_eq!(of("large"), []);
    let other = of("other");
    let (code, reason) = other[0];
    assert_eq!(code, "plugin-emitted-too-much");
    let limit = "the limit emitted_bytes_max is 102400";
    assert!(reason.contains(limit), "{reason}");
    let limit = "the limit checkpoint_bytes_max is 524288";
    assert!(other[1].1.contains(limit), "{other:?}");
}

fn main() -> ExitCode {
    let tests = || {
        tests![
            the_page_says_what_happens,
            limits_of_a_slot_are_its_own,
            bombs::are_refused_within_their_limits,
            bombs::a_rollback_does_not_wait_for_a_compile,
            bombs::a_better_file_does_not_wait_for_a_bomb,
            bombs::a_compile_ends_with_its_host,
        ]
    };
    Suite::new().on_both(tests).run()
}
