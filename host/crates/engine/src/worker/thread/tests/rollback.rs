//! A rollback by workers, on a log: with restarts in its midst, and with events that
//! come meanwhile. The test is called for each engine.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use courtside_log::{
    RecordLog,
    conformance::{Subject, compacted, deleted, read_all, wait},
};
use courtside_process::shutdown::End;
use courtside_types::{
    ATTEMPT_HEADER, Digest, NewRecord, Offset, PartitionId, SOURCE_HEADER, TopicPartition,
    slot_name::SlotName,
};

use crate::{
    pipeline::{Output, Pipeline},
    worker::status::PartitionState,
    worker::{
        envelope::Envelope,
        instances::Active,
        status::PipelineStatus,
        takeover::{
            Directive,
            history::{Kind, TakeoverRecord},
            rows::is_reserved,
        },
        tests::{
            pipeline,
            rollback::{Folding, fold},
        },
        thread::{Order, Worker},
    },
};

const PARTITIONS: u32 = 3;
const KEYS: u64 = 7;
/// Long enough to mean that a test hangs, not that it is slow.
const HANGS_AFTER: Duration = Duration::from_secs(120);

struct Host<'a> {
    log: &'a Arc<dyn RecordLog>,
    pipeline: Arc<Pipeline>,
    status: Arc<PipelineStatus>,
    workers: Vec<Worker>,
}

impl<'a> Host<'a> {
    fn start(log: &'a Arc<dyn RecordLog>, pipeline: &Arc<Pipeline>) -> Self {
        let status = Arc::default();
        let workers = (0..pipeline.settings.workers)
            .map(|number| Worker::start(log, pipeline, &status, number).unwrap())
            .collect();
        Self {
            log,
            pipeline: Arc::clone(pipeline),
            status,
            workers,
        }
    }

    fn order<T>(&self, order: impl Fn(crossbeam_channel::Sender<T>) -> Order) -> Vec<T> {
        let orders = self.workers.iter().map(|worker| {
            let since = Instant::now();
            loop {
                let (done, answer) = crossbeam_channel::bounded(1);
                assert!(worker.orders().give(order(done)));
                // An order without an answer is given again.
                if let Ok(answer) = answer.recv_timeout(HANGS_AFTER) {
                    return answer;
                }
                assert!(since.elapsed() < HANGS_AFTER, "no answer");
            }
        });
        orders.collect()
    }

    fn activate(&self, name: &str) {
        let slot = SlotName::Default;
        self.order(|done| Order::Activate {
            slot: slot.clone(),
            active: Some(Active::new(slot.clone(), Folding::new(name))),
            done,
        });
    }

    fn stop(self) {
        for worker in &self.workers {
            assert!(worker.orders().give(Order::Stop(Instant::now())));
        }
        for worker in self.workers {
            assert_eq!(
                worker.end(Instant::now() + Duration::from_secs(60)),
                End::Clean
            );
        }
    }

    fn committed(&self) -> BTreeMap<PartitionId, Offset> {
        let status = self
            .log
            .group_status(&self.pipeline.group, &self.pipeline.input);
        status.unwrap().committed
    }

