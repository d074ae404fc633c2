//! Events that other producers put into the log, and the partitions of keys.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use courtside_log::{
    RecordLog as _,
    embedded::{Embedded, EmbeddedConfig},
    partitioner::Method,
};
use courtside_tests::{Cluster, Host, Place, built};
use courtside_types::{Header, NewRecord, Offset, PartitionId, Topic};
use serde_json::{Value, json};

/// Longer than any key that has an entity.
const LONG: usize = 5000;
/// The bytes of a record that brokers take compressed. No record of the host is
/// as large.
const LARGE: usize = 3 << 20;

fn point(game: &str, seq: u64) -> Value {
    json!({
        "game_id": game, "seq": seq, "type": "free_throw", "team": "BOS",
        "player": "Ada Park", "points": 1, "period": 1, "clock": "9:42",
    })
}

/// A record of another producer, and its expected fate.
struct Foreign {
    header: &'static str,
    key: Option<String>,
    value: Option<String>,
    /// The dead letter's code; `None` if the event is scored.
    code: Option<&'static str>,
}

fn foreign() -> Vec<Foreign> {
    let record = |header, key: Option<&str>, value: Option<String>, code| Foreign {
        header,
        key: key.map(str::to_owned),
        value,
        code,
    };
    let good = |game, seq| Some(point(game, seq).to_string());
    let refused = Some("event-refused");
    vec![
        record("1", Some("LAL-BOS"), good("LAL-BOS", 1), None),
        record("2", None, good("LAL-BOS", 2), Some("event-without-key")),
        record("3", Some(""), good("LAL-BOS", 3), Some("event-without-key")),
        record("4", Some("LAL-BOS"), None, Some("event-without-value")),
        record("5", Some("LAL-BOS"), Some("no json".into()), refused),
        record("6", Some("LAL-BOS"), Some(String::new()), refused),
        record("7", Some("LAL-BOS"), Some("[1]".into()), refused),
        record(
            "8",
            Some(&"k".repeat(LONG)),
            good("LAL-BOS", 4),
            Some("event-key-too-long"),
        ),
        // The key says which game it is, whatever the event says.
        record("9", Some("CHI-BOS"), good("LAL-BOS", 1), None),
        record("10", Some("Žalgiris 🏀"), good("LAL-BOS", 1), None),
        record("11", Some("LAL-BOS"), good("LAL-BOS", 2), None),
    ]
}

/// Checks what the host has made of the records, and goes on with a game where
/// another producer left it.
async fn scores(host: &Host) {
    host.has_processed_all().await;
    for (game, events) in [("LAL-BOS", 2), ("CHI-BOS", 1)] {
        let output = host.game(game).await.expect("an output");
        assert_eq!(output["game_id"], game);
        assert_eq!(output["events"], events, "{output}");
    }
    let name = "%C5%BDalgiris%20%F0%9F%8F%80";
    assert_eq!(host.game(name).await.expect("an output")["events"], 1);
    let at = host.accepts("/score", &point("LAL-BOS", 3)).await;
    let output = host.game_after("LAL-BOS", "scores", &at).await;
    assert_eq!(output.expect("an output")["events"], 3);
}

fn pipeline(prefix: &str, partitioner: &str) -> String {
    format!(
        "[pipelines.scores]\ninput = \"{prefix}in\"\noutput = \"{prefix}out\"\n\
         group = \"{prefix}group\"\nkey = \"/game_id\"\npartitioner = {partitioner}\n"
    )
}

fn prefix() -> String {
    format!("t{:08x}-", rand::random::<u32>())
}

