//! A disk that fills up: acknowledged events stay, reads go on, and everything
//! goes on by itself once there is room. These tests need root, for a disk of
//! their own.

use courtside_tests::{
    Engine, Host, Place, built, disk::SmallDisk, games, play::Player, topics::Topics, until, wasm,
};
use reqwest::StatusCode;
use serde_json::Value;

use super::point;

const MIB: u64 = 1 << 20;
const GAME: &str = "LAL-BOS";

fn place_on(disk: &SmallDisk, free_min: &str) -> Place {
    let place = Place::with_plugin(&built::plugin("nba-scoring"));
    place
        .with_data_dir(disk.path().join("data"))
        .set("log.disk_free_min", free_min)
}

/// Posts until an event is refused. Returns how many were taken, and the code
/// of the refusal.
async fn post_until_refused(host: &Host, from: u64) -> (u64, String) {
    for seq in from.. {
        let event = point(GAME, seq).to_string();
        let answer = host.post("/score", "application/json", event).await;
        if answer.status == StatusCode::OK {
            assert!(seq < from + 200_000, "the disk does not fill");
            continue;
        }
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        assert!(answer.retry_after.is_some(), "{answer:?}");
        return (seq - 1, answer.code());
    }
    unreachable!()
}

/// Checks what the host does without a disk, and what it says.
async fn reads_go_on(host: &Host) {
    let output = host.game(GAME).await.expect("an output");
    assert!(output["events"].as_u64() > Some(0), "{output}");
    assert_eq!(host.get("/games").await.status, StatusCode::OK);
    assert_eq!(host.get("/healthz").await.status, StatusCode::OK);
    assert_eq!(host.get("/plugins").await.status, StatusCode::OK);
    let ready = host.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE, "{ready:?}");
    let reasons = ready.json()["reasons"].clone();
    let full: Vec<&Value> = reasons
        .as_array()
        .expect("reasons")
        .iter()
        .filter(|reason| reason["code"] == "disk-full")
        .collect();
    assert_eq!(full.len(), 1, "{ready:?}");
}

/// Checks that the host goes on once there is room, without a restart.
async fn goes_on(place: &Place, mut host: Host, taken: u64) {
    let event = point(GAME, taken + 1);
    let at = until("an event to be taken again", || async {
        let answer = host
            .post("/score", "application/json", event.to_string())
            .await;
        let body = answer.json();
        if answer.status == StatusCode::OK {
            Ok(format!("{}:{}", body["partition"], body["offset"]))
        } else {
            Err(answer.body)
        }
    })
    .await;
    host.game_after(GAME, "scores", &at)
        .await
        .expect("an output");
    host.is_ready().await;
    assert!(host.is_running());
    let check = |output: Value| {
        let seen = ["last_seq", "gaps"].map(|field| output[field].clone());
        assert_eq!(seen, [taken + 1, 0].map(Value::from), "{output}");
        // An event that was answered with 503 may be in the log. Sent again, it
        // is then a duplicate.
        let counted = output["events"].as_u64().zip(output["duplicates"].as_u64());
        let (events, duplicates) = counted.expect("numbers");
        assert_eq!(events - duplicates, taken + 1, "{output}");
    };
    check(host.game(GAME).await.expect("an output"));
    host.stop().await;
    let topics = Topics::of(place);
    assert_eq!(
        topics.each_counted_once("scores", "NBA-Games", "NBA-Scores"),
        0
    );
    assert_eq!(topics.dead_letters("scores"), []);
    drop(topics);
    let host = place.start_ready().await;
    check(host.game(GAME).await.expect("an output"));
    host.stop().await;
}

/// The host keeps room free: it stops before the disk is full.
pub async fn a_disk_with_less_room_than_is_kept_free(_: Engine) {
    let Some(disk) = SmallDisk::mount(256) else {
        return;
    };
    let place = place_on(&disk, "32MiB");
    let host = place.start_ready().await;
    let at = host.accepts("/score", &point(GAME, 1)).await;
    host.game_after(GAME, "scores", &at)
        .await
        .expect("an output");
    disk.fill_but(16 * MIB);
    let (taken, code) = post_until_refused(&host, 2).await;
    assert_eq!(code, "disk-full");
    reads_go_on(&host).await;
    disk.make_room();
    goes_on(&place, host, taken).await;
}

/// The host keeps nothing free: it runs into the disk's end.
pub async fn a_disk_without_any_room(_: Engine) {
    let Some(disk) = SmallDisk::mount(256) else {
        return;
    };
    let place = place_on(&disk, "0B");
    let host = place.start_ready().await;
    let at = host.accepts("/score", &point(GAME, 1)).await;
    host.game_after(GAME, "scores", &at)
        .await
        .expect("an output");
    disk.fill_but(0);
    let (taken, code) = post_until_refused(&host, 2).await;
    assert_eq!(code, "disk-full");
    reads_go_on(&host).await;
    disk.make_room();
    goes_on(&place, host, taken).await;
}

