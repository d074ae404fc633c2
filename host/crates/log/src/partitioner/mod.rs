//! Finding the partition of a key, as other Kafka clients do.
//!
//! A pipeline is configured with a [`Partitioner`]. Every writer to the pipeline's
//! input must use the same one: a key's events are in order, and of one entity, only
//! within one partition.

mod hash;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

use courtside_types::PartitionId;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        IntoDeserializer as _, MapAccess, Visitor,
        value::{MapAccessDeserializer, StrDeserializer},
    },
};

/// How the partition of a key is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// As Java's default, and kafka-go's `Murmur2Balancer`.
    #[default]
    Murmur2,
    /// As kafka-go's `Hash` and Sarama's `NewHashPartitioner`.
    Fnv1a,
    /// As librdkafka's `consistent`, and kafka-go's `CRC32Balancer`.
    Crc32,
    /// Any partition, each time.
    Random,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Murmur2 => "murmur2",
            Self::Fnv1a => "fnv1a",
            Self::Crc32 => "crc32",
            Self::Random => "random",
        })
    }
}

impl Method {
    /// The partition of a key in a topic that has `partitions` of them (at least one).
    #[must_use]
    pub fn partition(self, key: &[u8], partitions: u32) -> PartitionId {
        let count = partitions.max(1);
        PartitionId(match self {
            Self::Murmur2 => (hash::murmur2(key) & 0x7fff_ffff) % count,
            // The remainder of the signed hash, without its sign.
            Self::Fnv1a => hash::fnv1a(key)
                .cast_signed()
                .wrapping_rem(i32::try_from(count).unwrap_or(i32::MAX))
                .unsigned_abs(),
            Self::Crc32 => hash::crc32(key) % count,
            Self::Random => rand::random_range(0..count),
        })
    }
}

/// How a pipeline's keys find their partitions: some by name, others by a
/// [`Method`]. In the configuration it is the method's name, or
/// `{ manual = { KEY = PARTITION, … }, fallback = METHOD }`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partitioner {
    pub manual: BTreeMap<String, u32>,
    pub fallback: Method,
}

impl From<Method> for Partitioner {
    fn from(fallback: Method) -> Self {
        Self {
            manual: BTreeMap::new(),
            fallback,
        }
    }
}

impl Partitioner {
    /// The partition of a key in a topic that has `partitions` of them.
    #[must_use]
    pub fn partition(&self, key: &[u8], partitions: u32) -> PartitionId {
        // Most partitioners have no map, so their keys need not be checked for UTF-8.
        if !self.manual.is_empty()
            && let Ok(key) = std::str::from_utf8(key)
            && let Some(partition) = self.manual.get(key)
        {
            return PartitionId(*partition);
        }
        self.fallback.partition(key, partitions)
    }

    /// Names a key whose partition does not exist.
    pub fn check(&self, partitions: u32) -> Result<(), String> {
        let astray = self
            .manual
            .iter()
            .find(|(_, partition)| **partition >= partitions);
        match astray {
            None => Ok(()),
            Some((key, partition)) => Err(format!(
                "manual: {key:?} is to go to partition {partition}, the input has 0 to {}",
                partitions.saturating_sub(1)
            )),
        }
    }
}

/// A partitioner with a map, as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapped<M> {
    manual: M,
    #[serde(default)]
    fallback: Method,
}

impl Serialize for Partitioner {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.manual.is_empty() {
            return self.fallback.serialize(serializer);
        }
        let mapped = Mapped {
            manual: &self.manual,
            fallback: self.fallback,
        };
        mapped.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Partitioner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either)
    }
}

struct Either;

impl<'de> Visitor<'de> for Either {
    type Value = Partitioner;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a partitioner, or a table with manual and fallback")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Partitioner, E> {
        let name: StrDeserializer<'_, E> = name.into_deserializer();
        Method::deserialize(name).map(Partitioner::from)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Partitioner, A::Error> {
        let Mapped { manual, fallback } = Mapped::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Partitioner { manual, fallback })
    }
}
