//! How the host listens, and how patient it is.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{access::check_origins, server::tls::TlsConfig};

/// Configuration of HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The most connections at a time; others wait to be accepted. At least 1.
    pub connections_max: usize,
    /// The most streams of updates at a time; others are answered with 503. A
    /// quarter of the connections stays for events, reads and probes in any case.
    /// At least 1.
    pub subscribers_max: usize,
    /// How long a connection may take to send the head of a request, and so
    /// how long it may stay idle between two. At least 100 ms.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long the body of a request may take to arrive. At least 10 ms.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// How long a client may take none of what is sent to it. At least 100 ms.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// How long requests may take to end when the host stops.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// The longest silence on a stream of events; the page gives one up after a
    /// minute of it. At least 10 ms.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// How long a read may wait for its write (`?after=`). At least 1 ms.
    #[serde(with = "humantime_serde")]
    pub read_after_timeout: Duration,
    /// How long a swap or a rollback may take before who asked for it is told to
    /// look again. At least 10 ms.
    #[serde(with = "humantime_serde")]
    pub operate_timeout: Duration,
    /// Pages of these origins may read.
    pub cors_origins: Vec<String>,
    pub tls: TlsConfig,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            connections_max: 16_384,
            subscribers_max: 12_288,
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(15),
            read_after_timeout: Duration::from_secs(10),
            operate_timeout: Duration::from_secs(60),
            cors_origins: Vec::new(),
            tls: TlsConfig::default(),
        }
    }
}

impl HttpConfig {
    /// How many streams there may be.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        let others = self.connections_max / 4;
        let connections = self.connections_max.saturating_sub(others);
        self.subscribers_max.min(connections)
    }

    /// The first value out of its range, in words.
    pub fn check(&self) -> Result<(), String> {
        let least = |value: Duration, ms: u64| value >= Duration::from_millis(ms);
        let rules = [
            (
                self.connections_max >= 1,
                "http.connections_max must be at least 1",
            ),
            (
                self.subscribers_max >= 1,
                "http.subscribers_max must be at least 1",
            ),
            (
                least(self.idle_timeout, 100),
                "http.idle_timeout must be at least 100ms",
            ),
            (
                least(self.body_timeout, 10),
                "http.body_timeout must be at least 10ms",
            ),
            (
                least(self.write_timeout, 100),
                "http.write_timeout must be at least 100ms",
            ),
            (
                least(self.heartbeat, 10),
                "http.heartbeat must be at least 10ms",
            ),
            (
                least(self.read_after_timeout, 1),
                "http.read_after_timeout must be at least 1ms",
            ),
            (
                least(self.operate_timeout, 10),
                "http.operate_timeout must be at least 10ms",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(rule.to_owned()),
            None => check_origins(&self.cors_origins)
                .map_err(|wrong| format!("http.cors_origins: {wrong}"))
                .and_then(|()| self.tls.check()),
        }
    }
}
