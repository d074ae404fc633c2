//! Scaling from one host to three under load, and back.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use courtside_log::partitioner::Method;
use serde_json::Value;
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    brokers::Brokers,
    fleet::{Fleet, PARTITIONS},
    judge::judge,
    load::{Load, Pace},
};

/// Time for which the test watches each number of hosts.
const LOOK: Duration = Duration::from_secs(8);

/// No event is lost or doubled. The test prints the pauses of each partition, as
/// a reader sees them.
pub async fn hosts_come_and_go_under_load(brokers: Arc<Brokers>) {
    let addresses = brokers.cluster().brokers();
    let mut fleet = Fleet::new("scale", &[addresses; 3]);
    fleet.members[0].start().await;
    fleet.members[0].is_ready().await;
    let pace = Pace {
        games: 48,
        pause: Duration::from_millis(150),
    };
    // The host that stays takes the events, and shows the outputs.
    let url = fleet.members[0].place.url();
    let load = Load::start(vec![url.clone()], pace, 2);
    load.goes_on(500).await;
    let watch = Watch::start(&url).await;
    watch.look("one host, nothing happens").await;
    for number in 1..=2 {
        fleet.members[number].spawn();
        fleet.members[number].listens().await;
        watch.look(&format!("host {} joined", number + 1)).await;
    }
    watch.look("three hosts, nothing happens").await;
    for number in [2, 1] {
        fleet.members[number].stop().await;
        watch.look(&format!("host {} left", number + 1)).await;
    }
    let (names, posted, boards) = load.end(fleet).await;
    println!("scale: {}", judge(&brokers, &names, &posted, &boards));
}

/// Hosts are restarted one after another under load, so that the group moves on
/// again and again while the others commit. An owner that stays commits with the
/// generation of the moment: none of its commits is fenced, and a commit that was
/// refused for its generation is tried again. `COURTSIDE_TEST_ROLLS` gives the
/// rounds, 2 by default.
pub async fn rolling_restarts_fence_no_owner(brokers: Arc<Brokers>) {
    let rounds = crate::number_from("COURTSIDE_TEST_ROLLS").unwrap_or(2);
    let mut fleet = Fleet::start("rolling", &brokers).await;
    let load = Load::start(fleet.urls(), Pace::default(), 3);
    load.goes_on(200).await;
    let mut failed = BTreeMap::<String, u64>::new();
    let mut slowest = Duration::ZERO;
    for round in 1..=rounds {
        for number in 0..fleet.members.len() {
            let member = &mut fleet.members[number];
            add(&mut failed, member.commits_failed().await);
            let (status, log) = member.end().await;
            assert!(status.success(), "{status}: {log}");
            assert!(!log.contains("commit fenced"), "{log}");
            member.start().await;
            let since = Instant::now();
            member.is_ready().await;
            slowest = slowest.max(since.elapsed());
            load.goes_on(100).await;
        }
        println!("rolling: round {round}, commits that failed: {failed:?}");
    }
    for member in &fleet.members {
        add(&mut failed, member.commits_failed().await);
    }
    let (names, posted, boards) = load.end(fleet).await;
    let verdict = judge(&brokers, &names, &posted, &boards);
    println!("rolling: {rounds} rounds, ready within {slowest:?}, failed {failed:?}: {verdict}");
    let fenced = failed.get("fenced").copied().unwrap_or_default();
    assert_eq!(fenced, 0, "{failed:?}");
}

fn add(sum: &mut BTreeMap<String, u64>, more: BTreeMap<String, u64>) {
    for (code, count) in more {
        *sum.entry(code).or_default() += count;
    }
}

/// A reader of all outputs.
struct Watch {
    seen: Arc<Mutex<HashMap<u32, Seen>>>,
    reader: JoinHandle<()>,
}

/// The outputs of one partition.
#[derive(Clone, Copy)]
struct Seen {
    last: Instant,
    gap: Duration,
    outputs: usize,
}

impl Watch {
    async fn start(url: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build();
        let request = http.expect("an http client").get(format!("{url}/events"));
        let mut stream = request.send().await.expect("a stream");
        let seen = Arc::<Mutex<HashMap<u32, Seen>>>::default();
        let reader = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                let mut text = Vec::new();
                while let Some(piece) = stream.chunk().await.expect("more of the stream") {
                    text.extend_from_slice(&piece);
                    while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = text.drain(..=end).collect();
                        let line = String::from_utf8(line).expect("utf-8");
                        if let Some(data) = line.strip_prefix("data:") {
                            note(&mut seen.lock().unwrap(), data);
                        }
                    }
                }
            }
        });
        Self { seen, reader }
    }

    /// Prints the longest time without an output of each partition since the last
    /// look.
    async fn look(&self, what: &str) {
        sleep(LOOK).await;
        let mut seen = self.seen.lock().unwrap();
        let now = Instant::now();
        let mut gaps: Vec<_> = seen
            .iter_mut()
            .map(|(partition, seen)| {
                let gap = seen.gap.max(now - seen.last).as_millis();
                let outputs = std::mem::take(&mut seen.outputs);
                seen.gap = Duration::ZERO;
                (*partition, gap, outputs)
            })
            .collect();
        gaps.sort_unstable();
        assert_eq!(gaps.len(), PARTITIONS as usize, "{what}: {gaps:?}");
        let gaps = gaps
            .iter()
            .map(|(partition, gap, outputs)| format!(" {partition}: {gap} ms of {outputs}"))
            .collect::<String>();
        println!("scale: {what}; longest pause, by partition, and outputs:{gaps}");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn note(seen: &mut HashMap<u32, Seen>, data: &str) {
    let output: Value = serde_json::from_str(data).expect("an output");
    let game = output["game_id"].as_str().expect("a game");
    let partition = Method::Murmur2.partition(game.as_bytes(), PARTITIONS).0;
    let now = Instant::now();
    let seen = seen.entry(partition).or_insert(Seen {
        last: now,
        gap: Duration::ZERO,
        outputs: 0,
    });
    seen.gap = seen.gap.max(now - seen.last);
    seen.last = now;
    seen.outputs += 1;
}
