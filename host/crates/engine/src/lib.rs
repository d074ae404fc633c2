//! The way of records to commits: pipelines, the workers that run their records through
//! plugins, the slots that hold the plugins, dead letters, replay and backup.

pub mod backup;
pub mod dead_letters;
pub mod pipeline;
pub mod replay;
pub mod slots;
pub mod worker;
