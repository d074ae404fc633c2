//! Starting: the words of a host that cannot start, and the moment when one is
//! ready.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use courtside_tests::{
    Engine, Host, Place, built,
    disk::SmallDisk,
    place::{courtside, output},
    until,
};
use reqwest::StatusCode;

use super::point;

pub async fn a_data_directory_has_one_host(engine: Engine) {
    let place = Place::with_plugin(&built::plugin("nba-scoring")).on(engine);
    let first = place.start_ready().await;
    let said = place.spawn().refuses_to_start().await;
    assert!(said.contains("data-dir-in-use"), "{said}");
    let data = place.data_dir().to_string_lossy();
    assert!(said.contains(&*data), "{said}");
    // The first host did not notice.
    let at = first.accepts("/score", &point("LAL-BOS", 1)).await;
    first
        .game_after("LAL-BOS", "scores", &at)
        .await
        .expect("an output");
    first.stop().await;
}

pub async fn an_address_has_one_host(_: Engine) {
    let place = Place::new().with_fixed_port();
    let first = place.start().await;
    let second = Place::new().listening_at(first.address());
    let said = second.spawn().refuses_to_start().await;
    assert!(said.contains("listen-address-in-use"), "{said}");
    assert!(said.contains(first.address()), "{said}");
    // The second host looked at the address before it touched anything.
    assert!(!second.data_dir().join("log").exists());
    assert_eq!(first.get("/healthz").await.status, StatusCode::OK);
    first.stop().await;
}

pub async fn a_data_directory_that_cannot_be_written_is_named(_: Engine) {
    let Some(disk) = SmallDisk::mount(8) else {
        return;
    };
    disk.make_read_only();
    for data in [disk.path().to_owned(), disk.path().join("data")] {
        let place = Place::new().with_data_dir(&data);
        let said = place.spawn().refuses_to_start().await;
        let path = data.to_string_lossy();
        assert!(said.contains(&*path), "{path} is not in: {said}");
        assert!(said.contains("Read-only"), "{said}");
        assert!(
            said.contains("data-dir-unusable") || said.contains("log-unavailable"),
            "{said}"
        );
    }
}

pub async fn a_data_directory_of_somebody_else_is_named(_: Engine) {
    let place = Place::new();
    let data = place.path("not-ours");
    fs::create_dir(&data).expect("a directory");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o555)).expect("its mode");
    if fs::write(data.join("probe"), "").is_ok() {
        eprintln!("skipped: root writes anywhere");
        return;
    }
    let said = place.with_data_dir(&data).spawn().refuses_to_start().await;
    assert!(said.contains(&*data.to_string_lossy()), "{said}");
}

pub async fn what_is_wrong_in_the_configuration_is_named(_: Engine) {
    let wrong = [
        ("worker.commit_interval", "0s", "worker.commit_interval"),
        ("worker.commit_intervall", "1s", "commit_intervall"),
        ("worker.workers", "many", "workers"),
        ("plugin.memory_bytes_max", "1KiB", "plugin.memory_bytes_max"),
        ("log.partitions", "0", "log.partitions"),
        ("log.partitions", "1000000", "partitions"),
        ("ingest.json_depth_max", "100000", "json_depth_max"),
        ("logging.filter", "courtside=shouting", "logging.filter"),
    ];
    for (path, value, named) in wrong {
        let place = Place::new().set(path, value);
        let said = place.spawn().refuses_to_start().await;
        assert!(said.contains(named), "{path}={value}: {said}");
    }
    let place = Place::new().configured("[worker]\nworkers = -1\n");
    let said = place.spawn().refuses_to_start().await;
    assert!(said.contains("config-invalid"), "{said}");
    assert!(said.contains("workers"), "{said}");
    assert!(said.contains("courtside.toml"), "{said}");
}

pub async fn topics_that_are_not_as_configured_are_named(engine: Engine) {
    let place = Place::new().on(engine).configured(
        "[pipelines.scores]\ninput = \"a\"\noutput = \"b\"\nkey = \"/game_id\"\npartitions = 2\n",
    );
    place.start().await.stop().await;
    let place = place.configured(
        "[pipelines.scores]\ninput = \"a\"\noutput = \"b\"\nkey = \"/game_id\"\npartitions = 3\n",
    );
    let said = place.spawn().refuses_to_start().await;
    assert!(said.contains("topic-mismatch"), "{said}");
    for part in [&*place.topic("a"), "2", "3"] {
        assert!(said.contains(part), "{said}");
    }
}

