//! Real brokers, and what Kafka's own tools see of them.

pub mod brokers;
mod console;

use std::{
    path::PathBuf,
    process::Output,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

pub use self::console::Consumed;

/// A cluster of real brokers. Dropped, it is stopped and its files are gone,
/// unless it is [`shared`](Self::shared).
#[derive(Debug)]
pub struct Cluster {
    brokers: String,
    dir: PathBuf,
    is_own: bool,
}

impl Cluster {
    /// Starts a cluster of 1 or 3 brokers for one test alone. Where no broker can
    /// be started, the function says so and returns `None`.
    ///
    /// # Panics
    /// If a broker does not start, or Kafka is required and cannot be had.
    #[must_use]
    pub fn up(count: u32) -> Option<Self> {
        Self::start_with(count, &[])
    }

    /// Starts a cluster as [`up`](Self::up) does, with a second address for each
    /// broker: see [`detours`](Self::detours).
    ///
    /// # Panics
    /// As [`up`](Self::up) does.
    #[must_use]
    pub fn up_with_detours(count: u32) -> Option<Self> {
        Self::start_with(count, &["--detours"])
    }

    fn start_with(count: u32, options: &[&str]) -> Option<Self> {
        static CLUSTERS: AtomicU32 = AtomicU32::new(0);
        if let Some(why_not) = brokers::why_not() {
            println!("kafka: skipped: {why_not}");
            return None;
        }
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let dir = brokers::dir(&number.to_string());
        Some(Self {
            brokers: brokers::up(&dir, count, options),
            dir,
            is_own: true,
        })
    }

    /// The cluster that all tests of this process share: the one that
    /// `COURTSIDE_TEST_KAFKA` names, or one broker that nobody may kill. A test
    /// needs names of its own, because all tests see its topics and groups. `None`
    /// where [`up`](Self::up) returns `None`.
    ///
    /// # Panics
    /// As [`up`](Self::up) does.
    #[must_use]
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| {
            Some(Self {
                brokers: brokers::shared()?,
                dir: brokers::dir("shared"),
                is_own: false,
            })
        });
        shared.as_ref()
    }

    /// `HOST:PORT,…`
    #[must_use]
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Sends SIGKILL to a broker; the first is 1.
    pub fn kill(&self, broker: u32) {
        self.command("kill", broker);
    }

    /// Starts a broker that was killed, and waits until it serves.
    pub fn start(&self, broker: u32) {
        self.command("start", broker);
    }

    /// For each broker, the second address at which some clients look for it, and
    /// the address where it takes them. Nobody listens at the former, but a
    /// [`Proxy`](crate::proxy::Proxy) may.
    #[must_use]
    pub fn detours(&self) -> Vec<(String, String)> {
        let detours = brokers::run(&self.dir, &["detours"]);
        let detours = detours.lines().map(|line| {
            let (outside, inside) = line.split_once(' ').expect("two addresses");
            (outside.to_owned(), inside.to_owned())
        });
        detours.collect()
    }

    fn command(&self, command: &str, broker: u32) {
        assert!(self.is_own, "{command} of a broker that others need");
        let _ = brokers::run(&self.dir, &[command, &broker.to_string()]);
    }

    /// Runs one of Kafka's own tools, by its class
    /// (`org.apache.kafka.tools.TopicCommand`), and returns its output. The
    /// brokers' address is an argument like others.
    ///
    /// # Panics
    /// If the tool fails, with its output.
    #[must_use]
    pub fn tool(&self, class: &str, arguments: &[&str]) -> String {
        let output = self.tool_output(class, arguments);
        assert!(output.status.success(), "{class} {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a tool as [`tool`](Self::tool) does, and returns the output also if
    /// the tool fails.
    #[must_use]
    pub fn tool_output(&self, class: &str, arguments: &[&str]) -> Output {
        let mut words = vec!["tool", class];
        words.extend(arguments);
        brokers::output(&self.dir, &words)
    }

    /// The committed records of a topic, in offset order within each partition.
    /// Kafka's console consumer reads them, until no record has come for a while.
    ///
    /// # Panics
    /// If the consumer fails, or prints something unknown.
    #[must_use]
    pub fn consume(&self, topic: &str) -> Vec<Consumed> {
        console::consume(self, topic)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_own {
            drop(brokers::output(&self.dir, &["down"]));
        }
    }
}
