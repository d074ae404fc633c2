//! A host in this process, for the benchmarks to drive.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use courtside::{
    config::Config,
    host::{self, Host},
};
use courtside_http as http;
use courtside_log::{RecordLog, partitioner::Method};
use courtside_plugin_host::{
    Compiler,
    wasm::{Engine, EngineConfig},
};
use courtside_types::{Digest, NewRecord, PartitionId, Topic};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::load::Line;

pub const INPUT: Topic = Topic::from_static("NBA-Games");
pub const OUTPUT: Topic = Topic::from_static("NBA-Scores");

const SWAPPED_WITHIN: Duration = Duration::from_secs(60);
/// The looks are seldom enough that waiting for a swap does not slow it.
const LOOK: Duration = Duration::from_millis(2);
const APPEND_CHUNK: usize = 5_000;

pub struct Rig {
    pub host: Host,
    pub log: Arc<dyn RecordLog>,
    pub partitions: u32,
    config: Config,
    _dir: TempDir,
}

/// The plugin's file, as `make plugins` leaves it.
pub fn plugin() -> Vec<u8> {
    built("nba_scoring.wasm")
}

/// A plugin's file by its name.
pub fn built(name: &str) -> Vec<u8> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
        PathBuf::from,
    );
    let path = target.join("wasm32-wasip2/release").join(name);
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error} (make test-plugins makes it)", path.display()))
}

/// The plugin with other bytes, as another build of it would have.
pub fn variant(number: u32) -> Vec<u8> {
    let mut bytes = plugin();
    let name = format!("build-{number:08}");
    // A custom section: its id, its size, and a name with its length.
    bytes.push(0);
    bytes.push(u8::try_from(name.len() + 1).expect("a short name"));
    bytes.push(u8::try_from(name.len()).expect("a short name"));
    bytes.extend_from_slice(name.as_bytes());
    bytes
}

impl Rig {
    /// A host that waits for its plugin. `settings` are as `--set` takes them.
    pub fn new(native: bool, settings: &[(&str, &str)]) -> Self {
        // The data is on the disk that the build is on, not in memory.
        let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the data");
        let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let mut overrides = vec![
            ("data_dir".to_owned(), path("data")),
            ("plugin_dir".to_owned(), path("plugins.d")),
            ("http.listen".to_owned(), "127.0.0.1:0".to_owned()),
        ];
        for (name, value) in settings {
            overrides.push(((*name).to_owned(), (*value).to_owned()));
        }
        let config = Config::load(None, &overrides).expect("a valid configuration");
        let log = host::open_log(&config).expect("a record log");
        let compiler: Arc<dyn Compiler> = if native {
            Arc::new(crate::native::NativeCompiler)
        } else {
            // The engine keeps compiled plugins, as a host does.
            let cache_dir = Some(config.data_dir.join("compiled"));
            let engine = EngineConfig {
                cache_dir,
                ..EngineConfig::default()
            };
            Engine::new(engine).expect("a plugin engine")
        };
        let host = Host::start_with(
            &config,
            Arc::clone(&log),
            compiler,
            &CancellationToken::new(),
        )
        .expect("a host");
        let partitions = log.partitions(&INPUT).expect("the input topic");
        Self {
            host,
            log,
            partitions,
            config,
            _dir: dir,
        }
    }

    /// Appends events to the input topic.
    pub fn preload(&self, runtime: &Runtime, lines: &[Line]) {
        for chunk in lines.chunks(APPEND_CHUNK) {
            let records: Vec<(PartitionId, NewRecord)> = chunk
                .iter()
                .map(|line| {
                    let key = Bytes::copy_from_slice(line.game.as_bytes());
                    let record = NewRecord {
                        timestamp_ms: now_ms(),
                        headers: Vec::new(),
                        value: Some(line.json.clone()),
                        key: Some(key.clone()),
                    };
                    (Method::Murmur2.partition(&key, self.partitions), record)
                })
                .collect();
            let appended = self.log.append(&INPUT, records).expect("room in the queue");
            for result in runtime.block_on(appended) {
                result.expect("appended");
            }
        }
    }

    /// Drops the plugin in, and waits until it is in force.
    pub fn activate(&self) -> Instant {
        self.swap(&plugin());
        Instant::now()
    }

    /// Drops a plugin into the default slot, and waits until it is in force.
    pub fn swap(&self, bytes: &[u8]) {
        self.put("default.wasm", bytes);
    }

    /// Drops a plugin into one key's own slot, and waits until it is in force.
    pub fn swap_key(&self, key: &str, bytes: &[u8]) {
        std::fs::create_dir_all(self.config.plugin_dir.join("scores/keys")).expect("a directory");
        self.put(&format!("keys/{key}.wasm"), bytes);
    }

    fn put(&self, file: &str, bytes: &[u8]) {
        let slot = self.config.plugin_dir.join("scores");
        let draft = slot.join("draft");
        std::fs::write(&draft, bytes).expect("a plugin file");
        std::fs::rename(draft, slot.join(file)).expect("a plugin file");
        let digest = Digest::of(bytes).to_string();
        let operator = self.host.operator();
        let started = Instant::now();
        loop {
            let slots = operator.plugins().slots;
            let mut plugins = slots.iter().filter_map(|slot| slot.plugin.as_ref());
            if plugins.any(|plugin| plugin.digest == digest) {
                return;
            }
            assert!(started.elapsed() < SWAPPED_WITHIN, "not swapped: {slots:?}");
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until everything in the input is committed.
    pub fn drain(&self) {
        while self.lag() > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many events are not committed yet.
    pub fn lag(&self) -> u64 {
        let groups = self.host.operator().groups().groups;
        groups.iter().map(|group| group.lag).sum()
    }

    /// Starts the HTTP server.
    pub fn open(&self, runtime: &Runtime) -> (SocketAddr, CancellationToken) {
        let metrics = http::prometheus()
            .expect("a recorder")
            .build_recorder()
            .handle();
        let app = http::App {
            log: Arc::clone(&self.log),
            ingest: Arc::clone(&self.host.ingest),
            scoreboard: Arc::clone(&self.host.scoreboard),
            operator: self.host.operator(),
            metrics,
            config: self.config.http.clone(),
            access: http::Access::default(),
            tls: None,
            reload: tokio::sync::watch::channel(()).1,
        };
        let stop = CancellationToken::new();
        let listener = runtime
            .block_on(http::bind(self.config.http.listen))
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        runtime.spawn(http::serve(listener, app, stop.clone()));
        (address, stop)
    }

    /// The mean size of the newest outputs' values.
    pub fn output_bytes(&self) -> usize {
        let mut sizes = Vec::new();
        for (bounds, partition) in self.log.bounds(&OUTPUT).expect("bounds").iter().zip(0..) {
            let from = courtside_types::Offset(bounds.end.0 / 2);
            let records = self
                .log
                .read(&OUTPUT, PartitionId(partition), from, 1 << 22);
            sizes.extend(
                records
                    .expect("outputs")
                    .iter()
                    .filter_map(|record| record.value.as_ref().map(Bytes::len)),
            );
        }
        sizes.iter().sum::<usize>() / sizes.len().max(1)
    }

    pub fn stop(mut self) {
        let by = Instant::now() + Duration::from_secs(60);
        let ends = [self.host.drain(by), self.host.close(by)];
        assert!(
            ends.iter().all(|ends| !ends.panicked && !ends.overdue),
            "no clean end: {ends:?}"
        );
    }
}

pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// A figure of `/proc/self/status`, in MB.
pub fn memory_mb(figure: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kb| kb / 1024)
}
