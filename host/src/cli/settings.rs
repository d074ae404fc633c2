//! Options that say where the configuration comes from, for every command that has one.

use std::path::{Path, PathBuf};

use clap::Args;
use courtside_types::failure::Failure;

use crate::config::Config;

#[derive(Args, Debug)]
pub struct SettingsArgs {
    /// Configuration file; by default courtside.toml, where there is one.
    #[arg(long, env = "COURTSIDE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the record log is kept [default: data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Brokers of a Kafka cluster that is the record log, in place of the data directory.
    #[arg(long, value_name = "HOST:PORT,…")]
    kafka: Option<String>,
    /// Any other setting, as PATH=VALUE: --set worker.commit_interval=50ms.
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
}

/// Parses `NAME=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(path, value)| (path.to_owned(), value.to_owned()))
        .ok_or_else(|| "expected NAME=VALUE".to_owned())
}

/// A path as a value in TOML.
pub fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl SettingsArgs {
    /// Loads the configuration; a command's own flags override everything else.
    pub fn load(&self, flags: Vec<(String, String)>) -> anyhow::Result<Config> {
        let mut overrides = self.set.clone();
        if let Some(dir) = &self.data_dir {
            overrides.push(("data_dir".to_owned(), path(dir)));
        }
        if let Some(brokers) = &self.kafka {
            overrides.push(("kafka.brokers".to_owned(), format!("{brokers:?}")));
        }
        overrides.extend(flags);
        Config::load(self.config.as_deref(), &overrides)
            .map_err(|error| Failure::new("config-invalid", error.to_string()).into())
    }
}
