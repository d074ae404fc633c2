//! Backups: made of a host at work, checked, and started on.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use courtside_tests::{
    Engine, Host, Place, built,
    disk::SmallDisk,
    games::{self, Game},
    place::{courtside, output},
    suite::Suite,
    tests,
    topics::Topics,
};
use serde_json::Value;

const INPUT: &str = "NBA-Games";

/// `courtside backup DIR` of a running host.
fn backup(dir: &Path, url: &str) -> Command {
    let mut command = courtside("backup");
    command.arg(dir).args(["--url", url]);
    command
}

fn verify(dir: &Path) -> Command {
    let mut command = courtside("backup");
    command.arg("verify").arg(dir);
    command
}

/// Runs a command that must succeed, and returns the line that it prints.
fn succeeds(command: &mut Command) -> String {
    let said = output(command);
    assert!(said.status.success(), "{said:?}");
    let text = String::from_utf8(said.stdout).expect("text");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

/// Runs a command that must fail, and returns the code that its one line begins
/// with.
fn fails(command: &mut Command) -> String {
    let said = output(command);
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert!(said.stdout.is_empty(), "{said:?}");
    let text = String::from_utf8(said.stderr).expect("text");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    let words = text.strip_prefix("courtside: ").expect("whose words");
    words.split(": ").next().expect("a code").to_owned()
}

fn manifest(dir: &Path) -> Value {
    let text = fs::read(dir.join("backup.json")).expect("a manifest");
    serde_json::from_slice(&text).expect("JSON")
}

fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    assert!(output(command.arg("-a").arg(from).arg(to)).status.success());
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names
        .map(|name| name.into_string().expect("text"))
        .collect();
    names.sort();
    names
}

/// Posts the rest of the games in turns, ten events of a game at a time.
async fn post(host: &Host, games: &[Game], from: &BTreeMap<String, usize>) {
    let lines = |game: &Game| {
        let from = from.get(&game.id).copied().unwrap_or_default();
        game.lines[from..].to_vec()
    };
    let rest: Vec<Vec<String>> = games.iter().map(lines).collect();
    let longest = rest.iter().map(Vec::len).max().unwrap_or_default();
    for at in (0..longest).step_by(10) {
        for lines in &rest {
            let to = (at + 10).min(lines.len());
            if let Some(part) = lines.get(at..to).filter(|part| !part.is_empty()) {
                host.accepts_all("/score", part).await;
            }
        }
    }
}

async fn a_host_starts_on_the_backup_of_one_at_work_and_goes_on(_: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring"));
    let host = place.start_ready().await;
    let games = games::invented(6);
    for game in &games {
        host.accepts_all("/score", &game.lines[..game.lines.len() / 3])
            .await;
    }
    let third = |game: &Game| (game.id.clone(), game.lines.len() / 3);
    let posted: BTreeMap<String, usize> = games.iter().map(third).collect();
    let dir = place.path("monday");
    let mut command = backup(&dir, &host.url());
    let making = tokio::task::spawn_blocking(move || succeeds(&mut command));
    post(&host, &games, &posted).await;
    let line = making.await.expect("a line");
    assert!(line.contains("is written"), "{line}");
    host.kill();
    fs::remove_dir_all(place.data_dir()).expect("removed");
    assert!(succeeds(&mut verify(&dir)).contains("is whole"));

    let restored = place.path("restored");
    copy(&dir, &restored);
    let place = place.with_data_dir(restored);
    // The input has as many records as the manifest says, and all that were
    // posted before.
    let records = Topics::of(&place).records(INPUT);
    let mut by_partition: BTreeMap<u32, u64> = BTreeMap::new();
    let mut by_game: BTreeMap<String, usize> = BTreeMap::new();
    for (partition, record) in &records {
        *by_partition.entry(partition.0).or_default() += 1;
        let key = record.key.as_ref().expect("a key");
        let key = String::from_utf8(key.to_vec()).expect("text");
        *by_game.entry(key).or_default() += 1;
    }
    let manifest = manifest(&dir);
    let partitions = manifest["log"]["topics"][INPUT]["partitions"].clone();
    for (number, partition) in (0..).zip(partitions.as_array().expect("partitions")) {
        let count = by_partition.get(&number).copied().unwrap_or_default();
        assert_eq!(partition["end"].as_u64(), Some(count), "{partitions}");
    }
    for game in &games {
        assert!(by_game[&game.id] >= posted[&game.id], "{by_game:?}");
    }

    let host = place.start_ready().await;
    post(&host, &games, &by_game).await;
    host.has_processed_all().await;
    for game in &games {
        game.check(&host.game(&game.id).await.expect("an output"));
    }
    host.stop().await;
    assert_eq!(Topics::of(&place).dead_letters("scores"), []);
    // The host started on a copy, so the backup is still whole.
    succeeds(&mut verify(&dir));
}

