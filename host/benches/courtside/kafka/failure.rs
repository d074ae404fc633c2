//! The cost of a member's end and of a member's coming: real hosts, one killed, one
//! joining and leaving, under a steady load.
//!
//! A game's outputs have the partition number of its events, so a pause of an
//! input partition is a pause of that output partition.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use courtside::{config::Config, host};
use courtside_log::RecordLog;
use courtside_types::{PartitionId, Topic};
use rdkafka::{
    Message as _,
    producer::{BaseRecord, Producer as _, ThreadedProducer},
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Cluster, GROUP, PARTITIONS};
use crate::{
    load,
    rig::{INPUT, plugin},
};

const EVENTS_PER_SECOND: u64 = 2_000;
const GAMES: u64 = 10_000;
const EVENTS_EACH: usize = 100;
const WORKERS: usize = 2;
/// How long the outputs are watched without a change, after a kill, and after a move.
const CALM: Duration = Duration::from_secs(10);
const AFTER_KILL: Duration = Duration::from_secs(30);
const AFTER_MOVE: Duration = Duration::from_secs(15);
const ROUNDS: usize = 3;

/// Hosts, and a log to ask which member has which partition.
struct Hosts {
    cluster: Cluster,
    dir: TempDir,
    hosts: Vec<Option<Child>>,
    log: Arc<dyn RecordLog>,
}

impl Hosts {
    fn new(cluster: Cluster) -> Self {
        let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let slot = dir.path().join("plugins.d/scores");
        std::fs::create_dir_all(&slot).expect("a directory");
        std::fs::write(slot.join("default.wasm"), plugin()).expect("a plugin");
        let overrides = [
            ("data_dir".to_owned(), path(&dir, "asker")),
            ("kafka.brokers".to_owned(), cluster.brokers.clone()),
        ];
        let config = Config::load(None, &overrides).expect("a valid configuration");
        Self {
            log: host::open_log(&config).expect("a record log"),
            cluster,
            dir,
            hosts: Vec::new(),
        }
    }

    /// A nice host leaves the cores to the others while it starts, as if it had
    /// its own. The others then see only the effects of the group.
    fn start(&mut self, number: usize, niceness: &str) {
        let child = Command::new("nice")
            .args(["-n", niceness, env!("CARGO_BIN_EXE_courtside")])
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(["--kafka", &self.cluster.brokers])
            .args(["--data-dir", &path(&self.dir, &format!("host-{number}"))])
            .args(["--plugin-dir", &path(&self.dir, "plugins.d")])
            .args(["--set", &format!("worker.workers={WORKERS}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a host");
        if self.hosts.len() <= number {
            self.hosts.resize_with(number + 1, || None);
        }
        self.hosts[number] = Some(child);
    }

    fn end(&mut self, number: usize, signal: Signal) {
        let mut child = self.hosts[number].take().expect("it runs");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), signal).expect("it runs");
        child.wait().expect("it ends");
    }

    /// The member that has each partition, once all members of `hosts` hosts have some.
    fn settle(&self, hosts: usize) -> BTreeMap<PartitionId, String> {
        loop {
            let topic = Topic::from_static("NBA-Games");
            if let Ok(status) = self.log.group_status(GROUP, &topic) {
                let owners: BTreeMap<_, _> = status
                    .members
                    .iter()
                    .flat_map(|member| {
                        let named = |id: &PartitionId| (*id, member.member.clone());
                        member.partitions.iter().map(named)
                    })
                    .collect();
                let is_shared = status.members.iter().all(|one| !one.partitions.is_empty());
                let is_whole = owners.len() == PARTITIONS as usize;
                if status.members.len() == hosts * WORKERS && is_whole && is_shared {
                    return owners;
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for child in self.hosts.iter_mut().flatten() {
            // The host may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.log.close();
    }
}

fn path(dir: &TempDir, name: &str) -> String {
    let path: PathBuf = dir.path().join(name);
    path.to_string_lossy().into_owned()
}

/// A steady load, and a thread that watches its outputs.
struct Traffic {
    stop: Arc<AtomicBool>,
    producer: JoinHandle<()>,
    watcher: JoinHandle<BTreeMap<i32, Vec<Instant>>>,
}

impl Traffic {
    fn start(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut config = cluster.client();
        config.set("partitioner", "murmur2_random");
        let producer: ThreadedProducer<_> = config.create().expect("a producer");
        let producer = {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let lines = load::interleaved(GAMES, EVENTS_EACH);
                let started = Instant::now();
                for (number, line) in (0_u64..).zip(lines) {
                    let due = Duration::from_micros(number * 1_000_000 / EVENTS_PER_SECOND);
                    thread::sleep(due.saturating_sub(started.elapsed()));
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let topic = INPUT;
                    let record = BaseRecord::to(&topic).key(&*line.game).payload(&*line.json);
                    producer
                        .send(record)
                        .map_err(|(error, _)| error)
                        .expect("room");
                }
                producer.flush(Duration::from_secs(10)).expect("delivered");
            })
        };
        let consumer = cluster.outputs(rdkafka::Offset::Beginning);
        let watcher = {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut seen: BTreeMap<i32, Vec<Instant>> = BTreeMap::new();
                while !stop.load(Ordering::Relaxed) {
                    if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                        seen.entry(message.partition())
                            .or_default()
                            .push(Instant::now());
                    }
                }
                seen
            })
        };
        Self {
            stop,
            producer,
            watcher,
        }
    }

    fn stop(self) -> BTreeMap<i32, Vec<Instant>> {
        self.stop.store(true, Ordering::Relaxed);
        self.producer.join().expect("the producer");
        self.watcher.join().expect("the watcher")
    }
}

