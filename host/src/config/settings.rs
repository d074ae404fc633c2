//! Every setting with its unit, its minimum and what it is for. Values are checked
//! against this table, `--dump-config` prints it, and `docs/configuration.md` is made
//! from it.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Config, ConfigError};

/// The least a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Min {
    /// The setting is no quantity.
    None,
    Count(u64),
    Bytes(u64),
    Millis(u64),
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub path: &'static str,
    pub min: Min,
    pub about: &'static str,
}

const fn set(path: &'static str, min: Min, about: &'static str) -> Setting {
    Setting { path, min, about }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// All settings but those of `[pipelines]`, in the order of the configuration.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    set("data_dir", Min::None, "the record log, compiled plugins and copies of the plugins in force; one process has it at a time"),
    set("plugin_dir", Min::None, "plugins: <pipeline>/default.wasm and <pipeline>/keys/<key>.wasm"),
    set("logging.format", Min::None, "text or json"),
    set("logging.filter", Min::None, "what is logged: a level, or directives like \"info,courtside_engine::slots=debug\""),
    set("http.listen", Min::None, "address and port of the HTTP server"),
    set("http.connections_max", Min::Count(1), "connections at a time; others wait to be accepted"),
    set("http.subscribers_max", Min::Count(1), "streams of updates at a time, and three quarters of the connections at most; others are answered with 503"),
    set("http.idle_timeout", Min::Millis(100), "how long a connection may take to send a request's head, and so stay idle between two"),
    set("http.body_timeout", Min::Millis(10), "how long a request's body may take to arrive"),
    set("http.write_timeout", Min::Millis(100), "how long a client may take no data while the host sends to it"),
    set("http.drain_timeout", Min::Millis(0), "how long requests may take to end when the host stops"),
    set("http.heartbeat", Min::Millis(10), "the longest silence on a stream of events"),
    set("http.read_after_timeout", Min::Millis(1), "how long a read may wait for its write (?after=)"),
    set("http.operate_timeout", Min::Millis(10), "how long a request for a swap or a rollback may take; after that it is answered with operate-timeout"),
    set("http.cors_origins", Min::None, "origins whose pages may read this host from a browser, as [\"https://scores.example\"]; \"*\" is every page"),
    set("http.tls.certificate", Min::None, "PEM file of the host's certificate with its chain; with it the HTTP server speaks TLS, and no plain HTTP. It and the key are read again when they change"),
    set("http.tls.key", Min::None, "PEM file of the certificate's private key"),
    set("http.tls.handshake_timeout", Min::Millis(100), "how long a TLS handshake may take"),
    set("access.tokens_file", Min::None, "TOML file of bearer tokens, with an entry [[tokens]] for each, as `courtside token` prints it; read again when it changes. Without any token, reading and writing is open, and operating is for the host's own machine"),
    set("access.tokens", Min::None, "the same entries in the configuration itself: [{ name, scopes, sha256 }]"),
    set("access.anonymous", Min::None, "scopes that need no token where there are tokens: read, write"),
    set("ingest.body_bytes_max", Min::Bytes(KIB), "the largest body of a request"),
    set("ingest.event_bytes_max", Min::Bytes(128), "the largest event"),
    set("ingest.events_max", Min::Count(1), "the most events in one request"),
    set("ingest.json_depth_max", Min::Count(1), "the most arrays and objects within each other in an event; at most 100"),
    set("ingest.in_flight_bytes_max", Min::Bytes(KIB), "bodies held at a time, in all; beyond it requests are answered with 429; at least ingest.body_bytes_max"),
    set("ingest.append_timeout", Min::Millis(1000), "how long the log may take to confirm events"),
    set("log.partitions", Min::Count(1), "partitions of a topic that is created without saying how many"),
    set("log.record_bytes_max", Min::Bytes(KIB), "the largest record: key, headers, value and 64 bytes"),
    set("log.queue_bytes_max", Min::Bytes(64 * KIB), "appended records that are not durable yet; beyond it appends are answered with 429"),
    set("log.disk_free_min", Min::Bytes(0), "room kept free on the disk; with less, appends and commits are refused with disk-full"),
    set("log.cache_bytes", Min::Bytes(0), "memory for blocks read from disk"),
    set("log.journal_bytes_max", Min::Bytes(192 * MIB), "the most disk that the journal takes; writes wait rather than pass it; at least 137 MiB more than two of the largest records"),
    set("log.cleanup_interval", Min::Millis(10), "how often the log looks for old and superseded records"),
    set("log.compaction_dirty_ratio_min", Min::None, "a partition of a compacted topic is cleaned when this part of its bytes came since the last time; from 0 to 1"),
    set("log.compaction_dirty_bytes_min", Min::Bytes(0), "a partition of a compacted topic is cleaned only when at least this many bytes came since the last time"),
    set("log.compaction_keys_max", Min::Count(1), "distinct keys in one round of compaction, about 40 bytes of memory each"),
    set("log.group_retention", Min::Millis(0), "how long a group without members keeps back the retention of what it has not read"),
    set("kafka.brokers", Min::None, "HOST:PORT,… of a Kafka cluster that is the record log; where it is empty, the log is kept in data_dir, and where it is not, [log] has these settings for both: partitions, record_bytes_max, queue_bytes_max"),
    set("kafka.instance", Min::None, "this host's name for the brokers, the same after a restart and no other host's; where it is empty, one is made up and kept in data_dir"),
    set("kafka.assignor", Min::None, "how partitions are shared out among workers: cooperative-sticky, range, roundrobin, or consumer (the brokers do it, by the protocol of Kafka 4)"),
    set("kafka.static_membership", Min::None, "whether workers have fixed places in their group (group.instance.id): a worker that is back before its session ends has its partitions at once, after a crash too"),
    set("kafka.leave_at_stop", Min::None, "whether workers with fixed places give them up when the host is stopped; false keeps their partitions for them, and has these wait for the session to end where the host does not come back"),
    set("kafka.replication_factor", Min::Count(0), "replicas of topics that are created, and what is asked of those that exist; 0 leaves it to the brokers"),
    set("kafka.min_insync_replicas", Min::Count(0), "min.insync.replicas of topics that are created, and what is asked of those that exist; 0 leaves it to the brokers"),
    set("kafka.session_timeout", Min::Millis(1000), "how long a host may be silent before its partitions go to others; at least three times kafka.heartbeat_interval, and over worker.drain_deadline; with the assignor consumer, it is the brokers' group.consumer.session.timeout.ms"),
    set("kafka.heartbeat_interval", Min::Millis(50), "how often a worker sends a heartbeat, and so learns of a rebalance; with the assignor consumer, it is the brokers' group.consumer.heartbeat.interval.ms"),
    set("kafka.transaction_timeout", Min::Millis(1000), "how long the brokers keep a silent host's transaction open, and how long a commit may take"),
    set("kafka.commit_interval_min", Min::Millis(0), "the shortest time between two commits of a worker"),
    set("kafka.request_timeout", Min::Millis(100), "how long the host waits for the brokers' answers"),
    set("kafka.fetch_ahead_bytes_max", Min::Bytes(64 * KIB), "records fetched ahead of each partition"),
    set("kafka.properties_file", Min::None, "a file of librdkafka's properties, NAME=VALUE on each line, for those that are secret; [kafka.properties] goes over it"),
    set("topics.retention", Min::Millis(1000), "how long records of topics that are not compacted are kept"),
    set("topics.retention_bytes", Min::Bytes(0), "bytes kept of a partition that is not compacted; 0 sets no bound"),
    set("topics.tombstone_retention", Min::Millis(0), "how long a tombstone is kept in a compacted topic"),
    set("worker.workers", Min::Count(0), "worker threads of a pipeline; 0 is one for each core"),
    set("worker.commit_interval", Min::Millis(1), "how long processed events may wait for their commit under load; a worker whose poll comes back empty commits at once"),
    set("worker.commit_bytes_max", Min::Bytes(64 * KIB), "events and emissions held in memory before a commit"),
    set("worker.poll_bytes_max", Min::Bytes(4 * KIB), "records taken from the log at a time"),
    set("worker.call_events_max", Min::Count(1), "events of one entity in one call of its plugin"),
    set("worker.call_bytes_max", Min::Bytes(KIB), "bytes of events in one call; a larger event goes alone"),
    set("worker.entities_open_max", Min::Count(1), "open entities of a pipeline; beyond it the least recently used close"),
    set("worker.entity_idle", Min::Millis(100), "how long an entity stays open without an event"),
    set("worker.drain_deadline", Min::Millis(100), "how long a worker that must stop, or let go of partitions, may take for its last commit; over plugin.call_cpu_time_max, and on Kafka under kafka.session_timeout"),
    set("plugin.entities_per_instance", Min::Count(1), "entities that share an instance, and its fate in a trap; 1 gives each its own (about 64 KB more each, and 30,000 at most)"),
    set("plugin.memory_bytes_max", Min::Bytes(MIB), "linear memory of one instance"),
    set("plugin.call_cpu_time_max", Min::Millis(10), "CPU time of one call"),
    set("plugin.emitted_bytes_max", Min::Bytes(KIB), "bytes emitted by one call"),
    set("plugin.checkpoint_bytes_max", Min::Bytes(KIB), "state of one entity; with what the host adds it must fit into log.record_bytes_max"),
    set("plugin.plugin_bytes_max", Min::Bytes(KIB), "size of a plugin's file"),
    set("plugin.compile_memory_max", Min::Bytes(64 * MIB), "memory of the process that compiles a plugin, beside the host's own; cannot be set for a pipeline or a slot"),
    set("plugin.compile_time_max", Min::Millis(1000), "CPU time for compiling a plugin, in whole seconds; by the clock it may take ten times as long; cannot be set for a pipeline or a slot"),
    set("slots.poll_interval", Min::Millis(10), "how often the host reads the plugin directory, beside the file system's own events"),
    set("slots.settle", Min::Millis(0), "how long a file must lie still before it is taken"),
    set("slots.rehearsal_entities_max", Min::Count(0), "entities that a plugin is rehearsed with, at most"),
    set("slots.confirm_after", Min::Millis(0), "how long a swap can be taken back with `courtside plugins rollback`; the states from before the swap are kept as long"),
    set("scoreboard.memory_bytes_max", Min::Bytes(MIB), "outputs held in memory, all pipelines together; others are read from the log when asked for"),
    set("scoreboard.read_bytes_max", Min::Bytes(4 * KIB), "bytes read from an output partition at a time"),
    set("scoreboard.deleted_max", Min::Count(1), "deleted games remembered, for readers that come back"),
    set("scoreboard.interval_min", Min::Millis(0), "the shortest time between two looks at the log; at most 100 ms"),
    set("scoreboard.interval_max", Min::Millis(10), "the longest time between two looks at the log; at most 1 min"),
];