pub async fn the_configuration_that_is_printed_can_be_read(_: Engine) {
    let place = Place::new()
        .configured("[pipelines.other]\ninput = \"a\"\noutput = \"b\"\nkey = \"/id\"\n")
        .set("worker.commit_interval", "50ms")
        .set("topics.retention_bytes", "5GiB");
    let dump = |place: &Place| {
        let dumped = output(place.command().arg("--dump-config"));
        assert!(dumped.status.success(), "{dumped:?}");
        String::from_utf8(dumped.stdout).expect("text")
    };
    let printed = dump(&place);
    for part in ["commit_interval = \"50ms\"", "[pipelines.other]"] {
        assert!(printed.contains(part), "{printed}");
    }
    let file = place.path("printed.toml");
    fs::write(&file, &printed).expect("a configuration file");
    let mut again = courtside("serve");
    again.arg("--dump-config").arg("--config").arg(&file);
    let again = output(&mut again);
    assert!(again.status.success(), "{again:?}");
    assert_eq!(String::from_utf8_lossy(&again.stdout), printed);
}

/// The variables of the other commands do not concern the host.
pub async fn the_environment_may_say_where_a_host_is(_: Engine) {
    let place = Place::new().configured("[worker]\nworkers = 3\n");
    let mut command = courtside("serve");
    command
        .env("COURTSIDE_URL", "http://127.0.0.1:8080")
        .env("COURTSIDE_CONFIG", place.path("courtside.toml"))
        .env("COURTSIDE_WORKER__COMMIT_INTERVAL", "70ms")
        .arg("--dump-config");
    let dumped = output(&mut command);
    assert!(dumped.status.success(), "{dumped:?}");
    let printed = String::from_utf8_lossy(&dumped.stdout);
    assert!(printed.contains("workers = 3"), "{printed}");
    assert!(printed.contains("commit_interval = \"70ms\""), "{printed}");
}

/// Starts a host that hangs where it reads its tokens: nobody writes to the pipe
/// that they come from. The host hangs as long as the caller keeps the file.
async fn hanging(place: &Place, pipe: &Path) -> (Host, fs::File) {
    let host = place.spawn();
    let (opened, is_open) = mpsc::channel();
    let path = pipe.to_owned();
    // The pipe opens for writing once the host has opened it for reading.
    thread::spawn(move || opened.send(fs::OpenOptions::new().write(true).open(path)));
    let writer = until("the host to read its tokens", || async {
        is_open.try_recv().map_err(|_| host.log())
    });
    let writer = writer.await.expect("a pipe");
    (host, writer)
}

/// A host stops in time whatever hangs, even a thread of the runtime.
pub async fn a_start_that_hangs_ends_all_the_same(_: Engine) {
    let place = Place::new()
        .set("worker.drain_deadline", "2s")
        .set("http.drain_timeout", "1s");
    let pipe = place.path("tokens.toml");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    let place = place.set("access.tokens_file", &pipe.display().to_string());

    // The host ends within the drain deadline and 10 s more.
    let (mut host, writer) = hanging(&place, &pipe).await;
    host.terminate();
    let within = Duration::from_secs(2 + 10);
    let began = Instant::now();
    let status = host.ended().await;
    assert!(began.elapsed() < within + Duration::from_secs(2));
    assert_eq!(status.code(), Some(3), "{}", host.log());
    let said = host.log();
    assert!(said.contains("stop-overdue"), "{said}");
    assert!(
        said.contains("files of tokens and certificates ("),
        "{said}"
    );
    drop(writer);

    // A second signal ends the host without that wait.
    let (mut host, _writer) = hanging(&place, &pipe).await;
    until("a host that is told again to end", || {
        let runs = host.is_running();
        if runs {
            host.terminate();
        }
        async move { (!runs).then_some(()).ok_or_else(|| "it runs".to_owned()) }
    })
    .await;
    let said = host.log();
    assert!(said.contains("SIGTERM while it stopped"), "{said}");
    assert_eq!(host.ended().await.code(), Some(3), "{said}");
}

pub async fn health_is_an_exit_status(engine: Engine) {
    let place = Place::new().on(engine);
    let host = place.start().await;
    let ask = |arguments: &[&str]| {
        let url = host.url();
        output(courtside("health").args(["--url", &url]).args(arguments))
            .status
            .success()
    };
    assert!(ask(&[]));
    assert!(!ask(&["--ready"]), "it has no plugin");
    place.put("scores/default", &built::plugin("nba-scoring"));
    host.is_ready().await;
    assert!(ask(&["--ready"]));
    let url = host.url();
    // Root certificates that are in the environment are no reason to refuse a probe.
    let mut probe = courtside("health");
    probe.args(["--insecure", "--url", &url]);
    let probed = output(probe.env("COURTSIDE_CACERT", "/nowhere/root.crt"));
    assert!(probed.status.success(), "{probed:?}");
    host.stop().await;
    let gone = output(courtside("health").args(["--url", &url]));
    assert!(!gone.status.success());
}
