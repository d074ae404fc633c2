//! The cost of a swap for the stream, and the resources that 10,000 swaps leave in
//! use.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use courtside_log::RecordLog;
use courtside_play::simulate::Season;
use courtside_types::{Offset, PartitionId};
use parking_lot::Mutex;
use rdkafka::Message as _;
use tokio::runtime::Runtime;

use crate::{
    kafka::{Cluster, GROUP, PARTITIONS},
    load::Line,
    rig::{INPUT, OUTPUT, Rig, memory_mb, plugin, variant},
};

/// Events of a game after which most of its players have scored.
const EVENTS_BEFORE: usize = 220;
/// The length of names that makes a state some 2 KB.
const NAME_LEN: usize = 90;
/// How many events the capacity is measured with.
const BACKLOG: usize = 300_000;
const SIZES: [u64; 3] = [50, 5_000, 50_000];
/// A game's events are limited, so few swaps fit into a load. The load begins anew
/// this many times, on another host each.
const LOADS: usize = 4;
const ROUNDS: usize = 3;
/// How long the events that a swap held up may take to be processed.
const SETTLED_WITHIN: Duration = Duration::from_secs(3);
/// The swap is over when no more events wait than come in this time.
const SETTLED: Duration = Duration::from_millis(200);
const TICK: Duration = Duration::from_millis(5);
const LOOK: Duration = Duration::from_micros(200);
const MANY_SWAPS: usize = 10_000;
const NOTED_EVERY: usize = 500;

/// Swaps under half of the load that can be taken, on the embedded engine.
pub fn embedded() {
    for games in SIZES {
        let mut gaps = Gaps::default();
        for _ in 0..LOADS {
            let rig = Rig::new(false, SETTINGS);
            let log = Arc::clone(&rig.log);
            under_load(rig, games, &mut gaps, move |seen, stop| {
                look_at_ends(&*log, seen, stop)
            });
        }
        gaps.say(games);
    }
}

/// Swaps under half of the load that can be taken, on Kafka.
pub fn on_kafka() {
    for games in SIZES {
        let mut gaps = Gaps::default();
        for _ in 0..LOADS {
            let Some(cluster) = Cluster::up() else {
                return;
            };
            let cluster = Arc::new(cluster);
            let brokers = cluster.brokers.clone();
            let mut settings = SETTINGS.to_vec();
            settings.push(("kafka.brokers", &brokers));
            let rig = Rig::new(false, &settings);
            let watched = Arc::clone(&cluster);
            under_load(rig, games, &mut gaps, move |seen, stop| {
                read_outputs(&watched, seen, stop)
            });
        }
        gaps.say(games);
    }
}

/// How long the outputs are watched around a swap and, by turns, without one. With
/// many games a swap and the backlog after it take longer.
const fn window(games: u64) -> Duration {
    Duration::from_millis(if games > 10_000 { 3_000 } else { 1_500 })
}

/// The longest times without a commit that any partition had, in milliseconds.
#[derive(Default)]
struct Gaps {
    ordinary: Vec<f64>,
    around: Vec<f64>,
    /// How long the swaps took.
    took: Vec<f64>,
}

impl Gaps {
    fn say(mut self, games: u64) {
        for gaps in [&mut self.ordinary, &mut self.around, &mut self.took] {
            gaps.sort_by(f64::total_cmp);
        }
        let median = |gaps: &[f64]| gaps[gaps.len() / 2];
        let longest = |gaps: &[f64]| gaps[gaps.len() - 1];
        println!(
            "{games} games: longest time between two commits of a partition in {} ms: ordinary {:.1} ms (longest {:.1}), around a swap {:.1} ms (longest {:.1}): {:+.1} ms (medians of {}); a swap took {:.0} ms",
            window(games).as_millis(),
            median(&self.ordinary),
            longest(&self.ordinary),
            median(&self.around),
            longest(&self.around),
            median(&self.around) - median(&self.ordinary),
            self.around.len(),
            median(&self.took),
        );
    }
}

/// A host sees a new file at once, so that only the swap is measured.
const SETTINGS: &[(&str, &str)] = &[("slots.settle", "1ms")];