/// The largest number that TOML can hold.
const COUNT_MAX: u64 = i64::MAX as u64;

/// Checks every value against its bounds.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    let rows = SETTINGS.iter().map(|setting| (setting.path, *setting));
    check_values(config, rows).map_err(|(path, problem)| ConfigError::invalid(path, problem))
}

/// Checks the values of a section that is repeated at another path.
pub fn check_under<T: Serialize>(path: &str, section: &str, config: &T) -> Result<(), ConfigError> {
    let rows = SETTINGS.iter().filter_map(|setting| {
        let name = setting.path.strip_prefix(section)?.strip_prefix('.')?;
        Some((name, *setting))
    });
    check_values(config, rows)
        .map_err(|(name, problem)| ConfigError::invalid(format!("{path}.{name}"), problem))
}

/// A value outside its bounds is returned as its path and the problem. The values are
/// looked up as JSON, because TOML has no number over the maximum, and one such number
/// would hide all others.
fn check_values<'a, T: Serialize>(
    config: &T,
    rows: impl Iterator<Item = (&'a str, Setting)>,
) -> Result<(), (&'a str, String)> {
    let values = serde_json::to_value(config).map_err(|error| ("", error.to_string()))?;
    for (path, setting) in rows {
        let value = path
            .split('.')
            .try_fold(&values, |value, name| value.get(name));
        let Some(value) = value.filter(|value| !value.is_null()) else {
            continue;
        };
        if value.as_u64().is_some_and(|count| count > COUNT_MAX) {
            return Err((path, format!("{value} is over the maximum of {COUNT_MAX}")));
        }
        let is_under = match setting.min {
            Min::None => false,
            Min::Count(min) => value.as_u64().is_none_or(|count| count < min),
            Min::Bytes(min) => size(value).is_none_or(|size| size < min),
            Min::Millis(min) => millis(value).is_none_or(|millis| millis < u128::from(min)),
        };
        if is_under {
            let min = min_text(setting.min).unwrap_or_default();
            return Err((path, format!("{value} is under the minimum of {min}")));
        }
    }
    Ok(())
}