async fn one_changed_byte_in_any_file_is_found(_: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring"));
    let host = place.start_ready().await;
    let games = games::invented(1);
    post(&host, &games, &BTreeMap::new()).await;
    host.has_processed_all().await;
    host.stop().await;
    let dir = place.path("monday");
    let written = place.operate(&["backup", dir.to_str().expect("text"), "--stopped"]);
    succeeds(&mut { written });
    let all = files(&dir);
    let plugins = all
        .iter()
        .filter(|path| path.starts_with(dir.join("plugins")));
    assert!(plugins.count() >= 2, "{all:?}");
    for path in all {
        let whole = fs::read(&path).expect("a file");
        let mut changed = whole.clone();
        let Some(byte) = changed.get_mut(whole.len() / 3) else {
            continue;
        };
        *byte ^= 16;
        fs::write(&path, changed).expect("written");
        let code = fails(&mut verify(&dir));
        let is_manifest = path.ends_with("backup.json");
        let expected = if is_manifest {
            "backup-invalid"
        } else {
            "backup-changed"
        };
        assert_eq!(code, expected, "{}", path.display());
        fs::write(&path, whole).expect("written");
    }
    succeeds(&mut verify(&dir));
    assert_eq!(fails(&mut verify(place.data_dir())), "backup-invalid");
}

async fn a_copy_of_a_directory_in_use_is_no_backup(_: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring"));
    let host = place.start_ready().await;
    let dir = place.path("monday");
    let name = dir.to_str().expect("text");
    // A running host has the data directory.
    let mut stopped = place.operate(&["backup", name, "--stopped"]);
    assert_eq!(fails(&mut stopped), "data-dir-in-use");
    // A directory has the backup's name.
    fs::create_dir(&dir).expect("a directory");
    assert_eq!(fails(&mut backup(&dir, &host.url())), "backup-exists");
    fs::remove_dir(&dir).expect("removed");
    let url = host.url();
    host.stop().await;
    assert_eq!(fails(&mut backup(&dir, &url)), "host-unreachable");
    let mut kafka = place.operate(&["backup", name, "--stopped", "--kafka", "127.0.0.1:1"]);
    assert_eq!(fails(&mut kafka), "backup-elsewhere");
    let left = names(&place.path("."));
    assert!(!left.iter().any(|name| name.contains("monday")), "{left:?}");
}

/// A host that answers, sends a little, and is gone.
async fn a_host_that_is_gone_in_the_middle_leaves_nothing(_: Engine) {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let _ = stream.read(&mut [0; 4096]);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(b"c\r\ncsbackup\x01\0\0\0\r\n");
    });
    let dir = place.path("monday");
    assert_eq!(fails(&mut backup(&dir, &url)), "backup-cut-short");
    answering.join().expect("an answer");
    assert!(
        !names(&place.path("."))
            .iter()
            .any(|name| name.contains("monday"))
    );
}

async fn a_backup_on_a_full_disk_leaves_nothing_and_the_host_goes_on(_: Engine) {
    let Some(disk) = SmallDisk::mount(1) else {
        return;
    };
    let place = Place::with_plugin(&built::plugin("nba-scoring"));
    let host = place.start_ready().await;
    let games = games::invented(4);
    post(&host, &games, &BTreeMap::new()).await;
    let dir = disk.path().join("monday");
    assert_eq!(fails(&mut backup(&dir, &host.url())), "disk-full");
    assert_eq!(names(disk.path()), [""; 0]);
    host.has_processed_all().await;
    let dir = place.path("monday");
    succeeds(&mut backup(&dir, &host.url()));
    succeeds(&mut verify(&dir));
    host.stop().await;
}

async fn a_host_on_kafka_says_whose_backups_are(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let host = place.start_ready().await;
    let dir = place.path("monday");
    assert_eq!(fails(&mut backup(&dir, &host.url())), "backup-elsewhere");
    assert!(!dir.exists());
    host.stop().await;
}

fn main() -> ExitCode {
    let embedded = tests![
        a_host_starts_on_the_backup_of_one_at_work_and_goes_on,
        one_changed_byte_in_any_file_is_found,
        a_copy_of_a_directory_in_use_is_no_backup,
        a_host_that_is_gone_in_the_middle_leaves_nothing,
        a_backup_on_a_full_disk_leaves_nothing_and_the_host_goes_on,
    ];
    Suite::new()
        .on(Engine::Embedded, embedded)
        .on(
            Engine::Kafka,
            tests![a_host_on_kafka_says_whose_backups_are],
        )
        .run()
}
