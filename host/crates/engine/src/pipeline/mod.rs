//! A pipeline as the parts share it: the topics it reads and writes, its
//! group, and how it is processed.

pub mod identity;
pub mod kept;
pub mod layout;
pub mod missing;

use std::{collections::BTreeMap, time::Duration};

use bytestring::ByteString;
use courtside_log::{GroupName, partitioner::Method};
use courtside_plugin_host::Limits;
use courtside_types::{PartitionId, Topic, TopicPartition, slot_name::SlotName};

use self::identity::Identity;

/// One input topic, its outputs, and its group. Lives as long as the host.
#[derive(Clone, Debug)]
pub struct Pipeline {
    pub name: ByteString,
    pub group: GroupName,
    pub input: Topic,
    pub identity: Identity,
    /// Partitions of the input; the number stays as long as the group has state.
    pub partitions: u32,
    pub output: Output,
    /// Outputs that plugins name.
    pub outputs: BTreeMap<ByteString, Output>,
    pub dead_letter: Topic,
    /// The partition to which takeovers are written, and the host that writes them.
    pub plugins: Option<TopicPartition>,
    pub host: ByteString,
    pub settings: WorkerSettings,
    /// Limits of the slots that have none of their own.
    pub limits: Limits,
    /// Limits of the slots that have their own.
    pub slot_limits: BTreeMap<SlotName, SlotLimits>,
    /// The largest record that the log takes.
    pub record_bytes_max: usize,
}

/// The limits of one slot's plugin, where they are not the pipeline's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotLimits {
    pub limits: Limits,
    pub entities_per_instance: usize,
}

/// An output topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub topic: Topic,
    pub partitions: u32,
}

impl Output {
    /// Where a record of that key goes. Outputs are for anybody to read, so
    /// their keys are where Java's clients would put them, whatever the input's
    /// partitioner is.
    #[must_use]
    pub fn place(&self, key: &[u8]) -> TopicPartition {
        TopicPartition {
            topic: self.topic.clone(),
            partition: Method::Murmur2.partition(key, self.partitions),
        }
    }
}

impl Pipeline {
    /// The output of that name; none means the default one.
    #[must_use]
    pub fn output(&self, name: Option<&str>) -> Option<&Output> {
        match name {
            None => Some(&self.output),
            Some(name) => self.outputs.get(name),
        }
    }

    /// The limits of the plugin of a slot.
    #[must_use]
    pub fn limits_of(&self, slot: &SlotName) -> &Limits {
        let own = self.slot_limits.get(slot);
        own.map_or(&self.limits, |own| &own.limits)
    }

    /// How many entities share an instance of the plugin of a slot.
    #[must_use]
    pub fn entities_per_instance(&self, slot: &SlotName) -> usize {
        let own = self.slot_limits.get(slot);
        let count = own.map_or(self.settings.entities_per_instance, |own| {
            own.entities_per_instance
        });
        count.max(1)
    }

    /// Where the dead letters of an input partition go.
    #[must_use]
    pub fn dead_letters(&self, partition: PartitionId) -> TopicPartition {
        TopicPartition {
            topic: self.dead_letter.clone(),
            partition,
        }
    }
}

/// The settings of a pipeline's workers, as `host.rs` takes them from `[worker]`,
/// `[plugin]` and `[slots]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSettings {
    pub workers: u32,
    /// How long processed events may wait for their commit under load.
    pub commit_interval: Duration,
    /// Events and emissions held in memory before a commit.
    pub commit_bytes_max: usize,
    pub poll_bytes_max: usize,
    pub call_events_max: usize,
    pub call_bytes_max: usize,
    pub entities_per_instance: usize,
    /// Open entities of one worker; beyond it, the least recently used close.
    pub entities_open_max: usize,
    pub entity_idle: Duration,
    /// How long a worker may take to finish when it must release partitions.
    pub drain_deadline: Duration,
    /// How long a swap can be taken back.
    pub confirm_after: Duration,
}
