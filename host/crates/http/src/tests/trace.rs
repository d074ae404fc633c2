//! The routes below `/pipelines`, and their answers about one key.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{body::Body, http::Request};
use bytes::Bytes;
use courtside_engine::{
    pipeline::{self, Output, Pipeline, identity::Identity},
    replay::trace::EntityHistory,
    slots::{library::Library, store::PluginStore},
    worker::{
        envelope::{Envelope, Recent},
        status::{PartitionStatus, PipelineStatus},
    },
};
use courtside_log::{
    memory::MemoryCheckpoints,
    partitioner::{Method, Partitioner},
};
use courtside_plugin_host::Limits;
use courtside_types::{
    DIGEST_HEADER, Digest, Header, NewRecord, PLUGIN_HEADER, PartitionId, SOURCE_HEADER,
};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::host::{INPUT, OUTPUT, TestHost};
use crate::trace::SCANS_MAX;

const DEAD_LETTERS: &str = "courtside-scores.dead-letter";
const TAKEOVERS: &str = "courtside-scores.plugins";

pub(crate) fn pipeline() -> Pipeline {
    Pipeline {
        name: "scores".into(),
        group: "courtside-scores".into(),
        input: INPUT.into(),
        identity: Identity::default(),
        partitions: 3,
        output: Output {
            topic: OUTPUT.into(),
            partitions: 2,
        },
        outputs: BTreeMap::new(),
        dead_letter: DEAD_LETTERS.into(),
        plugins: None,
        host: "test".into(),
        settings: pipeline::WorkerSettings {
            workers: 1,
            commit_interval: Duration::ZERO,
            commit_bytes_max: 1 << 20,
            poll_bytes_max: 1 << 20,
            call_events_max: 256,
            call_bytes_max: 1 << 20,
            entities_per_instance: 1024,
            entities_open_max: 100,
            entity_idle: Duration::MAX,
            drain_deadline: Duration::ZERO,
            confirm_after: Duration::MAX,
        },
        limits: Limits {
            memory_bytes_max: 1 << 20,
            call_cpu_time_max: Duration::from_millis(1500),
            emitted_bytes_max: 2,
            checkpoint_bytes_max: 3,
            plugin_bytes_max: 4,
        },
        slot_limits: BTreeMap::new(),
        record_bytes_max: 1 << 20,
    }
}

/// A host whose pipeline `scores` can be asked, with the state that it keeps.
struct TracedHost {
    host: TestHost,
    dir: tempfile::TempDir,
    checkpoints: Arc<MemoryCheckpoints>,
    status: Arc<PipelineStatus>,
}

impl TracedHost {
    fn new(partitioner: Partitioner) -> Self {
        let host = TestHost::new();
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Arc::<MemoryCheckpoints>::default();
        let status = Arc::<PipelineStatus>::default();
        *host.operator.traced.lock() = Some(Arc::new(EntityHistory {
            pipeline: Arc::new(pipeline()),
            partitioner,
            checkpoints: Arc::clone(&checkpoints) as _,
            status: Arc::clone(&status),
            slots: Arc::default(),
            library: Arc::new(Library::new(
                PluginStore::open(dir.path()).unwrap(),
                Arc::clone(&host.log) as _,
                TAKEOVERS.into(),
            )),
        }));
        Self {
            host,
            dir,
            checkpoints,
            status,
        }
    }

    /// A host whose partitioner puts both keys of these tests into partition 1.
    fn manual() -> Self {
        let keys = ["LAL-BOS", "x/y"].map(|key| (key.to_owned(), 1));
        Self::new(Partitioner {
            manual: keys.into(),
            fallback: Method::Murmur2,
        })
    }

    fn event(&self, partition: u32, key: &str, value: &[u8]) {
        let record = NewRecord {
            timestamp_ms: 5,
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            headers: Vec::new(),
            value: Some(Bytes::copy_from_slice(value)),
        };
        self.host.log.put(INPUT, partition, record);
    }

    fn published(&self, topic: &str, key: &str, source: &str) {
        let record = NewRecord {
            timestamp_ms: 5,
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            headers: vec![
                Header::new(PLUGIN_HEADER, "p@1.0.0"),
                Header::new(DIGEST_HEADER, Digest::of(b"p").to_string()),
                Header::new(SOURCE_HEADER, source.to_owned()),
            ],
            value: None,
        };
        self.host.log.put(topic, 1, record);
    }

    async fn lines(&self, path: &str) -> Vec<Value> {
        let answer = self.host.get(path).await;
        assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap()
    }
}