/// Runs Kafka's own console producer.
fn produce(cluster: &Cluster, topic: &str, compression: &str, lines: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka/cluster");
    let mut producer = Command::new(script)
        .args(["tool", "org.apache.kafka.tools.ConsoleProducer"])
        .args(["--bootstrap-server", cluster.brokers(), "--topic", topic])
        .args(["--compression-codec", compression])
        .args(["--property", "parse.key=true"])
        .args(["--property", "parse.headers=true"])
        .args(["--property", "null.marker=NULL"])
        .args(["--producer-property", "max.request.size=16777216"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the console producer");
    let mut stdin = producer.stdin.take().expect("its standard input");
    stdin.write_all(lines.as_bytes()).expect("lines to produce");
    drop(stdin);
    let ended = producer.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && !said.contains("ERROR"), "{said}");
}

#[tokio::test]
async fn what_kafkas_console_producer_writes_is_scored_or_a_dead_letter() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let prefix = prefix();
    let place = Place::with_plugin(&built::plugin("nba-scoring"))
        .configured(&pipeline(&prefix, "\"murmur2\""))
        .set("log.partitions", "3")
        .set("kafka.brokers", cluster.brokers());
    let host = place.start_ready().await;
    let records = foreign();
    let or_null = |text: &Option<String>| text.clone().unwrap_or_else(|| "NULL".to_owned());
    let lines: String = records
        .iter()
        .map(|record| {
            let (key, value) = (or_null(&record.key), or_null(&record.value));
            format!("number:{}\t{key}\t{value}\n", record.header)
        })
        .collect();
    let topic = format!("{prefix}in");
    produce(cluster, &topic, "none", &lines);
    let large = format!("number:large\tLAL-BOS\t{}\n", "x".repeat(LARGE));
    produce(cluster, &topic, "gzip", &large);
    scores(&host).await;
    host.stop().await;

    let letters = cluster.consume(&format!("{prefix}group.dead-letter"));
    let sources = cluster.consume(&topic);
    let mut by_number = BTreeMap::new();
    for letter in &letters {
        let header = |name| {
            letter
                .header(name)
                .unwrap_or_else(|| panic!("{name} of {letter:?}"))
        };
        let source = header("courtside-source").to_owned();
        let event = sources
            .iter()
            .find(|event| source == format!("{topic}/{}/{}", event.partition, event.offset));
        let event = event.unwrap_or_else(|| panic!("{source} is no event"));
        let number = event.header("number").expect("the producer's header");
        assert_eq!(letter.key, event.key);
        assert!(!header("courtside-error-reason").is_empty());
        // A plugin that refuses an event is named; the host itself has no name.
        let code = header("courtside-error-code");
        if code == "event-refused" {
            assert!(header("courtside-plugin").starts_with("nba-scoring@"));
            assert_eq!(header("courtside-digest").len(), 64);
        }
        if number == "large" {
            let cut: usize = header("courtside-cut-bytes").parse().expect("a number");
            assert!(cut > LARGE);
            assert_eq!(letter.value, None);
        } else {
            assert_eq!(letter.value, event.value);
            assert_eq!(letter.header("number"), Some(number));
        }
        by_number.insert(number.to_owned(), code.to_owned());
    }
    let wanted = records
        .iter()
        .filter_map(|record| Some((record.header.to_owned(), record.code?.to_owned())));
    let wanted: BTreeMap<_, _> = wanted
        .chain([("large".to_owned(), "event-refused".to_owned())])
        .collect();
    assert_eq!(by_number, wanted);
    assert_eq!(letters.len(), wanted.len());
}

#[tokio::test]
async fn what_others_put_into_the_embedded_log_is_scored_or_a_dead_letter() {
    let place = Place::with_plugin(&built::plugin("nba-scoring"))
        .configured(&pipeline("", "\"murmur2\""))
        .set("log.partitions", "3");
    place.start_ready().await.stop().await;
    let records = foreign();
    let open = || {
        let log = Embedded::open(place.data_dir().join("log"), EmbeddedConfig::default());
        log.expect("a log without a host")
    };
    let log = open();
    let produced = records.iter().map(|record| {
        let key = record.key.clone().unwrap_or_default();
        let new = NewRecord {
            timestamp_ms: 1,
            key: record.key.clone().map(Into::into),
            headers: vec![Header::new("number", record.header)],
            value: record.value.clone().map(Into::into),
        };
        (Method::Murmur2.partition(key.as_bytes(), 3), new)
    });
    let appended = log.append(&Topic::from("in"), produced.collect());
    for result in appended.expect("a log that takes records").await {
        result.expect("an offset");
    }
    log.close();
    drop(log);
    let host = place.start_ready().await;
    scores(&host).await;
    host.stop().await;

    let log = open();
    let mut codes = BTreeMap::new();
    for partition in (0..3).map(PartitionId) {
        let read = log.read(&"group.dead-letter".into(), partition, Offset(0), 1 << 20);
        for letter in read.expect("dead letters") {
            let text = |name| {
                let value = letter.header(name).expect("a header");
                String::from_utf8(value.to_vec()).expect("text")
            };
            codes.insert(text("number"), text("courtside-error-code"));
        }
    }
    let wanted = records
        .iter()
        .filter_map(|record| Some((record.header.to_owned(), record.code?.to_owned())));
    assert_eq!(codes, wanted.collect::<BTreeMap<_, _>>());
}

