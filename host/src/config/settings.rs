//! Every setting with its unit, its minimum and what it is for: what values are
//! checked against, what `--dump-config` prints, and what
//! `docs/configuration.md` is made from.

use std::fmt::Write as _;

use super::{Config, ConfigError};

/// The least a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Min {
    /// It is no quantity.
    None,
    Count(u64),
    Bytes(u64),
    Millis(u64),
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub path: &'static str,
    pub min: Min,
    pub about: &'static str,
}

const fn set(path: &'static str, min: Min, about: &'static str) -> Setting {
    Setting { path, min, about }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// All settings but those of `[pipelines]`, in the order of the configuration.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    set("listen", Min::None, "address and port of the doors"),
    set("data_dir", Min::None, "the record log, compiled plugins and copies of the plugins in force; one process has it at a time"),
    set("plugin_dir", Min::None, "plugins: <pipeline>/default.wasm and <pipeline>/keys/<key>.wasm"),
    set("logging.format", Min::None, "text or json"),
    set("logging.filter", Min::None, "what is logged: a level, or directives like \"info,courtside::slots=debug\""),
];

/// Checks every value against its minimum.
pub fn check(config: &Config) -> Result<(), ConfigError> {
    let values = values(config);
    for setting in SETTINGS {
        let Some(value) = lookup(&values, setting.path) else {
            continue;
        };
        let problem = match setting.min {
            Min::None => None,
            Min::Count(min) => value
                .as_integer()
                .is_none_or(|count| u64::try_from(count).is_ok_and(|count| count < min))
                .then(|| format!("{value} is under the minimum of {min}")),
            Min::Bytes(min) => size(value)
                .is_none_or(|size| size < min)
                .then(|| format!("{value} is under the minimum of {}", bytes_text(min))),
            Min::Millis(min) => millis(value)
                .is_none_or(|millis| millis < u128::from(min))
                .then(|| format!("{value} is under the minimum of {}", time_text(min))),
        };
        if let Some(problem) = problem {
            return Err(ConfigError::Invalid {
                path: setting.path.into(),
                problem,
            });
        }
    }
    Ok(())
}

/// The whole configuration as TOML, each setting with what it is for.
#[must_use]
pub fn dump(config: &Config) -> String {
    let (values, defaults) = (values(config), values(&Config::default()));
    let mut text = String::new();
    let mut section = "";
    for setting in SETTINGS {
        let (head, name) = setting.path.rsplit_once('.').unwrap_or(("", setting.path));
        if head != section {
            section = head;
            let _ = write!(text, "\n[{section}]\n");
        }
        let (Some(value), Some(default)) = (
            lookup(&values, setting.path),
            lookup(&defaults, setting.path),
        ) else {
            continue;
        };
        let _ = writeln!(text, "# {}", setting.about);
        let _ = writeln!(text, "# {}", bounds(setting, default));
        let _ = writeln!(text, "{name} = {value}");
    }
    if let Some(pipelines) = values.get("pipelines").and_then(|value| value.as_table()) {
        let wrapped = toml::Table::from_iter([(
            "pipelines".to_owned(),
            toml::Value::Table(pipelines.clone()),
        )]);
        let _ = write!(text, "\n{wrapped}");
    }
    text
}

/// The table of `docs/configuration.md`.
#[must_use]
pub fn markdown() -> String {
    let defaults = values(&Config::default());
    let mut text = String::from("| setting | default | minimum | what it is for |\n| --- | --- | --- | --- |\n");
    for setting in SETTINGS {
        let default = lookup(&defaults, setting.path).map_or_else(String::new, ToString::to_string);
        let min = min_text(setting.min).unwrap_or_default();
        let _ = writeln!(
            text,
            "| `{}` | `{default}` | {min} | {} |",
            setting.path,
            setting.about.replace('|', "\\|"),
        );
    }
    text
}

/// Settings that exist and are not in the table.
#[must_use]
pub fn missing() -> Vec<String> {
    fn leaves(prefix: &str, value: &toml::Value, into: &mut Vec<String>) {
        match value {
            toml::Value::Table(table) => {
                for (name, value) in table {
                    let path = if prefix.is_empty() {
                        name.clone()
                    } else {
                        format!("{prefix}.{name}")
                    };
                    leaves(&path, value, into);
                }
            }
            _ => into.push(prefix.to_owned()),
        }
    }
    let mut paths = Vec::new();
    leaves("", &values(&Config::default()), &mut paths);
    paths.retain(|path| !SETTINGS.iter().any(|setting| setting.path == path));
    paths
}

fn bounds(setting: &Setting, default: &toml::Value) -> String {
    match min_text(setting.min) {
        Some(min) => format!("default {default}, minimum {min}"),
        None => format!("default {default}"),
    }
}

fn min_text(min: Min) -> Option<String> {
    match min {
        Min::None => None,
        Min::Count(min) => Some(min.to_string()),
        Min::Bytes(min) => Some(bytes_text(min)),
        Min::Millis(min) => Some(time_text(min)),
    }
}

fn bytes_text(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).to_string()
}

fn time_text(millis: u64) -> String {
    if millis >= 1000 && millis.is_multiple_of(1000) {
        format!("{} s", millis / 1000)
    } else {
        format!("{millis} ms")
    }
}

fn values(config: &Config) -> toml::Value {
    toml::Value::try_from(config).unwrap_or_else(|_| toml::Value::Table(toml::Table::new()))
}

fn lookup<'a>(values: &'a toml::Value, path: &str) -> Option<&'a toml::Value> {
    path.split('.')
        .try_fold(values, |value, name| value.get(name))
}

fn size(value: &toml::Value) -> Option<u64> {
    match value {
        toml::Value::String(text) => text
            .parse::<bytesize::ByteSize>()
            .ok()
            .map(|size| size.as_u64()),
        _ => value
            .as_integer()
            .and_then(|count| u64::try_from(count).ok()),
    }
}

fn millis(value: &toml::Value) -> Option<u128> {
    humantime(value.as_str()?).map(|duration| duration.as_millis())
}

fn humantime(text: &str) -> Option<std::time::Duration> {
    #[derive(serde::Deserialize)]
    struct Wrapped(#[serde(with = "humantime_serde")] std::time::Duration);
    toml::Value::String(text.to_owned())
        .try_into::<Wrapped>()
        .ok()
        .map(|wrapped| wrapped.0)
}
