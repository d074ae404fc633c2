//! Files that are small, and would take gigabytes or minutes to compile: they are
//! refused within the limits of compiling, by a host and by `courtside plugin check`,
//! and nothing waits for them meanwhile.

use std::{
    fmt::Write as _,
    process::Command,
    time::{Duration, Instant},
};

use courtside_tests::{
    Answer, Engine, Host, Place, built,
    processes::{ChildrenWatch, children, memory_peak_bytes},
    wait::until,
};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::{SLOT, probe};

const KEY_SLOT: &str = "scores/keys/LAL-BOS";
/// The bytes that a compile may have in these tests, and those that the program has
/// before it.
const COMPILE_MEMORY_MAX: u64 = 128 << 20;
const PROGRAM_BYTES_MAX: u64 = 512 << 20;

/// A plugin with `functions` functions of `blocks` blocks and `locals` locals each.
/// All of the locals live through all of the blocks.
fn bomb(functions: usize, blocks: usize, locals: usize) -> Vec<u8> {
    let mut function = format!("(func (local{})", " i32".repeat(locals));
    for block in 0..blocks {
        let (read, written) = (block % locals, (block + 1) % locals);
        write!(
            function,
            "(if (local.get {read}) (then (local.set {written} (i32.add (local.get {read}) (i32.const 1)))))"
        )
        .expect("text");
    }
    for local in 0..locals {
        write!(function, "(drop (local.get {local}))").expect("text");
    }
    function.push(')');
    probe::with(&[(";; @start", &function.repeat(functions))])
}

/// A plugin that can be compiled, but not within the time of any of these tests.
fn slow() -> Vec<u8> {
    bomb(8, 5_000, 1_000)
}

/// A place with compiled code of its own. Other tests share theirs, and the refusal of
/// a file over a limit is remembered with the code.
fn place(engine: Engine) -> Place {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    std::fs::remove_file(place.data_dir().join("compiled")).expect("the link to what is shared");
    place
}

fn megabytes(bytes: u64) -> u64 {
    bytes >> 20
}

/// Runs `plugin check`. Returns the code that it said, its own peak of memory and that
/// of its children in bytes, and how long it took.
fn check(place: &Place, bytes: &[u8]) -> (String, u64, u64, Duration) {
    let file = place.path("bomb.wasm");
    std::fs::write(&file, bytes).expect("a file");
    let mut command: Command = place.operate(&[
        "plugin",
        "check",
        file.to_str().expect("a path"),
        "--output",
        "json",
    ]);
    let started = Instant::now();
    command.stdout(std::process::Stdio::piped());
    let process = command.spawn().expect("the command");
    let id = process.id();
    let watch = ChildrenWatch::start(id);
    let own = std::thread::spawn(move || {
        let mut peak = 0;
        while let Some(bytes) = memory_peak_bytes(id) {
            peak = peak.max(bytes);
            std::thread::sleep(Duration::from_millis(2));
        }
        peak
    });
    let said = process.wait_with_output().expect("its end");
    let took = started.elapsed();
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let report: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    let code = report["rejection"]["code"].as_str().expect("a code");
    (
        code.to_owned(),
        own.join().expect("the watch"),
        watch.peak_bytes(),
        took,
    )
}

/// Each bomb is refused with its code. At the next start it is refused again, and no
/// longer compiled.
pub async fn are_refused_within_their_limits(engine: Engine) {
    let place = place(engine)
        .set("plugin.compile_memory_max", "128MiB")
        .set("plugin.compile_time_max", "1s");
    let good = built::plugin("nba-scoring");
    for (what, code, bytes) in [
        (
            "20,000 blocks and 2,000 locals",
            "plugin-too-complex",
            bomb(1, 20_000, 2_000),
        ),
        (
            "more memory than it may",
            "plugin-compile-limit",
            bomb(1, 4_900, 2_000),
        ),
        (
            "more time than it may",
            "plugin-compile-limit",
            bomb(200, 300, 500),
        ),
    ] {
        let mut host = place.start_ready().await;
        let before = memory_peak_bytes(host.id()).expect("the host's memory");
        let watch = ChildrenWatch::start(host.id());
        let started = Instant::now();
        place.put(SLOT, &bytes);
        let words = host.rejects(SLOT, code).await;
        let (took, peak) = (started.elapsed(), watch.peak_bytes());
        let after = memory_peak_bytes(host.id()).expect("the host's memory");
        assert!(host.is_running());
        let slot = host.slot(SLOT).await.expect("the slot");
        let digest = courtside_types::Digest::of(&good).to_string();
        assert_eq!(slot["plugin"]["digest"], digest, "what ran goes on: {slot}");
        host.stop().await;
        let (checked, own, child, check_took) = check(&place, &bytes);
        assert_eq!(checked, code, "{what}");
        println!(
            "{what}, {} KB: serve {} MB (before {}) and its compile {} MB in {took:?}; \
             plugin check {} MB and its compile {} MB in {check_took:?}",
            bytes.len() / 1000,
            megabytes(after),
            megabytes(before),
            megabytes(peak),
            megabytes(own),
            megabytes(child),
        );
        for bytes in [peak, child] {
            assert!(
                bytes <= COMPILE_MEMORY_MAX + PROGRAM_BYTES_MAX,
                "{what}: {bytes}"
            );
        }
        if code == "plugin-compile-limit" {
            assert!(words.contains("plugin.compile_"), "{words}");
            assert!(!words.contains("it is not tried again"), "{words}");
            let host = place.start_ready().await;
            let words = host.rejects(SLOT, code).await;
            assert!(words.contains("it is not tried again"), "{words}");
            host.stop().await;
        }
        place.put(SLOT, &good);
    }
}