/// If keys were in other partitions, games would start again from zero.
async fn keeps_its_layout(configure: impl Fn(Place) -> Place, prefix: &str) {
    let place = |partitioner: &str, place: Place| place.configured(&pipeline(prefix, partitioner));
    let first = place("\"fnv1a\"", configure(Place::new()));
    let host = first.start().await;
    let at = host.accepts("/score", &point("LAL-BOS", 1)).await;
    let (partition, _) = at.split_once(':').expect("a place");
    let wanted = Method::Fnv1a.partition(b"LAL-BOS", 8);
    assert_eq!(partition, wanted.to_string());
    host.stop().await;
    let other = place("\"crc32\"", first);
    let said = other.spawn().refuses_to_start().await;
    assert!(said.contains("pipeline-mismatch"), "{said}");
    assert!(said.contains("was fnv1a, and is crc32"), "{said}");
    let astray = place(r#"{ manual = { "A" = 8 }, fallback = "fnv1a" }"#, other);
    let said = astray.spawn().refuses_to_start().await;
    assert!(
        said.contains("config-invalid") && said.contains("0 to 7"),
        "{said}"
    );
    let grown = place(
        r#"{ manual = { "NYK-CHI" = 5 }, fallback = "fnv1a" }"#,
        astray,
    );
    let host = grown.start().await;
    let at = host.accepts("/score", &point("NYK-CHI", 1)).await;
    assert!(at.starts_with("5:"), "{at}");
    host.stop().await;
}

#[tokio::test]
async fn a_pipeline_keeps_its_layout_in_the_embedded_log() {
    keeps_its_layout(|place| place, "").await;
}

#[tokio::test]
async fn a_pipeline_keeps_its_layout_on_kafka() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let prefix = prefix();
    keeps_its_layout(
        |place| place.set("kafka.brokers", cluster.brokers()),
        &prefix,
    )
    .await;
}

/// Somebody adds partitions to a topic that a host reads.
#[tokio::test]
async fn a_topic_that_gets_more_partitions_stops_its_pipeline() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let prefix = prefix();
    let place = Place::with_plugin(&built::plugin("nba-scoring"))
        .configured(&pipeline(&prefix, "\"murmur2\""))
        .set("log.partitions", "2")
        .set("kafka.brokers", cluster.brokers());
    let host = place.start_ready().await;
    let topic = format!("{prefix}in");
    let alter = ["--alter", "--topic", &topic, "--partitions", "3"];
    let _ = cluster.tool(
        "org.apache.kafka.tools.TopicCommand",
        &[&["--bootstrap-server", cluster.brokers()], &alter[..]].concat(),
    );
    let said = host.refuses_to_start().await;
    assert!(said.contains("pipeline-mismatch"), "{said}");
    let said = place.spawn().refuses_to_start().await;
    assert!(said.contains("pipeline-mismatch"), "{said}");
    assert!(said.contains("was 2, and is 3"), "{said}");
}

/// A host with a grown map starts beside one that sends the key where it went
/// before.
#[tokio::test]
async fn a_map_that_another_host_grew_stops_a_host() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let prefix = prefix();
    let place = |partitioner: &str| {
        Place::with_plugin(&built::plugin("nba-scoring"))
            .configured(&pipeline(&prefix, partitioner))
            .set("kafka.brokers", cluster.brokers())
    };
    let first = place("\"fnv1a\"").start_ready().await;
    let grown = r#"{ manual = { "NYK-CHI" = 5 }, fallback = "fnv1a" }"#;
    let second = place(grown).start_ready().await;
    let said = first.refuses_to_start().await;
    assert!(said.contains("pipeline-mismatch"), "{said}");
    assert!(said.contains("NYK-CHI"), "{said}");
    second.stop().await;
}