    fn wait_until_done(&self) {
        let since = Instant::now();
        loop {
            let committed = self.committed();
            let ends = self.log.bounds(&self.pipeline.input).unwrap();
            let all = ends.iter().zip(0..).all(|(bounds, partition)| {
                committed.get(&PartitionId(partition)) == Some(&bounds.end)
            });
            let states = self.status.all();
            let running = states.values();
            let running = running.filter(|status| status.state == PartitionState::Running);
            if all && running.count() == PARTITIONS as usize {
                return;
            }
            assert!(since.elapsed() < HANGS_AFTER, "{committed:?} {states:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn append(log: &Arc<dyn RecordLog>, pipeline: &Pipeline, count: u64) {
    let records = (0..count).flat_map(|number| {
        (0..PARTITIONS).map(move |partition| {
            let record = NewRecord {
                timestamp_ms: 1,
                key: Some(format!("k{}", number % KEYS).into()),
                headers: Vec::new(),
                value: Some("x".into()),
            };
            (PartitionId(partition), record)
        })
    });
    for done in wait(log.append(&pipeline.input, records.collect()).unwrap()) {
        done.unwrap();
    }
}

pub(crate) fn a_rollback_goes_on_over_restarts(subject: &mut impl Subject) {
    let log = subject.log();
    let pipeline = {
        let mut pipeline = (*pipeline(4, 100)).clone();
        pipeline.group = subject.name("g");
        pipeline.input = subject.name("in");
        pipeline.partitions = PARTITIONS;
        pipeline.output = Output {
            topic: subject.name("out"),
            partitions: 1,
        };
        pipeline.dead_letter = subject.name("g.dead-letter");
        pipeline.plugins = Some(TopicPartition {
            topic: subject.name("g.plugins"),
            partition: PartitionId(0),
        });
        pipeline.settings.workers = 2;
        pipeline.settings.commit_interval = Duration::from_millis(5);
        // The limits are low, so that states come back in several commits, and events
        // in several polls.
        pipeline.settings.commit_bytes_max = 300;
        pipeline.settings.poll_bytes_max = 2000;
        pipeline.record_bytes_max = log.record_bytes_max();
        Arc::new(pipeline)
    };
    let plugins = pipeline.plugins.clone().unwrap().topic;
    log.ensure_topics(&[
        deleted(&pipeline.input, PARTITIONS),
        deleted(&pipeline.output.topic, 1),
        deleted(&pipeline.dead_letter, PARTITIONS),
        compacted(&plugins, 1),
    ])
    .unwrap();

    let host = Host::start(&log, &pipeline);
    host.activate("good");
    append(&log, &pipeline, 50);
    host.wait_until_done();
    host.activate("bad");
    append(&log, &pipeline, 150);
    host.wait_until_done();
    let at = host.committed();
    let directive = Directive {
        id: 1,
        slot: SlotName::Default,
        bad: Digest::of(b"bad"),
        to: Some(Digest::of(b"good")),
        at: 0,
    };
    let roll_back = |host: &Host| {
        host.order(|done| Order::Rollback {
            slot: SlotName::Default,
            directive: directive.clone(),
            active: Some(Active::new(SlotName::Default, Folding::new("good"))),
            done,
        })
    };
    let redone: BTreeMap<_, _> = roll_back(&host).into_iter().flatten().collect();
    assert_eq!(redone.len(), PARTITIONS as usize, "{redone:?}");
    assert!(redone.values().all(|redone| redone.from == Offset(50)));
    assert!(redone.values().all(|redone| redone.until == Offset(200)));
    // The host stops in the midst of the rollback, several times.
    host.stop();
    for _ in 0..3 {
        let host = Host::start(&log, &pipeline);
        roll_back(&host);
        append(&log, &pipeline, 10);
        std::thread::sleep(Duration::from_millis(15));
        assert!(host.committed().iter().all(|(id, next)| at[id] <= *next));
        host.stop();
    }
    let host = Host::start(&log, &pipeline);
    roll_back(&host);
    append(&log, &pipeline, 10);
    host.wait_until_done();

    let checkpoints = log.checkpoints(&pipeline.group).unwrap();
    for partition in (0..PARTITIONS).map(PartitionId) {
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for record in log
            .read(&pipeline.input, partition, Offset(0), 1 << 20)
            .unwrap()
        {
            let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
            let state = expected.entry(key).or_default();
            *state = fold(*state, "good", "x", record.offset);
        }
        let states = checkpoints.scan(partition, None, 1000).unwrap();
        let states: BTreeMap<String, u64> = states
            .into_iter()
            .filter(|(key, _)| !is_reserved(key))
            .map(|(key, bytes)| {
                let envelope = Envelope::decode(&bytes).unwrap();
                let state: Bytes = envelope.saved.unwrap().state;
                let state = u64::from_le_bytes(state.as_ref().try_into().unwrap());
                (String::from_utf8(key.to_vec()).unwrap(), state)
            })
            .collect();
        assert_eq!(states, expected, "{partition}");
    }
    host.stop();

    // Each event has its output by the bad plugin, if any, and then one by the good
    // plugin.
    let mut published: BTreeMap<String, Vec<(Option<String>, String)>> = BTreeMap::new();
    let place = (&pipeline.output.topic, 0);
    for record in read_all(&*log, place.0, place.1, 0) {
        let header = |name: &str| {
            let value = record.header(name)?;
            Some(String::from_utf8(value.to_vec()).unwrap())
        };
        let value = String::from_utf8(record.value.clone().unwrap().to_vec()).unwrap();
        let name = value.split(':').next().unwrap().to_owned();
        let of = published.entry(header(SOURCE_HEADER).unwrap()).or_default();
        of.push((header(ATTEMPT_HEADER), name));
    }
    assert_eq!(published.len(), 240 * PARTITIONS as usize);
    for (source, of) in published {
        let offset: u64 = source.rsplit('/').next().unwrap().parse().unwrap();
        let of: Vec<_> = of
            .iter()
            .map(|(attempt, name)| (attempt.as_deref(), name.as_str()))
            .collect();
        if (50..200).contains(&offset) {
            assert_eq!(of, [(None, "bad"), (Some("2"), "good")], "{source}");
        } else {
            assert_eq!(of, [(None, "good")], "{source}");
        }
    }
    let takeovers = read_all(&*log, &plugins, 0, 0);
    let takeovers: Vec<_> = takeovers
        .iter()
        .map(|record| TakeoverRecord::parse(record.value.as_ref().unwrap()).unwrap())
        .filter(|takeover| takeover.kind == Kind::Rollback)
        .collect();
    assert_eq!(takeovers.len(), PARTITIONS as usize, "{takeovers:?}");
}