/// The longest time without an output of the partition, and when it ended.
fn longest_gap(seen: &[Instant], from: Instant, to: Instant) -> (Duration, Instant) {
    let within = seen.iter().copied().filter(|at| (from..to).contains(at));
    let ends = within.chain([to]);
    let (longest, _) = ends.fold(((Duration::ZERO, from), from), |(longest, before), at| {
        let gap = at.saturating_duration_since(before);
        (if gap > longest.0 { (gap, at) } else { longest }, at)
    });
    longest
}

/// One of three hosts is killed: how long until all partitions flow again.
pub fn kill() {
    let Some(cluster) = Cluster::up() else {
        return;
    };
    let mut hosts = Hosts::new(cluster);
    for number in 0..3 {
        hosts.start(number, "0");
    }
    hosts.settle(3);
    let traffic = Traffic::start(&hosts.cluster);
    let mut kills = Vec::new();
    for round in 0..ROUNDS {
        thread::sleep(CALM);
        let killed = Instant::now();
        hosts.end(round, Signal::KILL);
        thread::sleep(AFTER_KILL);
        kills.push((killed, Instant::now()));
        hosts.start(round, "0");
        hosts.settle(3);
    }
    let seen = traffic.stop();
    println!(
        "{GAMES} games, {EVENTS_PER_SECOND} events/s, three hosts, session timeout 15 s, transaction timeout 10 s"
    );
    for (killed, until) in kills {
        let ends = seen.values().map(|seen| {
            let (_, end) = longest_gap(seen, killed, until);
            end.saturating_duration_since(killed)
        });
        let slowest = ends.max().unwrap_or_default();
        println!(
            "after a kill -9 all {PARTITIONS} partitions flow again in {:.2} s",
            slowest.as_secs_f64()
        );
    }
}

/// A third host joins, and leaves: how long the partitions that stay pause.
pub fn join() {
    let Some(cluster) = Cluster::up() else {
        return;
    };
    let mut hosts = Hosts::new(cluster);
    hosts.start(0, "0");
    hosts.start(1, "0");
    hosts.settle(2);
    let traffic = Traffic::start(&hosts.cluster);
    let mut spans = Vec::new();
    for _ in 0..ROUNDS {
        let calm = Instant::now();
        thread::sleep(CALM);
        for (what, count) in [("join", 3), ("leave", 2)] {
            let before = hosts.settle(5 - count);
            let began = Instant::now();
            match count {
                3 => hosts.start(2, "19"),
                _ => hosts.end(2, Signal::TERM),
            }
            let after = hosts.settle(count);
            let settled = Instant::now();
            thread::sleep(AFTER_MOVE);
            let stays: Vec<_> = before
                .iter()
                .filter(|(partition, member)| after.get(partition) == Some(member))
                .map(|(partition, _)| i32::try_from(partition.0).expect("a partition"))
                .collect();
            spans.push((what, calm, began, settled, Instant::now(), stays));
        }
    }
    let seen = traffic.stop();
    println!("{GAMES} games, {EVENTS_PER_SECOND} events/s, two hosts and a third");
    for (what, calm, began, settled, until, stays) in spans {
        let worst = |of: &dyn Fn(i32) -> bool, from: Instant, to: Instant| {
            let partitions = seen.iter().filter(|(partition, _)| of(**partition));
            let gaps = partitions.map(|(_, seen)| longest_gap(seen, from, to).0);
            gaps.max().unwrap_or_default().as_millis()
        };
        let stay = |partition| stays.contains(&partition);
        println!(
            "{what}: settled in {:.2} s; longest pause of the {} partitions that stay {} ms, of those that move {} ms, of any in the 10 s of calm before {} ms",
            settled.saturating_duration_since(began).as_secs_f64(),
            stays.len(),
            worst(&stay, began, until),
            worst(&|partition| !stay(partition), began, until),
            worst(&|_| true, calm, calm + CALM),
        );
    }
}
