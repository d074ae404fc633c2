//! Restoring checkpoints on assignment.

use std::time::{Duration, Instant};

use courtside::{config::Config, host};
use courtside_log::{Cleanup, GroupSpec, Polled, RecordLog, TopicSpec};
use courtside_types::{NewRecord, Offset, PartitionId, Topic};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::runtime::Runtime;

use super::{Cluster, PARTITIONS};

const GAMES: u64 = 1_000;
const UPDATES: u64 = 10_000_000;
const STATE_BYTES: usize = 500;
const CHUNK: u64 = 20_000;
const POLL: Duration = Duration::from_secs(1);
/// The brokers look every 15 s for logs to compact.
const LOOK: Duration = Duration::from_secs(16);
const LOOKS_MAX: usize = 30;

/// 10,000,000 updates of the checkpoints of 1,000 games, compacted by the
/// broker, restored by a member of the group.
pub fn restore() {
    let Some(cluster) = Cluster::up() else {
        return;
    };
    let runtime = Runtime::new().expect("a runtime");
    let dir = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let overrides = [
        (
            "data_dir".to_owned(),
            dir.path().to_string_lossy().into_owned(),
        ),
        ("kafka.brokers".to_owned(), cluster.brokers.clone()),
    ];
    let config = Config::load(None, &overrides).expect("a valid configuration");
    let log = host::open_log(&config).expect("a record log");
    let input: Topic = "restored".into();
    log.ensure_topics(&[TopicSpec {
        name: input.clone(),
        partitions: u32::try_from(PARTITIONS).ok(),
        cleanup: Cleanup::Delete {
            retention: None,
            retention_bytes: None,
        },
    }])
    .expect("a topic");
    // The first member makes the topic of the checkpoints.
    restore_once(&*log, &input, "nothing yet");
    let checkpoints: Topic = format!("{input}.checkpoints").into();
    write(&runtime, &*log, &checkpoints);
    restore_once(&*log, &input, "right after the last update");
    let mut before = usize::MAX;
    for _ in 0..LOOKS_MAX {
        std::thread::sleep(LOOK);
        let now = count(&*log, &checkpoints);
        if now == before {
            break;
        }
        before = now;
    }
    restore_once(
        &*log,
        &input,
        &format!("compacted, {before} records are left"),
    );
    log.close();
}

fn write(runtime: &Runtime, log: &dyn RecordLog, checkpoints: &Topic) {
    let mut random = StdRng::seed_from_u64(1);
    let states: Vec<String> = (0..GAMES)
        .map(|_| {
            let mut state = String::new();
            while state.len() < STATE_BYTES {
                let (player, points) = (random.random_range(0..500), random.random_range(0..60));
                state.push_str(&format!("\"player {player}\":{points},"));
            }
            state
        })
        .collect();
    let started = Instant::now();
    for first in (0..UPDATES).step_by(CHUNK as usize) {
        let records = (first..first + CHUNK).map(|update| {
            let game = update % GAMES;
            let state = &states[usize::try_from(game).expect("a game")];
            let record = NewRecord {
                timestamp_ms: crate::rig::now_ms(),
                key: Some(format!("2026-01-01-G{game:04}").into()),
                headers: Vec::new(),
                value: Some(format!("{{\"update\":{update},{state}").into()),
            };
            let partition = u32::try_from(game % PARTITIONS as u64).expect("a partition");
            (PartitionId(partition), record)
        });
        let appended = log.append(checkpoints, records.collect()).expect("room");
        for result in runtime.block_on(appended) {
            result.expect("appended");
        }
    }
    println!(
        "{UPDATES} updates of {GAMES} games, {STATE_BYTES} bytes each, written in {:.0} s",
        started.elapsed().as_secs_f64()
    );
}

/// Takes the time from joining until all partitions are assigned, and so restored.
fn restore_once(log: &dyn RecordLog, input: &Topic, when: &str) {
    let started = Instant::now();
    let mut member = log
        .join(GroupSpec {
            group: input.clone(),
            input: input.clone(),
            worker: 0,
            workers: 1,
            topics: Vec::new(),
            visits: false,
        })
        .expect("a member");
    let mut assigned = 0;
    while assigned < PARTITIONS as usize {
        if let Polled::Assigned(more) = member.poll(POLL, 1).expect("a poll") {
            assigned += more.len();
        }
    }
    println!(
        "{when}: {PARTITIONS} partitions assigned and restored in {:.2} s",
        started.elapsed().as_secs_f64()
    );
}

/// How many records the topic still has.
fn count(log: &dyn RecordLog, topic: &Topic) -> usize {
    let mut count = 0;
    for (bounds, partition) in log.bounds(topic).expect("bounds").iter().zip(0..) {
        let mut next = bounds.start;
        while next < bounds.end {
            let records = log.read(topic, PartitionId(partition), next, 1 << 20);
            let records = records.expect("records");
            let Some(last) = records.last() else {
                break;
            };
            next = Offset(last.offset.0 + 1);
            count += records.len();
        }
    }
    count
}
