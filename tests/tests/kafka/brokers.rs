//! The brokers that the tests share, and the ways to disturb them.

use std::{
    collections::BTreeSet,
    fs,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use courtside_tests::Cluster;
use serde_json::json;

use crate::BROKERS;

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
const TRANSACTIONS: &str = "org.apache.kafka.tools.TransactionsCommand";
const REASSIGN: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
const ELECT: &str = "org.apache.kafka.tools.LeaderElectionCommand";
const NOT_CAUGHT_UP: &str = "PreferredLeaderNotAvailableException";
const HEALED_WITHIN: Duration = Duration::from_secs(120);
/// Each look starts a program, on the cores that the brokers need.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Three brokers. Every call blocks its thread: the tools are programs.
#[derive(Debug)]
pub struct Brokers {
    cluster: Cluster,
    down: Mutex<BTreeSet<u32>>,
}

impl Brokers {
    pub fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            down: Mutex::default(),
        }
    }

    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub fn kill(&self, brokers: &[u32]) {
        blocking(|| {
            let mut down = self.down.lock().unwrap();
            for broker in brokers {
                self.cluster.kill(*broker);
                down.insert(*broker);
            }
        });
    }

    /// Whether all brokers are up.
    pub fn are_up(&self) -> bool {
        self.down.lock().unwrap().is_empty()
    }

    /// Starts the brokers that were killed, all at the same time: one alone may wait for
    /// another.
    pub fn start_all(&self) {
        blocking(|| {
            let down = self.down.lock().unwrap().clone();
            thread::scope(|scope| {
                for broker in &down {
                    scope.spawn(|| self.cluster.start(*broker));
                }
            });
            self.down
                .lock()
                .unwrap()
                .retain(|broker| !down.contains(broker));
        });
    }

    /// Starts the brokers that are down, and waits until every replica is up to date.
    pub fn heal(&self) {
        self.start_all();
        let started = Instant::now();
        loop {
            let behind = self.tool(TOPICS, &["--describe", "--under-replicated-partitions"]);
            if behind.trim().is_empty() {
                return;
            }
            assert!(started.elapsed() < HEALED_WITHIN, "still behind: {behind}");
            thread::sleep(LOOK_EVERY);
        }
    }

    fn tool(&self, class: &str, arguments: &[&str]) -> String {
        let mut words = vec!["--bootstrap-server", self.cluster.brokers()];
        words.extend(arguments);
        blocking(|| self.cluster.tool(class, &words))
    }

    /// The broker that coordinates a group.
    pub fn coordinator_of_group(&self, group: &str) -> u32 {
        let said = self.tool(GROUPS, &["--describe", "--state", "--group", group]);
        let id = said
            .lines()
            .filter(|line| line.contains(group))
            .find_map(|line| line.split_once('(')?.1.split_once(')')?.0.parse().ok());
        id.unwrap_or_else(|| panic!("no coordinator in {said:?}"))
    }

    /// The ids of the transactions of a group's hosts, each with the broker
    /// that coordinates it.
    pub fn coordinators_of_transactions(&self, group: &str) -> Vec<(String, u32)> {
        let said = self.tool(TRANSACTIONS, &["list"]);
        let prefix = format!("{group}.");
        let found = said.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let id = words.next().filter(|id| id.starts_with(&prefix))?;
            Some((id.to_owned(), words.next()?.parse().ok()?))
        });
        let found: Vec<_> = found.collect();
        assert!(!found.is_empty(), "no transactions of {group} in {said}");
        found
    }

    /// Makes other brokers the leaders of all partitions of these topics, while all
    /// brokers are up. `turn` decides which.
    pub fn move_leaders(&self, topics: &[(&str, u32)], turn: u32) {
        let partitions: Vec<_> = topics
            .iter()
            .flat_map(|(topic, count)| (0..*count).map(move |partition| (topic, partition)))
            .map(|(topic, partition)| {
                let replica = |number| (partition + turn + number) % BROKERS + 1;
                let replicas: Vec<_> = (0..BROKERS).map(replica).collect();
                json!({ "topic": topic, "partition": partition, "replicas": replicas })
            })
            .collect();
        let plan = json!({ "version": 1, "partitions": partitions });
        let file = tempfile::NamedTempFile::new().expect("a file for a plan");
        fs::write(file.path(), plan.to_string()).expect("a plan");
        let path = file.path().to_str().expect("a path in UTF-8");
        let _ = self.tool(REASSIGN, &["--reassignment-json-file", path, "--execute"]);
        // A broker that was down may have to catch up first; its partitions stay where they are.
        let arguments = [
            "--bootstrap-server",
            self.cluster.brokers(),
            "--election-type",
            "preferred",
            "--all-topic-partitions",
        ];
        let output = blocking(|| self.cluster.tool_output(ELECT, &arguments));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() || said.contains(NOT_CAUGHT_UP),
            "{output:?}"
        );
    }
}

/// Runs a call that blocks, so that the other tasks of the runtime go on.
pub fn blocking<T>(call: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current() {
        Ok(_) => tokio::task::block_in_place(call),
        Err(_) => call(),
    }
}