async fn put(host: &Host, slot: &str, bytes: &[u8]) -> Answer {
    host.operate(Method::PUT, &format!("/plugins/{slot}"), bytes.to_vec())
        .await
}

/// Rolls back one slot while the file of another is compiled.
pub async fn a_rollback_does_not_wait_for_a_compile(engine: Engine) {
    let (good, other) = (built::plugin("nba-scoring"), built::plugin("box-score"));
    let place = place(engine);
    let host = place.start_ready().await;
    crate::scores(&host, 1).await;
    let mut took = Vec::new();
    for (points, beside) in [(2, false), (3, true)] {
        let answer = put(&host, SLOT, &other).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        crate::scores(&host, points).await;
        if beside {
            place.put(KEY_SLOT, &slow());
            host.slot_is(KEY_SLOT, "loading", |view| view["state"] == "loading")
                .await;
            until("a compile process", || async {
                (!children(host.id()).is_empty())
                    .then_some(())
                    .ok_or_else(|| "none".to_owned())
            })
            .await;
        }
        let started = Instant::now();
        let answer = host
            .operate(
                Method::POST,
                &format!("/plugins/{SLOT}/rollback"),
                Vec::new(),
            )
            .await;
        took.push(started.elapsed());
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        host.runs(SLOT, &good).await;
        if beside {
            let slot = host.slot(KEY_SLOT).await.expect("the slot");
            assert_eq!(slot["state"], "loading", "the compile goes on: {slot}");
        }
    }
    println!(
        "a rollback alone took {:?}, and beside a compile {:?}",
        took[0], took[1]
    );
    host.stop().await;
}

/// A file that takes the place of one that is being compiled ends that compile.
pub async fn a_better_file_does_not_wait_for_a_bomb(engine: Engine) {
    let other = built::plugin("box-score");
    let place = place(engine);
    let host = place.start_ready().await;
    let slow = slow();
    let (superseded, answer) = tokio::join!(put(&host, SLOT, &slow), async {
        host.slot_is(SLOT, "loading", |view| view["state"] == "loading")
            .await;
        put(&host, SLOT, &other).await
    });
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(superseded.status, StatusCode::CONFLICT);
    assert_eq!(superseded.code(), "plugin-superseded");
    host.runs(SLOT, &other).await;
    assert_eq!(children(host.id()), Vec::<u32>::new());
    // An operator who puts a bomb is answered with its code.
    let answer = put(&host, SLOT, &bomb(1, 20_000, 2_000)).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer.code(), "plugin-too-complex");
    host.stop().await;
}

/// SIGTERM, and a kill, end the compile with the host.
pub async fn a_compile_ends_with_its_host(engine: Engine) {
    for is_killed in [false, true] {
        let place = place(engine);
        let host = place.start_ready().await;
        place.put(SLOT, &slow());
        let compile = until("a compile process", || async {
            children(host.id())
                .first()
                .copied()
                .ok_or_else(|| "none".to_owned())
        })
        .await;
        if is_killed {
            host.kill();
        } else {
            host.stop().await;
        }
        until("the end of the compile", || async {
            match std::fs::read_to_string(format!("/proc/{compile}/status")) {
                // A process that nobody waited for has ended, too.
                Ok(status) if !status.contains("State:\tZ") => Err(status),
                _ => Ok(()),
            }
        })
        .await;
    }
}
