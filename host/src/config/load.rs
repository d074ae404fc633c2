//! Reading the configuration from its sources: defaults, `courtside.toml`, the
//! environment and flags.
//!
//! The crate figment names the source of a value in its errors, which the crate config
//! does not.

use std::{collections::BTreeMap, path::Path};

use figment::{
    Figment,
    providers::{Env, Format as _, Serialized, Toml},
};

use super::{Config, ConfigError, PipelineConfig, SCORES};

/// Where a file is looked for when none is named.
pub const DEFAULT_FILE: &str = "courtside.toml";
const ENV_PREFIX: &str = "COURTSIDE_";
const ENV_SEPARATOR: &str = "__";
/// `COURTSIDE_KAFKA__PROPERTIES__SASL_PASSWORD` is `sasl.password`: names of
/// variables are without dots, and those of properties without `_`.
const ENV_PROPERTIES: &str = "kafka__properties__";
const ENV_TOP_LEVEL: [&str; 2] = ["data_dir", "plugin_dir"];

impl Config {
    /// Reads the configuration from all its sources. `overrides` are pairs of a
    /// dotted path and a value in TOML (a bare word is a string).
    pub fn load(file: Option<&Path>, overrides: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = file {
            if !file.is_file() {
                return Err(ConfigError::NoFile(file.into()));
            }
            figment = figment.merge(Toml::file_exact(file));
        } else if Path::new(DEFAULT_FILE).is_file() {
            figment = figment.merge(Toml::file_exact(DEFAULT_FILE));
        }
        // Only a name that can be a setting's counts: others have the prefix as well
        // (COURTSIDE_URL, and those that Kubernetes adds for a service of our name).
        figment = figment.merge(
            Env::prefixed(ENV_PREFIX)
                .filter(|name| {
                    let name = name.as_str().to_ascii_lowercase();
                    name.contains(ENV_SEPARATOR) && !name.starts_with(ENV_PROPERTIES)
                        || ENV_TOP_LEVEL.contains(&name.as_str())
                })
                .split(ENV_SEPARATOR),
        );
        for (name, value) in Env::prefixed(ENV_PREFIX).iter() {
            let name = name.as_str().to_ascii_lowercase();
            if let Some(property) = name.strip_prefix(ENV_PROPERTIES) {
                let property = BTreeMap::from([(property.replace('_', "."), value)]);
                figment = figment.merge(Serialized::default("kafka.properties", property));
            }
        }
        for (path, value) in overrides {
            // The name of one of Kafka's properties has dots in it.
            if let Some(name) = path.strip_prefix("kafka.properties.") {
                let property = BTreeMap::from([(name, value)]);
                figment = figment.merge(Serialized::default("kafka.properties", property));
                continue;
            }
            let value: figment::value::Value = value
                .parse()
                .unwrap_or_else(|_| figment::value::Value::from(value.as_str()));
            figment = figment.merge(Serialized::global(path, value));
        }
        let mut config: Self = figment.extract().map_err(|error| unreadable(&error))?;
        if config.pipelines.is_empty() {
            config
                .pipelines
                .insert(SCORES.into(), PipelineConfig::scores());
        }
        config
            .kafka
            .read_file()
            .map_err(|problem| ConfigError::invalid("kafka", problem))?;
        config.check()?;
        Ok(config)
    }
}

/// The faults and where they are. The text is made here, because figment's own also
/// names its types.
fn unreadable(error: &figment::Error) -> ConfigError {
    let texts = error.clone().into_iter().map(|error| {
        let path = error.path.join(".");
        let source = error
            .metadata
            .as_ref()
            .map(|metadata| match &metadata.source {
                Some(figment::Source::File(file)) => format!(" (in {})", file.display()),
                _ if metadata.name.contains("environment") => " (in the environment)".to_owned(),
                Some(figment::Source::Code(_)) => " (in a flag)".to_owned(),
                _ => String::new(),
            })
            .unwrap_or_default();
        let colon = if path.is_empty() { "" } else { ": " };
        format!("{path}{colon}{}{source}", error.kind)
    });
    ConfigError::Unreadable(texts.collect::<Vec<_>>().join("; "))
}
