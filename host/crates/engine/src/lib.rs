//! The way of records to commits: pipelines, the workers that run their records through
//! plugins, the slots that hold the plugins, dead letters, replay and backup.
//!
//! Nothing here knows HTTP, or the text of the configuration. A part uses the parts
//! that its row names, and no others:
//!
//! | part | what it is | uses |
//! | --- | --- | --- |
//! | [`pipeline`] | a pipeline as the parts share it: its recorded [layout](pipeline::layout), its topics as [streams or tables](pipeline::kept), the topics' [ids](pipeline::identity) | |
//! | [`worker`] | threads that put records through plugins and commit | `pipeline` |
//! | [`slots`] | the plugin of each slot, and how one takes over from another | `pipeline`, `worker` |
//! | [`dead_letters`] | the dead letters that [`worker::output`] made: lists, and redrives to the input | `pipeline`, `worker` |
//! | [`replay`] | processes one entity again from a recording, with a log in memory | `pipeline`, `worker`, `slots` |
//! | [`backup`] | backups: the rows, their frames, the manifest, the check of a copy | `slots` |

pub mod backup;
pub mod dead_letters;
pub mod pipeline;
pub mod replay;
pub mod slots;
pub mod worker;
