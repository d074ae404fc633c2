//! Throughput and latency from Kafka to Kafka, exactly once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};
use tokio::{runtime::Runtime, sync::mpsc};

use super::{Cluster, GROUP, PARTITIONS, limit};
use crate::{
    cpu::{self, CpuTimes},
    http_api, load,
    rig::Rig,
};

/// 1,000 games to their ends through `nba-scoring`, and the bare transaction
/// loop over the same input, by turns.
pub fn pipeline() {
    let runtime = Runtime::new().expect("a runtime");
    let lines = load::interleaved(1_000, usize::MAX);
    let bytes = load::mean_bytes(&lines);
    println!("1,000 games, {} events of {bytes} bytes", lines.len());
    let mut ratios = Vec::new();
    for round in 1..=3 {
        // Each round has a broker of its own: topics are empty, and nothing is compacted.
        let Some(cluster) = Cluster::up() else {
            return;
        };
        let rig = Rig::new(false, &[("kafka.brokers", &cluster.brokers)]);
        rig.preload(&runtime, &lines);
        let (before, broker_before) = (CpuTimes::now(), cluster.cpu());
        let started = rig.activate();
        cluster.drain(GROUP);
        let ours = started.elapsed();
        let (after, broker_cpu) = (CpuTimes::now(), cluster.cpu() - broker_before);
        let output_bytes = rig.output_bytes();
        rig.stop();

        let rate = |took: Duration| lines.len() as f64 / took.as_secs_f64();
        println!(
            "round {round}, courtside: {:.2} s, {:.0} events/s, outputs of {output_bytes} bytes",
            ours.as_secs_f64(),
            rate(ours)
        );
        after.print_since(&before, lines.len());
        println!(
            "  CPU of the broker: {:.2} us an event",
            cpu::an_event(broker_cpu, lines.len())
        );
        for (name, value_bytes) in [("as-large", output_bytes), ("as-they-came", bytes)] {
            create(&runtime, &cluster, name);
            let bare = limit::copy(&cluster, &format!("bare-{name}"), name, value_bytes);
            println!(
                "round {round}, bare loop, outputs of {value_bytes} bytes: {:.2} s, {:.0} events/s; courtside has {:.0} % of it",
                bare.as_secs_f64(),
                rate(bare),
                100.0 * rate(ours) / rate(bare),
            );
            if name == "as-large" {
                ratios.push(rate(ours) / rate(bare));
            }
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "courtside has {:.0} % of the bare loop with outputs as large (median of 3)",
        100.0 * ratios[1]
    );
}

fn create(runtime: &Runtime, cluster: &Cluster, topic: &str) {
    let admin: AdminClient<DefaultClientContext> = cluster.client().create().expect("an admin");
    let topic = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    let created = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new()));
    for created in created.expect("an answer") {
        created.expect("a topic");
    }
}

/// Acknowledged events a second.
pub fn post() {
    let Some(cluster) = Cluster::up() else {
        return;
    };
    http_api::post_with(&[("kafka.brokers", &cluster.brokers)]);
}

/// The time from the moment a POST is sent to the moment that a consumer of
/// committed records has the output that counts it.
pub fn latency() {
    let Some(cluster) = Cluster::up() else {
        return;
    };
    let runtime = Runtime::new().expect("a runtime");
    let rig = Rig::new(false, &[("kafka.brokers", &cluster.brokers)]);
    rig.activate();
    let (address, stop) = rig.open(&runtime);
    let (seen, sightings) = mpsc::unbounded_channel();
    let done = Arc::new(AtomicBool::new(false));
    let consumer = cluster.outputs(rdkafka::Offset::Beginning);
    let reader = {
        let done = Arc::clone(&done);
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else {
                    continue;
                };
                let at = Instant::now();
                let value = message.payload().unwrap_or_default();
                if seen.send((http_api::name(value, "last_seq"), at)).is_err() {
                    return;
                }
            }
        })
    };
    // The broker has just started, and runs its code interpreted at first. So the first
    // half minute, which says little about its later speed, is left out.
    let mut sendings =
        runtime.block_on(http_api::send_steadily(address, http_api::steady_lines(50)));
    let warm = sendings.len() * 3 / 5;
    sendings.sort_by_key(|(_, at)| *at);
    sendings.drain(..warm);
    std::thread::sleep(Duration::from_secs(2));
    done.store(true, Ordering::Relaxed);
    reader.join().expect("the reader");
    http_api::print_latency("POST to a read_committed consumer", sightings, sendings);
    stop.cancel();
    rig.stop();
}