/// The whole configuration as TOML, each setting with what it is for.
#[must_use]
pub fn dump(config: &Config) -> String {
    let shown = Config {
        kafka: config.kafka.redacted(),
        ..config.clone()
    };
    let (values, defaults) = (values(&shown), values(&Config::default()));
    let mut text = String::new();
    let mut section = "";
    for setting in SETTINGS {
        let (head, name) = setting.path.rsplit_once('.').unwrap_or(("", setting.path));
        if head != section {
            section = head;
            let _ = write!(text, "\n[{section}]\n");
        }
        let (Some(value), Some(default)) = (
            lookup(&values, setting.path),
            lookup(&defaults, setting.path),
        ) else {
            continue;
        };
        let _ = writeln!(text, "# {}", setting.about);
        let _ = writeln!(text, "# {}", bounds(setting, default));
        let _ = writeln!(text, "{name} = {value}");
    }
    if !shown.kafka.properties.is_empty() {
        let properties = toml::Table::try_from(&shown.kafka.properties).unwrap_or_default();
        let _ = write!(text, "\n[kafka.properties]\n{properties}");
    }
    if let Some(pipelines) = values.get("pipelines").and_then(|value| value.as_table()) {
        let wrapped = toml::Table::from_iter([(
            "pipelines".to_owned(),
            toml::Value::Table(pipelines.clone()),
        )]);
        let _ = write!(text, "\n{wrapped}");
    }
    text
}

