//! Posts any body to `/score`: the host takes all of its events or none of them.
//! `nba-scoring` refuses a taken event only if its team does not play in the
//! game.

#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use courtside_engine::pipeline::identity::Identity;
use courtside_http::ingest::{Endpoint, Format, Ingest, IngestConfig, KeyRule, Schema};
use courtside_log::{
    Bounds, Checkpoints, GroupName, GroupSpec, GroupStatus, Health, LogError, Member, RecordLog,
    TopicSpec, partitioner::Partitioner,
};
use courtside_plugin::native::{Entity, Event};
use courtside_types::{NewRecord, Offset, PartitionId, Position, Record, Topic, TopicId};
use futures_util::future::BoxFuture;
use libfuzzer_sys::fuzz_target;
use nba_scoring::Game;
use parking_lot::Mutex;
use tokio::{runtime::Runtime, sync::watch};

const TOPIC: Topic = Topic::from_static("games");
const PARTITIONS: u32 = 8;
/// The most events of one body that the plugin processes.
const EVENTS_MAX: usize = 50;

/// A log that keeps the appended records until the target takes them.
#[derive(Default)]
struct Taken(Mutex<Vec<(PartitionId, NewRecord)>>);

fn nothing<T>() -> Result<T, LogError> {
    Err(LogError::Unavailable {
        reason: "only appends".to_owned(),
    })
}

impl RecordLog for Taken {
    fn record_bytes_max(&self) -> usize {
        1 << 20
    }

    fn append(
        &self,
        topic: &Topic,
        records: Vec<(PartitionId, NewRecord)>,
    ) -> Result<BoxFuture<'static, Vec<Result<Position, LogError>>>, LogError> {
        let places = records.iter().map(|(partition, _)| {
            Ok(Position {
                topic: topic.clone(),
                partition: *partition,
                offset: Offset(0),
            })
        });
        let places = places.collect();
        self.0.lock().extend(records);
        Ok(Box::pin(std::future::ready(places)))
    }

    fn ensure_topics(&self, _: &[TopicSpec]) -> Result<(), LogError> {
        nothing()
    }

    fn partitions(&self, _: &Topic) -> Result<u32, LogError> {
        Ok(PARTITIONS)
    }

    fn topic_ids(&self, _: &[Topic]) -> Result<Vec<Option<TopicId>>, LogError> {
        nothing()
    }

    fn bounds(&self, _: &Topic) -> Result<Vec<Bounds>, LogError> {
        nothing()
    }

    fn read(
        &self,
        _: &Topic,
        _: PartitionId,
        _: Offset,
        _: usize,
    ) -> Result<Vec<Record>, LogError> {
        nothing()
    }

    fn join(&self, _: GroupSpec) -> Result<Box<dyn Member>, LogError> {
        nothing()
    }

    fn checkpoints(&self, _: &str) -> Result<Arc<dyn Checkpoints>, LogError> {
        nothing()
    }

    fn group_status(&self, _: &str, _: &Topic) -> Result<GroupStatus, LogError> {
        nothing()
    }

    fn group_names(&self) -> Result<Vec<GroupName>, LogError> {
        nothing()
    }

    fn reads(&self, _: &str, _: &Topic) -> Result<bool, LogError> {
        nothing()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    fn health(&self) -> Health {
        Health::Ready
    }

    fn close(&self) {}
}

struct Rig {
    taken: Arc<Taken>,
    ingest: Arc<Ingest>,
    endpoint: Endpoint,
    runtime: Runtime,
}

static RIG: LazyLock<Rig> = LazyLock::new(|| {
    let taken = Arc::<Taken>::default();
    let endpoint = Endpoint {
        pipeline: "scores".into(),
        topic: TOPIC,
        partitions: PARTITIONS,
        partitioner: Arc::new(Partitioner::default()),
        key: KeyRule::new("/game_id").expect("a pointer"),
        schema: Some(Schema::Score),
        mark: Identity::default().mark(),
    };
    let log: Arc<dyn RecordLog> = Arc::clone(&taken) as _;
    Rig {
        ingest: Arc::new(Ingest::new(log, IngestConfig::default(), [endpoint.clone()])),
        taken,
        endpoint,
        runtime: tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime"),
    }
});

fuzz_target!(|input: (bool, &[u8])| {
    let (lines, body) = input;
    let format = if lines {
        "application/x-ndjson"
    } else {
        "application/json"
    };
    let format = Format::of(Some(format)).expect("a format");
    let rig = &*RIG;
    let body = Bytes::copy_from_slice(body);
    let answer = rig
        .runtime
        .block_on(rig.ingest.append_events(&rig.endpoint, format, None, body));
    let taken = std::mem::take(&mut *rig.taken.0.lock());
    let Ok(receipt) = answer else {
        assert!(taken.is_empty(), "refused, and appended");
        return;
    };
    assert_eq!(receipt.results.len(), taken.len());
    for (_, record) in taken.into_iter().take(EVENTS_MAX) {
        let key = String::from_utf8(record.key.expect("a key").to_vec()).expect("UTF-8");
        let mut game = Entity::<Game>::open(&key, None).expect("a game opens");
        let outcome = game.process(vec![Event {
            offset: 0,
            timestamp: 0,
            seed: 0,
            headers: Vec::new(),
            value: record.value.expect("a value").to_vec(),
        }]);
        // Only the game knows who plays, so the host cannot refuse such an
        // event.
        if let Some(refusal) = outcome.refused {
            assert!(refusal.reason.contains("does not play"), "{refusal:?}");
        }
    }
});
