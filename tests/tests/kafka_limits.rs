//! Topics whose brokers take less than a host writes: times out of bounds, records too
//! large. No event stops a partition; a cause that does stop one is reported, and
//! passes.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use courtside_log::{
    RecordLog as _,
    admin::{Admin as _, NewTopic, TopicChange},
    kafka::{Kafka, KafkaConfig, Limits},
};
use courtside_tests::{Cluster, Host, Place, built, until, until_within};
use courtside_types::{NewRecord, PartitionId};
use serde_json::{Value, json};

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap().as_millis()).unwrap()
}

fn point(game: &str, seq: u64) -> Value {
    json!({
        "game_id": game, "seq": seq, "type": "free_throw", "team": "BOS",
        "player": "Ada Park", "points": 1, "period": 1, "clock": "9:42",
    })
}

/// The topics of one test, and the client that changes them.
struct Scene {
    cluster: &'static Cluster,
    prefix: String,
    log: Arc<Kafka>,
}

impl Scene {
    fn new() -> Option<Self> {
        let cluster = Cluster::shared()?;
        let config = KafkaConfig {
            brokers: cluster.brokers().to_owned(),
            ..KafkaConfig::default()
        };
        let limits = Limits {
            partitions: 1,
            record_bytes_max: 1 << 20,
            queue_bytes_max: 1 << 20,
            tombstone_retention: Duration::from_secs(3600),
        };
        Some(Self {
            cluster,
            prefix: format!("t{:08x}-", rand::random::<u32>()),
            log: Kafka::beside(config, &limits).expect("brokers that answer"),
        })
    }

    fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn create(&self, name: &str, settings: &[(&str, &str)]) {
        let settings = settings.iter();
        let new = NewTopic {
            name: self.topic(name).into(),
            partitions: Some(1),
            settings: settings
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..NewTopic::default()
        };
        self.log.create_topic(&new).expect("a new topic");
    }

    fn set(&self, name: &str, setting: &str, value: &str) {
        let change = TopicChange {
            set: [(setting.to_owned(), value.to_owned())].into(),
            ..TopicChange::default()
        };
        let changed = self.log.alter_topic(&self.topic(name).into(), &change);
        changed.expect("a setting that is taken");
    }

    /// Puts events into the input as another producer would, with their times.
    async fn produce(&self, events: &[(u64, Value)]) {
        let records = events.iter().map(|(time_ms, event)| {
            let record = NewRecord {
                timestamp_ms: *time_ms,
                key: Some(event["game_id"].as_str().unwrap().to_owned().into()),
                headers: Vec::new(),
                value: Some(event.to_string().into()),
            };
            (PartitionId(0), record)
        });
        let appended = self.log.append(&self.topic("in").into(), records.collect());
        for result in appended.expect("a log that takes them").await {
            result.expect("an event that is taken");
        }
    }

    fn place(&self) -> Place {
        let prefix = &self.prefix;
        let pipeline = format!(
            "[pipelines.scores]\ninput = \"{prefix}in\"\noutput = \"{prefix}out\"\n\
             group = \"{prefix}group\"\nkey = \"/game_id\"\n"
        );
        Place::with_plugin(&built::plugin("nba-scoring"))
            .configured(&pipeline)
            .set("log.partitions", "1")
            .set("kafka.brokers", self.cluster.brokers())
    }

    /// The time of each record of a topic, with its event's own time where that is
    /// another.
    fn times(&self, name: &str) -> Vec<(u64, Option<u64>)> {
        let records = self.log.read(
            &self.topic(name).into(),
            PartitionId(0),
            courtside_types::Offset(0),
            1 << 20,
        );
        let records = records.expect("a topic that can be read");
        records
            .into_iter()
            .map(|record| {
                let header = record.header("courtside-event-time");
                let own = header.map(|text| str::from_utf8(text).unwrap().parse().unwrap());
                (record.timestamp_ms, own)
            })
            .collect()
    }
}

const ALL_TIMES: [(&str, &str); 3] = [
    ("max.message.bytes", "2000000"),
    ("message.timestamp.before.max.ms", "9223372036854775807"),
    ("message.timestamp.after.max.ms", "9223372036854775807"),
];

