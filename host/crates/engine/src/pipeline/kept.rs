//! A topic as a pipeline names it: by its name, and by what is kept of it.
//!
//! A topic is one of two kinds, whoever reads or writes it. A stream keeps every
//! record until retention takes it; a table keeps the latest record of each key.
//! A pipeline reads a stream and writes tables, unless it says otherwise.
//!
//! Each place of the configuration that names a topic must say the same kind, and the
//! topic's `cleanup.policy` must agree. A refusal names only steps that drop no record.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

/// A topic's kind: a table keeps the latest record of a key, a stream all records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// The latest record of each key: the topic is a table, and is compacted.
    Latest,
    /// Every record, until retention takes it: the topic is a stream.
    All,
}

impl Keep {
    /// The word for the kind in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::All => "all",
        }
    }
}

/// A topic that a pipeline reads or writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptTopic {
    pub topic: String,
    pub keep: Keep,
}

impl KeptTopic {
    #[must_use]
    pub fn stream(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            keep: Keep::All,
        }
    }

    #[must_use]
    pub fn table(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            keep: Keep::Latest,
        }
    }
}

impl fmt::Display for KeptTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (keep = {:?})", self.topic, self.keep.name())
    }
}

/// Reads an input from a configuration.
pub fn input<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeptTopic, D::Error> {
    let written = Written::deserialize(deserializer)?;
    Ok(written.or(Keep::All))
}

/// Reads an output from a configuration.
pub fn output<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeptTopic, D::Error> {
    let written = Written::deserialize(deserializer)?;
    Ok(written.or(Keep::Latest))
}

/// Reads outputs by name from a configuration.
pub fn outputs<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, KeptTopic>, D::Error> {
    let written = BTreeMap::<String, Written>::deserialize(deserializer)?.into_iter();
    let outputs = written.map(|(name, written)| (name, written.or(Keep::Latest)));
    Ok(outputs.collect())
}

/// A topic as it is written down: its name alone, or a table with what is kept.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    topic: String,
    keep: Option<Keep>,
}

struct Written(Table);

impl Written {
    fn or(self, keep: Keep) -> KeptTopic {
        let Table { topic, keep: own } = self.0;
        KeptTopic {
            topic,
            keep: own.unwrap_or(keep),
        }
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameOrTable)
    }
}

struct NameOrTable;

impl<'de> Visitor<'de> for NameOrTable {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a topic, or a table with topic and keep")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Written, E> {
        Ok(Written(Table {
            topic: name.to_owned(),
            keep: None,
        }))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Written, A::Error> {
        Table::deserialize(MapAccessDeserializer::new(map)).map(Written)
    }
}