/// When each output partition was seen to have grown.
#[derive(Default)]
struct Seen(Mutex<BTreeMap<u32, Vec<Instant>>>);

impl Seen {
    fn grew(&self, partition: u32) {
        let now = Instant::now();
        self.0.lock().entry(partition).or_default().push(now);
    }

    /// The longest time without a commit that any partition had in a window.
    fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let seen = self.0.lock();
        let gaps = seen.values().map(|times| {
            let inside = times.iter().copied().filter(|at| *at > from && *at < to);
            let mut last = from;
            let mut longest = Duration::ZERO;
            for at in inside.chain([to]) {
                longest = longest.max(at - last);
                last = at;
            }
            longest
        });
        gaps.max().unwrap_or_default()
    }
}

fn look_at_ends(log: &dyn RecordLog, seen: &Seen, stop: &AtomicBool) {
    let mut ends: Vec<Offset> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let bounds = log.bounds(&OUTPUT).expect("the outputs' ends");
        ends.resize(bounds.len(), Offset(0));
        for ((bounds, end), partition) in bounds.iter().zip(&mut ends).zip(0..) {
            if bounds.end > *end {
                *end = bounds.end;
                seen.grew(partition);
            }
        }
        thread::sleep(LOOK);
    }
}

fn read_outputs(cluster: &Cluster, seen: &Seen, stop: &AtomicBool) {
    let consumer = cluster.outputs(rdkafka::Offset::End);
    let mut last: BTreeMap<u32, Instant> = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) else {
            continue;
        };
        let partition = u32::try_from(message.partition()).expect("a partition");
        // The records of one commit come together.
        let now = Instant::now();
        let before = last.insert(partition, now);
        if before.is_none_or(|before| now - before > Duration::from_millis(1)) {
            seen.grew(partition);
        }
    }
}

fn under_load(
    rig: Rig,
    games: u64,
    gaps: &mut Gaps,
    watch: impl FnOnce(&Seen, &AtomicBool) + Send + 'static,
) {
    let runtime = Runtime::new().expect("a runtime");
    rig.activate();
    let season = Season::new(1);
    let mut events: Vec<_> = (0..games).filter_map(|game| season.game(game)).collect();
    let mut fed: BTreeMap<Arc<str>, u64> = BTreeMap::new();
    let mut next = |each: usize, count: usize| -> Vec<Line> {
        let mut lines = Vec::new();
        while lines.len() < count {
            let before = lines.len();
            for game in &mut events {
                for mut event in game.by_ref().take(each) {
                    event.player = event
                        .player
                        .map(|player| format!("{player:.<NAME_LEN$}").into());
                    *fed.entry(Arc::clone(&event.game_id)).or_default() += 1;
                    lines.push(Line {
                        game: Arc::clone(&event.game_id),
                        json: serde_json::to_vec(&event).expect("plain data").into(),
                    });
                }
                if lines.len() >= count {
                    break;
                }
            }
            if lines.len() == before {
                break;
            }
        }
        lines
    };
    // The games are played so far that states are as large as they will be.
    let mut left = EVENTS_BEFORE;
    while left > 0 {
        let lines = next(20, usize::try_from(games).expect("a number") * 20);
        rig.preload(&runtime, &lines);
        left -= 20;
    }
    rig.drain();
    let backlog = next(
        1,
        BACKLOG.min(usize::try_from(games).expect("a number") * 60),
    );
    let started = Instant::now();
    rig.preload(&runtime, &backlog);
    rig.drain();
    let capacity = backlog.len() as f64 / started.elapsed().as_secs_f64();
    let rate = capacity / 2.0;

    let window = window(games);
    let lasts = window + (2 * window + SETTLED_WITHIN / 2) * ROUNDS as u32;
    // The events that the games have left bound the rate.
    let lines = next(1, (rate * lasts.as_secs_f64()) as usize);
    let rate = rate.min(lines.len() as f64 / lasts.as_secs_f64());
    let state_bytes = mean_state_bytes(&*rig.log);

    let seen = Arc::new(Seen::default());
    let stop = Arc::new(AtomicBool::new(false));
    let watching = {
        let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
        thread::spawn(move || watch(&seen, &stop))
    };
    let members = members(&rig);
    let feeding = Arc::new(AtomicBool::new(true));
    let mut ordinary = Vec::new();
    let mut around = Vec::new();
    let fed_lines = thread::scope(|scope| {
        let feeder = {
            let (rig, runtime, feeding) = (&rig, &runtime, Arc::clone(&feeding));
            let lines = &lines;
            scope.spawn(move || feed(rig, runtime, lines, rate, &feeding))
        };
        thread::sleep(window);
        for round in 0..ROUNDS {
            let from = Instant::now();
            thread::sleep(window);
            ordinary.push((from, Instant::now()));
            let from = Instant::now();
            rig.swap(&variant(round as u32));
            let took = from.elapsed();
            gaps.took.push(took.as_secs_f64() * 1e3);
            thread::sleep((window - took.min(window)).max(window / 2));
            around.push((from, Instant::now()));
            let few = (rate * SETTLED.as_secs_f64()) as u64;
            let over = Instant::now() + SETTLED_WITHIN;
            while rig.lag() > few && Instant::now() < over {
                thread::sleep(TICK);
            }
        }
        feeding.store(false, Ordering::Relaxed);
        feeder.join().expect("a feeder")
    });
    rig.drain();
    stop.store(true, Ordering::Relaxed);
    watching.join().expect("a watcher");

    let longest = |(from, to): (Instant, Instant)| seen.longest_gap(from, to).as_secs_f64() * 1e3;
    gaps.ordinary.extend(ordinary.into_iter().map(longest));
    gaps.around.extend(around.into_iter().map(longest));
    println!(
        "{games} games, states of {state_bytes} bytes, {rate:.0} events/s (capacity {capacity:.0})"
    );
    assert_eq!(members, self::members(&rig), "the group was rebalanced");
    // Events that were prepared and not fed are not expected.
    for line in &lines[fed_lines..] {
        *fed.get_mut(&line.game).expect("a game") -= 1;
    }
    judge(&*rig.log, &fed);
    rig.stop();
}

