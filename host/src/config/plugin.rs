//! How much plugins may use, and the settings that differ for a pipeline or a slot.

use std::time::Duration;

use bytesize::ByteSize;
use courtside_plugin_host::{Limits, wasm::CompileLimits};
use courtside_types::usize_of;
use serde::{Deserialize, Serialize};

/// How much a plugin may use, and how many entities share an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginConfig {
    pub entities_per_instance: usize,
    pub memory_bytes_max: ByteSize,
    #[serde(with = "humantime_serde")]
    pub call_cpu_time_max: Duration,
    pub emitted_bytes_max: ByteSize,
    pub checkpoint_bytes_max: ByteSize,
    pub plugin_bytes_max: ByteSize,
    pub compile_memory_max: ByteSize,
    #[serde(with = "humantime_serde")]
    pub compile_time_max: Duration,
}

impl Default for PluginConfig {
    fn default() -> Self {
        Self {
            entities_per_instance: 1024,
            memory_bytes_max: ByteSize::mib(256),
            call_cpu_time_max: Duration::from_secs(1),
            emitted_bytes_max: ByteSize::mib(8),
            checkpoint_bytes_max: ByteSize::kib(512),
            plugin_bytes_max: ByteSize::mib(64),
            compile_memory_max: ByteSize::gib(1),
            compile_time_max: Duration::from_secs(60),
        }
    }
}

impl PluginConfig {
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            memory_bytes_max: usize_of(self.memory_bytes_max),
            call_cpu_time_max: self.call_cpu_time_max,
            emitted_bytes_max: usize_of(self.emitted_bytes_max),
            checkpoint_bytes_max: usize_of(self.checkpoint_bytes_max),
            plugin_bytes_max: usize_of(self.plugin_bytes_max),
        }
    }

    /// The limits of compiling a plugin, the same for every slot.
    #[must_use]
    pub fn compile_limits(&self) -> CompileLimits {
        CompileLimits {
            memory_bytes_max: self.compile_memory_max.as_u64(),
            cpu_time_max: self.compile_time_max,
        }
    }
}

/// Settings of [`PluginConfig`] that are different for the plugins of a pipeline, or of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginOverrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entities_per_instance: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes_max: Option<ByteSize>,
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub call_cpu_time_max: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emitted_bytes_max: Option<ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_bytes_max: Option<ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin_bytes_max: Option<ByteSize>,
}

impl PluginOverrides {
    pub(super) fn over(&self, base: &PluginConfig) -> PluginConfig {
        let Self {
            entities_per_instance,
            memory_bytes_max,
            call_cpu_time_max,
            emitted_bytes_max,
            checkpoint_bytes_max,
            plugin_bytes_max,
        } = self;
        PluginConfig {
            entities_per_instance: entities_per_instance.unwrap_or(base.entities_per_instance),
            memory_bytes_max: memory_bytes_max.unwrap_or(base.memory_bytes_max),
            call_cpu_time_max: call_cpu_time_max.unwrap_or(base.call_cpu_time_max),
            emitted_bytes_max: emitted_bytes_max.unwrap_or(base.emitted_bytes_max),
            checkpoint_bytes_max: checkpoint_bytes_max.unwrap_or(base.checkpoint_bytes_max),
            plugin_bytes_max: plugin_bytes_max.unwrap_or(base.plugin_bytes_max),
            compile_memory_max: base.compile_memory_max,
            compile_time_max: base.compile_time_max,
        }
    }
}