/// Bounds that an operator may have set on any topic, in every combination with the
/// times that events come with.
#[tokio::test]
async fn no_time_of_an_event_stops_its_partition() {
    let Some(scene) = Scene::new() else { return };
    scene.create("in", &ALL_TIMES);
    let day = DAY.to_string();
    let bounds = [
        ("cleanup.policy", "compact"),
        ("max.message.bytes", "2000000"),
        ("message.timestamp.before.max.ms", &day),
        ("message.timestamp.after.max.ms", "60000"),
    ];
    scene.create("out", &bounds);
    let letters = [&[("cleanup.policy", "delete")], &bounds[1..]].concat();
    scene.create("group.dead-letter", &letters);
    let place = scene.place();
    let host = place.start_ready().await;
    let now = now_ms();
    let absent = u64::MAX;
    let times = [
        now,
        now + 2 * HOUR,
        now * 1000,
        now - 30 * DAY,
        now + 10 * 60_000,
        1,
        absent,
    ];
    let events: Vec<_> = (1..)
        .zip(times)
        .map(|(seq, time)| (time, point("LAL-BOS", seq)))
        .collect();
    scene.produce(&events).await;
    let bad = times.map(|time| (time, json!({"game_id": "LAL-BOS", "seq": "no"})));
    scene.produce(&bad).await;
    host.has_processed_all().await;
    let output = host.game("LAL-BOS").await.expect("an output");
    assert_eq!(output["events"], times.len(), "{output}");
    host.stop().await;
    let later = now_ms();

    let is_now = |time: u64| (now..=later).contains(&time);
    let own = |time: u64| if time == absent { 0 } else { time };
    let outputs = scene.times("out");
    assert_eq!(outputs.len(), times.len());
    for (time, (output, told)) in times.into_iter().zip(outputs) {
        if told.is_none() {
            assert_eq!(output, time);
            assert!(time == now, "{time} is out of the topic's bounds");
        } else {
            assert_eq!(told, Some(own(time)));
            assert!(is_now(output), "{output} of {time}");
        }
    }
    let letters = scene.times("group.dead-letter");
    assert_eq!(letters.len(), times.len());
    for (time, (letter, told)) in times.into_iter().zip(letters) {
        assert_eq!(told, Some(own(time)));
        assert!(is_now(letter), "{letter} of {time}");
    }
}

/// Waits until the host says everywhere that a partition does not go on.
async fn says(host: &Host, state: &str, code: &str) {
    until_within(Duration::from_secs(90), "the partition's state", || async {
        let group = host.get("/group").await.json();
        let partition = &group["groups"][0]["partitions"][0];
        let ready = host.get("/readyz").await;
        let metrics = host.get("/metrics").await.body;
        let series = format!("partition=\"0\",state=\"{state}\",code=\"{code}\"");
        let is_told = partition["state"] == state
            && partition["code"] == code
            && ready.status == 503
            && ready.json()["reasons"][0]["code"] == code
            && metrics.contains(&series);
        if is_told {
            Ok(())
        } else {
            Err(format!("{partition} {}", ready.body))
        }
    })
    .await;
}

/// Waits until the partition has processed all there is.
async fn runs(host: &Host) {
    until("the partition to run", || async {
        let group = host.get("/group").await.json();
        let partition = &group["groups"][0]["partitions"][0];
        if partition["state"] == "running" && partition["lag"] == 0 {
            Ok(())
        } else {
            Err(partition.to_string())
        }
    })
    .await;
}

#[tokio::test]
async fn a_partition_whose_output_is_gone_is_told_and_goes_on() {
    let Some(scene) = Scene::new() else { return };
    let place = scene.place();
    let host = place.start_ready().await;
    let at = host.accepts("/score", &point("LAL-BOS", 1)).await;
    host.game_after("LAL-BOS", "scores", &at).await;
    let output = scene.topic("out").into();
    scene.log.delete_topic(&output).expect("a topic to delete");
    host.accepts("/score", &point("LAL-BOS", 2)).await;
    says(&host, "stalled", "topic-missing").await;
    scene.create("out", &[("cleanup.policy", "compact")]);
    host.is_ready().await;
    runs(&host).await;
    assert_eq!(scene.times("out").len(), 1);
    host.stop().await;
}

#[tokio::test]
async fn a_partition_goes_on_when_its_output_takes_its_records_again() {
    let Some(scene) = Scene::new() else { return };
    let place = scene.place();
    let host = place.start_ready().await;
    let at = host.accepts("/score", &point("LAL-BOS", 1)).await;
    host.game_after("LAL-BOS", "scores", &at).await;
    for (limited, seq) in [("out", 2), ("group.checkpoints", 3)] {
        scene.set(limited, "max.message.bytes", "100");
        let at = host.accepts("/score", &point("LAL-BOS", seq)).await;
        says(&host, "stopped", "log-invalid").await;
        scene.set(limited, "max.message.bytes", "2000000");
        host.is_ready().await;
        host.game_after("LAL-BOS", "scores", &at).await;
        runs(&host).await;
    }
    let output = host.game("LAL-BOS").await.expect("an output");
    assert_eq!(output["events"], 3, "{output}");
    host.stop().await;
}