/// Appends at a steady rate; returns how many events it appended.
fn feed(rig: &Rig, runtime: &Runtime, lines: &[Line], rate: f64, feeding: &AtomicBool) -> usize {
    let started = Instant::now();
    let mut done = 0;
    while feeding.load(Ordering::Relaxed) && done < lines.len() {
        let due = (started.elapsed().as_secs_f64() * rate) as usize;
        let due = due.min(lines.len());
        if due > done {
            rig.preload(runtime, &lines[done..due]);
            done = due;
        }
        thread::sleep(TICK);
    }
    done
}

/// Checks that every event is counted once, and none is lost.
fn judge(log: &dyn RecordLog, fed: &BTreeMap<Arc<str>, u64>) {
    let mut latest: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    for (bounds, partition) in log.bounds(&OUTPUT).expect("ends").iter().zip(0..) {
        let mut next = bounds.start;
        while next < bounds.end {
            let records = log
                .read(&OUTPUT, PartitionId(partition), next, 8 << 20)
                .expect("outputs");
            let Some(last) = records.last() else {
                break;
            };
            next = last.offset.next();
            for record in records {
                let key = record.key.expect("a key");
                let output = serde_json::from_slice(&record.value.expect("a value"));
                let key = String::from_utf8_lossy(&key).into_owned();
                latest.insert(key, output.expect("JSON"));
            }
        }
    }
    for (game, events) in fed {
        let output = &latest[&**game];
        assert_eq!(output["events"], *events, "{game}: {output}");
        assert_eq!(output["duplicates"], 0, "{game}");
    }
    println!(
        "{} games: {} events, each counted once, none lost, and nobody left the group",
        fed.len(),
        fed.values().sum::<u64>()
    );
}

fn members(rig: &Rig) -> Vec<(String, Vec<PartitionId>)> {
    let status = rig.log.group_status(GROUP, &INPUT).expect("the group");
    let members = status.members.into_iter();
    members.map(|one| (one.member, one.partitions)).collect()
}