/// Games are played while the disk fills again and again.
async fn fills_again_and_again(free_min: &str, free_bytes: u64) {
    let Some(disk) = SmallDisk::mount(256) else {
        return;
    };
    let place = place_on(&disk, free_min);
    let host = place.start_ready().await;
    let games = games::invented(10);
    let player = Player::start(&host.url(), &games, &["--batch", "5", "--connections", "2"]);
    for _ in 0..3 {
        disk.fill_but(free_bytes);
        // The games may be over by then, so the test posts an event itself to
        // find the disk full.
        until("an event to be refused", || async {
            let event = point("another", 1).to_string();
            let answer = host.post("/score", "application/json", event).await;
            if answer.status == StatusCode::SERVICE_UNAVAILABLE {
                assert_eq!(answer.code(), "disk-full");
                Ok(())
            } else {
                Err(format!("{answer:?}"))
            }
        })
        .await;
        disk.make_room();
        host.is_ready().await;
    }
    player.succeeds(&games).await;
    host.has_processed_all().await;
    for game in &games {
        game.check(&host.game(&game.id).await.expect("an output"));
    }
    host.stop().await;
    let topics = Topics::of(&place);
    // Retries of requests that failed midway are copies.
    let copies = topics.each_counted_once("scores", "NBA-Games", "NBA-Scores");
    eprintln!("{copies} events came twice");
    assert_eq!(topics.dead_letters("scores"), []);
}

pub async fn games_go_on_when_the_disk_has_less_room_than_is_kept_free(_: Engine) {
    fills_again_and_again("32MiB", 16 * MIB).await;
}

pub async fn games_go_on_when_the_disk_has_no_room(_: Engine) {
    fills_again_and_again("0B", 0).await;
}

/// A host that crashed with a full disk starts on it, and reads go on.
async fn starts_on_a_full_disk(free_min: &str, free_bytes: u64) {
    let Some(disk) = SmallDisk::mount(256) else {
        return;
    };
    let place = place_on(&disk, free_min);
    let host = place.start_ready().await;
    let at = host.accepts("/score", &point(GAME, 1)).await;
    host.game_after(GAME, "scores", &at)
        .await
        .expect("an output");
    disk.fill_but(free_bytes);
    let (taken, _) = post_until_refused(&host, 2).await;
    host.kill();
    let host = place.start().await;
    // Starting may have made a little room.
    let (taken, code) = post_until_refused(&host, taken + 1).await;
    assert_eq!(code, "disk-full");
    until("the game to be seen", || async {
        let answer = host.get(&format!("/games/{GAME}")).await;
        if answer.status == StatusCode::OK {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    })
    .await;
    reads_go_on(&host).await;
    disk.make_room();
    goes_on(&place, host, taken).await;
}

pub async fn a_host_starts_where_less_room_is_than_is_kept_free(_: Engine) {
    starts_on_a_full_disk("32MiB", 16 * MIB).await;
}

pub async fn a_host_starts_where_no_room_is(_: Engine) {
    starts_on_a_full_disk("0B", 0).await;
}

/// Events wait for their commit, a swap waits for the worker, and the disk is
/// full: SIGTERM ends it all the same, and the next host counts the events.
pub async fn a_full_disk_does_not_keep_a_host_from_stopping(_: Engine) {
    let Some(disk) = SmallDisk::mount(256) else {
        return;
    };
    let place = place_on(&disk, "32MiB").set("worker.drain_deadline", "500ms");
    place.remove("scores/default");
    let mut host = place.start().await;
    for seq in 1..=10 {
        host.accepts("/score", &point(GAME, seq)).await;
    }
    disk.fill_but(16 * MIB);
    let plugin = built::plugin("nba-scoring");
    place.put("scores/default", &plugin);
    host.runs("scores/default", &plugin).await;
    until("a commit that fails", || async {
        let metrics = host.get("/metrics").await.body;
        if metrics.contains("courtside_commit_failures_total{") {
            Ok(())
        } else {
            Err(metrics)
        }
    })
    .await;
    let next = wasm::variant(&plugin, "next");
    let digest = courtside_types::Digest::of(&next).to_string();
    place.put("scores/default", &next);
    host.slot_is("scores/default", "about to swap", |view| {
        view["history"].as_array().is_some_and(|history| {
            history
                .iter()
                .any(|event| event["state"] == "rehearsing" && event["digest"] == *digest)
        })
    })
    .await;
    host.terminate();
    let status = host.ended().await;
    assert!(status.success(), "{status}");
    drop(host);

    disk.make_room();
    let host = place.start_ready().await;
    host.has_processed_all().await;
    let output = host.game(GAME).await.expect("an output");
    assert_eq!(output["events"], 10, "{output}");
    assert_eq!(output["duplicates"], 0, "{output}");
    host.runs("scores/default", &next).await;
    host.stop().await;
    let topics = Topics::of(&place);
    assert_eq!(
        topics.each_counted_once("scores", "NBA-Games", "NBA-Scores"),
        0
    );
}