#[tokio::test]
async fn events_are_those_of_the_key_with_all_their_bytes() {
    let traced = TracedHost::manual();
    traced.event(1, "LAL-BOS", b"{\"a\":1}");
    traced.event(1, "other", b"no");
    traced.event(1, "LAL-BOS", &[0xff, 0]);
    traced.event(2, "LAL-BOS", b"of another entity");
    traced.event(1, "x/y", b"path");
    let lines = traced.lines("/pipelines/scores/events/LAL-BOS").await;
    assert_eq!(
        lines[0],
        json!({"topic": INPUT, "partition": 1, "offset": 0, "timestamp_ms": 5, "key": "LAL-BOS",
            "headers": [], "value": "{\"a\":1}"})
    );
    assert_eq!(lines[1]["offset"], 2);
    assert_eq!(lines[1]["value"], json!({"hex": "ff00"}));
    assert_eq!(lines.len(), 2);
    let after = traced
        .lines("/pipelines/scores/events/LAL-BOS?after=1:0")
        .await;
    assert_eq!(after, lines[1..]);
    let elsewhere = traced
        .lines("/pipelines/scores/events/LAL-BOS?partition=2")
        .await;
    assert_eq!(elsewhere[0]["value"], "of another entity");
    assert_eq!(
        traced.lines("/pipelines/scores/events/x%2Fy").await.len(),
        1
    );
    assert_eq!(
        traced.lines("/pipelines/scores/events/none").await,
        [] as [Value; 0]
    );
}

#[tokio::test]
async fn where_any_partition_may_have_them_all_are_read() {
    let traced = TracedHost::new(Method::Random.into());
    for partition in [2, 0, 1] {
        traced.event(partition, "a", b"1");
    }
    let lines = traced.lines("/pipelines/scores/events/a").await;
    let partitions: Vec<_> = lines.iter().map(|line| line["partition"].clone()).collect();
    assert_eq!(partitions, [0, 1, 2]);
}