fn mean_state_bytes(log: &dyn RecordLog) -> usize {
    let checkpoints = log.checkpoints(GROUP).expect("checkpoints");
    let sizes: Vec<usize> = (0..PARTITIONS)
        .filter_map(|partition| {
            let partition = PartitionId(u32::try_from(partition).ok()?);
            checkpoints.scan(partition, None, 100).ok()
        })
        .flatten()
        .map(|(_, bytes)| bytes.len())
        .collect();
    sizes.iter().sum::<usize>() / sizes.len().max(1)
}

/// 10,000 swaps of a slot with live games: the memory, threads and descriptors that
/// the process has meanwhile.
pub fn many() {
    let runtime = Runtime::new().expect("a runtime");
    let rig = Rig::new(false, SETTINGS);
    rig.activate();
    // This fills the log's memtables until they are written out. Otherwise the 5 KB or
    // so that each swap writes to them would look like memory that swaps leave.
    rig.preload(&runtime, &crate::load::interleaved(1_000, usize::MAX));
    rig.drain();
    let season = Season::new(1);
    let mut games: Vec<_> = (5_000..5_100)
        .filter_map(|game| season.game(game))
        .collect();
    let builds = [plugin(), variant(1)];
    println!("swaps,resident_mb,address_space_mb,threads,file_descriptors");
    let started = Instant::now();
    for swap in 0..=MANY_SWAPS {
        if swap % NOTED_EVERY == 0 {
            println!(
                "{swap},{},{},{},{}",
                memory_mb("VmRSS"),
                memory_mb("VmSize"),
                count("/proc/self/task"),
                count("/proc/self/fd"),
            );
        }
        if swap == MANY_SWAPS {
            break;
        }
        // Each game goes on in each build, and begins anew when it is over.
        if swap % 10 == 0 {
            let number = (swap / 10) as u64;
            let at = usize::try_from(number % 100).expect("a number");
            let lines: Vec<Line> = match games[at].next() {
                Some(event) => vec![Line {
                    game: Arc::clone(&event.game_id),
                    json: serde_json::to_vec(&event).expect("plain data").into(),
                }],
                None => {
                    games[at] = season.game(1_000 + number).expect("a game");
                    Vec::new()
                }
            };
            rig.preload(&runtime, &lines);
        }
        rig.swap(&builds[(swap + 1) % 2]);
    }
    println!(
        "{MANY_SWAPS} swaps in {:.0} s",
        started.elapsed().as_secs_f64()
    );
    rig.stop();
}

fn count(dir: &str) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

/// A backlog of 1,000 games while nothing, or one plugin after another, is
/// compiled and swapped.
pub fn compiling() {
    let runtime = Runtime::new().expect("a runtime");
    let lines = crate::load::interleaved(1_000, usize::MAX);
    let mut ratios = Vec::new();
    for round in 0..3_u32 {
        let mut rates = Vec::new();
        for compiles in [false, true] {
            let rig = Rig::new(false, SETTINGS);
            rig.preload(&runtime, &lines);
            let started = rig.activate();
            let done = AtomicBool::new(false);
            let swaps = thread::scope(|scope| {
                let swapping = scope.spawn(|| {
                    let mut swaps = 0;
                    while compiles && !done.load(Ordering::Relaxed) {
                        swaps += 1;
                        rig.swap(&variant(1_000 * (round + 1) + swaps));
                    }
                    swaps
                });
                rig.drain();
                done.store(true, Ordering::Relaxed);
                let took = started.elapsed();
                rates.push(lines.len() as f64 / took.as_secs_f64());
                swapping.join().expect("who swaps")
            });
            println!(
                "round {}, {swaps} plugins compiled and swapped: {:.0} events/s",
                round + 1,
                rates[rates.len() - 1]
            );
            rig.stop();
        }
        ratios.push(rates[0] / rates[1]);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "compiling and swapping all the while, events take {:.2} times as long (median of 3)",
        ratios[1]
    );
}
