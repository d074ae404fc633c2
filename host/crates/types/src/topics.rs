//! The names of the topics that hosts keep for a group or for an input.

/// A group's pipeline as it is recorded: which topics, partitions and outputs it has.
pub const LAYOUT_SUFFIX: &str = ".pipeline";
/// The plugins of a group's slots, and the hosts that run them.
pub const PLUGINS_SUFFIX: &str = ".plugins";
/// The dead letters that a group has redriven.
pub const REDRIVE_SUFFIX: &str = ".redrive";
/// The events that a pipeline could not process.
pub const DEAD_LETTER_SUFFIX: &str = ".dead-letter";
/// The states of a group's keys, on engines that keep them in a topic.
pub const CHECKPOINTS_SUFFIX: &str = ".checkpoints";