#[tokio::test]
async fn outputs_are_those_of_the_keys_events_under_whatever_key() {
    let traced = TracedHost::manual();
    traced.event(1, "LAL-BOS", b"1");
    traced.event(1, "other", b"2");
    traced.event(1, "LAL-BOS", b"3");
    traced.published(OUTPUT, "LAL-BOS", "NBA-Games/1/0");
    traced.published(OUTPUT, "other", "NBA-Games/1/1");
    traced.published(OUTPUT, "league", "NBA-Games/1/2");
    traced.published(OUTPUT, "LAL-BOS", "NBA-Games/2/0");
    traced.published(DEAD_LETTERS, "LAL-BOS", "NBA-Games/1/2");
    let lines = traced.lines("/pipelines/scores/outputs/LAL-BOS").await;
    let seen: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line["topic"].clone(),
                line["key"].clone(),
                line["source"].clone(),
            )
        })
        .collect();
    let expected = [
        (OUTPUT, "LAL-BOS", 0),
        (OUTPUT, "league", 2),
        (DEAD_LETTERS, "LAL-BOS", 2),
    ];
    let expected = expected.map(|(topic, key, source)| (json!(topic), json!(key), json!(source)));
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_checkpoint_comes_with_what_decides_on_the_processing() {
    let traced = TracedHost::manual();
    traced.event(1, "LAL-BOS", b"1");
    traced.host.log.commit(1, 1);
    let takeover = |slot: &str, partition: u32, seq: u32| NewRecord {
        timestamp_ms: 5,
        key: Some(format!("takeover/{slot}/{partition}/{seq}").into()),
        headers: Vec::new(),
        value: Some(
            json!({"slot": slot, "partition": partition, "seq": seq, "offset": 7,
                "digest": Digest::of(b"p"), "kind": "swap", "attempt": 1})
            .to_string()
            .into(),
        ),
    };
    for record in [
        takeover("default", 1, 2),
        takeover("keys/LAL-BOS", 1, 1),
        takeover("default", 1, 1),
        takeover("keys/other", 1, 1),
        takeover("default", 0, 1),
    ] {
        traced.host.log.put(TAKEOVERS, 0, record);
    }
    let envelope = Envelope {
        digest: Digest::of(b"p"),
        offset: courtside_types::Offset(0),
        recent: Recent::default(),
        redone: Vec::new(),
        halted: None,
        saved: Some(courtside_plugin_host::SavedState {
            format: "p/1".into(),
            state: Bytes::from_static(b"{}"),
        }),
    };
    traced.checkpoints.put(
        PartitionId(1),
        Bytes::from_static(b"LAL-BOS"),
        envelope.encode(),
    );
    let path = "/pipelines/scores/checkpoints/LAL-BOS";
    let elsewhere = traced.host.get(path).await.json();
    assert_eq!(elsewhere["partitions"][0]["held"], false);
    assert_eq!(elsewhere["partitions"][0]["checkpoint"], Value::Null);

    let here = PartitionStatus {
        worker: 0,
        state: courtside_engine::worker::status::PartitionState::Running,
        code: None,
        reason: None,
    };
    traced.status.set(PartitionId(1), here);
    let view = traced.host.get(path).await.json();
    assert_eq!(view["slot"], "default");
    assert_eq!(view["pipeline"]["limits"]["call_cpu_time_max_ms"], 1500);
    let at = &view["partitions"][0];
    assert_eq!((&at["partition"], &at["committed"]), (&json!(1), &json!(1)));
    assert_eq!(at["checkpoint"]["format"], "p/1");
    assert_eq!(at["checkpoint"]["state"], "{}");
    assert_eq!(at["checkpoint"]["stored"], hex::encode(envelope.encode()));
    let takeovers = at["takeovers"].as_array().unwrap();
    let takeovers: Vec<_> = takeovers
        .iter()
        .map(|one| (one["slot"].as_str().unwrap(), one["seq"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        takeovers,
        [("default", 1), ("default", 2), ("keys/LAL-BOS", 1)]
    );
}

#[tokio::test]
async fn a_plugin_comes_by_its_digest_as_long_as_it_is_kept() {
    let traced = TracedHost::manual();
    let digest = Digest::of(b"a plugin");
    let path = format!("/pipelines/scores/plugins/{digest}.wasm");
    let answer = traced.host.get(&path).await;
    answer.is_problem(404, "plugin-not-found");
    let store = PluginStore::open(traced.dir.path()).unwrap();
    store.keep(digest, b"a plugin").unwrap();
    let answer = traced.host.get(&path).await;
    assert_eq!(&*answer.body, b"a plugin");
    assert_eq!(answer.header("content-type"), Some("application/wasm"));
    for strange in ["active.json", "..%2Factive.json", "1234.wasm"] {
        let path = format!("/pipelines/scores/plugins/{strange}");
        traced
            .host
            .get(&path)
            .await
            .is_problem(404, "plugin-not-found");
    }
}

#[tokio::test]
async fn bad_questions_are_answered_as_such() {
    let traced = TracedHost::manual();
    for what in ["events", "outputs", "checkpoints"] {
        let ask = async |query: &str| {
            let path = format!("/pipelines/scores/{what}/a{query}");
            traced.host.get(&path).await
        };
        ask("?partition=x")
            .await
            .is_problem(400, "invalid-parameter");
        ask("?partition=3")
            .await
            .is_problem(400, "no-such-partition");
        ask("?limit=1").await.is_problem(400, "invalid-parameter");
        let path = format!("/pipelines/none/{what}/a");
        let answer = traced.host.get(&path).await;
        answer.is_problem(404, "pipeline-not-found");
    }
    for query in ["after=1", "background=1"] {
        let path = format!("/pipelines/scores/events/a?{query}");
        let answer = traced.host.get(&path).await;
        answer.is_problem(400, "invalid-parameter");
    }
}

#[tokio::test]
async fn a_few_read_the_log_through_and_others_wait() {
    let traced = TracedHost::manual();
    // The events fill more pages than the host reads ahead.
    for _ in 0..8 {
        traced.event(1, "LAL-BOS", &vec![b'x'; 600 << 10]);
    }
    let router = traced.host.router();
    let ask = async |query: &str| {
        let request = Request::get(format!("/pipelines/scores/events/LAL-BOS{query}"));
        let request = request.body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap()
    };
    let mut open = Vec::new();
    for _ in 0..SCANS_MAX {
        let answer = ask("").await;
        assert_eq!(answer.status(), 200);
        open.push(answer);
        // A background request takes no place while anybody else reads.
        assert_eq!(ask("?background=true").await.status(), 429);
    }
    let refused = ask("").await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    let room = async |query: &str| {
        for _ in 0..1_000 {
            let answer = ask(query).await;
            if answer.status() == 200 {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: room for another");
    };
    // A client that goes makes room for another.
    open.pop();
    open.push(room("").await);
    open.clear();
    open.push(room("?background=true").await);
    // One place is left, but not for a background request.
    assert_eq!(ask("?background=true").await.status(), 429);
    assert_eq!(ask("").await.status(), 200);
}

#[tokio::test]
async fn a_path_that_is_not_utf_8_is_answered_as_a_problem() {
    let traced = TracedHost::manual();
    for path in [
        "events/%ff",
        "outputs/%ff",
        "checkpoints/%ff",
        "plugins/%ff.wasm",
    ] {
        let answer = traced.host.get(&format!("/pipelines/scores/{path}")).await;
        answer.is_problem(400, "invalid-path");
    }
}
