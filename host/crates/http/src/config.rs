//! How the host listens, and how patient it is.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{access::check_origins, server::tls::TlsConfig};

/// Configuration of HTTP. The host's table of settings has their meanings and minimums.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    pub listen: SocketAddr,
    pub connections_max: usize,
    /// A quarter of the connections stays for events, reads and probes in any case.
    pub subscribers_max: usize,
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// The heartbeat stays under a minute, because the page gives up a stream that is
    /// silent for a minute.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    #[serde(with = "humantime_serde")]
    pub read_after_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub operate_timeout: Duration,
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

    /// Refuses values that are wrong together, with an error that names the rule.
    pub fn check(&self) -> Result<(), String> {
        check_origins(&self.cors_origins).map_err(|wrong| format!("http.cors_origins: {wrong}"))?;
        self.tls.check()
    }
}