fn bounds(setting: &Setting, default: &toml::Value) -> String {
    match min_text(setting.min) {
        Some(min) => format!("default {default}, minimum {min}"),
        None => format!("default {default}"),
    }
}

fn min_text(min: Min) -> Option<String> {
    match min {
        Min::None => None,
        Min::Count(min) => Some(min.to_string()),
        Min::Bytes(min) => Some(bytes_text(min)),
        Min::Millis(min) => Some(time_text(min)),
    }
}

fn bytes_text(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).to_string()
}

fn time_text(millis: u64) -> String {
    if millis >= 1000 && millis.is_multiple_of(1000) {
        format!("{} s", millis / 1000)
    } else {
        format!("{millis} ms")
    }
}

fn values<T: Serialize>(config: &T) -> toml::Value {
    toml::Value::try_from(config).unwrap_or_else(|_| toml::Value::Table(toml::Table::new()))
}

fn lookup<'a>(values: &'a toml::Value, path: &str) -> Option<&'a toml::Value> {
    path.split('.')
        .try_fold(values, |value, name| value.get(name))
}

fn size(value: &serde_json::Value) -> Option<u64> {
    match value.as_str() {
        Some(text) => text
            .parse::<bytesize::ByteSize>()
            .ok()
            .map(|size| size.as_u64()),
        None => value.as_u64(),
    }
}

fn millis(value: &serde_json::Value) -> Option<u128> {
    humantime(value.as_str()?).map(|duration| duration.as_millis())
}

fn humantime(text: &str) -> Option<std::time::Duration> {
    #[derive(serde::Deserialize)]
    struct Wrapped(#[serde(with = "humantime_serde")] std::time::Duration);
    toml::Value::String(text.to_owned())
        .try_into::<Wrapped>()
        .ok()
        .map(|wrapped| wrapped.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    const MARK: &str = "<!-- settings -->\n";

    /// The table of `docs/configuration.md`.
    fn markdown() -> String {
        let defaults = values(&Config::default());
        let mut text = String::from(
            "| setting | default | minimum | what it is for |\n| --- | --- | --- | --- |\n",
        );
        for setting in SETTINGS {
            let default =
                lookup(&defaults, setting.path).map_or_else(String::new, ToString::to_string);
            let min = min_text(setting.min).unwrap_or_default();
            let _ = writeln!(
                text,
                "| `{}` | `{default}` | {min} | {} |",
                setting.path,
                setting.about.replace('|', "\\|"),
            );
        }
        text
    }

    /// With `COURTSIDE_TEST_WRITE=1` the test writes the table instead.
    #[test]
    fn the_docs_have_the_table() {
        let text = std::fs::read_to_string(DOCS).unwrap();
        let (prose, _) = text.split_once(MARK).unwrap();
        let made = format!("{prose}{MARK}\n{}", markdown());
        if std::env::var_os("COURTSIDE_TEST_WRITE").is_some() {
            std::fs::write(DOCS, made).unwrap();
        } else {
            assert_eq!(
                text, made,
                "COURTSIDE_TEST_WRITE=1 brings docs/configuration.md up to date"
            );
        }
    }

    /// Settings that exist and are not in the table.
    fn missing() -> Vec<String> {
        fn leaves(prefix: &str, value: &toml::Value, into: &mut Vec<String>) {
            match value {
                toml::Value::Table(table) => {
                    for (name, value) in table {
                        let path = if prefix.is_empty() {
                            name.clone()
                        } else {
                            format!("{prefix}.{name}")
                        };
                        leaves(&path, value, into);
                    }
                }
                _ => into.push(prefix.to_owned()),
            }
        }
        let mut paths = Vec::new();
        leaves("", &values(&Config::default()), &mut paths);
        paths.retain(|path| !SETTINGS.iter().any(|setting| setting.path == path));
        paths
    }

    #[test]
    fn the_settings_table_is_complete() {
        assert_eq!(missing(), Vec::<String>::new());
    }
}
